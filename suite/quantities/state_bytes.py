"""Bytes of one sequence's state in decoding against the context: a cache grows with it, a recurrent state does not."""

from suite.job import Cell, Job
from suite.sweep.record import Row

ABOUT = "bytes of one sequence's state"
UNIT = "bytes"
AXIS = "context"
TIMED = False
TRAINED = False
EXACT = True
ROUND = False
COMPARED = "ratio"
DEFAULTS = {}


def cell(job: Job, length: int, repeat: int) -> Cell:
    """The sizes of the model, of which its shapes alone are needed."""
    return Cell(job.replace(length=length), "size", repeat)


def values(rows: list[Row], length: int) -> list[float]:
    """Bytes of a state for the context."""
    return [row["state_bytes"] for row in rows if row["phase"] == "state" and row["context"] == length]
