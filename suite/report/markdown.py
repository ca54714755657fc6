"""Writes a document as Markdown, readable in a terminal, with its figures as PNG."""

import re
from collections.abc import Iterator

from suite.report.document import Banner, Block, Chart, Commands, Document, Heading, Note, Prose, Table, Terms


def render(document: Document) -> str:
    lines = [f"# {_text(document.title)}", "", f"**{_text(document.headline)}**", ""]
    for block in document.blocks:
        lines += [*_block(block), ""]
    return "\n".join(lines)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"{'#' * level} {_text(text)}"
        case Prose(text) | Note(text):
            yield _text(text)
        case Banner(text):
            yield f"> **{_text(text)}**"
        case Terms(pairs):
            yield from (f"- **{_text(term)}:** {_text(text)}" for term, text in pairs)
        case Chart(name, title, _, alternative, note):
            yield f"**{_text(title)}**"
            yield ""
            yield f"![{_text(alternative)}](figures/{name}.png)"
            yield ""
            yield _text(note)
        case Commands(lines, summary):
            if summary:
                yield f"{_text(summary[:1].upper() + summary[1:])}:"
                yield ""
            yield from ("    " + line for line in lines)
        case Table(columns, rows, notes):
            yield from _table(columns, rows)
            for number, note in enumerate(notes, 1):
                yield ""
                yield f"[{number}] {_text(note)}"


def _table(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> Iterator[str]:
    """The lines of a table, padded for a terminal."""
    cells = [[_text(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    widths = [width if width <= 48 else 0 for width in widths]  # whole sentences are not padded
    head, *body = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    yield head
    yield "|" + "|".join("-" * (max(width, 3) + 2) for width in widths) + "|"
    yield from body


def _text(text: str) -> str:
    """The text in one line, with Markdown's markup escaped."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))
