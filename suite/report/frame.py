"""The axes of a figure and the layers in them: bands, lines or dots, thresholds, crosses and labels."""

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from suite.claims import Figure, Point
from suite.report import words
from suite.report.document import Spec

Look = tuple[str, list[int]]  # colour and dash

HEIGHT = 280
LABEL_GAP = 14  # pixels between two labels that would lie on one another
LABEL_WIDTH = 150
MOST_TICKS = 10
SOLID, DASHED, DOTTED, MIXED = [1, 0], [7, 4], [2, 3], [9, 3, 2, 3]


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


class Frame:
    """The axes and colours of a figure, and its layers."""

    def __init__(self, alt: Any, figure: Figure, looks: dict[str, Look]):
        self.alt, self.figure, self.looks = alt, figure, looks
        hidden = unseen(figure)
        self.points = [point for point in figure.points if point not in hidden]
        self.xs = axis(self._places(), figure.log_x, 0.0)
        if figure.dots:  # half a group of dots at both ends
            self.xs = axis(self._places(), figure.log_x, 0.6 * self._gap)
        self.ys = axis(_heights(figure), figure.log_y, 0.06)
        self.x = alt.X("x:Q", scale=_scale(alt, self.xs), axis=self._x_axis())
        self.y = alt.Y("y:Q", scale=_scale(alt, self.ys), axis=self._y_axis())
        self.colour = self._colour()
        fields = (("series:N", "", ""), ("at:Q", figure.x, ",~r"), ("y:Q", figure.y, ".3~g"))
        self.tooltip = [alt.Tooltip(field, title=title, format=digits) for field, title, digits in fields]

    def lines(self) -> list[Any]:
        """Bands, and lines through the points."""
        points = [{"series": point.series, "x": point.x, "at": point.x, "y": point.y} for point in self.points]
        line = self._chart(points).mark_line(strokeWidth=2).encode(x=self.x, y=self.y, **self.colour, **self._dash())
        circle = self._chart(points).mark_circle(size=40, opacity=1)
        return [*self._bands(), line, circle.encode(x=self.x, y=self.y, tooltip=self.tooltip, **self.colour)]

    def dots(self) -> list[Any]:
        """A dot for each point; the series stand side by side, and so do the seeds of each."""
        counts: dict[tuple[str, float], int] = defaultdict(int)
        total: dict[tuple[str, float], int] = defaultdict(int)
        for point in self.points:
            total[point.series, point.x] += 1
        dots, bars = [], []
        for point in self.points:
            at = point.series, point.x
            aside = (counts[at] + 0.5) / total[at] - 0.5
            counts[at] += 1
            dot = {"series": point.series, "x": self._beside(*at, aside), "at": point.x, "y": point.y}
            dots.append(dot)
            if point.low is not None:
                bars.append(dot | {"low": self._above_zero(point.low), "high": point.high})
        circle = self._chart(dots).mark_circle(size=52, opacity=0.65)
        layers = [circle.encode(x=self.x, y=self.y, tooltip=self.tooltip, **self.colour)]
        if bars:
            layers.append(self._range(self._chart(bars).mark_rule(strokeWidth=1.5, opacity=0.65)))
        return layers

    def thresholds(self) -> list[Any]:
        """A line across for each threshold, named beside a chart of dots or over the freer end of the line."""
        shown = {name: value for name, value in self.figure.thresholds.items() if value > 0 or not self.figure.log_y}
        if not shown:
            return []
        lines = [{"y": value, "label": f"{name}: {value:g}"} for name, value in shown.items()]
        layers = [self._chart(lines).mark_rule(strokeDash=[3, 3]).encode(y=self.y)]
        for value, text in self._labelled(lines).items():
            right = self.figure.dots or self._room(value, 0.75, 1.0) > self._room(value, 0.0, 0.25)
            label = self._chart([{"y": value, "x": self.xs.high if right else self.xs.low, "label": text}])
            if self.figure.dots:
                label = label.mark_text(align="left", dx=4)
            elif right:
                label = label.mark_text(align="right", dx=-4, baseline="bottom", dy=-3)
            else:
                label = label.mark_text(align="left", dx=4, baseline="bottom", dy=-3)
            layers.append(label.encode(x=self.x, y=self.y, text="label:N"))
        return layers

    def crosses(self, ratios: bool) -> list[Any]:
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
            y = self.ys.at(1 - rise if up else rise)
            crosses.append({"series": series, "x": x, "at": at, "y": y, "why": "no number"})
        if not crosses:
            return []
        cross = self._chart(crosses).mark_point(shape="cross", angle=45, size=120, filled=True, opacity=1)
        tooltip = [*self.tooltip[:2], self.alt.Tooltip("why:N", title="")]
        return [cross.encode(x=self.x, y=self.y, tooltip=tooltip, **self.colour)]

    def marks(self, marks: Sequence[Point]) -> list[Any]:
        """Large dots, each with its x above it."""
        if not marks:
            return []
        rows = [
            {"series": mark.series, "x": mark.x, "at": mark.x, "y": mark.y, "label": words.number(mark.x)}
            for mark in marks
        ]
        dot = self._chart(rows).mark_circle(size=150, opacity=1)
        label = self._chart(rows).mark_text(baseline="bottom", dy=-9, fontWeight=600)
        return [
            dot.encode(x=self.x, y=self.y, tooltip=self.tooltip, **self.colour),
            label.encode(x=self.x, y=self.y, text="label:N", **self.colour),
        ]

    def labels(self) -> list[Any]:
        """The name of each line beside its last point, pushed apart where two would overlap."""
        ends: dict[str, Point] = {}
        for point in self.points:
            if point.series not in ends or point.x >= ends[point.series].x:
                ends[point.series] = point
        if len(ends) < 2 and not self.looks:  # the title names a line that is alone and no arm's
            return []
        columns: dict[float, list[Point]] = defaultdict(list)
        for point in ends.values():
            across = self.xs.share(point.x)
            columns[1.0 if across > 0.8 else across].append(point)
        labels = []
        for column in columns.values():
            at = -math.inf
            for point in sorted(column, key=lambda point: point.y):
                at = max(self.ys.share(point.y), at + LABEL_GAP / HEIGHT)
                labels.append({"series": point.series, "x": point.x, "y": self.ys.at(at)})
        label = self._chart(labels).mark_text(align="left", dx=8, limit=LABEL_WIDTH, fontWeight=600)
        return [label.encode(x=self.x, y=self.y, text="series:N", **self.colour)]

    def _labelled(self, lines: list[Spec]) -> dict[float, str]:
        """The text at each height: thresholds too close for two labels share one, over the upper line."""
        labels: dict[float, str] = {}
        for line in sorted(lines, key=lambda line: line["y"]):
            near = [at for at in labels if self.ys.share(line["y"]) - self.ys.share(at) < LABEL_GAP / HEIGHT]
            labels[line["y"]] = ", ".join([*(labels.pop(at) for at in near), line["label"]])
        return labels

    def _room(self, value: float, start: float, end: float) -> float:
        """The distance from a height to the points over a part of the x axis, at most a tenth."""
        near = [point for point in self.points if start <= self.xs.share(point.x) <= end]
        away = [abs(self.ys.share(point.y) - self.ys.share(value)) for point in near]
        return min([0.1, *away])

    def _bands(self) -> list[Any]:
        bands = [
            {"series": point.series, "x": point.x, "low": self._above_zero(point.low), "high": point.high}
            for point in self.points
            if point.low is not None
        ]
        if not bands:
            return []
        lone = [band for band in bands if [other["series"] for other in bands].count(band["series"]) == 1]
        layers = [self._range(self._chart(bands).mark_area(opacity=0.18, clip=True))]
        if lone:
            layers.append(self._range(self._chart(lone).mark_rule(strokeWidth=1.5)))
        return layers

    def _range(self, chart: Any) -> Any:
        low = self.alt.Y("low:Q", scale=_scale(self.alt, self.ys), axis=self._y_axis())
        return chart.encode(x=self.x, y=low, y2=self.alt.Y2("high:Q"), **self.colour)

    def _above_zero(self, low: float) -> float:
        return low if low > 0 or not self.figure.log_y else self.ys.low

    @property
    def _gap(self) -> float:
        """The narrowest gap between two values of x, as a share of the axis; at most a quarter."""
        shares = [self.xs.share(x) for x in self._places()]
        return min([0.25, *(after - before for before, after in itertools.pairwise(shares))])

    def _beside(self, series: str, x: float, aside: float) -> float:
        """The x of a series beside the others, within 70 % of a gap; `aside` is from -0.5 to 0.5 in its slot."""
        order = list(self.looks)
        step = order.index(series) - (len(order) - 1) / 2
        return self.xs.at(self.xs.share(x) + 0.7 * self._gap / len(order) * (step + 0.7 * aside))

    def _places(self) -> list[float]:
        failed = [at for _, at in self.figure.failed if at > 0 or not self.figure.log_x]
        return sorted({point.x for point in self.points} | set(failed))

    def _x_axis(self) -> Any:
        places = self._places()
        large = bool(places) and places[-1] >= 1e6
        axis = self.alt.Axis(title=self.figure.x, format="~s" if large else ",~r", grid=False, labelOverlap=True)
        if len(places) <= MOST_TICKS and (self.figure.log_x or self.figure.dots):
            axis["values"] = places  # where something was measured
        elif self.figure.log_x:
            axis["values"] = ticks(self.xs)
        else:  # a count would leave out labels of a logarithmic axis
            axis["tickCount"] = 6
        return axis

    def _y_axis(self) -> Any:
        axis = self.alt.Axis(title=self.figure.y, format="~g", labelOverlap=False)
        if self.figure.log_y:
            axis["values"] = ticks(self.ys)
        else:
            axis["tickCount"] = 6
        return axis

    def _colour(self) -> Spec:
        if not self.looks:
            return {"detail": self.alt.Detail("series:N")}
        scale = self.alt.Scale(domain=list(self.looks), range=[colour for colour, _ in self.looks.values()])
        legend = None
        if self.figure.dots:  # labels at ends do not fit dots
            columns = {"expr": "width > 480 ? 6 : 2"}
            legend = self.alt.Legend(orient="top", title=None, symbolType="circle", symbolOpacity=1, columns=columns)
        return {"color": self.alt.Color("series:N", legend=legend, scale=scale)}

    def _dash(self) -> Spec:
        in_ink = zip(series(self.figure), itertools.cycle((SOLID, DASHED, DOTTED, MIXED)), strict=False)
        dashes = {name: dash for name, (_, dash) in self.looks.items()} or dict(in_ink)
        scale = self.alt.Scale(domain=list(dashes), range=list(dashes.values()))
        return {"strokeDash": self.alt.StrokeDash("series:N", legend=None, scale=scale)}

    def _chart(self, values: list[Spec]) -> Any:
        return self.alt.Chart(self.alt.InlineData(values=values))


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


def _scale(alt: Any, axis: Axis) -> Any:
    return alt.Scale(type="log" if axis.logarithmic else "linear", domain=[axis.low, axis.high], nice=False)


def _heights(figure: Figure) -> list[float]:
    bounds = [bound for point in figure.points for bound in (point.low, point.high) if bound is not None]
    return [*(point.y for point in figure.points), *bounds, *figure.thresholds.values()]
