"""Looks at the hosts and processes of a job before its first cell: one check a function, and each names what is odd.

A check of a host returns its fault in a line, empty where there is none. The checks of a job run in all processes at
once; a fault is raised in all of them and names the rank that has it.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import shutil
import socket
import statistics
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from suite import files, machine
from suite import mesh as meshes
from suite.sweep import processes, provenance
from suite.sweep.options import Options
from suite.training import clock

SPACE = 1 << 30  # bytes that are free under --out: records and checkpoints of a small sweep, and compiled programs
STORAGE = "https://storage.googleapis.com"
REACHING_SECONDS = 3.0  # for another host to answer
RELEASING_SECONDS = 5.0  # for a process that is ending to let go of a GPU
LOOKING_SECONDS = 60.0  # for the other processes to come to the end of a check
HELD = 0.25  # of a GPU's memory: JAX takes the other three quarters when it starts
SLOW = 1.5  # times what the product of matrices takes the others
BYTES = {"cpu": 1 << 24}  # that each device gives to the all-reduce; elsewhere 256 MiB, as nccl-tests' longest
SIZES = {"cpu": 512}  # of the square matrices; elsewhere 4,096
REPEATS = 5


# A host.


def check_host(options: Options, *, in_use: bool) -> None:
    """ValueError with all faults of this host, before JAX starts; `in_use` where others may use its GPUs meanwhile."""
    faults = [find_space(options), find_bucket(options), find_package(), "" if in_use else find_holder()]
    if any(faults):
        raise ValueError("; ".join(filter(None, faults)))


def find_space(options: Options) -> str:
    """Too little room on the disk of --out."""
    if files.is_object(options.out):
        return ""
    out = files.absolute(options.out)
    free = shutil.disk_usage(next(folder for folder in (out, *out.parents) if folder.exists())).free
    return f"{free / 1e6:,.0f} MB are free at --out={options.out}; wanted {SPACE / 1e6:,.0f}" if free < SPACE else ""


def find_bucket(options: Options) -> str:
    """A directory on gs:// where Google's storage does not answer."""
    named = [path for path in (options.out, options.data_dir) if path.startswith("gs://")]
    if not named:
        return ""
    url = os.environ.get("STORAGE_EMULATOR_HOST", STORAGE)
    url = url if "://" in url else f"http://{url}"
    ends: list[str] = []

    def ask() -> None:
        try:
            with contextlib.suppress(urllib.error.HTTPError):  # any answer is one
                urllib.request.urlopen(url, timeout=REACHING_SECONDS).close()
            ends.append("")
        except (OSError, ValueError) as error:
            ends.append(f" ({getattr(error, 'reason', error)})")

    asking = threading.Thread(target=ask, daemon=True)  # a name server that does not answer has limits of its own
    asking.start()
    asking.join(REACHING_SECONDS + 1)
    why = ends[0] if ends else " (no answer)"
    return f"no way to {named[0]}: {url} is not reached{why}" if why else ""


def find_package() -> str:
    """A GPU or TPU that is plugged in, and a Python that has no package of JAX's for it."""
    if os.environ.get("JAX_PLATFORMS"):
        return ""
    plugged = machine.accelerators()
    for vendor, packages, extra in (
        ("NVIDIA", provenance.GPU_PACKAGES, "cuda"),
        ("TPU", provenance.TPU_PACKAGES, "tpu"),
    ):
        kinds = [kind for kind in plugged if kind.startswith(vendor)]
        if kinds and not provenance.versions(packages):
            return (
                f"{len(kinds)} x {kinds[0]} is plugged in and JAX here is for the CPU alone; "
                f"pip install -c constraints.txt -e '.[{extra}]', or set JAX_PLATFORMS=cpu"
            )
    return ""


def find_holder() -> str:
    """A TPU that another process has, or a GPU of whose memory another one holds a quarter."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return ""
    for _ in range(10):
        if not (fault := _holder_of_tpu() or _holder_of_gpu()):
            return ""
        threading.Event().wait(RELEASING_SECONDS / 10)
    return fault


def _holder_of_tpu() -> str:
    if not any(kind.startswith("TPU") for kind in machine.accelerators()):
        return ""
    holding = machine.holders(machine.device_files(machine.TPU_FILES))
    return f"the TPU is held by {', '.join(holding)}; end it, or wait for it" if holding else ""


def _holder_of_gpu() -> str:
    gpus = machine.device_files(machine.GPU_FILES)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    for index, used, total in machine.gpu_memory() if gpus else ():
        if used > HELD * total and (visible == [""] or str(index) in visible):
            holding = ", ".join(machine.holders([path for path in gpus if path.name == f"nvidia{index}"])) or "others"
            return f"{used:,} of the {total:,} MiB of GPU {index} are held by {holding}; end it, or choose another GPU"
    return ""


# The processes of a job, before their devices start.


def check_ports() -> None:
    """ValueError where a process does not reach another one at a port of its host's name, where gloo will listen.

    NCCL, too, connects every process with others at ports that the system gives out. TPUs have a network of their own.
    """
    if any(kind.startswith("TPU") for kind in machine.accelerators()):
        return
    listener, fault = _listen_by_name()
    with listener:
        address = ("", 0) if fault else listener.getsockname()[:2]
        addresses = processes.collect([socket.gethostname(), *address], LOOKING_SECONDS)
        with concurrent.futures.ThreadPoolExecutor(32) as threads:
            answers = threads.map(_reach, [(host, port) for _, host, port in addresses])
            unreached = [[rank, why] for rank, why in enumerate(answers) if why]
        seen = [fault, unreached]
        processes.refuse(processes.together(seen, lambda given: odd_address(given, addresses), LOOKING_SECONDS))


def _listen_by_name() -> tuple[socket.socket, str]:
    """A listener at the first address of this host's name that is its own, as gloo chooses it; or why there is none."""
    name, why = socket.gethostname(), "no address"
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM):
            listener = socket.socket(family, kind, protocol)
            try:
                listener.bind(address)
                listener.listen(1024)
                return listener, ""
            except OSError as error:
                listener.close()
                why = f"{address[0]}: {error.strerror}"
    except socket.gaierror as error:
        why = error.strerror
    return socket.socket(), f"its host's name {name} is no address of that host ({why}); add it to /etc/hosts"


def _reach(address: tuple[str, int]) -> str:
    """Why nothing answers at an address; empty where something does, or where there is no address."""
    if not address[0]:
        return ""
    try:
        socket.create_connection(address, REACHING_SECONDS).close()
        return ""
    except OSError as error:
        return error.strerror or "no answer"


def odd_address(given: list[tuple[str, list[tuple[int, str]]]], addresses: list[tuple[str, str, int]]) -> str:
    """The rank that takes part in most of the connections which failed, and the first of these.

    Of each rank its own fault, and the ranks that it did not reach, each with a reason; and all ranks' host names and
    addresses.
    """
    for rank, (fault, _) in enumerate(given):
        if fault:
            return f"rank {rank} (host {addresses[rank][0]}): {fault}"
    failed = [(rank, other, why) for rank, (_, unreached) in enumerate(given) for other, why in unreached]
    if not failed:
        return ""
    ends = collections.Counter(end for rank, other, _ in failed for end in (other, rank))
    odd = ends.most_common(1)[0][0]
    rank, other, why = next(one for one in failed if odd in one[:2])
    host, address, port = addresses[other]
    return (
        f"rank {odd} (host {addresses[odd][0]}) is cut off: rank {rank} does not reach {other} at {address}:{port}, "
        f"by its host's name {host} ({why}); open all ports between the hosts, and give each a name that all know"
    )


# The processes of a job, on their devices.


@dataclasses.dataclass(frozen=True)
class Look:
    """One process: the kind of its devices, seconds of a product on each, free bytes, and what its clock says."""

    host: str
    kind: str
    seconds: list[float]
    free: int
    time: float


def examine(options: Options, wall: Callable[[], float]) -> tuple[list[str], list[str]]:
    """The lines of a table of all processes, and one line for each that is odd; `wall` is the clock on the wall.

    ValueError in all of them where their devices are of several kinds, or are not those that are plugged in.
    """
    kind, platform = jax.local_devices()[0].device_kind, jax.default_backend()
    processes.check_alike({"device kind": kind})
    processes.refuse(processes.together([socket.gethostname(), find_unused(platform)], _first_fault, LOOKING_SECONDS))
    mesh = meshes.make()
    rate = all_reduce(mesh) if mesh.size > 1 else 0.0
    seconds = product_seconds()
    free = 0 if files.is_object(options.out) else shutil.disk_usage(options.out).free
    processes.barrier("clocks", LOOKING_SECONDS)
    look = Look(socket.gethostname(), machine.cpu() if platform == "cpu" else kind, seconds, free, wall())
    looks = [Look(**values) for values in processes.collect(dataclasses.asdict(look), LOOKING_SECONDS)]
    lines = table(looks)
    if mesh.size > 1:
        lines.append(f"all-reduce of {_bytes(mesh) >> 20} MiB over {mesh.size} devices: {rate:.3g} GB/s a device")
    return lines, odd(looks)


def find_unused(platform: str) -> str:
    """A GPU or TPU that is plugged in, where JAX has started on the CPU."""
    plugged = machine.accelerators()
    if platform != "cpu" or not plugged or os.environ.get("JAX_PLATFORMS"):
        return ""
    return f"{len(plugged)} x {plugged[0]} is plugged in and JAX has started on the CPU; does the driver work?"


def _first_fault(faults: list[tuple[str, str]]) -> str:
    return next((f"rank {rank} (host {host}): {fault}" for rank, (host, fault) in enumerate(faults) if fault), "")


def all_reduce(mesh: Mesh) -> float:
    """GB/s that each device sends in a sum over all devices, counted as nccl-tests count it, whatever the algorithm.

    A ring sends 2 (n - 1) / n of the bytes, which no algorithm that splits them evenly can do without.
    """
    shape = (mesh.size, _bytes(mesh) // 4)
    ones = jax.jit(lambda: jnp.ones(shape, jnp.float32), out_shardings=meshes.over_batch(mesh))()
    total = jax.jit(lambda x: x.sum(axis=0), out_shardings=meshes.replicated(mesh))
    seconds = min(clock.time_calls(total, ones, warmup=2, repeats=REPEATS))
    return 2 * (mesh.size - 1) / mesh.size * _bytes(mesh) / seconds / 1e9


def _bytes(mesh: Mesh) -> int:
    return BYTES.get(mesh.devices.flat[0].platform, 1 << 28)


def product_seconds() -> list[float]:
    """Seconds of a small product of matrices on each device of this process: the best of a few."""
    platform = jax.default_backend()
    size = SIZES.get(platform, 4096)
    ones = jnp.ones((size, size), jnp.float32 if platform == "cpu" else jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    parts = [jax.device_put(ones, device) for device in jax.local_devices()]
    return [min(clock.time_calls(product, part, part, warmup=1, repeats=REPEATS)) for part in parts]


def table(looks: list[Look]) -> list[str]:
    """One line a rank: what its slowest device takes for the product, and how far its clock is from that of rank 0."""
    rows = [("rank", "host", "devices", "product", "free", "clock")]
    for rank, look in enumerate(looks):
        devices = f"{len(look.seconds)} x {look.kind}"
        apart = f"{look.time - looks[0].time:+.2f} s" if rank else "0 s"
        free = f"{look.free / 1e9:,.0f} GB" if look.free else "-"
        rows.append((str(rank), look.host, devices, f"{1e3 * max(look.seconds):.2f} ms", free, apart))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def odd(looks: list[Look]) -> list[str]:
    """A line for each rank with another number of devices than most, or with a slow one."""
    usual = statistics.mode(len(look.seconds) for look in looks)
    lines = []
    for rank, look in enumerate(looks):
        name, slowest = f"rank {rank} (host {look.host})", max(look.seconds)
        if len(look.seconds) != usual:
            lines.append(f"{name} has {len(look.seconds)} devices where most have {usual}")
        others = [second for other in looks if other is not look for second in other.seconds]
        if others and slowest > SLOW * statistics.median(others):
            times = slowest / statistics.median(others)
            lines.append(
                f"{name} is slow: a product takes its device {look.seconds.index(slowest)} {times:.1f} times as long"
            )
    return lines
