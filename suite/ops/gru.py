"""The GRU's loop: by JAX's own gradient, or with a backward pass whose factors the forward one leaves behind.

With dh the gradient that comes back to h_t from later tokens and the output, and a = R_n h_{t-1} + c what the reset
gate r acts on, the changes of the gates before their nonlinearities are

    d_n = dh (1 - z) n',   d_z = dh (h_{t-1} - n) z',   d_r = d_n a r'      where x' is the slope of gate x
    dh_{t-1} = dh z + (d_r, d_z, d_n r) R^T

so all that the backward loop needs is five numbers a channel, which the forward loop has at hand, and one matrix
product. The gradient of R is one product of all tokens, after the loop.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from suite import mesh as meshes
from suite.ops import recurrent
from suite.ops.kernels import gru as kernel

GATES = 3  # order: reset, update, new


def loop(
    u_HTBG: Float[Array, "H T B G"],
    recurrent_HKG: Float[Array, "H K G"],
    bias_HG: Float[Array, "H G"],
    reset_bias_HK: Float[Array, "H K"],
    h_HBK: Float[Array, "H B K"],
    implementation: str,
) -> tuple[Float[Array, "H T B K"], Float[Array, "H B K"]]:
    """Outputs of all tokens in the dtype of their inputs, and the last state."""
    if implementation == "scan":
        return recurrent.each_head(_scan)(u_HTBG, recurrent_HKG, bias_HG, reset_bias_HK, h_HBK)
    return _by_factors(u_HTBG, recurrent_HKG, bias_HG, reset_bias_HK, h_HBK, implementation)


def cell(
    u_BG: Float[Array, "B G"],
    recurrent_KG: Float[Array, "K G"],
    bias_G: Float[Array, " G"],
    reset_bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
) -> Float[Array, "B K"]:
    """One token."""
    _, update_BK, new_BK, _ = _gates(u_BG, recurrent_KG, bias_G, reset_bias_K, h_BK)
    return (1 - update_BK) * new_BK + update_BK * h_BK


def _gates(
    u_BG: Float[Array, "B G"],
    recurrent_KG: Float[Array, "K G"],
    bias_G: Float[Array, " G"],
    reset_bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
) -> tuple[Float[Array, "B K"], ...]:
    """Reset, update, new, and what the reset gate acts on."""
    at_x_BG = u_BG.astype(h_BK.dtype) + bias_G[None]
    at_h_BG = recurrent.product(h_BK, recurrent_KG, u_BG.dtype)
    reset_x_BK, update_x_BK, new_x_BK = jnp.split(at_x_BG, GATES, axis=-1)
    reset_h_BK, update_h_BK, new_h_BK = jnp.split(at_h_BG, GATES, axis=-1)
    reset_BK = jax.nn.sigmoid(reset_x_BK + reset_h_BK)
    update_BK = jax.nn.sigmoid(update_x_BK + update_h_BK)
    inner_BK = new_h_BK + reset_bias_K[None]
    return reset_BK, update_BK, jnp.tanh(new_x_BK + reset_BK * inner_BK), inner_BK


def _scan(
    u_TBG: Float[Array, "T B G"],
    recurrent_KG: Float[Array, "K G"],
    bias_G: Float[Array, " G"],
    reset_bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
) -> tuple[Float[Array, "T B K"], Float[Array, "B K"]]:
    def step(h_BK: Float[Array, "B K"], u_BG: Float[Array, "B G"]) -> tuple[Float[Array, "B K"], Float[Array, "B K"]]:
        h_BK = cell(u_BG, recurrent_KG, bias_G, reset_bias_K, h_BK)
        return h_BK, h_BK.astype(u_BG.dtype)

    h_BK, h_TBK = jax.lax.scan(step, h_BK, u_TBG)
    return h_TBK, h_BK


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _by_factors(
    u_HTBG: Float[Array, "H T B G"],
    recurrent_HKG: Float[Array, "H K G"],
    bias_HG: Float[Array, "H G"],
    reset_bias_HK: Float[Array, "H K"],
    h_HBK: Float[Array, "H B K"],
    implementation: str,
) -> tuple[Float[Array, "H T B K"], Float[Array, "H B K"]]:
    if implementation == "pallas":
        return _forward(u_HTBG, recurrent_HKG, bias_HG, reset_bias_HK, h_HBK, implementation)[0]
    # Without a gradient nothing need be left behind.
    return recurrent.each_head(_scan)(u_HTBG, recurrent_HKG, bias_HG, reset_bias_HK, h_HBK)


def _forward(
    u_HTBG: Float[Array, "H T B G"],
    recurrent_HKG: Float[Array, "H K G"],
    bias_HG: Float[Array, "H G"],
    reset_bias_HK: Float[Array, "H K"],
    h_HBK: Float[Array, "H B K"],
    implementation: str,
) -> tuple[tuple[Float[Array, "H T B K"], Float[Array, "H B K"]], tuple[Array, ...]]:
    run = _forward_loop
    if implementation == "pallas":
        run = meshes.sharded(kernel.forward, (1, None, None, None, 0), (0, 1, 1, 1, 1))
    last_HBK, factor_HTBG, h_HTBK, new_HTBK, update_HTBK = recurrent.each_head(run)(
        u_HTBG, recurrent_HKG, bias_HG, reset_bias_HK, h_HBK
    )
    return (h_HTBK, last_HBK), (recurrent_HKG, h_HBK, h_HTBK, factor_HTBG, new_HTBK, update_HTBK)


def _backward(
    implementation: str, kept: tuple[Array, ...], changes: tuple[Float[Array, "H T B K"], Float[Array, "H B K"]]
) -> tuple[
    Float[Array, "H T B G"],
    Float[Array, "H K G"],
    Float[Array, "H G"],
    Float[Array, "H K"],
    Float[Array, "H B K"],
]:
    recurrent_HKG, first_HBK, h_HTBK, factor_HTBG, new_HTBK, update_HTBK = kept
    from_output_HTBK, dh_HBK = changes
    run = _backward_loop
    if implementation == "pallas":
        run = meshes.sharded(kernel.backward, (1, 1, 1, None, 1, 0), (0, 1, 1))
    dh_HBK, change_HTBG, new_HTBK = recurrent.each_head(run)(
        factor_HTBG, new_HTBK, update_HTBK, recurrent_HKG, from_output_HTBK, dh_HBK
    )
    # The third of the changes has come through the reset gate: it is the product's, and not that of what comes in.
    size, wide = h_HTBK.shape[-1], first_HBK.dtype
    outside_HTBG = jnp.concatenate([change_HTBG[..., : 2 * size], new_HTBK], axis=-1)
    return (
        outside_HTBG,
        recurrent.each_head(recurrent.weight_gradient)(first_HBK, h_HTBK, change_HTBG),
        jnp.sum(outside_HTBG, axis=(1, 2), dtype=wide),
        jnp.sum(change_HTBG[..., 2 * size :], axis=(1, 2), dtype=wide),
        dh_HBK,
    )


_by_factors.defvjp(_forward, _backward)


def _forward_loop(
    u_TBG: Float[Array, "T B G"],
    recurrent_KG: Float[Array, "K G"],
    bias_G: Float[Array, " G"],
    reset_bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
) -> tuple[Array, ...]:
    """Last state; then of every token the factors of its gates, h, the factor of what is new, the update gate."""
    narrow_TBK = jnp.zeros((*u_TBG.shape[:2], recurrent_KG.shape[0]), u_TBG.dtype)
    # In bfloat16 an update gate above 1 - 1/512 would be 1, and a product of many of them would not fall.
    wide_TBK = narrow_TBK.astype(h_BK.dtype)

    def step(token: Int[Array, ""], carry: tuple[Array, ...]) -> tuple[Array, ...]:
        h_BK, factor_TBG, h_TBK, new_TBK, update_TBK = carry
        u_BG = recurrent.at(factor_TBG, token)
        reset_BK, update_BK, new_BK, inner_BK = _gates(u_BG, recurrent_KG, bias_G, reset_bias_K, h_BK)
        to_new_BK = (1 - update_BK) * (1 - new_BK * new_BK)
        factors = [
            to_new_BK * inner_BK * reset_BK * (1 - reset_BK),
            (h_BK - new_BK) * update_BK * (1 - update_BK),
            to_new_BK * reset_BK,
        ]
        h_BK = (1 - update_BK) * new_BK + update_BK * h_BK
        return (
            h_BK,
            recurrent.put(factor_TBG, jnp.concatenate(factors, axis=-1), token),
            recurrent.put(h_TBK, h_BK, token),
            recurrent.put(new_TBK, to_new_BK, token),
            recurrent.put(update_TBK, update_BK, token),
        )

    return jax.lax.fori_loop(0, u_TBG.shape[0], step, (h_BK, u_TBG, narrow_TBK, narrow_TBK, wide_TBK))


def _backward_loop(
    factor_TBG: Float[Array, "T B G"],
    new_TBK: Float[Array, "T B K"],
    update_TBK: Float[Array, "T B K"],
    recurrent_KG: Float[Array, "K G"],
    from_output_TBK: Float[Array, "T B K"],
    dh_BK: Float[Array, "B K"],
) -> tuple[Array, ...]:
    """Change of the first state; then of every token those that the product and what is new have made."""
    length, dtype, wide = factor_TBG.shape[0], factor_TBG.dtype, dh_BK.dtype
    turned_GK = recurrent_KG.T

    def step(done: Int[Array, ""], carry: tuple[Array, ...]) -> tuple[Array, ...]:
        dh_BK, change_TBG, new_TBK = carry
        token = length - 1 - done
        at = functools.partial(recurrent.at, token=token)
        dh_BK = dh_BK + at(from_output_TBK).astype(wide)
        change_BG = (jnp.concatenate([dh_BK] * GATES, axis=-1) * at(change_TBG).astype(wide)).astype(dtype)
        change_BG = recurrent.once(change_BG)
        new_TBK = recurrent.put(new_TBK, dh_BK * at(new_TBK).astype(wide), token)
        dh_BK = dh_BK * at(update_TBK) + recurrent.product(change_BG, turned_GK, dtype)
        return dh_BK, recurrent.put(change_TBG, change_BG, token), new_TBK

    return jax.lax.fori_loop(0, length, step, (dh_BK, factor_TBG, new_TBK))
