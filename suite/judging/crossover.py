"""A crossover: the length at which one arm comes to need more of a quantity than another, sought by measuring.

The search is replayed from the rows: which lengths it has asked for, how often, and what it asks for next follows from
them alone. So a search that was stopped goes on where it was, and a report draws it without running anything.
"""

import dataclasses
import functools
import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from suite import learning_rates, parts
from suite.job import Cell, Job
from suite.judging import crossing
from suite.judging.crossing import EITHER, Region
from suite.judging.statistics import Interval, t_interval
from suite.learning_rates import Choice
from suite.sweep import store
from suite.sweep.record import Row

FOLDER = "suite.quantities"
GROUP = "crossover"  # how the groups of its timings begin, in which two arms take turns
GRID = 4.0  # from one length to the next, at first
ERROR = 0.05  # of an interval of a crossing, over all looks
FIRST = 3  # repeats of a length before it is looked at
MORE = 1.4  # times the repeats before the next look, which makes few looks
BINARY_DIGITS = 6  # of a round length: programs run at their best speed where powers of two divide it


@dataclasses.dataclass(frozen=True)
class Question:
    """Where the first arm comes to have more, or less, of a quantity than the second, between two lengths."""

    quantity: str  # a file of suite/quantities
    arms: tuple[str, str]
    jobs: tuple[Job, Job]  # of the arms: what their cells are made from
    shortest: int
    longest: int
    tolerance: float  # the interval of a crossing reaches so far from it, as a fraction, when the search ends
    repeats: int  # at most, of one length
    own_rates: bool = True  # each arm's learning rate is that which was chosen for it; False: the job's
    rates: str = "table"  # of suite/sweep/schedule.py: whether rates are chosen in the search

    def __post_init__(self) -> None:
        if self.quantity not in parts.names(FOLDER):
            raise LookupError(f"no quantity {self.quantity!r}; known: {', '.join(parts.names(FOLDER))}")
        if not 1 <= self.shortest < self.longest:
            raise ValueError(f"no lengths from {self.shortest} to {self.longest}; wanted the shorter one first")
        if not self.tolerance > 0:
            raise ValueError(f"a tolerance of {self.tolerance:g} is never reached; wanted 0.1 for 10 %")
        if self.repeats < 2 and not self.read.EXACT:
            raise ValueError(f"{self.repeats} repeats give no interval of {self.quantity}; wanted at least 2")
        _pair(self, (), self.longest, self.repeats - 1)  # which says what such a job or its measure cannot be

    @functools.cached_property
    def read(self) -> ModuleType:
        """The file of the quantity."""
        return parts.load(FOLDER, self.quantity)[0]

    @functools.cached_property
    def looks(self) -> list[int]:
        """The repeats after which a length is looked at."""
        if self.read.EXACT:
            return [1]
        looks = [min(FIRST, self.repeats)]
        while looks[-1] < self.repeats:
            looks.append(min(self.repeats, math.ceil(MORE * looks[-1])))
        return looks

    @property
    def confidence(self) -> float:
        """Of the interval of a length at each look: all of them hold together as often as 1 - ERROR (Bonferroni)."""
        return 1 - ERROR / len(self.looks)

    def on(self, devices: int) -> "Question":
        """The question of batches for so many devices over which examples are split."""
        first, second = (job.replace(batch=job.batch * devices) for job in self.jobs)
        return dataclasses.replace(self, jobs=(first, second))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Question":
        first, second = stored["arms"]
        jobs = [Job.from_json(json.dumps(fields)) for fields in stored["jobs"]]
        return cls(**{**stored, "arms": (str(first), str(second)), "jobs": (jobs[0], jobs[1])})


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the rows say: the crossings, and on which side of equal the first arm is at every other length."""

    asked: dict[int, int]  # repeats of each length
    logs: dict[int, list[float]]  # of the ratio, first arm over second, one a repeat; or the difference
    intervals: dict[int, Interval]  # at the lengths that were measured often enough for one
    crossings: list[Interval]
    regions: list[Region]
    beyond: Interval | None  # a crossing by extrapolation, beyond the longest length
    failed: dict[tuple[str, int], str]  # outcomes of arms at lengths that have no number
    is_over: bool = False  # nothing more is asked for

    @property
    def spent(self) -> int:
        """The repeats that were measured, over all lengths."""
        return sum(map(len, self.logs.values()))


def cells(question: Question, rows: Iterable[Row]) -> list[Cell]:
    """All cells that the search has asked for, those that it still needs among them."""
    rows = list(rows)
    asked, choices = replay(question, rows).asked, _choices(question, rows)
    return [
        cell
        for length, repeats in asked.items()
        for repeat in range(repeats)
        for cell in _pair(question, choices, length, repeat)
    ]


def untuned(question: Question, rows: Iterable[Row]) -> list[Job]:
    """The trainings that were asked for, one for several alike, whose learning rate is to be chosen first."""
    if not (question.read.TRAINED and question.own_rates):
        return []
    rows = list(rows)
    return learning_rates.untuned({cell.job for cell in cells(question, rows)}, question.rates, rows)


def _choices(question: Question, rows: Iterable[Row]) -> tuple[Choice, ...]:
    """The learning rates that the rows have chosen, where the question asks for any."""
    return () if question.rates == "table" else learning_rates.choices(rows)


def is_of(row: Row) -> bool:
    """Whether a row is a timing of a crossover, for which two arms took turns."""
    return row["interleave_with"].startswith(GROUP)


def is_within(at: Interval, tolerance: float) -> bool:
    """Whether the interval of a crossing reaches no further from it than the tolerance."""
    return at.high <= at.value * (1 + tolerance) and at.low >= at.value / (1 + tolerance)


def replay(question: Question, rows: Iterable[Row]) -> Answer:
    """The answer as far as the rows go, with all that the search has asked for until it waits for more of them."""
    rows = list(rows)
    look = functools.cache(functools.partial(_look, question, _choices(question, rows), _by_cell(rows)))
    asked = dict.fromkeys(_grid(question), question.looks[0])
    while True:
        looks = {length: [look(length, repeat) for repeat in range(asked[length])] for length in sorted(asked)}
        answer = _answer(question, looks)
        if any(one.waits for of_length in looks.values() for one in of_length):
            return answer
        more = _more_exact(question, answer) if question.read.EXACT else _more(question, answer)
        if not more:
            return dataclasses.replace(answer, is_over=True)
        asked |= more


Measured = dict[tuple[Job, str, int, str], list[Row]]  # rows by the fields of their cell


def _by_cell(rows: Iterable[Row]) -> Measured:
    """The rows by job and not by its name: that of a user's own arm is known only where its file is."""
    jobs: dict[str, Job] = {}
    by_name: dict[tuple[str, str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["run_id"] not in jobs:
            jobs[row["run_id"]] = store.job_of(row)
        by_name[row["run_id"], row["measure"], row["repeat"], row["interleave_with"]].append(row)
    return {(jobs[run], measure, repeat, group): of_cell for (run, measure, repeat, group), of_cell in by_name.items()}


def _pair(question: Question, choices: tuple[Choice, ...], length: int, repeat: int) -> list[Cell]:
    """The cells of both arms at a length: timed in one process in turns, or trained at their own learning rates."""
    read = question.read
    pair = [read.cell(job, length, repeat) for job in question.jobs]
    if read.TRAINED and question.own_rates:
        rates = [learning_rates.look_up(cell.job, choices) for cell in pair]
        jobs = [cell.job.replace(learning_rate=rate) for cell, rate in zip(pair, rates, strict=True)]
        pair = [dataclasses.replace(cell, job=job) for cell, job in zip(pair, jobs, strict=True)]
    group = f"{GROUP} of {' and '.join(question.arms)} at {length}" if read.TIMED else ""
    return [dataclasses.replace(cell, interleave_with=group) for cell in pair]


class Look(NamedTuple):
    """One measurement of both arms at a length: none where cells of it are still to come, or an arm has no number."""

    log: tuple[float, ...]
    outcomes: dict[str, str]  # of arms that have no number
    waits: bool


def _look(question: Question, choices: tuple[Choice, ...], measured: Measured, length: int, repeat: int) -> Look:
    """What the rows say of both arms at a length: the median over their turns, side by side."""
    outcomes, pair = {}, []
    for arm, cell in zip(question.arms, _pair(question, choices, length, repeat), strict=True):
        rows = measured.get((cell.job, cell.measure, cell.repeat, cell.interleave_with), [])
        values = question.read.values([row for row in rows if row["outcome"] == "ok"], length)
        pair.append(values)
        if not values:
            outcomes.update((arm, row["outcome"]) for row in rows if row["outcome"] != "ok")
    turns = [_compared(question, first, second) for first, second in zip(*pair, strict=False)]
    waits = any(not values and arm not in outcomes for arm, values in zip(question.arms, pair, strict=True))
    return Look((statistics.median(turns),) if turns else (), outcomes, waits)


def _answer(question: Question, looks: dict[int, list[Look]]) -> Answer:
    """What the measurements say, by length."""
    logs = {length: [log for look in of_length for log in look.log] for length, of_length in looks.items()}
    logs = {length: of_length for length, of_length in logs.items() if of_length}
    intervals = {
        length: _interval(question, of_length)
        for length, of_length in logs.items()
        if len(of_length) > 1 or question.read.EXACT
    }
    crossings, regions, beyond = _read(tuple(intervals), tuple(intervals.values()))
    return Answer(
        asked={length: len(of_length) for length, of_length in looks.items()},
        logs=logs,
        intervals=intervals,
        crossings=[_between_measured(at, intervals) for at in crossings] if question.read.EXACT else crossings,
        regions=regions,
        beyond=beyond,
        failed={
            (arm, length): outcome
            for length, of_length in looks.items()
            if length not in logs
            for look in of_length
            for arm, outcome in look.outcomes.items()
        },
    )


def _compared(question: Question, first: float, second: float) -> float:
    """The logarithm of the ratio of two values, or their difference: above 0 where the first arm has more."""
    return math.log(first / second) if question.read.COMPARED == "ratio" else first - second


def _interval(question: Question, logs: list[float]) -> Interval:
    return Interval(logs[0], logs[0], logs[0]) if question.read.EXACT else _t_interval(tuple(logs), question.confidence)


# A replay asks the same again at each of its steps, and so does the next one.
@functools.lru_cache(maxsize=1 << 12)
def _t_interval(logs: tuple[float, ...], confidence: float) -> Interval:
    return t_interval(logs, confidence)


@functools.lru_cache(maxsize=1 << 12)
def _read(x: tuple[int, ...], logs: tuple[Interval, ...]) -> tuple[list[Interval], list[Region], Interval | None]:
    """The crossings of a line, its regions, and the crossing beyond it."""
    return crossing.crossings(x, logs), crossing.regions(x, logs), crossing.beyond(x, logs)


def _between_measured(at: Interval, lengths: Iterable[int]) -> Interval:
    """A crossing of what is exact, between the two measured lengths around it."""
    low = max(length for length in lengths if length <= at.value)
    return Interval(at.value, low, min(length for length in lengths if length >= at.value))


def _more(question: Question, answer: Answer) -> dict[int, int]:
    """What is asked for next, {length: repeats}: nothing where all crossings are within the tolerance.

    Between lengths that are beyond doubt on both sides of equal, the middle one; a length that is in doubt again, until
    it has all its repeats.
    """
    more: dict[int, int] = {}
    lengths = list(answer.intervals)
    crossed = {(at.low, at.high): at for at in answer.crossings}
    doubted = {(region.low, region.high) for region in answer.regions if region.side == EITHER}
    for low, high in [*crossed, *(doubted - crossed.keys())]:
        inside = [length for length in lengths if low <= length <= high]
        is_crossing = (low, high) in crossed
        if inside and not (is_crossing and is_within(crossed[low, high], question.tolerance)):
            for length in inside:
                later = [look for look in question.looks if look > answer.asked[length]]
                more |= {length: later[0]} if later else {}
        if is_crossing and not inside:
            before = max(length for length in lengths if length < low)
            after = min(length for length in lengths if length > high)
            if after > before * (1 + question.tolerance) ** 2:
                middle = _rounded(question, math.sqrt(before * after))
                more |= {middle: question.looks[0]} if middle not in answer.asked else {}
    return more


def _more_exact(question: Question, answer: Answer) -> dict[int, int]:
    """What is asked for next of a quantity without noise, until the lengths around each crossing are neighbours.

    The middle one, and the two around the crossing of a straight line: bytes are lines of the length.
    """
    more = {}
    for (before, one), (after, other) in itertools.pairwise(sorted(answer.intervals.items())):
        if one.value * other.value < 0:
            line = [math.expm1(log.value) if question.read.COMPARED == "ratio" else log.value for log in (one, other)]
            at = before + (after - before) * line[0] / (line[0] - line[1])
            step = _step(question, at)
            near = [math.floor(at / step) * step + beside for beside in (0, step)]
            wanted = {*near, _rounded(question, math.sqrt(before * after))} - answer.asked.keys()
            more |= {length: 1 for length in wanted if before < length < after}
    return more


def _grid(question: Question) -> list[int]:
    """The lengths that are looked at first, at most GRID apart."""
    ratio = question.longest / question.shortest
    steps = math.ceil(math.log(ratio) / math.log(GRID))
    inner = [_rounded(question, question.shortest * ratio ** (step / steps)) for step in range(1, steps)]
    return sorted({question.shortest, question.longest, *inner})


def _rounded(question: Question, length: float) -> int:
    """The nearest length that may be asked for."""
    step = _step(question, length)
    return round(length / step) * step


def _step(question: Question, length: float) -> int:
    """From one length that may be asked for to the next."""
    return 2 ** max(0, int(length).bit_length() - BINARY_DIGITS) if question.read.ROUND else 1
