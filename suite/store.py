"""The run directory: job.json, env.json, rows, done markers. Append-only, readable while it is written.

    <out>/runs/<job id>/{job.json, job.flags, env.json, <measure>.jsonl, <measure>.done, checkpoints/}

What depends on the place where it was measured carries the place in its name: `step_time@<place>.jsonl`.
"""

import dataclasses
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

from suite.job import Job, differences, slug

Row = dict[str, Any]

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
    line = json.dumps(row, allow_nan=False) + "\n"
    if _is_object(run):  # no append there: one immutable object a flush
        folder = run / f"{kind}.jsonl.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{len(list(folder.iterdir())):08d}.jsonl").write_text(line)
        return
    with open(run / f"{kind}.jsonl", "ab+") as file:
        if file.tell() and _last_byte(file) != b"\n":
            line = "\n" + line  # a torn line ends here and is dropped by the reader
        file.write(line.encode())


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
    if len(after) < len(before):
        text = "".join(json.dumps(row) + "\n" for row in after)
        if _is_object(run):
            for path in (run / f"{kind}.jsonl.d").iterdir():
                path.unlink()
            (run / f"{kind}.jsonl.d" / f"{0:08d}.jsonl").write_text(text)
        else:
            write(run / f"{kind}.jsonl", text)
    return after


def mark_done(run: epath.Path, kind: str) -> None:
    write(run / f"{kind}.done", "")


def is_done(run: epath.Path, kind: str) -> bool:
    return (run / f"{kind}.done").exists()


def kind(measure: str, place: str = "", repeat: int = 0, group: str = "") -> str:
    """The stem of a cell's files: measure, what it was interleaved with, place where it matters, fresh process."""
    return ".".join(part for part in (slug(measure), slug(group)) if part) + (f"@{place}.{repeat}" if place else "")


def load(root: epath.PathLike) -> list[Row]:
    """Every row under `root`, joined with the fields of its job; the row's own facts (the solved width) win."""
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
        "packages": {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
        "variables": {name: value for name, value in os.environ.items() if name.startswith(RECORDED_VARIABLES)},
        "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
        **provenance(()),
    }


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


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _is_object(path: epath.Path) -> bool:
    return "://" in os.fspath(path)
