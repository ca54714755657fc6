"""Claims of the textbook, one file each, each with its sizes and the rule by which it is judged.

A file defines

    QUESTION, TEXTBOOK, RULE        the question, the textbook's answer, and the rule in words; fixed before any data
    CLAIMED                         the textbook's number in a few words, for a table
    ON_TEXT                         whether its numbers come from losses on text, which two corpora do not share
    SIZES                           its own sizes at each scale, by the scale's name; `untested` in one of them is the
                                    reason why the claim cannot be decided at that scale
    cells(scale, rows)              the cells that it still needs, given the rows; pure, called until none is new
    FACTORS                         fields of the job that its verdict must not turn with, beside the quantity that arms
                                    hold equal; with them
    trainings(rows)                 the rows of the trainings that its verdict rests on
    judge(rows, *, thresholds)      a Finding with verdict, reason, numbers and controls; the thresholds are knobs, so a
                                    reader may try others
    tell(rows, judged, *, thresholds)   the same Finding with its sentence, headline, figures, tables, and what it
                                    speaks for; the first of the figures is the one to look at first

The hash of a rule (suite/judging/rule.py) covers everything that `cells`, `judge` and SIZES reach, and not `tell`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

from suite import learning_rates
from suite.judging import alike, factors, trials
from suite.parts import Value
from suite.sweep import store
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
    measured: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a claim: cells are text, the first column names its row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Condition(NamedTuple):
    """The verdict of a claim's rule, with its reason, under one condition of the trainings."""

    name: str  # as "at 4 times the steps"
    verdict: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of a claim: one of VERDICTS, why, on what basis, and everything that can be checked about it."""

    verdict: str
    basis: str  # "construction" or "measured"
    sentence: str = ""  # what was found, in units that a stranger knows: no symbol, and no name of a number
    reason: str = ""
    numbers: tuple[Number, ...] = ()
    controls: tuple[Control, ...] = ()
    figures: tuple[Figure, ...] = ()
    headline: str = ""  # a clause for the report's first sentence; empty where nothing is worth one
    speaks_for: str = ""  # the lengths, the sizes and the budget that were run
    arms: tuple[tuple[str, str], ...] = ()  # (arm that is not judged, "like attention", "like the LSTM" or "neither")
    tables: tuple[Table, ...] = ()
    conditions: tuple[Condition, ...] = ()  # first that of the verdict, then others that it must not turn with
    untried: tuple[str, ...] = ()  # what it must not turn with either, of which nothing else was run
    left_out: tuple[str, ...] = ()  # trainings that are like none of those that were judged

    def __post_init__(self) -> None:
        assert self.verdict in VERDICTS, self.verdict

    @property
    def is_controlled(self) -> bool:
        """Whether every control was met: else its numbers stand in no headline, and in tables with that word."""
        return all(control.met for control in self.controls)


ATTENTION, LSTM = "attention", "lstm"  # the judged pair
LIKE_ATTENTION, LIKE_LSTM, NEITHER = "like attention", "like the LSTM", "neither"


AS_JUDGED = "as judged first"
MATCHES = {"params": "parameters", "flops": "FLOPs a token", "state_bytes": "bytes of state", "step_time": "step time"}


def judge(claim: ModuleType, rows: list[Row], thresholds: dict[str, Value]) -> Finding:
    """The claim's finding; undecided where its verdict turns with a factor, the matching, or rests on untuned rates.

    Of an arm whose rate was not tuned for its training it is not said which of the judged it is like.
    """
    choices = learning_rates.choices(rows)
    rows = [row for row in rows if row["seed"] not in learning_rates.SEEDS]
    first, *others = matches(rows)
    split = split_of(claim, of_match(rows, first))
    judged = claim.judge(split.base, **thresholds)
    finding = claim.tell(split.base, judged, **thresholds)
    levels = {level.label: level.rows for level in split.levels}
    levels |= {f"with equal {MATCHES[match]}": split_of(claim, of_match(rows, match)).base for match in others}
    tried = {label: claim.judge(of_level, **thresholds) for label, of_level in levels.items()}
    untuned = _untuned(claim, split.base, choices)
    finding = dataclasses.replace(
        finding,
        arms=tuple((arm, like) for arm, like in finding.arms if arm not in untuned),
        conditions=tuple(Condition(label, at.verdict, at.reason) for label, at in {AS_JUDGED: judged, **tried}.items()),
        untried=tuple(_untried(claim, split, others)) if judged.basis == "measured" else (),
        left_out=tuple(split.left_out),
    )
    if judged.verdict not in ("holds", "fails"):
        return finding
    turned = {label: at for label, at in tried.items() if at.verdict not in (judged.verdict, "untested")}
    if turned:
        each = "; ".join(f"{label} {at.verdict}: {at.reason}" for label, at in turned.items())
        reason = f"it turns. As it is judged first, {judged.verdict}: {judged.reason}; {each}"
        return dataclasses.replace(finding, verdict="undecided", reason=reason)
    if resting := sorted(untuned & {*trials.variants(ATTENTION), *trials.variants(LSTM)}):
        of_arms = f"that of {', '.join(resting)} was not chosen for its task, length, steps and width"
        reason = f"rate: {of_arms}; with these rates, {judged.verdict}: {judged.reason}"
        return dataclasses.replace(finding, verdict="undecided", reason=reason)
    return finding


def split_of(claim: ModuleType, rows: list[Row]) -> factors.Split:
    """The rows of a claim by the levels of its factors; all of them at the base where it names none."""
    if not getattr(claim, "FACTORS", ()):
        return factors.Split(rows, [], [])
    sides = [trials.variants(mixer) for mixer in (ATTENTION, LSTM)]
    return factors.split(rows, claim.trainings(rows), claim.FACTORS, sides)


def _untried(claim: ModuleType, split: factors.Split, matches: Sequence[str]) -> Iterator[str]:
    """The factors of which one level was run alone."""
    tried = {level.factor for level in split.levels}
    yield from (factors.NAMES[name] for name in getattr(claim, "FACTORS", ()) if name not in tried)
    if not matches:
        yield "the matching of the arms"


def _untuned(claim: ModuleType, base: list[Row], choices: Sequence[learning_rates.Choice]) -> set[str]:
    """The arms whose learning rate was not tuned for one of the trainings that a claim names."""
    if not getattr(claim, "FACTORS", ()):
        return set()
    runs = {row["run_id"]: row for row in claim.trainings(base)}
    jobs = {run: store.job_of(row) for run, row in runs.items()}
    # A training at a probe of the rate stands beside those at the rate itself.
    tuned = {alike.without_trial(job): False for job in jobs.values()}
    tuned |= {alike.without_trial(job): True for job in jobs.values() if learning_rates.is_tuned(job, choices)}
    return {job.arm for job, is_tuned in tuned.items() if not is_tuned}


def matches(rows: Iterable[Row]) -> list[str]:
    """What the arms of these rows hold equal, in the order of MATCHES; parameters where nothing is matched."""
    quantities = {row["match"] for row in rows if row["match_to"]}
    return [match for match in MATCHES if match in quantities] or ["params"]


def variant(arm: str) -> str:
    """The knobs of an arm in a sentence, behind its name: " (positions=none)"."""
    _, _, knobs = arm.partition(":")
    return f" ({knobs})" if knobs else ""


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
