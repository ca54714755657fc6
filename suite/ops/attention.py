"""Scaled dot-product attention and the ways in which it is told positions."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from suite.ops import precision
from suite.ops.kernels import splash


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
    Splash attention knows no distance bias.
    """
    if form == "blocked":
        return _blocked(q_BTHK, k_BTHK, v_BTHK, window, slope_H)
    if q_BTHK.dtype == jnp.float64:  # JAX's own softmax is float32, whatever comes in
        return _attend(q_BTHK, k_BTHK, v_BTHK, first=0, low=0, window=window, slope_H=slope_H)
    if form == "splash":
        return splash.causal(q_BTHK, k_BTHK, v_BTHK, window)
    at_T = jnp.arange(q_BTHK.shape[1])
    bias_HTS = None if slope_H is None else distance_bias(slope_H, at_T, at_T, precision.wide(q_BTHK.dtype))
    with jax.numpy_dtype_promotion("standard"):  # JAX's own code adds a float32 mask to bfloat16 scores
        return jax.nn.dot_product_attention(
            q_BTHK,
            k_BTHK,
            v_BTHK,
            bias=None if bias_HTS is None else bias_HTS[None].astype(q_BTHK.dtype),
            is_causal=True,
            local_window_size=(window - 1, 0) if window else None,
            implementation="cudnn" if form == "cudnn" else "xla",
        )


def cached(
    q_BTHK: Float[Array, "B T H K"],
    k_BGSK: Float[Array, "B G S K"],
    v_BGSK: Float[Array, "B G S K"],
    *,
    query_T: Int[Array, " T"],
    key_S: Int[Array, " S"],
    window: int,
    slope_H: Float[Array, " H"] | None,
) -> Float[Array, "B T H K"]:
    """Attention of new queries to a cache; positions tell which keys lie in the past, negative ones are empty.

    Heads come before tokens in a cache: the other way round XLA turns all of it about for every token (5 to 10 times
    the time of a step on a CPU at 16,384 tokens).
    """
    mask_TS = _seen(query_T, key_S, window) & (key_S >= 0)[None, :]
    bias_HTS = None if slope_H is None else distance_bias(slope_H, query_T, key_S, precision.wide(q_BTHK.dtype))
    return _weigh(q_BTHK, k_BGSK, v_BGSK, mask_TS, bias_HTS)


def _blocked(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T G K"],
    v_BTHK: Float[Array, "B T G K"],
    window: int,
    slope_H: Float[Array, " H"] | None,
) -> Float[Array, "B T H K"]:
    """A block of queries at a time against the keys that it may see; scores are made again in the backward pass.

    At most 8 blocks: each is its own piece of program, and compilation grows with them.
    """
    length = q_BTHK.shape[1]
    block = max(128, -(-length // 8))
    blocks = []
    for first in range(0, length, block):
        last = min(length, first + block)
        low = max(0, first - window + 1) if window else 0
        attend = jax.checkpoint(functools.partial(_attend, first=first, low=low, window=window, slope_H=slope_H))
        blocks.append(attend(q_BTHK[:, first:last], k_BTHK[:, low:last], v_BTHK[:, low:last]))
    return jnp.concatenate(blocks, axis=1)


def _attend(
    q_BTHK: Float[Array, "B T H K"],
    k_BSHK: Float[Array, "B S G K"],
    v_BSHK: Float[Array, "B S G K"],
    *,
    first: int,
    low: int,
    window: int,
    slope_H: Float[Array, " H"] | None,
) -> Float[Array, "B T H K"]:
    """Queries at `first`.. to keys at `low`.."""
    query_T, key_S = first + jnp.arange(q_BTHK.shape[1]), low + jnp.arange(k_BSHK.shape[1])
    bias_HTS = None if slope_H is None else distance_bias(slope_H, query_T, key_S, precision.wide(q_BTHK.dtype))
    k_BGSK, v_BGSK = jnp.swapaxes(k_BSHK, 1, 2), jnp.swapaxes(v_BSHK, 1, 2)
    return _weigh(q_BTHK, k_BGSK, v_BGSK, _seen(query_T, key_S, window), bias_HTS)


def _weigh(
    q_BTHK: Float[Array, "B T H K"],
    k_BGSK: Float[Array, "B G S K"],
    v_BGSK: Float[Array, "B G S K"],
    mask_TS: Bool[Array, "T S"],
    bias_HTS: Float[Array, "H T S"] | None,
) -> Float[Array, "B T H K"]:
    """Attention to the keys of the mask; groups of R heads share keys and values; wide scores."""
    batch, length, heads, head_size = q_BTHK.shape
    groups, dtype = k_BGSK.shape[1], precision.wide(q_BTHK.dtype)
    q_BTGRK = q_BTHK.reshape(batch, length, groups, heads // groups, head_size)
    score_BGRTS = jnp.einsum("BTGRK,BGSK->BGRTS", q_BTGRK, k_BGSK, preferred_element_type=dtype)
    score_BGRTS = score_BGRTS / math.sqrt(head_size)
    if bias_HTS is not None:
        score_BGRTS = score_BGRTS + bias_HTS.reshape(1, groups, -1, *bias_HTS.shape[1:])
    score_BGRTS = jnp.where(mask_TS[None, None, None], score_BGRTS, -jnp.inf)
    # The largest score cancels out of the quotient, so its gradient need not be followed.
    weight_BGRTS = jnp.exp(score_BGRTS - jax.lax.stop_gradient(jnp.max(score_BGRTS, axis=-1, keepdims=True)))
    y_BGRTK = jnp.einsum("BGRTS,BGSK->BGRTK", weight_BGRTS.astype(v_BGSK.dtype), v_BGSK, preferred_element_type=dtype)
    y_BGRTK = y_BGRTK / jnp.sum(weight_BGRTS, axis=-1, keepdims=True)
    return jnp.moveaxis(y_BGRTK, 3, 1).reshape(batch, length, heads, head_size).astype(q_BTHK.dtype)


def _seen(query_T: Int[Array, " T"], key_S: Int[Array, " S"], window: int) -> Bool[Array, "T S"]:
    """Whether a key lies in the past of a query, or in its window where there is one."""
    back_TS = query_T[:, None] - key_S[None]
    return (back_TS >= 0) & (back_TS < window) if window else back_TS >= 0


def rotate(
    x_BTHK: Float[Array, "B T H K"], at_T: Int[Array, " T"], *, interpolation: float = 1.0, ntk: float = 1.0
) -> Float[Array, "B T H K"]:
    """Rotary positions (Su et al. 2021): pairs of channels turn by position / 10000^(2i/K); wide angles.

    Beyond the trained length by a factor s: `interpolation` = s divides positions by s (Chen et al. 2023); `ntk` = s
    raises the base by s^(K / (K - 2)), so the fastest pair keeps its frequency and the slowest turns s times slower
    (NTK-aware scaling; Peng et al. 2023, section 3.1).
    """
    size, dtype = x_BTHK.shape[-1], precision.wide(x_BTHK.dtype)
    base = 10_000.0 * ntk ** (size / max(1, size - 2))
    frequency_K = base ** (-jnp.arange(size // 2, dtype=dtype) / (size // 2))
    angle_TK = (at_T.astype(dtype) / interpolation)[:, None] * frequency_K[None]
    cos_TK, sin_TK = (part.astype(x_BTHK.dtype)[None, :, None] for part in (jnp.cos(angle_TK), jnp.sin(angle_TK)))
    first_BTHK, second_BTHK = jnp.split(x_BTHK, 2, axis=-1)
    return jnp.concatenate(
        [first_BTHK * cos_TK - second_BTHK * sin_TK, second_BTHK * cos_TK + first_BTHK * sin_TK], axis=-1
    )


def alibi_slopes(heads: int) -> Float[Array, " H"]:
    """One slope a head, a geometric series from 2^(-8/H); between powers of two interleaved (Press et al. 2022)."""
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (index + 1) / whole) for index in range(whole)]
    extra = [2.0 ** (-4.0 * (2 * index + 1) / whole) for index in range(heads - whole)]
    return jnp.asarray(slopes + extra, jnp.float32)


def distance_bias(
    slope_H: Float[Array, " H"], query_T: Int[Array, " T"], key_S: Int[Array, " S"], dtype: jnp.dtype
) -> Float[Array, "H T S"]:
    """ALiBi: minus slope times the distance from query to key; the causal mask does the rest."""
    back_TS = (query_T[:, None] - key_S[None, :]).astype(dtype)
    return -slope_H.astype(dtype)[:, None, None] * back_TS[None]
