"""The report: reads records, derives ratios, writes HTML, Markdown, PNG, CSV and JSON. Needs no JAX."""

import json
import uuid

from etils import epath

from suite.report import charts, findings, markdown, page, results, sections
from suite.report.records import gather


def write(out: epath.PathLike) -> epath.Path:
    """Draws the report of a directory from what is there; returns the path of report.html."""
    folder = epath.Path(out)
    found = gather(out)
    document = sections.document(found)
    _write(folder / "results.csv", results.text(found.rows).encode())
    _write(folder / "report.json", findings.text(found, document.headline).encode())
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for chart in document.charts:
        _write(folder / "figures" / f"{chart.name}.png", charts.png(chart.spec))
    _write(folder / "report.md", markdown.render(document).encode())
    _write(folder / "report.html", page.render(document).encode())
    return folder / "report.html"


def headline(out: epath.PathLike) -> str:
    """The sentence at the top of the report that was written last."""
    return json.loads((epath.Path(out) / "report.json").read_text())["headline"]


def _write(path: epath.Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    beside.write_bytes(content)
    beside.replace(path)
