"""Joules of training steps and of decoding, of the whole devices, where they count them; otherwise why not."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from suite import energy, inference
from suite.energy import Absent, Meter
from suite.job import Job
from suite.sweep.record import Row
from suite.training import clock
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = "2 * compilation + 2 * blocks * milliseconds / 1000"
CONDITIONS = {
    "counter": "text",
    "covers": "text",
    "absent": "text",
    "tokens": "tokens",
    "context": "tokens",
    "sequences": "sequences",
}
QUANTITIES = {
    "training_energy": {
        "joules": "J per tokens as training_joules_per_token",
        "seconds": "s per tokens as training_energy_seconds_per_token",
    },
    "decoding_energy": {
        "joules": "J per tokens as decoding_joules_per_token",
        "seconds": "s per tokens as decoding_energy_seconds_per_token",
    },
}
TRAINING, DECODING = "training_energy", "decoding_energy"
BOUNDS = {
    "context": (1, 2**28),
    "batch": (1, 2**20),
    "tokens": (1, 2**16),
    "blocks": (1, 10_000),
    "milliseconds": (200, 3_600_000),
}


def check(job: Job, task: Any, *, context: int, batch: int, tokens: int, **_: int) -> None:
    """Refuses a mixer without a state for the context."""
    inference.check(job, task, "energy", batch, context + tokens)


def measure(
    rig: Rig, *, context: int = 1024, batch: int = 1, tokens: int = 8, blocks: int = 3, milliseconds: int = 2000
) -> Iterator[Row]:
    """Rows of the training step on a resident batch, then of decoding; of either one that says why no counter is there.

    A block lasts at least `milliseconds`, since a counter moves a few times a second. Joules are those of the whole
    devices, with what else runs on them and what they take idle. Decoding is of `batch` sequences at the context:
    prefill is not in it, as a cache is made for the context and not read into; it runs on one device.
    """
    least = milliseconds / 1000
    for phase, n_devices, blocks_of in (
        (TRAINING, rig.mesh.size, lambda meter: _train(rig, meter, blocks, least)),
        (DECODING, 1, lambda meter: _decode(rig, meter, (context, batch, tokens), blocks, least)),
    ):
        try:
            yield from blocks_of(_meter(rig, n_devices))
        except Absent as absent:
            yield {"phase": phase, "counter": "none", "absent": str(absent.args[0]), "outcome": "ok"}


def _meter(rig: Rig, n_devices: int) -> Meter:
    if jax.process_count() > 1:
        raise Absent("the job runs on several hosts, and a process reads the counters of its own alone")
    return energy.meter(rig.mesh.devices.flat[0].platform, n_devices, energy.POWERCAP)


def _train(rig: Rig, meter: Meter, blocks: int, least: float) -> Iterator[Row]:
    state, batch = rig.state, rig.resident_batch()

    def call() -> Any:
        nonlocal state
        state, metrics = rig.step(state, batch)
        return metrics

    calls = math.ceil(least / min(clock.time_calls(call, warmup=2, repeats=2)))
    for turn in range(blocks):
        rig.watchdog.feed(long=True)
        calls, joules, seconds = block(meter, lambda calls: clock.time_burst(call, calls), calls, least)
        row = {"phase": TRAINING, "turn": turn, "counter": meter.name, "covers": meter.covers}
        row["tokens"] = round(calls * rig.job.tokens_a_step)
        yield {**row, "joules": joules, "seconds": seconds, "outcome": "ok"}


def _decode(rig: Rig, meter: Meter, sizes: tuple[int, int, int], blocks: int, least: float) -> Iterator[Row]:
    context, sequences, tokens = sizes
    built = inference.on_one_device(rig)
    params, static = eqx.partition(built, eqx.is_array)
    decode = inference.make_decode(static, tokens, context + tokens)
    with jax.default_device(inference.device_of(built)):
        token_B, state = jnp.zeros(sequences, jnp.int32), inference.make_start(built, sequences, context + tokens)()

    def call(bursts: Array) -> Array:
        nonlocal token_B, state
        token_B, _, state = decode(params, token_B, state, bursts)
        return token_B

    def timed(bursts: int) -> float:
        return clock.time_calls(call, jnp.int32(bursts), warmup=0, repeats=1)[0]

    bursts = inference.bursts_of_a_block(call)
    bursts = math.ceil(bursts * max(1.0, least / timed(bursts)))
    for turn in range(blocks):
        rig.watchdog.feed(long=True)
        bursts, joules, seconds = block(meter, timed, bursts, least)
        row = {"phase": DECODING, "turn": turn, "counter": meter.name, "covers": meter.covers}
        row |= {"context": context, "sequences": sequences, "tokens": bursts * tokens * sequences}
        yield {**row, "joules": joules, "seconds": seconds, "outcome": "ok"}


def block(meter: Meter, timed: Callable[[int], float], calls: int, least: float) -> tuple[int, float, float]:
    """The calls, joules and seconds of a block; one of fewer seconds than `least` is taken again, with more calls.

    `timed` makes so many calls and gives their seconds. Before the first block a call may have been slower than it is.
    """
    while True:
        before = meter.read()
        seconds = timed(calls)
        after = meter.read()
        if seconds >= least:
            return calls, meter.joules(before, after), seconds
        calls = math.ceil(1.2 * calls * least / seconds)
