"""What ended without a number: out of memory, diverged, not compiled, crashed; with the reason and the estimate."""

from collections.abc import Iterator

from suite.report import words
from suite.report.document import Block, Commands, Heading, Prose, Table
from suite.report.records import Gathered
from suite.sweep.store import Row

COLUMNS = ("measure", "arm", "length", "batch", "seed", "outcome", "a training step holds", "reason")
SHOWN = 160  # characters of a reason: the first lines of a runtime's message say it


def outcomes(found: Gathered) -> Iterator[Block]:
    """One line for each row that says how its cell ended instead of what it found."""
    ended = [row for row in found.rows if row["outcome"] != "ok"]
    if not ended:
        return
    yield Heading("Without a number")
    yield Prose("These are results too: what this machine could not hold, compile or train.")
    yield Table(COLUMNS, tuple(_line(row) for row in ended))
    yield Commands(tuple(found.commands(ended)), "each cell by itself")


def _line(row: Row) -> tuple[str, ...]:
    what = (row["measure"], row["arm"], str(row["length"]), str(row["batch"]), str(row["seed"]))
    held = f"{words.si(row['estimate_bytes'], 'B')} ({row['estimated_from']})" if "estimate_bytes" in row else ""
    at_step = f"at step {row['step']}" if "step" in row else ""
    return *what, words.outcome(row["outcome"]), held, " ".join(row.get("error", at_step).split())[:SHOWN]
