"""Says from the records of this machine which arm to take: for a context, a number of tokens generated, and a batch.

    python -m launch.advise --context=32768 --generate=1024 --batch=8 --out=out/laptop

An arm is one side of a comparison: a mixer (attention, an LSTM, ...) with its knobs. Of the arms that were measured
under the same conditions it says which trains, reads, decodes and answers fastest, at what context that turns, which
fits into memory, and how far back each remembers. A number in brackets is that of the command that makes its rows
again. What was not measured is said, with the nearest that was and the command that would measure it. Nothing is run.
"""

import sys

from absl import flags
from etils import epath

import launch
from suite.sweep import exit_codes

OUT = launch.define_directory(
    "out", "out/compare", "directory of the records, as given to launch.compare or launch.job"
)
CONTEXT = flags.DEFINE_integer(
    "context",
    1024,
    "tokens that are read before the first is generated, and of a training example",
    lower_bound=1,
    upper_bound=2**28,
)
GENERATE = flags.DEFINE_integer(
    "generate", 256, "tokens that are generated after the context", lower_bound=1, upper_bound=2**16
)
BATCH = flags.DEFINE_integer(
    "batch",
    1,
    "sequences that are decoded at once, and examples of a training step",
    lower_bound=1,
    upper_bound=2**20,
)
PLACE = flags.DEFINE_string(
    "place", "", "where the rows were taken, as the report names it; empty: here, or the only place there is"
)


def main() -> int:
    from suite import parts  # here, not above: --help answers at once
    from suite.report import advice, records, words

    with exit_codes.door():
        comparison = records.read_unjudged(epath.Path(OUT.value), PLACE.value)
    for problem in comparison.problems:
        print(f"crossover: {problem}", file=sys.stderr)
    with parts.reading_records():
        for line in advice.text(comparison, advice.Question(CONTEXT.value, GENERATE.value, BATCH.value)):
            print(words.printable(line))
    return 0


if __name__ == "__main__":
    launch.run(main)
