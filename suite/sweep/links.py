"""Connections that carry JSON to and from process 0 of a job, whose port no other job shares."""

import contextlib
import dataclasses
import errno
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from suite.sweep import exit_codes

PAUSE = 0.1  # seconds between two attempts
SAY_SECONDS = 10  # between two lines on what is waited for
KNOCK_SECONDS = 5  # for an answer of the host
PORT_SECONDS = 30  # for a port to become free: as long as a dead process of an earlier start is taken for alive
NAME_SECONDS = 30  # for a name to become known: that of a pod that was just started
LONGEST = 1 << 26  # bytes of a message

_reserved: dict[int, socket.socket] = {}  # ports of which this process is process 0


@dataclasses.dataclass(frozen=True)
class Member:
    """One process of a job: host:port of process 0, the number of processes, its rank among them."""

    address: str
    processes: int
    rank: int

    def __post_init__(self) -> None:
        host, colon, port = self.address.rpartition(":")
        if not (host and colon and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise ValueError(f"the coordinator's address is host:port, the port from 1 to 65535; got {self.address!r}")
        if not 0 <= self.rank < self.processes:
            raise ValueError(
                f"a job of {self.processes} processes has the ranks 0 to {self.processes - 1}; got {self.rank}"
            )

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


class Wait:
    """How long a process has waited, and the lines that say so."""

    def __init__(self, member: Member, seconds: float, clock: Callable[[], float]):
        self.seconds = seconds
        self._rank = member.rank
        self._clock = clock
        self._began = self._said = clock()

    @property
    def spent(self) -> float:
        return self._clock() - self._began

    def check(self, whom: str, longer: float = 0.0) -> None:
        """A line from time to time; NotMet when it was too long."""
        line = f"rank {self._rank} waited {self.spent:.0f} s for {whom}"
        if self.spent > self.seconds + longer:
            raise exit_codes.NotMet(line)
        if self._clock() - self._said > SAY_SECONDS:
            self._said = self._clock()
            print(f"crossover: {line}", file=sys.stderr, flush=True)


class Link:
    """A connection that carries JSON, a message a line."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self._buffer = b""

    def send(self, message: dict[str, Any]) -> None:
        self.connection.settimeout(KNOCK_SECONDS)
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message; TimeoutError where none comes, ConnectionError where none can."""
        self.connection.settimeout(seconds)
        while b"\n" not in self._buffer:
            received = self.connection.recv(1 << 16)
            self._buffer += received
            if not received or len(self._buffer) > LONGEST:
                raise ConnectionError("it has closed the connection")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise ConnectionError("it speaks another language") from error
        if not isinstance(message, dict):
            raise ConnectionError("it speaks another language")
        return message

    def is_gone(self) -> bool:
        self.connection.settimeout(0)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


def connect(member: Member, wait: Wait) -> tuple[socket.socket | None, str]:
    """A connection to the address of process 0, or why there is none; ValueError where its host has no such name."""
    seconds = min(KNOCK_SECONDS, max(1.0, wait.seconds - wait.spent))  # for a firewall may swallow every attempt
    try:
        return socket.create_connection((member.host, member.port), seconds), ""
    except socket.gaierror as error:
        unknown = error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        if unknown and wait.spent > min(NAME_SECONDS, wait.seconds):
            raise ValueError(
                f"no host {member.host!r}, of the coordinator's address, is known: {error.strerror}"
            ) from error
        return None, f"{member.host}: {error.strerror}"
    except UnicodeError as error:
        raise ValueError(f"{member.host!r}, of the coordinator's address, is no name of a host") from error
    except OSError as error:
        return None, error.strerror or "no answer"


@contextlib.contextmanager
def listening(port: int, wait: Wait) -> Iterator[socket.socket]:
    """Holds the port on all addresses of this host, and alone: as soon as whoever has it has ended."""
    while not _reserve(port) or (listener := _listen(port)) is None:
        if wait.spent > min(PORT_SECONDS, wait.seconds):
            raise exit_codes.NotMet(
                f"port {port} of {socket.gethostname()} is taken by another program; choose another port"
            )
        threading.Event().wait(PAUSE)
    with listener:
        yield listener


def _reserve(port: int) -> bool:
    """Whether no other Crossover has a port, be it that it has just left it to JAX: kept until this process ends.

    By a name that Linux frees with the process. Other systems go without: JAX's service ends there by a signal.
    """
    if port not in _reserved and sys.platform == "linux":
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0crossover-port-{port}")
        except OSError:
            name.close()
            return False
        _reserved[port] = name
    return True


def _listen(port: int) -> socket.socket | None:
    """A listener that shares the port with nobody; None where the port is taken."""
    families = (socket.AF_INET6, socket.AF_INET) if socket.has_dualstack_ipv6() else (socket.AF_INET,)
    for family in families:
        both = family == socket.AF_INET6
        try:
            return socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=1024)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            if not both:
                raise ValueError(f"cannot listen at port {port}: {error.strerror}") from error
    return None
