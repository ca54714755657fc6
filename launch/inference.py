"""Measures reading and writing as users meet them: time to the first token, latency, throughput, what fits.

    python -m launch.inference --arms=attention,lstm --longest=16384 --out=out/inference
    python -m launch.inference --arms=all --longest=16384 --memory_bytes=1073741824 --out=out/inference

An arm is one side of the comparison: a mixer (attention, an LSTM, ...) with its knobs; the others have as many
parameters as the first. For each arm: seconds from a context to the first token after it, read in the fastest form that
was tried; seconds of each token after it, median and 95th percentile; tokens a second against the number of sequences,
until the memory ends; the longest context and the most sequences that fit, for training and for decoding; and a
training step at a constant number of tokens, whose examples are fewer and longer, beside one at a constant batch.

The flags of launch.job say how large the models are. The same command again goes on where it was; a report is drawn.
"""

from absl import flags

import launch
from launch import studies
from suite.scale import FIELD, SCALES
from suite.sweep.serving import Serving

BASE = SCALES["laptop"].job.replace(batch=1)
ARMS = flags.DEFINE_multi_string("arms", list(FIELD), studies.ARMS)
SHORTEST = flags.DEFINE_integer("shortest", 1024, "the shortest context, in tokens", lower_bound=2)
LONGEST = flags.DEFINE_integer("longest", 16384, "the longest context, in tokens", lower_bound=2)
LONGEST_TRAINED = flags.DEFINE_integer(
    "longest_trained",
    4096,
    "the longest example of a training step, in tokens; so many are held constant",
    lower_bound=2,
)
MOST_SEQUENCES = flags.DEFINE_integer(
    "most_sequences", 256, "the most sequences that are decoded, or trained on, at once", lower_bound=1
)
MOST_TOKENS = flags.DEFINE_integer(
    "most_tokens", 131072, "the longest context that is looked for as the longest that fits", lower_bound=2
)
MEMORY_BYTES = flags.DEFINE_integer(
    "memory_bytes", 0, "bytes of a device, or of a CPU its host, that count; 0: all that it has", lower_bound=0
)
PROCESSES = flags.DEFINE_integer("processes", 3, "fresh processes of a timing", lower_bound=1)
STUDY = studies.Study(
    "inference",
    own=(
        *("arms", "shortest", "longest", "longest_trained", "most_sequences", "most_tokens"),
        *("memory_bytes", "processes"),
    ),
    without=("length", "lengths", "match_to"),
)
STUDY.declare()


def main() -> int:
    return STUDY.run(chosen, workers=1)  # everything is timed


def chosen() -> Serving:
    """What the command line asks for."""
    job = STUDY.job(BASE)
    for flag in (LONGEST, LONGEST_TRAINED):
        if flag.value < SHORTEST.value:
            raise ValueError(f"--{flag.name}={flag.value} wants at least the shortest context, {SHORTEST.value}")
    studies.check_one_model(job)
    return Serving(
        arms=studies.arms(ARMS.value),
        job=job,
        shortest=SHORTEST.value,
        longest=LONGEST.value,
        longest_trained=LONGEST_TRAINED.value,
        most_sequences=MOST_SEQUENCES.value,
        most_tokens=MOST_TOKENS.value,
        memory_bytes=MEMORY_BYTES.value,
        processes=PROCESSES.value,
    )


if __name__ == "__main__":
    launch.run(main)
