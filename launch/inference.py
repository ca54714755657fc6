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

import dataclasses
import sys
import time
from typing import Any

from absl import flags
from etils import epath

import launch
from launch import job as worker
from suite import job as jobs
from suite import parts
from suite.scale import FIELD, PAIR, SCALES
from suite.sweep import exit_codes, rendezvous, store
from suite.sweep.comparison import Comparison
from suite.sweep.options import PASSED, Options
from suite.sweep.schedule import estimate_seconds
from suite.sweep.serving import Serving

BASE = SCALES["laptop"].job.replace(batch=1)
ARMS = flags.DEFINE_multi_string(
    "arms",
    list(FIELD),
    "mixers with knobs, or your own files, separated by commas or the flag repeated; all: every mixer",
)
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
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the cells and an estimate of the minutes, and run nothing")
for name in PASSED:
    flags.declare_key_flag(name)
# Flags of launch.job that have no meaning here.
NOT_OURS = ("mixer", "length", "match_to", "own_width", "measures", "repeat", "trace")
FIELDS = [field.name for field in dataclasses.fields(jobs.Job) if field.name not in NOT_OURS]
for name in FIELDS:
    flags.declare_key_flag(name)
flags.set_default(worker.OUT, "out/inference")
# Of those that arms can hold equal, these make one model of an arm for all lengths.
MATCHES = ("params", "none")


def main() -> int:
    with exit_codes.door():
        serving = chosen()
        if not DRY_RUN.value:
            store.check_writable(worker.OUT.value)
            if (epath.Path(worker.OUT.value) / "compare.json").exists():
                raise ValueError(f"{worker.OUT.value} holds a comparison, which has rows of its own; use another --out")
        passed: dict[str, Any] = {name: flags.FLAGS[name].value for name in PASSED}
        options = Options(**passed)
    if DRY_RUN.value:
        print_cells(serving)
        return 0
    return Comparison(
        serving,
        options,
        workers=1,  # everything is timed
        any_batch=not flags.FLAGS["batch"].present,
        asked=asked(),
        command=sys.argv[1:],
        report=report,
        clock=time.monotonic,
    ).run()


def chosen() -> Serving:
    """What the command line asks for."""
    for name in NOT_OURS:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} is for launch.job; launch.inference takes --arms, --shortest and --longest")
    arms = chosen_arms()
    if not arms:
        raise ValueError(f"--arms names none; known: all, {', '.join(parts.names('suite.mixers'))}")
    for flag in (LONGEST, LONGEST_TRAINED):
        if flag.value < SHORTEST.value:
            raise ValueError(f"--{flag.name}={flag.value} wants at least the shortest context, {SHORTEST.value}")
    job = jobs.from_flags(flags.FLAGS, BASE)
    if job.match not in MATCHES:
        wanted = " or ".join(f"--match={match}" for match in MATCHES)
        raise ValueError(f"--match={job.match} would make other models at other lengths; wanted {wanted}")
    return Serving(
        arms=arms,
        job=job,
        shortest=SHORTEST.value,
        longest=LONGEST.value,
        longest_trained=LONGEST_TRAINED.value,
        most_sequences=MOST_SEQUENCES.value,
        most_tokens=MOST_TOKENS.value,
        memory_bytes=MEMORY_BYTES.value,
        processes=PROCESSES.value,
    )


def chosen_arms() -> tuple[str, ...]:
    """The arms of the command line, each once."""
    every = {"all": [*PAIR, *(name for name in parts.names("suite.mixers") if name not in PAIR)]}
    specs = [spec for value in ARMS.value for item in parts.split_list(value) for spec in every.get(item, [item])]
    return tuple(dict.fromkeys(parts.short("suite.mixers", spec) for spec in specs))


def asked() -> rendezvous.Settings:
    """What is asked for, to be the same on every host that takes part in it."""
    holders = (ARMS, SHORTEST, LONGEST, LONGEST_TRAINED, MOST_SEQUENCES, MOST_TOKENS, MEMORY_BYTES, PROCESSES)
    names = [*(holder.name for holder in holders), *FIELDS]
    return {f"--{name}": str(flags.FLAGS[name].value) for name in names}


def print_cells(serving: Serving) -> None:
    cells = serving.cells([])
    for cell in cells:
        print(f"  {estimate_seconds(cell):6.0f} s  {cell.label}")
    print(f"{len(cells)} cells, about {sum(map(estimate_seconds, cells)) / 60:.1f} minutes on two CPU cores")


def report(comparison: Comparison, done: bool) -> None:
    """Draws the report of what there is; at the end also says what it left out."""
    from suite import report  # here, not above: --help answers at once

    path = report.write(comparison.out)
    print(f"report: {path}" if done else f"report so far: {path}", flush=True)
    if done:
        for problem in report.problems(comparison.out):
            print(f"crossover: {problem}", file=sys.stderr)


if __name__ == "__main__":
    launch.run(main)
