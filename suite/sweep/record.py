"""The record of a cell at a place: its rows and the marks of its end, in the directory of its job.

    <stem>.jsonl     a row a line, append-only, readable while it is written; in an object store <stem>.jsonl.d/
    <stem>.done      the number of rows and their crc32
    <stem>.failed    an empty file: the cell was set aside
    <stem>.cell      its owner and its attempts: suite/sweep/attempts.py

The stem of what depends on the place where it was measured carries that place: `step_time@<place>.0`.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from suite import files
from suite.files import Damaged
from suite.job import LONGEST, Cell, bounded, slug

Row = dict[str, Any]
TRAINING = "learning"  # the measure beside whose record checkpoints and final parameters lie


@dataclasses.dataclass(frozen=True)
class Record:
    """The files of one stem in the directory of a job."""

    folder: epath.Path
    stem: str

    @classmethod
    def at(cls, root: epath.PathLike, cell: Cell, place: str) -> "Record":
        """The record of a cell under `root`, as it is measured at a place."""
        name = stem(cell.measure, place if cell.placed else "", cell.repeat, cell.interleave_with)
        return cls(epath.Path(root) / "runs" / cell.job.id, name)

    @classmethod
    def of_row(cls, root: epath.PathLike, row: Row) -> "Record":
        """The record that a row stands in."""
        return cls(epath.Path(root) / "runs" / row["run_id"], stem_of(row))

    @property
    def key(self) -> str:
        """Where the owner and the attempts of the cell lie under --out."""
        return f"runs/{self.folder.name}/{self.stem}.cell"

    @property
    def name(self) -> str:
        return f"{self.folder.name}/{self.stem}"

    @functools.cached_property
    def directory(self) -> str:
        """The path of the folder as a text, asked of epath once: a sweep has many thousand records."""
        return os.fspath(self.folder)

    @property
    def start(self) -> str:
        """What the paths of all its files begin with."""
        return f"{self.directory}/{self.stem}"

    def file(self, suffix: str) -> str:
        """The path of one of the files, as a text."""
        return f"{self.start}.{suffix}"

    @property
    def checkpoints(self) -> epath.Path:
        """The folder of the checkpoints of a training."""
        return self._beside("checkpoints")

    @property
    def final(self) -> epath.Path:
        """The folder of the parameters at the end of a training."""
        return self._beside("final")

    def _beside(self, name: str) -> epath.Path:
        """A folder beside the rows, named with their place where they have one."""
        _, at, place = self.stem.partition("@")
        return self.folder / f"{name}{at}{place}"

    @property
    def rows_path(self) -> epath.Path:
        """The file of the rows; in an object store the folder of their objects."""
        return epath.Path(_rows_path(self.start))

    def rows(self) -> list[Row]:
        """The rows in the order in which they were written; lines that are no row are dropped."""
        return _rows(self.content())

    def append(self, row: Row) -> None:
        """Adds one row, whole or not at all; NaN and infinity are refused: they are outcomes, not numbers."""
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        if files.is_object(self.directory):
            self.rows_path.mkdir(parents=True, exist_ok=True)
            # One immutable object a row, by its place among them: with no append there, nothing is ever written twice.
            newest = max((path.name for path in self.rows_path.iterdir()), default=f"{-1:08d}.jsonl")
            (self.rows_path / f"{int(newest.partition('.')[0]) + 1:08d}.jsonl").write_bytes(line)
        else:
            _append_line(os.fspath(self.rows_path), line)

    def keep(self, wanted: Callable[[Row], bool]) -> list[Row]:
        """Drops the rows that are not wanted (those beyond a restored step) and returns the others."""
        content = self.content()
        kept = [row for row in _rows(content) if wanted(row)]
        if len(kept) == len(content.splitlines()):  # and no line is torn
            return kept
        if files.is_object(self.directory):
            for path in sorted(self.rows_path.iterdir(), reverse=True):  # the newest first, as if never written
                row = parse(path.read_bytes())
                if row is None or not wanted(row):
                    path.unlink()
        else:
            files.write(self.rows_path, "".join(json.dumps(row) + "\n" for row in kept))
        return kept

    def flush(self) -> None:
        """Returns when the rows are on the disk."""
        files.sync(epath.Path(self.file("jsonl")))

    def content(self) -> bytes:
        """The bytes of the rows."""
        return content_of(self.start)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do of the cell."""
        return self.is_done or self.is_failed

    @property
    def is_done(self) -> bool:
        """Whether the cell has all its rows, and they are those that it was marked done with."""
        return self.is_marked_done and not self.damage

    @property
    def is_marked_done(self) -> bool:
        return epath.Path(self.file("done")).exists()

    @property
    def is_failed(self) -> bool:
        return epath.Path(self.file("failed")).exists()

    def mark_done(self) -> None:
        """Marks the cell done, after its rows have reached the disk: a marker that outlives them would lose them."""
        self.flush()
        content = self.content()
        files.write(
            epath.Path(self.file("done")),
            json.dumps({"rows": len(_rows(content)), "crc32": zlib.crc32(content)}) + "\n",
        )

    def mark_failed(self) -> None:
        files.write(epath.Path(self.file("failed")), "")

    def put_aside(self, why: str) -> None:
        """Makes a cell that was marked done one that was never begun; its rows are kept for a person, who is told."""
        rows = self.rows_path
        number = sum(name.startswith(f"{rows.name}.bad") for name in files.names(self.folder))
        aside = rows.with_name(f"{rows.name}.bad{number}")
        if rows.exists():
            rows.rename(aside)
        files.remove(epath.Path(self.file("done")))
        print(f"crossover: {rows} is begun again ({why}); what was there is {aside.name}", file=sys.stderr)

    @property
    def damage(self) -> str:
        """What is wrong with the rows of a cell that was marked done, or nothing."""
        return _cached_damage(self, self._stamps())

    def damage_of(self, content: bytes) -> str:
        """What is wrong with these bytes of its rows, by its done marker."""
        return damage_of(self.start, content)

    def _stamps(self) -> tuple:
        """What tells whether rows and marker have changed."""
        if files.is_object(self.directory):
            rows, marker = self.rows_path, epath.Path(self.file("done"))
            return tuple(sorted(files.names(rows))) if rows.exists() else (), marker.stat().mtime
        stamps = []
        for suffix in ("jsonl", "done"):
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(self.file(suffix))
                stamps.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(stamps)


def content_of(start: str) -> bytes:
    """The bytes of the rows of a record by the start of its paths; of an object store those of its objects in a row."""
    try:
        if not files.is_object(start):
            return files.read(_rows_path(start))
        return b"".join(row.read_bytes() for row in sorted(epath.Path(_rows_path(start)).iterdir()))
    except FileNotFoundError:
        return b""


def damage_of(start: str, content: bytes) -> str:
    """What is wrong with these bytes of the rows of a record by its done marker, or nothing."""
    marker = f"{start}.done"
    try:
        written = files.read_json(marker, "rows", "crc32")
    except Damaged as damaged:
        return str(damaged)
    if zlib.crc32(content) == written["crc32"]:
        return ""
    n_rows = len(_rows(content))
    if n_rows != written["rows"]:
        return f"{n_rows} rows are there and {written['rows']} were written"
    return "its bytes are not those that were written"


def stem(measure: str, place: str = "", repeat: int = 0, interleave_with: str = "") -> str:
    """Measure, what it was interleaved with, and, where they matter, place and number of the fresh process."""
    name = ".".join(part for part in (slug(measure), slug(interleave_with)) if part)
    return bounded(name, LONGEST) + (f"@{place}.{repeat}" if place else "")


def stem_of(row: Row) -> str:
    """The stem of the record that a row stands in."""
    return stem(row["measure"], row["place"] if row["placed"] else "", row["repeat"], row["interleave_with"])


def stems(names: Iterable[str]) -> set[str]:
    """The stems that have rows, or were marked done, among the names of files in a directory."""
    suffixes = (".jsonl", ".jsonl.d", ".done")
    return {name.removesuffix(suffix) for name in names for suffix in suffixes if name.endswith(suffix)} - {""}


def parse(line: bytes) -> Row | None:
    """The row of a line; None where it is no row."""
    try:
        row = json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):  # no UTF-8, or no JSON
        return None
    return row if isinstance(row, dict) and row else None


def _rows_path(start: str) -> str:
    return f"{start}.jsonl.d" if files.is_object(start) else f"{start}.jsonl"


def _rows(content: bytes) -> list[Row]:
    return [row for line in content.split(b"\n") if (row := parse(line)) is not None]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number: append writes none")


def _append_line(path: str, line: bytes) -> None:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line  # a torn line ends here and is dropped by the reader
        if os.write(file, line) < len(line):  # one call, so that lines of two processes never mix
            raise OSError(errno.ENOSPC, "no room for a whole row", path)
    finally:
        os.close(file)


@functools.lru_cache(maxsize=1 << 16)
def _cached_damage(record: Record, stamps: tuple) -> str:
    """The damage of a record whose files bear these stamps: sweeps ask of every cell again and again."""
    return record.damage_of(record.content())
