"""Seconds until a context is read and the first token after it is known, `batch` sequences at once."""

from suite import parts
from suite.job import Cell, Job
from suite.sweep.record import Row

ABOUT = "seconds to read a context"
UNIT = "s"
AXIS = "context"
TIMED = True
TRAINED = False
EXACT = False
ROUND = True
COMPARED = "ratio"


def cell(job: Job, length: int, repeat: int) -> Cell:
    """Reading one context whole, with as little decoding after it as can be."""
    spec = f"decode:longest={length},shortest={length},batch={job.batch},tokens=1,blocks=1"
    return Cell(job, parts.short("suite.measures", spec), repeat)


def values(rows: list[Row], length: int) -> list[float]:
    """Seconds of the one reading of a process."""
    return [row["prefill_seconds"] for row in rows if row["phase"] == "prefill" and row["context"] == length]
