"""The blocks of a report, which html.py and markdown.py write."""

import dataclasses
from typing import Any

Spec = dict[str, Any]  # of a figure, in Vega-Lite


@dataclasses.dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Prose:
    text: str


@dataclasses.dataclass(frozen=True)
class Note:
    """Small print beneath another block."""

    text: str


@dataclasses.dataclass(frozen=True)
class Banner:
    """A sentence that must not be overlooked."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells are text; the first column names its row. `notes` are numbered from one and stand beneath.

    A row of `cards` is a card by itself where the window is narrow; other tables scroll there.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    cards: bool = False


@dataclasses.dataclass(frozen=True)
class Terms:
    """Terms, each with its text."""

    pairs: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure: the name of its file, its title, the Vega-Lite spec, its values in words and how to read it."""

    name: str
    title: str
    spec: Spec
    alternative: str
    note: str


@dataclasses.dataclass(frozen=True)
class Commands:
    """Shell commands that make the blocks above again; folded away under a summary."""

    lines: tuple[str, ...]
    summary: str = ""


Block = Heading | Prose | Note | Banner | Table | Terms | Chart | Commands


@dataclasses.dataclass(frozen=True)
class Document:
    """The title, the sentence under it and the blocks in their order."""

    title: str
    headline: str
    blocks: tuple[Block, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Chart))
