"""Learning rates: the table that ships with the project, how it is looked up, and the grid that makes it anew.

The table is learning_rates.csv beside this file, made of the rates.csv of comparisons with --rates=anew; a line says
what was tried, on how many seeds, at which size, and with which commit and version.
"""

import dataclasses
import functools
import math
import pathlib
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from suite import parts, spreadsheets
from suite.files import Damaged
from suite.job import Cell, Job
from suite.judging import alike
from suite.sweep import store
from suite.sweep.record import Row

TABLE = pathlib.Path(__file__).parent / "learning_rates.csv"
GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # steps of half a decade
LIMITS = (1e-5, 1.0)  # beyond which an edge is not extended
SEEDS = (1000, 1001)  # of task and initialisation; comparisons take theirs from 0
OTHERWISE = 3e-3  # for an arm or a task that is not in the table
SIZES = ("length", "width", "batch", "steps")  # of a training for which a rate is chosen
SURROUNDINGS = ("block", "short_conv", "hidden")  # of its mixer
WITHIN = 2  # times a size, within which a rate that was chosen is taken as chosen for it
LENGTHS = {"recall": "distance"}  # knobs that are a size too: tokens between what is shown and where it is asked for
RATES = {  # the ways to choose them
    "tuned": "what the table lacks is tuned first",
    "table": "those of the table, the nearest where it lacks one",
    "anew": "all are tuned first, whatever the table has",
}
NEAR = {"final_accuracy": 0.05, "loss": 0.02}  # of the best score: as far as the window of good rates reaches


@dataclasses.dataclass(frozen=True)
class Choice:
    """A line of the table: the learning rate of an arm on a task at a length, and how it was chosen."""

    arm: str
    task: str  # short spec
    block: str
    short_conv: int
    hidden: int
    length: int
    width: int
    batch: int
    steps: int
    learning_rate: float
    score: float  # of that rate: median over seeds
    scored_by: str
    tried: str
    seeds: int
    edge: bool  # no rate beyond it was tried
    window: float  # octaves over which the rates that were tried come near the best, without a gap
    commit: str
    jax: str
    device_kind: str
    budget_seconds: float = 0.0  # that ended each training; 0: its steps did
    lengths: str = ""  # of the examples; empty: all had the same

    @property
    def provenance(self) -> str:
        """In a few words, for a table of a report."""
        tried = len(self.tried.split())
        length = f"T={self.lengths or f'{self.length:,}'}"
        where = f"{tried} rates x {self.seeds} seeds on validation, {length}, {duration(self)}"
        return f"{where}, commit {self.commit}{', at the edge of the grid' if self.edge else ''}"


def duration(of: Choice | Job) -> str:
    """How long a training is, in words: its steps, or the seconds that are its budget."""
    return f"{of.budget_seconds:g} s of training" if of.budget_seconds else f"{of.steps:,} steps"


def look_up(job: Job, choices: Iterable[Choice] = ()) -> float:
    """The rate for a job's arm and task, of the nearest of these choices and the table; OTHERWISE where it has none."""
    line = nearest(job, (*choices, *table()))
    return OTHERWISE if line is None else line.learning_rate


def covering(job: Job, choices: Iterable[Choice] = ()) -> Choice | None:
    """The choice that was made for this very training; None where none was.

    It is of the same arm and task, in the same surroundings, and its length, width, batch and steps are each within a
    factor of WITHIN of the job's; so is the distance of recall, which is a length. A mixture of lengths is like no
    other.
    """
    line = nearest(job, (*choices, *table()))
    return line if line is not None and _covers(line, job) else None


def is_tuned(job: Job, choices: Iterable[Choice] = ()) -> bool:
    """Whether a job has the rate that was chosen for this very training."""
    line = covering(job, choices)
    return line is not None and math.isclose(job.learning_rate, line.learning_rate)


def _covers(line: Choice | Job, job: Job) -> bool:
    """Whether a rate that was chosen for one is taken as chosen for the other."""
    return (
        line.arm == job.arm
        and _surroundings(line) == _surroundings(job)
        and _is_same_task(parts.short("suite.tasks", line.task), parts.short("suite.tasks", job.task))
        and bool(line.budget_seconds) == bool(job.budget_seconds)
        and line.lengths == job.lengths
        and all(_octaves(line, job, name) <= math.log2(WITHIN) for name in _sizes(job))
    )


def _sizes(job: Job) -> tuple[str, ...]:
    """The sizes of a training: one that ends by seconds has these for its steps, which are only their limit."""
    return tuple("budget_seconds" if name == "steps" and job.budget_seconds else name for name in SIZES)


def _surroundings(of: Choice | Job) -> tuple[str | int, ...]:
    return tuple(getattr(of, name) for name in SURROUNDINGS)


@functools.cache
def _is_same_task(one: str, other: str) -> bool:
    """Whether two specs are equal but for a knob that is a length, and this within a factor of WITHIN.

    A distance of 0 stands for distances that vary, and is like no other.
    """
    if one == other:
        return True
    [name, *others] = {parts.split(spec)[0] for spec in (one, other)}
    if others or name not in LENGTHS:
        return False
    knobs, other_knobs = (dict(parts.knobs("suite.tasks", spec)) for spec in (one, other))
    length, other_length = (float(of_spec.pop(LENGTHS[name])) for of_spec in (knobs, other_knobs))
    if knobs != other_knobs or min(length, other_length) == 0:
        return False
    return abs(math.log2(length / other_length)) <= math.log2(WITHIN)


def _octaves(line: Choice | Job, job: Job, name: str) -> float:
    return abs(math.log2(getattr(line, name) / getattr(job, name)))


def nearest(job: Job, lines: Iterable[Choice]) -> Choice | None:
    """The line for a job's arm and task that is nearest to it: its surroundings, whether it covers the job, sizes.

    Steps count because the best rate of twenty steps is too high for three hundred.
    """
    arm, name = job.arm, parts.split(job.task)[0]
    of_task = (line for line in lines if line.arm == arm and parts.split(line.task)[0] == name)
    return min(of_task, key=functools.partial(_distance, job), default=None)


def _distance(job: Job, line: Choice) -> tuple[list[bool], bool, float, bool]:
    differs = [one != other for one, other in zip(_surroundings(line), _surroundings(job), strict=True)]
    apart = sum(_octaves(line, job, name) for name in ("length", "steps"))
    other_task = line.task != parts.short("suite.tasks", job.task)
    return differs, not _covers(line, job), apart, other_task


def provenance(job: Job, choices: Iterable[Choice] = ()) -> str:
    """Where a job's learning rate comes from."""
    line = nearest(job, (*choices, *table()))
    if line is None:
        return "default: not in the table" if job.learning_rate == OTHERWISE else "given"
    if math.isclose(job.learning_rate, line.learning_rate):
        tuned = "tuned" if _covers(line, job) else "not tuned for this training; the nearest"
        return f"{tuned}: {line.provenance}"
    probes = (line.learning_rate / 3, line.learning_rate * 3)
    return "probe" if any(math.isclose(job.learning_rate, probe, rel_tol=0.02) for probe in probes) else "given"


@functools.cache
def table() -> tuple[Choice, ...]:
    """The table that ships with the project; Damaged where it cannot be read: other rates would be run in its place."""
    try:
        return read(TABLE.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(TABLE, str(error)) from error


def read(text: str) -> tuple[Choice, ...]:
    """Lines of a table; ValueError says which line is cut or holds what no table is written with."""
    fields = {field.name: field.type for field in dataclasses.fields(Choice)}
    header, *lines = spreadsheets.read(text) if text else [[]]
    if header != list(fields):
        raise ValueError(f"the table of rates wants the columns {', '.join(fields)}; got {', '.join(header)}")
    if not text.endswith("\n"):
        raise ValueError("the last line is cut")
    return tuple(_choice(line, number, fields) for number, line in enumerate(lines, 2))


def _choice(line: list[str], number: int, fields: dict[str, Any]) -> Choice:
    if len(line) != len(fields):
        raise ValueError(f"line {number} has {len(line)} columns, wanted {len(fields)}")
    try:
        values: dict[str, Any] = {
            name: {"True": True, "False": False}[cell] if type_ is bool else type_(cell)
            for (name, type_), cell in zip(fields.items(), line, strict=True)
        }
    except (ValueError, KeyError) as error:
        raise ValueError(f"line {number}: {error.args[0]}") from error
    choice = Choice(**values)
    if not (
        0 < choice.learning_rate < math.inf and math.isfinite(choice.score) and min(choice.length, choice.steps) > 0
    ):
        raise ValueError(f"line {number} wants a finite rate and score, and a length and steps above 0")
    return choice


def text(choices: Iterable[Choice]) -> str:
    names = [field.name for field in dataclasses.fields(Choice)]
    return spreadsheets.text(names, ([getattr(choice, name) for name in names] for choice in choices))


def to_tune(trainings: Iterable[Job]) -> list[Job]:
    """As few of the trainings as cover all of them, the largest first."""
    chosen: list[Job] = []
    for job in sorted(trainings, key=lambda job: (-job.width, -job.steps * job.batch * job.length, job.id)):
        if not any(_covers(other, job) for other in chosen):
            chosen.append(job)
    return chosen


def untuned(trainings: Iterable[Job], rates: str, rows: list[Row]) -> list[Job]:
    """The trainings, one for several alike, whose learning rate is to be chosen first, by one of RATES."""
    if rates == "table":
        return []
    known = (*tried(rows), *(() if rates == "anew" else table()))
    return to_tune(job for job in trainings if not covers_any(known, job))


def covers_any(lines: Iterable[Choice | Job], job: Job) -> bool:
    """Whether a rate was chosen, or could not be chosen, for this very training."""
    return any(_covers(line, job) for line in lines)


def cells(jobs: Iterable[Job], rows: list[Row]) -> list[Cell]:
    """A training for each rate of the grid and each seed; beyond its edges as long as the best rate lies there."""
    curves = {curve.job: curve for curve in gather(rows)}
    trainings = []
    for job in jobs:
        job = alike.without_trial(job)
        rates = list(GRID)
        if job in curves:
            rates += curves[job].beyond()
        trainings += [job.replace(seed=seed, learning_rate=rate) for rate in rates for seed in SEEDS]
    return [Cell(training, "learning") for training in trainings]


def choose(jobs: Iterable[Job], rates: str, rows: list[Row]) -> tuple[list[Cell], list[Job]]:
    """The cells that choose learning rates by one of RATES, until they are known; then the jobs, each with its rate."""
    jobs = list(jobs)
    if first := untuned(jobs, rates, rows):
        return cells(first, rows), []
    chosen = choices(rows)
    return [], [job.replace(learning_rate=look_up(job, chosen)) for job in jobs]


@dataclasses.dataclass(frozen=True)
class Curve:
    """The validation results of the learning rates of one job, which is written with rate 0 and seed 0."""

    job: Job
    rows: tuple[Row, ...]  # the last validation of each training
    failed: tuple[Row, ...]

    @property
    def scored_by(self) -> str:
        """Text is scored by its loss; a task by the accuracy at its final position, then by its loss."""
        return "loss" if parts.split(self.job.task)[0] == "text" else "final_accuracy"

    @property
    def scores(self) -> dict[float, tuple[float, float]]:
        """Of each rate the medians over seeds of final accuracy (0 for text) and of minus the loss: more is better."""
        at: dict[float, list[Row]] = defaultdict(list)
        for row in self.rows:
            at[row["learning_rate"]].append(row)
        failed = {row["learning_rate"] for row in self.failed}
        by_accuracy = self.scored_by == "final_accuracy"
        return {
            learning_rate: (
                round(statistics.median(row["final_accuracy"] for row in rows), 2) if by_accuracy else 0.0,
                -statistics.median(row["loss"] for row in rows),
            )
            for learning_rate, rows in sorted(at.items())
            if learning_rate not in failed
        }

    @property
    def best(self) -> float:
        return max(self.scores, key=lambda learning_rate: self.scores[learning_rate])

    @property
    def window(self) -> float:
        """Octaves from the least to the largest rate beside the best that comes near it, without a gap between them."""
        rates, near = list(self.scores), NEAR[self.scored_by]
        accuracy, minus_loss = self.scores[self.best]

        def is_near(rate: float) -> bool:
            score = self.scores[rate]
            return score[0] >= accuracy - near if self.scored_by == "final_accuracy" else score[1] >= minus_loss - near

        first = last = rates.index(self.best)
        while first > 0 and is_near(rates[first - 1]):
            first -= 1
        while last + 1 < len(rates) and is_near(rates[last + 1]):
            last += 1
        return math.log2(rates[last] / rates[first])

    @property
    def is_complete(self) -> bool:
        """Whether every rate of the grid, with what lies beyond its edges, was tried with every seed."""
        wanted = {(rate, seed) for rate in (*GRID, *self.beyond()) for seed in SEEDS}
        return wanted <= {(row["learning_rate"], row["seed"]) for row in (*self.rows, *self.failed)}

    def beyond(self) -> list[float]:
        """Rates already tried outside the grid, and the next one where the best lies at an edge."""
        tried = sorted({row["learning_rate"] for row in (*self.rows, *self.failed)})
        outside = [learning_rate for learning_rate in tried if learning_rate not in GRID]
        if not self.scores:
            return outside
        if self.best == max(tried) and max(tried) < LIMITS[1]:
            outside.append(_next(max(tried), 1))
        if self.best == min(tried) and min(tried) > LIMITS[0]:
            outside.append(_next(min(tried), -1))
        return outside

    def choice(self) -> Choice:
        """The line of the table that follows from this curve."""
        job, scores = self.job, self.scores
        row = self.rows[0]
        accuracy, minus_loss = scores[self.best]
        return Choice(
            arm=job.arm,
            task=parts.short("suite.tasks", job.task),
            **{name: getattr(job, name) for name in (*SURROUNDINGS, *SIZES)},
            learning_rate=self.best,
            score=round(accuracy if self.scored_by == "final_accuracy" else -minus_loss, 4),
            scored_by=self.scored_by,
            tried=" ".join(
                f"{learning_rate:g}"
                for learning_rate in sorted({*scores, *(row["learning_rate"] for row in self.failed)})
            ),
            seeds=len({row["seed"] for row in self.rows}),
            edge=self.best in (min(scores), max(scores)) and not self.failed,
            window=round(self.window, 2),
            **{name: row[name] for name in ("commit", "jax", "device_kind")},
            budget_seconds=job.budget_seconds,
            lengths=job.lengths,
        )


def gather(rows: Iterable[Row]) -> list[Curve]:
    """The curves of the trainings that were made to choose rates: those of the seeds that are kept for it."""
    ends: dict[Job, dict[str, Row]] = defaultdict(dict)
    failed: dict[Job, list[Row]] = defaultdict(list)
    jobs: dict[str, Job] = {}
    for row in rows:
        if row["measure"] != "learning" or row["seed"] not in SEEDS:
            continue
        if row["run_id"] not in jobs:
            jobs[row["run_id"]] = alike.without_trial(store.job_of(row))
        job = jobs[row["run_id"]]
        if row["outcome"] != "ok":
            failed[job].append(row)
        elif row["phase"] == "validation" and row["step"] == {"settled_steps": job.steps, **row}["settled_steps"]:
            ends[job][row["run_id"]] = row
    return [Curve(job, tuple(ends[job].values()), tuple(failed[job])) for job in dict.fromkeys((*ends, *failed))]


def tried(rows: Iterable[Row]) -> list[Job]:
    """The jobs of which every rate was tried, though none may have come to a result."""
    return [curve.job for curve in gather(rows) if curve.is_complete]


def choices(rows: Iterable[Row]) -> tuple[Choice, ...]:
    """The rates that these rows have chosen: those of the curves that are complete."""
    return tuple(curve.choice() for curve in gather(rows) if curve.is_complete and curve.scores)


def _next(learning_rate: float, direction: int) -> float:
    """The next of 1, 3, 10, 30, ..."""
    decade = math.floor(math.log10(learning_rate) + 1e-9)
    is_one = learning_rate / 10**decade < 2
    if direction > 0:
        return float(f"3e{decade}" if is_one else f"1e{decade + 1}")
    return float(f"3e{decade - 1}" if is_one else f"1e{decade}")
