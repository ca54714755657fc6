"""A page: its blocks, and the HTML, Markdown and PNG files that show them.

The HTML is one file that asks no network: it holds the style, the figures and the JavaScript. Markdown can be read in a
terminal. Every text of a row or a flag is escaped in both. Links lead to headings and charts of the same page.
"""

import contextlib
import dataclasses
import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from suite import files
from suite.claims import VERDICTS
from suite.job import slug

Spec = dict[str, Any]  # of a figure, in Vega-Lite
Cells = tuple[str, ...]  # of a table's row

LIGHT = {"ink": "#1b1f24", "quiet": "#5b6470", "grid": "#e3e6ea", "paper": "#ffffff"}
DARK = {"ink": "#e6e8eb", "quiet": "#9aa4b0", "grid": "#2e343c", "paper": "#14171b"}

# Nothing may be loaded, whatever the text of a row is; Vega compiles its expressions.
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #5b6470; --line: #d9dde2; --paper: #fff; --soft: #f4f5f7;
  --link: #0b5cad; --holds: #006b4f; --fails: #a53f00; --warn: #fff3d6; --warn-line: #b78103; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --quiet: #9aa4b0; --line: #343b44; --paper: #14171b;
  --soft: #1d2126; --link: #7db7f5; --holds: #3fbf97; --fails: #f08a4b; --warn: #33290f; --warn-line: #b78103; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1.25rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
header p.title { margin: 0; color: var(--quiet); }
h1 { font-size: 1.125rem; line-height: 1.4; font-weight: 600; margin: .25rem 0 .75rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
header + h2 { margin: 0; padding: 0; border: 0; }
h3 { font-size: 1rem; font-weight: 500; margin: 1.25rem 0 -.25rem; }
p { max-width: 48rem; margin: .5rem 0; }
.banner { border-left: 4px solid var(--warn-line); background: var(--warn); padding: .6rem .9rem; max-width: none; }
.scroll, .cards { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.4; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; }
tbody th { color: var(--ink); }
td { font-variant-numeric: tabular-nums; min-width: 4rem; white-space: pre-line; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.short { min-width: 8rem; } td.long { min-width: 14rem; }
.holds { color: var(--holds); } .fails { color: var(--fails); }
dl { display: grid; grid-template-columns: 8rem 1fr; gap: .3rem 1rem; margin: .75rem 0; }
dt { color: var(--quiet); } dd { margin: 0; min-width: 0; max-width: 60rem; }
figure { margin: 1.25rem 0; max-width: 66rem; } figcaption { font-weight: 500; margin-bottom: .25rem; }
.chart { width: 100%; min-height: 300px; }
.notes, .again { font-size: .8125rem; color: var(--quiet); margin: .25rem 0; max-width: none; }
pre { font: .8125rem/1.5 ui-monospace, monospace; background: var(--soft); padding: .5rem .75rem; margin: .25rem 0;
  overflow-x: auto; color: var(--ink); }
summary { cursor: pointer; }
a { color: var(--link); text-underline-offset: .15em; } a:not(:hover) { text-decoration-color: var(--line); }
nav { margin: 1.5rem 0; } nav p { font-weight: 500; }
nav ul { columns: 16rem; margin: 0; padding: 0; list-style: none; font-size: .875rem; }
nav li { break-inside: avoid; padding: .1rem 0; }
.cards { margin: .25rem 0; } .cards table { font-size: .8125rem; line-height: 1.35; table-layout: fixed; width: 100%; }
.cards td { min-width: 0; }
@media (max-width: 40rem) { body { padding: 1rem .9rem 3rem; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; } }
@media (max-width: 60rem) {
  .cards thead { display: none; } .cards table, .cards tbody, .cards tr, .cards th { display: block; }
  .cards tr { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .7rem; margin-bottom: .6rem; }
  .cards th, .cards td { border: 0; padding: .15rem 0; } .cards tbody th { font-size: .9375rem; font-weight: 600; }
  .cards td { display: flow-root; padding-left: 6.25rem; } .cards :empty { display: none; }
  .cards td::before { content: attr(data-column); color: var(--quiet); float: left; width: 5.75rem;
    margin-left: -6.25rem; } }
"""

DRAW = """
const read = id => JSON.parse(document.getElementById(id).textContent);
const specs = read("specs"), themes = read("themes"), charts = document.querySelectorAll(".chart");
const dark = matchMedia("(prefers-color-scheme: dark)");
const draw = () => specs.forEach((spec, index) => vegaEmbed(charts[index], spec,
  {mode: "vega-lite", renderer: "svg", actions: false, config: themes[dark.matches ? "dark" : "light"]}));
dark.addEventListener("change", draw);
draw();
"""

NUMERIC = re.compile(r"^[-+]?[\d,.]+(e-?\d+)?( ?[%a-zA-Zµ/]{1,7})?$|^unknown")


@dataclasses.dataclass(frozen=True)
class Link:
    """A link to an anchor of the same page."""

    text: str
    anchor: str

    def html(self) -> str:
        return f'<a href="#{self.anchor}">{_escaped(self.text)}</a>'

    def markdown(self) -> str:
        return f"[{_in_a_line(self.text)}](#{self.anchor})"


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading. Those of level 2 are the page's sections; each has an anchor, by default of its text."""

    text: str
    level: int = 2
    name: str = ""  # for the anchor, where two headings have one text or a link leads here

    @property
    def anchor(self) -> str:
        return slug(self.name or self.text)

    def html(self) -> str:
        identity = f' id="{self.anchor}"' if self.level == 2 else ""
        return f"<h{self.level}{identity}>{_escaped(self.text)}</h{self.level}>"

    def markdown(self) -> str:
        anchor = f"{_anchor(self.anchor)}\n" if self.level == 2 else ""
        return f"{anchor}{'#' * self.level} {_in_a_line(self.text)}"


@dataclasses.dataclass(frozen=True)
class Contents:
    """Links to the sections of a page."""

    links: tuple[Link, ...]

    def html(self) -> str:
        links = "".join(f"<li>{link.html()}</li>" for link in self.links)
        return f'<nav aria-labelledby="contents"><p id="contents">Contents</p><ul>{links}</ul></nav>'

    def markdown(self) -> str:
        return "\n".join(["**Contents**\n", *(f"- {link.markdown()}" for link in self.links)])


@dataclasses.dataclass(frozen=True)
class Prose:
    text: str

    def html(self) -> str:
        return f"<p>{_escaped(self.text)}</p>"

    def markdown(self) -> str:
        return _in_a_line(self.text)


@dataclasses.dataclass(frozen=True)
class Note:
    """Small print beneath another block."""

    text: str

    def html(self) -> str:
        return f'<p class="notes">{_escaped(self.text)}</p>'

    def markdown(self) -> str:
        return _in_a_line(self.text)


@dataclasses.dataclass(frozen=True)
class Banner:
    """A sentence that must not be overlooked."""

    text: str

    def html(self) -> str:
        return f'<p class="banner">{_escaped(self.text)}</p>'

    def markdown(self) -> str:
        return f"> **{_in_a_line(self.text)}**"


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells are text; the first column names its row. `notes` are numbered from one and stand beneath.

    A row of `cards` is a card by itself where the window is narrow; other tables scroll there. `links`, some for each
    row, stand in its first column in the place of the text.
    """

    columns: Cells
    rows: tuple[Cells, ...]
    notes: Cells = ()
    cards: bool = False
    links: tuple[tuple[Link, ...], ...] = ()

    def html(self) -> str:
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        classes = ["", *map(_class, columns[1:])]
        widths = _widths(columns) if self.cards and self.rows else [""] * len(columns)
        head = (
            f'<th scope="col"{name}{width}>{_escaped(column)}</th>'
            for column, name, width in zip(self.columns, classes, widths, strict=True)
        )
        lines = [f"<thead><tr>{''.join(head)}</tr></thead><tbody>"]
        names = [", ".join(link.html() for link in links) for links in self.links]
        for name, (_, *others) in zip(names or [_escaped(row[0]) for row in self.rows], self.rows, strict=True):
            cells = (
                f'<td{style} data-column="{_escaped(column)}">{_cell(cell)}</td>'
                for column, cell, style in zip(self.columns[1:], others, classes[1:], strict=True)
            )
            lines.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
        table = f'<div class="{"cards" if self.cards else "scroll"}"><table>{"".join(lines)}</tbody></table></div>'
        notes = (f'<p class="notes">[{number}] {_escaped(note)}</p>' for number, note in enumerate(self.notes, 1))
        return "\n".join([table, *notes])

    def markdown(self) -> str:
        """The lines of the table, padded for a terminal, and its notes."""
        cells = [[_in_a_line(cell) for cell in row] for row in (self.columns, *self.rows)]
        for row, links in zip(cells[1:], self.links, strict=False):
            row[0] = ", ".join(link.markdown() for link in links)
        widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
        widths = [width if width <= 48 else 0 for width in widths]  # whole sentences are not padded
        head, *body = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
            for row in cells
        ]
        rule = "|" + "|".join("-" * (max(width, 3) + 2) for width in widths) + "|"
        notes = [f"\n[{number}] {_in_a_line(note)}" for number, note in enumerate(self.notes, 1)]
        return "\n".join([head, rule, *body, *notes])


@dataclasses.dataclass(frozen=True)
class Terms:
    """Terms, each with its text."""

    pairs: tuple[tuple[str, str], ...]

    def html(self) -> str:
        pairs = (f"<dt>{_escaped(term)}</dt><dd>{_cell(text)}</dd>" for term, text in self.pairs)
        return f"<dl>{''.join(pairs)}</dl>"

    def markdown(self) -> str:
        return "\n".join(f"- **{_in_a_line(term)}:** {_in_a_line(text)}" for term, text in self.pairs)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure: the name of its file, its title, the Vega-Lite spec, its values in words and how to read it."""

    name: str
    title: str
    spec: Spec
    alternative: str
    note: str

    @property
    def anchor(self) -> str:
        return self.anchor_of(self.name)

    @staticmethod
    def anchor_of(name: str) -> str:
        """The anchor of the chart of a figure with this name."""
        return slug(f"figure {name}")

    def html(self) -> str:
        drawn = f'<div class="chart" role="img" aria-label="{_escaped(self.alternative)}"></div>'
        note = Note(self.note).html() if self.note else ""
        return f'<figure id="{self.anchor}"><figcaption>{_escaped(self.title)}</figcaption>{drawn}{note}</figure>'

    def markdown(self) -> str:
        picture = f"![{_in_a_line(self.alternative)}](figures/{self.name}.png)"
        return f"{_anchor(self.anchor)}**{_in_a_line(self.title)}**\n\n{picture}\n\n{_in_a_line(self.note)}"


@dataclasses.dataclass(frozen=True)
class Commands:
    """Shell commands that make the blocks above again; folded away under a summary."""

    lines: tuple[str, ...]
    summary: str = ""

    def html(self) -> str:
        summary = _escaped(self.summary or "the command that makes this again")
        lines = _escaped("\n".join(self.lines))
        return f'<details class="again"><summary>{summary}</summary><pre>{lines}</pre></details>'

    def markdown(self) -> str:
        summary = [f"{_in_a_line(self.summary[:1].upper() + self.summary[1:])}:\n"] if self.summary else []
        return "\n".join([*summary, *("    " + line for line in self.lines)])


Block = Heading | Contents | Prose | Note | Banner | Table | Terms | Chart | Commands


def contents(blocks: Iterable[Block]) -> Contents:
    """Links to the sections that these blocks begin."""
    headings = (block for block in blocks if isinstance(block, Heading) and block.level == 2)
    return Contents(tuple(Link(heading.text, heading.anchor) for heading in headings))


@dataclasses.dataclass(frozen=True)
class Page:
    """The title, the sentence under it and the blocks in their order."""

    title: str
    headline: str
    blocks: tuple[Block, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Chart))

    def html(self) -> str:
        title = _escaped(self.title)
        body = "\n".join(block.html() for block in self.blocks)
        scripts = f"""{_data("specs", [chart.spec for chart in self.charts])}
{_data("themes", {"light": theme(LIGHT), "dark": theme(DARK)})}
<script type="module">{_javascript()}</script>
<script type="module">{DRAW}</script>"""
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header><p class="title">{title}</p>
<h1>{_escaped(self.headline)}</h1></header>
{body}
{scripts if self.charts else ""}
</body>
</html>
"""

    def markdown(self) -> str:
        head = f"# {_in_a_line(self.title)}\n\n**{_in_a_line(self.headline)}**\n"
        return "\n".join([head, *(f"{block.markdown()}\n" for block in self.blocks)])


def write(page: Page, out: epath.PathLike, name: str) -> epath.Path:
    """Writes name.html, name.md and figures/ in a folder that is there; returns the path of the HTML."""
    folder = epath.Path(out)
    if page.charts:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    for chart in page.charts:
        files.write(folder / "figures" / f"{chart.name}.png", _png(chart.spec))
    files.write(folder / f"{name}.md", page.markdown())
    files.write(folder / f"{name}.html", page.html())
    return folder / f"{name}.html"


@contextlib.contextmanager
def writing(folder: epath.Path) -> Iterator[None]:
    """Makes the folder; OSError names --to where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"cannot write the report to {folder}: {why}; --to=DIRECTORY writes it elsewhere") from error


def theme(colours: dict[str, str], font: str = "system-ui, sans-serif") -> Spec:
    """The settings that every chart inherits; series that belong to no arm are drawn in ink."""
    ink, quiet, grid = colours["ink"], colours["quiet"], colours["grid"]
    axis = {"labelColor": quiet, "titleColor": quiet, "gridColor": grid, "domainColor": quiet, "tickColor": quiet}
    sizes = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    marks = {mark: {"color": ink} for mark in ("line", "point", "area", "circle")}
    marks |= {"text": {"color": quiet, "fontSize": 12}, "rule": {"color": quiet}}
    legend = {"labelColor": ink, "labelFontSize": 12, "labelLimit": 200, "symbolSize": 90}
    shared = {"background": colours["paper"], "font": font, "view": {"stroke": None}}
    return {**shared, "axis": axis | sizes, "legend": legend, **marks}


def _png(spec: Spec) -> bytes:
    """The figure on white, at twice a screen's resolution."""
    import vl_convert

    on_white = theme(LIGHT, "sans-serif")
    return vl_convert.vegalite_to_png(spec | {"width": 640}, scale=2, config=on_white, show_warnings=False)


def _javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one text, for a page that asks no network."""
    import vl_convert

    return vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue] - its stub forgets the defaults


def _class(cells: Cells) -> str:
    """The class of a column: numbers are aligned to the right, long texts have room."""
    cells = tuple(filter(None, cells))
    if 2 * sum(bool(NUMERIC.match(cell)) for cell in cells) > len(cells):
        return ' class="number"'
    longest = max(map(len, cells), default=0)
    return ' class="long"' if longest > 60 else ' class="short"' if longest > 14 else ""


def _widths(columns: list[Cells]) -> list[str]:
    """The width of each column, by the square root of its text: a long column takes more room and more lines."""
    lengths = [max(20.0, sum(map(len, column)) / len(column)) ** 0.5 for column in columns]
    return [f' style="width:{100 * length / sum(lengths):.1f}%"' for length in lengths]


def _cell(text: str) -> str:
    """The text of a cell; a verdict at its start is set in bold."""
    word = re.split("[:,]", text, maxsplit=1)[0]
    if word in VERDICTS:
        return f'<b class="{word}">{word}</b>{_escaped(text.removeprefix(word))}'
    return _escaped(text)


def _anchor(name: str) -> str:
    """A place to link to, in Markdown, which has none of its own."""
    return f'<a id="{name}"></a>'


def _data(name: str, value: object) -> str:
    # No "<" in the text: it could close the element, whatever an arm is called.
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _escaped(text: str) -> str:
    """The text as HTML shows it."""
    return html.escape(text)


def _in_a_line(text: str) -> str:
    """The text in one line, with Markdown's markup escaped."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))
