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
Documents = Int[Array, "J N S"]  # numbers, of a sequence whose queries and keys are the same tokens
Block = Int[Array, ""] | int
# Which keys there are beside a device's queries: of the whole sequence, of the same shard, or also of the end of the
# shard before, as far as a window reaches.
Given = Literal["all", "shard", "reached"]
# By position, and by document where documents have numbers.
Seen = tuple[Bool[Array, "Q S"], Bool[Array, "N Q S"] | None]
UNSEEN = -1e30  # a score so low that its weight is 0 beside any other, and that can be subtracted from itself


def dense(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B S G K"],
    v_BTHK: Float[Array, "B S G K"],
    window: int,
    slope_H: Float[Array, " H"] | None,
    document_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T H K"]:
    """Attention of a whole sequence to itself, or of a shard of its queries, all queries to all keys at once.

    `window` tokens back including its own, 0 for all; of the same document, where documents have numbers.
    """
    if q_BTHK.dtype != jnp.float64 and q_BTHK.shape[1] == k_BTHK.shape[1]:
        return _of_jax("xla", q_BTHK, k_BTHK, v_BTHK, window, slope_H, document_BT)
    # JAX's own softmax is float32, whatever comes in, and its queries start where its keys do.
    query_T, key_S = context.positions(q_BTHK.shape[1]), jnp.arange(k_BTHK.shape[1])
    bias_HTS = None if slope_H is None else distance_bias(slope_H, query_T, key_S, precision.wide(q_BTHK.dtype))
    k_BGSK, v_BGSK = jnp.swapaxes(k_BTHK, 1, 2), jnp.swapaxes(v_BTHK, 1, 2)
    seen_BGRTS = _seen(query_T, key_S, window)[None, None, None]
    if document_BT is not None:
        seen_BGRTS = seen_BGRTS & _same(document_BT, document_BT)[:, None, None]
    return _weigh(q_BTHK, k_BGSK, v_BGSK, seen_BGRTS, bias_HTS)


def _of_jax(
    library: Literal["xla", "cudnn"],
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T G K"],
    v_BTHK: Float[Array, "B T G K"],
    window: int,
    slope_H: Float[Array, " H"] | None,
    document_BT: Int[Array, "B T"] | None = None,
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
            mask=None if document_BT is None else _same(document_BT, document_BT)[:, None],
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

    A cache in a narrower dtype is widened to that of the queries, and not rounded otherwise.
    Heads come before tokens in a cache: the other way round XLA turns all of it about for every token (5 to 10 times
    the time of a step on a CPU at 16,384 tokens).
    """
    mask_TS = _seen(query_T, key_S, window) & (key_S >= 0)[None, :]
    bias_HTS = None if slope_H is None else distance_bias(slope_H, query_T, key_S, precision.wide(q_BTHK.dtype))
    return _weigh(q_BTHK, k_BGSK.astype(q_BTHK.dtype), v_BGSK.astype(q_BTHK.dtype), mask_TS[None, None, None], bias_HTS)


def blocked(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B S G K"],
    v_BTHK: Float[Array, "B S G K"],
    window: int,
    slope_H: Float[Array, " H"] | None,
    document_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T H K"]:
    """A block of queries at a time against the blocks of keys that it may see; no score outlives its pair of blocks.

    By a running maximum and sum (Milakov and Gimelshein 2018; Dao et al. 2022). No gradient by slopes.
    """
    return _in_blocks("all", q_BTHK, k_BTHK, v_BTHK, window, slope_H, document_BT)


def ring(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T G K"],
    v_BTHK: Float[Array, "B T G K"],
    window: int,
    slope_H: Float[Array, " H"] | None,
) -> Float[Array, "B T H K"]:
    """Blocked attention that never holds the keys and values of more than two shards of a sequence.

    They are passed on from device to device, as far as a window reaches (Liu, Zaharia and Abbeel 2023). Shards of the
    future are passed and not computed, so the device of the last shard computes most. A window that reaches no further
    than the shard before gets the end of that one alone.
    """
    length = q_BTHK.shape[1]
    if meshes.shards_of_context() == 1:
        return blocked(q_BTHK, k_BTHK, v_BTHK, window, slope_H)
    reach = -(-(window - 1) // _block(length)) * _block(length)
    if not window or reach > length:
        return _in_blocks("shard", q_BTHK, k_BTHK, v_BTHK, window, slope_H)

    def reached(x_BTGK: Float[Array, "B T G K"]) -> Float[Array, "B S G K"]:
        end_BSGK = x_BTGK[:, length - reach :]
        return jnp.concatenate([context.before(end_BSGK, jnp.zeros_like(end_BSGK)), x_BTGK], axis=1)

    return _in_blocks("reached", q_BTHK, reached(k_BTHK), reached(v_BTHK), window, slope_H)


def _in_blocks(
    given: Given,
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    window: int,
    slope_H: Array | None,
    document_BT: Array | None = None,
) -> Float[Array, "B T H K"]:
    """Attention by blocks. J counts blocks of queries and I of keys, N pairs of an example and a group of heads.

    Q are the queries of a block in all heads of a group, S the keys of a block. `given` says which keys there are.
    """
    batch, length, heads, size = q_BTHK.shape
    groups = k_BTHK.shape[2]
    block = _block(length)
    filled = ((0, 0), (0, -length % block), (0, 0), (0, 0))

    def by_block(x_BTHK: Float[Array, "B T H K"]) -> Float[Array, "J N Q K"]:
        x_BJSGRK = jnp.pad(x_BTHK, filled).reshape(batch, -1, block, groups, x_BTHK.shape[2] // groups, size)
        return jnp.transpose(x_BJSGRK, (1, 0, 3, 4, 2, 5)).reshape(-1, batch * groups, block * x_BJSGRK.shape[4], size)

    slope_NQ = None
    if slope_H is not None:
        slope_GQ = jnp.repeat(slope_H.astype(precision.wide(q_BTHK.dtype)), block).reshape(groups, -1)
        slope_NQ = jnp.tile(slope_GQ, (batch, 1))
    document_JNS = None
    if document_BT is not None:
        document_JBS = jnp.swapaxes(jnp.pad(document_BT, filled[:2]).reshape(batch, -1, block), 0, 1)
        document_JNS = jnp.repeat(document_JBS, groups, axis=1)
    arrays = (by_block(q_BTHK), by_block(k_BTHK), by_block(v_BTHK), slope_NQ, document_JNS)
    y_JNQK: Array = _by_blocks(given, window, *arrays)
    y_JBGRSK = y_JNQK.reshape(-1, batch, groups, heads // groups, block, size)
    y_BTHK = jnp.transpose(y_JBGRSK, (1, 0, 4, 2, 3, 5)).reshape(batch, -1, heads, size)
    return y_BTHK[:, :length].astype(q_BTHK.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_blocks(
    given: Given,
    window: int,
    q_JNQK: Queries,
    k_INSK: Keys,
    v_INSK: Keys,
    slope_NQ: Float[Array, "N Q"] | None,
    document_JNS: Documents | None,
) -> Queries:
    """Outputs in the wide dtype."""
    return _blocks_forward(given, window, q_JNQK, k_INSK, v_INSK, slope_NQ, document_JNS)[0]


def _blocks_forward(
    given: Given,
    window: int,
    q_JNQK: Queries,
    k_INSK: Keys,
    v_INSK: Keys,
    slope_NQ: Float[Array, "N Q"] | None,
    document_JNS: Documents | None,
) -> tuple[Queries, tuple[Any, ...]]:
    """Outputs, and what the backward pass needs: the arguments, outputs, and of each query the log of its sum."""
    dtype, first = precision.wide(q_JNQK.dtype), _first_of_queries(q_JNQK)

    def visit(start: Block, sums: Any, keys: tuple[Keys, Keys], _: tuple[()]) -> tuple[Any, tuple[()]]:
        k_INSK, v_INSK = keys

        def attend(number: Int[Array, ""], sums: tuple[Array, Array, Array]) -> tuple[Array, ...]:
            q_NQK, at = q_JNQK[number], first + number

            def add(other: Int[Array, ""], sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                y_NQK, sum_NQ, largest_NQ = sums
                k_NSK = k_INSK[other - start]
                score_NQS, _ = _block_scores(q_NQK, k_NSK, at, other, window, slope_NQ, document_JNS)
                new_NQ = jnp.maximum(largest_NQ, jnp.max(score_NQS, axis=-1))
                weight_NQS = jnp.exp(score_NQS - new_NQ[..., None])
                kept_NQ = jnp.exp(largest_NQ - new_NQ)
                added_NQK = _product("NQS,NSK->NQK", weight_NQS.astype(v_INSK.dtype), v_INSK[other - start])
                return (
                    y_NQK * kept_NQ[..., None] + added_NQK,
                    sum_NQ * kept_NQ + jnp.sum(weight_NQS, axis=-1),
                    new_NQ,
                )

            lower, upper = _blocks_seen(at, window, start, k_INSK)
            of_block = jax.lax.fori_loop(lower, upper, add, tuple(sum[number] for sum in sums))
            return tuple(sum.at[number].set(new) for sum, new in zip(sums, of_block, strict=True))

        return jax.lax.fori_loop(0, q_JNQK.shape[0], attend, sums), ()

    zero_JNQ = jnp.zeros(q_JNQK.shape[:3], dtype)
    sums = (jnp.zeros(q_JNQK.shape, dtype), zero_JNQ, jnp.full_like(zero_JNQ, UNSEEN))
    (y_JNQK, sum_JNQ, largest_JNQ), _ = _visit_keys(given, window, q_JNQK, visit, sums, (k_INSK, v_INSK), ())
    y_JNQK = y_JNQK / sum_JNQ[..., None]
    return y_JNQK, (q_JNQK, k_INSK, v_INSK, slope_NQ, document_JNS, y_JNQK, largest_JNQ + jnp.log(sum_JNQ))


def _blocks_backward(given: Given, window: int, kept: tuple[Any, ...], dy_JNQK: Queries) -> tuple[Any, ...]:
    """Gradients by queries, keys and values: the weights are made again from scores and the logs of their sums."""
    q_JNQK, k_INSK, v_INSK, slope_NQ, document_JNS, y_JNQK, log_JNQ = kept
    dtype, narrow, first = precision.wide(q_JNQK.dtype), q_JNQK.dtype, _first_of_queries(q_JNQK)
    inner_JNQ = jnp.sum(dy_JNQK * y_JNQK, axis=-1)

    def visit(start: Block, dq_JNQK: Queries, keys: tuple[Keys, Keys], changes: tuple[Keys, Keys]) -> Any:
        k_INSK, v_INSK = keys

        def attend(number: Int[Array, ""], sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq_JNQK, dk_INSK, dv_INSK = sums
            q_NQK, dy_NQK, at = q_JNQK[number], dy_JNQK[number].astype(narrow), first + number
            log_NQ1, inner_NQ1 = log_JNQ[number][..., None], inner_JNQ[number][..., None]

            def add(other: Int[Array, ""], sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                dq_NQK, dk_INSK, dv_INSK = sums
                k_NSK = k_INSK[other - start]
                score_NQS, seen = _block_scores(q_NQK, k_NSK, at, other, window, slope_NQ, document_JNS)
                weight_NQS = jnp.where(_all_seen(seen), jnp.exp(score_NQS - log_NQ1), 0)
                change_NQS = weight_NQS * (_product("NQK,NSK->NQS", dy_NQK, v_INSK[other - start]) - inner_NQ1)
                weight_NQS, change_NQS = weight_NQS.astype(narrow), change_NQS.astype(narrow)
                return (
                    dq_NQK + _product("NQS,NSK->NQK", change_NQS, k_NSK),
                    dk_INSK.at[other - start].add(_product("NQS,NQK->NSK", change_NQS, q_NQK)),
                    dv_INSK.at[other - start].add(_product("NQS,NQK->NSK", weight_NQS, dy_NQK)),
                )

            lower, upper = _blocks_seen(at, window, start, k_INSK)
            dq_NQK, dk_INSK, dv_INSK = jax.lax.fori_loop(lower, upper, add, (dq_JNQK[number], dk_INSK, dv_INSK))
            return dq_JNQK.at[number].set(dq_NQK), dk_INSK, dv_INSK

        dq_JNQK, *changes_of_keys = jax.lax.fori_loop(0, q_JNQK.shape[0], attend, (dq_JNQK, *changes))
        return dq_JNQK, tuple(changes_of_keys)

    dq_JNQK, *changes = (jnp.zeros(x.shape, dtype) for x in (q_JNQK, k_INSK, v_INSK))
    dq_JNQK, changes = _visit_keys(given, window, q_JNQK, visit, dq_JNQK, (k_INSK, v_INSK), tuple(changes))
    dq_JNQK, dk_INSK, dv_INSK = (change.astype(narrow) for change in (dq_JNQK, *changes))
    scale = 1 / math.sqrt(q_JNQK.shape[-1])
    return dq_JNQK * scale, dk_INSK * scale, dv_INSK, None if slope_NQ is None else jnp.zeros_like(slope_NQ), None


_by_blocks.defvjp(_blocks_forward, _blocks_backward)


def _block_scores(
    q_NQK: Float[Array, "N Q K"],
    k_NSK: Float[Array, "N S K"],
    number: Int[Array, ""],
    other: Int[Array, ""],
    window: int,
    slope_NQ: Float[Array, "N Q"] | None,
    document_JNS: Documents | None,
) -> tuple[Float[Array, "N Q S"], Seen]:
    """Scores of a block of queries and one of keys, with UNSEEN where a key is hidden, and which are not."""
    block = k_NSK.shape[1]
    query_Q = number * block + jnp.tile(jnp.arange(block), q_NQK.shape[1] // block)
    key_S = other * block + jnp.arange(block)
    score_NQS = _product("NQK,NSK->NQS", q_NQK, k_NSK) / math.sqrt(q_NQK.shape[-1])
    if slope_NQ is not None:
        score_NQS = score_NQS - slope_NQ[..., None] * (query_Q[:, None] - key_S[None]).astype(slope_NQ.dtype)[None]
    same_NQS = None
    if document_JNS is not None:
        query_NQ = jnp.tile(document_JNS[number], (1, q_NQK.shape[1] // block))
        same_NQS = _same(query_NQ, document_JNS[other])
    seen = _seen(query_Q, key_S, window), same_NQS
    return jnp.where(_all_seen(seen), score_NQS, UNSEEN), seen


def _all_seen(seen: Seen) -> Bool[Array, "#N Q S"]:
    seen_QS, same_NQS = seen
    return seen_QS[None] if same_NQS is None else seen_QS[None] & same_NQS


def _same(query_BT: Int[Array, "B T"], key_BS: Int[Array, "B S"]) -> Bool[Array, "B T S"]:
    """Whether a key is of the document of a query."""
    return query_BT[:, :, None] == key_BS[:, None]


def _block(length: int) -> int:
    """Tokens of a block; a shard of a sequence has to be whole blocks."""
    return math.gcd(BLOCK, length) if meshes.shards_of_context() > 1 else min(BLOCK, length)


def _first_of_queries(q_JNQK: Queries) -> Block:
    """The number, in the whole sequence, of the first block of queries."""
    return 0 if meshes.shards_of_context() == 1 else meshes.context_index() * q_JNQK.shape[0]


def _visit_keys(
    given: Given,
    window: int,
    q_JNQK: Queries,
    visit: Callable[..., Any],
    own: Any,
    keys: tuple[Keys, Keys],
    collected: Any,
) -> tuple[Any, Any]:
    """`visit(start, own, keys, collected) -> own, collected` with all keys that a query may see; they begin at `start`.

    Where a device has a shard of them they come to it by the ring, with what devices add to `collected`.
    """
    if given == "all":
        return visit(0, own, keys, collected)
    if given == "reached":
        return visit(_first_of_queries(q_JNQK) + len(q_JNQK) - len(keys[0]), own, keys, collected)
    blocks, _, block, _ = keys[0].shape
    back = math.ceil((window - 1) / (blocks * block)) if window else math.inf

    def visit_shard(shard: Int[Array, ""], own: Any, keys: Any, collected: Any) -> Any:
        return visit(shard * blocks, own, keys, collected)

    return context.in_ring(visit_shard, own, keys, collected, back)


def _blocks_seen(number: Block, window: int, start: Block, k_INSK: Keys) -> tuple[Block, Block]:
    """Of keys that begin with the block `start`, the first block that any query of a block may see, and an end."""
    blocks, _, block, _ = k_INSK.shape
    first = jnp.maximum(start, (number * block - window + 1) // block) if window else start
    return jnp.maximum(first, 0), jnp.minimum(number + 1, start + blocks)  # nothing stands before the first shard


def _product(subscripts: str, *factors: Array) -> Array:
    return jnp.einsum(subscripts, *factors, preferred_element_type=precision.wide(factors[0].dtype))


def _weigh(
    q_BTHK: Float[Array, "B T H K"],
    k_BGSK: Float[Array, "B G S K"],
    v_BGSK: Float[Array, "B G S K"],
    seen_BGRTS: Bool[Array, "#B 1 1 T S"],
    bias_HTS: Float[Array, "H T S"] | None,
) -> Float[Array, "B T H K"]:
    """Attention to the keys that are seen; groups of R heads share keys and values; wide scores."""
    batch, length, heads, head_size = q_BTHK.shape
    groups, dtype = k_BGSK.shape[1], precision.wide(q_BTHK.dtype)
    q_BTGRK = q_BTHK.reshape(batch, length, groups, heads // groups, head_size)
    score_BGRTS = jnp.einsum("BTGRK,BGSK->BGRTS", q_BTGRK, k_BGSK, preferred_element_type=dtype)
    score_BGRTS = score_BGRTS / math.sqrt(head_size)
    if bias_HTS is not None:
        score_BGRTS = score_BGRTS + bias_HTS.reshape(1, groups, -1, *bias_HTS.shape[1:])
    score_BGRTS = jnp.where(seen_BGRTS, score_BGRTS, -jnp.inf)
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
    """An implementation whose heads are split, and whose queries: every shard of them gets all keys and values.

    All at once, but for the ring.
    """

    def attend(
        q_BTHK: Array,
        k_BTHK: Array,
        v_BTHK: Array,
        window: int,
        slope_H: Float[Array, " H"] | None,
        *document_BT: Int[Array, "B T"],
    ) -> Float[Array, "B T H K"]:
        if meshes.shards_of_context() > 1 and run not in (dense, blocked, ring):
            raise ValueError("kernels of attention want whole sequences; over context take implementation=ring")

        def of_heads(
            q_BTHK: Array, k_BTHK: Array, v_BTHK: Array, slope_H: Array | None, *document_1BT: Array
        ) -> Float[Array, "B T H K"]:
            if run is not ring:
                k_BTHK, v_BTHK = context.gather(k_BTHK), context.gather(v_BTHK)
            return run(q_BTHK, k_BTHK, v_BTHK, window, slope_H, *(each_1BT[0] for each_1BT in document_1BT))

        document_1BT = [each_BT[None] for each_BT in document_BT]  # the same for all heads
        of_model = meshes.by_head(of_heads, (2, 2, 2, 0, *[0] * len(document_1BT)), 2)
        return of_model(q_BTHK, k_BTHK, v_BTHK, slope_H, *document_1BT)

    return attend


IMPLEMENTATIONS = {
    "dense": dense,
    "blocked": blocked,
    "ring": ring,
    "cudnn": functools.partial(_of_jax, "cudnn"),
    "splash": _splash,
}
SAME_CHAIN = {"blocked": "dense", "ring": "dense", "cudnn": "dense", "splash": "dense"}
WIDEST = {"cudnn": "dense", "splash": "dense"}  # what runs in float64, which kernels do not know
