"""Scaled dot-product attention and the ways in which it is told positions."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from suite import mesh as meshes
from suite.ops import context, precision
from suite.ops.kernels import splash

BLOCK = 128  # tokens of a block: on one CPU thread 256 took as long and 512 a third longer (2 x 2,048 tokens, 4 x 64)
Queries = Float[Array, "J N Q K"]
Keys = Float[Array, "I N S K"]
UNSEEN = -1e30  # a score so low that its weight is 0 beside any other, and that can be subtracted from itself


def dense(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B S G K"],
    v_BTHK: Float[Array, "B S G K"],
    window: int,
    slope_H: Float[Array, " H"] | None,
) -> Float[Array, "B T H K"]:
    """Attention of a whole sequence to itself, or of a shard of its queries, all queries to all keys at once.

    `window` tokens back including its own, 0 for all.
    """
    if q_BTHK.dtype != jnp.float64 and q_BTHK.shape[1] == k_BTHK.shape[1]:
        return _of_jax("xla", q_BTHK, k_BTHK, v_BTHK, window, slope_H)
    # JAX's own softmax is float32, whatever comes in, and its queries start where its keys do.
    query_T, key_S = context.positions(q_BTHK.shape[1]), jnp.arange(k_BTHK.shape[1])
    bias_HTS = None if slope_H is None else distance_bias(slope_H, query_T, key_S, precision.wide(q_BTHK.dtype))
    k_BGSK, v_BGSK = jnp.swapaxes(k_BTHK, 1, 2), jnp.swapaxes(v_BTHK, 1, 2)
    return _weigh(q_BTHK, k_BGSK, v_BGSK, _seen(query_T, key_S, window), bias_HTS)


def _of_jax(
    library: Literal["xla", "cudnn"],
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T G K"],
    v_BTHK: Float[Array, "B T G K"],
    window: int,
    slope_H: Float[Array, " H"] | None,
) -> Float[Array, "B T H K"]:
    """cuDNN is asked for by name and by a causal flag: left to itself JAX runs the dense form, and so does a mask."""
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
            implementation=library,
        )


def _splash(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T G K"],
    v_BTHK: Float[Array, "B T G K"],
    window: int,
    slope_H: Float[Array, " H"] | None,
) -> Float[Array, "B T H K"]:
    if slope_H is not None:
        raise ValueError("splash attention knows no distance bias; positions=alibi wants implementation=dense")
    return splash.causal(q_BTHK, k_BTHK, v_BTHK, window)


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


def blocked(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B S G K"],
    v_BTHK: Float[Array, "B S G K"],
    window: int,
    slope_H: Float[Array, " H"] | None,
) -> Float[Array, "B T H K"]:
    """A block of queries at a time against the blocks of keys that it may see; no score outlives its pair of blocks.

    By a running maximum and sum (Milakov and Gimelshein 2018; Dao et al. 2022). No gradient by slopes. J counts blocks,
    N pairs of an example and a group of heads, Q queries of a block in all heads of a group, S keys of a block.
    """
    batch, length, heads, size = q_BTHK.shape
    groups = k_BTHK.shape[2]
    is_shard = length < k_BTHK.shape[1]  # then blocks of queries have to be blocks of keys too
    block = math.gcd(BLOCK, length) if is_shard else min(BLOCK, length)
    filled = ((0, 0), (0, -length % block), (0, 0), (0, 0))

    def by_block(x_BTHK: Float[Array, "B T H K"]) -> Float[Array, "J N Q K"]:
        x_BJSGRK = jnp.pad(x_BTHK, filled).reshape(batch, -1, block, groups, x_BTHK.shape[2] // groups, size)
        return jnp.transpose(x_BJSGRK, (1, 0, 3, 4, 2, 5)).reshape(-1, batch * groups, block * x_BJSGRK.shape[4], size)

    slope_NQ = None
    if slope_H is not None:
        slope_GQ = jnp.repeat(slope_H.astype(precision.wide(q_BTHK.dtype)), block).reshape(groups, -1)
        slope_NQ = jnp.tile(slope_GQ, (batch, 1))
    y_JNQK: Array = _by_blocks(window, by_block(q_BTHK), by_block(k_BTHK), by_block(v_BTHK), slope_NQ)
    y_JBGRSK = y_JNQK.reshape(-1, batch, groups, heads // groups, block, size)
    y_BTHK = jnp.transpose(y_JBGRSK, (1, 0, 4, 2, 3, 5)).reshape(batch, -1, heads, size)
    return y_BTHK[:, :length].astype(q_BTHK.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_blocks(
    window: int, q_JNQK: Queries, k_JNSK: Keys, v_JNSK: Keys, slope_NQ: Float[Array, "N Q"] | None
) -> Queries:
    """Outputs in the wide dtype."""
    return _blocks_forward(window, q_JNQK, k_JNSK, v_JNSK, slope_NQ)[0]


def _blocks_forward(
    window: int, q_JNQK: Queries, k_JNSK: Keys, v_JNSK: Keys, slope_NQ: Float[Array, "N Q"] | None
) -> tuple[Queries, tuple[Any, ...]]:
    """Outputs, and what the backward pass needs: the arguments, outputs, and of each query the log of its sum."""
    dtype, first = precision.wide(q_JNQK.dtype), _first_of_queries(q_JNQK, k_JNSK)

    def attend(number: Int[Array, ""], results: tuple[Array, Array]) -> tuple[Array, Array]:
        q_NQK, at = q_JNQK[number], first + number

        def add(other: Int[Array, ""], sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            y_NQK, sum_NQ, largest_NQ = sums
            score_NQS, _ = _block_scores(q_NQK, k_JNSK[other], at, other, window, slope_NQ)
            new_NQ = jnp.maximum(largest_NQ, jnp.max(score_NQS, axis=-1))
            weight_NQS = jnp.exp(score_NQS - new_NQ[..., None])
            kept_NQ = jnp.exp(largest_NQ - new_NQ)
            added_NQK = _product("NQS,NSK->NQK", weight_NQS.astype(v_JNSK.dtype), v_JNSK[other])
            return (
                y_NQK * kept_NQ[..., None] + added_NQK,
                sum_NQ * kept_NQ + jnp.sum(weight_NQS, axis=-1),
                new_NQ,
            )

        zero_NQ = jnp.zeros(q_NQK.shape[:2], dtype)
        start = (jnp.zeros(q_NQK.shape, dtype), zero_NQ, jnp.full_like(zero_NQ, UNSEEN))
        y_NQK, sum_NQ, largest_NQ = jax.lax.fori_loop(_first_block(at, window, k_JNSK), at + 1, add, start)
        y_JNQK, log_JNQ = results
        return y_JNQK.at[number].set(y_NQK / sum_NQ[..., None]), log_JNQ.at[number].set(largest_NQ + jnp.log(sum_NQ))

    empty = (jnp.zeros(q_JNQK.shape, dtype), jnp.zeros(q_JNQK.shape[:3], dtype))
    y_JNQK, log_JNQ = jax.lax.fori_loop(0, q_JNQK.shape[0], attend, empty)
    return y_JNQK, (q_JNQK, k_JNSK, v_JNSK, slope_NQ, y_JNQK, log_JNQ)


def _blocks_backward(window: int, kept: tuple[Any, ...], dy_JNQK: Queries) -> tuple[Any, ...]:
    """Gradients by queries, keys and values: the weights are made again from scores and the logs of their sums."""
    q_JNQK, k_JNSK, v_JNSK, slope_NQ, y_JNQK, log_JNQ = kept
    dtype, narrow, first = precision.wide(q_JNQK.dtype), q_JNQK.dtype, _first_of_queries(q_JNQK, k_JNSK)
    inner_JNQ = jnp.sum(dy_JNQK * y_JNQK, axis=-1)

    def attend(number: Int[Array, ""], sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        dq_JNQK, dk_JNSK, dv_JNSK = sums
        q_NQK, dy_NQK, at = q_JNQK[number], dy_JNQK[number].astype(narrow), first + number
        log_NQ1, inner_NQ1 = log_JNQ[number][..., None], inner_JNQ[number][..., None]

        def add(other: Int[Array, ""], sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq_NQK, dk_JNSK, dv_JNSK = sums
            k_NSK = k_JNSK[other]
            score_NQS, seen_QS = _block_scores(q_NQK, k_NSK, at, other, window, slope_NQ)
            weight_NQS = jnp.where(seen_QS[None], jnp.exp(score_NQS - log_NQ1), 0)
            change_NQS = weight_NQS * (_product("NQK,NSK->NQS", dy_NQK, v_JNSK[other]) - inner_NQ1)
            weight_NQS, change_NQS = weight_NQS.astype(narrow), change_NQS.astype(narrow)
            return (
                dq_NQK + _product("NQS,NSK->NQK", change_NQS, k_NSK),
                dk_JNSK.at[other].add(_product("NQS,NQK->NSK", change_NQS, q_NQK)),
                dv_JNSK.at[other].add(_product("NQS,NQK->NSK", weight_NQS, dy_NQK)),
            )

        start = (jnp.zeros(q_NQK.shape, dtype), dk_JNSK, dv_JNSK)
        dq_NQK, dk_JNSK, dv_JNSK = jax.lax.fori_loop(_first_block(at, window, k_JNSK), at + 1, add, start)
        return dq_JNQK.at[number].set(dq_NQK), dk_JNSK, dv_JNSK

    start = tuple(jnp.zeros(x.shape, dtype) for x in (q_JNQK, k_JNSK, v_JNSK))
    changes = jax.lax.fori_loop(0, q_JNQK.shape[0], attend, start)
    dq_JNQK, dk_JNSK, dv_JNSK = (change.astype(narrow) for change in changes)
    scale = 1 / math.sqrt(q_JNQK.shape[-1])
    return dq_JNQK * scale, dk_JNSK * scale, dv_JNSK, None if slope_NQ is None else jnp.zeros_like(slope_NQ)


_by_blocks.defvjp(_blocks_forward, _blocks_backward)


def _block_scores(
    q_NQK: Float[Array, "N Q K"],
    k_NSK: Float[Array, "N S K"],
    number: Int[Array, ""],
    other: Int[Array, ""],
    window: int,
    slope_NQ: Float[Array, "N Q"] | None,
) -> tuple[Float[Array, "N Q S"], Bool[Array, "Q S"]]:
    """Scores of a block of queries and one of keys, with UNSEEN where a key is hidden, and which are not."""
    block = k_NSK.shape[1]
    query_Q = number * block + jnp.tile(jnp.arange(block), q_NQK.shape[1] // block)
    key_S = other * block + jnp.arange(block)
    score_NQS = _product("NQK,NSK->NQS", q_NQK, k_NSK) / math.sqrt(q_NQK.shape[-1])
    if slope_NQ is not None:
        score_NQS = score_NQS - slope_NQ[..., None] * (query_Q[:, None] - key_S[None]).astype(slope_NQ.dtype)[None]
    seen_QS = _seen(query_Q, key_S, window)
    return jnp.where(seen_QS[None], score_NQS, UNSEEN), seen_QS


def _first_of_queries(q_JNQK: Queries, k_JNSK: Keys) -> Int[Array, ""] | int:
    """The number, among the blocks of keys, of the first block of queries."""
    return 0 if q_JNQK.shape[0] == k_JNSK.shape[0] else meshes.context_index() * q_JNQK.shape[0]


def _first_block(number: Int[Array, ""], window: int, k_JNSK: Keys) -> Int[Array, ""]:
    """The first block of keys that any query of a block may see."""
    block = k_JNSK.shape[2]
    return jnp.maximum(0, (number * block - window + 1) // block) if window else jnp.zeros_like(number)


def _product(subscripts: str, *factors: Array) -> Array:
    return jnp.einsum(subscripts, *factors, preferred_element_type=precision.wide(factors[0].dtype))


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
    cos_TK, sin_TK = (x_TK.astype(x_BTHK.dtype)[None, :, None] for x_TK in (jnp.cos(angle_TK), jnp.sin(angle_TK)))
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


positions = context.positions  # of the tokens that a mixer is given


def over_devices(run: Callable[..., Array]) -> Callable[..., Array]:
    """An implementation whose heads are split, and whose queries: every shard of them gets all keys and values."""

    def attend(
        q_BTHK: Array, k_BTHK: Array, v_BTHK: Array, window: int, slope_H: Float[Array, " H"] | None
    ) -> Float[Array, "B T H K"]:
        if meshes.shards_of_context() > 1 and run not in (dense, blocked):
            raise ValueError("kernels of attention want whole sequences; over context take implementation=blocked")

        def of_heads(q_BTHK: Array, k_BTHK: Array, v_BTHK: Array, slope_H: Array | None) -> Float[Array, "B T H K"]:
            return run(q_BTHK, context.gather(k_BTHK), context.gather(v_BTHK), window, slope_H)

        return meshes.by_head(of_heads, (2, 2, 2, 0), 2)(q_BTHK, k_BTHK, v_BTHK, slope_H)

    return attend


IMPLEMENTATIONS = {
    "dense": dense,
    "blocked": blocked,
    "cudnn": functools.partial(_of_jax, "cudnn"),
    "splash": _splash,
}
SAME_CHAIN = {"blocked": "dense", "cudnn": "dense", "splash": "dense"}
WIDEST = {"cudnn": "dense", "splash": "dense"}  # what runs in float64, which kernels do not know
