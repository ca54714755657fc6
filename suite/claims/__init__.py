"""Claims of the textbook, one file each, each with its sizes and the rule by which it is judged.

A file defines

    QUESTION, TEXTBOOK, RULE        the question, the textbook's answer, and the rule in words; fixed before any data
    CLAIMED                         the textbook's number in a few words, for a table
    ON_TEXT                         whether its numbers come from losses on text, which two corpora do not share
    SIZES                           its own sizes at each scale, by the scale's name; `untested` in one of them is the
                                    reason why the claim cannot be decided at that scale
    cells(scale, rows)              the cells that it still needs, given the rows; pure, called until none is new
    judge(rows, *, thresholds)      a Finding with verdict, reason, numbers and controls; the thresholds are knobs, so a
                                    reader may try others
    tell(rows, judged, *, thresholds)   the same Finding with its sentence, headline, figures, tables and scope

The hash of a rule (suite/judging/rule.py) covers everything that `cells`, `judge` and SIZES reach, and not `tell`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType

from suite.parts import Value
from suite.sweep.record import Row

VERDICTS = ("holds", "fails", "undecided", "untested")
# The textbook's order.
ORDER = (
    *("parallelism", "path_length", "gradient_flow", "inference_memory", "context_length", "compute_scaling"),
    "state_tracking",
)


@dataclasses.dataclass(frozen=True)
class Number:
    """A measured number: name, value with bounds where there are any, unit, how many, and how to make it again."""

    name: str
    value: float
    unit: str
    n: int
    command: str
    low: float | None = None
    high: float | None = None
    exact: bool = dataclasses.field(default=False, kw_only=True)  # by construction: it has no interval and needs none

    def __post_init__(self) -> None:
        assert self.low is None or self.n > 1, f"{self.name}: an interval of one measurement"


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a figure; `series` is an arm, or what is said of a ratio."""

    series: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Figure:
    """What a figure shows, drawn by the report: lines, or dots where every point is a seed; thresholds are labelled.

    A figure of a ratio, attention / LSTM, may name its cost: then it is a line of the report's first chart.
    """

    name: str
    title: str
    x: str
    y: str
    points: tuple[Point, ...]
    thresholds: dict[str, float] = dataclasses.field(default_factory=dict)
    failed: tuple[tuple[str, float], ...] = ()  # (series, x) without a number: out of memory, did not compile
    dots: bool = False  # each point by itself, the series side by side at each x, and no line
    log_x: bool = True
    log_y: bool = True
    cost: str = ""  # of which it is a ratio, as "step time"
    inverted: bool = False  # a ratio of speeds: its inverse is that of costs
    exact: bool = False  # by construction: its points need no interval


@dataclasses.dataclass(frozen=True)
class Control:
    """A condition that a verdict rests on, and whether it was met."""

    name: str
    met: bool
    found: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a claim: cells are text, the first column names its row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of a claim: one of VERDICTS, why, on what basis, and everything that can be checked about it."""

    verdict: str
    basis: str  # "construction" or "measured"
    sentence: str = ""
    reason: str = ""
    numbers: tuple[Number, ...] = ()
    controls: tuple[Control, ...] = ()
    figures: tuple[Figure, ...] = ()
    headline: str = ""  # a clause for the report's first sentence; empty where nothing is worth one
    scope: str = ""  # the lengths, sizes and seeds that were run
    crossover: str = ""  # where one arm crosses the other
    arms: tuple[tuple[str, str], ...] = ()  # (arm that is not judged, "like attention", "like the LSTM" or "neither")
    p_value: float | None = None  # the least of the claim's own tests, not corrected
    tables: tuple[Table, ...] = ()

    def __post_init__(self) -> None:
        assert self.verdict in VERDICTS, self.verdict

    @property
    def is_controlled(self) -> bool:
        """Whether every control was met: else its numbers stand in no headline, and in tables with that word."""
        return all(control.met for control in self.controls)


ATTENTION, LSTM = "attention", "lstm"  # the judged pair
LIKE_ATTENTION, LIKE_LSTM, NEITHER = "like attention", "like the LSTM", "neither"
OTHERS = 3  # seeds of an arm that is not judged: as many as a word on which of the two it is like needs


MATCHES = {"params": "parameters", "flops": "FLOPs a token", "state_bytes": "bytes of state", "step_time": "step time"}


def judge(claim: ModuleType, rows: list[Row], thresholds: dict[str, Value]) -> Finding:
    """The claim's finding; where arms were matched in several ways, undecided if its verdict turns between them."""
    first, *others = matches(rows)
    rows_of_first = of_match(rows, first)
    judged = claim.judge(rows_of_first, **thresholds)
    finding = claim.tell(rows_of_first, judged, **thresholds)
    verdicts = {match: claim.judge(of_match(rows, match), **thresholds).verdict for match in others}
    turned = {match: verdict for match, verdict in verdicts.items() if verdict not in (judged.verdict, "untested")}
    if judged.verdict in ("holds", "fails") and turned:
        each = {first: judged.verdict, **turned}.items()
        reason = ", ".join(f"{verdict} with equal {MATCHES[match]}" for match, verdict in each)
        return dataclasses.replace(finding, verdict="undecided", reason=f"it turns with the matching: {reason}")
    return finding


def matches(rows: Iterable[Row]) -> list[str]:
    """What the arms of these rows hold equal, in the order of MATCHES; parameters where nothing is matched."""
    quantities = {row["match"] for row in rows if row["match_to"]}
    return [match for match in MATCHES if match in quantities] or ["params"]


def held_equal(rows: Iterable[Row]) -> str:
    """What arms hold equal, for a sentence: equal parameters."""
    if {row["match"] for row in rows if row["match_to"]} == {"none"}:
        return "equal width"
    return f"equal {MATCHES[matches(rows)[0]]}"


def of_match(rows: Iterable[Row], match: str) -> list[Row]:
    """The rows of arms that are matched in this, or in nothing."""
    return [row for row in rows if not row["match_to"] or row["match"] in (match, "none")]


def likeness(values: Mapping[str, float], judged: Sequence[str] = (ATTENTION, LSTM)) -> Iterator[tuple[str, str]]:
    """Of every arm that is not judged, to which of the two that are its value is nearer."""
    if not set(judged) <= values.keys():
        return
    for arm, value in values.items():
        if arm not in judged:
            near, far = (abs(value - values[name]) for name in judged)
            yield arm, NEITHER if near == far else LIKE_ATTENTION if near < far else LIKE_LSTM
