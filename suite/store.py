"""The run directory: job.json, env.json, rows, done markers. Append-only, readable while it is written.

    <out>/schema.json
    <out>/runs/<job id>/{job.json, job.flags, env.json, <measure>.jsonl, <measure>.done, checkpoints/, final/}

What depends on the place where it was measured carries the place in its name: `step_time@<place>.jsonl`.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from suite.job import Cell, Job, differences, slug

Row = dict[str, Any]

# Of the layout of a directory. 1, which had no schema.json, is read: its rolling checkpoints have no manifest, so
# what was half trained begins again.
SCHEMA = 2

PACKAGE = pathlib.Path(__file__).parent.parent
RECORDED_VARIABLES = ("XLA_", "JAX_", "LIBTPU_", "NCCL_", "MALLOC_", "OMP_", "NPROC")
RECORDED_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy", "absl-py")


def check_writable(root: epath.PathLike) -> None:
    """Raises OSError, naming the directory, where nothing can be written under `root`."""
    root = epath.Path(root)
    probe = root / f".probe-{uuid.uuid4().hex[:8]}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to --out={root}: {error.strerror or error}; choose another directory") from error


def check_schema(root: epath.PathLike) -> None:
    """ValueError where the records under `root` were written by a newer version than this one can read."""
    stored = epath.Path(root) / "schema.json"
    found = json.loads(stored.read_text())["schema"] if stored.exists() else 1
    if found > SCHEMA:
        raise ValueError(
            f"{root} holds records of schema {found} and this version reads up to {SCHEMA}; use the newer version"
        )


def mark_schema(root: epath.PathLike) -> None:
    """Says under `root` what the layout of its records is."""
    check_schema(root)
    write(epath.Path(root) / "schema.json", json.dumps({"schema": SCHEMA}) + "\n")


def open_run(root: epath.PathLike, job: Job) -> epath.Path:
    """The directory of a job, made on first use; ValueError where another job's records lie there."""
    check_run(root, job)
    run = run_path(root, job)
    if not (run / "job.json").exists():
        run.mkdir(parents=True, exist_ok=True)
        write(run / "job.flags", job.to_flagfile())
        write(run / "job.json", job.to_json())
    return run


def check_run(root: epath.PathLike, job: Job) -> None:
    """ValueError shows the difference where the directory of a job holds the records of another."""
    stored = run_path(root, job) / "job.json"
    if stored.exists():
        changes = differences(json.loads(stored.read_text()), json.loads(job.to_json()))
        if changes:
            raise ValueError(
                f"{stored.parent} holds the records of another job ({'; '.join(changes)}); use another --out"
            )


def run_path(root: epath.PathLike, job: Job) -> epath.Path:
    return epath.Path(root) / "runs" / job.id


def write(path: epath.Path, content: str | bytes) -> None:
    """Writes a whole file so that a reader sees the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    if _is_object(path):
        path.write_bytes(data)
        return
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    beside.write_bytes(data)
    os.replace(beside, path)


def append(run: epath.Path, kind: str, row: Row) -> None:
    """Adds one row, whole or not at all; NaN and infinity are refused: they are outcomes, not numbers."""
    line = json.dumps(row, allow_nan=False).encode() + b"\n"
    if _is_object(run):
        folder = run / f"{kind}.jsonl.d"
        folder.mkdir(parents=True, exist_ok=True)
        # One immutable object a row, by its place among them: with no append there, nothing is ever written twice.
        newest = max((path.name for path in folder.iterdir()), default=f"{-1:08d}.jsonl")
        (folder / f"{int(newest.partition('.')[0]) + 1:08d}.jsonl").write_bytes(line)
        return
    path = os.fspath(run / f"{kind}.jsonl")
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line  # a torn line ends here and is dropped by the reader
        if os.write(file, line) < len(line):  # one call, so that lines of two processes never mix
            raise OSError(errno.ENOSPC, "no room for a whole row", path)
    finally:
        os.close(file)


def rows(run: epath.Path, kind: str) -> list[Row]:
    """The rows of one kind, in the order in which they were written; torn lines are dropped."""
    if _is_object(run):
        folder = run / f"{kind}.jsonl.d"
        texts = [path.read_text() for path in sorted(folder.iterdir())] if folder.exists() else []
    else:
        path = run / f"{kind}.jsonl"
        texts = [path.read_text()] if path.exists() else []
    return [row for text in texts for line in text.splitlines() if (row := _parse(line)) is not None]


def keep(run: epath.Path, kind: str, wanted: Callable[[Row], bool]) -> list[Row]:
    """Drops the rows that are not wanted (those beyond a restored step) and returns the others."""
    before = rows(run, kind)
    after = [row for row in before if wanted(row)]
    if len(after) == len(before):
        return after
    if _is_object(run):
        for path in sorted((run / f"{kind}.jsonl.d").iterdir(), reverse=True):  # the newest first, as if never written
            row = _parse(path.read_text())
            if row is None or not wanted(row):
                path.unlink()
    else:
        write(run / f"{kind}.jsonl", "".join(json.dumps(row) + "\n" for row in after))
    return after


def mark_done(run: epath.Path, kind: str) -> None:
    """Marks a cell done, after its rows have reached the disk: a marker that outlives them would lose them."""
    rows = run / f"{kind}.jsonl"
    if not _is_object(run) and rows.exists():
        with open(rows, "rb") as file:
            os.fsync(file.fileno())
    write(run / f"{kind}.done", "")


def is_done(run: epath.Path, kind: str) -> bool:
    return (run / f"{kind}.done").exists()


def kind(measure: str, place: str = "", repeat: int = 0, group: str = "") -> str:
    """The stem of a cell's files: measure, what it was interleaved with, place where it matters, fresh process."""
    return ".".join(part for part in (slug(measure), slug(group)) if part) + (f"@{place}.{repeat}" if place else "")


def load(root: epath.PathLike) -> list[Row]:
    """Every row under `root`, joined with the fields of its job; the row's own facts (the solved width) win."""
    check_schema(root)
    return [
        dataclasses.asdict(job) | {"reference_width": job.width} | row
        for job, run in all_runs(root)
        for row in all_rows(run)
    ]


def job_of(row: Row) -> Job:
    """The job that a loaded row is joined with."""
    fields = {field.name: row[field.name] for field in dataclasses.fields(Job)}
    return Job.from_json(json.dumps(fields | {"width": row["reference_width"]}))


def all_runs(root: epath.PathLike) -> Iterator[tuple[Job, epath.Path]]:
    """Every job that has a directory under `root`."""
    runs = epath.Path(root) / "runs"
    if not runs.exists():
        return
    for run in sorted(runs.iterdir()):
        if (run / "job.json").exists():
            yield Job.from_json((run / "job.json").read_text()), run


def all_rows(run: epath.Path) -> list[Row]:
    """All rows of a run, of whatever kind."""
    stems = {
        path.name.split(".jsonl")[0]
        for path in run.iterdir()
        if ".jsonl" in path.name and not path.name.startswith(".")
    }
    return [row for stem in sorted(stems) for row in rows(run, stem)]


def of_cell(rows: Iterable[Row], cell: Cell) -> list[Row]:
    """The rows that a cell has written."""
    wanted = (cell.job.id, cell.measure, cell.repeat, cell.group)
    return [row for row in rows if (row["run_id"], row["measure"], row["repeat"], row["group"]) == wanted]


def of_place(rows: list[Row], place: str) -> list[Row]:
    """The rows that were measured at a place, and those that do not depend on one."""
    return [row for row in rows if not row["placed"] or row["place"] == place]


def environment() -> Row:
    """What the process runs on and with; devices are added by who has touched them."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": dict(_versions()),
        "variables": {name: value for name, value in os.environ.items() if name.startswith(RECORDED_VARIABLES)},
        "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
        **provenance(()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    """Of the packages that are installed: images for accelerators often lack tensorflow-datasets."""
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def provenance(own_files: Iterable[pathlib.Path]) -> Row:
    """The commit and a hash of the sources that computed a row, a user's own files included."""
    digest = hashlib.sha256(_own_sources())
    for path in own_files:
        digest.update(path.read_bytes())
    return {"commit": _commit(), "source": digest.hexdigest()[:16]}


@functools.cache
def _own_sources() -> bytes:
    sources = sorted((PACKAGE / "suite").rglob("*.py"))
    judging = (PACKAGE / "suite" / "report", PACKAGE / "suite" / "claims")  # they read rows and make none
    return b"".join(path.read_bytes() for path in sources if path.parent not in judging)


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def _commit() -> str:
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"


def _parse(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def _is_object(path: epath.Path) -> bool:
    return "://" in os.fspath(path)
