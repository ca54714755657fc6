"""Seconds until a context is read and the first token after it is known, `batch` sequences at once."""

from suite import parts
from suite.job import Cell, Job
from suite.sweep.record import Row

ABOUT = "seconds from a context to the first token after it"
UNIT = "s"
AXIS = "context"
TIMED = True
TRAINED = False
EXACT = False
ROUND = True
COMPARED = "ratio"
DEFAULTS = {}
BLOCKS = 5


def cell(job: Job, length: int, repeat: int) -> Cell:
    """Reading one context in the fastest form of the arm."""
    spec = f"first_token:longest={length},shortest={length},batch={job.batch},blocks={BLOCKS}"
    return Cell(job, parts.short("suite.measures", spec), repeat)


def values(rows: list[Row], length: int) -> list[float]:
    """Seconds of each reading."""
    read = [row for row in rows if row["phase"] == "first_token" and row["context"] == length]
    return [row["first_token_seconds"] for row in read] if len(read) == BLOCKS else []
