"""Delta-rule recurrences: what a key held is taken away before its new value is put there (Schlag et al. 2021).

In a chunk the values that are really written depend on each other through a unit lower triangular matrix; its inverse
turns the chunk into products: the WY form of Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule
over Sequence Length".
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from suite.ops import implementations, matrix


def recurrence(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHP: Float[Array, "B T H P"],
    beta_BTH: Float[Array, "B T H"],
    log_decay_BTH: Float[Array, "B T H"],
    state_BHKP: Float[Array, "B H K P"],
    implementation: str,
) -> tuple[Float[Array, "B T H P"], Float[Array, "B H K P"]]:
    """S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, read by S_t^T q_t; keys are unit vectors.

    Returns outputs in the wide dtype and the last state.
    """
    if implementation == "sequential":
        return matrix.scan(step, (q_BTHK, k_BTHK, v_BTHP, beta_BTH, jnp.exp(log_decay_BTH)), state_BHKP)
    length, dtype = q_BTHK.shape[1], q_BTHK.dtype
    to_chunks = functools.partial(matrix.in_chunks, chunk=implementations.chunk("delta", length))
    q_JBHTK, k_JBHTK, v_JBHTP = to_chunks(q_BTHK), to_chunks(k_BTHK), to_chunks(v_BTHP)
    beta_JBHT1, log_decay_JBHT1 = to_chunks(beta_BTH[..., None]), to_chunks(log_decay_BTH[..., None])
    parts_JBHT1 = matrix.sums(log_decay_JBHT1)
    parts_JBHT, sum_JBHT1 = parts_JBHT1.map(lambda x_JBHT1: x_JBHT1[..., 0]), parts_JBHT1.joined()
    # u_t = beta_t (v_t - what the state before it holds at k_t): (I + L) u = beta (v - exp(sum) k S), L strictly lower.
    lower_JBHTS = beta_JBHT1 * matrix.scores(k_JBHTK, k_JBHTK) * matrix.decays(parts_JBHT, strict=True)
    solve_JBHTS = inverse(lower_JBHTS)
    wide = state_BHKP.dtype
    v_JBHTP = (beta_JBHT1 * v_JBHTP.astype(wide)).astype(dtype)
    from_k_JBHTK = (beta_JBHT1 * jnp.exp(sum_JBHT1) * k_JBHTK.astype(wide)).astype(dtype)
    fresh_JBHTP = matrix.weigh(solve_JBHTS, v_JBHTP)
    held_JBHTK = matrix.weigh(solve_JBHTS, from_k_JBHTK).astype(dtype)
    left_JBHTK = (k_JBHTK.astype(wide) * jnp.exp(matrix.left(parts_JBHT1))).astype(dtype)

    def pass_on(
        state_BHKP: Float[Array, "B H K P"], at: tuple[Array, Array, Array, Array]
    ) -> tuple[Float[Array, "B H K P"], tuple[Array, Array]]:
        fresh_BHTP, held_BHTK, left_BHTK, decay_BH = at
        taken_BHTP = jnp.einsum("BHTK,BHKP->BHTP", held_BHTK, state_BHKP.astype(dtype), preferred_element_type=wide)
        u_BHTP = (fresh_BHTP - taken_BHTP).astype(dtype)
        added_BHKP = jnp.einsum("BHTK,BHTP->BHKP", left_BHTK, u_BHTP, preferred_element_type=wide)
        return decay_BH[..., None, None] * state_BHKP + added_BHKP, (u_BHTP, state_BHKP)

    inputs = (fresh_JBHTP, held_JBHTK, left_JBHTK, jnp.exp(sum_JBHT1[..., -1, 0]))
    state_BHKP, (u_JBHTP, before_JBHKP) = jax.lax.scan(pass_on, state_BHKP, inputs)
    score_JBHTS = matrix.scores(q_JBHTK, k_JBHTK) * matrix.decays(parts_JBHT)
    y_JBHTP = matrix.weigh(score_JBHTS, u_JBHTP) + matrix.read(q_JBHTK, sum_JBHT1, before_JBHKP)
    return matrix.out_of_chunks(y_JBHTP, length), state_BHKP


def step(
    at: tuple[
        Float[Array, "B H K"], Float[Array, "B H K"], Float[Array, "B H P"], Float[Array, "B H"], Float[Array, "B H"]
    ],
    state_BHKP: Float[Array, "B H K P"],
) -> tuple[Float[Array, "B H P"], Float[Array, "B H K P"]]:
    """One token: query, key, value, beta and decay (not its logarithm)."""
    q_BHK, k_BHK, v_BHP, beta_BH, decay_BH = at
    q_BHK, k_BHK, v_BHP = (x.astype(state_BHKP.dtype) for x in (q_BHK, k_BHK, v_BHP))
    state_BHKP = decay_BH[..., None, None] * state_BHKP
    held_BHP = jnp.einsum("BHK,BHKP->BHP", k_BHK, state_BHKP)
    state_BHKP = state_BHKP + matrix.outer(k_BHK, beta_BH[..., None] * (v_BHP - held_BHP))
    return jnp.einsum("BHK,BHKP->BHP", q_BHK, state_BHKP), state_BHKP


def low_rank(
    r_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHP: Float[Array, "B T H P"],
    removal_BTHK: Float[Array, "B T H K"],
    replacement_BTHK: Float[Array, "B T H K"],
    log_decay_BTHK: Float[Array, "B T H K"],
    state_BHKP: Float[Array, "B H K P"],
    implementation: str,
    fastest: float = math.inf,
) -> tuple[Float[Array, "B T H P"], Float[Array, "B H K P"]]:
    """S_t = (diag(w_t) - b_t c_t^T) S_{t-1} + k_t v_t^T, read by S_t^T r_t: a diagonal and a rank of one (RWKV-7).

    c is the removal key and b the replacement key; no log decay is below -`fastest`, which where it is finite makes
    decays of pairs needless. Returns outputs in the wide dtype and the last state.
    """
    if implementation == "sequential":
        inputs = (r_BTHK, k_BTHK, v_BTHP, removal_BTHK, replacement_BTHK, jnp.exp(log_decay_BTHK))
        return matrix.scan(low_rank_step, inputs, state_BHKP)
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
    found_JBHTS = decayed_scores(c_JBHTK, k_JBHTK, before_JBHTK, parts_JBHTK, strict=True)
    solve_JBHTS = inverse(lower_JBHTS)
    from_c_JBHTK = (c_JBHTK.astype(sum_JBHTK.dtype) * jnp.exp(before_JBHTK.joined())).astype(dtype)
    fresh_JBHTP = matrix.weigh(solve_JBHTS, matrix.weigh(found_JBHTS, v_JBHTP).astype(dtype))
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


def low_rank_step(
    at: tuple[Float[Array, "B H K"], ...], state_BHKP: Float[Array, "B H K P"]
) -> tuple[Float[Array, "B H P"], Float[Array, "B H K P"]]:
    """One token: receptance, key, value, removal key, replacement key and decay (not its logarithm)."""
    r_BHK, k_BHK, v_BHP, c_BHK, b_BHK, decay_BHK = (x.astype(state_BHKP.dtype) for x in at)
    held_BHP = jnp.einsum("BHK,BHKP->BHP", c_BHK, state_BHKP)
    state_BHKP = decay_BHK[..., None] * state_BHKP - matrix.outer(b_BHK, held_BHP) + matrix.outer(k_BHK, v_BHP)
    return jnp.einsum("BHK,BHKP->BHP", r_BHK, state_BHKP), state_BHKP


@jax.custom_jvp
def inverse(lower_TS: Float[Array, "*J T S"]) -> Float[Array, "*J T S"]:
    """(I + L)^-1 for a strictly lower triangular L whose size is a power of two.

    By doubling: two inverted blocks on the diagonal and what lies between them give the inverse of twice the size, so
    log2 T steps of products, and no sum of large powers of L that would cancel. The derivative is that of any inverse,
    two products: through the doubling it took 4 times as long on a CPU.
    """
    *outer, size, _ = lower_TS.shape
    inverse_XRS = jnp.ones((*outer, size, 1, 1), lower_TS.dtype)
    block = 1
    while block < size:
        pairs = size // (2 * block)
        # Off-diagonal block of each pair: its second half of rows, its first half of columns.
        tiles = lower_TS.reshape(*outer, pairs, 2, block, pairs, 2, block)
        between_XRS = jnp.stack([tiles[..., pair, 1, :, pair, 0, :] for pair in range(pairs)], axis=-3)
        first_XRS, second_XRS = inverse_XRS[..., 0::2, :, :], inverse_XRS[..., 1::2, :, :]
        below_XRS = -second_XRS @ between_XRS @ first_XRS
        top_XRS = jnp.concatenate([first_XRS, jnp.zeros_like(first_XRS)], axis=-1)
        inverse_XRS = jnp.concatenate([top_XRS, jnp.concatenate([below_XRS, second_XRS], axis=-1)], axis=-2)
        block *= 2
    return inverse_XRS[..., 0, :, :]


@inverse.defjvp
def _inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverse_TS = inverse(*primals)
    return inverse_TS, -(inverse_TS @ tangents[0] @ inverse_TS)
