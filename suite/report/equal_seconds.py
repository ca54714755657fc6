"""Quality at equal seconds: each arm's loss after the same seconds of training, against the length of its examples.

Beside it the effective speedups. Nothing of it is judged.
"""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from suite import learning_rates
from suite.claims import Figure, Point
from suite.job import Job
from suite.judging import speedup
from suite.judging.speedup import Curve
from suite.judging.statistics import Interval, t_interval
from suite.report import figures, words
from suite.report.page import Block, Cells, Commands, Heading, Note, Prose, Table
from suite.report.records import Comparison
from suite.report.trainings import Trainings
from suite.sweep.record import Row

OFF = 0.05  # of the budget: a training that ends further from it is named
ENDS = ("tokens an example", "arm", "test loss", "seeds", "seconds", "steps", "tokens trained on")
ENDED = ("seconds", "step", "tokens")  # in a row of the test
SPEEDUPS = ("tokens an example", "arms", "effective speedup of the first over the second", "last loss of the one ahead")


class Ends(NamedTuple):
    """The tests of an arm at a length, one a seed, and those of its trainings that came to none."""

    group: Trainings
    arm: str
    tests: list[Row]
    failed: list[Row]

    @property
    def losses(self) -> list[float]:
        return [self.group.loss(row) for row in self.tests]

    @property
    def interval(self) -> Interval | None:
        return t_interval(self.losses) if len(self.losses) > 1 else None

    @property
    def point(self) -> Point:
        bounds = self.interval[1:] if self.interval else ()
        return Point(self.arm, self.group.job.length, statistics.fmean(self.losses), *bounds)


def equal_seconds(comparison: Comparison, groups: Sequence[Trainings]) -> Iterator[Block]:
    """A section for each budget in seconds, whatever its lengths: its figure, how each arm ended, and its speedups."""
    sections: dict[Job, list[Trainings]] = defaultdict(list)
    for group in groups:
        if group.job.budget_seconds:
            sections[group.job.replace(length=1)].append(group)
    for number, section in enumerate(sections.values(), 1):
        yield from _section(comparison, sorted(section, key=lambda group: group.job.length), number)


def _section(comparison: Comparison, groups: list[Trainings], number: int) -> Iterator[Block]:
    first, ends = groups[0], [end for group in groups for end in _ends(comparison, group)]
    budget = words.seconds(first.job.budget_seconds)
    yield Heading(f"{first.task} after {budget} of training (not judged)", name=f"equal seconds {number}")
    yield Prose(" ".join(_sentences(comparison, groups)))
    figure = Figure(
        name=f"equal_seconds_{number}",
        title=f"Test loss on {first.task} after {budget} of training, against the length of examples",
        x="length (tokens)",
        y=first.unit,
        points=tuple(end.point for end in ends if end.tests),
        failed=tuple((end.arm, end.group.job.length) for end in ends if not end.tests),
        log_y=False,
    )
    yield from figures.chart(figure, figures.styles_of(figure, comparison.arms), "95 % t intervals over seeds")
    yield Table(ENDS, tuple(_end(end) for end in ends))
    for end in ends:
        yield from (Prose(f"{end.arm}, seed {row['seed']}: {words.outcome(row['outcome'])}.") for row in end.failed)
        yield from _off(end)
    speedups = [line for group in groups for line in _speedups(comparison, group)]
    if speedups:
        yield Table(SPEEDUPS, tuple(speedups))
        yield Note(
            "Effective speedup: the seconds that the second arm needs, over those of the first, until both have the "
            "same validation loss, the larger of the two at their ends; each read on its own curve, with a 95 % t "
            "interval over seeds. The arm ahead is read in the middle of its schedule: its lead is, if anything, "
            "larger."
        )
    for group in groups:
        name = f"equal_seconds_{number}_{group.job.length}"
        if group.validations > 1:
            title = f"Validation loss on {first.task} against seconds of training, at {group.job.length:,} tokens"
            curve = dataclasses.replace(group.figure(name, "seconds"), title=title)
            styles = figures.styles_of(curve, comparison.arms)
            yield from figures.chart(curve, styles, "from the least to the greatest seed")
    yield Commands(tuple(comparison.commands([row for end in ends for row in (*end.tests, *end.failed)])))


def _sentences(comparison: Comparison, groups: list[Trainings]) -> Iterator[str]:
    job = groups[0].job
    yield (
        f"Every training ends after {job.budget_seconds:g} seconds, without compilation, evaluation and checkpoints, "
        f"on {comparison.where}; {job.batch} examples a step, {job.optimizer}, {job.dtype}, the same data for all arms."
    )
    yield "The learning rate falls over the steps that the seconds buy, so that each arm is at the end of its schedule."
    choices = learning_rates.choices(comparison.rows)
    jobs = {comparison.jobs[row["run_id"]] for group in groups for row in group.rows}
    untuned = sorted({job.arm for job in jobs if not learning_rates.is_tuned(job, choices)})
    if untuned:
        yield (
            f"The rates of {words.listed(untuned)} were not chosen for trainings of so many seconds at these lengths: "
            "they are the nearest of the table, or were given."
        )
    else:
        yield "Each arm has its own learning rate at each length, chosen on validation by trainings of as many seconds."


def _ends(comparison: Comparison, group: Trainings) -> Iterator[Ends]:
    for arm in sorted(group.arms, key=comparison.order):
        rows = [row for row in _compared(group) if row["arm"] == arm]
        tests = sorted((row for row in rows if row["phase"] == "test"), key=lambda row: row["seed"])
        yield Ends(group, arm, tests, [row for row in rows if row["outcome"] != "ok"])


def _compared(group: Trainings) -> list[Row]:
    """The rows of the trainings, without those that have chosen the rates."""
    rows = [row for row in group.rows if row["seed"] not in learning_rates.SEEDS]
    return [row for row in rows if row["outcome"] != "ok" or row["phase"] in ("validation", "test")]


def _end(end: Ends) -> Cells:
    loss = words.number(statistics.fmean(end.losses)) if end.tests else "none"
    if end.interval:
        loss += f" ({words.number(end.interval.low)} to {words.number(end.interval.high)})"
    ended = ["", "", ""]
    if end.tests:
        seconds, steps, tokens = (statistics.fmean(row[name] for row in end.tests) for name in ENDED)
        ended = [words.number(seconds), f"{steps:,.0f}", words.number(float(round(tokens)))]
    return f"{end.group.job.length:,}", end.arm, f"{loss} {end.group.unit}", str(len(end.tests)), *ended


def _off(end: Ends) -> Iterator[Block]:
    """Trainings that have not spent their budget, or have spent more."""
    budget = end.group.job.budget_seconds
    for row in end.tests:
        if abs(row["seconds"] / budget - 1) > OFF:
            why = "the most steps that it may have" if row["step"] == row["steps"] else "the pace changed at its end"
            spent = f"{words.seconds(row['seconds'])} of {words.seconds(budget)}"
            at = f"{end.arm} at {end.group.job.length:,} tokens, seed {row['seed']}"
            yield Prose(f"{at}: ended after {spent}, {row['step']:,} steps ({why}).")


def _speedups(comparison: Comparison, group: Trainings) -> Iterator[Cells]:
    """A line for the first arm over each other one."""
    arms = sorted(group.arms, key=comparison.order)
    by_arm = {arm: speedup.curves(row for row in _compared(group) if row["arm"] == arm) for arm in arms}
    for arm in arms[1:]:
        first, second = by_arm[arms[0]], by_arm[arm]
        if at := speedup.speedup(first, second):
            times = f"{words.number(at.value)} (95 % {words.number(at.low)} to {words.number(at.high)})"
            yield f"{group.job.length:,}", f"{arms[0]} / {arm}", times, _reached(arms[0], arm, first, second, at)


def _reached(first: str, second: str, curves: dict[int, Curve], others: dict[int, Curve], at: Interval) -> str:
    """Whether the arm behind came to the last loss of the one ahead within its budget."""
    ahead, behind = (first, second) if at.value >= 1 else (second, first)
    reached, seeds = speedup.caught_up(*((curves, others) if ahead == first else (others, curves)))
    if reached:
        return f"reached by {behind} in {reached} of {seeds} seeds"
    return f"{ahead}'s: not reached by {behind} within its budget, so that how long it takes is not known"
