"""Seconds a token of greedy decoding after contexts of several lengths, and the bytes of its state."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from suite import inference
from suite.job import Job
from suite.model.backbone import Model
from suite.sweep.record import Row
from suite.training import clock
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = 8
CONDITIONS = {
    "context": "tokens",
    "sequences": "sequences",
    "read": "tokens",
    "chunk": "tokens",
    "capacity": "tokens",
    "decoded": "tokens",
}
QUANTITIES = {
    "prefill": {"prefill_seconds": "s per read as prefill_seconds_per_token"},
    "memory": {"state_bytes": "bytes as decode_state_bytes"},
    "decode": {"decode_seconds": "s per decoded as decode_seconds_per_token"},
}
BOUNDS = {
    "shortest": (1, 2**28),
    "longest": (1, 2**28),
    "batch": (1, 2**20),
    "read": (0, 2**28),
    "chunk": (1, 2**28),
    "tokens": (1, 2**16),
    "blocks": (1, 10_000),
}


def check(job: Job, task: Any, *, shortest: int, longest: int, tokens: int, batch: int, **_: int) -> None:
    """Refuses an empty range of contexts, and a mixer without a state for the longest."""
    if shortest > longest:
        raise ValueError(f"decode: no context from shortest {shortest} to longest {longest}")
    inference.check(job, task, "decode", batch, [*_contexts(shortest, longest)][-1] + tokens)


def measure(
    rig: Rig,
    *,
    shortest: int = 1024,
    longest: int = 16384,
    batch: int = 1,
    read: int = 0,
    chunk: int = 512,
    tokens: int = 8,
    blocks: int = 5,
) -> Iterator[Row]:
    """At each context a row for reading it, one for the state's bytes, and one a block of decoding; on one device.

    A context is read in chunks of so many tokens, or where that is all of it at once in parallel form.
    Contexts go up in steps of four. `read` is how many tokens of a context are read at most, 0 for all: a cache made
    for the context costs a step the same however full it is, and reading takes attention time as its square.
    """
    built = inference.on_one_device(rig)
    ids_BT = np.random.default_rng(rig.job.seed).integers(rig.task.vocab, size=(batch, longest), dtype=np.int32)
    for context in _contexts(shortest, longest):
        yield from _at(built, ids_BT[:, : min(context, read or context)], context, chunk, tokens, blocks)


def _contexts(shortest: int, longest: int) -> Iterator[int]:
    context = shortest
    while context <= longest:
        yield context
        context *= 4


def _at(built: Model, ids_BT: np.ndarray, context: int, chunk: int, tokens: int, blocks: int) -> Iterator[Row]:
    params, static = eqx.partition(built, eqx.is_array)
    (batch, length), capacity = ids_BT.shape, context + tokens
    reader = inference.Reader(built, batch, length, capacity, chunk)
    pieces = reader.cut(ids_BT)
    token_B, state = pieces[0][:, 0], None
    decode = inference.make_decode(static, tokens, capacity)

    def call_read() -> Array:
        nonlocal token_B, state
        token_B, state = reader(pieces)
        return token_B

    def call_decode(bursts: Array) -> Array:
        nonlocal token_B, state
        token_B, _, state = decode(params, token_B, state, bursts)
        return token_B

    row = {"context": context, "sequences": batch, "outcome": "ok"}
    [seconds] = clock.time_calls(call_read, warmup=0, repeats=1)
    yield {"phase": "prefill", **row, "read": length, "chunk": reader.chunk, "prefill_seconds": seconds}
    yield {"phase": "memory", **row, "capacity": capacity, "state_bytes": inference.state_bytes(state)}
    bursts = inference.bursts_of_a_block(call_decode)
    for turn in range(blocks):
        [seconds] = clock.time_calls(call_decode, jnp.int32(bursts), warmup=0, repeats=1)
        yield {"phase": "decode", **row, "turn": turn, "decoded": bursts * tokens, "decode_seconds": seconds}
