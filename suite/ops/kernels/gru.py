"""The GRU's loops on a TPU: one kernel each way, whose recurrent weights stay on chip over the whole sequence.

The loops of suite/ops/gru.py, which has the equations, read those weights from memory at every token. The state stays
too, and what the gates take in is overwritten by the factors of the backward pass, and these by the gates' changes.
Channels that fill up the lanes start at 0 and stay there: half of nothing new, half of nothing old.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from suite.ops.kernels import tiles

GATES = 3


def forward(
    u_TBG: Float[Array, "T B G"],
    recurrent_KG: Float[Array, "K G"],
    bias_G: Float[Array, " G"],
    reset_bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
) -> tuple[Array, ...]:
    """Last state; then of every token the factors of its gates, h, the factor of what is new, the update gate."""
    (length, batch, _), size, dtype, wide = u_TBG.shape, recurrent_KG.shape[0], u_TBG.dtype, h_BK.dtype
    lanes = tiles.padded(size)
    weight_KG = tiles.widen_weight(recurrent_KG.astype(dtype), GATES)
    token_bytes = (2 * GATES + 2) * lanes * dtype.itemsize + lanes * wide.itemsize
    grid = tiles.Grid(length, batch, token_bytes, reverse=False)

    def kernel(u_ref: Any, weight_ref: Any, bias_ref: Any, reset_bias_ref: Any, h_ref: Any, *outputs: Any) -> None:
        last_ref, factor_ref, all_h_ref, new_ref, update_ref = outputs

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            last_ref[...] = h_ref[...]

        def step(token: Int[Array, ""]) -> None:
            h_BK = last_ref[...]
            at_h_BG = jnp.dot(h_BK.astype(dtype), weight_ref[...], preferred_element_type=wide)
            reset_h_BK, update_h_BK, new_h_BK = jnp.split(at_h_BG, GATES, axis=-1)
            reset_x_BK, update_x_BK, new_x_BK = jnp.split(u_ref[token].astype(wide) + bias_ref[...], GATES, axis=-1)
            reset_BK, update_BK = jax.nn.sigmoid(reset_x_BK + reset_h_BK), jax.nn.sigmoid(update_x_BK + update_h_BK)
            inner_BK = new_h_BK + reset_bias_ref[...]
            new_BK = jnp.tanh(new_x_BK + reset_BK * inner_BK)
            to_new_BK = (1 - update_BK) * (1 - new_BK * new_BK)
            factors = [
                to_new_BK * inner_BK * reset_BK * (1 - reset_BK),
                (h_BK - new_BK) * update_BK * (1 - update_BK),
                to_new_BK * reset_BK,
            ]
            h_BK = (1 - update_BK) * new_BK + update_BK * h_BK
            factor_ref[token] = jnp.concatenate(factors, axis=-1).astype(dtype)
            new_ref[token], update_ref[token] = to_new_BK.astype(dtype), update_BK
            all_h_ref[token], last_ref[...] = h_BK.astype(dtype), h_BK

        grid.each_token(step)

    of_gates, of_channels, of_states = grid.of_tokens(GATES * lanes), grid.of_tokens(lanes), grid.of_states(lanes)
    shape = jax.ShapeDtypeStruct
    run = grid.call(
        kernel,
        in_specs=[
            of_gates,
            *(grid.of_weights(*s) for s in (weight_KG.shape, (1, GATES * lanes), (1, lanes))),
            of_states,
        ],
        out_specs=[of_states, of_gates, of_channels, of_channels, of_channels],
        out_shape=[
            shape((batch, lanes), wide),
            shape((length, batch, GATES * lanes), dtype),
            *[shape((length, batch, lanes), dtype)] * 2,
            shape((length, batch, lanes), wide),
        ],
        input_output_aliases={0: 1},
    )
    bias_G, reset_bias_K = tiles.widen(bias_G[None], GATES), tiles.widen(reset_bias_K[None], 1)
    found = run(tiles.widen(u_TBG, GATES), weight_KG, bias_G, reset_bias_K, tiles.widen(h_BK, 1))
    return tuple(tiles.cut(x, parts, size) for x, parts in zip(found, (1, GATES, 1, 1, 1), strict=True))


def backward(
    factor_TBG: Float[Array, "T B G"],
    new_TBK: Float[Array, "T B K"],
    update_TBK: Float[Array, "T B K"],
    recurrent_KG: Float[Array, "K G"],
    from_output_TBK: Float[Array, "T B K"],
    dh_BK: Float[Array, "B K"],
) -> tuple[Array, ...]:
    """Change of the first state; then of every token those that the product and what is new have made."""
    (length, batch, _), size, dtype, wide = factor_TBG.shape, recurrent_KG.shape[0], factor_TBG.dtype, dh_BK.dtype
    lanes = tiles.padded(size)
    weight_GK = tiles.widen_weight(recurrent_KG.astype(dtype), GATES).T
    token_bytes = (2 * GATES + 3) * lanes * dtype.itemsize + lanes * wide.itemsize
    grid = tiles.Grid(length, batch, token_bytes, reverse=True)

    def kernel(
        factor_ref: Any, new_ref: Any, update_ref: Any, weight_ref: Any, output_ref: Any, h_ref: Any, *outputs: Any
    ) -> None:
        dh_ref, change_ref, changed_new_ref = outputs

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            dh_ref[...] = h_ref[...]

        def step(token: Int[Array, ""]) -> None:
            dh_BK = dh_ref[...] + output_ref[token].astype(wide)
            carried_BG = jnp.concatenate([dh_BK] * GATES, axis=-1)
            change_BG = (carried_BG * factor_ref[token].astype(wide)).astype(dtype)
            change_ref[token] = change_BG
            changed_new_ref[token] = (dh_BK * new_ref[token].astype(wide)).astype(dtype)
            at_h_BK = jnp.dot(change_BG, weight_ref[...], preferred_element_type=wide)
            dh_ref[...] = dh_BK * update_ref[token] + at_h_BK

        grid.each_token(step)

    of_gates, of_channels, of_states = grid.of_tokens(GATES * lanes), grid.of_tokens(lanes), grid.of_states(lanes)
    of_weights = grid.of_weights(*weight_GK.shape)
    shape = jax.ShapeDtypeStruct
    run = grid.call(
        kernel,
        in_specs=[of_gates, of_channels, of_channels, of_weights, of_channels, of_states],
        out_specs=[of_states, of_gates, of_channels],
        out_shape=[
            shape((batch, lanes), wide),
            shape((length, batch, GATES * lanes), dtype),
            shape((length, batch, lanes), dtype),
        ],
        input_output_aliases={0: 1, 1: 2},
    )
    new_TBK, update_TBK, from_output_TBK = (tiles.widen(x, 1) for x in (new_TBK, update_TBK, from_output_TBK))
    found = run(tiles.widen(factor_TBG, GATES), new_TBK, update_TBK, weight_GK, from_output_TBK, tiles.widen(dh_BK, 1))
    return tuple(tiles.cut(x, parts, size) for x, parts in zip(found, (1, GATES, 1), strict=True))
