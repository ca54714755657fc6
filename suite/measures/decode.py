"""Seconds a token of greedy decoding after contexts of several lengths, and the bytes of its state."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from suite import contract, parts
from suite import mesh as meshes
from suite.job import Job
from suite.model import backbone, matching
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
BLOCK_SECONDS = 0.1  # a shorter block times the scheduler of a busy machine


def check(job: Job, task: Any, *, shortest: int, longest: int, tokens: int, batch: int, **_: int) -> None:
    """Refuses an empty range of contexts, and a mixer without a state for the longest."""
    if shortest > longest:
        raise ValueError(f"decode: no context from shortest {shortest} to longest {longest}")
    contract.wants(job, "decode", "start", "extend", "step")
    built = backbone.shapes(matching.solve(job, task.vocab), task.vocab)
    capacity = [*_contexts(shortest, longest)][-1] + tokens
    with parts.own_lines("suite.mixers", job.mixer):
        jax.eval_shape(lambda built: built.start(batch, capacity, jnp.dtype(job.dtype)), built)


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

    Contexts go up in steps of four. `read` is how many tokens of a context are read at most, 0 for all: a cache made
    for the context costs a step the same however full it is, and reading takes attention time as its square.
    """
    built = on_one_device(rig)
    ids_BT = np.random.default_rng(rig.job.seed).integers(rig.task.vocab, size=(batch, longest), dtype=np.int32)
    for context in _contexts(shortest, longest):
        yield from _at(rig, built, ids_BT[:, : min(context, read or context)], context, chunk, tokens, blocks)


def _contexts(shortest: int, longest: int) -> Iterator[int]:
    context = shortest
    while context <= longest:
        yield context
        context *= 4


def _at(
    rig: Rig, built: Model, ids_BT: np.ndarray, context: int, chunk: int, tokens: int, blocks: int
) -> Iterator[Row]:
    device = rig.mesh.local_devices[0]
    params, static = eqx.partition(built, eqx.is_array)
    (batch, length), capacity = ids_BT.shape, context + tokens
    with jax.default_device(device):
        state = jax.jit(lambda: built.start(batch, capacity, jnp.dtype(rig.job.dtype)))()
    piece = math.gcd(chunk, length)
    pieces = [jax.device_put(ids_BT[:, first : first + piece], device) for first in range(0, length, piece)]
    unread, token_B = iter(pieces), pieces[0][:, 0]
    read = make_read(static).lower(params, pieces[0], state).compile()
    decode = make_decode(static, tokens, capacity)

    def call_read() -> Array:
        nonlocal token_B, state
        token_B, state = read(params, next(unread), state)
        return token_B

    def call_decode(bursts: Array) -> Array:
        nonlocal token_B, state
        token_B, _, state = decode(params, token_B, state, bursts)
        return token_B

    row = {"context": context, "sequences": batch, "outcome": "ok"}
    seconds = clock.time_burst(call_read, len(pieces))
    yield {"phase": "prefill", **row, "read": length, "chunk": piece, "prefill_seconds": seconds}
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    yield {"phase": "memory", **row, "capacity": capacity, "state_bytes": state_bytes}
    bursts = _bursts(call_decode)
    for turn in range(blocks):
        [seconds] = clock.time_calls(call_decode, jnp.int32(bursts), warmup=0, repeats=1)
        yield {"phase": "decode", **row, "turn": turn, "decoded": bursts * tokens, "decode_seconds": seconds}


def _bursts(call: Callable[[Array], Array]) -> int:
    """How many bursts fill a block: tried, since one alone may be mostly dispatch."""
    bursts = 1
    clock.time_calls(call, jnp.int32(bursts), warmup=1, repeats=0)
    while True:
        [seconds] = clock.time_calls(call, jnp.int32(bursts), warmup=0, repeats=1)
        if seconds >= BLOCK_SECONDS:
            return bursts
        bursts = math.ceil(1.2 * bursts * BLOCK_SECONDS / seconds)


def on_one_device(rig: Rig) -> Model:
    """The untrained model on the first device of this process, its blocks one after another.

    A scan over the blocks would copy every cache out and back at each token.
    """
    params = meshes.on_one_device(rig.state.params, rig.mesh)
    return eqx.filter_jit(_unstacked)(eqx.combine(params, rig.static))


def _unstacked(built: Model) -> Model:
    if not built.pattern:
        return built
    repeats = jax.tree.leaves(built.pattern)[0].shape[0]
    blocks = [jax.tree.map(lambda leaf, at=at: leaf[at], block) for at in range(repeats) for block in built.pattern]
    return eqx.tree_at(lambda model: (model.pattern, model.rest), built, ((), (*blocks, *built.rest)))


def make_read(static: Model) -> Any:
    """Reads a chunk of tokens into a state, which is donated; also the likeliest next token."""

    @functools.partial(jax.jit, donate_argnums=2)
    def read(params: Model, tokens_BT: Int[Array, "B T"], state: PyTree) -> tuple[Int[Array, " B"], PyTree]:
        logits_BTV, state = eqx.combine(params, static).extend(tokens_BT, state)
        return jnp.argmax(logits_BTV[:, -1], axis=-1).astype(jnp.int32), state

    return read


def make_decode(static: Model, tokens: int, capacity: int) -> Any:
    """Bursts of `tokens` tokens decoded greedily, all in one program, so that no dispatch is timed.

    The state was made for `capacity` tokens and is donated. Every burst begins with the token that the one before
    ended on, at the same context: what has a fixed size is put back, while a cache keeps its arrays, whose new entries
    lie beyond that context. To copy them would be timed. Returns the last token, the last burst and the state.
    """

    @functools.partial(jax.jit, donate_argnums=2)
    def decode(
        params: Model, token_B: Int[Array, " B"], state: PyTree, bursts: Int[Array, ""]
    ) -> tuple[Int[Array, " B"], Int[Array, "B T"], PyTree]:
        built = eqx.combine(params, static)
        growing = grows(built, capacity)
        cache, fixed = eqx.partition(state, growing)

        def one(carry: tuple[Array, PyTree], _: None) -> tuple[tuple[Array, PyTree], Array]:
            logits_BV, state = built.step(*carry)
            token_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
            return (token_B, state), token_B

        def burst(_: Array, before: tuple[Array, Array, PyTree]) -> tuple[Array, Array, PyTree]:
            token_B, _, cache = before
            (token_B, state), tokens_TB = jax.lax.scan(one, (token_B, eqx.combine(cache, fixed)), length=tokens)
            return token_B, tokens_TB.T, eqx.filter(state, growing)

        nothing_BT = jnp.zeros((token_B.shape[0], tokens), jnp.int32)
        token_B, tokens_BT, cache = jax.lax.fori_loop(0, bursts, burst, (token_B, nothing_BT, cache))
        return token_B, tokens_BT, eqx.combine(cache, fixed)

    return decode


def grows(built: Model, length: int) -> PyTree:
    """Of each array of a state for `length` tokens, whether a token less would make it smaller."""

    def shapes(length: int) -> PyTree:
        return jax.eval_shape(lambda: built.start(1, length, jnp.dtype(built.dtype)))

    return jax.tree.map(lambda shorter, longer: shorter.shape != longer.shape, shapes(length - 1), shapes(length))
