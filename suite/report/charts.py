"""Figures as Vega-Lite: a fixed colour for every arm, a dash for every family, labels at the ends of lines."""

from collections.abc import Sequence

from suite.claims import Figure, Point
from suite.report.frame import DASHED, DOTTED, HEIGHT, MIXED, SOLID, Frame, Look, Spec, series

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


def config(colours: dict[str, str], font: str = "system-ui, sans-serif") -> Spec:
    """What a chart inherits: marks that are no arm's are drawn in ink."""
    ink, quiet, grid = colours["ink"], colours["quiet"], colours["grid"]
    axis = {"labelColor": quiet, "titleColor": quiet, "gridColor": grid, "domainColor": quiet, "tickColor": quiet}
    sizes = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    marks = {mark: {"color": ink} for mark in ("line", "point", "area", "circle")}
    marks |= {"text": {"color": quiet, "fontSize": 12}, "rule": {"color": quiet}}
    legend = {"labelColor": ink, "labelFontSize": 12, "labelLimit": 200, "symbolSize": 90}
    looks = {"axis": axis | sizes, "legend": legend, **marks}
    return {"background": colours["paper"], "font": font, "view": {"stroke": None}, **looks}


def styles(arms: Sequence[str]) -> dict[str, Look]:
    """Colour and dash of each arm. A name keeps its own; a variant or a stranger takes the next that is free."""
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
    """Colour and dash of each series that is an arm's: "lstm, plain" has the LSTM's colour and a dash of its own.

    None where no series is an arm's: these are drawn in ink. Dots always have colours.
    """
    heads = {name: name.partition(", ")[0] for name in series(figure)}
    known = [head for head in dict.fromkeys(heads.values()) if head in arms or _family(head) in COLOURS]
    if not known and not figure.dots:
        return {}
    own = styles(list(dict.fromkeys([*arms, *known, *heads.values()])))
    found: dict[str, Look] = {}
    for name in sorted(heads, key=lambda name: list(own).index(heads[name])):
        colour, first = own[heads[name]]
        used = [dash for other, (_, dash) in found.items() if heads[other] == heads[name]]
        free = [dash for dash in (first, DOTTED, MIXED, DASHED, SOLID) if dash not in used]
        found[name] = colour, (free or [first])[0]
    return found


def draw(figure: Figure, looks: dict[str, Look], marks: Sequence[Point] = (), *, ratios: bool = False) -> Spec:
    """The Vega-Lite spec of a figure as wide as its box: bands, lines or dots, thresholds, crosses and labels.

    `marks` are dots on its lines, each with its x written beside it; `ratios` says that no series is an arm's.
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
    """The figure as a picture for Markdown, on white, twice as fine as a screen."""
    import vl_convert

    look = config(LIGHT, "sans-serif")
    return vl_convert.vegalite_to_png(spec | {"width": 640}, scale=2, config=look, show_warnings=False)


def javascript() -> str:
    """Vega, Vega-Lite and vega-embed in one text, for a page that asks no network."""
    import vl_convert

    return vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue] - its stub forgets the defaults


def _family(arm: str) -> str:
    return arm if "+" in arm else arm.partition(":")[0]
