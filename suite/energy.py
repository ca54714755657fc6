"""Energy counters: joules that the devices of a machine have taken, where it tells them.

Of a CPU, RAPL by Linux's powercap: its packages and their memory, with all else that runs on them. Of NVIDIA GPUs, the
total that NVML has of each whole board (Volta or later), by the package nvidia-ml-py. Of a TPU nothing: the monitoring
of libtpu names no counter of energy or power.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence

POWERCAP = pathlib.Path("/sys/class/powercap")
MICRO, MILLI = 1e-6, 1e-3


class Absent(LookupError):
    """No counter can be read here; the text says why."""


@dataclasses.dataclass(frozen=True)
class Domain:
    """One counter: a device, or a part of one. It begins again at 0 after `range` units; 0 where it never does."""

    name: str
    read: Callable[[], int]
    unit: float  # joules
    range: int


@dataclasses.dataclass(frozen=True)
class Meter:
    """All counters of the devices of a job."""

    name: str
    domains: tuple[Domain, ...]

    @property
    def covers(self) -> str:
        return "+".join(domain.name for domain in self.domains)

    def read(self) -> list[int]:
        return [domain.read() for domain in self.domains]

    def joules(self, before: Sequence[int], after: Sequence[int]) -> float:
        """Joules between two readings; of a counter that has begun again in between once, not oftener."""
        spent = 0.0
        for domain, first, last in zip(self.domains, before, after, strict=True):
            spent += domain.unit * (last - first + (domain.range if last < first else 0))
        if spent <= 0:
            raise Absent(f"{self.name} did not move")
        return spent


def meter(platform: str, n_devices: int, powercap: pathlib.Path) -> Meter:
    """The meter of so many devices of this machine; Absent where there is none."""
    match platform:
        case "cpu":
            return rapl(powercap)
        case "gpu" | "cuda":
            return nvml(n_devices)
    raise Absent(f"no counter of energy is known for {platform}; libtpu's monitoring has none for a TPU")


def rapl(powercap: pathlib.Path) -> Meter:
    """The packages of a powercap folder, and their memory where it is counted apart; Absent where one is unreadable."""
    zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if _is_whole(zone)]
    if not zones:
        raise Absent(f"no package of RAPL in {powercap}")
    domains = tuple(_domain(zone) for zone in zones)
    return Meter("RAPL", domains)


def nvml(n_devices: int) -> Meter:
    """The boards of all GPUs of this host; Absent where the job does not run on all of them: which is not told."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise Absent("nvidia-ml-py is not installed; pip install .[energy]") from error
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        if len(handles) != n_devices:
            raise Absent(f"NVML counts {len(handles)} GPUs and the job runs on {n_devices}: it is not told which")
        domains = tuple(
            Domain(f"gpu-{index}", lambda handle=handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), MILLI, 0)
            for index, handle in enumerate(handles)
        )
        meter = Meter("NVML", domains)
        meter.read()
    except pynvml.NVMLError as error:
        raise Absent(f"NVML: {error}") from error
    return meter


def _is_whole(zone: pathlib.Path) -> bool:
    """Whether a zone is a package, or its memory, which is no part of it: cores are, and a platform holds packages."""
    name = _text(zone / "name")
    if re.fullmatch(r"intel-rapl:\d+", zone.name):
        return name.startswith("package")
    return name == "dram"


def _domain(zone: pathlib.Path) -> Domain:
    name = _text(zone / "name")
    name = name if name.startswith("package") else f"{zone.name.split(':')[1]}-{name}"
    domain = Domain(name, lambda: _number(zone / "energy_uj"), MICRO, _number(zone / "max_energy_range_uj"))
    domain.read()
    return domain


def _number(path: pathlib.Path) -> int:
    text = _text(path)
    if not text.isdecimal():
        raise Absent(f"{path} holds {text[:40]!r}, no number")
    return int(text)


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise Absent(f"cannot read {path}: {error.strerror}") from error
