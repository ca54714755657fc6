"""The meeting of the processes of a job, before JAX starts, at the address of process 0: their settings must agree.

JAX's coordination service lets in whoever comes, aborts where somebody does not, and two of them can share a port. So
process 0 first holds the port by itself. The others tell it what they are about to compute; it lets all of them in, or
tells all of them what differs. Then it leaves the port to the service.
"""

import contextlib
import dataclasses
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from suite.sweep import exit_codes
from suite.sweep.links import KNOCK_SECONDS, PAUSE, Link, Member, Wait, connect, listening

Settings = dict[str, str]

STRANGER_SECONDS = 3  # for the right process, after one of another job has come
ANSWER_SECONDS = 60  # for a process to look at what process 0 offers
SHOWN = 3  # differences that are named
UNACCEPTED = (ValueError, LookupError, TypeError, OSError, ImportError)


class Dismissed(Exception):
    """The launch.compare of process 0 has nothing more to do, and ends with this code."""

    def __init__(self, code: int):
        self.code = code


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a process comes with: settings that must be the same in all, and process 0 with an offer to the others.

    `accept` looks at the offer and returns more settings; ValueError where this process cannot take it.
    """

    settings: Settings
    offer: Any
    accept: Callable[[Any], Settings]
    refused: str = ""  # why this process cannot take part, which ends the others too


def meet(member: Member, entry: Entry, seconds: float, clock: Callable[[], float]) -> tuple[Any, str]:
    """What process 0 offers, and a name that only the processes which met here know.

    In every process alike: ValueError names what differs; NotMet says who was waited for in vain.
    """
    host = _host if member.rank == 0 else _visit
    return host(member, entry, Wait(member, seconds, clock))


def dismiss(member: Member, code: int, seconds: float, clock: Callable[[], float]) -> None:
    """Tells the processes that come to this address, until each has come once or so many seconds are over, to end."""
    dismissed: set[int] = set()
    wait = Wait(member, seconds, clock)
    with contextlib.suppress(exit_codes.NotMet), listening(member.port, wait) as listener:
        while len(dismissed) < member.processes - 1 and wait.spent < seconds:
            for guest in _guests(listener):
                with guest.link.connection:
                    guest.tell({"dismissed": code})
                dismissed.add(guest.rank)


def differences(mine: Settings, theirs: Settings) -> str:
    """The differences of another process's settings, in the order of `mine`; empty where there are none."""
    missing = "nothing"
    keys = [key for key in {**mine, **theirs} if mine.get(key, missing) != theirs.get(key, missing)]
    shown = [f"{key} ({theirs.get(key, missing)} against {mine.get(key, missing)})" for key in keys[:SHOWN]]
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"differs from rank 0 in {', '.join(shown)}{more}" if keys else ""


@dataclasses.dataclass
class _Guest:
    """A process that has come to process 0, and what it said of itself."""

    link: Link
    rank: int
    name: str
    settings: Settings
    refused: str = ""

    def tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it will find out by itself
            self.link.send(message)


def _host(member: Member, entry: Entry, wait: Wait) -> tuple[Any, str]:
    guests: list[_Guest] = []
    try:
        with listening(member.port, wait) as listener:
            seats = _seat(member, entry, wait, listener, guests)
            for guest in seats:
                guest.link.send({"offer": entry.offer})
            try:
                mine = entry.accept(entry.offer)
            except UNACCEPTED as error:
                raise ValueError(f"rank 0 (host {socket.gethostname()}) {error}") from error
            for guest in seats:
                answer = guest.link.receive(ANSWER_SECONDS)
                refused = answer.get("refused") or differences(mine, answer["settings"])
                if refused:
                    raise ValueError(f"{guest.name} {refused}")
        name = uuid.uuid4().hex
        for guest in seats:
            guest.link.send({"start": name})
        return entry.offer, name
    except (ValueError, exit_codes.NotMet) as error:
        reason = "late" if isinstance(error, exit_codes.NotMet) else "refused"
        for guest in guests:
            guest.tell({reason: str(error)})
        raise
    except OSError as error:
        for guest in guests:
            guest.tell({"late": f"a process left the job of {member.address} while it was joined"})
        raise exit_codes.NotMet(f"a process left while it was joined: {error}") from error
    finally:
        for guest in guests:
            guest.link.connection.close()


def _seat(member: Member, entry: Entry, wait: Wait, listener: socket.socket, guests: list[_Guest]) -> list[_Guest]:
    """Waits until each of the other ranks is here; everyone who has come is added to `guests`.

    Who differs may belong to another job that was given the same address, so the right one is waited for a little.
    """
    seats: dict[int, _Guest] = {}
    strangers: list[tuple[_Guest, str, float]] = []
    token = uuid.uuid4().hex
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
                _knock(member, token, wait)
            wait.check(f"itself at {member.address}: is that an address of this host, {socket.gethostname()}?")
        else:
            ranks = f"rank {', '.join(map(str, missing))}"
            wait.check(f"{ranks} of {member.processes} processes to come to {member.address}")
        for guest in _guests(listener, token):
            if guest.rank == 0 and guest.name == token:
                reached = True
                continue
            guests.append(guest)
            guest.tell({"heard": socket.gethostname()})
            difference = guest.refused or (entry.refused and f"has come to a rank 0 that {entry.refused}")
            if not difference and (difference := differences(entry.settings, guest.settings)):
                difference += f"; each job wants an address of its own, and its processes are alike: {member.address}"
            if difference:
                strangers.append((guest, difference, wait.spent))
            elif guest.rank in seats:
                twice = f"where {seats[guest.rank].name} of the same job is already; was it started twice?"
                guest.tell({"late": f"{guest.name} came to {member.address}, {twice}"})
            else:
                seats[guest.rank] = guest


def _guests(listener: socket.socket, token: str = "") -> Iterator[_Guest]:
    """The processes that come within a moment; other callers are sent away. By its token process 0 knows itself."""
    listener.settimeout(PAUSE)
    with contextlib.suppress(TimeoutError):
        while True:
            link = Link(listener.accept()[0])
            try:
                hello = link.receive(KNOCK_SECONDS)
                if hello.get("token"):
                    if hello["token"] == token:
                        yield _Guest(link, 0, token, {})
                    link.connection.close()
                else:
                    name = f"rank {hello['rank']} (host {hello['host']}, process {hello['pid']})"
                    yield _Guest(link, hello["rank"], name, hello["settings"], hello["refused"])
            except (OSError, KeyError):
                link.connection.close()


def _knock(member: Member, token: str, wait: Wait) -> None:
    """Comes to its own address, as JAX will: who that is, here or elsewhere, `token` tells."""
    connection, _ = connect(member, wait)
    if connection is not None:
        with connection, contextlib.suppress(OSError):
            Link(connection).send({"token": token})


def _visit(member: Member, entry: Entry, wait: Wait) -> tuple[Any, str]:
    hello = {"rank": member.rank, "host": socket.gethostname(), "pid": os.getpid(), "settings": entry.settings}
    hello |= {"refused": entry.refused}
    whom = f"process 0 at {member.address}"
    while True:
        connection, why = connect(member, wait)
        if connection is not None:
            with connection:
                link = Link(connection)
                try:
                    link.send(hello)
                    _answer(link.receive(KNOCK_SECONDS))
                    offer = _await(link, wait, f"the other processes, with {whom}")["offer"]
                    try:
                        link.send({"settings": entry.accept(offer)})
                    except UNACCEPTED as error:
                        link.send({"refused": str(error)})
                    name = _await(link, wait, whom)["start"]
                    _await_service(member, wait, whom)
                    return offer, name
                except (OSError, KeyError) as error:  # it is an earlier process 0 that ends, or some other program
                    why = str(error) or "no answer"
        wait.check(f"{whom} ({why})")
        threading.Event().wait(PAUSE)


def _await(link: Link, wait: Wait, whom: str) -> dict[str, Any]:
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


def _await_service(member: Member, wait: Wait, whom: str) -> None:
    """Waits until JAX's service is there: who comes to it too early is made to wait for a second by it."""
    while True:
        connection, why = connect(member, wait)
        if connection is not None:
            connection.close()
            return
        wait.check(f"{whom} ({why})")
        threading.Event().wait(PAUSE / 5)
