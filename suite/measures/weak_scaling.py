"""Seconds of a training step on 1, 2, 4, ... devices up to all of the mesh, at a fixed batch a device."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from suite import mesh as meshes
from suite.sweep import processes
from suite.sweep.record import Row
from suite.training import clock, programs
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = "4 * (compilation + (5 + rounds) * max(2 * step, 0.2))"
CONDITIONS = {"devices": "devices", "mesh_axes": "sizes", "calls": "steps", "tokens": "tokens"}
QUANTITIES = {
    "scaling": {
        "burst_seconds": "s per calls as step_seconds_on_{devices}",
        "fastest_seconds": "s per calls as fastest_step_seconds_on_{devices}",
        "slowest_seconds": "s per calls as slowest_step_seconds_on_{devices}",
    }
}
BOUNDS = {"rounds": (1, 10_000), "warmup": (0, 10_000)}
BLOCK_SECONDS = 0.1  # a shorter block times the scheduler of a busy machine
LONGEST_BURST = 50


def measure(rig: Rig, *, rounds: int = 10, warmup: int = 3) -> Iterator[Row]:
    """A row for each number of devices in each round, in which they take turns: ratios within a round are paired.

    `burst_seconds` is that of the median process, beside the fastest and the slowest. Of several processes each times
    its own devices alone, at once with the others, and at the end they time the whole mesh together. Every number of
    devices has a training state of its own, so that the first device holds all of them.
    """
    calls, bursts = {}, {}
    rigs = {n_devices: on_devices(rig, n_devices) for n_devices in numbers_of_devices(rig)}
    for n_devices, part in rigs.items():
        rig.watchdog.feed(long=True)
        calls[n_devices] = _stepping(part)
        warm = clock.time_calls(calls[n_devices], warmup=warmup, repeats=2)
        bursts[n_devices] = processes.agree(min(LONGEST_BURST, max(1, math.ceil(BLOCK_SECONDS / min(warm)))))
    for turn in range(rounds):
        for n_devices, part in rigs.items():
            clock.time_calls(calls[n_devices], warmup=1, repeats=0)  # the turn before left its own data in the caches
            seconds = processes.collect(clock.time_burst(calls[n_devices], bursts[n_devices]))
            yield {
                "phase": "scaling",
                "turn": turn,
                "devices": n_devices,
                "mesh_axes": meshes.words(part.mesh),
                "calls": bursts[n_devices],
                "tokens": round(bursts[n_devices] * part.job.tokens_a_step),
                "burst_seconds": statistics.median(seconds),
                "fastest_seconds": min(seconds),
                "slowest_seconds": max(seconds),
                "outcome": "ok",
            }


def numbers_of_devices(rig: Rig) -> list[int]:
    """Powers of two up to the mesh's devices in one process, and all of the mesh; without those that split a batch."""
    local, every = len(rig.mesh.local_devices), rig.mesh.size
    powers = {2**power for power in range(local.bit_length())}
    sizes = (rig.job.batch, rig.job.microbatch)
    return [n for n in sorted({*powers, every}) if all(n * size % every == 0 for size in sizes)]


def on_devices(rig: Rig, n_devices: int) -> Rig:
    """The job on the first devices of the mesh that are this process's own, with their share of the batch."""
    every = rig.mesh.size
    if n_devices == every:
        return rig
    spec = ",".join(f"{axis}:{size}" for axis, size in axes_of(rig.mesh.shape, n_devices).items())
    mesh = meshes.make(spec, rig.mesh.local_devices[:n_devices])
    share = {name: getattr(rig.job, name) * n_devices // every for name in ("batch", "microbatch")}
    job = rig.programs.job.replace(**share)
    made = programs.of_job(job, mesh, rig.programs.vocab)
    return dataclasses.replace(rig, job=rig.job.replace(**share), mesh=mesh, programs=made)


def axes_of(axes: Mapping[str, int], n_devices: int) -> dict[str, int]:
    """The mesh of so many devices: they fill the last axes of the whole one first, and `data` takes what is left."""
    sizes, left = {}, n_devices
    for axis, size in reversed(list(axes.items())):
        sizes[axis] = left if axis == "data" else math.gcd(size, left)
        left //= sizes[axis]
    return {axis: sizes[axis] for axis in axes}


def _stepping(rig: Rig) -> Callable[[], Any]:
    """One training step on a resident batch at each call."""
    state, batch = rig.state, rig.resident_batch()

    def call() -> Any:
        nonlocal state
        state, metrics = rig.step(state, batch)
        return metrics

    return call
