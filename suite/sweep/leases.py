"""One winner for each key: conditional writes, and leases that need no two clocks to agree.

A holder writes its key anew again and again. Who waits for a key watches its generation: one that has stood still for
`seconds` on the watcher's own clock is abandoned, and whoever then replaces that very generation has it.
On files and on gs:// alike; what TensorStore calls a generation is a number of the object's or the inode's version.
"""

import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from suite import files
from suite.sweep.exit_codes import LeaseLost

Ownership = dict[str, Any]
RENEWALS = 6  # of a lease within its seconds


class Leases:
    """The keys under a directory, as one worker sees them. `clock` gives seconds that never go back."""

    def __init__(self, root: epath.PathLike, seconds: float, clock: Callable[[], float]):
        import tensorstore  # here, not above: --help and --status answer at once

        self.seconds = seconds
        self.clock = clock
        self.held: dict[str, Lease] = {}
        self._root = files.absolute(root)
        self._store = tensorstore.KvStore.open(_spec(self._root)).result()
        self._seen: dict[str, tuple[bytes, float]] = {}  # of keys of others: generation, and since when
        self._stop = threading.Event()

    def read(self, key: str) -> tuple[Ownership, bytes]:
        """Owner and attempts under a key, empty where there is none or it cannot be read, and its generation."""
        path = self._root / key
        with _named(path):
            read = self._store.read(key).result()
        if read.state == "missing":
            return {}, read.stamp.generation
        try:
            return files.parse_json(path, read.value, "owner", "beat", "attempts"), read.stamp.generation
        except files.Damaged as damage:
            print(f"crossover: {damage}; the cell is free and its attempts are forgotten", file=sys.stderr)
            return {}, read.stamp.generation

    def write(self, key: str, ownership: Ownership, generation: bytes) -> bytes:
        """Writes where the generation is still this one; the new generation, or nothing where another was first."""
        # The generation of a missing key is not empty; an empty one would mean: whatever is there.
        assert generation, "a conditional write wants the generation that was read"
        with _named(self._root / key):
            return self._store.write(key, json.dumps(ownership).encode(), if_equal=generation).result().generation

    def is_free(self, key: str, ownership: Ownership, generation: bytes) -> bool:
        """Whether nobody holds a key, or its holder has not renewed it for as long as this worker watched."""
        if not ownership or not ownership["owner"]:
            return True
        seen, since = self._seen.get(key, (b"", 0.0))
        if seen != generation:
            self._seen[key] = (generation, self.clock())
            return False
        return self.clock() - since > self.seconds

    def take(self, key: str, ownership: Ownership, generation: bytes) -> bool:
        """Takes a free key, writing `ownership` over that generation; whether this worker was first."""
        taken = self.write(key, ownership, generation)
        if taken:
            self.held[key] = Lease(self, key, ownership, taken, self.clock())
        return bool(taken)

    def release(self, key: str, ownership: Ownership) -> None:
        """Gives a key up, leaving `ownership`."""
        self.held.pop(key).replace(ownership)

    def check(self) -> None:
        """Raises LeaseLost where a key that was held is another's now: asked before anything is written."""
        for lease in list(self.held.values()):
            lease.check()

    @contextlib.contextmanager
    def renewed(self) -> Iterator["Leases"]:
        """Renews in the background what is held."""
        thread = threading.Thread(target=self._renew, name="leases", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _renew(self) -> None:
        while not self._stop.wait(self.seconds / RENEWALS):
            for lease in list(self.held.values()):
                # What cannot be renewed now, as on a full disk, is read out by who wants to write.
                with contextlib.suppress(LeaseLost, ValueError, OSError):
                    lease.renew()


def _spec(root: epath.Path) -> dict[str, str]:
    """What TensorStore opens: a path as it is and no URL, in which # and ? would end it."""
    text = os.fspath(root)
    if not files.is_object(root):
        return {"driver": "file", "path": f"{text}/"}
    bucket, _, path = text.removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": f"{path}/" if path else ""}


@contextlib.contextmanager
def _named(path: epath.Path) -> Iterator[None]:
    """What the system refuses is the OSError here that it is elsewhere, with the path."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='([0-9]+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), os.fspath(path)) from error


class Lease:
    """A key that this worker holds."""

    def __init__(self, leases: Leases, key: str, ownership: Ownership, generation: bytes, now: float):
        self.ownership = ownership
        self._leases = leases
        self._key = key
        self._generation = generation
        self._renewed = now
        self._lost = False
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises LeaseLost where the lease may have lapsed while this process did not run, and another took it."""
        if self._lost:
            raise LeaseLost(self._key)
        if self._leases.clock() - self._renewed > self._leases.seconds / 2:
            self.renew()

    def renew(self) -> None:
        with self._lock:
            # A key that has been released meanwhile is not written again.
            if self._leases.held.get(self._key) is self:
                self._write({**self.ownership, "beat": self.ownership["beat"] + 1})

    def replace(self, ownership: Ownership) -> None:
        with self._lock:
            self._write(ownership)

    def _write(self, ownership: Ownership) -> None:
        now = self._leases.clock()
        generation = self._leases.write(self._key, ownership, self._generation)
        if not generation:
            self._lost = True
            raise LeaseLost(self._key)
        self.ownership, self._generation, self._renewed = ownership, generation, now
