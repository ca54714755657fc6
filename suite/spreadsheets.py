"""CSV that spreadsheets open: a text that they would run as a formula stands after an apostrophe, a number as it is."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

# By what a cell begins where a spreadsheet takes it for a formula, the wide forms of = + - @ too; and the apostrophe.
RUNS = re.compile(r"\s*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20]|[\t\r\n']")


def text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with its head."""
    return "".join(map(_line, [columns, *rows]))


def read(text: str) -> list[list[str]]:
    """The head and the rows of such a table, cells as they were before they were quoted."""
    return [[_unquoted(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""))]


def _line(row: Sequence[Any]) -> str:
    buffer = io.StringIO()
    # A writer quotes a cell for the letters that end its lines: either of these would begin a row of its own.
    csv.writer(buffer, lineterminator="\r\n").writerow(_quoted(cell) if isinstance(cell, str) else cell for cell in row)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _quoted(cell: str) -> str:
    return f"'{cell}" if RUNS.match(cell) else cell


def _unquoted(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and RUNS.match(cell[1:]) else cell
