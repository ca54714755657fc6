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
    u_TBK: Float[Array, "T B K"],
    recurrent_KK: Float[Array, "K K"],
    bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
    form: str,
) -> tuple[Float[Array, "T B K"], Float[Array, "B K"]]:
    """Outputs of all tokens in the dtype of their inputs, and the last state."""
    if form == "scan":
        return _scan(u_TBK, recurrent_KK, bias_K, h_BK)
    return _by_factors(u_TBK, recurrent_KK, bias_K, h_BK)


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
    u_TBK: Float[Array, "T B K"],
    recurrent_KK: Float[Array, "K K"],
    bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
) -> tuple[Float[Array, "T B K"], Float[Array, "B K"]]:
    return _scan(u_TBK, recurrent_KK, bias_K, h_BK)


def _forward(
    u_TBK: Float[Array, "T B K"],
    recurrent_KK: Float[Array, "K K"],
    bias_K: Float[Array, " K"],
    h_BK: Float[Array, "B K"],
) -> tuple[tuple[Float[Array, "T B K"], Float[Array, "B K"]], tuple[Array, ...]]:
    def step(token: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        h_BK, h_TBK = carry
        h_BK = cell(recurrent.at(h_TBK, token), recurrent_KK, bias_K, h_BK)
        return h_BK, recurrent.put(h_TBK, h_BK, token)

    last_BK, h_TBK = jax.lax.fori_loop(0, u_TBK.shape[0], step, (h_BK, u_TBK))
    return (h_TBK, last_BK), (recurrent_KK, h_BK, h_TBK)


def _backward(
    residuals: tuple[Array, ...], changes: tuple[Float[Array, "T B K"], Float[Array, "B K"]]
) -> tuple[Float[Array, "T B K"], Float[Array, "K K"], Float[Array, " K"], Float[Array, "B K"]]:
    recurrent_KK, first_BK, h_TBK = residuals
    from_output_TBK, dh_BK = changes
    length, dtype, wide = h_TBK.shape[0], h_TBK.dtype, first_BK.dtype
    turned_KK = recurrent_KK.T

    def step(done: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dh_BK, change_TBK = carry
        at = functools.partial(recurrent.at, token=length - 1 - done)
        slope_BK = 1 - jnp.square(at(h_TBK).astype(wide))
        change_BK = ((dh_BK + at(change_TBK).astype(wide)) * slope_BK).astype(dtype)
        change_TBK = recurrent.put(change_TBK, change_BK, length - 1 - done)
        return recurrent.product(change_BK, turned_KK, dtype), change_TBK

    dh_BK, change_TBK = jax.lax.fori_loop(0, length, step, (dh_BK, from_output_TBK))
    return (
        change_TBK,
        recurrent.weight_gradient(first_BK, h_TBK, change_TBK),
        jnp.sum(change_TBK, axis=(0, 1), dtype=wide),
        dh_BK,
    )


_by_factors.defvjp(_forward, _backward)
