"""The page of the learning rates: the validation scores of each task over rates, arm by arm, and the choice."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from suite import parts
from suite.claims import Figure, Point
from suite.job import slug
from suite.judging import alike
from suite.learning_rates import Curve
from suite.report import figures, words
from suite.report.document import Block, Commands, Document, Heading, Prose, Table

TITLE = "Learning rates, chosen on validation"
COLUMNS = ("arm", "learning rate", "its score", "median score at each rate", "at an edge of the grid")


def document(curves: Sequence[Curve], command: str) -> Document:
    """The page: a section for each task and length, and the command that makes it again."""
    groups: dict[tuple, list[Curve]] = defaultdict(list)
    for curve in curves:
        groups[alike.of_job(curve.job, alike.SETTING)].append(curve)
    arms = sorted({curve.job.arm for curve in curves})
    blocks = [block for _, group in sorted(groups.items()) for block in _section(group, arms)]
    trainings = sum(len(curve.rows) + len(curve.failed) for curve in curves)
    chosen = f"{words.counted(trainings, 'training')} chose {words.counted(len(curves), 'learning rate')}"
    return Document(TITLE, f"{chosen}, each on seeds that no comparison uses.", (*blocks, Commands((command,))))


def _section(curves: Sequence[Curve], arms: Sequence[str]) -> Iterator[Block]:
    job, row = curves[0].job, curves[0].rows[0]
    task = parts.short("suite.tasks", job.task)
    score = "validation loss" if _by_loss(curves[0]) else "accuracy at the final position, then by loss"
    yield Heading(f"{task}, {job.length:,} tokens{f', conv {job.short_conv}' if job.short_conv else ''}")
    yield Prose(
        f"Width {job.width}, depth {job.depth}, {job.steps:,} steps of {job.batch}, {job.block} block; scored by "
        f"{score}, median over seeds. {row['device_kind']}, jax {row['jax']}, commit {row['commit']}."
    )
    figure = _figure(curves, f"rates_{slug(f'{task}-t{job.length}-conv{job.short_conv}-{job.block}')}")
    yield from figures.chart(figure, figures.looks_of(figure, arms), "from the least to the greatest seed")
    lines = []
    for curve in curves:
        choice = curve.choice()
        each = [f"{rate:g}: {_score(curve, rate):.3g}" for rate in curve.scores]
        each += [f"{row['learning_rate']:g}: {words.outcome(row['outcome'])}" for row in curve.failed]
        edge = "yes" if choice.edge else ""
        lines.append((choice.arm, f"{choice.learning_rate:g}", f"{choice.score:.3g}", ", ".join(each), edge))
    yield Table(COLUMNS, tuple(lines))


def _by_loss(curve: Curve) -> bool:
    return curve.scored_by == "loss"


def _score(curve: Curve, rate: float) -> float:
    accuracy, minus_loss = curve.scores[rate]
    return -minus_loss if _by_loss(curve) else accuracy


def _figure(curves: Sequence[Curve], name: str) -> Figure:
    points = []
    for curve in curves:
        for rate in curve.scores:
            seeds = [row[curve.scored_by] for row in curve.rows if row["learning_rate"] == rate]
            points.append(Point(curve.job.arm, rate, _score(curve, rate), min(seeds), max(seeds)))
    return Figure(
        name=name,
        title="Validation over learning rates",
        x="learning rate",
        y="loss (nats a token)" if _by_loss(curves[0]) else "accuracy at the final position",
        points=tuple(points),
        failed=tuple((curve.job.arm, row["learning_rate"]) for curve in curves for row in curve.failed),
        log_y=False,
    )
