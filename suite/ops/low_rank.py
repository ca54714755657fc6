"""Matrix states under a diagonal and a rank of one (RWKV-7; Peng et al. 2025), in chunks as delta rules are."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from suite.ops import delta, implementations, matrix


def chunked(
    r_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHP: Float[Array, "B T H P"],
    removal_BTHK: Float[Array, "B T H K"],
    replacement_BTHK: Float[Array, "B T H K"],
    log_decay_BTHK: Float[Array, "B T H K"],
    state_BHKP: Float[Array, "B H K P"],
    fastest: float = math.inf,
) -> tuple[Float[Array, "B T H P"], Float[Array, "B H K P"]]:
    """S_t = (diag(w_t) - b_t c_t^T) S_{t-1} + k_t v_t^T, read by S_t^T r_t.

    c is the removal key and b the replacement key; no log decay is below -`fastest`, which where it is finite makes
    decays of pairs needless. Returns outputs in the wide dtype and the last state.
    """
    length, dtype = r_BTHK.shape[1], r_BTHK.dtype
    chunk = implementations.chunk("low_rank", length)
    decayed_scores = matrix.decayed_scores
    if chunk * fastest <= matrix.BOUND:
        decayed_scores = functools.partial(matrix.bounded_scores, fastest=fastest)
    to_chunks = functools.partial(matrix.in_chunks, chunk=chunk)
    r_JBHTK, k_JBHTK, v_JBHTP, log_decay_JBHTK = map(to_chunks, (r_BTHK, k_BTHK, v_BTHP, log_decay_BTHK))
    c_JBHTK, b_JBHTK = to_chunks(removal_BTHK), to_chunks(replacement_BTHK)
    parts_JBHTK = matrix.sums(log_decay_JBHTK)
    # A removal acts on the state before its own token's decay.
    before_JBHTK = parts_JBHTK.map(lambda x_JBHTK: jnp.pad(x_JBHTK[..., :-1, :], (*[(0, 0)] * 3, (1, 0), (0, 0))))
    sum_JBHTK = parts_JBHTK.joined()
    # p_t = -S_{t-1}^T c_t is what is written along b_t: (I + L) p = -(c S under its decay) - (what c finds of k v).
    lower_JBHTS = decayed_scores(c_JBHTK, b_JBHTK, before_JBHTK, parts_JBHTK, strict=True)
    read_JBHTS = decayed_scores(c_JBHTK, k_JBHTK, before_JBHTK, parts_JBHTK, strict=True)
    solve_JBHTS = delta.inverse(lower_JBHTS)
    from_c_JBHTK = (c_JBHTK.astype(sum_JBHTK.dtype) * jnp.exp(before_JBHTK.joined())).astype(dtype)
    fresh_JBHTP = matrix.weigh(solve_JBHTS, matrix.weigh(read_JBHTS, v_JBHTP).astype(dtype))
    held_JBHTK = matrix.weigh(solve_JBHTS, from_c_JBHTK).astype(dtype)
    wide = state_BHKP.dtype
    left_JBHTK = jnp.exp(matrix.left(parts_JBHTK))
    left_b_JBHTK, left_k_JBHTK = ((x.astype(wide) * left_JBHTK).astype(dtype) for x in (b_JBHTK, k_JBHTK))

    def pass_on(
        state_BHKP: Float[Array, "B H K P"], at: tuple[Array, ...]
    ) -> tuple[Float[Array, "B H K P"], tuple[Array, Array]]:
        fresh_BHTP, held_BHTK, b_BHTK, k_BHTK, v_BHTP, decay_BHK = at
        taken_BHTP = jnp.einsum("BHTK,BHKP->BHTP", held_BHTK, state_BHKP.astype(dtype), preferred_element_type=wide)
        p_BHTP = (-fresh_BHTP - taken_BHTP).astype(dtype)
        added_BHKP = jnp.einsum("BHTK,BHTP->BHKP", b_BHTK, p_BHTP, preferred_element_type=wide)
        added_BHKP = added_BHKP + jnp.einsum("BHTK,BHTP->BHKP", k_BHTK, v_BHTP, preferred_element_type=wide)
        return decay_BHK[..., None] * state_BHKP + added_BHKP, (p_BHTP, state_BHKP)

    total_JBHK = jnp.exp(sum_JBHTK[..., -1, :])
    inputs = (fresh_JBHTP, held_JBHTK, left_b_JBHTK, left_k_JBHTK, v_JBHTP, total_JBHK)
    state_BHKP, (p_JBHTP, before_JBHKP) = jax.lax.scan(pass_on, state_BHKP, inputs)
    y_JBHTP = matrix.weigh(decayed_scores(r_JBHTK, b_JBHTK, parts_JBHTK, parts_JBHTK), p_JBHTP)
    y_JBHTP = y_JBHTP + matrix.weigh(decayed_scores(r_JBHTK, k_JBHTK, parts_JBHTK, parts_JBHTK), v_JBHTP)
    y_JBHTP = y_JBHTP + matrix.read(r_JBHTK, sum_JBHTK, before_JBHKP)
    return matrix.out_of_chunks(y_JBHTP, length), state_BHKP


def step(
    inputs: tuple[Float[Array, "B H K"], ...], state_BHKP: Float[Array, "B H K P"]
) -> tuple[Float[Array, "B H P"], Float[Array, "B H K P"]]:
    """One token: receptance, key, value, removal key, replacement key and logarithm of the decay."""
    r_BHK, k_BHK, v_BHP, c_BHK, b_BHK, log_decay_BHK = (x.astype(state_BHKP.dtype) for x in inputs)
    held_BHP = jnp.einsum("BHK,BHKP->BHP", c_BHK, state_BHKP)
    decay_BHK = jnp.exp(log_decay_BHK)
    state_BHKP = decay_BHK[..., None] * state_BHKP - matrix.outer(b_BHK, held_BHP) + matrix.outer(k_BHK, v_BHP)
    return jnp.einsum("BHK,BHKP->BHP", r_BHK, state_BHKP), state_BHKP


def cut(inputs: tuple[Array, ...], starts_BT: Bool[Array, "B T"]) -> tuple[Array, ...]:
    """As matrix.cut, without the removal, which acts on the state before the decay. Decays have no bound then."""
    *others, replacement_BTHK, log_decay_BTHK = inputs
    starts_BT11 = starts_BT[..., None, None]
    log_decay_BTHK = jnp.where(starts_BT11, matrix.LEAST, log_decay_BTHK)
    return (*others, jnp.where(starts_BT11, 0, replacement_BTHK), log_decay_BTHK)


def sequential(*arguments: Array | float) -> tuple[Float[Array, "B T H P"], Float[Array, "B H K P"]]:
    """A scan of `step`, whatever the bound of the decays that may be the last argument."""
    return matrix.sequential(step)(*arguments[:7])


def over_devices(run: Callable[..., Any]) -> Callable[..., Any]:
    """An implementation whose heads and whose sequences are split."""

    def of_shard(*arguments: Any) -> Any:
        """Six inputs, the state, and where it is known how fast the fastest decay is."""
        arrays, fastest = arguments[:7], arguments[7:]
        return matrix.by_products(lambda *arrays: run(*arrays, *fastest), inputs=6)(*arrays)

    return of_shard


IMPLEMENTATIONS = {"chunked": chunked, "sequential": sequential}
SAME_CHAIN = {}
start = matrix.start
