"""The Elman network's loop: by JAX's own gradient, or with a backward pass of which only a product is in the loop.

With dh the gradient that comes back to h_t: d = dh (1 - h^2) and dh_{t-1} = d R^T. The gradient of R is one product of
all tokens, after the loop.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from suite.ops import recurrent


def loop(
    u_HTBK: Float[Array, "H T B K"],
    recurrent_HKK: Float[Array, "H K K"],
    bias_HK: Float[Array, "H K"],
    h_HBK: Float[Array, "H B K"],
    implementation: str,
) -> tuple[Float[Array, "H T B K"], Float[Array, "H B K"]]:
    """Outputs of all tokens in the dtype of their inputs, and the last state."""
    if implementation == "scan":
        return recurrent.each_head(_scan)(u_HTBK, recurrent_HKK, bias_HK, h_HBK)
    return _by_factors(u_HTBK, recurrent_HKK, bias_HK, h_HBK)


def cell(
    u_BK: Float[Array, "B K"],
    recurrent_KK: Float[Array, "K K"],
    bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
) -> Float[Array, "B K"]:
    """One token."""
    at_h_BK = recurrent.product(h_BK, recurrent_KK, u_BK.dtype)
    return jnp.tanh(u_BK.astype(h_BK.dtype) + at_h_BK + bias_K[None])


def _scan(
    u_TBK: Float[Array, "T B K"],
    recurrent_KK: Float[Array, "K K"],
    bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
) -> tuple[Float[Array, "T B K"], Float[Array, "B K"]]:
    def step(h_BK: Float[Array, "B K"], u_BK: Float[Array, "B K"]) -> tuple[Float[Array, "B K"], Float[Array, "B K"]]:
        h_BK = cell(u_BK, recurrent_KK, bias_K, h_BK)
        return h_BK, h_BK.astype(u_BK.dtype)

    h_BK, h_TBK = jax.lax.scan(step, h_BK, u_TBK)
    return h_TBK, h_BK


@jax.custom_vjp
def _by_factors(
    u_HTBK: Float[Array, "H T B K"],
    recurrent_HKK: Float[Array, "H K K"],
    bias_HK: Float[Array, "H K"],
    h_HBK: Float[Array, "H B K"],
) -> tuple[Float[Array, "H T B K"], Float[Array, "H B K"]]:
    return recurrent.each_head(_scan)(u_HTBK, recurrent_HKK, bias_HK, h_HBK)


def _forward(
    u_HTBK: Float[Array, "H T B K"],
    recurrent_HKK: Float[Array, "H K K"],
    bias_HK: Float[Array, "H K"],
    h_HBK: Float[Array, "H B K"],
) -> tuple[tuple[Float[Array, "H T B K"], Float[Array, "H B K"]], tuple[Array, ...]]:
    h_HTBK, last_HBK = recurrent.each_head(_forward_loop)(u_HTBK, recurrent_HKK, bias_HK, h_HBK)
    return (h_HTBK, last_HBK), (recurrent_HKK, h_HBK, h_HTBK)


def _backward(
    kept: tuple[Array, ...], changes: tuple[Float[Array, "H T B K"], Float[Array, "H B K"]]
) -> tuple[Float[Array, "H T B K"], Float[Array, "H K K"], Float[Array, "H K"], Float[Array, "H B K"]]:
    recurrent_HKK, first_HBK, h_HTBK = kept
    dh_HBK, change_HTBK = recurrent.each_head(_backward_loop)(h_HTBK, recurrent_HKK, *changes)
    return (
        change_HTBK,
        recurrent.each_head(recurrent.weight_gradient)(first_HBK, h_HTBK, change_HTBK),
        jnp.sum(change_HTBK, axis=(1, 2), dtype=first_HBK.dtype),
        dh_HBK,
    )


_by_factors.defvjp(_forward, _backward)


def _forward_loop(
    u_TBK: Float[Array, "T B K"],
    recurrent_KK: Float[Array, "K K"],
    bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
) -> tuple[Float[Array, "T B K"], Float[Array, "B K"]]:
    def step(token: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        h_BK, h_TBK = carry
        h_BK = cell(recurrent.at(h_TBK, token), recurrent_KK, bias_K, h_BK)
        return h_BK, recurrent.put(h_TBK, h_BK, token)

    last_BK, h_TBK = jax.lax.fori_loop(0, u_TBK.shape[0], step, (h_BK, u_TBK))
    return h_TBK, last_BK


def _backward_loop(
    h_TBK: Float[Array, "T B K"],
    recurrent_KK: Float[Array, "K K"],
    from_output_TBK: Float[Array, "T B K"],
    dh_BK: Float[Array, "B K"],
) -> tuple[Float[Array, "B K"], Float[Array, "T B K"]]:
    """Change of the first state; then those of what every token took in."""
    length, dtype, wide = h_TBK.shape[0], h_TBK.dtype, dh_BK.dtype
    turned_KK = recurrent_KK.T

    def step(done: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dh_BK, change_TBK = carry
        at = functools.partial(recurrent.at, token=length - 1 - done)
        slope_BK = 1 - jnp.square(at(h_TBK).astype(wide))
        change_BK = recurrent.once(((dh_BK + at(change_TBK).astype(wide)) * slope_BK).astype(dtype))
        change_TBK = recurrent.put(change_TBK, change_BK, length - 1 - done)
        return recurrent.product(change_BK, turned_KK, dtype), change_TBK

    return jax.lax.fori_loop(0, length, step, (dh_BK, from_output_TBK))
