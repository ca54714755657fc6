"""Figures in Vega-Lite: an arm has its colour in each, a family its dash; labels stand at the ends of lines."""

from collections.abc import Iterator, Sequence

from suite.claims import Figure, Point
from suite.report import words
from suite.report.document import Chart, Spec
from suite.report.frame import DASHED, DOTTED, HEIGHT, MIXED, SOLID, Frame, Look, series, unseen

# Okabe and Ito's colours: attention in blues, each recurrence its own.
COLOURS = {
    "attention": "#0072B2",
    "lstm": "#D55E00",
    "gru": "#E69F00",
    "elman": "#CC79A7",
    "mingru": "#009E73",
    "rglru": "#6A9F00",
    "mamba2": "#984EA3",
    "gated_deltanet": "#A65628",
}
BLUES = ("#56B4E9", "#3B6FD4", "#7FA7C9")
OTHERS = (
    *("#009E73", "#CC79A7", "#E69F00", "#8C6D31", "#A65628", "#6A9F00"),
    *("#984EA3", "#E0558B", "#5F7A8A", "#B22222", "#2AA1A8", "#3D3D8F", "#B58B5B"),
)
NONLINEAR = ("lstm", "gru", "elman", "slstm")
LINEAR = ("mingru", "minlstm", "lru", "rglru", "mamba2", "mlstm", "gla", "deltanet", "gated_deltanet", "rwkv7")
DASHES = {"attention": SOLID, **dict.fromkeys(LINEAR, DOTTED), **dict.fromkeys(NONLINEAR, DASHED)}

LIGHT = {"ink": "#1b1f24", "quiet": "#5b6470", "grid": "#e3e6ea", "paper": "#ffffff"}
DARK = {"ink": "#e6e8eb", "quiet": "#9aa4b0", "grid": "#2e343c", "paper": "#14171b"}


def chart(
    figure: Figure,
    looks: dict[str, Look],
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
    yield Chart(figure.name, figure.title, draw(figure, looks, marks, ratios=ratios), alternative, " ".join(reading))


def config(colours: dict[str, str], font: str = "system-ui, sans-serif") -> Spec:
    """The settings that every chart inherits; series that belong to no arm are drawn in ink."""
    ink, quiet, grid = colours["ink"], colours["quiet"], colours["grid"]
    axis = {"labelColor": quiet, "titleColor": quiet, "gridColor": grid, "domainColor": quiet, "tickColor": quiet}
    sizes = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    marks = {mark: {"color": ink} for mark in ("line", "point", "area", "circle")}
    marks |= {"text": {"color": quiet, "fontSize": 12}, "rule": {"color": quiet}}
    legend = {"labelColor": ink, "labelFontSize": 12, "labelLimit": 200, "symbolSize": 90}
    looks = {"axis": axis | sizes, "legend": legend, **marks}
    return {"background": colours["paper"], "font": font, "view": {"stroke": None}, **looks}


def styles(arms: Sequence[str]) -> dict[str, Look]:
    """The colour and dash of each arm. A mixer has a fixed colour; variants and users' arms take free ones."""
    families = {arm: _family(arm) for arm in arms}
    plainest = {min((arm for arm in arms if families[arm] == family), key=len) for family in families.values()}
    colours = {arm: COLOURS[families[arm]] for arm in arms if arm in plainest and families[arm] in COLOURS}
    for arm in arms:
        if arm not in colours:
            choice = BLUES if families[arm] == "attention" else OTHERS
            free = [colour for colour in choice if colour not in colours.values()]
            colours[arm] = free[0] if free else choice[len(colours) % len(choice)]
    return {arm: (colours[arm], {families[arm]: MIXED, **DASHES}[families[arm]]) for arm in arms}


def looks_of(figure: Figure, arms: Sequence[str]) -> dict[str, Look]:
    """The colour and dash of each series of an arm: "lstm, plain" has the LSTM's colour and another dash.

    Empty where no series belongs to an arm: they are drawn in ink. Dots always have colours.
    """
    heads = {name: name.partition(", ")[0] for name in series(figure)}
    drawn = [head for head in dict.fromkeys(heads.values()) if head in arms or _family(head) in COLOURS]
    if not drawn and not figure.dots:
        return {}
    looks_of_arms = styles(list(dict.fromkeys([*arms, *drawn, *heads.values()])))
    looks: dict[str, Look] = {}
    for name in sorted(heads, key=lambda name: list(looks_of_arms).index(heads[name])):
        colour, first = looks_of_arms[heads[name]]
        used = [dash for other, (_, dash) in looks.items() if heads[other] == heads[name]]
        free = [dash for dash in (first, DOTTED, MIXED, DASHED, SOLID) if dash not in used]
        looks[name] = colour, (free or [first])[0]
    return looks


def draw(figure: Figure, looks: dict[str, Look], marks: Sequence[Point] = (), *, ratios: bool = False) -> Spec:
    """The Vega-Lite spec of a figure as wide as its box: bands, lines or dots, thresholds, crosses and labels.

    `marks` are dots on its lines, each with its x above it; `ratios` says that no series belongs to an arm.
    """
    import altair as alt

    frame = Frame(alt, figure, looks)
    layers = frame.dots() if figure.dots else frame.lines()
    layers += [*frame.thresholds(), *frame.crosses(ratios or not looks), *frame.marks(marks)]
    if not figure.dots:
        layers += frame.labels()
    spec = alt.layer(*layers).properties(width="container", height=HEIGHT).to_dict()
    del spec["$schema"]  # an address, which nothing here needs
    del spec["config"]  # the page and the picture each have their own
    padding = {"left": 4, "top": 8, "bottom": 4, "right": 12}
    return spec | {"padding": padding, "autosize": {"type": "fit-x", "contains": "padding"}}


def png(spec: Spec) -> bytes:
    """The figure as a PNG for Markdown, on white, at twice a screen's resolution."""
    import vl_convert

    look = config(LIGHT, "sans-serif")
    return vl_convert.vegalite_to_png(spec | {"width": 640}, scale=2, config=look, show_warnings=False)


def javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one text, for a page that asks no network."""
    import vl_convert

    return vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue] - its stub forgets the defaults


def _family(arm: str) -> str:
    return arm if "+" in arm else arm.partition(":")[0]
