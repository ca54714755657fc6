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

from absl import flags

import launch
from launch import studies
from suite import parts
from suite.job import Job
from suite.scale import PAIR
from suite.sweep import exit_codes, reading
from suite.sweep.reading import Reading

BASE = Job(task="needle", width=64, depth=2, length=64, batch=32, steps=1000, validate_every=1000)
BASE = BASE.replace(validation_examples=512, test_examples=1024)
ARMS = flags.DEFINE_multi_string("arms", list(PAIR), studies.ARMS)
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
STUDY = studies.Study(
    "out/contexts", own=("arms", "seeds", "longest", "growth", "depths"), without=("match_to", "seed")
)
STUDY.declare()


def main() -> int:
    with exit_codes.door():
        asked_for = chosen()
        if not DRY_RUN.value:
            studies.check_out()
        comparison = STUDY.comparison(asked_for, WORKERS.value, studies.report)
    if DRY_RUN.value:
        studies.print_cells(asked_for.cells([]), "cells in the first round")
        return 0
    return comparison.run()


def chosen() -> Reading:
    """What the command line asks for."""
    job = STUDY.job(BASE)
    if parts.split(job.task)[0] == "text":
        raise ValueError("text has no questions; wanted a task with distances, as --task=needle")
    return Reading(
        arms=studies.arms(ARMS.value),
        job=job,
        seeds=SEEDS.value,
        measure=reading.measure(LONGEST.value, GROWTH.value, DEPTHS.value),
        own_rates=not flags.FLAGS["learning_rate"].present,
    )


if __name__ == "__main__":
    launch.run(main)
