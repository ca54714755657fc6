"""The report: reads records, derives ratios, writes HTML, Markdown, PNG, CSV and JSON. Needs no JAX."""

import contextlib
import json
from collections.abc import Iterator, Sequence

from etils import epath

from suite import learning_rates, parts
from suite.report import calibration, charts, diff, findings, markdown, page, results, sections, tuning
from suite.report.document import Document
from suite.report.records import Gathered, Problem, gather
from suite.sweep import store


def write(
    out: epath.PathLike,
    thresholds: Sequence[str] = (),
    more_claims: Sequence[str] = (),
    to: epath.PathLike | None = None,
) -> epath.Path:
    """Draws the report of a directory from what is there; returns the path of report.html, in `out` or in `to`.

    Under the reader's own thresholds, each `claim.name=value`, it is written into `rejudged`: the ruled one stays.
    Claims outside suite/claims are judged where `more_claims` names them: no record's word runs a file.
    """
    folder = epath.Path(to or out) / "rejudged" if thresholds else epath.Path(to or out)
    found = gather(out, thresholds, more_claims)
    with parts.reading_records(), _writing(folder):
        document = sections.document(found)
        store.write(folder / "results.csv", results.text(found.every_row))
        store.write(folder / "report.json", findings.text(found, document.headline))
        return _write(document, folder, "report")


def write_diff(first: Gathered, second: Gathered, out: epath.PathLike) -> epath.Path:
    """Sets two gathered directories side by side; returns the path of diff.html in `out`."""
    folder = epath.Path(out)
    with parts.reading_records(), _writing(folder):
        return _write(diff.document(first, second), folder, "diff")


def write_rates(curves: Sequence[learning_rates.Curve], command: str, out: epath.PathLike) -> epath.Path:
    """How the learning rates were chosen, and rates.csv, the table that is looked up; returns the path of the table."""
    folder = epath.Path(out)
    _write(tuning.document(curves, command), folder, "rates")
    choices = [curve.choice() for curve in curves]
    ordered = sorted(choices, key=lambda choice: (choice.task, choice.length, choice.short_conv, choice.arm))
    store.write(folder / "rates.csv", learning_rates.text(ordered))
    return folder / "rates.csv"


def write_calibration(
    rows: Sequence[store.Row], environment: store.Row, command: str, out: epath.PathLike
) -> epath.Path:
    """How our forms compare with each other and with baselines; returns the path of calibration.html."""
    folder = epath.Path(out)
    store.write(folder / "calibration.json", calibration.text(rows))
    return _write(calibration.document(rows, environment, command), folder, "calibration")


def headline(folder: epath.PathLike) -> str:
    """The sentence at the top of the report that was written last."""
    return json.loads((epath.Path(folder) / "report.json").read_text())["headline"]


def problems(folder: epath.PathLike) -> list[Problem]:
    """What the report that was written last has left out, or says is not to be relied upon."""
    return [Problem(**found) for found in json.loads((epath.Path(folder) / "report.json").read_text())["problems"]]


@contextlib.contextmanager
def _writing(folder: epath.Path) -> Iterator[None]:
    """Makes the folder; OSError says how a report of records that may only be read is written elsewhere."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"cannot write the report to {folder}: {why}; --to=DIRECTORY writes it elsewhere") from error


def _write(document: Document, folder: epath.Path, name: str) -> epath.Path:
    if document.charts:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    for chart in document.charts:
        store.write(folder / "figures" / f"{chart.name}.png", charts.png(chart.spec))
    store.write(folder / f"{name}.md", markdown.render(document))
    store.write(folder / f"{name}.html", page.render(document))
    return folder / f"{name}.html"
