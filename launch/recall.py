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
from suite.sweep import recalling
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
RATES = studies.define_rates("learning rates, one an arm for all its sizes")
WORKERS = studies.define_workers()
OWN = ("scale", "arms", "seeds", "widths", "windows", "states", "rates")
STUDY = studies.Study("recall", own=OWN, without=("match_to", "seed"))
STUDY.declare()


def main() -> int:
    return STUDY.run(chosen, WORKERS.value)


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
        rates="" if flags.FLAGS["learning_rate"].present else RATES.value,
    )


if __name__ == "__main__":
    launch.run(main)
