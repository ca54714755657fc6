"""Finds the length at which one arm comes to need more than another: of a training step, of decoding, of memory, ...

    python -m launch.crossover --arms=attention --arms=lstm --quantity=step_time --from=128 --to=8192 --out=out/turns
    python -m launch.crossover --arms=attention,lstm,mamba2 --quantity=decode --from=256 --to=65536 --batch=8
    python -m launch.crossover --arms=attention,lstm --quantity=loss_at_equal_seconds --budget_seconds=60 --to=2048

An arm is one side of the comparison: a mixer (attention, an LSTM, ...) with its knobs. Both arms are measured at a few
lengths from --from to --to, in turns, and then between the lengths where one comes to have more than the other, until
the interval of the crossing reaches no further from it than --tolerance, or --repeats are spent at the lengths that are
in doubt. The first arm is compared with each other one. "None up to 8,192" is an answer; between two lengths of the
first look, which lie up to four times apart, two crossings may be missed.

The flags of launch.job say how large the models are. The same command again goes on where it was; a report is drawn.
"""

import hashlib
import json
from typing import TYPE_CHECKING, cast

from absl import flags

import launch
from launch import studies
from suite import parts
from suite.job import Job
from suite.sweep.comparison import Comparison

if TYPE_CHECKING:
    from suite.sweep.search import Search

QUANTITIES = "suite.quantities"
ARMS = flags.DEFINE_multi_string(
    "arms", ["attention", "lstm"], "mixers with knobs, or your own files: the first is compared with each other one"
)
QUANTITY = flags.DEFINE_enum(
    "quantity",
    "step_time",
    parts.names(QUANTITIES),
    "what is compared: "
    + "; ".join(f"{name}: {parts.constant(QUANTITIES, name, 'ABOUT')}" for name in parts.names(QUANTITIES)),
)
FROM = flags.DEFINE_integer("from", 128, "the shortest length, in tokens", lower_bound=1)
TO = flags.DEFINE_integer("to", 4096, "the longest length, in tokens", lower_bound=1)
TOLERANCE = flags.DEFINE_float(
    "tolerance", 0.1, "how far the interval of a crossing may reach from it, as a fraction of it"
)
REPEATS = flags.DEFINE_integer(
    "repeats", 8, "most repeats of one length: fresh processes, or seeds where models are trained", lower_bound=1
)
RATES = studies.define_rates("learning rates of what is trained")
WORKERS = studies.define_workers()
LIMITS = ("from", "to", "tolerance", "repeats", "rates")
STUDY = studies.Study("crossover", own=("arms", "quantity", *LIMITS), without=("length", "lengths", "match_to"))
STUDY.declare()


def main() -> int:
    return STUDY.run(chosen, WORKERS.value, report)


def chosen() -> "Search":
    """The search that the command line asks for."""
    from suite.judging.crossover import Question  # here, not above: --help answers at once
    from suite.sweep.search import Search

    job = STUDY.job(Job(**parts.constant(QUANTITIES, QUANTITY.value, "DEFAULTS")))
    arms = studies.arms(ARMS.value)
    if not arms[1:]:
        raise ValueError(f"--arms names {arms[0]} alone; wanted two or more, as --arms=attention,lstm")
    studies.check_one_model(job)
    first, *others = arms
    questions = [
        Question(
            quantity=QUANTITY.value,
            arms=(first, other),
            jobs=(job.replace(mixer=first, match="params"), job.replace(mixer=other, match_to=first)),
            shortest=FROM.value,
            longest=TO.value,
            tolerance=TOLERANCE.value,
            repeats=REPEATS.value,
            own_rates=not flags.FLAGS["learning_rate"].present,
            rates=RATES.value,
        )
        for other in others
    ]
    limits = [flags.FLAGS[name].value for name in LIMITS]
    digest = hashlib.sha256(json.dumps([*limits, *(job.id for one in questions for job in one.jobs)]).encode())
    return Search(tuple(questions), f"{QUANTITY.value}-{digest.hexdigest()[:10]}")


def report(comparison: Comparison, done: bool) -> None:
    """Draws the report of what there is, and at the end prints the answers of the search."""
    from suite import report  # here, not above: --help answers at once
    from suite.report import crossovers

    STUDY.report(comparison, done)
    if done:
        for line in crossovers.text(report.read(comparison.out), cast("Search", comparison.plan).name):
            print(line)


if __name__ == "__main__":
    launch.run(main)
