"""Joins the processes of a job: each finds its rank, meets the others, compares its settings and starts JAX."""

import contextlib
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from suite import machine
from suite.job import Cell
from suite.sweep import doctor, events, exit_codes, processes, provenance, rendezvous, startup, store
from suite.sweep.links import Member
from suite.sweep.options import Options
from suite.sweep.rendezvous import Settings

MEETING_SECONDS = 60.0  # at least, whatever the patience, for the processes of a job to come
REFUSING_SECONDS = 10.0  # for them to hear that one of them is refused
SEEING_SECONDS = 5.0  # for a file to be seen from another host, in so many attempts
ATTEMPTS = 20
# Variables of JAX that differ from process to process as they should.
OF_ONE_PROCESS = (
    *("JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "JAX_LOCAL_DEVICE_IDS", "JAX_PARTITION_INDEX", "JAX_SLICE_INDEX"),
    *("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS", "JAX_COORDINATOR_PORT", "JAX_COMPILATION_CACHE_DIR"),
)


def join(
    options: Options,
    read: Callable[[], tuple[list[Cell], Settings]],
    clock: Callable[[], float],
    wall: Callable[[], float],
    *,
    is_doctor: bool = False,
) -> list[Cell]:
    """Starts JAX in this process together with the others of its job; the cells that process 0 has read.

    `read` gives the cells, and what was asked for: it must be the same in all processes. `clock` never goes back, and
    `wall` is that of the day. Where there are several processes all are looked at, and what was seen is printed; a
    process alone is looked at for launch.doctor only.
    """
    member = find_member(options)
    if member is not None:
        startup.label_lines(member.rank)
    # Of the children that launch.compare starts one after another the first, which checks the cells.
    looks = is_doctor or (member is not None and (options.check or not options.is_child))
    name = ""
    try:
        cells, asked = read()
        if looks:
            doctor.check_host(options, in_use=not is_doctor)
        store.check_writable(options.out)
    except Exception as error:
        if member is not None:
            refuse_together(member, error, clock)
        raise
    if member is not None:
        seconds = options.patience if is_doctor else max(options.patience, MEETING_SECONDS)
        try:
            cells, name = meet(options, member, cells, asked, seconds, clock)
        except rendezvous.Dismissed as dismissed:
            if options.is_child:
                events.tell(options.events, "dismissed", code=dismissed.code)
            raise
    if all(cell.job.remat == "none" for cell in cells):  # who has blocks computed again wants memory, not time
        startup.keep_memory()
    start_jax(options, member, name, check_ports=looks and member is not None)
    if looks:
        lines, odd = doctor.examine(options, wall)
        if member is None or member.rank == 0:
            print(*lines, sep="\n", flush=True)
            print(*(f"crossover: {line}\n" for line in odd), sep="", end="", file=sys.stderr, flush=True)
    return cells


def find_member(options: Options) -> Member | None:
    """Which process of its job this is: by the flags, then by the environment; None for the only one."""
    return processes.find(
        options.coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS", ""),
        options.num_processes or whole_number("JAX_NUM_PROCESSES", 0),
        options.process_id if options.process_id >= 0 else whole_number("JAX_PROCESS_ID", -1),
        os.environ,
    )


def whole_number(variable: str, default: int) -> int:
    """A number of the environment."""
    text = os.environ.get(variable, "")
    if text and not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{variable} wants a whole number, not {text!r}")
    return int(text) if text else default


def meet(
    options: Options,
    member: Member,
    cells: list[Cell],
    asked: Settings,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[list[Cell], str]:
    """Meets the other processes of the job, alike in all that decides; the cells of process 0, and the job's name.

    Each launch.compare of several hosts has made a list at another moment: that of process 0 counts.
    """
    followed, first = bool(options.cells), member.rank == 0
    taken = cells

    def accept(offer: Any) -> Settings:
        nonlocal taken
        if followed:
            taken = [Cell.from_dict(record) for record in offer["cells"]]
        if not first and not sees(options.out, offer["probe"], SEEING_SECONDS):
            raise ValueError(
                f"does not see rank 0's --out={offer['out']} as its own --out={options.out}: "
                "the processes of a job share one directory"
            )
        return {name: hash for cell in taken for name, hash in cell.own_files().items()}

    offer = {"cells": [cell.to_dict() for cell in cells] if followed else [], "out": options.out}
    with probing(options.out) if first else contextlib.nullcontext("") as probe:
        entry = rendezvous.Entry(settings_of(options, member, asked), offer | {"probe": probe}, accept)
        _, name = rendezvous.meet(member, entry, seconds, clock)
    return taken, name


@contextlib.contextmanager
def probing(root: epath.PathLike) -> Iterator[str]:
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
    for _ in range(ATTEMPTS):
        with contextlib.suppress(OSError):
            if path.exists() and path.read_text() == name:
                return True
        threading.Event().wait(seconds / ATTEMPTS)
    return False


def refuse_together(member: Member, error: Exception, clock: Callable[[], float]) -> None:
    """Lets the other processes of the job know that this one is refused: they would wait for it."""
    text = f"is refused: {error.args[0] if isinstance(error, LookupError) else error}"
    entry = rendezvous.Entry({}, None, lambda _: {}, refused=text)
    with contextlib.suppress(exit_codes.NotMet, rendezvous.Dismissed, ValueError, OSError):
        rendezvous.meet(member, entry, REFUSING_SECONDS, clock)


def settings_of(options: Options, member: Member, asked: Settings) -> Settings:
    """What the numbers of a job rest on, and so must be the same in all of its processes."""
    settings = {"started by": "launch.compare" if options.cells else "launch.job"} | asked
    settings |= {f"--{name}": str(getattr(options, name)) for name in ("mesh", "save_seconds", "seconds")}
    settings |= {"--num_processes": str(member.processes)}
    packages = provenance.versions((*provenance.GPU_PACKAGES, *provenance.TPU_PACKAGES))
    if os.environ.get("JAX_PLATFORMS") != "cpu":  # devices of two kinds would wait for each other as they start
        settings |= {"accelerators": " and ".join(sorted(set(machine.accelerators()))) or "none"} | packages
    variables = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    settings |= {name: value for name, value in sorted(variables.items()) if name not in OF_ONE_PROCESS}
    return settings | provenance.of_process() | provenance.sources()


def start_jax(options: Options, member: Member | None, name: str, *, check_ports: bool) -> None:
    """Starts JAX with the persistent cache under --out, together with the processes that were met, if any.

    `check_ports` lets each try to reach the others before their devices do.
    """
    jax.config.update("jax_compilation_cache_dir", str(epath.Path(options.out) / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    processes.join(member, name, processes.local_devices(os.environ))
    if check_ports:
        doctor.check_ports()
    processes.check_platform(alone=member is None)
