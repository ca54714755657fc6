"""Tokens a second of decoding against the number of sequences: from one on, doubled until memory ends, by context."""

from collections.abc import Generator, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from suite import inference
from suite.job import Job
from suite.model.backbone import Model
from suite.sweep.record import Row
from suite.training import clock, memory
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = 60
CONDITIONS = {
    "context": "tokens",
    "sequences": "sequences",
    "capacity": "tokens",
    "decoded": "tokens",
    "held_from": "text",
}
QUANTITIES = {
    "memory": {"state_bytes": "bytes as throughput_state_bytes", "held_bytes": "bytes as throughput_held_bytes"},
    "throughput": {"decode_seconds": "s per decoded as throughput_seconds_per_token"},
}
BOUNDS = {
    "shortest": (1, 2**28),
    "longest": (1, 2**28),
    "most": (1, 2**20),
    "tokens": (1, 2**16),
    "blocks": (1, 10_000),
    "memory_bytes": (0, 2**50),
}


def check(job: Job, task: Any, *, shortest: int, longest: int, tokens: int, **_: int) -> None:
    """Refuses an empty range of contexts, and a mixer without a state for the longest."""
    if shortest > longest:
        raise ValueError(f"throughput: no context from shortest {shortest} to longest {longest}")
    inference.check(job, task, "throughput", 1, inference.doubling(shortest, longest)[-1] + tokens)


def measure(
    rig: Rig,
    *,
    shortest: int = 1024,
    longest: int = 16384,
    most: int = 256,
    tokens: int = 8,
    blocks: int = 3,
    memory_bytes: int = 0,
) -> Iterator[Row]:
    """At each context and number of sequences a row for the memory and one a block of decoding; on one device.

    Contexts go up in steps of four, sequences in steps of two up to `most`. `decoded` counts the tokens of all
    sequences. A cache is made for the context and not read into: a step works against all of it, however full it is. Of
    the device, or of a CPU its host, `memory_bytes` count, 0 for all; a context's first number of sequences that does
    not fit is its last row.
    """
    built = inference.on_one_device(rig)
    for context in inference.doubling(shortest, longest)[::2]:
        for sequences in inference.doubling(1, most):
            rig.watchdog.feed(long=True)
            outcome = yield from _at(built, context, sequences, tokens, blocks, memory_bytes)
            if outcome != "ok":
                break


def _at(
    built: Model, context: int, sequences: int, tokens: int, blocks: int, memory_bytes: int
) -> Generator[Row, None, str]:
    """The rows of so many sequences; returns their outcome."""
    device, capacity = inference.device_of(built), context + tokens
    params, static = eqx.partition(built, eqx.is_array)
    row: Row = {"context": context, "sequences": sequences, "capacity": capacity}
    start = inference.make_start(built, sequences, capacity)
    with jax.default_device(device):
        token_B = jnp.zeros(sequences, jnp.int32)
    lowered = inference.make_decode(static, tokens, capacity).lower(
        params, token_B, jax.eval_shape(start), jax.ShapeDtypeStruct((), jnp.int32)
    )
    decode = lowered.compile()
    held_bytes, limit = memory.held_bytes(decode), memory.limit_bytes(device, memory_bytes)
    if held_bytes > limit:
        estimate = {"estimate_bytes": held_bytes, "estimated_from": "the compiled program of decoding"}
        yield {"phase": "throughput", **row, "outcome": "oom", "error": f"{limit:,} bytes are there", **estimate}
        return "oom"
    with jax.default_device(device):
        state = start()

    def call(bursts: Array) -> Array:
        nonlocal token_B, state
        token_B, _, state = decode(params, token_B, state, bursts)
        return token_B

    row["outcome"] = "ok"
    held = memory.in_use(device, held_bytes)
    yield {"phase": "memory", **row, "state_bytes": inference.state_bytes(state), **held}
    bursts = inference.bursts_of_a_block(call)
    for turn in range(blocks):
        [seconds] = clock.time_calls(call, jnp.int32(bursts), warmup=0, repeats=1)
        yield {
            "phase": "throughput",
            **row,
            "turn": turn,
            "decoded": bursts * tokens * sequences,
            "decode_seconds": seconds,
        }
    return "ok"
