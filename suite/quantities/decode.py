"""Seconds a decoded token against the context, `batch` sequences at once."""

from suite import parts
from suite.job import Cell, Job
from suite.sweep.record import Row

ABOUT = "seconds a decoded token"
UNIT = "s"
AXIS = "context"
TIMED = True
TRAINED = False
EXACT = False
ROUND = True
COMPARED = "ratio"
DEFAULTS = {}
BLOCKS = 5
READ = 128  # tokens of the context that are read: a step works against the whole cache however full it is


def cell(job: Job, length: int, repeat: int) -> Cell:
    """Decoding after one context."""
    spec = f"decode:longest={length},shortest={length},batch={job.batch},read={READ},blocks={BLOCKS}"
    return Cell(job, parts.short("suite.measures", spec), repeat)


def values(rows: list[Row], length: int) -> list[float]:
    """Seconds a token in each block."""
    blocks = [row for row in rows if row["phase"] == "decode" and row["context"] == length]
    return [row["decode_seconds"] / row["decoded"] for row in blocks] if len(blocks) == BLOCKS else []
