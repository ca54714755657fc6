"""Trains arms on a task at one length, and reads them at shorter lengths and at up to 16 times the trained one.

    python -m launch.contexts --arms=attention,lstm,mamba2 --task=needle --length=64 --out=out/contexts
    python -m launch.contexts --arms=attention --arms=lstm --task=variable_tracking:hops=1 --length=64 --seeds=3

An arm is one side of the comparison: a mixer (attention, an LSTM, ...) with its knobs; the others have as many
parameters as the first. Each is trained with several seeds, at a learning rate that is tuned first where the table that
ships has none for it. The report shows accuracy by length, by distance, and by depth as a heat map, and in a table like
RULER's the effective context: the longest length at which an arm still answers.

The flags of launch.job say how large the models are and how long they train. The same command again goes on where it
was.
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
from suite.job import Job
from suite.scale import PAIR
from suite.sweep import exit_codes, reading, rendezvous, store
from suite.sweep.comparison import Comparison
from suite.sweep.options import PASSED, Options
from suite.sweep.reading import Reading
from suite.sweep.schedule import estimate_seconds

BASE = Job(task="needle", width=64, depth=2, length=64, batch=32, steps=1000, validate_every=1000)
BASE = BASE.replace(validation_examples=512, test_examples=1024)
ARMS = flags.DEFINE_multi_string(
    "arms",
    list(PAIR),
    "mixers with knobs, or your own files, separated by commas or the flag repeated; all: every mixer",
)
SEEDS = flags.DEFINE_integer(
    "seeds", 5, "trainings of each arm, of other examples and other initial weights", lower_bound=1
)
LONGEST = flags.DEFINE_integer("longest", 16, "the longest length that is read, in trained lengths", lower_bound=1)
GROWTH = flags.DEFINE_integer("growth", 2, "how many times a length is the next shorter one", lower_bound=2)
DEPTHS = flags.DEFINE_integer("depths", 10, "parts of the depth in the heat map; 0 for none", lower_bound=0)
WORKERS = flags.DEFINE_integer(
    "workers", 0, "processes that share the trainings; 0: two on a CPU, else one", lower_bound=0
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the first cells and an estimate of the minutes, and run nothing")
for name in PASSED:
    flags.declare_key_flag(name)
# Flags of launch.job that have no meaning here.
NOT_OURS = ("mixer", "match_to", "own_width", "seed", "measures", "repeat", "trace")
FIELDS = [field.name for field in dataclasses.fields(jobs.Job) if field.name not in NOT_OURS]
for name in FIELDS:
    flags.declare_key_flag(name)
flags.set_default(worker.OUT, "out/contexts")


def main() -> int:
    with exit_codes.door():
        asked_for = chosen()
        if not DRY_RUN.value:
            store.check_writable(worker.OUT.value)
            if (epath.Path(worker.OUT.value) / "compare.json").exists():
                raise ValueError(f"{worker.OUT.value} holds a comparison, which has rows of its own; use another --out")
        passed: dict[str, Any] = {name: flags.FLAGS[name].value for name in PASSED}
        options = Options(**passed)
    if DRY_RUN.value:
        print_cells(asked_for)
        return 0
    return Comparison(
        asked_for,
        options,
        workers=WORKERS.value,
        any_batch=not flags.FLAGS["batch"].present,
        asked=asked(),
        command=sys.argv[1:],
        report=report,
        clock=time.monotonic,
    ).run()


def chosen() -> Reading:
    """What the command line asks for."""
    for name in NOT_OURS:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} is for launch.job; launch.contexts takes --arms, --seeds and --longest")
    every = {"all": [*PAIR, *(name for name in parts.names("suite.mixers") if name not in PAIR)]}
    specs = [spec for value in ARMS.value for item in parts.split_list(value) for spec in every.get(item, [item])]
    arms = tuple(dict.fromkeys(parts.short("suite.mixers", spec) for spec in specs))
    if not arms:
        raise ValueError(f"--arms names none; known: all, {', '.join(parts.names('suite.mixers'))}")
    job = jobs.from_flags(flags.FLAGS, BASE)
    if parts.split(job.task)[0] == "text":
        raise ValueError("text has no questions; wanted a task with distances, as --task=needle")
    return Reading(
        arms=arms,
        job=job,
        seeds=SEEDS.value,
        measure=reading.measure(LONGEST.value, GROWTH.value, DEPTHS.value),
        own_rates=not flags.FLAGS["learning_rate"].present,
    )


def asked() -> rendezvous.Settings:
    """What is asked for, to be the same on every host that takes part in it."""
    names = [*(holder.name for holder in (ARMS, SEEDS, LONGEST, GROWTH, DEPTHS)), *FIELDS]
    return {f"--{name}": str(flags.FLAGS[name].value) for name in names}


def print_cells(asked_for: Reading) -> None:
    cells = asked_for.cells([])
    for cell in cells:
        print(f"  {estimate_seconds(cell):6.0f} s  {cell.label}")
    minutes = sum(map(estimate_seconds, cells)) / 60
    print(f"{len(cells)} cells in the first round, about {minutes:.1f} minutes on two CPU cores")


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
