"""Writes a document as one HTML file that asks no network: it holds the style, the figures and the JavaScript."""

import html
import json
import re
from collections.abc import Iterator

from suite.claims import VERDICTS
from suite.report import figures
from suite.report.document import Banner, Block, Chart, Commands, Document, Heading, Note, Prose, Table, Terms

# Nothing may be loaded, whatever the text of a row is; Vega compiles its expressions.
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #5b6470; --line: #d9dde2; --paper: #fff; --soft: #f4f5f7;
  --holds: #006b4f; --fails: #a53f00; --warn: #fff3d6; --warn-line: #b78103; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --quiet: #9aa4b0; --line: #343b44; --paper: #14171b;
  --soft: #1d2126; --holds: #3fbf97; --fails: #f08a4b; --warn: #33290f; --warn-line: #b78103; } }
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
const specs = read("specs"), looks = read("looks");
const dark = matchMedia("(prefers-color-scheme: dark)");
const draw = () => specs.forEach((spec, index) => vegaEmbed("#chart-" + index, spec,
  {mode: "vega-lite", renderer: "svg", actions: false, config: looks[dark.matches ? "dark" : "light"]}));
dark.addEventListener("change", draw);
draw();
"""

NUMERIC = re.compile(r"^[-+]?[\d,.]+(e-?\d+)?( ?[%a-zA-Zµ/]{1,7})?$|^unknown")


def render(document: Document) -> str:
    """The page; every text of a row or a flag is escaped."""
    specs = [chart.spec for chart in document.charts]
    numbers = {id(chart): index for index, chart in enumerate(document.charts)}
    body = "\n".join(part for block in document.blocks for part in _block(block, numbers))
    scripts = f"""{_data("specs", specs)}
{_data("looks", {"light": figures.config(figures.LIGHT), "dark": figures.config(figures.DARK)})}
<script type="module">{figures.javascript()}</script>
<script type="module">{DRAW}</script>"""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(document.title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header><p class="title">{_text(document.title)}</p>
<h1>{_text(document.headline)}</h1></header>
{body}
{scripts if specs else ""}
</body>
</html>
"""


def _block(block: Block, numbers: dict[int, int]) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"<h{level}>{_text(text)}</h{level}>"
        case Prose(text):
            yield f"<p>{_text(text)}</p>"
        case Note(text):
            yield f'<p class="notes">{_text(text)}</p>'
        case Banner(text):
            yield f'<p class="banner">{_text(text)}</p>'
        case Terms(pairs):
            yield "<dl>" + "".join(f"<dt>{_text(term)}</dt><dd>{_cell(text)}</dd>" for term, text in pairs) + "</dl>"
        case Chart(_, title, _, alternative, note):
            at = f'id="chart-{numbers[id(block)]}"'
            drawn = f'<div class="chart" {at} role="img" aria-label="{_text(alternative)}"></div>'
            read = f'<p class="notes">{_text(note)}</p>' if note else ""
            yield f"<figure><figcaption>{_text(title)}</figcaption>{drawn}{read}</figure>"
        case Commands(lines, summary):
            text = f"<pre>{_text(chr(10).join(lines))}</pre>"
            title = _text(summary or "the command that makes this again")
            yield f'<details class="again"><summary>{title}</summary>{text}</details>'
        case Table(columns, rows, notes, cards):
            yield _table(columns, rows, "cards" if cards else "scroll")
            yield from (f'<p class="notes">[{number}] {_text(note)}</p>' for number, note in enumerate(notes, 1))


def _table(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...], box: str) -> str:
    """A table that scrolls, or turns into cards, where the window is narrow; numbers are aligned to the right."""
    classes = []
    for column in range(len(columns)):
        cells = [row[column] for row in rows if row[column]]
        numeric = column > 0 and 2 * sum(bool(NUMERIC.match(cell)) for cell in cells) > len(cells)
        longest = max((len(cell) for cell in cells), default=0)
        classes.append("number" if numeric else "long" if longest > 60 else "short" if longest > 14 else "")
    shares = _shares(rows) if box == "cards" and rows else [""] * len(columns)
    head = "".join(
        f'<th scope="col"{_class(name)}{share}>{_text(column)}</th>'
        for column, name, share in zip(columns, classes, shares, strict=True)
    )
    lines = []
    for row in rows:
        first, *others = row
        cells = "".join(
            f'<td{_class(name)} data-column="{_text(column)}">{_cell(cell)}</td>'
            for column, cell, name in zip(columns[1:], others, classes[1:], strict=True)
        )
        lines.append(f'<tr><th scope="row">{_text(first)}</th>{cells}</tr>')
    return f'<div class="{box}"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _shares(rows: tuple[tuple[str, ...], ...]) -> list[str]:
    """The width of each column, by the square root of its text: a long column takes more room and more lines."""
    lengths = [max(20.0, sum(map(len, column)) / len(column)) ** 0.5 for column in zip(*rows, strict=True)]
    return [f' style="width:{100 * length / sum(lengths):.1f}%"' for length in lengths]


def _cell(text: str) -> str:
    """The text of a cell; a verdict at its start is set in bold."""
    word, colon, rest = text.partition(":")
    if colon and word in VERDICTS:
        return f'<b class="{word}">{word}</b>:{_text(rest)}'
    return _text(text)


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _data(name: str, value: object) -> str:
    # No "<" in the text: it could close the element, whatever an arm is called.
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _text(text: str) -> str:
    return html.escape(text)
