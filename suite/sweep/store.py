"""The directory of a sweep: the runs of its jobs, what can be read of them, and what is wrong with the rest.

    <out>/schema.json
    <out>/compare.json   what a comparison was asked for
    <out>/crossovers/    the questions of launch.crossover, a file for each search
    <out>/runs/<job id>/{job.json, job.flags, env.json, checkpoints/, final/} and the records of the job's cells

What the steps of a training with a budget in seconds have made carries its place: checkpoints@<place>.0/, and its rows.

A run is named by its job's id. What does not fit is told by `survey` and made again by the next run.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import uuid
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from etils import epath

from suite import files
from suite.files import Damaged, read_json, write
from suite.job import Cell, Job, differences
from suite.sweep import exit_codes
from suite.sweep.record import Record, Row, parse, stem_of, stems

# Of the layout of a directory and the meaning of its rows. 5: the LSTM, the GRU and the Elman network start otherwise
# by default, so that nothing of before can stand beside what is trained now.
SCHEMA = 5
COMPARISON = "compare.json"
CROSSOVERS = "crossovers"
FIELDS = tuple(field.name for field in dataclasses.fields(Job))
# Every row has these, whatever was measured.
OF_EVERY_ROW = ("run_id", "arm", "measure", "repeat", "interleave_with", "placed", "place", "outcome")


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


def check_schema(root: epath.PathLike) -> None:
    """ValueError where the records under `root` were written by a version whose rows mean something else.

    Damaged where their schema.json does not tell.
    """
    stored = epath.Path(root) / "schema.json"
    schema = read_json(stored, "schema")["schema"] if stored.exists() else SCHEMA
    if schema != SCHEMA:
        raise ValueError(
            f"{root} holds records of schema {schema} and this version reads {SCHEMA}; "
            "choose another directory, or use the version that wrote them"
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
    fields = read_json(path, "mixer", "task", "id", "crc32")
    name = fields.pop("id")
    if fields.pop("crc32") != _checksum(fields):
        raise Damaged(path, "its fields are not those that were written")
    if name != run.name:
        raise ValueError(f"{path}: of {name}; the directory was copied or renamed, remove it or name it so again")
    try:
        return Job.from_json(json.dumps(fields))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def run_path(root: epath.PathLike, job: Job) -> epath.Path:
    return epath.Path(root) / "runs" / job.id


class Problem(NamedTuple):
    """Something under a directory that is left out of its records, or what of it is, and why."""

    path: epath.Path
    why: str


class Survey(NamedTuple):
    """All that can be read under a directory: its runs, their rows joined with the fields of their jobs, and the rest.

    The fields of a row (the solved width) win over the fields of its job.
    """

    runs: list[tuple[Job, epath.Path]]
    rows: list[Row]
    problems: list[Problem]


def survey(root: epath.PathLike) -> Survey:
    """Reads a directory whole, each file once. ValueError where it was written by another version."""
    whole = Survey([], [], [])
    try:
        check_schema(root)
    except Damaged as damaged:
        whole.problems.append(Problem(damaged.path, damaged.why))
    for run, job in _runs(root):
        if isinstance(job, Problem):
            whole.problems.append(job)
            continue
        whole.runs.append((job, run))
        fields = {name: getattr(job, name) for name in FIELDS} | {"reference_width": job.width}
        with _listing(run, whole.problems):
            names = files.names(run)
            for record in records(run, names):
                with _listing(record.rows_path, whole.problems):
                    read, problems = _checked_rows(record, done=f"{record.stem}.done" in names)
                    whole.rows.extend(fields | row for row in read)
                    whole.problems.extend(problems)
    return whole


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
    fields = {name: row[name] for name in FIELDS}
    return Job.from_json(json.dumps(fields | {"width": row["reference_width"]}))


def all_rows(run: epath.Path) -> list[Row]:
    """All rows of a run, of whatever measure."""
    return [row for record in records(run, files.names(run)) for row in record.rows()]


def records(run: epath.Path, names: Iterable[str]) -> list[Record]:
    """The records that have rows, or were marked done, among the names of the files of a run."""
    return [Record(run, stem) for stem in sorted(stems(names))]


def of_cell(rows: Iterable[Row], cell: Cell) -> list[Row]:
    """The rows that a cell has written."""
    wanted = (cell.job.id, cell.measure, cell.repeat, cell.interleave_with)
    return [row for row in rows if (row["run_id"], row["measure"], row["repeat"], row["interleave_with"]) == wanted]


def of_place(rows: list[Row], place: str) -> list[Row]:
    """The rows that were measured at a place, and those that do not depend on one."""
    return [row for row in rows if not row["placed"] or row["place"] == place]


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
            elif run.is_dir() and stems(files.names(run)):
                yield run, Problem(path, "it is missing; the rows beside it are left out")
        except Damaged as damaged:
            yield run, Problem(damaged.path, damaged.why)
        except OSError as error:  # of another user
            yield run, Problem(run, error.strerror or str(error))
        except ValueError as error:
            yield run, Problem(path, str(error).removeprefix(f"{path}: "))


def _checked_rows(record: Record, *, done: bool) -> tuple[list[Row], list[Problem]]:
    """The rows of a record that belong there, each once, and what is wrong with the others."""
    content = record.content()
    if done and (why := record.damage_of(content)):
        return [], [Problem(record.rows_path, f"{why}; left out, and made again by the next run")]
    whole = {}
    dropped = {"are no row": 0, "are of another cell": 0, "stand there twice": 0}
    *lines, last = content.split(b"\n")
    for line in [*lines, last]:
        row = parse(line)
        if row is None:
            dropped["are no row"] += bool(line) and line is not last  # the last one may be being written
        elif any(key not in row for key in OF_EVERY_ROW):
            dropped["are no row"] += 1
        elif (row["run_id"], stem_of(row)) != (record.folder.name, record.stem):
            dropped["are of another cell"] += 1
        elif whole.setdefault(_identity(row), row) is not row:
            dropped["stand there twice"] += 1
    return list(whole.values()), [
        Problem(record.rows_path, f"{count} lines {what}; left out") for what, count in dropped.items() if count
    ]


def _identity(row: Row) -> str:
    """What tells a row from the others of its cell: all but what is measured, and by which version."""
    measured = {"commit", "source", "own_source"} | {
        key for key, value in row.items() if isinstance(value, float | list)
    }
    return json.dumps({key: value for key, value in row.items() if key not in measured}, sort_keys=True)


def _checksum(fields: Row) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())
