"""How the learning rates were chosen: of each task the validation scores over rates, arm by arm, and the table."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from suite import parts
from suite.claims import Figure, Point
from suite.job import slug
from suite.learning_rates import Curve
from suite.report import charts, words
from suite.report.blocks import chart
from suite.report.document import Block, Commands, Document, Heading, Prose, Table

TITLE = "Learning rates, chosen on validation"


def document(curves: Sequence[Curve], command: str) -> Document:
    """A section a task and length, and at the end the command that makes it all again."""
    groups: dict[tuple, list[Curve]] = defaultdict(list)
    for curve in curves:
        job = curve.job
        groups[parts.short("suite.tasks", job.task), job.length, job.short_conv, job.block].append(curve)
    arms = sorted({curve.job.arm for curve in curves})
    blocks = [block for _, own in sorted(groups.items()) for block in _group(own, arms)]
    trainings = sum(len(curve.rows) + len(curve.failed) for curve in curves)
    said = f"{words.counted(trainings, 'training')} chose {words.counted(len(curves), 'learning_rate')}"
    return Document(TITLE, f"{said}, each on seeds that no comparison uses.", (*blocks, Commands((command,))))


def _group(curves: Sequence[Curve], arms: Sequence[str]) -> Iterator[Block]:
    job, by = curves[0].job, curves[0].scored_by
    task = parts.short("suite.tasks", job.task)
    short_conv = f", conv {job.short_conv}" if job.short_conv else ""
    yield Heading(f"{task}, {job.length:,} tokens{short_conv}")
    row = curves[0].rows[0]
    yield Prose(
        f"Width {job.width}, depth {job.depth}, {job.steps:,} steps of {job.batch}, {job.block} block; scored by "
        f"{'validation loss' if by == 'loss' else 'accuracy at the final position, then by loss'}, median over seeds. "
        f"{row['device_kind']}, jax {row['jax']}, commit {row['commit']}."
    )
    figure = _figure(curves, f"rates_{slug(f'{task}-t{job.length}-conv{job.short_conv}-{job.block}')}")
    yield from chart(figure, charts.looks_of(figure, arms), "from the least to the greatest seed")
    columns = ("arm", "learning_rate", "score there", "median score at each rate", "edge")
    lines = []
    for curve in curves:
        choice = curve.choice()
        each = ", ".join(f"{learning_rate:g}: {_score(curve, learning_rate):.3g}" for learning_rate in curve.scores)
        failed = "".join(f", {row['learning_rate']:g}: {words.outcome(row['outcome'])}" for row in curve.failed)
        lines.append(
            (
                choice.arm,
                f"{choice.learning_rate:g}",
                f"{choice.score:.3g}",
                each + failed,
                "yes" if choice.edge else "",
            )
        )
    yield Table(columns, tuple(lines))


def _score(curve: Curve, learning_rate: float) -> float:
    accuracy, minus_loss = curve.scores[learning_rate]
    return -minus_loss if curve.scored_by == "loss" else accuracy


def _figure(curves: Sequence[Curve], name: str) -> Figure:
    field = curves[0].scored_by
    points = []
    for curve in curves:
        for learning_rate in curve.scores:
            found = [row[field] for row in curve.rows if row["learning_rate"] == learning_rate]
            points.append(Point(curve.job.arm, learning_rate, _score(curve, learning_rate), min(found), max(found)))
    return Figure(
        name=name,
        title="Validation over learning rates",
        x="learning rate",
        y="loss (nats a token)" if field == "loss" else "accuracy at the final position",
        points=tuple(points),
        failed=tuple((curve.job.arm, row["learning_rate"]) for curve in curves for row in curve.failed),
        log_y=False,
    )
