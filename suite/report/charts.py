"""Figures as Vega-Lite: a fixed colour for every arm, a dash for every family, labels at the ends of lines."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from suite import parts
from suite.claims import Figure, Point

Spec = dict[str, Any]

HEIGHT = 280
LABEL_GAP = 14  # pixels between two labels that would lie on one another
LABEL_WIDTH = 96

# Okabe and Ito's colours: attention in blues, each recurrence its own.
COLOURS = {"attention": "#0072B2", "lstm": "#D55E00", "gru": "#E69F00", "elman": "#CC79A7", "mingru": "#009E73"}
BLUES = ("#56B4E9", "#3B6FD4", "#7FA7C9")
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#8C6D31", "#A65628", "#6A9F00")
NONLINEAR = ("lstm", "gru", "elman")
SOLID, DASHED, DOTTED, MIXED = [1, 0], [7, 4], [2, 3], [9, 3, 2, 3]
DASHES = {"attention": SOLID, "mingru": DOTTED, **dict.fromkeys(NONLINEAR, DASHED)}

LIGHT = {"ink": "#1b1f24", "quiet": "#5b6470", "grid": "#e3e6ea", "paper": "#ffffff"}
DARK = {"ink": "#e6e8eb", "quiet": "#9aa4b0", "grid": "#2e343c", "paper": "#14171b"}


def config(colours: dict[str, str], font: str = "system-ui, sans-serif") -> Spec:
    """What a chart inherits: marks that are no arm's are drawn in ink."""
    ink, quiet, grid = colours["ink"], colours["quiet"], colours["grid"]
    axis = {"labelColor": quiet, "titleColor": quiet, "gridColor": grid, "domainColor": quiet, "tickColor": quiet}
    sizes = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    marks = {mark: {"color": ink} for mark in ("line", "point", "area", "circle")}
    marks |= {"text": {"color": quiet, "fontSize": 12}, "rule": {"color": quiet}}
    return {"background": colours["paper"], "font": font, "view": {"stroke": None}, "axis": axis | sizes, **marks}


def styles(arms: Sequence[str]) -> dict[str, tuple[str, list[int]]]:
    """Colour and dash of each arm. A name keeps its own; a variant or a stranger takes the next that is free."""
    found: dict[str, tuple[str, list[int]]] = {}
    blues, others = iter(BLUES * len(arms)), iter(OTHERS * len(arms))
    for arm in arms:
        family = parts.split(arm)[0] if "+" not in arm else arm
        taken = {colour for colour, _ in found.values()}
        if family in COLOURS and COLOURS[family] not in taken:
            colour = COLOURS[family]
        else:
            colour = next(blues if family == "attention" else others)
        found[arm] = colour, {family: MIXED, **DASHES}[family]
    return found


def draw(figure: Figure, arms: Sequence[str], *, logarithmic: bool = True) -> Spec:
    """The Vega-Lite spec of a figure: bands, lines, points, thresholds, crosses and labels, as wide as its box."""
    import altair as alt

    style = {name: look for name, look in styles(arms).items() if name in {point.series for point in figure.points}}
    style |= {series: look for series, look in styles(arms).items() if series in dict(figure.failed)}
    xs = _domain([point.x for point in figure.points] + [at for _, at in figure.failed], logarithmic, 0.0)
    ys = _domain(_heights(figure), logarithmic, 0.06)
    lengths = sorted({point.x for point in figure.points} | {at for _, at in figure.failed})
    x_axis = alt.Axis(title=figure.x, format=",d" if logarithmic else "~s", grid=False, labelOverlap=True)
    y_axis = alt.Axis(title=figure.y, format="~g", labelOverlap=False)
    if logarithmic:
        x_axis["values"], y_axis["values"] = lengths, _ticks(*ys)
    else:  # a count would leave out labels of a logarithmic axis
        x_axis["tickCount"] = y_axis["tickCount"] = 6
    kind = "log" if logarithmic else "linear"
    x = alt.X("x:Q", scale=alt.Scale(type=kind, domain=xs, nice=False), axis=x_axis)
    y_scale = alt.Scale(type=kind, domain=ys, nice=False)
    y = alt.Y("y:Q", scale=y_scale, axis=y_axis)
    looks: Spec = {}
    if style:
        names, colours, dashes = list(style), [look[0] for look in style.values()], [look[1] for look in style.values()]
        looks["color"] = alt.Color("series:N", legend=None, scale=alt.Scale(domain=names, range=colours))
        dashed = {"strokeDash": alt.StrokeDash("series:N", legend=None, scale=alt.Scale(domain=names, range=dashes))}
    else:
        looks["detail"], dashed = alt.Detail("series:N"), {}
    shown = (("series:N", "", ""), ("x:Q", figure.x, ","), ("y:Q", figure.y, ".3~g"))
    tooltip = [alt.Tooltip(field, title=title, format=form) for field, title, form in shown]

    points = [{"series": point.series, "x": point.x, "y": point.y} for point in figure.points]
    bands = [
        {"series": point.series, "x": point.x, "low": point.low, "high": point.high}
        for point in figure.points
        if point.low is not None
    ]
    edges = {"y": alt.Y("low:Q", scale=y_scale, axis=y_axis), "y2": alt.Y2("high:Q")}
    layers = []
    if bands:
        layers.append(_chart(alt, bands).mark_area(opacity=0.18, clip=True).encode(x=x, **edges, **looks))
        lone = [band for band in bands if [other["series"] for other in bands].count(band["series"]) == 1]
        layers.append(_chart(alt, lone).mark_rule(strokeWidth=1.5).encode(x=x, **edges, **looks))
    layers.append(_chart(alt, points).mark_line(strokeWidth=2).encode(x=x, y=y, **looks, **dashed))
    layers.append(_chart(alt, points).mark_circle(size=40, opacity=1).encode(x=x, y=y, tooltip=tooltip, **looks))
    if figure.thresholds:
        lines = [{"y": value, "x": xs[0], "name": f"{name}: {value:g}"} for name, value in figure.thresholds.items()]
        layers.append(_chart(alt, lines).mark_rule(strokeDash=[3, 3]).encode(y=y))
        named = _chart(alt, lines).mark_text(align="left", baseline="bottom", dx=4, dy=-3)
        layers.append(named.encode(x=x, y=y, text="name:N"))
    if figure.failed:
        edge = ys[1] if style else ys[0]  # of an arm at the slow or bad end; a ratio that is not there is at neither
        crosses = [{"series": series, "x": at, "y": edge, "why": "no number"} for series, at in figure.failed]
        cross = _chart(alt, crosses).mark_point(shape="cross", angle=45, size=120, filled=True, opacity=1)
        layers.append(cross.encode(x=x, y=y, tooltip=["series:N", alt.Tooltip("why:N")], **looks))
    labels = _labels(figure.points, xs, ys, logarithmic)
    if len(labels) > 1 or style:  # the title names a line that is alone and no arm's
        label = _chart(alt, labels).mark_text(align="left", dx=8, limit=LABEL_WIDTH, fontWeight=600)
        layers.append(label.encode(x=x, y=y, text="series:N", **looks))
    spec = alt.layer(*layers).properties(width="container", height=HEIGHT).to_dict()
    del spec["$schema"]  # an address, which nothing here needs
    del spec["config"]  # the page and the picture each have their own
    padding = {"left": 4, "top": 8, "bottom": 4, "right": 12}
    return spec | {"padding": padding, "autosize": {"type": "fit-x", "contains": "padding"}}


def png(spec: Spec) -> bytes:
    """The figure as a picture for Markdown, on white, twice as fine as a screen."""
    import vl_convert

    look = config(LIGHT, "sans-serif")
    return vl_convert.vegalite_to_png(spec | {"width": 640}, scale=2, config=look, show_warnings=False)


def javascript() -> str:
    """Vega, Vega-Lite and vega-embed in one text, for a page that asks no network."""
    import vl_convert

    return vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue] - its stub forgets the defaults


def _chart(alt: Any, values: list[Spec]) -> Any:
    return alt.Chart(alt.InlineData(values=values))


def _heights(figure: Figure) -> list[float]:
    bounds = [bound for point in figure.points for bound in (point.low, point.high) if bound is not None]
    return [*(point.y for point in figure.points), *bounds, *figure.thresholds.values()]


def _domain(values: list[float], logarithmic: bool, margin: float) -> list[float]:
    """From the least to the greatest with a margin; one value alone gets room on both sides."""
    if not values:
        return [1.0, 10.0]
    low, high = min(values), max(values)
    if logarithmic:
        low, high = math.log(low), math.log(high)
        room = margin * (high - low) if high > low else math.log(2)
        return [math.exp(low - room), math.exp(high + room)]
    room = margin * (high - low) if high > low else 0.5 * abs(high) or 1.0
    return [low - room, high + room]


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 within each decade, powers of ten where that is too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [float(f"{step}e{decade}") for decade in decades for step in (1, 2, 5)]
    inside = [value for value in fine if low <= value <= high]
    return inside if len(inside) <= 9 else [value for value in inside if f"{value:e}".startswith("1")]


def _labels(points: Sequence[Point], xs: list[float], ys: list[float], logarithmic: bool) -> list[Spec]:
    """The name of each line beside its last point, pushed apart where two would overlap."""
    ends: dict[str, Point] = {}
    for point in points:
        if point.series not in ends or point.x >= ends[point.series].x:
            ends[point.series] = point
    scale, back = (math.log, math.exp) if logarithmic else (float, float)
    gap = LABEL_GAP / HEIGHT * (scale(ys[1]) - scale(ys[0]))
    columns: dict[float, list[Point]] = defaultdict(list)
    for point in ends.values():
        across = (scale(point.x) - scale(xs[0])) / (scale(xs[1]) - scale(xs[0]))
        columns[1.0 if across > 0.8 else across].append(point)
    labels = []
    for column in columns.values():
        at = -math.inf
        for point in sorted(column, key=lambda point: point.y):
            at = max(scale(point.y), at + gap)
            labels.append({"series": point.series, "x": point.x, "y": back(at)})
    return labels
