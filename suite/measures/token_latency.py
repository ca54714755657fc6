"""Seconds of each decoded token by itself, as who waits for it sees them: median and 95th percentile, by context."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from suite import inference
from suite.inference import Reader
from suite.job import Job
from suite.sweep.record import Row
from suite.training import clock, memory
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = 12
CONDITIONS = {"context": "tokens", "sequences": "sequences", "decoded": "n", "capacity": "tokens", "held_from": "text"}
QUANTITIES = {
    "memory": {"state_bytes": "bytes as token_state_bytes", "held_bytes": "bytes as token_held_bytes"},
    "latency": {
        "median_seconds": "s as token_latency_median",
        "p95_seconds": "s as token_latency_p95",
        "slowest_seconds": "s as token_latency_slowest",
    },
}
BOUNDS = {
    "shortest": (1, 2**28),
    "longest": (1, 2**28),
    "batch": (1, 2**20),
    "tokens": (1, 2**16),
    "blocks": (1, 10_000),
    "memory_bytes": (0, 2**50),
}
READ = 128  # tokens read before: a step works against the whole cache, however full it is
WARM = 3  # tokens that are decoded before those that are timed


def check(job: Job, task: Any, *, shortest: int, longest: int, batch: int, tokens: int, blocks: int, **_: int) -> None:
    """Refuses an empty range of contexts, and a mixer without a state for the longest."""
    if shortest > longest:
        raise ValueError(f"token_latency: no context from shortest {shortest} to longest {longest}")
    capacity = inference.doubling(shortest, longest)[-1] + WARM + blocks * tokens
    inference.check(job, task, "token_latency", batch, capacity)


def measure(
    rig: Rig,
    *,
    shortest: int = 1024,
    longest: int = 16384,
    batch: int = 1,
    tokens: int = 40,
    blocks: int = 5,
    memory_bytes: int = 0,
) -> Iterator[Row]:
    """At each context, each twice the one before, a row for the memory and one a block of tokens; on one device.

    A token's latency is that of one call, from its dispatch until its result is there: what decoding in bursts hides
    is in it. Of the device, or of a CPU its host, `memory_bytes` count, 0 for all; the first context that does not fit
    is the last row.
    """
    built = inference.on_one_device(rig)
    params = eqx.filter(built, eqx.is_array)
    device = inference.device_of(built)
    limit = memory.limit_bytes(device, memory_bytes)
    ids_BT = np.random.default_rng(rig.job.seed).integers(rig.task.vocab, size=(batch, longest), dtype=np.int32)
    for context in inference.doubling(shortest, longest):
        rig.watchdog.feed(long=True)
        capacity = context + WARM + blocks * tokens
        row: Row = {"context": context, "sequences": batch, "capacity": capacity}
        step = inference.compile_step(built, batch, capacity)
        held_bytes = memory.held_bytes(step)
        if held_bytes > limit:
            estimate = {"estimate_bytes": held_bytes, "estimated_from": "the compiled program of a token"}
            yield {"phase": "latency", **row, "outcome": "oom", "error": f"{limit:,} bytes are there", **estimate}
            return
        reader = Reader(built, batch, min(READ, context), capacity, READ)
        token_B, state = reader(reader.cut(ids_BT[:, : min(READ, context)]))
        row["outcome"] = "ok"
        held = memory.in_use(device, held_bytes)
        yield {"phase": "memory", **row, "state_bytes": inference.state_bytes(state), **held}

        def call(step: jax.stages.Compiled = step) -> tuple[Array, Any]:
            nonlocal token_B, state
            token_B, state = step(params, token_B, state)
            return token_B, state

        clock.time_calls(call, warmup=WARM, repeats=0)
        for turn in range(blocks):
            seconds = clock.time_calls(call, warmup=0, repeats=tokens)
            median, p95 = np.quantile(seconds, (0.5, 0.95))
            times = {"median_seconds": float(median), "p95_seconds": float(p95), "slowest_seconds": max(seconds)}
            yield {"phase": "latency", **row, "turn": turn, "decoded": tokens, **times}
        del state
