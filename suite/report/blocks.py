"""What several sections are made of: a figure with what one sees in it, a command, a name as it is read."""

from collections.abc import Iterator, Sequence

from suite.claims import Figure, Point
from suite.report import charts, words
from suite.report.document import Banner, Block, Chart, Commands, Table
from suite.report.frame import Look, unseen
from suite.report.records import Changed, Gathered

SHOWN = 20  # of the things that are left out


def problems(found: Gathered, name: str) -> Iterator[Block]:
    """What is left out of a report, or cannot be relied upon."""
    if found.problems:
        yield Banner(f"Left out of {name} or not to be relied upon: {words.counted(len(found.problems), 'thing')}.")
        rows = [(problem.where, problem.why) for problem in found.problems[:SHOWN]]
        more = len(found.problems) - SHOWN
        yield Table(("what", "why"), (*rows, *([(f"{more:,} more", "report.json lists them")] if more > 0 else [])))


def chart(
    figure: Figure,
    looks: dict[str, Look],
    bands: str = "95 % intervals",
    marks: Sequence[Point] = (),
    notes: Sequence[str] = (),
    ratios: bool = False,
) -> Iterator[Block]:
    """The figure, if anything is in it, with its last values in words and how to read it."""
    if not figure.points and not figure.failed:
        return
    hidden = unseen(figure)
    ends = {point.series: point for point in figure.points}
    said = [f"{point.series}: {words.number(point.y)} at {words.number(point.x)}" for point in ends.values()]
    read = []
    if figure.dots:
        read.append("Every dot is one run; side by side they stand at the same value of the axis.")
    if any(point.low is not None for point in figure.points):
        read.append(f"{'Bars' if figure.dots else 'Bands'}: {bands}.")
    read += notes
    if figure.failed:
        read.append("Crosses: no number (out of memory, did not compile, crashed or diverged).")
    if hidden:
        listed = words.listed([f"{point.series} at {words.number(point.x)}" for point in hidden])
        read.append(f"Zero or less, which a logarithmic axis cannot show: {listed}.")
    seen = f"{figure.y} against {figure.x}. {'; '.join(said)}."
    yield Chart(figure.name, figure.title, charts.draw(figure, looks, marks, ratios=ratios), seen, " ".join(read))


def again(found: Gathered, otherwise: tuple[str, ...] = ()) -> Iterator[Block]:
    """The command that makes what stands above again."""
    if found.command or otherwise:
        yield Commands((found.command,) if found.command else otherwise)


def spelt(name: str) -> str:
    return name.replace("_", " ")


def dtypes(found: Gathered) -> str:
    return words.listed(sorted({row["dtype"] for row in found.rows}))


def own_thresholds(changed: Sequence[Changed]) -> str:
    """What a verdict under the reader's own thresholds is marked with; empty where the rule's stand."""
    if not changed:
        return ""
    said = words.listed([f"{one.name}={_text(one.value)} (the rule says {_text(one.rule)})" for one in changed])
    return f"under your own {'threshold' if len(changed) == 1 else 'thresholds'} {said}"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
