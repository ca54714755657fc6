"""Test accuracy after the job's steps against the length that is trained and tested at; a seed for each repeat."""

from suite.job import Cell, Job
from suite.sweep.record import Row

ABOUT = "test accuracy"
UNIT = "fraction"
AXIS = "length"
TIMED = False
TRAINED = True
EXACT = False
ROUND = True
COMPARED = "difference"  # of an accuracy of 0 there is no ratio
DEFAULTS = {}


def cell(job: Job, length: int, repeat: int) -> Cell:
    """The training at a length with a seed of its own."""
    return Cell(job.replace(length=length, seed=job.seed + repeat), "learning")


def values(rows: list[Row], length: int) -> list[float]:
    """The fraction of the test's answers that are correct."""
    del length
    return [row["accuracy"] for row in rows if row["phase"] == "test"]
