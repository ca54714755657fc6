"""Scaled dot-product attention and the ways in which it is told positions."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def causal(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T G K"],
    v_BTHK: Float[Array, "B T G K"],
    *,
    window: int,
    slope_H: Float[Array, " H"] | None,
    form: str,
) -> Float[Array, "B T H K"]:
    """Attention of a whole sequence to itself; `window` tokens back including its own, 0 for all.

    cuDNN is asked for by name and by a causal flag: left to itself JAX runs the dense form, and so does a mask.
    """
    bias_HTS = None
    if slope_H is not None:
        at_T = jnp.arange(q_BTHK.shape[1])
        bias_HTS = distance_bias(slope_H, at_T, at_T)[None].astype(q_BTHK.dtype)
    with jax.numpy_dtype_promotion("standard"):  # JAX's own code adds a float32 mask to bfloat16 scores
        return jax.nn.dot_product_attention(
            q_BTHK,
            k_BTHK,
            v_BTHK,
            bias=bias_HTS,
            is_causal=True,
            local_window_size=(window - 1, 0) if window else None,
            implementation="cudnn" if form == "cudnn" else "xla",
        )


def cached(
    q_BTHK: Float[Array, "B T H K"],
    k_BSHK: Float[Array, "B S G K"],
    v_BSHK: Float[Array, "B S G K"],
    *,
    query_T: Int[Array, " T"],
    key_S: Int[Array, " S"],
    window: int,
    slope_H: Float[Array, " H"] | None,
) -> Float[Array, "B T H K"]:
    """Attention of new queries to a cache; positions tell which keys lie in the past, negative ones are empty."""
    back_TS = query_T[:, None] - key_S[None, :]
    mask_TS = (back_TS >= 0) & (key_S >= 0)[None, :]
    if window:
        mask_TS = mask_TS & (back_TS < window)
    bias_HTS = None
    if slope_H is not None:
        bias_HTS = distance_bias(slope_H, query_T, key_S)[None].astype(q_BTHK.dtype)
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(
            q_BTHK, k_BSHK, v_BSHK, bias=bias_HTS, mask=mask_TS[None, None], implementation="xla"
        )


def rotate(x_BTHK: Float[Array, "B T H K"], at_T: Int[Array, " T"]) -> Float[Array, "B T H K"]:
    """Rotary positions (Su et al. 2021): pairs of channels turn by position / 10000^(2i/K); angles in float32."""
    half = x_BTHK.shape[-1] // 2
    frequency_K = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_TK = at_T.astype(jnp.float32)[:, None] * frequency_K[None]
    cos_TK, sin_TK = (part.astype(x_BTHK.dtype)[None, :, None] for part in (jnp.cos(angle_TK), jnp.sin(angle_TK)))
    first_BTHK, second_BTHK = jnp.split(x_BTHK, 2, axis=-1)
    return jnp.concatenate(
        [first_BTHK * cos_TK - second_BTHK * sin_TK, second_BTHK * cos_TK + first_BTHK * sin_TK], axis=-1
    )


def alibi_slopes(heads: int) -> Float[Array, " H"]:
    """One slope a head, a geometric series from 2^(-8/H) (Press et al. 2022); between powers of two as they interleave it."""
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (index + 1) / whole) for index in range(whole)]
    extra = [2.0 ** (-4.0 * (2 * index + 1) / whole) for index in range(heads - whole)]
    return jnp.asarray(slopes + extra, jnp.float32)


def distance_bias(slope_H: Float[Array, " H"], query_T: Int[Array, " T"], key_S: Int[Array, " S"]) -> Float[Array, "H T S"]:
    """ALiBi: minus slope times the distance from query to key; the causal mask does the rest."""
    back_TS = (query_T[:, None] - key_S[None, :]).astype(jnp.float32)
    return -slope_H[:, None, None] * back_TS[None]
