"""A heat map of accuracy, depth against length, in Vega-Lite: a panel for each arm, a few side by side."""

from collections.abc import Mapping

from suite.report.page import Spec

PANELS = 3  # side by side
PANEL_HEIGHT = 200
BESIDE = 2  # columns of a panel left of its cells, with the depths
HEAD, FOOT = 2.4, 2.5  # rows of a panel above its cells, with its name, and below, with the lengths
TEXT = {"type": "text", "baseline": "middle"}
LABEL = {"text": {"field": "label", "type": "nominal"}}
WEIGHTS = {False: 400, True: 700}  # of the letters of a length: whether it is the trained one


def draw(maps: Mapping[str, Mapping[tuple[int, int], float]], trained: int) -> Spec:
    """The accuracy of each arm at each (length, depth in percent). The trained length stands in bold.

    What stands in a name behind its first comma has a line of its own.
    It is one view, which is as wide as the page, as a facet cannot be.
    """
    lengths = sorted({length for cells in maps.values() for length, _ in cells})
    depths = sorted({depth for cells in maps.values() for _, depth in cells})
    squares, names, conditions, labels, beside = [], [], [], [], []
    for index, (name, cells) in enumerate(maps.items()):
        row, column = divmod(index, PANELS)
        left, top = column * (len(lengths) + 1 + BESIDE) + BESIDE, row * (HEAD + len(depths) + FOOT) + HEAD
        arm, _, condition = name.partition(", ")
        names.append({"x": left, "y": top - (1.7 if condition else 0.6), "label": arm})
        if condition:
            conditions.append({"x": left, "y": top - 0.6, "label": condition})
        for at in (0, len(depths) - 1):
            beside.append({"x": left - 0.2, "y": top + at + 0.5, "label": f"{depths[at]} %"})
        for at, length in enumerate(lengths):
            under = {"x": left + at + 0.5, "y": top + len(depths) + 0.8, "label": _short(length)}
            labels.append(under | {"trained": length == trained})
        for (length, depth), accuracy in cells.items():
            x, y = left + lengths.index(length), top + depths.index(depth)
            square = {"arm": name, "length": length, "depth": f"{depth} %", "accuracy": accuracy}
            squares.append(square | {"x": x, "x2": x + 1, "y": y, "y2": y + 1})
    rows, columns = -(-len(maps) // PANELS), min(len(maps), PANELS)
    high, wide = rows * (HEAD + len(depths) + FOOT), columns * (len(lengths) + 1 + BESIDE)
    places = {"x": _axis("x", [0, wide]), "y": _axis("y", [0, high], reverse=True)}
    layers = [
        *_layer(squares, {"type": "rect"}, _accuracy()),
        *_layer(names, TEXT | {"align": "left", "fontWeight": 600}, LABEL),
        *_layer(conditions, TEXT | {"align": "left"}, LABEL),
        *_layer(beside, TEXT | {"align": "right", "fontSize": 10}, LABEL),
        *(layer for bold in WEIGHTS for layer in _lengths([one for one in labels if one["trained"] == bold], bold)),
    ]
    size = {"width": "container", "height": PANEL_HEIGHT * rows, "autosize": {"type": "fit-x", "contains": "padding"}}
    padding = {"left": 4, "top": 8, "bottom": 4, "right": 12}
    return {"layer": layers, "encoding": places, "padding": padding, **size}


def _lengths(labels: list[Spec], bold: bool) -> list[Spec]:
    return _layer(labels, TEXT | {"align": "center", "fontSize": 9, "fontWeight": WEIGHTS[bold]}, LABEL)


def _accuracy() -> Spec:
    """The colour of a square, and what it says where it is pointed at."""
    scale = {"domain": [0, 1], "scheme": "viridis"}
    colour = {"field": "accuracy", "type": "quantitative", "scale": scale, "legend": {"title": None, "format": ".0%"}}
    titles = {"arm": "", "length": "tokens", "depth": "depth from", "accuracy": "accuracy"}
    tooltip = [{"field": field, "title": title, "type": "nominal"} for field, title in titles.items()]
    tooltip[-1] |= {"type": "quantitative", "format": ".1%"}
    return {"x2": {"field": "x2"}, "y2": {"field": "y2"}, "color": colour, "tooltip": tooltip}


def _axis(field: str, domain: list[float], *, reverse: bool = False) -> Spec:
    scale = {"domain": domain, "nice": False, "zero": False, "reverse": reverse}
    return {"field": field, "type": "quantitative", "axis": None, "scale": scale}


def _layer(values: list[Spec], mark: Spec, encoding: Spec) -> list[Spec]:
    """A layer of marks; none without values."""
    return [{"data": {"values": values}, "mark": mark, "encoding": encoding}] if values else []


def _short(length: int) -> str:
    """A length in few letters: 4k is 4,096."""
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)
