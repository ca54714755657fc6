"""Recurrences on a TPU: one kernel each way, whose recurrent weights stay on chip over the whole sequence.

The loops of suite/ops/recurrent.py, which says what a cell's two functions are, read those weights from memory at every
token. The state stays too, and what the gates take in is overwritten by the factors of the backward pass, and these by
the gates' changes. Channels that fill up the lanes must start at 0 and stay there: with gates of zeros the LSTM's are
open halfway to nothing, and the GRU takes half of nothing new and half of nothing old.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int, PyTree

from suite.ops.kernels import tiles

State = tuple[Array, ...]  # (B, K) each


def forward(
    cell: Callable[..., Any], u_TBG: Float[Array, "T B G"], weights: PyTree, state: State
) -> tuple[State, tuple[Array, ...], Float[Array, "T B K"]]:
    """The last state; of every token what the cell's backward pass needs, and its output."""
    recurrent_KG, biases = weights
    (length, batch, width), size, dtype, wide = u_TBG.shape, recurrent_KG.shape[0], u_TBG.dtype, state[0].dtype
    lanes, n_states = tiles.padded(size), len(state)
    weight_KG = tiles.widen_weight(recurrent_KG.astype(dtype), width // size)
    biases = tuple(tiles.widen(bias_G[None], bias_G.size // size) for bias_G in biases)
    state = tuple(tiles.widen(x_BK, 1) for x_BK in state)

    def advance(u_BG: Array, h_BG: Array, biases: tuple[Array, ...], state: State) -> tuple[State, tuple[Array, ...]]:
        state, factors, keeps = cell(u_BG.astype(wide), h_BG, biases, state)
        return state, (*(x.astype(dtype) for x in factors), *keeps, state[0].astype(dtype))

    gates = jax.ShapeDtypeStruct((batch, width // size * lanes), wide)
    _, left = jax.eval_shape(advance, gates, gates, biases, state)
    grid = tiles.Grid(length, batch, _bytes(left) + gates.shape[1] * dtype.itemsize, reverse=False)

    def kernel(u_ref: Any, weight_ref: Any, *refs: Any) -> None:
        bias_refs, first_refs, last_refs, left_refs = _apart(refs, (len(biases), n_states, n_states, len(left)))

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            _write(last_refs, ..., _read(first_refs))

        def step(token: Int[Array, ""]) -> None:
            state = _read(last_refs)
            h_BG = jnp.dot(state[0].astype(dtype), weight_ref[...], preferred_element_type=wide)
            state, left = advance(u_ref[token], h_BG, _read(bias_refs), state)
            _write(left_refs, token, left)
            _write(last_refs, ..., state)

        grid.each_token(step)

    of_states = [grid.of_states(lanes)] * n_states
    run = grid.call(
        kernel,
        in_specs=[
            grid.of_tokens(gates.shape[1]),
            *(grid.of_weights(*x.shape) for x in (weight_KG, *biases)),
            *of_states,
        ],
        out_specs=[*of_states, *(grid.of_tokens(x.shape[1]) for x in left)],
        out_shape=[*map(_like, state), *(jax.ShapeDtypeStruct((length, *x.shape), x.dtype) for x in left)],
        input_output_aliases={0: n_states},
    )
    results = [
        tiles.cut(x, x.shape[-1] // lanes, size)
        for x in run(tiles.widen(u_TBG, width // size), weight_KG, *biases, *state)
    ]
    return tuple(results[:n_states]), tuple(results[n_states:-1]), results[-1]


def backward(
    cell: Callable[..., Any],
    overwritten: int,
    kept: tuple[Array, ...],
    from_output_TBK: Float[Array, "T B K"],
    recurrent_KG: Float[Array, "K G"],
    state: State,
) -> tuple[State, tuple[Array, ...]]:
    """Changes of the first state; then those of every token, which overwrite so many of the first kept."""
    size, dtype, wide = recurrent_KG.shape[0], from_output_TBK.dtype, state[0].dtype
    (length, batch, _), lanes, n_states = from_output_TBK.shape, tiles.padded(size), len(state)
    weight_GK = tiles.widen_weight(recurrent_KG.astype(dtype), recurrent_KG.shape[1] // size).T
    arrays = [tiles.widen(x, x.shape[-1] // size) for x in (*kept, from_output_TBK)]
    state = tuple(tiles.widen(x_BK, 1) for x_BK in state)
    changed = arrays[:overwritten]
    grid = tiles.Grid(length, batch, _bytes((*arrays, *changed)), reverse=True)

    def kernel(*refs: Any) -> None:
        array_refs, (weight_ref,), first_refs, last_refs, change_refs = _apart(
            refs, (len(arrays), 1, n_states, n_states, overwritten)
        )

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            _write(last_refs, ..., _read(first_refs))

        def product(change_BG: Float[Array, "B G"]) -> tuple[Float[Array, "B G"], Float[Array, "B K"]]:
            change_BG = change_BG.astype(dtype)
            return change_BG, jnp.dot(change_BG, weight_ref[...], preferred_element_type=wide)

        def step(token: Int[Array, ""]) -> None:
            *factors, from_output_BK = (ref[token].astype(wide) for ref in array_refs)
            state, changes = cell(tuple(factors), from_output_BK, _read(last_refs), product)
            _write(change_refs, token, [x.astype(like.dtype) for x, like in zip(changes, changed, strict=True)])
            _write(last_refs, ..., state)

        grid.each_token(step)

    of_arrays, of_states = [grid.of_tokens(x.shape[-1]) for x in arrays], [grid.of_states(lanes)] * n_states
    run = grid.call(
        kernel,
        in_specs=[*of_arrays, grid.of_weights(*weight_GK.shape), *of_states],
        out_specs=[*of_states, *of_arrays[:overwritten]],
        out_shape=[*map(_like, state), *map(_like, changed)],
        input_output_aliases={place: n_states + place for place in range(overwritten)},
    )
    results = [tiles.cut(x, x.shape[-1] // lanes, size) for x in run(*arrays, weight_GK, *state)]
    return tuple(results[:n_states]), tuple(results[n_states:])


def _apart(refs: Sequence[Any], sizes: Sequence[int]) -> list[Sequence[Any]]:
    ends = [0, *itertools.accumulate(sizes)]
    return [refs[start:end] for start, end in itertools.pairwise(ends)]


def _read(refs: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(ref[...] for ref in refs)


def _write(refs: Sequence[Any], at: Any, values: Sequence[Any]) -> None:
    for ref, value in zip(refs, values, strict=True):
        ref[at] = value


def _like(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _bytes(arrays: Sequence[Any]) -> int:
    """What passes through for a token of an example."""
    return sum(x.shape[-1] * x.dtype.itemsize for x in arrays)
