"""The LSTM's loops on an NVIDIA GPU: one kernel each way, and a head's recurrent weights stay in its multiprocessor.

Heads are recurrences of their own, so no block of threads waits for another, as in the head-local kernels of FlashRNN
(Pöppel et al. 2024). Loops and equations are those of suite/ops/lstm.py. Written in Pallas for Triton, which wants
powers of two and at least 16 examples in a product: others are filled up with zeros, which give zeros.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from suite import mesh as meshes
from suite.ops import precision

GATES = 4
States = tuple[Float[Array, "H B K"], Float[Array, "H B K"]]
SIZES = (16, 32, 64, 128)  # channels of a head
ON_CHIP = 128 << 10  # bytes of a head's weights: 128 channels in bfloat16; a multiprocessor has 163 (A100) or 227 KiB
ROWS = 16  # examples of a block of threads: the fewest that tensor cores take, so there are as many blocks as can be


def check(size: int, n_bytes: int = 2) -> None:
    """ValueError where a head's weights, numbers of so many bytes, do not stay in one multiprocessor."""
    wanted = [str(fits) for fits in SIZES if GATES * fits * fits * n_bytes <= ON_CHIP]
    if str(size) not in wanted:
        raise ValueError(
            f"heads of {size} channels, {n_bytes} bytes a number, do not stay in one multiprocessor; wanted "
            f"{', '.join(wanted)}: take other heads, or implementation=factors"
        )


def forward(
    cell: Callable[..., Any], u_HTBG: Float[Array, "H T B G"], weights: Any, state: States
) -> tuple[States, tuple[Array, ...], Float[Array, "H T B K"]]:
    """The last state; of every token the factors of its gates, what c gets of dh and the forget gate; its output.

    `cell(in_BK, forget_BK, new_BK, out_BK, c_BK)` gives the state and these from the sums of the gates.
    """
    (recurrent_HKG, (bias_HG,)), (h_HBK, c_HBK) = weights, state
    (heads, length, batch, _), size = u_HTBG.shape, recurrent_HKG.shape[1]
    dtype, wide = u_HTBG.dtype, h_HBK.dtype
    check(size, dtype.itemsize)
    filled = _filled(batch)

    def kernel(u_ref: Any, weight_ref: Any, bias_ref: Any, h_ref: Any, c_ref: Any, *outputs: Any) -> None:
        last_h_ref, last_c_ref, factor_ref, all_h_ref, open_ref, forget_ref = outputs
        columns = [pl.ds(gate * size, size) for gate in range(GATES)]
        weights, biases = [weight_ref[:, gate] for gate in columns], [bias_ref[gate] for gate in columns]

        def step(token: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
            h_BK, c_BK = state
            narrow_BK = h_BK.astype(dtype)
            sums = (
                u_ref[token, :, gate].astype(wide) + _product(narrow_BK, weight_KK) + bias_K[None]
                for gate, weight_KK, bias_K in zip(columns, weights, biases, strict=True)
            )
            (h_BK, c_BK), factors, open_BK, forget_BK = cell(*sums, c_BK)
            for gate, factor_BK in zip(columns, factors, strict=True):
                factor_ref[token, :, gate] = factor_BK.astype(dtype)
            all_h_ref[token], open_ref[token] = h_BK.astype(dtype), open_BK.astype(dtype)
            forget_ref[token] = forget_BK
            return h_BK, c_BK

        last_h_ref[...], last_c_ref[...] = jax.lax.fori_loop(0, length, step, (h_ref[...], c_ref[...]))

    of_gates, of_channels, of_states = _of_tokens(length, GATES * size), _of_tokens(length, size), _of_states(size)
    results = _call(
        kernel,
        (heads, filled, size),
        in_specs=[of_gates, _of_head(size, GATES * size), _of_head(GATES * size), of_states, of_states],
        out_specs=[of_states, of_states, of_gates, of_channels, of_channels, of_channels],
        out_shape=[
            *[jax.ShapeDtypeStruct((heads, filled, size), wide)] * 2,
            jax.ShapeDtypeStruct((heads, length, filled, GATES * size), dtype),
            *[jax.ShapeDtypeStruct((heads, length, filled, size), dtype)] * 2,
            jax.ShapeDtypeStruct((heads, length, filled, size), wide),
        ],
    )(_fill(u_HTBG), recurrent_HKG.astype(dtype), bias_HG.astype(wide), _fill(h_HBK), _fill(c_HBK))
    h_HBK, c_HBK, factor_HTBG, h_HTBK, open_HTBK, forget_HTBK = (x[..., :batch, :] for x in results)
    return (h_HBK, c_HBK), (factor_HTBG, open_HTBK, forget_HTBK), h_HTBK


def backward(
    kept: tuple[Array, ...],
    from_output_HTBK: Float[Array, "H T B K"],
    recurrent_HKG: Float[Array, "H K G"],
    state: States,
) -> tuple[States, tuple[Array, ...]]:
    """Changes of the first state; then those of every token's gates."""
    (factor_HTBG, open_HTBK, forget_HTBK), (dh_HBK, dc_HBK) = kept, state
    (heads, length, batch, _), size = factor_HTBG.shape, recurrent_HKG.shape[1]
    dtype, wide = factor_HTBG.dtype, dh_HBK.dtype
    filled = _filled(batch)

    def kernel(
        factor_ref: Any, open_ref: Any, forget_ref: Any, weight_ref: Any, output_ref: Any, h_ref: Any, c_ref: Any, *rest
    ) -> None:
        dh_ref, dc_ref, change_ref = rest
        columns = [pl.ds(gate * size, size) for gate in range(GATES)]
        weights = [weight_ref[gate, :] for gate in columns]

        def step(done: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
            dh_BK, dc_BK = state
            token = length - 1 - done
            dh_BK = dh_BK + output_ref[token].astype(wide)
            dc_BK = dc_BK + dh_BK * open_ref[token].astype(wide)
            carried = (dc_BK, dc_BK, dc_BK, dh_BK)
            dh_BK = jnp.zeros_like(dh_BK)
            for gate, weight_KK, carried_BK in zip(columns, weights, carried, strict=True):
                change_BK = (carried_BK * factor_ref[token, :, gate].astype(wide)).astype(dtype)
                change_ref[token, :, gate] = change_BK
                dh_BK = dh_BK + _product(change_BK, weight_KK)
            return dh_BK, dc_BK * forget_ref[token]

        dh_ref[...], dc_ref[...] = jax.lax.fori_loop(0, length, step, (h_ref[...], c_ref[...]))

    of_gates, of_channels, of_states = _of_tokens(length, GATES * size), _of_tokens(length, size), _of_states(size)
    weight_HGK = jnp.swapaxes(recurrent_HKG, 1, 2).astype(dtype)
    results = _call(
        kernel,
        (heads, filled, size),
        in_specs=[
            *(of_gates, of_channels, of_channels),
            *(_of_head(GATES * size, size), of_channels, of_states, of_states),
        ],
        out_specs=[of_states, of_states, of_gates],
        out_shape=[
            *[jax.ShapeDtypeStruct((heads, filled, size), wide)] * 2,
            jax.ShapeDtypeStruct((heads, length, filled, GATES * size), dtype),
        ],
    )(
        *(_fill(x) for x in (factor_HTBG, open_HTBK, forget_HTBK)),
        weight_HGK,
        *(_fill(x) for x in (from_output_HTBK, dh_HBK, dc_HBK)),
    )
    dh_HBK, dc_HBK, change_HTBG = (x[..., :batch, :] for x in results)
    return (dh_HBK, dc_HBK), (change_HTBG,)


def _product(left_BK: Float[Array, "B K"], right_KN: Float[Array, "K N"]) -> Float[Array, "B N"]:
    return jnp.dot(left_BK, right_KN, preferred_element_type=precision.wide(left_BK.dtype))


def _call(kernel: Any, shape: tuple[int, int, int], **specs: Any) -> Any:
    """The kernel over (heads, blocks of examples); the first argument's memory is the third result's."""
    heads, filled, size = shape
    return pl.pallas_call(
        kernel,
        grid=(heads, filled // ROWS),
        compiler_params=triton.CompilerParams(num_warps=max(1, size // 16), num_stages=1),
        input_output_aliases={0: 2},
        interpret=meshes.platform() != "gpu",
        **specs,
    )


def _of_tokens(length: int, channels: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, length, ROWS, channels), lambda head, rows: (head, 0, rows, 0))


def _of_states(channels: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, ROWS, channels), lambda head, rows: (head, rows, 0))


def _of_head(*shape: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, *shape), lambda head, rows: (head, *(0,) * len(shape)))


def _filled(batch: int) -> int:
    return pl.cdiv(batch, ROWS) * ROWS


def _fill(x_BK: Float[Array, "... B K"]) -> Float[Array, "... P K"]:
    batch = x_BK.shape[-2]
    filled = [(0, 0)] * (x_BK.ndim - 2) + [(0, _filled(batch) - batch), (0, 0)]
    return jnp.pad(x_BK, filled) if batch % ROWS else x_BK
