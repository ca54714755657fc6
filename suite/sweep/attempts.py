"""The owner and the attempts of a cell: the .cell of its record, JSON written under a lease."""

import itertools
import os
import pathlib
import socket
import uuid
from typing import Any

from suite.sweep import exit_codes
from suite.sweep.leases import Leases, Ownership

TRIES = 3  # that ended by themselves without any progress, before a cell is set aside
ALL_TRIES = 10  # with those that may have ended for want of another process, or of the whole machine
# Two ends by signal 9 and nothing to show: the host has no memory for it.
KILLS = 2
NOT_COUNTED = (exit_codes.DONE, exit_codes.PREEMPTED, exit_codes.INTERRUPTED)


def claim(leases: Leases, key: str, progress: str, processes: int = 1) -> Ownership:
    """Takes a cell and adds an attempt, and returns owner and attempts; empty where another worker has it.

    `progress` says how far its records and checkpoints go: attempts that end there again have made none. `processes`
    are those of the job.
    """
    before, generation = leases.read(key)
    if not leases.is_free(key, before, generation):
        return {}
    attempts = before["attempts"] if before else []
    attempt = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    attempt |= {"progress": progress, "processes": processes, "ended": {}, "outside": False}
    ownership = {"owner": attempt["owner"], "beat": 0, "attempts": [*attempts, attempt]}
    return ownership if leases.take(key, ownership, generation) else {}


def release(leases: Leases, key: str, code: int) -> None:
    """Gives a held cell up; its attempt has ended with this code."""
    ownership = leases.held[key].ownership
    leases.release(key, _ended(ownership, ownership["owner"], 0, code, outside=False))


def withdraw(leases: Leases, key: str) -> None:
    """Gives a held cell back as if this worker had never tried it."""
    ownership = leases.held[key].ownership
    leases.release(key, {**ownership, "owner": "", "attempts": ownership["attempts"][:-1]})


def note_end(leases: Leases, key: str, owner: str, rank: int, code: int, *, outside: bool) -> None:
    """Writes down how a process that worked on a cell has ended, and frees the cell; its parent calls this.

    `outside`: it was killed, and not by the kernel for want of memory.
    """
    while True:
        ownership, generation = leases.read(key)
        # Nothing is left to add to where the file was damaged: the cell is free.
        if not ownership or leases.write(key, _ended(ownership, owner, rank, code, outside=outside), generation):
            return


def verdict(ownership: Ownership) -> str:
    """The outcome of a cell that no further attempt can change, by its attempts before the newest; or nothing."""
    *earlier, newest = ownership["attempts"]
    # One that ended with 0 has set the cell aside, and a person wants it tried again.
    unsettled = itertools.takewhile(lambda attempt: exit_codes.DONE not in attempt["ended"].values(), reversed(earlier))
    alike = itertools.takewhile(lambda attempt: attempt["progress"] == newest["progress"], unsettled)
    counted = [attempt for attempt in alike if not attempt["outside"] and not _ended_well(attempt)]
    if sum(exit_codes.KILLED in attempt["ended"].values() for attempt in counted) >= KILLS:
        return "oom"
    refused = any(exit_codes.REFUSED in attempt["ended"].values() for attempt in counted)
    by_itself = sum(_ended_by_itself(attempt) for attempt in counted)
    return "crashed" if refused or by_itself >= TRIES or len(counted) >= ALL_TRIES else ""


def last_end(ownership: Ownership) -> str:
    """How the newest attempt that has ended did so, for a person."""
    ended = [attempt["ended"] for attempt in ownership["attempts"] if attempt["ended"]]
    return ",".join(str(code) for code in sorted(set(ended[-1].values()))) if ended else ""


def oom_kills() -> int:
    """How many processes the kernel has killed here for want of memory since it started; -1 where it does not say."""
    counters = pathlib.Path("/proc/vmstat")
    if counters.exists():
        for line in counters.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return -1


def _ended(ownership: Ownership, owner: str, rank: int, code: int, *, outside: bool) -> Ownership:
    """Owner and attempts after one process of an attempt has ended; free unless another attempt has begun."""
    attempts = [
        attempt | {"ended": attempt["ended"] | {str(rank): code}, "outside": attempt["outside"] or outside}
        if attempt["owner"] == owner
        else attempt
        for attempt in ownership["attempts"]
    ]
    return {**ownership, "owner": "" if ownership["owner"] == owner else ownership["owner"], "attempts": attempts}


def _ended_by_itself(attempt: dict[str, Any]) -> bool:
    """Whether an attempt ended by itself: who outlives the others of its job says only that one of them is gone."""
    codes = set(attempt["ended"].values())
    return bool(codes) and (attempt["processes"] == 1 or codes != {exit_codes.PEER_DIED})


def _ended_well(attempt: dict[str, Any]) -> bool:
    return any(code in NOT_COUNTED for code in attempt["ended"].values())
