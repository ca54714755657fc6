"""What a report is made of, before it is a page or Markdown."""

import dataclasses

from suite.report.frame import Spec


@dataclasses.dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Prose:
    text: str


@dataclasses.dataclass(frozen=True)
class Note:
    """Small print beneath what it belongs to."""

    text: str


@dataclasses.dataclass(frozen=True)
class Banner:
    """What must not be overlooked."""

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
class Facts:
    """Terms and what is said of each."""

    pairs: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure: its name as a file, its title, the Vega-Lite spec, what one would see in it, and how to read it."""

    name: str
    title: str
    spec: Spec
    seen: str
    note: str


@dataclasses.dataclass(frozen=True)
class Commands:
    """Shell commands that make again what stands above; with a summary they are folded away."""

    lines: tuple[str, ...]
    summary: str = ""


Block = Heading | Prose | Note | Banner | Table | Facts | Chart | Commands


@dataclasses.dataclass(frozen=True)
class Document:
    """The title, the one sentence under it, and the rest in its order."""

    title: str
    headline: str
    blocks: tuple[Block, ...]

    @property
    def charts(self) -> tuple[Chart, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Chart))
