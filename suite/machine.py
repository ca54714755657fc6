"""The machine that a process runs on: its processor, its share of it, and the accelerators that are plugged in."""

import functools
import os
import pathlib
import platform
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

CPUINFO = pathlib.Path("/proc/cpuinfo")
OWN_GROUPS = pathlib.Path("/proc/self/cgroup")
GROUPS = pathlib.Path("/sys/fs/cgroup")
BRANDS = ("model name", "cpu", "uarch")  # on x86 and some Arm, on POWER, on RISC-V
# Lines of /proc/cpuinfo that tell processors of one brand apart: on x86, then on Arm.
DISTINGUISHING = {
    **{"cpu family": "family", "model": "model", "stepping": "stepping"},
    **{"CPU implementer": "implementer", "CPU part": "part", "CPU variant": "variant", "CPU revision": "revision"},
}
NVIDIA, GOOGLE, DISPLAY = "0x10de", "0x1ae0", "0x03"  # numbers of the PCI bus: two vendors, and a class of devices
# Of TPUs, as jax/_src/hardware_utils.py has them.
TPUS = {"0x0027": "v3", "0x005e": "v4", "0x0062": "v5p", "0x0063": "v5e", "0x006f": "v6e", "0x0076": "tpu7x"}
GPU_FILES = ("nvidia[0-9]*",)
TPU_FILES = ("accel[0-9]*", "vfio/[0-9]*")


def describe() -> dict[str, Any]:
    """Host, system, processor, cores and memory."""
    return {
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": cpu(),
        "cores": cores(),
        "memory_bytes": _installed_bytes(),
    }


def memory_bytes() -> int:
    """Bytes of memory that this process may take: all that is installed, or less where a control group limits it."""
    return min([_installed_bytes(), *memory_limits(OWN_GROUPS, GROUPS)])


def _installed_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@functools.cache
def cpu() -> str:
    """The processor: AMD EPYC, family 25 model 1 stepping 1. The brand alone stands for several generations."""
    if CPUINFO.exists():
        return processor(CPUINFO.read_text(errors="replace"))
    if platform.system() == "Darwin":
        brand = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return brand.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def processor(cpuinfo: str) -> str:
    """What a text like /proc/cpuinfo says of its processors, in one line; of cores that differ, each kind."""
    processors: dict[str, None] = {}
    for block in cpuinfo.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        lines = {name.strip(): value.strip() for name, _, value in pairs}
        details = " ".join(f"{short} {lines[name]}" for name, short in DISTINGUISHING.items() if name in lines)
        brands = [lines[name] for name in BRANDS if name in lines]
        if brands or details:
            processors[", ".join(filter(None, [*(brands[:1] or [platform.machine()]), details]))] = None
    return " and ".join(processors) or platform.processor() or platform.machine()


def cores() -> str:
    """Cores that this process may use: 2, or 1.5 of 8 where its control group gives it no more time than that."""
    allowed, worth = _allowed(), share()
    return f"{worth:g} of {allowed}" if worth < allowed else f"{allowed}"


def share() -> float:
    """Cores' worth of processor time that this process may take."""
    return min([_allowed(), *quotas(OWN_GROUPS, GROUPS)])


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quotas(own_groups: pathlib.Path, groups: pathlib.Path) -> Iterator[float]:
    """Cores' worth of processor time that control groups allow, of every group with a limit that the process is in."""
    for folder in _groups_of("cpu", own_groups, groups):
        limit = folder / "cpu.max"
        quota, period = folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
        if limit.exists():
            words = limit.read_text().split()
        elif quota.exists() and period.exists():
            words = [quota.read_text().strip(), period.read_text().strip()]
        else:
            continue
        if words[0] not in ("max", "-1"):
            yield int(words[0]) / int(words[1])


def memory_limits(own_groups: pathlib.Path, groups: pathlib.Path) -> Iterator[int]:
    """Bytes of memory that control groups allow, of every group with a limit that the process is in."""
    for folder in _groups_of("memory", own_groups, groups):
        for limit in (folder / "memory.max", folder / "memory.limit_in_bytes"):
            if limit.exists() and (text := limit.read_text().strip()) != "max":
                yield int(text)


def _groups_of(controller: str, own_groups: pathlib.Path, groups: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folders of the control groups of one controller that the process is in, the innermost first."""
    if not own_groups.exists():
        return
    for line in own_groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = groups / controllers
        inner = root / path.lstrip("/")  # of a container its host's path, which is not there: the root is its own
        yield from (inner, *(parent for parent in inner.parents if parent.is_relative_to(root)))


def accelerators(root: pathlib.Path = pathlib.Path("/")) -> list[str]:
    """The kind of each GPU and TPU that is plugged in and that this process may have: NVIDIA 0x2330, TPU v5e.

    The bus that a container sees is that of its host: what the container was not given has no device file in it.
    """
    kinds = []
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor, device, group = ((folder / name).read_text().strip() for name in ("vendor", "device", "class"))
        if vendor == NVIDIA and group.startswith(DISPLAY) and device_files(GPU_FILES, root):
            kinds.append(f"NVIDIA {device}")
        elif vendor == GOOGLE and device in TPUS and device_files(TPU_FILES, root):
            kinds.append(f"TPU {TPUS[device]}")
    return kinds


def device_files(patterns: tuple[str, ...], root: pathlib.Path = pathlib.Path("/")) -> list[pathlib.Path]:
    """The files by which a process has an accelerator."""
    return sorted(path for pattern in patterns for path in (root / "dev").glob(pattern))


def holders(files: list[pathlib.Path]) -> list[str]:
    """The other processes that have any of these files open, as `python (process 123)`; those that may be looked at."""
    wanted = {os.fspath(path.resolve()) for path in files}
    holding = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            opened = {os.path.realpath(path) for path in (process / "fd").iterdir()}
            if wanted & opened and int(process.name) != os.getpid():
                holding.append(f"{(process / 'comm').read_text().strip()} (process {process.name})")
        except OSError:  # it is another user's, or has ended
            continue
    return holding


def gpu_memory() -> list[tuple[int, int, int]]:
    """Of each NVIDIA GPU its number, the MiB in use and all MiB, as its driver says; empty where nobody says it."""
    query = ["nvidia-smi", "--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=5).stdout
        rows = [line.split(",") for line in said.splitlines()]
        return [(int(index), int(used), int(total)) for index, used, total in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
