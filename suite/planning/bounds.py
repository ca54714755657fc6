"""Bounds of a training step's time on devices of known speed: the longest of four times, and their sum.

Compute is the model's FLOPs, of three forward passes, at the peak. Memory is, at least, each argument and result of a
step once at full bandwidth; at most, all that its instructions read and write. Network is what a device sends over all
its links. The chain is the turns of loops over time that wait for one another. No step takes less than the longest; one
takes more than the sum where its kernels are far from the peak, so that neither is a forecast.
"""

import dataclasses
from typing import NamedTuple

from suite import hardware
from suite.sweep.record import Row

TRAINING = 3  # a training step does the forward pass and twice as much again backward


class Speeds(NamedTuple):
    """Of one device: FLOP/s of products, bytes/s of memory and of its links, seconds of a dependent step; whence."""

    flops_per_second: float
    bytes_per_second: float
    link_bytes_per_second: float
    step_seconds: float
    memory_bytes: float
    source: str
    missing: tuple[str, ...] = ()  # why a speed is not known; what rests on it is left out of the bounds


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds of a training step: its parts, the longest of them and their sum."""

    compute: float
    memory_least: float
    memory_most: float
    network: float
    chain: float

    @property
    def low(self) -> float:
        return max(self.compute, self.memory_least, self.network, self.chain)

    @property
    def high(self) -> float:
        return self.compute + max(self.memory_least, self.memory_most) + self.network + self.chain

    @property
    def longest(self) -> str:
        """The name of what takes the longest."""
        parts = {"compute": self.compute, "memory": self.memory_least, "network": self.network, "chain": self.chain}
        return max(parts, key=lambda name: parts[name])


def of_accelerator(device_kind: str, dtype: str) -> Speeds:
    """The speeds of a device as suite/hardware.py has them; LookupError where it has no peak."""
    peak = hardware.peak(device_kind)
    missing = []
    known = {}
    for name, look_up in (("chain", hardware.step_seconds), ("network", hardware.link_bytes_per_second)):
        try:
            known[name] = look_up(device_kind)
        except LookupError as error:
            missing.append(f"{name}: {error.args[0]}")
    return Speeds(
        hardware.flops_per_second(peak, dtype),
        peak.bytes_per_second,
        known.get("network", float("inf")),
        known.get("chain", 0.0),
        peak.memory_bytes,
        peak.source,
        tuple(missing),
    )


def of_host(measured: Row, n_devices: int, memory_bytes: float) -> Speeds:
    """The speeds of each of the devices that share a host, from its peaks as they were measured."""
    bandwidth = measured["bytes_per_second"] / n_devices
    return Speeds(
        measured["flops_per_second"] / n_devices,
        bandwidth,
        bandwidth,  # devices of one process send through memory
        measured["step_seconds"],
        memory_bytes / n_devices,
        "measured here, by the measure `peak`",
    )


def of_step(program: Row, flops_per_token: float, n_devices: int, speeds: Speeds) -> Bounds:
    """The bounds of a compiled step."""
    flops = TRAINING * flops_per_token * program["solved"]["batch"] * program["solved"]["length"]
    least = program["argument_bytes"] + program["output_bytes"]
    return Bounds(
        compute=flops / n_devices / speeds.flops_per_second,
        memory_least=least / speeds.bytes_per_second,
        memory_most=program["accessed_bytes"] / speeds.bytes_per_second,
        network=sum(program["sent_bytes"].values()) / speeds.link_bytes_per_second,
        chain=program["turns"] * speeds.step_seconds,
    )


def held_bytes(program: Row) -> int:
    """Bytes of a device's memory that a step takes."""
    held = program["argument_bytes"] + program["output_bytes"] - program["alias_bytes"]
    return held + program["temp_bytes"]
