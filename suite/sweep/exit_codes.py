"""The exit codes of a process, which every engine understands, and the exceptions that lead to them.

0    done; an out-of-memory or diverged cell is done, its outcome is a result
70   cannot succeed: a bad flag, an unknown part, records of another job, a cell that failed too often
75   preempted, state saved: start again
124  the watchdog saw no progress, or the processes of a job did not come together: start again
130  interrupted by the user, state saved; the same command goes on
134  a process of the same job died (137 and 143: killed, terminated before the save): start again
"""

import contextlib
import errno
import re
import sys
from collections.abc import Iterator
from typing import NoReturn

from absl import logging

from suite import files

DONE = 0
REFUSED = 70
PREEMPTED = 75
STUCK = 124
INTERRUPTED = 130
PEER_DIED = 134
KILLED = 137
TERMINATED = 143

# After which an engine starts a process again: however often, and as often as its restarts say.
RESTARTED = (PREEMPTED,)
RESTARTED_A_FEW_TIMES = (STUCK, PEER_DIED, KILLED, TERMINATED)
ALL = (DONE, REFUSED, INTERRUPTED, *RESTARTED, *RESTARTED_A_FEW_TIMES)

# To a user who may not write what another has written.
TO_SHARE = "to share a directory give it to a group by chmod -R g+rwXs, and let each user have a umask of 002"
FULL = (errno.ENOSPC, errno.EDQUOT)

# How JAX, its coordination service and the collectives of each platform say that it was not this process.
OF_A_PEER = (
    *("Gloo", "Connection closed by peer", "Connection reset", "coordination service", "coordination_service"),
    *("CoordinationService", "Barrier failed", "waiting at barrier", "heartbeat", "UNAVAILABLE"),
    *("DEADLINE_EXCEEDED", "NCCL", "ncclRemoteError"),
)


class Preempted(Exception):
    """Every process of the job stops here, together, to save what it has."""


class LeaseLost(Exception):
    """Another worker has taken this cell for abandoned: nothing more may be written of it."""


class PeerLate(Exception):
    """Processes of the job did not come to a barrier in time."""


class NotMet(Exception):
    """Processes of the job did not come together before it began."""


class Stopped(BaseException):
    """A signal has asked the program to end; like KeyboardInterrupt it passes by what catches errors."""

    def __init__(self, code: int):
        self.code = code


@contextlib.contextmanager
def door() -> Iterator[None]:
    """Refuses, in one line, errors that the user can mend: bad flags, unknown parts, missing files and packages."""
    try:
        yield
    except (KeyError, IndexError):
        raise  # a bug of ours: a user's mistake never raises these
    except (ValueError, LookupError, TypeError, OSError, ImportError) as error:
        logging.debug("refused", exc_info=error)
        refuse(error)


def refuse(why: object) -> NoReturn:
    """Prints in one line why the program cannot succeed, and exits with 70."""
    text = why.args[0] if isinstance(why, LookupError) and why.args else why
    print(f"crossover: {' '.join(str(text).split())}", file=sys.stderr)
    sys.exit(REFUSED)


def code_of(error: BaseException) -> int:
    """The exit code that an exception ends a process with."""
    if isinstance(error, Preempted | LeaseLost):
        return PREEMPTED
    if isinstance(error, NotMet):
        return STUCK
    return PEER_DIED if any(_is_of_a_peer(cause) for cause in _causes(error)) else REFUSED


def code_of_child(returncode: int) -> int:
    """The exit code of a child as a shell gives it: 128 more than the signal that ended it."""
    return returncode if returncode >= 0 else 128 - returncode


def is_disk_full(error: BaseException) -> bool:
    return any(
        (isinstance(cause, OSError) and cause.errno in FULL) or "No space left on device" in str(cause)
        for cause in _causes(error)
    )


def refused_by_files(error: BaseException) -> str:
    """What a user is told where a file is another user's or damaged, which no cell is to blame for; else nothing."""
    for cause in _causes(error):
        if isinstance(cause, PermissionError):
            return f"{cause.filename}: {cause.strerror}; {TO_SHARE}"
        if isinstance(cause, IsADirectoryError | NotADirectoryError):
            return f"{cause.filename2 or cause.filename}: {cause.strerror}; move it out of the way"
        if isinstance(cause, files.Damaged):
            return " ".join(str(cause).split())
        denied = re.search(r"PERMISSION_DENIED: [^\n]*", str(cause))
        if denied:
            return f"{denied[0]}; {TO_SHARE}"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that it came from: who saves in the background wraps what went wrong."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_of_a_peer(error: BaseException) -> bool:
    if isinstance(error, PeerLate | ConnectionError):
        return True
    # Orbax says it by a TimeoutError, however soon it was.
    return isinstance(error, RuntimeError | TimeoutError) and any(word in str(error) for word in OF_A_PEER)
