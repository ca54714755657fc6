"""Loss by position: how many tokens each arm reads with any gain, within the trained window and beyond. Not judged."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from suite.claims import Figure, Point
from suite.judging.positions import TOLERANCE, Curve
from suite.judging.statistics import Interval
from suite.report import figures, words
from suite.report.page import Block, Cells, Commands, Heading, Note, Prose, Table
from suite.report.records import Comparison
from suite.report.tested import Tested, tested
from suite.sweep.record import Row

ABOUT = (
    "The loss of the test by the number of tokens before the target, in windows longer than the trained one where the "
    "figure goes on (Kaplan et al. 2020, figure 7). Later positions have other targets than earlier ones, so small "
    "differences along a line are chance; context length above is told on the same targets."
)
NOTE = (
    "Tokens are counted to the end of the first bin after which no other bin's loss is lower by that much. Intervals, "
    "95 %, are of a bootstrap over seeds, then groups of windows; one seed has none."
)


@dataclasses.dataclass(frozen=True)
class Line:
    """An arm's loss by position, with the bin that ends with the trained length."""

    arm: str
    seeds: int
    curve: Curve
    trained: int

    def told(self, interval: Interval, *, signed: bool = False) -> str:
        """A number with its interval where there are seeds to draw again."""
        value, low, high = (f"{'+' if signed and bound > 0 else ''}{words.number(bound)}" for bound in interval)
        return f"{value} (95 % {low} to {high})" if self.seeds > 1 and interval.low < interval.high else value

    @property
    def reach(self) -> str:
        return self.told(self.curve.reach())

    @property
    def at_trained(self) -> str:
        return self.told(self.curve.loss(self.trained))

    @property
    def beyond(self) -> str:
        """How far the loss of the last bin lies above that at the trained length; empty without such a bin."""
        last = len(self.curve.highs) - 1
        return self.told(self.curve.rise(self.trained, last), signed=True) if last > self.trained else ""


def positions(comparison: Comparison) -> Iterator[Block]:
    """The section: of each training conditions a sentence, a figure and a table."""
    measured = [(group, lines) for group in tested(comparison, "loss_by_position") if (lines := lines_of(group))]
    if not measured:
        return
    yield Heading("Loss by position (not judged)", name="loss by position")
    yield Prose(ABOUT)
    for number, (group, lines) in enumerate(measured, 1):
        yield Prose(f"{group.conditions[:1].upper()}{group.conditions[1:]}: {_sentence(group, lines)}.")
        yield from _chart(comparison, group, lines, f"loss_by_position_{number}")
        yield _table(group, lines)
        yield Note(NOTE)
        yield Commands(tuple(comparison.commands(group.every_row)), "each arm by itself")


def lines_of(group: Tested) -> list[Line]:
    """A line for each arm with seeds of which every group of windows was read at the same bins."""
    highs = tuple(sorted({row["high"] for row in group.every_row}))
    lines = []
    for arm in group.arms:
        members = [_losses(rows, highs) for rows in group.rows[arm].values()]
        members = tuple(member_GK for member_GK in members if len(member_GK))
        if members and group.job.length in highs:
            lines.append(Line(arm, len(members), Curve(highs, members), highs.index(group.job.length)))
    return lines


def _losses(rows: list[Row], highs: tuple[int, ...]) -> np.ndarray:
    """The loss of each group of windows with a target in every bin, (groups, bins)."""
    groups: dict[int, dict[int, float]] = {}
    for row in rows:
        groups.setdefault(row["turn"], {})[row["high"]] = row["loss"]
    return np.asarray([[group[high] for high in highs] for group in groups.values() if group.keys() == {*highs}])


def _sentence(group: Tested, lines: list[Line]) -> str:
    reach = words.listed([f"{words.arm(line.arm)} after {line.reach}" for line in lines])
    told = f"less than {TOLERANCE:g} nats a token are gained by {reach} tokens"
    beyond = [f"{line.beyond} nats of {words.arm(line.arm)}" for line in lines if line.beyond]
    if not beyond:
        return told
    last = lines[0].curve.highs[-1]
    return f"{told}; from {group.job.length:,} to {last:,} tokens the loss changes by {words.listed(beyond)}"


def _chart(comparison: Comparison, group: Tested, lines: list[Line], name: str) -> Iterator[Block]:
    points, marks = [], []
    for line in lines:
        for index, high in enumerate(line.curve.highs):
            loss = line.curve.loss(index)
            points.append(Point(line.arm, high, *(loss if line.seeds > 1 else loss[:1])))
        reach = line.curve.reach().value
        marks.append(Point(line.arm, reach, float(line.curve.loss_K[line.curve.highs.index(int(reach))])))
    figure = Figure(
        name=name,
        title="Loss of the test by the number of tokens before the target",
        x="tokens, to the end of a bin",
        y="nats a token",
        points=tuple(points),
        log_y=False,
    )
    notes = [
        f"Trained on windows of {group.job.length:,} tokens. Large dots: after so many tokens less than "
        f"{TOLERANCE:g} nats are gained."
    ]
    styles = figures.styles_of(figure, comparison.arms)
    yield from figures.chart(figure, styles, "95 % intervals over seeds, then windows", marks, notes)


def _table(group: Tested, lines: list[Line]) -> Table:
    columns = ["arm", "seeds", f"tokens after which less than {TOLERANCE:g} nats are gained"]
    columns.append(f"nats a token, to {group.job.length:,} tokens")
    has_beyond = any(line.beyond for line in lines)
    if has_beyond:
        columns.append(f"change to {lines[0].curve.highs[-1]:,} tokens")
    return Table(tuple(columns), tuple(_cells(line, has_beyond=has_beyond) for line in lines))


def _cells(line: Line, *, has_beyond: bool) -> Cells:
    return line.arm, str(line.seeds), line.reach, line.at_trained, *([line.beyond] if has_beyond else [])
