"""A model that reads a context and goes on from it: the programs of both, on one device of a mesh."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
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
from suite.tasks import Batch
from suite.training import clock, memory
from suite.training import step as steps
from suite.training.rig import Rig

BLOCK_SECONDS = 0.1  # a shorter block times the scheduler of a busy machine
CHUNKS = (64, 256, 1024)  # tokens that are tried as a chunk of a context, beside all of it at once


def check(job: Job, task: Any, measure: str, batch: int, capacity: int) -> None:
    """ValueError for documents that begin anew, for a mixer without a state, or without one for so many tokens."""
    if job.reset:
        raise ValueError(
            f"{measure} reads on from a state, which does not begin anew where a document ends; got --reset=true: "
            f"give --reset=false or leave out {measure}"
        )
    contract.wants(job, measure, "start", "extend", "step")
    built = backbone.shapes(matching.solve(job, task.vocab), task.vocab)
    with parts.own_lines("suite.mixers", job.mixer):
        jax.eval_shape(lambda built: built.start(batch, capacity, jnp.dtype(job.dtype)), built)


def doubling(shortest: int, longest: int) -> list[int]:
    """Sizes from the shortest on, each twice the one before, up to the longest."""
    return [shortest << power for power in range((longest // shortest).bit_length())]


def on_one_device(rig: Rig, params: Model | None = None) -> Model:
    """The model on the first device of this process, untrained or with its parameters, its blocks one after another.

    A scan over the blocks would copy every cache out and back at each token.
    """
    params = meshes.on_one_device(rig.state.params if params is None else params, rig.mesh)
    built: Any = eqx.combine(params, rig.static)
    return eqx.filter_jit(unstacked)(built)


def device_of(built: Model) -> jax.Device:  # pyright: ignore[reportInvalidTypeForm] - compiled, without stubs
    """The one device that the model lies on."""
    [device] = jax.tree.leaves(eqx.filter(built, eqx.is_array))[0].devices()
    return device


def unstacked(built: Model) -> Model:
    """The same blocks, one after another."""
    if not built.pattern:
        return built
    repeats = jax.tree.leaves(built.pattern)[0].shape[0]
    blocks = [jax.tree.map(lambda leaf, at=at: leaf[at], block) for at in range(repeats) for block in built.pattern]
    return eqx.tree_at(lambda model: (model.pattern, model.rest), built, ((), (*blocks, *built.rest)))


def make_start(built: Model, batch: int, capacity: int) -> Any:
    """The empty state of so many sequences, with room for `capacity` tokens."""
    return jax.jit(lambda: built.start(batch, capacity, jnp.dtype(built.dtype)))


def make_read(static: Model) -> Any:
    """Reads a chunk of tokens into a state, which is donated; also the likeliest next token."""

    @functools.partial(jax.jit, donate_argnums=2)
    def read(params: Model, tokens_BT: Int[Array, "B T"], state: PyTree) -> tuple[Int[Array, " B"], PyTree]:
        built = eqx.combine(params, static)
        x_BTD, state = built.further(built.embed(tokens_BT), state)
        return _likeliest(built, x_BTD), state

    return read


def make_read_whole(static: Model, capacity: int) -> Any:
    """Reads a whole context in parallel form; the likeliest next token, and the state for `capacity` tokens."""

    @jax.jit
    def read(params: Model, tokens_BT: Int[Array, "B T"]) -> tuple[Int[Array, " B"], PyTree]:
        built = eqx.combine(params, static)
        x_BTD, state = built.read(built.embed(tokens_BT), capacity)
        return _likeliest(built, x_BTD), state

    return read


def _likeliest(built: Model, x_BTD: Array) -> Int[Array, " B"]:
    """The likeliest token after the last one: of no other are logits made."""
    return jnp.argmax(built.logits(x_BTD[:, -1]), axis=-1).astype(jnp.int32)


def answers_in_chunks(
    rig: Rig, params: Model, split: str, examples: int, chunk: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """What `Rig.answers` gives, read so many tokens at a time, the state carried between them; on one device."""
    params, static = eqx.partition(on_one_device(rig, params), eqx.is_array)
    size = rig.job.batch

    @jax.jit
    def answer(params: Model, batch: Batch) -> tuple[Array, Array]:
        return steps.answer(eqx.combine(params, static), batch, chunk)

    for number in range(math.ceil(examples / size)):
        rig.watchdog.feed(long=number == 0)
        ids_B = np.arange(size) + number * size
        batch = rig.task.batch(split, ids_B)
        nats_BT, correct_BT = jax.device_get(answer(params, jax.device_put(batch, rig.mesh.local_devices[0])))
        yield ids_B, nats_BT, correct_BT, batch.weights_BT


class Reader:
    """Reads contexts of one length into states for `capacity` tokens, by programs that are compiled at once.

    In chunks of so many tokens, the last one smaller where they do not divide the context; a chunk that is as long as
    the context, or longer, is all of it at once, in parallel form.
    """

    def __init__(self, built: Model, batch: int, context: int, capacity: int, chunk: int):
        self.params, self.static = eqx.partition(built, eqx.is_array)
        self.device = device_of(built)
        self.chunk = min(chunk, context)
        self.ends = [*range(self.chunk, context, self.chunk), context]
        state = jax.eval_shape(make_start(built, batch, capacity))
        self.programs: dict[int, jax.stages.Compiled] = {}
        for tokens in {self.chunk, context - sum(self.ends[-2:-1])}:
            tokens_BT = jax.ShapeDtypeStruct((batch, tokens), jnp.int32)
            if self.is_whole:
                lowered = make_read_whole(self.static, capacity).lower(self.params, tokens_BT)
            else:
                lowered = make_read(self.static).lower(self.params, tokens_BT, state)
            self.programs[tokens] = lowered.compile()
        with jax.default_device(self.device):
            self.start = make_start(built, batch, capacity).lower().compile()

    @property
    def is_whole(self) -> bool:
        return len(self.ends) == 1

    @property
    def held_bytes(self) -> int:
        return max(map(memory.held_bytes, self.programs.values()))

    def cut(self, tokens_BT: np.ndarray) -> list[Array]:
        """The pieces of a context, on the device of the model."""
        return [jax.device_put(piece_BT, self.device) for piece_BT in np.split(tokens_BT, self.ends[:-1], axis=1)]

    def __call__(self, pieces: Sequence[Array]) -> tuple[Int[Array, " B"], PyTree]:
        """The token that comes first after a context, and the state there."""
        if self.is_whole:
            return self.programs[self.chunk](self.params, pieces[0])
        token_B, state = pieces[0][:, 0], self.start()
        for piece_BT in pieces:
            token_B, state = self.programs[piece_BT.shape[1]](self.params, piece_BT, state)
        return token_B, state


def make_step(static: Model) -> Any:
    """One token decoded greedily: (params, token_B, state) to the next token and the state, which is donated."""

    @functools.partial(jax.jit, donate_argnums=2)
    def step(params: Model, token_B: Int[Array, " B"], state: PyTree) -> tuple[Int[Array, " B"], PyTree]:
        logits_BV, state = eqx.combine(params, static).step(token_B, state)
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32), state

    return step


def compile_step(built: Model, batch: int, capacity: int) -> jax.stages.Compiled:
    """The program of one token, of so many sequences whose states have room for `capacity` tokens."""
    params, static = eqx.partition(built, eqx.is_array)
    state = jax.eval_shape(make_start(built, batch, capacity))
    return make_step(static).lower(params, jax.ShapeDtypeStruct((batch,), jnp.int32), state).compile()


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


def bursts_of_a_block(call: Callable[[Array], Any]) -> int:
    """How many bursts fill a block of timing: tried, since one alone may be mostly dispatch."""
    bursts = 1
    clock.time_calls(call, jnp.int32(bursts), warmup=1, repeats=0)
    while True:
        [seconds] = clock.time_calls(call, jnp.int32(bursts), warmup=0, repeats=1)
        if seconds >= BLOCK_SECONDS:
            return bursts
        bursts = math.ceil(1.2 * bursts * BLOCK_SECONDS / seconds)


def grows(built: Model, length: int) -> PyTree:
    """Of each array of a state for `length` tokens, whether a token less would make it smaller."""

    def shapes(length: int) -> PyTree:
        return jax.eval_shape(lambda: built.start(1, length, jnp.dtype(built.dtype)))

    return jax.tree.map(lambda shorter, longer: shorter.shape != longer.shape, shapes(length - 1), shapes(length))


def state_bytes(state: PyTree) -> int:
    """Bytes of the arrays of a state, all sequences together."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
