"""The LSTM's loops on a TPU: one kernel each way, whose recurrent weights stay on chip over the whole sequence.

The loops of suite/ops/lstm.py, which has the equations, read those weights from memory at every token. The states stay
too, and what the gates take in is overwritten by the factors of the backward pass, and these by the gates' changes.
Channels that fill up the lanes start at 0 and stay there: their gates are open halfway to nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from suite.ops.kernels import tiles

GATES = 4


def forward(
    u_TBG: Float[Array, "T B G"],
    recurrent_KG: Float[Array, "K G"],
    bias_G: Float[Array, " G"],
    h_BK: Float[Array, "B K"],
    c_BK: Float[Array, "B K"],
) -> tuple[Array, ...]:
    """Last states h and c; then of every token the factors of its gates, h, what c gets of dh, the forget gate."""
    (length, batch, _), size, dtype, wide = u_TBG.shape, recurrent_KG.shape[0], u_TBG.dtype, h_BK.dtype
    lanes = tiles.padded(size)
    weight_KG = tiles.widen_weight(recurrent_KG.astype(dtype), GATES)
    token_bytes = (2 * GATES + 2) * lanes * dtype.itemsize + lanes * wide.itemsize
    grid = tiles.Grid(length, batch, token_bytes, reverse=False)

    def kernel(u_ref: Any, weight_ref: Any, bias_ref: Any, h_ref: Any, c_ref: Any, *outputs: Any) -> None:
        last_h_ref, last_c_ref, factor_ref, all_h_ref, open_ref, forget_ref = outputs

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            last_h_ref[...], last_c_ref[...] = h_ref[...], c_ref[...]

        def step(token: Int[Array, ""]) -> None:
            at_h_BG = jnp.dot(last_h_ref[...].astype(dtype), weight_ref[...], preferred_element_type=wide)
            gates_BG = u_ref[token].astype(wide) + at_h_BG + bias_ref[...]
            in_BK, forget_BK, new_BK, out_BK = jnp.split(gates_BG, GATES, axis=-1)
            in_BK, forget_BK, out_BK = jax.nn.sigmoid(in_BK), jax.nn.sigmoid(forget_BK), jax.nn.sigmoid(out_BK)
            new_BK, c_BK = jnp.tanh(new_BK), last_c_ref[...]
            factors = [
                new_BK * in_BK * (1 - in_BK),
                c_BK * forget_BK * (1 - forget_BK),
                in_BK * (1 - new_BK * new_BK),
            ]
            c_BK = forget_BK * c_BK + in_BK * new_BK
            tanh_BK = jnp.tanh(c_BK)
            factors.append(tanh_BK * out_BK * (1 - out_BK))
            factor_ref[token] = jnp.concatenate(factors, axis=-1).astype(dtype)
            open_ref[token] = (out_BK * (1 - tanh_BK * tanh_BK)).astype(dtype)
            forget_ref[token] = forget_BK
            last_h_ref[...], last_c_ref[...] = out_BK * tanh_BK, c_BK
            all_h_ref[token] = (out_BK * tanh_BK).astype(dtype)

        grid.each_token(step)

    of_gates, of_channels, of_states = grid.of_tokens(GATES * lanes), grid.of_tokens(lanes), grid.of_states(lanes)
    shape = jax.ShapeDtypeStruct
    run = grid.call(
        kernel,
        in_specs=[of_gates, grid.of_weights(*weight_KG.shape), grid.of_weights(1, GATES * lanes), of_states, of_states],
        out_specs=[of_states, of_states, of_gates, of_channels, of_channels, of_channels],
        out_shape=[
            *[shape((batch, lanes), wide)] * 2,
            shape((length, batch, GATES * lanes), dtype),
            *[shape((length, batch, lanes), dtype)] * 2,
            shape((length, batch, lanes), wide),
        ],
        input_output_aliases={0: 2},
    )
    bias_G, h_BK, c_BK = tiles.widen(bias_G[None], GATES), tiles.widen(h_BK, 1), tiles.widen(c_BK, 1)
    found = run(tiles.widen(u_TBG, GATES), weight_KG, bias_G, h_BK, c_BK)
    return tuple(tiles.cut(x, parts, size) for x, parts in zip(found, (1, 1, GATES, 1, 1, 1), strict=True))


def backward(
    factor_TBG: Float[Array, "T B G"],
    open_TBK: Float[Array, "T B K"],
    forget_TBK: Float[Array, "T B K"],
    recurrent_KG: Float[Array, "K G"],
    from_output_TBK: Float[Array, "T B K"],
    dh_BK: Float[Array, "B K"],
    dc_BK: Float[Array, "B K"],
) -> tuple[Array, ...]:
    """Changes of the first h and c; then those of every token's gates."""
    (length, batch, _), size, dtype, wide = factor_TBG.shape, recurrent_KG.shape[0], factor_TBG.dtype, dh_BK.dtype
    lanes = tiles.padded(size)
    weight_GK = tiles.widen_weight(recurrent_KG.astype(dtype), GATES).T
    token_bytes = (2 * GATES + 2) * lanes * dtype.itemsize + lanes * wide.itemsize
    grid = tiles.Grid(length, batch, token_bytes, reverse=True)

    def kernel(
        factor_ref: Any, open_ref: Any, forget_ref: Any, weight_ref: Any, output_ref: Any, h_ref: Any, c_ref: Any, *rest
    ) -> None:
        dh_ref, dc_ref, change_ref = rest

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            dh_ref[...], dc_ref[...] = h_ref[...], c_ref[...]

        def step(token: Int[Array, ""]) -> None:
            dh_BK = dh_ref[...] + output_ref[token].astype(wide)
            dc_BK = dc_ref[...] + dh_BK * open_ref[token].astype(wide)
            carried_BG = jnp.concatenate([dc_BK, dc_BK, dc_BK, dh_BK], axis=-1)
            change_BG = (carried_BG * factor_ref[token].astype(wide)).astype(dtype)
            change_ref[token] = change_BG
            dh_ref[...] = jnp.dot(change_BG, weight_ref[...], preferred_element_type=wide)
            dc_ref[...] = dc_BK * forget_ref[token]

        grid.each_token(step)

    of_gates, of_channels, of_states = grid.of_tokens(GATES * lanes), grid.of_tokens(lanes), grid.of_states(lanes)
    of_weights = grid.of_weights(*weight_GK.shape)
    shape = jax.ShapeDtypeStruct
    run = grid.call(
        kernel,
        in_specs=[of_gates, of_channels, of_channels, of_weights, of_channels, of_states, of_states],
        out_specs=[of_states, of_states, of_gates],
        out_shape=[*[shape((batch, lanes), wide)] * 2, shape((length, batch, GATES * lanes), dtype)],
        input_output_aliases={0: 2},
    )
    open_TBK, forget_TBK, from_output_TBK = (tiles.widen(x, 1) for x in (open_TBK, forget_TBK, from_output_TBK))
    dh_BK, dc_BK = tiles.widen(dh_BK, 1), tiles.widen(dc_BK, 1)
    found = run(tiles.widen(factor_TBG, GATES), open_TBK, forget_TBK, weight_GK, from_output_TBK, dh_BK, dc_BK)
    return tuple(tiles.cut(x, parts, size) for x, parts in zip(found, (1, 1, GATES), strict=True))
