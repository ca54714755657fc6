"""Heads: a width in equal parts, rounded up where it has no such parts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from suite.ops import precision


def size(width: float, heads: int) -> int:
    """Channels of a head; heads times that may be a little more than the width."""
    if heads < 1:
        raise ValueError(f"heads {heads} wants at least 1")
    return max(1, -(-round(width) // heads))


def count(width: float, heads: int, size: int) -> int:
    """As many heads as were asked for; for 0 so many that none has more than `size` channels, and at least 4."""
    if heads < 0 or size < 1:
        raise ValueError(f"heads {heads} wants at least 0, and the channels of a head, {size}, at least 1")
    return heads or max(4, -(-round(width) // size))


def split(x_F: Float[Array, "*T F"], heads: int) -> Float[Array, "*T H K"]:
    return x_F.reshape(*x_F.shape[:-1], heads, -1)


def join(x_HK: Float[Array, "*T H K"]) -> Float[Array, "*T F"]:
    return x_HK.reshape(*x_HK.shape[:-2], -1)


def unit(x_HK: Float[Array, "*T H K"]) -> Float[Array, "*T H K"]:
    """Each head's vector at length 1; wide sums."""
    wide_HK = x_HK.astype(precision.wide(x_HK.dtype))
    square_H1 = jnp.sum(jnp.square(wide_HK), axis=-1, keepdims=True)
    return (wide_HK * jax.lax.rsqrt(square_H1 + 1e-6)).astype(x_HK.dtype)


def layer_norm(
    x_HK: Float[Array, "*T H K"], scale_F: Float[Array, " F"], epsilon: float = 1e-6
) -> Float[Array, "*T F"]:
    """Zero mean and unit variance in each head (group norm; Wu and He 2018), heads joined; wide in and out."""
    return rms_norm(x_HK - jnp.mean(x_HK, axis=-1, keepdims=True), scale_F, epsilon)


def rms_norm(x_HK: Float[Array, "*T H K"], scale_F: Float[Array, " F"], epsilon: float = 1e-6) -> Float[Array, "*T F"]:
    """Unit mean square in each head, heads joined; wide in and out."""
    square_H1 = jnp.mean(jnp.square(x_HK), axis=-1, keepdims=True)
    x_F = join(x_HK * jax.lax.rsqrt(square_H1 + epsilon))
    return x_F * jnp.broadcast_to(scale_F, x_F.shape)
