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

import dataclasses
import functools
import hashlib
import json
import sys
import time
from typing import Any

from absl import flags
from etils import epath

import launch
from launch import job as worker
from suite import job as jobs
from suite import parts
from suite.sweep import exit_codes, rendezvous, schedule, store
from suite.sweep.comparison import Comparison
from suite.sweep.options import PASSED, Options
from suite.sweep.schedule import Schedule

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
RATES = flags.DEFINE_enum(
    "rates",
    "tuned",
    list(schedule.RATES),
    "learning rates of what is trained; tuned: the search first tunes those that the table lacks; table: those of the "
    "table, the nearest where it lacks one; anew: tunes all of them",
)
WORKERS = flags.DEFINE_integer(
    "workers", 0, "processes that share what is not timed; 0: two on a CPU, else one", lower_bound=0
)
LIMITS = ("from", "to", "tolerance", "repeats", "rates")
for name in PASSED:
    flags.declare_key_flag(name)
# Flags of launch.job that have no meaning here.
NOT_OURS = ("mixer", "length", "match_to", "own_width", "measures", "repeat", "trace")
FIELDS = [field.name for field in dataclasses.fields(jobs.Job) if field.name not in NOT_OURS]
for name in FIELDS:
    flags.declare_key_flag(name)
flags.set_default(worker.OUT, "out/crossover")
# Of those that arms can hold equal, these make one model of an arm for all lengths.
MATCHES = ("params", "none")


def main() -> int:
    with exit_codes.door():
        search, name = chosen_search()
        store.check_writable(worker.OUT.value)
        if (epath.Path(worker.OUT.value) / "compare.json").exists():
            raise ValueError(f"{worker.OUT.value} holds a comparison, which has rows of its own; use another --out")
        passed: dict[str, Any] = {name: flags.FLAGS[name].value for name in PASSED}
        options = Options(**passed)
    return Comparison(
        search,
        options,
        workers=WORKERS.value,
        any_batch=not flags.FLAGS["batch"].present,
        asked=asked(),
        command=sys.argv[1:],
        report=functools.partial(report, name),
        clock=time.monotonic,
    ).run()


def chosen_search() -> tuple[Schedule, str]:
    """The search that the command line asks for, and the name under which it is stored."""
    from suite.judging.crossover import Question  # here, not above: --help answers at once
    from suite.sweep.search import Search

    for name in NOT_OURS:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} is for launch.job; a crossover takes --arms, --quantity, --from and --to")
    specs = [spec for value in ARMS.value for spec in parts.split_list(value)]
    arms = list(dict.fromkeys(parts.short("suite.mixers", spec) for spec in specs))
    if len(arms) < 2:
        raise ValueError(f"--arms names {', '.join(arms) or 'none'}; wanted two or more, as --arms=attention,lstm")
    job = jobs.from_flags(flags.FLAGS, jobs.Job(**parts.constant(QUANTITIES, QUANTITY.value, "DEFAULTS")))
    if job.match not in MATCHES:
        wanted = " or ".join(f"--match={match}" for match in MATCHES)
        raise ValueError(f"--match={job.match} would make other models at other lengths; wanted {wanted}")
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
    name = f"{QUANTITY.value}-{digest.hexdigest()[:10]}"
    return Search(tuple(questions), name), name


def asked() -> rendezvous.Settings:
    """What this search is, to be the same on every host that takes part in it."""
    return {f"--{name}": str(flags.FLAGS[name].value) for name in ("arms", "quantity", *LIMITS, *FIELDS)}


def report(search: str, comparison: Comparison, done: bool) -> None:
    """Draws the report of what there is; at the end also prints the answers of the search."""
    from suite import report  # here, not above: --help answers at once
    from suite.report import crossovers

    path = report.write(comparison.out)
    print(f"report: {path}" if done else f"report so far: {path}", flush=True)
    if done:
        for problem in report.problems(comparison.out):
            print(f"crossover: {problem}", file=sys.stderr)
        for line in crossovers.text(report.read(comparison.out), search):
            print(line)


if __name__ == "__main__":
    launch.run(main)
