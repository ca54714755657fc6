"""The report: reads records, derives ratios, writes HTML, Markdown, PNG, CSV and JSON. Needs no JAX."""

import json

from etils import epath

from suite import store
from suite.report import charts, findings, markdown, page, results, sections
from suite.report.records import gather


def write(out: epath.PathLike) -> epath.Path:
    """Draws the report of a directory from what is there; returns the path of report.html."""
    folder = epath.Path(out)
    found = gather(out)
    document = sections.document(found)
    store.write(folder / "results.csv", results.text(found.rows))
    store.write(folder / "report.json", findings.text(found, document.headline))
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for chart in document.charts:
        store.write(folder / "figures" / f"{chart.name}.png", charts.png(chart.spec))
    store.write(folder / "report.md", markdown.render(document))
    store.write(folder / "report.html", page.render(document))
    return folder / "report.html"


def headline(out: epath.PathLike) -> str:
    """The sentence at the top of the report that was written last."""
    return json.loads((epath.Path(out) / "report.json").read_text())["headline"]
