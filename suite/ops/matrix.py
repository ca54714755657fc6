"""Matrix-state recurrences S_t = a_t S_{t-1} + k_t v_t^T, read by y_t = S_t^T q_t: token by token, or in chunks.

A chunk is a product of its queries with its keys under the decay between them, and of its queries with the state that
came in: the only thing that goes from chunk to chunk (Yang et al. 2024, section 4; Dao and Gu 2024, section 6). Decays
are logarithms whose sums are only ever used as differences that are not positive, so nothing overflows; and those sums
are kept in two parts, so that a decay which resets the state takes no digits from those after it.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from suite import mesh as meshes
from suite.ops import context, implementations, precision, recurrent

BOUND = 60.0  # exp of it is what hidden pairs may come to: far below the largest float32 and bfloat16
LEAST = -4096.0  # a log decay is at least that: exp of it is 0 in float64 too, and its sums stay in range
GRAIN = 1 / 16  # multiples of it up to 256 * LEAST are added and subtracted without rounding, in float32 too
BLOCK = 16  # tokens over which a decay of every channel is formed pair by pair; beyond, through the block's start


def chunked(
    q_BTGK: Float[Array, "B T G K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTHP: Float[Array, "B T H P"],
    log_decay_BTHK: Float[Array, "B T H #K"],
    state_BHKP: Float[Array, "B H K P"],
) -> tuple[Float[Array, "B T H P"], Float[Array, "B H K P"]]:
    """Outputs in the wide dtype and the last state; G groups of heads share queries and keys.

    The last axis of the decay has 1 for a decay of the whole head and K for one of each channel (with G = H).
    """
    length, v_BTHP = q_BTGK.shape[1], v_BTHP.astype(q_BTGK.dtype)
    of_a_head = log_decay_BTHK.shape[-1] == 1
    chunk = implementations.chunk("scalar" if of_a_head else "vector", length)
    q_JBGTK, k_JBGTK, v_JBHTP, log_decay_JBHTK = (in_chunks(x, chunk) for x in (q_BTGK, k_BTGK, v_BTHP, log_decay_BTHK))
    sum_JBHTK = sums(log_decay_JBHTK)
    if of_a_head:
        decay_JBHTS = decays(sum_JBHTK.map(lambda x_JBHT1: x_JBHT1[..., 0]))
        score_JBHTS = repeat(scores(q_JBGTK, k_JBGTK), state_BHKP.shape[1], axis=2) * decay_JBHTS
    else:
        score_JBHTS = decayed_scores(q_JBGTK, k_JBGTK, sum_JBHTK, sum_JBHTK)
    before_JBHKP, state_BHKP = across(k_JBGTK, v_JBHTP, sum_JBHTK, state_BHKP)
    y_JBHTP = weigh(score_JBHTS, v_JBHTP) + read(q_JBGTK, sum_JBHTK.joined(), before_JBHKP)
    return out_of_chunks(y_JBHTP, length), state_BHKP


def start(batch: int, heads: int, keys: int, values: int, dtype: jnp.dtype) -> Float[Array, "B H K P"]:
    """The state before the first token."""
    return jnp.zeros((batch, heads, keys, values), dtype)


def step(
    inputs: tuple[Float[Array, "B G K"], Float[Array, "B G K"], Float[Array, "B H P"], Float[Array, "B H #K"]],
    state_BHKP: Float[Array, "B H K P"],
) -> tuple[Float[Array, "B H P"], Float[Array, "B H K P"]]:
    """One token: queries, keys, values and logarithms of decays."""
    q_BGK, k_BGK, v_BHP, log_decay_BHK = inputs
    dtype, heads = state_BHKP.dtype, state_BHKP.shape[1]
    k_BHK, q_BHK = (repeat(x_BGK.astype(dtype), heads, axis=1) for x_BGK in (k_BGK, q_BGK))
    state_BHKP = jnp.exp(log_decay_BHK)[..., None] * state_BHKP + outer(k_BHK, v_BHP.astype(dtype))
    return jnp.einsum("BHK,BHKP->BHP", q_BHK, state_BHKP), state_BHKP


def cut(inputs: tuple[Array, ...], starts_BT: Bool[Array, "B T"]) -> tuple[Array, ...]:
    """Inputs whose decay, the last of them, leaves nothing of the state before a token that begins a document."""
    *others, log_decay_BTHK = inputs
    return (*others, jnp.where(starts_BT[..., None, None], LEAST, log_decay_BTHK))


def over_devices(run: Callable[..., Any]) -> Callable[..., Any]:
    """An implementation whose heads and whose sequences are split."""

    def total(q_BTGK: Array, k_BTGK: Array, v_BTHP: Array, log_decay_BTHK: Array) -> Float[Array, "B H #K 1"]:
        return jnp.exp(jnp.sum(jnp.maximum(log_decay_BTHK, LEAST), axis=1))[..., None]

    def carry(decay_BHK1: Array, end_BHKP: Array, state_BHKP: Array) -> Float[Array, "B H K P"]:
        return decay_BHK1 * state_BHKP + end_BHKP

    passed = context.Passed(total, operator.mul, carry)
    return context.affine(meshes.by_head(run, (2, 2, 2, 2, 1), (2, 1)), passed)


def by_products(run: Callable[..., Any], inputs: int, values: int = 2) -> Callable[..., Any]:
    """An implementation of matrices that multiply the state, whose heads and whose sequences are split.

    It has so many inputs before the state, of which that of this number are values. What a shard does to any state is
    what it makes of the identity where all values are 0.
    """
    run = meshes.by_head(run, (*[2] * inputs, 1), (2, 1))

    def product(*given: Any) -> Float[Array, "B H K K"]:
        batch, _, heads, size = given[1].shape
        zero_BTHK = jnp.zeros_like(given[1], given[values].dtype)
        eye_KK = jnp.eye(size, dtype=precision.wide(given[1].dtype))
        identity_BHKK = jnp.broadcast_to(eye_KK, (batch, heads, size, size))
        return run(*given[:values], zero_BTHK, *given[values + 1 :], identity_BHKK)[1]

    def carry(product_BHKK: Array, end_BHKP: Array, state_BHKP: Array) -> Float[Array, "B H K P"]:
        return product_BHKK @ state_BHKP + end_BHKP

    return context.affine(run, context.Passed(product, operator.matmul, carry))


def sequential(advance: Callable) -> Callable:
    """The implementation that runs `advance(inputs, state) -> y, state` token by token."""
    return lambda *arguments: recurrent.over_time(advance, arguments[:-1], arguments[-1])


# Pieces of which every chunked form is made. J counts chunks, T and S tokens of a chunk.


def in_chunks(x_BTHK: Float[Array, "B T H K"], chunk: int, fill: float = 0.0) -> Float[Array, "J B H C K"]:
    """Chunks first and tokens after heads; the last chunk is filled up, by default with what changes no state."""
    batch, length, heads, size = x_BTHK.shape
    x_BTHK = jnp.pad(x_BTHK, ((0, 0), (0, -length % chunk), (0, 0), (0, 0)), constant_values=fill)
    return jnp.transpose(x_BTHK.reshape(batch, -1, chunk, heads, size), (1, 0, 3, 2, 4))


def out_of_chunks(x_JBHTP: Float[Array, "J B H C P"], length: int) -> Float[Array, "B T H P"]:
    chunks, batch, heads, chunk, size = x_JBHTP.shape
    return jnp.transpose(x_JBHTP, (1, 0, 3, 2, 4)).reshape(batch, chunks * chunk, heads, size)[:, :length]


def repeat(x: Float[Array, "..."], heads: int, axis: int) -> Float[Array, "..."]:
    """Each group's entries once for every one of its heads; `axis` is that of the groups."""
    return x if x.shape[axis] == heads else jnp.repeat(x, heads // x.shape[axis], axis=axis)


def outer(k_BHK: Float[Array, "B H K"], v_BHP: Float[Array, "B H P"]) -> Float[Array, "B H K P"]:
    return jnp.einsum("BHK,BHP->BHKP", k_BHK, v_BHP)


def scores(q_JBGTK: Float[Array, "J B G T K"], k_JBGSK: Float[Array, "J B G S K"]) -> Float[Array, "J B G T S"]:
    """Products of queries and keys, wide sums."""
    dtype = precision.wide(q_JBGTK.dtype)
    return jnp.einsum("JBGTK,JBGSK->JBGTS", q_JBGTK, k_JBGSK, preferred_element_type=dtype)


class Sums(NamedTuple):
    """Sums of log decays from a chunk's start on: multiples of GRAIN, which are exact, and what is left.

    A difference of two whole sums has the rounding of the larger one: after a decay of exp(-1000) that is 6e-5, and
    the decays of all later pairs would be wrong by that much.
    """

    coarse: Float[Array, "..."]
    fine: Float[Array, "..."]

    def map(self, fn: Callable[[Array], Array]) -> "Sums":
        return Sums(fn(self.coarse), fn(self.fine))

    def joined(self) -> Float[Array, "..."]:
        return self.coarse + self.fine

    def since(self, earlier: "Sums") -> Float[Array, "..."]:
        return (self.coarse - earlier.coarse) + (self.fine - earlier.fine)


def sums(log_decay_JBHTK: Float[Array, "J B H T K"]) -> Sums:
    """Over the tokens of each chunk, up to each token's own."""
    log_decay_JBHTK = jnp.maximum(log_decay_JBHTK, LEAST)
    coarse_JBHTK = jax.lax.stop_gradient(jnp.round(log_decay_JBHTK / GRAIN) * GRAIN)
    return Sums(jnp.cumsum(coarse_JBHTK, axis=3), jnp.cumsum(log_decay_JBHTK - coarse_JBHTK, axis=3))


def decays(sum_JBHT: Sums, *, strict: bool = False) -> Float[Array, "J B H T S"]:
    """exp(sum_t - sum_s) for s <= t, or s < t, and 0 elsewhere."""
    past_TS = jnp.tri(sum_JBHT.fine.shape[-1], k=-1 if strict else 0, dtype=bool)
    return jnp.exp(jnp.where(past_TS[None, None, None], pairs(sum_JBHT), -jnp.inf))


def left(sum_JBHTK: Sums) -> Float[Array, "J B H T K"]:
    """The log decay from a token to its chunk's end."""
    return sum_JBHTK.map(lambda x_JBHTK: x_JBHTK[..., -1:, :]).since(sum_JBHTK)


def pairs(sum_JBHT: Sums) -> Float[Array, "J B H T S"]:
    """The log decay from token s to token t."""
    return sum_JBHT.map(lambda x_JBHT: x_JBHT[..., None]).since(sum_JBHT.map(lambda x_JBHT: x_JBHT[..., None, :]))


def decayed_scores(
    q_JBHTK: Float[Array, "J B H T K"],
    k_JBHTK: Float[Array, "J B H T K"],
    query_sum_JBHTK: Sums,
    key_sum_JBHTK: Sums,
    *,
    strict: bool = False,
) -> Float[Array, "J B H T S"]:
    """Sum over channels of q_t k_s exp(query_sum_t - key_sum_s), for s <= t or s < t: a decay of every channel.

    The backward pass forms it again: kept, the decays of pairs would weigh as much as dozens of activations.
    """
    implementation = jax.checkpoint(functools.partial(_decayed_scores, strict=strict))
    return implementation(q_JBHTK, k_JBHTK, query_sum_JBHTK, key_sum_JBHTK)


def _decayed_scores(
    q_JBHTK: Float[Array, "J B H T K"],
    k_JBHTK: Float[Array, "J B H T K"],
    query_sum_JBHTK: Sums,
    key_sum_JBHTK: Sums,
    *,
    strict: bool,
) -> Float[Array, "J B H T S"]:
    """The factor is at most 1 and its two halves may not be.

    Within a block it is formed for each pair, and between blocks as a product of two decays, from the key to the start
    of the query's block and on to the query (section 4.3 there).
    """
    dtype, (*outer_axes, chunk, size) = key_sum_JBHTK.fine.dtype, q_JBHTK.shape
    block = min(BLOCK, chunk)
    blocks = chunk // block

    # X stands for chunks, examples and heads, I for blocks, R and S for the tokens of a block.
    def in_blocks(x_JBHTK: Float[Array, "J B H T K"]) -> Float[Array, "X I R K"]:
        return x_JBHTK.astype(dtype).reshape(-1, blocks, block, size)

    q_XIRK, k_XISK = in_blocks(q_JBHTK), in_blocks(k_JBHTK)
    query_sum_XIRK, key_sum_XISK = query_sum_JBHTK.map(in_blocks), key_sum_JBHTK.map(in_blocks)
    past_RS = jnp.tri(block, k=-1 if strict else 0, dtype=bool)
    pair_XIRSK = query_sum_XIRK.map(lambda x_XIRK: x_XIRK[:, :, :, None]).since(
        key_sum_XISK.map(lambda x_XISK: x_XISK[:, :, None])
    )
    pair_XIRSK = jnp.exp(jnp.where(past_RS[None, None, :, :, None], pair_XIRSK, -jnp.inf))
    within_XIRS = jnp.sum(q_XIRK[:, :, :, None] * k_XISK[:, :, None] * pair_XIRSK, axis=-1)
    if blocks == 1:
        return within_XIRS.reshape(*outer_axes, chunk, chunk)
    start_XI1K = key_sum_XISK.map(lambda x_XISK: jnp.pad(x_XISK[:, :-1, -1:], ((0, 0), (1, 0), (0, 0), (0, 0))))
    q_XIRK = q_XIRK * jnp.exp(query_sum_XIRK.since(start_XI1K))
    # From every key to the start of block I of the queries, where its own block is an earlier one.
    earlier_IT = jnp.repeat(jnp.tri(blocks, k=-1, dtype=bool), block, axis=1)
    lag_XITK = start_XI1K.since(key_sum_XISK.map(lambda x_XISK: x_XISK.reshape(-1, 1, chunk, size)))
    lag_XITK = jnp.where(earlier_IT[None, :, :, None], lag_XITK, -jnp.inf)
    k_XITK = k_XISK.reshape(-1, 1, chunk, size) * jnp.exp(lag_XITK)
    score_XIRT = jnp.einsum("XIRK,XITK->XIRT", q_XIRK, k_XITK)
    same_IL = jnp.eye(blocks, dtype=dtype)
    within_XIRLS = within_XIRS[:, :, :, None] * same_IL[None, :, None, :, None]
    return (score_XIRT.reshape(within_XIRLS.shape) + within_XIRLS).reshape(*outer_axes, chunk, chunk)


def bounded_scores(
    q_JBHTK: Float[Array, "J B H T K"],
    k_JBHTK: Float[Array, "J B H T K"],
    query_sum_JBHTK: Sums,
    key_sum_JBHTK: Sums,
    *,
    fastest: float,
    strict: bool = False,
) -> Float[Array, "J B H T S"]:
    """The same as one product, where no token's log decay is below -`fastest` and a chunk's not below -BOUND.

    Half of the chunk's least log decay is taken from queries and given to keys: either decay may be above 1 and neither
    overflows. Of the sums themselves it could not be taken: what is yet to come would touch the last bits.
    """
    dtype, wide, chunk = q_JBHTK.dtype, key_sum_JBHTK.fine.dtype, q_JBHTK.shape[3]
    half = fastest * chunk / 2
    q_JBHTK = (q_JBHTK.astype(wide) * jnp.exp(query_sum_JBHTK.joined() + half)).astype(dtype)
    k_JBHTK = (k_JBHTK.astype(wide) * jnp.exp(-half - key_sum_JBHTK.joined())).astype(dtype)
    past_TS = jnp.tri(chunk, k=-1 if strict else 0, dtype=bool)
    return jnp.where(past_TS[None, None, None], scores(q_JBHTK, k_JBHTK), 0)


def across(
    k_JBGTK: Float[Array, "J B G T K"],
    v_JBHTP: Float[Array, "J B H T P"],
    sum_JBHTK: Sums,
    state_BHKP: Float[Array, "B H K P"],
) -> tuple[Float[Array, "J B H K P"], Float[Array, "B H K P"]]:
    """The state before each chunk, and after the last: a loop over chunks of one product and one sum each."""
    dtype = state_BHKP.dtype
    total_JBHK = sum_JBHTK.joined()[..., -1, :]
    left_JBHTK = jnp.exp(left(sum_JBHTK))
    k_JBHTK = repeat(k_JBGTK, state_BHKP.shape[1], axis=2)
    k_JBHTK = (k_JBHTK.astype(dtype) * left_JBHTK).astype(k_JBGTK.dtype)
    added_JBHKP = jnp.einsum("JBHTK,JBHTP->JBHKP", k_JBHTK, v_JBHTP, preferred_element_type=dtype)

    def pass_on(state_BHKP: Float[Array, "B H K P"], at: tuple[Array, Array]) -> tuple[Array, Array]:
        decay_BHK, added_BHKP = at
        return decay_BHK[..., None] * state_BHKP + added_BHKP, state_BHKP

    state_BHKP, before_JBHKP = jax.lax.scan(pass_on, state_BHKP, (jnp.exp(total_JBHK), added_JBHKP))
    return before_JBHKP, state_BHKP


def weigh(score_JBHTS: Float[Array, "J B H T S"], v_JBHSP: Float[Array, "J B H S P"]) -> Float[Array, "J B H T P"]:
    """Values under their scores: factors in the dtype of the values, wide sums."""
    dtype = score_JBHTS.dtype
    return jnp.einsum("JBHTS,JBHSP->JBHTP", score_JBHTS.astype(v_JBHSP.dtype), v_JBHSP, preferred_element_type=dtype)


def read(
    q_JBGTK: Float[Array, "J B G T K"],
    sum_JBHTK: Float[Array, "J B H T #K"],
    before_JBHKP: Float[Array, "J B H K P"],
) -> Float[Array, "J B H T P"]:
    """What the queries of a chunk find of the state that came in."""
    dtype, wide = q_JBGTK.dtype, before_JBHKP.dtype
    q_JBHTK = repeat(q_JBGTK, before_JBHKP.shape[2], axis=2)
    of_a_head = sum_JBHTK.shape[-1] == 1  # then it is taken out of the product, and not rounded with the queries
    if not of_a_head:
        q_JBHTK = (q_JBHTK.astype(wide) * jnp.exp(sum_JBHTK)).astype(dtype)
    y_JBHTP = jnp.einsum("JBHTK,JBHKP->JBHTP", q_JBHTK, before_JBHKP.astype(dtype), preferred_element_type=wide)
    return y_JBHTP * jnp.exp(sum_JBHTK) if of_a_head else y_JBHTP


def _sequential(q_BTGK: Array, k_BTGK: Array, v_BTHP: Array, *rest: Array) -> tuple[Array, Array]:
    return sequential(step)(q_BTGK, k_BTGK, v_BTHP.astype(q_BTGK.dtype), *rest)


IMPLEMENTATIONS = {"chunked": chunked, "sequential": _sequential}
SAME_CHAIN = {}
