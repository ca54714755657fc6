"""The compilers of a plan: child processes that answer requests, one at a time each, and records kept on disk.

A record is a file of JSON by the fingerprint of its request: what was asked, for which topology and mesh, by which
compiler, and a hash of the sources that a program is made of. What has a record is not asked for again.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from suite import files, machine, parts
from suite.planning.topology import Topology
from suite.sweep import exit_codes, provenance
from suite.sweep.record import Row

MADE_OF = ("mixers", "ops", "model", "training", "counting", "mesh.py", "planning/program.py")  # a program
PACKAGES = ("jax", "jaxlib", "equinox", "optax", "libtpu", "jax-cuda13-plugin")
COMPILER_BYTES = 6e9  # of memory that a compiler may take
TRIES = 2  # of a compilation that ends its process
LOG_LINES = 15
CRASHED = "crashed"


@dataclasses.dataclass
class Compilers:
    """Children that compile for one topology and mesh, and the folder of their records."""

    topology: Topology
    mesh: str
    command: list[str]  # of a child
    folder: epath.Path
    children: int
    log: str  # the file that children print to
    tell: Callable[[int, int, Row], None]  # of each record that is new: how many there are, of how many, and it

    def __post_init__(self) -> None:
        self.idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        self.started: list[subprocess.Popen[str]] = []
        self.is_stopping = False
        self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def place(self) -> Row:
        """Where the programs would run, as a child says; kept as the records are.

        SystemExit with the child's line where it refuses the topology or the mesh.
        """
        path = self.path({"kind": "place"})
        if not path.exists():
            child, place = self._start()
            self.idle.put(child)
            files.write(path, json.dumps(place) + "\n")
        return files.read_json(path, "device_kind", "n_devices", "devices_of_examples")

    def records(self, requests: Iterable[Row]) -> list[Row]:
        """The record of each request, in their order; equal requests have one."""
        requests = list(requests)
        paths = {self.path(request): request for request in requests}
        left = [path for path in paths if not _is_kept(path)]
        if left:
            self.place  # noqa: B018 - refused here, and not in a thread
            with concurrent.futures.ThreadPoolExecutor(self.children, thread_name_prefix="compiler") as threads:
                answering = [threads.submit(self._answer, path, paths[path]) for path in left]
                try:
                    for number, answered in enumerate(concurrent.futures.as_completed(answering), 1):
                        self.tell(number, len(left), answered.result())
                except BaseException:
                    for one in answering:
                        one.cancel()
                    self.stop()
                    raise
        every = {path: files.read_json(path, "kind", "outcome") for path in paths}
        return [every[self.path(request)] for request in requests]

    def stop(self) -> None:
        """Ends the children; what they were compiling is compiled again the next time."""
        self.is_stopping = True
        for child in self.started:
            child.kill()
        for child in self.started:
            child.wait()
        self.started.clear()

    def versions(self) -> dict[str, str]:
        """The packages that compile."""
        return _compiler()["packages"]

    def _answer(self, path: epath.Path, request: Row) -> Row:
        """Has a child make the record; the end of the child is its outcome where it comes twice."""
        line = json.dumps(request | {"path": os.fspath(path)})
        code = 0
        for _ in range(TRIES):
            try:
                child = self.idle.get_nowait()
            except queue.Empty:
                child, _ = self._start()
            assert child.stdin is not None
            assert child.stdout is not None
            print(line, file=child.stdin, flush=True)
            if child.stdout.readline():
                self.idle.put(child)
                return files.read_json(path, "kind", "outcome")
            code = exit_codes.code_of_child(child.wait())
            if self.is_stopping:
                raise concurrent.futures.CancelledError
        record = request | {"outcome": CRASHED, "error": f"the compiler ended with {code}; see {self.log}"}
        files.write(path, json.dumps(record, indent=1) + "\n")
        return record

    def _start(self) -> tuple["subprocess.Popen[str]", Row]:
        variables = self.topology.environment | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        with open(self.log, "a") as log:
            child = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | variables,
                start_new_session=True,
            )
        assert child.stdout is not None
        first = child.stdout.readline()
        if not first:
            child.wait()
            with open(self.log) as log:
                last = log.read().strip().splitlines()[-LOG_LINES:]
            refused = [line for line in last if line.startswith("crossover: ")]
            print(refused[-1] if refused else "\n".join(last), file=sys.stderr)
            sys.exit(exit_codes.REFUSED)
        self.started.append(child)
        return child, json.loads(first)

    def path(self, request: Row) -> epath.Path:
        """The file of a request's record."""
        asked = {**request, "topology": self.topology.name, "mesh": self.mesh, **_compiler(), "sources": _sources()}
        if "job" in request:
            asked |= {"own": parts.own_files("suite.mixers", request["job"]["mixer"])}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:20]
        return self.folder / f"{request['kind']}-{digest}.json"


def default_children() -> int:
    """As many compilers as this machine has cores and memory for."""
    memory: int = machine.describe()["memory_bytes"]
    return max(1, min(int(machine.share()), int(memory / COMPILER_BYTES)))


def _is_kept(path: epath.Path) -> bool:
    """Whether there is a record; one of a compiler that was killed is asked for again."""
    try:
        return files.read_json(path, "kind", "outcome")["outcome"] != CRASHED
    except (FileNotFoundError, files.Damaged):
        return False


@functools.cache
def _compiler() -> dict[str, Any]:
    return {"packages": dict(_versions()), "flags": provenance.compiler_flags()}


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


@functools.cache
def _sources() -> str:
    suite = provenance.PACKAGE / "suite"
    paths = [path for name in MADE_OF for path in sorted((suite / name).rglob("*.py")) or [suite / name]]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]
