"""The one chart: attention over LSTM against length in step time, decode latency and bytes of state."""

import dataclasses
import math
from collections.abc import Iterable

from suite.claims import Figure, Finding, Point
from suite.judging import statistics
from suite.report.frame import DASHED, DOTTED, SOLID, Look


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What is drawn from a claim's figure of a ratio; a ratio of speeds is turned over, so that above 1 is dearer."""

    name: str
    figure: str
    speeds: bool
    look: Look


# Colours that are no arm's and stay apart for colour-blind readers, on white and on black.
QUANTITIES = (
    Quantity("step time", "training_speed_ratio", True, ("#5E5EED", SOLID)),
    Quantity("decode latency", "decode_latency_ratio", False, ("#CC3370", DASHED)),
    Quantity("state bytes", "state_bytes_ratio", False, ("#A18412", DOTTED)),
)
LOOKS = {quantity.name: quantity.look for quantity in QUANTITIES}


def figure(findings: Iterable[Finding]) -> Figure:
    """The three ratios, attention / LSTM, as far as the findings have them."""
    drawn = {figure.name: figure for finding in findings for figure in finding.figures}
    points: list[Point] = []
    failed: list[tuple[str, float]] = []
    for quantity in QUANTITIES:
        if quantity.figure in drawn:
            own, refused = _plainest(drawn[quantity.figure])
            points += [_point(quantity, point) for point in own]
            failed += [(quantity.name, at) for at in refused]
    return Figure(
        name="crossover",
        title="Attention / LSTM against length: time of a training step, decode latency, bytes of state",
        x="length (tokens)",
        y="ratio; above 1 attention costs more",
        points=tuple(points),
        thresholds={"equal": 1.0},
        failed=tuple(failed),
    )


def crossings(figure: Figure) -> list[Point]:
    """Where a line crosses 1, read between two lengths as the chart is drawn: logarithm against logarithm."""
    return [
        Point(series, at, 1.0)
        for series in dict.fromkeys(point.series for point in figure.points)
        for at in _crossings([point for point in figure.points if point.series == series])
    ]


def _crossings(points: list[Point]) -> list[float]:
    return statistics.crossings([point.x for point in points], [math.log(point.y) for point in points])


def _plainest(figure: Figure) -> tuple[list[Point], list[float]]:
    """The points and the failures of the series with the shortest name."""
    names = dict.fromkeys([*(point.series for point in figure.points), *(series for series, _ in figure.failed)])
    if not names:
        return [], []
    name = min(names, key=len)
    own = [point for point in figure.points if point.series == name and point.x > 0 and point.y > 0]
    return own, [at for series, at in figure.failed if series == name]


def _point(quantity: Quantity, point: Point) -> Point:
    if not quantity.speeds:
        return dataclasses.replace(point, series=quantity.name)
    bounds = {} if point.low is None or point.high is None else {"low": 1 / point.high, "high": 1 / point.low}
    return Point(quantity.name, point.x, 1 / point.y, **bounds)
