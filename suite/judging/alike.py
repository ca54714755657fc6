"""Which jobs and rows are alike: the fields in which those that are pooled, paired or compared with one another agree.

A row stands for its job: its width is the one that was asked for, and not the one that an arm was matched with.
"""

import dataclasses
from collections.abc import Iterable

from suite.job import Job
from suite.sweep.record import Row

ARM = ("mixer", "match", "match_to", "own_width")  # the arm, and what it is matched to
TRIAL = ("learning_rate", "seed")  # the training of an arm
# Of a learning rate.
SETTING = ("task", "length", "short_conv", "block", "width", "batch", "steps", "budget_seconds", "lengths")
BACKBONE = ("task", "block", "short_conv", "hidden", "head_size", "width", "depth")  # what surrounds the mixer
MODEL = (*ARM, *BACKBONE, "dtype")  # what parameters follow from, and with a length FLOPs and depth
PROGRAM = (
    *BACKBONE,
    "mixer",
    "length",
    "batch",
    "microbatch",
    "remat",
    "reset",
    "optimizer",
    "dtype",
)  # what is compiled once
CONDITIONS = tuple(field.name for field in dataclasses.fields(Job) if field.name not in (*ARM, *TRIAL))


def of_job(job: Job, fields: Iterable[str]) -> tuple:
    """The job's values of these fields: equal for jobs that are alike in them."""
    return tuple(getattr(job, name) for name in fields)


def of_row(row: Row, fields: Iterable[str]) -> tuple:
    """The values of these fields of a row's job."""
    return tuple(row["reference_width" if name == "width" else name] for name in fields)


def without_trial(job: Job) -> Job:
    """The job that stands for all trainings of an arm: with no learning rate and no seed."""
    return job.replace(learning_rate=0.0, seed=0)


def without_arm(job: Job) -> Job:
    """The job that stands for the trainings of all arms under the same conditions."""
    return without_trial(job).replace(mixer="attention", match="params", match_to="", own_width=0)
