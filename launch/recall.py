"""Trains arms on recall with smaller and larger states: the accuracy against bytes of state, and against latency.

    python -m launch.recall --out=out/recall
    python -m launch.recall --arms=attention,gla,gla+attention:window=16 --seeds=5 --out=out/recall-gla
    python -m launch.recall --scale=gpu_hour --dry_run

An arm is one side of the comparison: a mixer (attention, an LSTM, ...) with its knobs; the others have as many
parameters as the first at the same width. The state is what an arm carries from token to token: attention's cache, or
the numbers of a recurrence. Each arm is trained at several sizes of it, with several seeds: by the knob of its state
where its mixer has one (attention's window, Mamba-2's d_state), else by the width. The report shows what share of the
values each recalls against the bytes of its state and against the seconds of a decoded token.

A scale says how large all of this is; flags take the place of its sizes, and those of launch.job of its job's. The same
command again goes on where it was.
"""

import dataclasses

from absl import flags

import launch
from launch import studies
from suite import parts
from suite.sweep import exit_codes, recalling
from suite.sweep.reading import RATES
from suite.sweep.recalling import SIZES, Recalling

SCALE = flags.DEFINE_enum(
    "scale", "laptop", list(SIZES), "how much is run: on two CPU cores, on one GPU, or on a TPU slice"
)
ARMS = flags.DEFINE_multi_string("arms", None, f"{studies.ARMS}; without the flag those of the scale")
SEEDS = flags.DEFINE_integer(
    "seeds", recalling.SEEDS, "trainings of each size, of other examples and other initial weights", lower_bound=1
)
WIDTHS = flags.DEFINE_multi_integer(
    "widths", None, "widths of arms without a knob of their state, the flag repeated; default: the scale's"
)
WINDOWS = flags.DEFINE_multi_integer(
    "windows", None, "windows of attention in tokens, the flag repeated, 0 for all tokens; default: the scale's"
)
STATES = flags.DEFINE_multi_integer(
    "states", None, "values of the knob of a recurrence's state, the flag repeated; default: the scale's"
)
CHOSEN = flags.DEFINE_enum(
    "rates",
    "tuned",
    list(RATES),
    "learning rates, one an arm for all its sizes; " + "; ".join(f"{name}: {about}" for name, about in RATES.items()),
)
WORKERS = flags.DEFINE_integer(
    "workers", 0, "processes that share the trainings; 0: two on a CPU, else one", lower_bound=0
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the first cells and an estimate of the minutes, and run nothing")
OWN = ("scale", "arms", "seeds", "widths", "windows", "states", "rates")
STUDY = studies.Study("recall", own=OWN, without=("match_to", "seed"))
STUDY.declare()


def main() -> int:
    with exit_codes.door():
        asked_for = chosen()
        if not DRY_RUN.value:
            studies.check_out()
        comparison = STUDY.comparison(asked_for, WORKERS.value, STUDY.report)
    if DRY_RUN.value:
        untuned = asked_for.cells([])
        if untuned != (trained := asked_for.first_cells()):
            studies.print_cells(untuned, "cells that tune learning rates")
        studies.print_cells(trained, "cells at the sizes of the state")
        return 0
    return comparison.run()


def chosen() -> Recalling:
    """What the command line asks for."""
    sizes = SIZES[SCALE.value]
    job = STUDY.job(sizes.job)
    if parts.split(job.task)[0] == "text":
        raise ValueError("text has no answers to recall; wanted a task with answers, as --task=recall:pairs=16")
    studies.check_one_model(job)
    given = {flag.name: tuple(flag.value) for flag in (WIDTHS, WINDOWS, STATES) if flag.value}
    return Recalling(
        arms=studies.arms(ARMS.value) if ARMS.value else sizes.arms,
        sizes=dataclasses.replace(sizes, job=job, **given),
        seeds=SEEDS.value,
        rates="" if flags.FLAGS["learning_rate"].present else CHOSEN.value,
    )


if __name__ == "__main__":
    launch.run(main)
