"""Loss by position: how many tokens each arm reads with any gain, within the trained window and beyond. Not judged."""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from suite import parts
from suite.claims import ATTENTION, LSTM, Figure, Point
from suite.job import Job
from suite.judging.positions import TOLERANCE, Curve
from suite.judging.statistics import Interval
from suite.report import figures, words
from suite.report.page import Block, Commands, Heading, Note, Prose, Table
from suite.report.records import Comparison
from suite.report.remedies import SIDES, ahead, chosen, verdict
from suite.report.tested import Tested, tested
from suite.sweep import remedies
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
OF_REMEDIES = (
    "Interpolation and NTK change rope in the whole window, its first tokens too; ALiBi, no positions and state "
    "passing, which adds steps, are trainings of their own. With a remedy too the change is from the loss without one, "
    "of the same arm at the trained length."
)


@dataclasses.dataclass(frozen=True)
class Line:
    """Loss by position of an arm, with one of its remedies or without: of each seed (groups of windows, bins)."""

    job: Job  # of one of its trainings
    arm: str  # without the remedy
    remedy: str  # empty for none
    highs: tuple[int, ...]  # the ends of the bins
    trained: int  # the bin that ends with the trained length
    members: dict[int, np.ndarray]
    without: dict[int, np.ndarray]  # the members of the arm without a remedy

    @property
    def name(self) -> str:
        return f"{self.arm}, {self.remedy}" if self.remedy else self.arm

    @property
    def in_words(self) -> str:
        return f"{words.arm(self.arm)} with {self.remedy}" if self.remedy else words.arm(self.arm)

    @property
    def side(self) -> str:
        """attention, recurrence, or empty for a hybrid."""
        return remedies.side(self.job)

    @property
    def seeds(self) -> int:
        return len(self.members)

    @functools.cached_property
    def curve(self) -> Curve:
        return Curve(self.highs, tuple(self.members.values()))

    @property
    def reach(self) -> str:
        return _told(self.curve.reach(), self.seeds)

    @property
    def at_trained(self) -> str:
        return _told(self.curve.loss(self.trained), self.seeds)

    @functools.cached_property
    def beyond(self) -> str:
        """How far the loss of the last bin lies above that at the trained length without a remedy.

        Empty where no bin lies beyond, or no seed was read both ways.
        """
        both = [
            np.concatenate([self.without[seed][:, [self.trained]], member_GK], axis=1)
            for seed, member_GK in self.members.items()
            if seed in self.without and len(self.without[seed]) == len(member_GK)
        ]
        if self.trained == len(self.highs) - 1 or not both:
            return ""
        joined = Curve((self.highs[self.trained], *self.highs), tuple(both))
        return _told(joined.rise(0, len(self.highs)), len(both), signed=True)

    @property
    def last(self) -> dict[int, float]:
        """Of each seed the loss of the last bin."""
        return {seed: float(member_GK[:, -1].mean()) for seed, member_GK in self.members.items()}


def positions(comparison: Comparison) -> Iterator[Block]:
    """The section: of each training conditions a few sentences, a figure and a table."""
    measured = [(job, groups, lines) for job, groups in _groups(comparison) if (lines := lines_of(comparison, groups))]
    if not measured:
        return
    yield Heading("Loss by position (not judged)", name="loss by position")
    yield Prose(ABOUT)
    for number, (job, groups, lines) in enumerate(measured, 1):
        conditions = dataclasses.replace(groups[0], job=job).conditions
        yield Prose(f"{conditions[:1].upper()}{conditions[1:]}: {' '.join(_sentences(lines))}")
        yield from _chart(comparison, lines, f"loss_by_position_{number}")
        yield _table(lines)
        yield Note(f"{NOTE} {OF_REMEDIES}" if any(line.remedy for line in lines) else NOTE)
        rows = [row for group in groups for row in group.every_row]
        yield Commands(tuple(comparison.commands(rows)), "each arm by itself")


def lines_of(comparison: Comparison, groups: Sequence[Tested]) -> list[Line]:
    """A line for each arm and remedy with seeds of which every group of windows was read at the same bins."""
    every = [row for group in groups for row in group.every_row]
    highs = tuple(sorted({row["high"] for row in every}))
    length = groups[0].job.length
    asked = comparison.reading["arms"] if comparison.reading else sorted({row["arm"] for row in every})
    jobs: dict[tuple[str, str], Job] = {}
    members: dict[tuple[str, str], dict[int, np.ndarray]] = defaultdict(dict)
    trained = ((arm, *of_seed) for group in groups for arm in group.arms for of_seed in group.rows[arm].items())
    for arm, seed, rows in trained:
        job, member_GK = comparison.jobs[rows[0]["run_id"]], _losses(rows, highs)
        if len(member_GK) and length in highs:
            kind = remedies.of_reading(job, arm, _knob(rows[0]), asked)
            jobs[kind] = job
            members[kind][seed] = member_GK
    order = {arm: (arm != ATTENTION, arm != LSTM, comparison.order(arm)) for arm, _ in members}
    return [
        Line(jobs[arm, remedy], arm, remedy, highs, highs.index(length), members[arm, remedy], members[arm, ""])
        for arm, remedy in sorted(members, key=lambda kind: (order[kind[0]], kind[1]))
    ]


def _groups(comparison: Comparison) -> list[tuple[Job, list[Tested]]]:
    """The trainings by their conditions, those that differ in remedies alone as one."""
    merged: dict[tuple[Job, str, str], list[Tested]] = defaultdict(list)
    for group in tested(comparison, "loss_by_position"):
        row = {"corpus_sha256": "", **group.every_row[0]}
        measure = parts.with_knobs("suite.measures", row["measure"], {"remedy": ""})
        merged[group.job.replace(state_passing=0.0), measure, row["corpus_sha256"]].append(group)
    return [(job, groups) for (job, *_), groups in merged.items()]


def _knob(row: Row) -> str:
    """The knob of the mixer that a reading has set; rows from before there were any do not say it themselves."""
    return str(parts.knobs("suite.measures", row["measure"])["remedy"])


def _losses(rows: list[Row], highs: tuple[int, ...]) -> np.ndarray:
    """The loss of each group of windows with a target in every bin, (groups, bins)."""
    groups: dict[int, dict[int, float]] = {}
    for row in rows:
        groups.setdefault(row["turn"], {})[row["high"]] = row["loss"]
    return np.asarray([[group[high] for high in highs] for group in groups.values() if group.keys() == {*highs}])


def _told(interval: Interval, seeds: int, *, signed: bool = False) -> str:
    """A number with its interval where there are seeds to draw again."""
    value, low, high = (f"{'+' if signed and bound > 0 else ''}{words.number(bound)}" for bound in interval)
    return f"{value} (95 % {low} to {high})" if seeds > 1 and interval.low < interval.high else value


def _sentences(lines: list[Line]) -> Iterator[str]:
    plain = [line for line in lines if not line.remedy] or lines
    reach = words.listed([f"{line.in_words} after {line.reach}" for line in plain])
    yield f"less than {TOLERANCE:g} nats a token are gained by {reach} tokens."
    beyond = [f"{line.beyond} nats of {line.in_words}" for line in plain if line.beyond]
    if not beyond:
        return
    trained, last = (f"{lines[0].highs[index]:,}" for index in (lines[0].trained, -1))
    tried = any(line.remedy for line in lines)
    untried = "" if tried else " and none was tried (launch.contexts --remedies),"
    yield (
        f"Without a remedy,{untried} the mean loss changes from the bin that ends at {trained} tokens to the one that "
        f"ends at {last} by {words.listed(beyond)}."
    )
    if tried:
        yield from _with_remedies(lines, last)


def _with_remedies(lines: list[Line], last: str) -> Iterator[str]:
    """The best remedy of each side, and whether the order of the sides in the last bin survives them."""
    sides = {side: [line for line in lines if line.side == side] for side in SIDES}
    clauses = []
    for side, of_side in sides.items():
        if not any(line.remedy for line in of_side):
            continue
        best = _best(of_side)
        if best.remedy:
            clauses.append(f"with the best remedy of {SIDES[side]}, {best.in_words}, it changes by {best.beyond} nats")
        else:
            clauses.append(f"no remedy of {SIDES[side]} leaves less loss there than {best.in_words} has without")
    if clauses:
        text = "; ".join(clauses)
        yield f"{text[:1].upper()}{text[1:]}."
    scores = {side: [_scores(line) for line in of_side] for side, of_side in sides.items() if of_side}
    plain = {side: [_scores(line) for line in of_side if not line.remedy] for side, of_side in sides.items()}
    if len(scores) == len(SIDES) and all(plain.values()):
        without, best = ([chosen(of[side]) for side in SIDES] for of in (plain, scores))
        if all(without) and all(best):
            n_seeds = len(best[0].keys() & best[1].keys())
            how = "with arm and remedy of each seed chosen by the other seeds" if n_seeds > 1 else "of the one seed"
            yield f"Ahead is the side with less loss in the bin that ends at {last} tokens, {how}."
            yield verdict(ahead(*without), ahead(*best), n_seeds)
    if any(line.remedy and not line.side for line in lines):
        yield "Hybrids, which are of neither side, stand in the table alone."


def _scores(line: Line) -> dict[int, float]:
    """Of each seed what is greater the less loss there is in the last bin."""
    return {seed: -loss for seed, loss in line.last.items()}


def _best(lines: Sequence[Line]) -> Line:
    """That with the least loss in the last bin, over the seeds that all have; the first where there is none."""
    losses = [line.last for line in lines]
    seeds = set.intersection(*(set(of_line) for of_line in losses))
    return min(zip(lines, losses, strict=True), key=lambda pair: sum(pair[1][seed] for seed in seeds))[0]


def _drawn(lines: list[Line]) -> list[Line]:
    """Those that a figure has room for: without remedies, and of each arm the best remedy where it leaves less loss."""
    best = [_best([line for line in lines if line.arm == arm]) for arm in dict.fromkeys(line.arm for line in lines)]
    return [line for line in lines if not line.remedy or line in best]


def _chart(comparison: Comparison, lines: list[Line], name: str) -> Iterator[Block]:
    points, marks = [], []
    drawn = _drawn(lines)
    for line in drawn:
        for index, high in enumerate(line.curve.highs):
            loss = line.curve.loss(index)
            points.append(Point(line.name, high, *(loss if line.seeds > 1 else loss[:1])))
        reach = line.curve.reach().value
        marks.append(Point(line.name, reach, float(line.curve.loss_K[line.curve.highs.index(int(reach))])))
    figure = Figure(
        name=name,
        title="Loss of the test by the number of tokens before the target",
        x="tokens, to the end of a bin",
        y="nats a token",
        points=tuple(points),
        log_y=False,
    )
    trained = lines[0].highs[lines[0].trained]
    notes = [
        f"Trained on windows of {trained:,} tokens. Large dots: after so many tokens less than {TOLERANCE:g} nats are "
        "gained."
    ]
    if len(drawn) < len(lines):
        notes.append("Of the remedies the best of each arm is drawn, where it leaves less loss in the last bin.")
    styles = figures.styles_of(figure, comparison.arms)
    yield from figures.chart(figure, styles, "95 % intervals over seeds, then windows", marks, notes)


def _table(lines: list[Line]) -> Table:
    trained, last = lines[0].highs[lines[0].trained], lines[0].highs[-1]
    columns = {
        "arm": [line.arm for line in lines],
        "remedy": [line.remedy or "none" for line in lines] if any(line.remedy for line in lines) else [],
        "seeds": [str(line.seeds) for line in lines],
        f"tokens after which less than {TOLERANCE:g} nats are gained": [line.reach for line in lines],
        f"nats a token, to {trained:,} tokens": [line.at_trained for line in lines],
        f"change to {last:,} tokens": [line.beyond for line in lines] if any(line.beyond for line in lines) else [],
    }
    columns = {name: cells for name, cells in columns.items() if cells}
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)))
