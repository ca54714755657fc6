"""The state of each cell, in its directory: who works on it, what was tried, and how it ended.

    <out>/runs/<job id>/<stem>.cell      who has it, and its attempts: JSON, written under a lease
    <out>/runs/<job id>/<stem>.done      it has its rows; <stem>.failed: set aside

A cell is waiting, running, done or failed. To try a failed one again, remove its .failed.
"""

import collections
import itertools
import os
import pathlib
import socket
import uuid
from collections.abc import Iterator, Sequence

from etils import epath

from suite import files, parts
from suite.job import Cell
from suite.sweep import exit_codes, store
from suite.sweep.leases import Leases, Record

TRIES = 3  # that ended by themselves without any progress, before a cell is set aside
ALL_TRIES = 10  # with those that may have ended for want of another process, or of the whole machine
# Two ends by signal 9 and nothing to show: the host has no memory for it.
KILLS = 2
NOT_COUNTED = (exit_codes.DONE, exit_codes.PREEMPTED, exit_codes.INTERRUPTED)
WANTED = "cells.txt"  # under --out: a line for each cell that a comparison has asked for so far
COLUMNS = ("state", "tries", "last end", "worker", "cell")


def stem(cell: Cell, place: str) -> str:
    """The stem of a cell's files."""
    placed = parts.constant("suite.measures", cell.measure, "PLACED")
    return store.kind(cell.measure, place if placed else "", cell.repeat, cell.interleave_with)


def key(cell: Cell, stem: str) -> str:
    """Where the record of a cell lies under --out."""
    return f"runs/{cell.job.id}/{stem}.cell"


def is_over(run: epath.Path, stem: str) -> bool:
    """Whether nothing is left to do of a cell."""
    return store.is_done(run, stem) or is_failed(run, stem)


def is_failed(run: epath.Path, stem: str) -> bool:
    return (run / f"{stem}.failed").exists()


def mark_failed(run: epath.Path, stem: str) -> None:
    store.write(run / f"{stem}.failed", "")


def claim(leases: Leases, key: str, progress: str, processes: int = 1) -> Record:
    """Takes a cell and adds an attempt to its record, which is returned; empty where another worker has it.

    `progress` says how far its records and checkpoints go: attempts that end there again have made none. `processes`
    are those of the job.
    """
    before, generation = leases.read(key)
    if not leases.is_free(key, before, generation):
        return {}
    attempts = before["attempts"] if before else []
    attempt = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    attempt |= {"progress": progress, "processes": processes, "ended": {}, "outside": False}
    record = {"owner": attempt["owner"], "beat": 0, "attempts": [*attempts, attempt]}
    return record if leases.take(key, record, generation) else {}


def release(leases: Leases, key: str, code: int) -> None:
    """Gives a held cell up; its attempt has ended with this code."""
    record = leases.held[key].record
    leases.release(key, _ended(record, record["owner"], 0, code, outside=False))


def withdraw(leases: Leases, key: str) -> None:
    """Gives a held cell back as if this worker had never tried it."""
    record = leases.held[key].record
    leases.release(key, {**record, "owner": "", "attempts": record["attempts"][:-1]})


def note_end(leases: Leases, key: str, owner: str, rank: int, code: int, *, outside: bool) -> None:
    """Writes down how a process that worked on a cell has died, and frees the cell: said by who had started it.

    `outside`: it was killed, and not by the kernel for want of memory.
    """
    while True:
        record, generation = leases.read(key)
        # Nothing is left to add to where the record was damaged: the cell is free.
        if not record or leases.write(key, _ended(record, owner, rank, code, outside=outside), generation):
            return


def verdict(record: Record) -> str:
    """What the attempts before the newest one come to: an outcome where it is no use to try again, or nothing."""
    *earlier, newest = record["attempts"]
    # One that ended with 0 has set the cell aside, and a person wants it tried again.
    unsettled = itertools.takewhile(lambda attempt: exit_codes.DONE not in attempt["ended"].values(), reversed(earlier))
    alike = itertools.takewhile(lambda attempt: attempt["progress"] == newest["progress"], unsettled)
    counted = [attempt for attempt in alike if not attempt["outside"] and not _ended_well(attempt)]
    if sum(exit_codes.KILLED in attempt["ended"].values() for attempt in counted) >= KILLS:
        return "oom"
    refused = any(exit_codes.REFUSED in attempt["ended"].values() for attempt in counted)
    own = sum(_is_its_own(attempt) for attempt in counted)
    return "crashed" if refused or own >= TRIES or len(counted) >= ALL_TRIES else ""


def last_end(record: Record) -> str:
    """How the newest attempt that has ended did so, for a person."""
    ended = [attempt["ended"] for attempt in record["attempts"] if attempt["ended"]]
    return ",".join(str(code) for code in sorted(set(ended[-1].values()))) if ended else ""


def told(failed: Sequence[str], root: epath.PathLike) -> str:
    """What a user is told of cells that were set aside."""
    listed = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
    return f"set aside after failing: {len(failed)} cells ({listed}); to try again remove their .failed in {root}/runs"


def oom_kills() -> int:
    """How many processes the kernel has killed here for want of memory since it started; -1 where it does not say."""
    counters = pathlib.Path("/proc/vmstat")
    if counters.exists():
        for line in counters.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return -1


def table(root: epath.PathLike) -> Iterator[tuple[str, ...]]:
    """A line under COLUMNS for every cell that was asked for or begun, in the order of the runs."""
    runs = os.fspath(epath.Path(root) / "runs")  # texts, which are faster put together where there are many thousands
    wanted: dict[str, set[str]] = collections.defaultdict(set)
    if (epath.Path(root) / WANTED).exists():
        # The list is written anew by each comparison; of one that is cut what can be read is shown.
        for line in (epath.Path(root) / WANTED).read_bytes().decode(errors="replace").splitlines():
            run, _, stem = line.partition("/")
            wanted[run] |= {stem} - {""}
    begun = {run for run in _names(runs) if not run.startswith(".")}
    for run in sorted(begun | {run for run in wanted if wanted[run]}):
        names = _names(f"{runs}/{run}") if run in begun else set()
        found = {name.rpartition(".")[0] for name in names if name.endswith((".cell", ".done", ".failed"))}
        for stem in sorted(found | wanted[run]):
            yield *_state(f"{runs}/{run}", stem, names), f"{run}/{stem}"


def _names(folder: str) -> set[str]:
    """What lies in a folder; nothing where there is none."""
    try:
        return files.names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _state(run: str, stem: str, names: set[str]) -> tuple[str, ...]:
    record, ended = {"owner": "", "attempts": []}, ""
    if f"{stem}.cell" in names:
        try:
            record = store.read_json(f"{run}/{stem}.cell", "owner", "attempts")
            ended = last_end(record)
        except store.Damaged:
            ended = "no record"  # it was damaged: the cell is free
    tries = str(len(record["attempts"]))
    if f"{stem}.done" in names:
        return ("waiting", tries, "damaged", "") if store.damage(run, stem) else ("done", tries, ended, "")
    if f"{stem}.failed" in names:
        return "failed", tries, ended, ""
    if not record["owner"]:
        return "waiting", tries, ended, ""
    newest = record["attempts"][-1]
    return "running", tries, ended, f"{newest['host']}:{newest['pid']}"


def _ended(record: Record, owner: str, rank: int, code: int, *, outside: bool) -> Record:
    """The record after the end of one process of an attempt; its cell is free unless another attempt has begun."""
    attempts = [
        attempt | {"ended": attempt["ended"] | {str(rank): code}, "outside": attempt["outside"] or outside}
        if attempt["owner"] == owner
        else attempt
        for attempt in record["attempts"]
    ]
    return {**record, "owner": "" if record["owner"] == owner else record["owner"], "attempts": attempts}


def _is_its_own(attempt: Record) -> bool:
    """Whether an attempt ended by itself: who outlives the others of its job says only that one of them is gone."""
    codes = set(attempt["ended"].values())
    return bool(codes) and (attempt["processes"] == 1 or codes != {exit_codes.PEER_DIED})


def _ended_well(attempt: Record) -> bool:
    return any(code in NOT_COUNTED for code in attempt["ended"].values())
