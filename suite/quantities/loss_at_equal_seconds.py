"""Test loss of trainings that all end after the same seconds, against the length of their examples; seeds repeat it."""

from suite.job import Cell, Job
from suite.sweep.record import Row

ABOUT = "test loss after equal seconds of training"
UNIT = "nats/token"
AXIS = "length"
TIMED = False  # each is timed alone: a step that took turns with another's would pay for it
TRAINED = True
EXACT = False
ROUND = True
COMPARED = "ratio"
DEFAULTS = {"budget_seconds": 60.0, "steps": 1_000_000, "validate_every": 1_000_000}  # beside those that the budget has


def cell(job: Job, length: int, repeat: int) -> Cell:
    """The training at a length with a seed of its own; ValueError for a job that steps would end."""
    if not job.budget_seconds:
        raise ValueError("a loss at equal seconds wants a budget that ends each training, as --budget_seconds=60")
    return Cell(job.replace(length=length, seed=job.seed + repeat), "learning")


def values(rows: list[Row], length: int) -> list[float]:
    """Nats for each target of the test."""
    del length
    return [row["loss"] for row in rows if row["phase"] == "test"]
