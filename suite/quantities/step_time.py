"""Seconds of a training step of one batch against the length of its examples."""

from suite.job import Cell, Job
from suite.sweep.record import Row

ABOUT = "seconds of a training step"
UNIT = "s"
AXIS = "length"
TIMED = True
TRAINED = False
EXACT = False
ROUND = True
COMPARED = "ratio"
DEFAULTS = {}
BLOCKS = 5


def cell(job: Job, length: int, repeat: int) -> Cell:
    """The timing of the step at a length."""
    return Cell(job.replace(length=length), f"step_time:blocks={BLOCKS}", repeat)


def values(rows: list[Row], length: int) -> list[float]:
    """Seconds of a step in each block."""
    del length
    blocks = [row for row in rows if row["phase"] == "block"]
    return [row["burst_seconds"] / row["calls"] for row in blocks] if len(blocks) == BLOCKS else []
