"""The figures of what steps consist of: stacked shares of each, and a roofline with a dot for each."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from suite.claims import Figure, Point
from suite.judging.breakdown import CAUSES
from suite.report import words
from suite.report.figures import Frame, Style, series
from suite.report.page import Chart, Spec

# Colours that are no arm's, seen on white and on black; the rest is grey.
COLOURS = dict(zip(CAUSES, ("#5E5EED", "#A18412", "#CC3370", "#3F8F88", "#B4653C", "#858C95"), strict=True))
BAR_HEIGHT = 18  # pixels, with its gap
ROOF = "the roof"
LEGEND = {"orient": "top", "title": None, "columns": 3}


class Bar(NamedTuple):
    """A step: its name, the share of each cause and its sentence."""

    name: str
    shares: dict[str, float]
    sentence: str


class Dot(NamedTuple):
    """A training step in a roofline: FLOP a byte, and FLOP/s of a device."""

    arm: str
    length: int
    batch: int
    intensity: float
    attained: float


@dataclasses.dataclass(frozen=True)
class Roof:
    """What no step of a device can exceed: bandwidth times intensity, and the peak."""

    flops_per_second: float
    bytes_per_second: float
    dtype: str
    source: str

    def at(self, intensity: float) -> float:
        return min(self.flops_per_second, self.bytes_per_second * intensity)

    @property
    def ridge(self) -> float:
        """The intensity from which on the peak is the limit."""
        return self.flops_per_second / self.bytes_per_second


def shares(bars: Sequence[Bar]) -> Iterator[Chart]:
    """A stacked bar for each step, in the order of the table."""
    if not bars:
        return
    names: dict[str, Bar] = {}
    for bar in bars:  # jobs that differ in nothing that a name says
        same = sum(name.partition(" #")[0] == bar.name for name in names)
        names[f"{bar.name} #{same + 1}" if same else bar.name] = bar
    values = [
        {"step": name, "cause": cause, "share": bar.shares[cause], "place": place, "sentence": bar.sentence}
        for name, bar in names.items()
        for place, cause in enumerate(CAUSES)
        if cause in bar.shares
    ]
    tooltip = [
        {"field": "step", "type": "nominal"},
        {"field": "cause", "type": "nominal"},
        {"field": "share", "type": "quantitative", "format": ".1%"},
        {"field": "sentence", "type": "nominal"},
    ]
    spec: Spec = {
        "data": {"values": values},
        "mark": {"type": "bar", "height": BAR_HEIGHT - 4},
        "encoding": {
            "y": {"field": "step", "type": "nominal", "sort": list(names), "title": None, "axis": {"labelLimit": 260}},
            "x": {
                "field": "share",
                "type": "quantitative",
                "stack": "zero",
                "scale": {"domain": [0, 1]},
                "axis": {"format": ".0%", "title": "share of the step", "tickCount": 5},
            },
            "color": {
                "field": "cause",
                "type": "nominal",
                "scale": {"domain": list(COLOURS), "range": list(COLOURS.values())},
                "legend": LEGEND,
            },
            "order": {"field": "place", "type": "quantitative"},
            "tooltip": tooltip,
        },
        "padding": {"left": 4, "top": 8, "bottom": 4, "right": 12},
        "width": "container",
        "height": BAR_HEIGHT * len(names),
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
    note = (
        "From the left: floors, each by what it adds to those before it, then what was measured on top, then the rest, "
        "which no floor explains."
    )
    alternative = "; ".join(bar.sentence for bar in bars)
    yield Chart("causes", "What a training step consists of", spec, f"{alternative}.", note)


def roofline(dots: Sequence[Dot], roof: Roof, styles: dict[str, Style]) -> Iterator[Chart]:
    """Attained FLOP/s against intensity, both of one device, under the roof of its peaks."""
    low = min(roof.ridge / 4, *(dot.intensity for dot in dots))
    high = max(4 * roof.ridge, *(dot.intensity for dot in dots))
    corners = [Point(ROOF, at, roof.at(at)) for at in (low, roof.ridge, high)]
    points = [Point(dot.arm, dot.intensity, dot.attained) for dot in dots]
    x, y = "FLOP a byte, at most", "FLOP/s of a device"
    figure = Figure("roofline", "Roofline: what steps attain of the device", x, y, (*points, *corners))
    drawn = {name: styles[name] for name in series(figure) if name in styles}
    frame = Frame(figure, drawn)
    rows = [
        {"series": dot.arm, "x": dot.intensity, "y": dot.attained, "length": dot.length, "batch": dot.batch}
        for dot in dots
    ]
    roof_rows = [{"x": corner.x, "y": corner.y} for corner in corners]
    tooltip = [{"field": "series", "type": "nominal", "title": "arm"}]
    for field, title, digits in (
        ("length", "tokens", ","),
        ("batch", "batch", ","),
        ("x", "FLOP a byte", ".3~s"),
        ("y", "FLOP/s", ".3~s"),
    ):
        tooltip.append({"field": field, "type": "quantitative", "title": title, "format": digits})
    encoding = frame.encoding()
    encoding["y"]["axis"] |= {"format": "~s"}
    encoding["x"]["axis"] = {"title": x, "format": "~s", "grid": False, "labelOverlap": True, "tickCount": 6}
    encoding["color"]["legend"] = LEGEND
    layers = [
        {"data": {"values": roof_rows}, "mark": {"type": "line", "strokeWidth": 2}, "encoding": {"color": None}},
        {
            "data": {"values": rows},
            "mark": {"type": "circle", "size": 70, "opacity": 0.9},
            "encoding": {"tooltip": tooltip},
        },
    ]
    spec: Spec = {
        "layer": layers,
        "encoding": encoding,
        "padding": {"left": 4, "top": 8, "bottom": 4, "right": 12},
        "width": "container",
        "height": 320,
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
    speeds = f"{words.si(roof.flops_per_second, 'FLOP/s')} in {roof.dtype}, {words.si(roof.bytes_per_second, 'B/s')}"
    note = (
        "A dot for each timed step: its model's FLOPs over the bytes that it moves at least, so that it may lie too "
        f"far to the right. The roof: {speeds} a device ({roof.source}). A dot far under it is held up by what neither "
        "products nor bytes explain: waiting, dispatch or the rest."
    )
    farthest = max(dots, key=lambda dot: dot.attained)
    alternative = (
        f"{y} against {x}; the most is attained by {farthest.arm} at {farthest.length:,} tokens: "
        f"{words.si(farthest.attained, 'FLOP/s')} of {words.si(roof.at(farthest.intensity), 'FLOP/s')}."
    )
    yield Chart("roofline", "Roofline: what training steps attain of the device", spec, alternative, note)
