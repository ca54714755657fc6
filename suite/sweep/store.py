"""The run directory: job.json, env.json, rows, done markers. Append-only, readable while it is written.

    <out>/schema.json
    <out>/runs/<job id>/{job.json, job.flags, env.json, <measure>.jsonl, <measure>.done, checkpoints/, final/}

What depends on the place where it was measured carries the place in its name: `step_time@<place>.jsonl`.
A done marker knows how many rows there are and their crc32; a run is named by its job's id. What does not fit is told
by `survey` and made again by the next launch.job or launch.compare.
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
import subprocess
import sys
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from suite import files, machine
from suite.files import Damaged, read_json, write
from suite.job import FIELDS_BEFORE, KNOB_BEFORE, LONGEST, Cell, Job, bounded, differences, slug
from suite.sweep import exit_codes

Row = dict[str, Any]

# Of the layout of a directory. All before are read. 1 had no schema.json and no manifests, so what was half trained
# begins again; the done markers and job.json of 1 and 2 guard nothing. 4 has other names for the fields of BEFORE.
SCHEMA = 4
# What fields of a row were called up to schema 3.
BEFORE = {**FIELDS_BEFORE, "implementation": "form", "interleave_with": "group"}
# Every row has these, whatever was measured.
OF_EVERY_ROW = ("run_id", "arm", "measure", "repeat", "interleave_with", "placed", "place", "outcome")

LOOKS = 20  # for a probe
PACKAGE = pathlib.Path(__file__).parents[2]
RECORDED_VARIABLES = ("XLA_", "JAX_", "LIBTPU_", "NCCL_", "MALLOC_", "OMP_", "NPROC")
RECORDED_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy", "absl-py")


def check_writable(root: epath.PathLike) -> None:
    """Raises OSError, naming the directory, where nothing can be written under `root` or in one of its runs."""
    root = epath.Path(root)
    probe = root / f".probe-{uuid.uuid4().hex[:8]}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to --out={root}: {error.strerror or error}; choose another directory") from error
    if files.is_object(root) or not (root / "runs").is_dir():
        return
    for run in os.scandir(root / "runs"):
        if run.is_dir() and not os.access(run, os.W_OK | os.X_OK):
            owner = pathlib.Path(run).owner()
            raise OSError(f"cannot write to {run.path}, which belongs to the user {owner}; {exit_codes.TO_SHARE}")


@contextlib.contextmanager
def probe(root: epath.PathLike) -> Iterator[str]:
    """The name of a file that lies under `root` meanwhile: another process sees it if it sees the same directory."""
    path = epath.Path(root) / f".probe-{uuid.uuid4().hex}"
    path.write_text(path.name)
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


def sees(root: epath.PathLike, name: str, seconds: float) -> bool:
    """Whether a probe of another process is seen under `root`, at once or, on a slow file system, soon."""
    path = epath.Path(root) / name
    for _ in range(LOOKS):
        with contextlib.suppress(OSError):
            if path.exists() and path.read_text() == name:
                return True
        threading.Event().wait(seconds / LOOKS)
    return False


def check_schema(root: epath.PathLike) -> None:
    """ValueError where the records under `root` were written by a newer version than this one can read.

    Damaged where their schema.json does not tell.
    """
    stored = epath.Path(root) / "schema.json"
    found = read_json(stored, "schema")["schema"] if stored.exists() else 1
    if found > SCHEMA:
        raise ValueError(
            f"{root} holds records of schema {found} and this version reads up to {SCHEMA}; use the newer version"
        )


def mark_schema(root: epath.PathLike) -> None:
    """Says under `root` what the layout of its records is."""
    try:
        check_schema(root)
    except Damaged as damage:
        print(f"crossover: {damage}; written anew", file=sys.stderr)
    write(epath.Path(root) / "schema.json", json.dumps({"schema": SCHEMA}) + "\n")


def open_run(root: epath.PathLike, job: Job) -> epath.Path:
    """The directory of a job, made on first use; ValueError where another job's records lie there."""
    run = run_path(root, job)
    whole = check_run(root, job)
    if not whole and (run / "job.json").exists():
        print(f"crossover: {run / 'job.json'} is damaged; written anew", file=sys.stderr)
    run.mkdir(parents=True, exist_ok=True)
    files.ensure(run / "job.flags", job.to_flagfile())
    if not whole:
        fields = dataclasses.asdict(job)
        write(run / "job.json", json.dumps({"id": job.id, **fields, "crc32": _checksum(fields)}, indent=1) + "\n")
    return run


def check_run(root: epath.PathLike, job: Job) -> bool:
    """Whether a job has a directory whose job.json is whole.

    ValueError shows the difference where it holds the records of another job.
    """
    run = run_path(root, job)
    if not (run / "job.json").exists():
        return False
    try:
        stored = read_job(run)
    except Damaged:  # the directory's name says which job it is
        return False
    if changes := differences(dataclasses.asdict(stored), dataclasses.asdict(job)):
        raise ValueError(f"{run} holds the records of another job ({'; '.join(changes)}); use another --out")
    return True


def read_job(run: epath.Path) -> Job:
    """The job of a directory. ValueError where job.json is another's or a newer version's; Damaged where it is cut."""
    path = run / "job.json"
    fields = read_json(path, "mixer", "task")
    name, checksum = fields.pop("id", run.name), fields.pop("crc32", None)  # schemas 1 and 2 have neither
    if checksum not in (None, _checksum(fields)):
        raise Damaged(path, "its fields are not those that were written")
    if name != run.name:
        raise ValueError(f"{path}: of {name}; the directory was copied or renamed, remove it or name it so again")
    try:
        return Job.from_json(json.dumps(fields))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def run_path(root: epath.PathLike, job: Job) -> epath.Path:
    return epath.Path(root) / "runs" / job.id


def append(run: epath.Path, kind: str, row: Row) -> None:
    """Adds one row, whole or not at all; NaN and infinity are refused: they are outcomes, not numbers."""
    line = json.dumps(row, allow_nan=False).encode() + b"\n"
    if files.is_object(run):
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
    """The rows of one kind, in the order in which they were written; lines that are none are dropped."""
    return _rows(_content(run, kind))


def keep(run: epath.Path, kind: str, wanted: Callable[[Row], bool]) -> list[Row]:
    """Drops the rows that are not wanted (those beyond a restored step) and returns the others."""
    content = _content(run, kind)
    after = [row for row in _rows(content) if wanted(row)]
    if len(after) == len(content.splitlines()):  # and no line is torn
        return after
    if files.is_object(run):
        for path in sorted((run / f"{kind}.jsonl.d").iterdir(), reverse=True):  # the newest first, as if never written
            row = _parse(path.read_bytes())
            if row is None or not wanted(row):
                path.unlink()
    else:
        write(run / f"{kind}.jsonl", "".join(json.dumps(row) + "\n" for row in after))
    return after


def mark_done(run: epath.Path, kind: str) -> None:
    """Marks a cell done, after its rows have reached the disk: a marker that outlives them would lose them."""
    flush(run, kind)
    write(run / f"{kind}.done", json.dumps(_guard(_content(run, kind))) + "\n")


def flush(run: epath.Path, kind: str) -> None:
    """Returns when the rows of a kind are on the disk."""
    files.sync(run / f"{kind}.jsonl")


def is_done(run: epath.Path, kind: str) -> bool:
    """Whether a cell has all its rows, and they are those that it was marked done with."""
    return (run / f"{kind}.done").exists() and not damage(run, kind)


def damage(run: epath.PathLike, kind: str) -> str:
    """What is wrong with the rows of a cell that was marked done, or nothing."""
    return _damage_of(os.fspath(run), kind, _stamps(os.fspath(run), kind))


def put_aside(run: epath.Path, kind: str, why: str) -> None:
    """Makes a cell that was marked done one that was never begun; its rows are kept for a person, who is told."""
    source = _rows_path(run, kind)
    number = sum(name.startswith(f"{source.name}.bad") for name in files.names(run))
    aside = source.with_name(f"{source.name}.bad{number}")
    if source.exists():
        source.rename(aside)
    files.remove(run / f"{kind}.done")
    print(f"crossover: {source} is begun again ({why}); what was there is {aside.name}", file=sys.stderr)


def kind(measure: str, place: str = "", repeat: int = 0, interleave_with: str = "") -> str:
    """The stem of a cell's files: measure, what it was interleaved with, place where it matters, fresh process."""
    name = ".".join(part for part in (slug(measure), slug(interleave_with)) if part)
    return bounded(name, LONGEST) + (f"@{place}.{repeat}" if place else "")


class Problem(NamedTuple):
    """Something under a directory that is left out of its records, or what of it is, and why."""

    path: epath.Path
    why: str


class Survey(NamedTuple):
    """All that can be read under a directory: its runs, their rows joined with the fields of their jobs, and the rest.

    The facts of a row (the solved width) win over the fields of its job.
    """

    runs: list[tuple[Job, epath.Path]]
    rows: list[Row]
    problems: list[Problem]


def survey(root: epath.PathLike) -> Survey:
    """Reads a directory whole, each file once. ValueError where it was written by a newer version."""
    found = Survey([], [], [])
    try:
        check_schema(root)
    except Damaged as damaged:
        found.problems.append(Problem(damaged.path, damaged.why))
    for run, job in _runs(root):
        if isinstance(job, Problem):
            found.problems.append(job)
            continue
        found.runs.append((job, run))
        fields = dataclasses.asdict(job) | {"reference_width": job.width}
        with _listing(run, found.problems):
            names = files.names(run)
            for kind in sorted(_kinds(names)):
                with _listing(run / f"{kind}.jsonl", found.problems):
                    read, problems = _checked_rows(run, kind, done=f"{kind}.done" in names)
                    found.rows.extend(fields | row for row in read)
                    found.problems.extend(problems)
    return found


@contextlib.contextmanager
def _listing(path: epath.Path, problems: list[Problem]) -> Iterator[None]:
    """What the system refuses, as of another user's file or on a disk that gives no more, is a problem of a path."""
    try:
        yield
    except OSError as error:
        problems.append(Problem(epath.Path(error.filename or path), error.strerror or str(error)))


def load(root: epath.PathLike) -> list[Row]:
    """Every row under `root` that fits, joined with the fields of its job."""
    return survey(root).rows


def job_of(row: Row) -> Job:
    """The job that a loaded row is joined with."""
    fields = {field.name: row[field.name] for field in dataclasses.fields(Job)}
    return Job.from_json(json.dumps(fields | {"width": row["reference_width"]}))


def all_runs(root: epath.PathLike) -> Iterator[tuple[Job, epath.Path]]:
    """Every job that has a directory under `root` which can be read, and that directory."""
    return ((job, run) for run, job in _runs(root) if isinstance(job, Job))


def all_rows(run: epath.Path) -> list[Row]:
    """All rows of a run, of whatever kind."""
    return [row for kind in sorted(_kinds(files.names(run))) for row in rows(run, kind)]


def kind_of(row: Row) -> str:
    """The kind of a row: the stem of the file that it stands in."""
    return kind(row["measure"], row["place"] if row["placed"] else "", row["repeat"], row["interleave_with"])


def of_cell(rows: Iterable[Row], cell: Cell) -> list[Row]:
    """The rows that a cell has written."""
    wanted = (cell.job.id, cell.measure, cell.repeat, cell.interleave_with)
    return [row for row in rows if (row["run_id"], row["measure"], row["repeat"], row["interleave_with"]) == wanted]


def of_place(rows: list[Row], place: str) -> list[Row]:
    """The rows that were measured at a place, and those that do not depend on one."""
    return [row for row in rows if not row["placed"] or row["place"] == place]


def environment() -> Row:
    """What the process runs on and with; devices are added by who has touched them."""
    return {
        "python": platform.python_version(),
        **machine.describe(),
        "packages": dict(_versions()),
        "variables": {name: value for name, value in os.environ.items() if name.startswith(RECORDED_VARIABLES)},
        "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
        **provenance({}),
    }


def _versions() -> Iterator[tuple[str, str]]:
    """Of the packages that are installed: images for accelerators often lack tensorflow-datasets."""
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def sources() -> dict[str, str]:
    """A hash of each file of the suite that takes part in a job, by its name."""
    files = [*_sources_of_rows(), PACKAGE / "launch" / "__init__.py", PACKAGE / "launch" / "job.py"]
    return {path.relative_to(PACKAGE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in files}


def provenance(own_files: Mapping[str, str]) -> Row:
    """The commit, a hash of those of the suite's sources that compute rows, and the hashes of a user's own files."""
    return {"commit": _commit(), "source": _source(), "own_source": dict(own_files)}


@functools.cache
def _source() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in _sources_of_rows())).hexdigest()[:16]


def _sources_of_rows() -> list[pathlib.Path]:
    sources = sorted((PACKAGE / "suite").rglob("*.py"))
    judging = [PACKAGE / "suite" / wing for wing in ("report", "claims", "judging")]  # they read rows and make none
    asking = [PACKAGE / "suite" / "sweep" / f"{name}.py" for name in ("comparison", "schedule", "progress")]
    return [path for path in sources if path.parent not in judging and path not in asking]


@functools.cache
def _commit() -> str:
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"


def _runs(root: epath.PathLike) -> Iterator[tuple[epath.Path, Job | Problem]]:
    """The directories of jobs, and for each its job or why it cannot be read; other things that lie there are none."""
    runs = epath.Path(root) / "runs"
    if not runs.exists():
        return
    for run in (runs / name for name in sorted(files.names(runs)) if not name.startswith(".")):
        path = run / "job.json"
        try:
            if path.exists():
                yield run, read_job(run)
            elif run.is_dir() and _kinds(files.names(run)):
                yield run, Problem(path, "it is missing; the rows beside it are left out")
        except Damaged as damaged:
            yield run, Problem(damaged.path, damaged.why)
        except OSError as error:  # of another user
            yield run, Problem(run, error.strerror or str(error))
        except ValueError as error:
            yield run, Problem(path, str(error).removeprefix(f"{path}: "))


def _kinds(names: Iterable[str]) -> set[str]:
    """The kinds that have rows, or were marked done, among the names in a directory."""
    suffixes = (".jsonl", ".jsonl.d", ".done")
    return {name.removesuffix(suffix) for name in names for suffix in suffixes if name.endswith(suffix)} - {""}


def _checked_rows(run: epath.Path, kind: str, *, done: bool) -> tuple[list[Row], list[Problem]]:
    """The rows of a kind that belong there, each once, and what is wrong with the others."""
    content = _content(run, kind)
    path = _rows_path(run, kind)
    if done and (why := _damage(run, kind, content)):
        return [], [Problem(path, f"{why}; left out, and made again by the next run")]
    whole = {}
    dropped = {"are no row": 0, "are of another cell": 0, "stand there twice": 0}
    *lines, last = content.split(b"\n")
    for line in [*lines, last]:
        row = _parse(line)
        if row is None:
            dropped["are no row"] += bool(line) and line is not last  # the last one may be being written
        elif any(key not in row for key in OF_EVERY_ROW):
            dropped["are no row"] += 1
        elif (row["run_id"], kind_of(row)) != (run.name, kind):
            dropped["are of another cell"] += 1
        elif whole.setdefault(_identity(row), row) is not row:
            dropped["stand there twice"] += 1
    return list(whole.values()), [
        Problem(path, f"{count} lines {what}; left out") for what, count in dropped.items() if count
    ]


def _identity(row: Row) -> str:
    """What tells a row from the others of its cell: all but what is measured, and by which version."""
    measured = {"commit", "source", "own_source"} | {
        key for key, value in row.items() if isinstance(value, float | list)
    }
    return json.dumps({key: value for key, value in row.items() if key not in measured}, sort_keys=True)


def _content(run: epath.PathLike, kind: str) -> bytes:
    """The bytes of a kind's rows; of an object store those of its objects, one after the other."""
    try:
        if not files.is_object(run):
            return files.read(f"{os.fspath(run)}/{kind}.jsonl")
        return b"".join(row.read_bytes() for row in sorted(_rows_path(epath.Path(run), kind).iterdir()))
    except FileNotFoundError:
        return b""


def _rows_path(run: epath.Path, kind: str) -> epath.Path:
    """The file of the rows of a kind; in an object store the folder of their objects."""
    return run / (f"{kind}.jsonl.d" if files.is_object(run) else f"{kind}.jsonl")


def _rows(content: bytes) -> list[Row]:
    return [row for line in content.split(b"\n") if (row := _parse(line)) is not None]


def _guard(content: bytes) -> dict[str, int]:
    """What a done marker says of its rows."""
    return {"rows": len(_rows(content)), "crc32": zlib.crc32(content)}


@functools.lru_cache(maxsize=1 << 16)
def _damage_of(run: str, kind: str, stamps: tuple) -> str:
    """Damage, by what tells whether files have changed: sweeps ask of every cell again and again."""
    return _damage(run, kind, _content(run, kind))


def _stamps(run: str, kind: str) -> tuple:
    if files.is_object(run):
        rows, marker = _rows_path(epath.Path(run), kind), epath.Path(run) / f"{kind}.done"
        return tuple(sorted(files.names(rows))) if rows.exists() else (), marker.stat().mtime
    stamps = []
    for suffix in (".jsonl", ".done"):
        with contextlib.suppress(FileNotFoundError):
            stat = os.stat(f"{run}/{kind}{suffix}")
            stamps.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(stamps)


def _damage(run: epath.PathLike, kind: str, content: bytes) -> str:
    marker = f"{os.fspath(run)}/{kind}.done"
    try:
        text = files.read(marker)
        if not text and not _is_guarded(epath.Path(run)):
            return ""
        wanted = files.parse_json(marker, text, "rows", "crc32")
    except IsADirectoryError:
        return f"{marker} is a directory"
    except Damaged as damaged:
        return str(damaged)
    if zlib.crc32(content) == wanted["crc32"]:
        return ""
    rows = len(_rows(content))
    if rows != wanted["rows"]:
        return f"{rows} rows are there and {wanted['rows']} were written"
    return "its bytes are not those that were written"


def _is_guarded(run: epath.Path) -> bool:
    """Whether a run was begun under schema 3, whose done markers are never empty."""
    try:
        return "crc32" in read_json(run / "job.json")
    except (Damaged, FileNotFoundError):
        return False


def _checksum(fields: Row) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):  # no UTF-8, or no JSON
        return None
    return _renamed(row) if isinstance(row, dict) and row else None


def _renamed(row: Row) -> Row:
    """The row under the names of this schema."""
    if "group" in row:  # as every row had it up to schema 3
        for name, before in BEFORE.items():
            if before in row:
                row[name] = row.pop(before)
        for name in {"arm", "solved"} & row.keys():
            row[name] = KNOB_BEFORE.sub("implementation=", str(row[name]))
    return row


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number: append writes none")
