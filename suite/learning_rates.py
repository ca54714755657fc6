"""Learning rates: the table that ships with the project, how it is looked up, and the grid that makes it anew.

The table is learning_rates.csv beside this file, written by `launch.compare --choose_learning_rates`; a line says what
was tried, on how many seeds, at which size, and with which commit and version.
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


@dataclasses.dataclass(frozen=True)
class Choice:
    """A line of the table: the learning rate of an arm on a task at a length, and how it was chosen."""

    arm: str
    task: str  # short spec
    block: str
    short_conv: int
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
    commit: str
    jax: str
    device_kind: str

    @property
    def provenance(self) -> str:
        """In a few words, for a table of a report."""
        tried = len(self.tried.split())
        where = f"{tried} rates x {self.seeds} seeds on validation, T={self.length:,}, {self.steps:,} steps"
        return f"{where}, commit {self.commit}{', at the edge of the grid' if self.edge else ''}"


def look_up(job: Job) -> float:
    """The table's rate for a job's arm and task; OTHERWISE where it has none."""
    line = find(job.arm, parts.short("suite.tasks", job.task), job.length, job.steps, job.short_conv, job.block)
    return OTHERWISE if line is None else line.learning_rate


def provenance(arm: str, task: str, length: int, steps: int, short_conv: int, block: str, learning_rate: float) -> str:
    """Where a job's learning rate comes from."""
    line = find(arm, parts.short("suite.tasks", task), length, steps, short_conv, block)
    if line is None:
        return "default: not in the table" if learning_rate == OTHERWISE else "given"
    if math.isclose(learning_rate, line.learning_rate):
        return f"table: {line.provenance}"
    return (
        "probe"
        if any(math.isclose(learning_rate, line.learning_rate * factor, rel_tol=0.02) for factor in (1 / 3, 3))
        else "given"
    )


def find(arm: str, task: str, length: int, steps: int, short_conv: int, block: str) -> Choice | None:
    """The table's line for an arm on a task: conv and block as near as there are, then length and steps together.

    Steps count because the best rate of twenty steps is too high for three hundred.
    """
    lines = [line for line in table() if line.arm == arm and parts.split(line.task)[0] == parts.split(task)[0]]

    def distance(line: Choice) -> tuple[bool, bool, float, bool]:
        apart = abs(math.log(line.length / length)) + abs(math.log(line.steps / steps))
        return line.block != block, line.short_conv != short_conv, apart, line.task != task

    return min(lines, key=distance, default=None)


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
    """Of the trainings of a comparison one for each arm, task, length, block and conv: the widest, of most tokens."""
    groups: dict[tuple, list[Job]] = defaultdict(list)
    for job in trainings:
        groups[job.mixer, *alike.of_job(job, alike.SETTING)].append(job)
    return [max(group, key=lambda job: (job.width, job.steps * job.batch)) for group in groups.values()]


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
            **{name: getattr(job, name) for name in ("block", "short_conv", "length", "width", "batch", "steps")},
            learning_rate=self.best,
            score=round(accuracy if self.scored_by == "final_accuracy" else -minus_loss, 4),
            scored_by=self.scored_by,
            tried=" ".join(
                f"{learning_rate:g}"
                for learning_rate in sorted({*scores, *(row["learning_rate"] for row in self.failed)})
            ),
            seeds=len({row["seed"] for row in self.rows}),
            edge=self.best in (min(scores), max(scores)) and not self.failed,
            **{name: row[name] for name in ("commit", "jax", "device_kind")},
        )


def gather(rows: Iterable[Row]) -> list[Curve]:
    """The curves of the trainings that were made to choose rates: those of the seeds that are kept for it."""
    ends: dict[Job, dict[str, Row]] = defaultdict(dict)
    failed: dict[Job, list[Row]] = defaultdict(list)
    for row in rows:
        if row["measure"] != "learning" or row["seed"] not in SEEDS:
            continue
        job = alike.without_trial(store.job_of(row))
        if row["outcome"] != "ok":
            failed[job].append(row)
        elif row["phase"] == "validation" and row["step"] == job.steps:
            ends[job][row["run_id"]] = row
    return [Curve(job, tuple(ends[job].values()), tuple(failed[job])) for job in ends]


def _next(learning_rate: float, direction: int) -> float:
    """The next of 1, 3, 10, 30, ..."""
    decade = math.floor(math.log10(learning_rate) + 1e-9)
    is_one = learning_rate / 10**decade < 2
    if direction > 0:
        return float(f"3e{decade}" if is_one else f"1e{decade + 1}")
    return float(f"3e{decade - 1}" if is_one else f"1e{decade}")
