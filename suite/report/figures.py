"""Figures in Vega-Lite: an arm has its colour in each, a family its dash; labels stand at the ends of lines."""

import collections
import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from suite import parts
from suite.claims import ATTENTION, LSTM, Figure, Point
from suite.report import words
from suite.report.page import Chart, Spec

Style = tuple[str, list[int]]  # colour and dash

HEIGHT = 280
LABEL_GAP = 14  # pixels between two labels that would lie on one another
LABEL_WIDTH = 150
MOST_TICKS = 10
SERIES = {"field": "series", "type": "nominal"}
LABEL = {"field": "label", "type": "nominal"}
RANGE = {"y": {"field": "low"}, "y2": {"field": "high"}}
SOLID, DASHED, DOTTED, MIXED = [1, 0], [7, 4], [2, 3], [9, 3, 2, 3]

# Okabe and Ito's colours for the judged pair, blues for variants of attention; other mixers take theirs in the order of
# the folder.
PAIR = {ATTENTION: "#0072B2", LSTM: "#D55E00"}
BLUES = ("#56B4E9", "#3B6FD4", "#7FA7C9")
OTHERS = (
    *("#8C6D31", "#CC79A7", "#A65628", "#E0558B", "#E69F00", "#5F7A8A", "#984EA3", "#009E73", "#3D3D8F", "#B58B5B"),
    *("#6A9F00", "#B22222", "#2AA1A8", "#7A5195", "#1B7837", "#C2185B", "#556B2F", "#795548", "#008B8B", "#B8860B"),
)
DASHES = {"cache": SOLID, "diagonal": DOTTED, "matrix": DOTTED, "nonlinear": DASHED}  # by a mixer's kind of state


def chart(
    figure: Figure,
    styles: dict[str, Style],
    bands: str = "95 % intervals",
    marks: Sequence[Point] = (),
    notes: Sequence[str] = (),
    ratios: bool = False,
) -> Iterator[Chart]:
    """The figure, unless it is empty, with the last value of each series in words and how to read it."""
    if not figure.points and not figure.failed:
        return
    ends = {point.series: point for point in figure.points}
    values = [f"{point.series}: {words.number(point.y)} at {words.number(point.x)}" for point in ends.values()]
    reading = []
    if figure.dots:
        reading.append("Every dot is one run; side by side they stand at the same value of the axis.")
    if any(point.low is not None for point in figure.points):
        reading.append(f"{'Bars' if figure.dots else 'Bands'}: {bands}.")
    reading += notes
    if figure.failed:
        reading.append("Crosses: no number (out of memory, did not compile, crashed or diverged).")
    if hidden := unseen(figure):
        points = words.listed([f"{point.series} at {words.number(point.x)}" for point in hidden])
        reading.append(f"Zero or less, which a logarithmic axis cannot show: {points}.")
    alternative = f"{figure.y} against {figure.x}. {'; '.join(values)}."
    yield Chart(figure.name, figure.title, draw(figure, styles, marks, ratios=ratios), alternative, " ".join(reading))


def colours() -> dict[str, str]:
    """The colour of each mixer."""
    others = (name for name in parts.names("suite.mixers") if name not in PAIR)
    return PAIR | dict(zip(others, itertools.cycle(OTHERS), strict=False))


def styles(arms: Sequence[str]) -> dict[str, Style]:
    """The colour and dash of each arm. A mixer has a fixed colour; variants and users' arms take free ones."""
    mixers = {arm: _mixer(arm) for arm in arms}
    plainest = {min((arm for arm in arms if mixers[arm] == mixer), key=len) for mixer in mixers.values()}
    fixed = colours()
    taken = {arm: fixed[mixers[arm]] for arm in arms if arm in plainest and mixers[arm] in fixed}
    for arm in arms:
        if arm not in taken:
            choice = BLUES if mixers[arm] == ATTENTION else OTHERS
            free = [colour for colour in choice if colour not in taken.values()]
            taken[arm] = free[0] if free else choice[len(taken) % len(choice)]
    return {arm: (taken[arm], _dash(mixers[arm])) for arm in arms}


def styles_of(figure: Figure, arms: Sequence[str]) -> dict[str, Style]:
    """The colour and dash of each series of an arm: "lstm, plain" has the LSTM's colour and another dash.

    Empty where no series belongs to an arm: they are drawn in ink. Dots always have colours.
    """
    arm_of = {name: name.partition(", ")[0] for name in series(figure)}
    of_arms = [arm for arm in dict.fromkeys(arm_of.values()) if arm in arms or _mixer(arm) in colours()]
    if not of_arms and not figure.dots:
        return {}
    by_arm = styles(list(dict.fromkeys([*arms, *of_arms, *arm_of.values()])))
    drawn: dict[str, Style] = {}
    for name in sorted(arm_of, key=lambda name: list(by_arm).index(arm_of[name])):
        colour, first = by_arm[arm_of[name]]
        used = [dash for other, (_, dash) in drawn.items() if arm_of[other] == arm_of[name]]
        free = [dash for dash in (first, DOTTED, MIXED, DASHED, SOLID) if dash not in used]
        drawn[name] = colour, (free or [first])[0]
    return drawn


def draw(figure: Figure, styles: dict[str, Style], marks: Sequence[Point] = (), *, ratios: bool = False) -> Spec:
    """The Vega-Lite spec of a figure as wide as its box: bands, lines or dots, thresholds, crosses and labels.

    `marks` are dots on its lines, each with its x above it, and with bounds of x; `ratios` says that no series belongs
    to an arm.
    """
    frame = Frame(figure, styles)
    layers = frame.dots() if figure.dots else frame.lines()
    layers += [*frame.thresholds(), *frame.crosses(ratios or not styles), *frame.marks(marks)]
    if not figure.dots:
        layers += frame.labels()
    padding = {"left": 4, "top": 8, "bottom": 4, "right": 12}
    size = {"width": "container", "height": HEIGHT, "autosize": {"type": "fit-x", "contains": "padding"}}
    return {"layer": layers, "encoding": frame.encoding(), "padding": padding, **size}


class Frame:
    """The axes and colours of a figure, and its layers; each layer inherits `encoding`."""

    def __init__(self, figure: Figure, styles: dict[str, Style]):
        self.figure, self.styles = figure, styles
        hidden = unseen(figure)
        self.points = [point for point in figure.points if point not in hidden]
        failed = [at for _, at in figure.failed if at > 0 or not figure.log_x]
        self.places = sorted({point.x for point in self.points} | set(failed))
        self.x = axis(self.places, figure.log_x, 0.0)
        if figure.dots:  # half a group of dots at both ends
            self.x = axis(self.places, figure.log_x, 0.6 * self._gap)
        bounds = [bound for point in figure.points for bound in (point.low, point.high) if bound is not None]
        heights = [*(point.y for point in figure.points), *bounds, *figure.thresholds.values()]
        self.y = axis(heights, figure.log_y, 0.06)
        fields = (("series", "", ""), ("at", figure.x, ",~r"), ("y", figure.y, ".3~g"))
        self.tooltip = [
            {"field": field, "type": "quantitative" if title else "nominal", "title": title, "format": digits}
            for field, title, digits in fields
        ]

    def encoding(self) -> Spec:
        """The places and colours of all layers."""
        places = {
            "x": {"field": "x", "type": "quantitative", "scale": _scale(self.x), "axis": self._x_axis()},
            "y": {"field": "y", "type": "quantitative", "scale": _scale(self.y), "axis": self._y_axis()},
        }
        if not self.styles:
            return places | {"detail": SERIES}
        colours = {name: colour for name, (colour, _) in self.styles.items()}
        return places | {"color": _by_series(colours, self._legend())}

    def lines(self) -> list[Spec]:
        """Bands, and lines through the points."""
        points = [{"series": point.series, "x": point.x, "at": point.x, "y": point.y} for point in self.points]
        pairs = zip(points, self.points, strict=True)
        bands = [row | self._bounds(point) for row, point in pairs if point.low is not None]
        counts = collections.Counter(band["series"] for band in bands)
        lone = [band for band in bands if counts[band["series"]] == 1]
        in_ink = zip(series(self.figure), itertools.cycle((SOLID, DASHED, DOTTED, MIXED)), strict=False)
        dashes = {name: dash for name, (_, dash) in self.styles.items()} or dict(in_ink)
        return [
            *_layer(bands, {"type": "area", "opacity": 0.18, "clip": True}, **RANGE),
            *_layer(lone, {"type": "rule", "strokeWidth": 1.5}, **RANGE),
            *_layer(points, {"type": "line", "strokeWidth": 2}, strokeDash=_by_series(dashes, None)),
            *_layer(points, {"type": "circle", "size": 40, "opacity": 1}, tooltip=self.tooltip),
        ]

    def dots(self) -> list[Spec]:
        """A dot for each point; the series stand side by side, and so do the seeds of each."""
        total = collections.Counter((point.series, point.x) for point in self.points)
        counts: dict[tuple[str, float], int] = defaultdict(int)
        dots, bars = [], []
        for point in self.points:
            at = point.series, point.x
            aside = (counts[at] + 0.5) / total[at] - 0.5
            counts[at] += 1
            dot = {"series": point.series, "x": self._beside(*at, aside), "at": point.x, "y": point.y}
            dots.append(dot)
            if point.low is not None:
                bars.append(dot | self._bounds(point))
        return [
            *_layer(dots, {"type": "circle", "size": 52, "opacity": 0.65}, tooltip=self.tooltip),
            *_layer(bars, {"type": "rule", "strokeWidth": 1.5, "opacity": 0.65}, **RANGE),
        ]

    def thresholds(self) -> list[Spec]:
        """A line across for each threshold, named beside a chart of dots or over the freer end of the line."""
        shown = {name: value for name, value in self.figure.thresholds.items() if value > 0 or not self.figure.log_y}
        lines = [{"y": value, "label": f"{name}: {value:g}"} for name, value in shown.items()]
        layers = _layer(lines, {"type": "rule", "strokeDash": [3, 3]}, x=None, color=None)
        for value, text in self._merged(lines).items():
            right = self.figure.dots or self._room(value, 0.75, 1.0) > self._room(value, 0.0, 0.25)
            label = {"y": value, "x": self.x.high if right else self.x.low, "label": text}
            mark = {"type": "text", "align": "left", "dx": 4}
            if not self.figure.dots:
                mark |= {"baseline": "bottom", "dy": -3} | ({"align": "right", "dx": -4} if right else {})
            layers += _layer([label], mark, text=LABEL, color=None)
        return layers

    def crosses(self, ratios: bool) -> list[Spec]:
        """A cross for each failure: at the slow or bad end of the axis for an arm, at the foot for a ratio."""
        up = not ratios and not self.figure.dots
        crossed: dict[float, int] = defaultdict(int)
        crosses = []
        for series, at in self.figure.failed:
            if self.figure.log_x and at <= 0:
                continue
            rise = crossed[at] * LABEL_GAP / HEIGHT
            crossed[at] += 1
            x = self._beside(series, at, 0.0) if self.figure.dots else at
            y = self.y.at(1 - rise if up else rise)
            crosses.append({"series": series, "x": x, "at": at, "y": y, "why": "no number"})
        mark = {"type": "point", "shape": "cross", "angle": 45, "size": 120, "filled": True, "opacity": 1}
        return _layer(crosses, mark, tooltip=[*self.tooltip[:2], {"field": "why", "type": "nominal", "title": ""}])

    def marks(self, marks: Sequence[Point]) -> list[Spec]:
        """Large dots, each with its x above it, and with a bar over the interval of x where it has one."""
        bars = [
            {"series": mark.series, "x": mark.low, "x2": mark.high, "y": mark.y}
            for mark in marks
            if mark.low is not None and mark.high is not None
        ]
        rows = [
            {"series": mark.series, "x": mark.x, "at": mark.x, "y": mark.y, "label": words.number(mark.x)}
            for mark in marks
        ]
        text = {"type": "text", "baseline": "bottom", "dy": -9, "fontWeight": 600}
        return [
            *_layer(bars, {"type": "rule", "strokeWidth": 6, "opacity": 0.5}, x2={"field": "x2"}),
            *_layer(rows, {"type": "circle", "size": 150, "opacity": 1}, tooltip=self.tooltip),
            *_layer(rows, text, text=LABEL),
        ]

    def labels(self) -> list[Spec]:
        """The name of each line beside its last point, pushed apart where two would overlap."""
        ends: dict[str, Point] = {}
        for point in self.points:
            if point.series not in ends or point.x >= ends[point.series].x:
                ends[point.series] = point
        if len(ends) < 2 and not self.styles:  # the title names a line that is alone and no arm's
            return []
        columns: dict[float, list[Point]] = defaultdict(list)
        for point in ends.values():
            across = self.x.share(point.x)
            columns[1.0 if across > 0.8 else across].append(point)
        labels = []
        for column in columns.values():
            at = -math.inf
            for point in sorted(column, key=lambda point: point.y):
                at = max(self.y.share(point.y), at + LABEL_GAP / HEIGHT)
                labels.append({"series": point.series, "x": point.x, "y": self.y.at(at), "label": point.series})
        mark = {"type": "text", "align": "left", "dx": 8, "limit": LABEL_WIDTH, "fontWeight": 600}
        return _layer(labels, mark, text=LABEL)

    def _merged(self, lines: list[Spec]) -> dict[float, str]:
        """The text at each height: thresholds too close for two labels share one, over the upper line."""
        labels: dict[float, str] = {}
        for line in sorted(lines, key=lambda line: line["y"]):
            near = [at for at in labels if self.y.share(line["y"]) - self.y.share(at) < LABEL_GAP / HEIGHT]
            labels[line["y"]] = ", ".join([*(labels.pop(at) for at in near), line["label"]])
        return labels

    def _room(self, value: float, start: float, end: float) -> float:
        """The distance from a height to the points over a part of the x axis, at most a tenth."""
        near = [point for point in self.points if start <= self.x.share(point.x) <= end]
        away = [abs(self.y.share(point.y) - self.y.share(value)) for point in near]
        return min([0.1, *away])

    def _bounds(self, point: Point) -> Spec:
        """The interval of a point; of one that reaches zero a logarithmic axis shows the part in it."""
        assert point.low is not None
        return {"low": point.low if point.low > 0 or not self.figure.log_y else self.y.low, "high": point.high}

    @property
    def _gap(self) -> float:
        """The narrowest gap between two values of x, as a share of the axis; at most a quarter."""
        shares = [self.x.share(x) for x in self.places]
        return min([0.25, *(after - before for before, after in itertools.pairwise(shares))])

    def _beside(self, series: str, x: float, aside: float) -> float:
        """The x of a series beside the others, within 70 % of a gap; `aside` is from -0.5 to 0.5 in its slot."""
        order = list(self.styles)
        step = order.index(series) - (len(order) - 1) / 2
        return self.x.at(self.x.share(x) + 0.7 * self._gap / len(order) * (step + 0.7 * aside))

    def _x_axis(self) -> Spec:
        large = bool(self.places) and self.places[-1] >= 1e6
        if len(self.places) <= MOST_TICKS and (self.figure.log_x or self.figure.dots):
            marked: Spec = {"values": self.places}  # where something was measured
        else:
            marked = _ticks(self.x)
        digits = "~s" if large else ",~r"
        return {"title": self.figure.x, "format": digits, "grid": False, "labelOverlap": True, **marked}

    def _y_axis(self) -> Spec:
        return {"title": self.figure.y, "format": "~g", "labelOverlap": False, **_ticks(self.y)}

    def _legend(self) -> Spec | None:
        if not self.figure.dots:  # its lines have labels at their ends
            return None
        columns = {"expr": "width > 480 ? 6 : 2"}
        return {"orient": "top", "title": None, "symbolType": "circle", "symbolOpacity": 1, "columns": columns}


@dataclasses.dataclass(frozen=True)
class Axis:
    """The values of an axis, from `low` to `high`."""

    low: float
    high: float
    logarithmic: bool

    def share(self, value: float) -> float:
        """The place of a value on the axis: 0 at its low end, 1 at its high end."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def at(self, share: float) -> float:
        """The value at a place on the axis."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        value = low + share * (high - low)
        return math.exp(value) if self.logarithmic else value

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value


def axis(values: Sequence[float], logarithmic: bool, margin: float) -> Axis:
    """The axis of some values, with a margin at both ends; around one value alone it has room."""
    values = [value for value in values if value > 0 or not logarithmic]
    if not values:
        return Axis(1.0, 10.0, logarithmic)
    low, high = min(values), max(values)
    if low == high:
        room = 0.5 * abs(high) or 1.0
        return Axis(low / 2, high * 2, True) if logarithmic else Axis(low - room, high + room, False)
    tight = Axis(low, high, logarithmic)
    return Axis(tight.at(-margin), tight.at(1 + margin), logarithmic)


def ticks(axis: Axis) -> list[float]:
    """The ticks of a logarithmic axis: 1, 2 and 5 of each decade, fewer or more where that is too many or few."""
    decades = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    choices = []
    for steps in ((1,), (1, 2, 5), range(1, 10), [step / 10 for step in range(10, 100)]):
        values = [float(f"{step}e{decade}") for decade in decades for step in steps]
        choices.append([value for value in values if axis.low <= value <= axis.high])
    few, usual, *finer = choices
    if len(usual) >= MOST_TICKS:
        return few[:: math.ceil(len(few) / MOST_TICKS)]
    inside = next((values for values in (usual, *finer) if len(values) > 2), usual)
    return inside[:: math.ceil(len(inside) / MOST_TICKS) or 1]


def series(figure: Figure) -> list[str]:
    """The names of the series, those with points first, then those of failures only."""
    return list(dict.fromkeys([*(point.series for point in figure.points), *(series for series, _ in figure.failed)]))


def unseen(figure: Figure) -> list[Point]:
    """The points that a logarithmic axis cannot show."""
    return [point for point in figure.points if (figure.log_x and point.x <= 0) or (figure.log_y and point.y <= 0)]


def _layer(values: list[Spec], mark: Spec, **channels: Any) -> list[Spec]:
    """A layer of marks, none without values; a channel of None takes away an inherited one."""
    return [{"data": {"values": values}, "mark": mark, "encoding": channels}] if values else []


def _by_series(range_of: dict[str, Any], legend: Spec | None) -> Spec:
    scale = {"domain": list(range_of), "range": list(range_of.values())}
    return SERIES | {"legend": legend, "scale": scale}


def _scale(axis: Axis) -> Spec:
    return {"type": "log" if axis.logarithmic else "linear", "domain": [axis.low, axis.high], "nice": False}


def _ticks(axis: Axis) -> Spec:
    # A count would leave out labels of a logarithmic axis.
    return {"values": ticks(axis)} if axis.logarithmic else {"tickCount": 6}


def _dash(mixer: str) -> list[int]:
    """A hybrid and a user's own mixer have one of their own."""
    if mixer not in parts.names("suite.mixers"):
        return MIXED
    return DASHES[str(parts.constant("suite.mixers", mixer, "STATE"))]


def _mixer(arm: str) -> str:
    return arm if "+" in arm else arm.partition(":")[0]
