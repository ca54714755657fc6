"""Bytes of device memory of a training step against the length of its examples, as its compiler has laid them out."""

from suite.job import Cell, Job
from suite.sweep.record import Row

ABOUT = "bytes of memory of a training step"
UNIT = "bytes"
AXIS = "length"
TIMED = False
TRAINED = False
EXACT = True
ROUND = True
COMPARED = "ratio"
DEFAULTS = {}


def cell(job: Job, length: int, repeat: int) -> Cell:
    """A timing of the step as short as can be: its compilation tells."""
    return Cell(job.replace(length=length), "step_time:blocks=1,warmup=0", repeat)


def values(rows: list[Row], length: int) -> list[float]:
    """Bytes of arguments, results and temporary arrays; what is returned in the place of an argument counts once."""
    del length
    compiled = [row for row in rows if row["phase"] == "compile"]
    return [_bytes(row) for row in compiled]


def _bytes(row: Row) -> int:
    return row["argument_bytes"] + row["output_bytes"] - row["alias_bytes"] + row["temp_bytes"]
