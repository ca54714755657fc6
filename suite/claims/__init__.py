"""Claims of the textbook, one file each, each with the rule by which it is judged.

A file defines

    QUESTION, TEXTBOOK, RULE        what is asked, what is said, and the rule in words; fixed before any data
    SAID                            the textbook's number in a few words, for a table
    cells(scale, rows)              the cells it still needs, given the rows there are; pure, called until none is new
    judge(rows, *, thresholds)      a Finding; the thresholds are knobs, so a reader may try others
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable
from types import ModuleType

from suite.parts import Value
from suite.sweep.store import Row

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
    """What a figure shows, drawn by the report: lines, or dots where every point is a seed; thresholds are labelled."""

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
    sentence: str
    reason: str
    numbers: tuple[Number, ...] = ()
    controls: tuple[Control, ...] = ()
    figures: tuple[Figure, ...] = ()
    headline: str = ""  # a clause for the report's first sentence; empty where there is nothing to say
    scope: str = ""  # what was run: lengths, sizes, seeds
    crossover: str = ""  # where one arm crosses the other
    arms: tuple[tuple[str, str], ...] = ()  # (arm that is not judged, "like attention", "like the LSTM" or "neither")
    p_value: float | None = None  # the least of the claim's own tests, not corrected
    tables: tuple[Table, ...] = ()

    def __post_init__(self) -> None:
        assert self.verdict in VERDICTS, self.verdict


ATTENTION, LSTM = "attention", "lstm"  # the judged pair
LIKE_ATTENTION, LIKE_LSTM, NEITHER = "like attention", "like the LSTM", "neither"


def rule_hash(module_file: str) -> str:
    """Hash of a claim's file: a rule that was changed after the data shows."""
    return hashlib.sha256(pathlib.Path(module_file).read_bytes()).hexdigest()[:12]


MATCHES = {"params": "parameters", "flops": "FLOPs a token", "state_bytes": "bytes of state", "step_time": "step time"}


def judge(claim: ModuleType, rows: list[Row], thresholds: dict[str, Value]) -> Finding:
    """The claim's finding; where arms were matched in several ways, undecided if its verdict turns between them."""
    findings = {match: claim.judge(of_match(rows, match), **thresholds) for match in matches(rows)}
    (first, finding), *others = findings.items()
    turned = {match: found for match, found in others if found.verdict not in (finding.verdict, "untested")}
    if finding.verdict in ("holds", "fails") and turned:
        said = [f"{finding.verdict} with equal {MATCHES[first]}"]
        said += [f"{found.verdict} with equal {MATCHES[match]}" for match, found in turned.items()]
        return dataclasses.replace(
            finding, verdict="undecided", reason=f"it turns with the matching: {', '.join(said)}"
        )
    return finding


def matches(rows: Iterable[Row]) -> list[str]:
    """What the arms of these rows hold equal, in the order of MATCHES; parameters where nothing is matched."""
    found = {row["match"] for row in rows if row["match_to"]}
    return [match for match in MATCHES if match in found] or ["params"]


def held_equal(rows: Iterable[Row]) -> str:
    """What arms hold equal, for a sentence: equal parameters."""
    if {row["match"] for row in rows if row["match_to"]} == {"none"}:
        return "equal width"
    return f"equal {MATCHES[matches(rows)[0]]}"


def of_match(rows: Iterable[Row], match: str) -> list[Row]:
    """The rows of arms that are matched in this, or in nothing."""
    return [row for row in rows if not row["match_to"] or row["match"] in (match, "none")]
