"""How the processes of a job meet, before JAX starts: at the address of process 0, and alike in all that decides.

JAX's coordination service lets in whoever comes, aborts where somebody does not, and two of them can share a port. So
process 0 first holds the port by itself. The others tell it what they are about to compute; it lets all of them in, or
tells all of them what differs. Then it leaves the port to the service.
"""

import contextlib
import dataclasses
import errno
import json
import os
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from suite.sweep import exit_codes

Facts = dict[str, str]

PAUSE = 0.1  # seconds between two looks
SAY_SECONDS = 10  # between two lines on who is waited for
KNOCK_SECONDS = 5  # for an answer of the host
PORT_SECONDS = 30  # for a port to become free: as long as a dead process of an earlier start is taken for alive
NAME_SECONDS = 30  # for a name to become known: that of a pod that was just started
STRANGER_SECONDS = 3  # for the right process, after one of another job has come
ANSWER_SECONDS = 60  # for a process to look at what process 0 offers
SHOWN = 3  # differences that are named
UNACCEPTED = (ValueError, LookupError, TypeError, OSError, ImportError)
LONGEST = 1 << 26  # bytes of a message

_reserved: dict[int, socket.socket] = {}  # ports of which this process is process 0


class Dismissed(Exception):
    """The launch.compare of process 0 has nothing more to do, and ends with this code."""

    def __init__(self, code: int):
        self.code = code


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


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a process comes with: facts that must be the same in all, and, from process 0, what the others are offered.

    `accept` looks at the offer and returns more facts; ValueError where this process cannot take it.
    """

    facts: Facts
    offer: Any
    accept: Callable[[Any], Facts]
    refused: str = ""  # why this process cannot take part, which ends the others too


def meet(member: Member, entry: Entry, seconds: float, clock: Callable[[], float]) -> tuple[Any, str]:
    """What process 0 offers, and a name that only the processes which met here know.

    In every process alike: ValueError names what differs; ends.NotMet says who was waited for in vain.
    """
    host = _host if member.rank == 0 else _visit
    return host(member, entry, _Wait(member, seconds, clock))


def dismiss(member: Member, code: int, seconds: float, clock: Callable[[], float]) -> None:
    """Tells the processes that come to this address, until each has come once or so many seconds are over, to end."""
    told: set[int] = set()
    wait = _Wait(member, seconds, clock)
    with contextlib.suppress(exit_codes.NotMet), _listening(member.port, wait) as listener:
        while len(told) < member.processes - 1 and wait.spent < seconds:
            for guest in _guests(listener):
                with guest.link.connection:
                    guest.tell({"dismissed": code})
                told.add(guest.rank)


def differences(mine: Facts, theirs: Facts) -> str:
    """What differs in the facts of another process, in the order of `mine`; empty where nothing does."""
    missing = "nothing"
    keys = [key for key in {**mine, **theirs} if mine.get(key, missing) != theirs.get(key, missing)]
    shown = [f"{key} ({theirs.get(key, missing)} against {mine.get(key, missing)})" for key in keys[:SHOWN]]
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"differs from rank 0 in {', '.join(shown)}{more}" if keys else ""


class _Wait:
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
        """A line from time to time; ends.NotMet when it was too long."""
        line = f"rank {self._rank} waited {self.spent:.0f} s for {whom}"
        if self.spent > self.seconds + longer:
            raise exit_codes.NotMet(line)
        if self._clock() - self._said > SAY_SECONDS:
            self._said = self._clock()
            print(f"crossover: {line}", file=sys.stderr, flush=True)


class _Link:
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


@dataclasses.dataclass
class _Guest:
    """A process that has come to process 0, and what it said of itself."""

    link: _Link
    rank: int
    name: str
    facts: Facts
    refused: str = ""

    def tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it will find out by itself
            self.link.send(message)


def _host(member: Member, entry: Entry, wait: _Wait) -> tuple[Any, str]:
    guests: list[_Guest] = []
    try:
        with _listening(member.port, wait) as listener:
            seats = _gather(member, entry, wait, listener, guests)
            for guest in seats:
                guest.link.send({"offer": entry.offer})
            try:
                mine = entry.accept(entry.offer)
            except UNACCEPTED as error:
                raise ValueError(f"rank 0 (host {socket.gethostname()}) {error}") from error
            for guest in seats:
                answer = guest.link.receive(ANSWER_SECONDS)
                refused = answer.get("refused") or differences(mine, answer["facts"])
                if refused:
                    raise ValueError(f"{guest.name} {refused}")
        name = uuid.uuid4().hex
        for guest in seats:
            guest.link.send({"start": name})
        return entry.offer, name
    except (ValueError, exit_codes.NotMet) as error:
        kind = "late" if isinstance(error, exit_codes.NotMet) else "refused"
        for guest in guests:
            guest.tell({kind: str(error)})
        raise
    except OSError as error:
        for guest in guests:
            guest.tell({"late": f"a process left the job of {member.address} while it was joined"})
        raise exit_codes.NotMet(f"a process left while it was joined: {error}") from error
    finally:
        for guest in guests:
            guest.link.connection.close()


def _gather(member: Member, entry: Entry, wait: _Wait, listener: socket.socket, guests: list[_Guest]) -> list[_Guest]:
    """Waits until each of the other ranks is here; everyone who has come is added to `guests`.

    Who differs may belong to another job that was given the same address, so the right one is waited for a little.
    """
    seats: dict[int, _Guest] = {}
    strangers: list[tuple[_Guest, str, float]] = []
    own = uuid.uuid4().hex
    reached, knocked = False, -1.0
    while True:
        seats = {rank: guest for rank, guest in seats.items() if not guest.link.is_gone()}
        missing = [rank for rank in range(1, member.processes) if rank not in seats]
        if reached and not missing:
            for guest, difference, _ in strangers:
                guest.tell({"refused": f"{guest.name} {difference}; the job of {member.address} goes on without it"})
            return list(seats.values())
        if strangers and wait.spent - strangers[0][2] > STRANGER_SECONDS:
            guest, difference, _ = strangers[0]
            raise ValueError(f"{guest.name} {difference}")
        if not reached:  # JAX's service is looked for there by its own process too
            if wait.spent - knocked > 1:
                knocked = wait.spent
                _knock(member, own, wait)
            wait.check(f"itself at {member.address}: is that an address of this host, {socket.gethostname()}?")
        else:
            ranks = f"rank {', '.join(map(str, missing))}"
            wait.check(f"{ranks} of {member.processes} processes to come to {member.address}")
        for guest in _guests(listener, own):
            if guest.rank == 0 and guest.name == own:
                reached = True
                continue
            guests.append(guest)
            guest.tell({"heard": socket.gethostname()})
            difference = guest.refused or (entry.refused and f"has come to a rank 0 that {entry.refused}")
            if not difference and (difference := differences(entry.facts, guest.facts)):
                difference += f"; each job wants an address of its own, and its processes are alike: {member.address}"
            if difference:
                strangers.append((guest, difference, wait.spent))
            elif guest.rank in seats:
                there = (
                    f"{guest.name} came to {member.address}, where {seats[guest.rank].name} of the same job is already"
                )
                guest.tell({"late": f"{there}; was it started twice?"})
            else:
                seats[guest.rank] = guest


def _guests(listener: socket.socket, own: str = "") -> Iterator[_Guest]:
    """Those who come within a moment; what is no process of a job is sent away. `own`: how process 0 knows itself."""
    listener.settimeout(PAUSE)
    with contextlib.suppress(TimeoutError):
        while True:
            link = _Link(listener.accept()[0])
            try:
                hello = link.receive(KNOCK_SECONDS)
                if hello.get("own"):
                    if hello["own"] == own:
                        yield _Guest(link, 0, own, {})
                    link.connection.close()
                else:
                    name = f"rank {hello['rank']} (host {hello['host']}, process {hello['pid']})"
                    yield _Guest(link, hello["rank"], name, hello["facts"], hello["refused"])
            except (OSError, KeyError):
                link.connection.close()


def _knock(member: Member, own: str, wait: _Wait) -> None:
    """Comes to its own address, as JAX will: who that is, here or elsewhere, `own` tells."""
    connection, _ = _connect(member, wait)
    if connection is not None:
        with connection, contextlib.suppress(OSError):
            _Link(connection).send({"own": own})


def _visit(member: Member, entry: Entry, wait: _Wait) -> tuple[Any, str]:
    hello = {"rank": member.rank, "host": socket.gethostname(), "pid": os.getpid(), "facts": entry.facts}
    hello |= {"refused": entry.refused}
    whom = f"process 0 at {member.address}"
    while True:
        connection, why = _connect(member, wait)
        if connection is not None:
            with connection:
                link = _Link(connection)
                try:
                    link.send(hello)
                    _answer(link.receive(KNOCK_SECONDS))
                    offer = _await(link, wait, f"the other processes, with {whom}")["offer"]
                    try:
                        link.send({"facts": entry.accept(offer)})
                    except UNACCEPTED as error:
                        link.send({"refused": str(error)})
                    name = _await(link, wait, whom)["start"]
                    _await_service(member, wait, whom)
                    return offer, name
                except (OSError, KeyError) as error:  # it is an earlier process 0 that ends, or some other program
                    why = str(error) or "no answer"
        wait.check(f"{whom} ({why})")
        threading.Event().wait(PAUSE)


def _await(link: _Link, wait: _Wait, whom: str) -> dict[str, Any]:
    """The next message of process 0, which gives up a little earlier and knows who is missing."""
    while True:
        with contextlib.suppress(TimeoutError):
            return _answer(link.receive(1))
        wait.check(whom, longer=KNOCK_SECONDS)


def _answer(message: dict[str, Any]) -> dict[str, Any]:
    """A message of process 0, raised where it ends this process."""
    if "refused" in message:
        raise ValueError(message["refused"])
    if "late" in message:
        raise exit_codes.NotMet(message["late"])
    if "dismissed" in message:
        raise Dismissed(message["dismissed"])
    return message


def _await_service(member: Member, wait: _Wait, whom: str) -> None:
    """Waits until JAX's service is there: who comes to it too early is made to wait for a second by it."""
    while True:
        connection, why = _connect(member, wait)
        if connection is not None:
            connection.close()
            return
        wait.check(f"{whom} ({why})")
        threading.Event().wait(PAUSE / 5)


def _connect(member: Member, wait: _Wait) -> tuple[socket.socket | None, str]:
    """A connection to the address of process 0, or why there is none; ValueError where its host has no such name."""
    try:
        return socket.create_connection((member.host, member.port), KNOCK_SECONDS), ""
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
def _listening(port: int, wait: _Wait) -> Iterator[socket.socket]:
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
