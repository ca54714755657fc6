"""Matrix-state recurrences S_t = a_t S_{t-1} + k_t v_t^T, read by y_t = S_t^T q_t: token by token, or in chunks.

A chunk is a product of its queries with its keys under the decay between them, and of its queries with the state that
came in: the only thing that goes from chunk to chunk (Yang et al. 2024, section 4; Dao and Gu 2024, section 6). Decays
are logarithms and are only ever used as differences that are not positive, so nothing overflows.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from suite.ops import forms, precision

BOUND = 60.0  # exp of it is what hidden pairs may come to: far below the largest float32 and bfloat16
BLOCK = 16  # tokens over which a decay of every channel is formed pair by pair; beyond, through the block's start


def recurrence(
    q_BTGK: Float[Array, "B T G K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTHP: Float[Array, "B T H P"],
    log_decay_BTHK: Float[Array, "B T H #K"],
    state_BHKP: Float[Array, "B H K P"],
    form: str,
) -> tuple[Float[Array, "B T H P"], Float[Array, "B H K P"]]:
    """Outputs in the wide dtype and the last state; G groups of heads share queries and keys.

    The last axis of the decay has 1 for a decay of the whole head and K for one of each channel (with G = H).
    """
    if form == "sequential":
        return scan(step, (q_BTGK, k_BTGK, v_BTHP, jnp.exp(log_decay_BTHK)), state_BHKP)
    length = q_BTGK.shape[1]
    of_a_head = log_decay_BTHK.shape[-1] == 1
    chunk = forms.chunk("scalar" if of_a_head else "vector", length)
    q_JBGTK, k_JBGTK, v_JBHTP, log_decay_JBHTK = (in_chunks(x, chunk) for x in (q_BTGK, k_BTGK, v_BTHP, log_decay_BTHK))
    sum_JBHTK = jnp.cumsum(log_decay_JBHTK, axis=3)
    if of_a_head:
        score_JBHTS = repeat(scores(q_JBGTK, k_JBGTK), state_BHKP.shape[1], axis=2) * decays(sum_JBHTK[..., 0])
    else:
        score_JBHTS = decayed_scores(q_JBGTK, k_JBGTK, sum_JBHTK, sum_JBHTK)
    before_JBHKP, state_BHKP = across(k_JBGTK, v_JBHTP, sum_JBHTK, state_BHKP)
    y_JBHTP = weigh(score_JBHTS, v_JBHTP) + read(q_JBGTK, sum_JBHTK, before_JBHKP)
    return out_of_chunks(y_JBHTP, length), state_BHKP


def step(
    at: tuple[Float[Array, "B G K"], Float[Array, "B G K"], Float[Array, "B H P"], Float[Array, "B H #K"]],
    state_BHKP: Float[Array, "B H K P"],
) -> tuple[Float[Array, "B H P"], Float[Array, "B H K P"]]:
    """One token: queries, keys, values and decays (not their logarithms)."""
    q_BGK, k_BGK, v_BHP, decay_BHK = at
    dtype, heads = state_BHKP.dtype, state_BHKP.shape[1]
    k_BHK, q_BHK = (repeat(x_BGK.astype(dtype), heads, axis=1) for x_BGK in (k_BGK, q_BGK))
    state_BHKP = decay_BHK[..., None] * state_BHKP + outer(k_BHK, v_BHP.astype(dtype))
    return jnp.einsum("BHK,BHKP->BHP", q_BHK, state_BHKP), state_BHKP


def scan(advance: Callable, inputs: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """`advance(at, state) -> y, state` over the time axis, which is the second one."""

    def body(state: PyTree, at: PyTree) -> tuple[PyTree, PyTree]:
        y, state = advance(at, state)
        return state, y

    state, y_TBHP = jax.lax.scan(body, state, jax.tree.map(lambda x_BT: jnp.swapaxes(x_BT, 0, 1), inputs))
    return jnp.swapaxes(y_TBHP, 0, 1), state


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


def decays(
    sum_JBHT: Float[Array, "J B H T"], sum_JBHS: Float[Array, "J B H S"] | None = None, *, strict: bool = False
) -> Float[Array, "J B H T S"]:
    """exp(sum_t - sum_s) for s <= t, or s < t, and 0 elsewhere; sums are those of logarithms."""
    sum_JBHS = sum_JBHT if sum_JBHS is None else sum_JBHS
    past_TS = jnp.tri(sum_JBHT.shape[-1], k=-1 if strict else 0, dtype=bool)
    return jnp.exp(jnp.where(past_TS[None, None, None], sum_JBHT[..., None] - sum_JBHS[..., None, :], -jnp.inf))


def decayed_scores(
    q_JBHTK: Float[Array, "J B H T K"],
    k_JBHTK: Float[Array, "J B H T K"],
    query_sum_JBHTK: Float[Array, "J B H T K"],
    key_sum_JBHTK: Float[Array, "J B H T K"],
    *,
    strict: bool = False,
) -> Float[Array, "J B H T S"]:
    """Sum over channels of q_t k_s exp(query_sum_t - key_sum_s), for s <= t or s < t: a decay of every channel.

    The backward pass forms it again: kept, the decays of pairs would weigh as much as dozens of activations.
    """
    form = jax.checkpoint(functools.partial(_decayed_scores, strict=strict))
    return form(q_JBHTK, k_JBHTK, query_sum_JBHTK, key_sum_JBHTK)


def _decayed_scores(
    q_JBHTK: Float[Array, "J B H T K"],
    k_JBHTK: Float[Array, "J B H T K"],
    query_sum_JBHTK: Float[Array, "J B H T K"],
    key_sum_JBHTK: Float[Array, "J B H T K"],
    *,
    strict: bool,
) -> Float[Array, "J B H T S"]:
    """The factor is at most 1 and its two halves may not be.

    Within a block it is formed for each pair, and between blocks as a product of two decays, from the key to the start
    of the query's block and on to the query (section 4.3 there).
    """
    dtype, (*outer_axes, chunk, size) = key_sum_JBHTK.dtype, q_JBHTK.shape
    block = min(BLOCK, chunk)
    blocks = chunk // block
    # X stands for chunks, examples and heads, I for blocks, R and S for the tokens of a block.
    q_XIRK, k_XISK, query_sum_XIRK, key_sum_XISK = (
        x.astype(dtype).reshape(-1, blocks, block, size) for x in (q_JBHTK, k_JBHTK, query_sum_JBHTK, key_sum_JBHTK)
    )
    past_RS = jnp.tri(block, k=-1 if strict else 0, dtype=bool)
    pair_XIRSK = query_sum_XIRK[:, :, :, None] - key_sum_XISK[:, :, None]
    pair_XIRSK = jnp.exp(jnp.where(past_RS[None, None, :, :, None], pair_XIRSK, -jnp.inf))
    within_XIRS = jnp.sum(q_XIRK[:, :, :, None] * k_XISK[:, :, None] * pair_XIRSK, axis=-1)
    if blocks == 1:
        return within_XIRS.reshape(*outer_axes, chunk, chunk)
    start_XIK = jnp.pad(key_sum_XISK[:, :-1, -1], ((0, 0), (1, 0), (0, 0)))
    q_XIRK = q_XIRK * jnp.exp(query_sum_XIRK - start_XIK[:, :, None])
    # From every key to the start of block I of the queries, where its own block is an earlier one.
    earlier_IT = jnp.repeat(jnp.tri(blocks, k=-1, dtype=bool), block, axis=1)
    lag_XITK = start_XIK[:, :, None] - key_sum_XISK.reshape(-1, 1, chunk, size)
    lag_XITK = jnp.where(earlier_IT[None, :, :, None], lag_XITK, -jnp.inf)
    k_XITK = k_XISK.reshape(-1, 1, chunk, size) * jnp.exp(lag_XITK)
    score_XIRT = jnp.einsum("XIRK,XITK->XIRT", q_XIRK, k_XITK)
    same_IL = jnp.eye(blocks, dtype=dtype)
    within_XIRLS = within_XIRS[:, :, :, None] * same_IL[None, :, None, :, None]
    return (score_XIRT.reshape(within_XIRLS.shape) + within_XIRLS).reshape(*outer_axes, chunk, chunk)


def bounded_scores(
    q_JBHTK: Float[Array, "J B H T K"],
    k_JBHTK: Float[Array, "J B H T K"],
    query_sum_JBHTK: Float[Array, "J B H T K"],
    key_sum_JBHTK: Float[Array, "J B H T K"],
    *,
    fastest: float,
    strict: bool = False,
) -> Float[Array, "J B H T S"]:
    """The same as one product, where no token's log decay is below -`fastest` and a chunk's not below -BOUND.

    Half of the chunk's least log decay is taken from queries and given to keys: either decay may be above 1 and neither
    overflows. Of the sums themselves it could not be taken: what is yet to come would touch the last bits.
    """
    dtype, wide, chunk = q_JBHTK.dtype, key_sum_JBHTK.dtype, q_JBHTK.shape[3]
    half = fastest * chunk / 2
    q_JBHTK = (q_JBHTK.astype(wide) * jnp.exp(query_sum_JBHTK + half)).astype(dtype)
    k_JBHTK = (k_JBHTK.astype(wide) * jnp.exp(-half - key_sum_JBHTK)).astype(dtype)
    past_TS = jnp.tri(chunk, k=-1 if strict else 0, dtype=bool)
    return jnp.where(past_TS[None, None, None], scores(q_JBHTK, k_JBHTK), 0)


def across(
    k_JBGTK: Float[Array, "J B G T K"],
    v_JBHTP: Float[Array, "J B H T P"],
    sum_JBHTK: Float[Array, "J B H T #K"],
    state_BHKP: Float[Array, "B H K P"],
) -> tuple[Float[Array, "J B H K P"], Float[Array, "B H K P"]]:
    """The state before each chunk, and after the last: a loop over chunks of one product and one sum each."""
    dtype = state_BHKP.dtype
    total_JBHK = sum_JBHTK[..., -1, :]
    left_JBHTK = jnp.exp(total_JBHK[..., None, :] - sum_JBHTK)
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
