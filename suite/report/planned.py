"""A plan beside what was measured: each training step's time, and the bounds that launch.plan gave for it."""

from collections.abc import Iterator
from typing import NamedTuple

from suite import parts
from suite.judging import alike
from suite.report import words
from suite.report.page import Block, Heading, Prose, Table
from suite.report.records import Comparison
from suite.report.utilisation import Timing, timings
from suite.sweep.record import Row

COLUMNS = ("arm", "length", "batch", "bounds of a step", "longest", "measured", "inside")
# What a program follows from, beside the vocabulary of its task, the mixer and its own width.
FIELDS = tuple(name for name in alike.PROGRAM if name not in ("task", "mixer", "width"))


class Compared(NamedTuple):
    """A measured step and its bounds, in seconds."""

    timing: Timing
    low: float
    high: float
    longest: str

    @property
    def inside(self) -> str:
        """Whether the measured step lies inside the bounds; where not, on which side."""
        if self.timing.seconds < self.low:
            return "below"
        return "yes" if self.timing.seconds <= self.high else f"{self.timing.seconds / self.high:.1f} times the upper"


def planned(comparison: Comparison) -> Iterator[Block]:
    """The section; nothing where nothing was planned, or timed where it was planned for."""
    compared = compare(comparison.plan, timings(comparison.rows)) if comparison.plan else []
    if not compared:
        return
    inside = sum(one.inside == "yes" for one in compared)
    yield Heading("Planned and measured (not judged)", name="planned")
    yield Prose(
        "launch.plan compiled these training steps and bounded their times before any was run: no step is shorter than "
        "the longest of its compute, memory, network and waiting chain at the peaks of the device, and their sum is "
        "what it takes when none overlap. Code that does not reach the peaks takes longer than the sum. "
        f"{inside} of {len(compared)} measured steps lie inside their bounds."
    )
    yield Table(COLUMNS, tuple(map(_line, compared)))


def compare(plan: Row, timed: list[Timing]) -> list[Compared]:
    """The timings at the plan's place whose program it has with bounds."""
    programs = {_key(row["solved"], row["solved"]["mixer"]): row for row in plan["programs"] if "bounds" in row}
    compared = []
    for timing in timed:
        key = _key(timing.row, timing.row["solved"])
        if timing.step_seconds and timing.row["place"] == plan["place"]["place"] and key in programs:
            bounds = programs[key]["bounds"]
            compared.append(Compared(timing, bounds["low"], bounds["high"], bounds["longest"]))
    return compared


def _key(row: Row, mixer: str) -> tuple:
    return (parts.short("suite.mixers", mixer), row["width"], *(row[name] for name in FIELDS))


def _line(one: Compared) -> tuple[str, ...]:
    row = one.timing.row
    between = f"{words.seconds(one.low)} to {words.seconds(one.high)}"
    start = (row["arm"], words.number(row["length"]), str(row["batch"]))
    return (*start, between, one.longest, words.seconds(one.timing.seconds), one.inside)
