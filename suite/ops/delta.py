"""Delta-rule recurrences: what a key held is taken away before its new value is put there (Schlag et al. 2021).

In a chunk the values that are really written depend on each other through a unit lower triangular matrix; its inverse
turns the chunk into products: the WY form of Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule
over Sequence Length".
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from suite.ops import implementations, matrix


def chunked(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHP: Float[Array, "B T H P"],
    beta_BTH: Float[Array, "B T H"],
    log_decay_BTH: Float[Array, "B T H"] | None,
    state_BHKP: Float[Array, "B H K P"],
) -> tuple[Float[Array, "B T H P"], Float[Array, "B H K P"]]:
    """S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, read by S_t^T q_t; keys are unit vectors.

    No logarithms of decays: a is 1. Returns outputs in the wide dtype and the last state.
    """
    log_decay_BTH = jnp.zeros_like(beta_BTH) if log_decay_BTH is None else log_decay_BTH
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
    inputs: tuple[
        Float[Array, "B H K"],
        Float[Array, "B H K"],
        Float[Array, "B H P"],
        Float[Array, "B H"],
        Float[Array, "B H"] | None,
    ],
    state_BHKP: Float[Array, "B H K P"],
) -> tuple[Float[Array, "B H P"], Float[Array, "B H K P"]]:
    """One token: query, key, value, beta and the logarithm of the decay."""
    q_BHK, k_BHK, v_BHP, beta_BH, log_decay_BH = inputs
    q_BHK, k_BHK, v_BHP = (x.astype(state_BHKP.dtype) for x in (q_BHK, k_BHK, v_BHP))
    decay_BH = jnp.ones_like(beta_BH) if log_decay_BH is None else jnp.exp(log_decay_BH)
    state_BHKP = decay_BH[..., None, None] * state_BHKP
    held_BHP = jnp.einsum("BHK,BHKP->BHP", k_BHK, state_BHKP)
    state_BHKP = state_BHKP + matrix.outer(k_BHK, beta_BH[..., None] * (v_BHP - held_BHP))
    return jnp.einsum("BHK,BHKP->BHP", q_BHK, state_BHKP), state_BHKP


def cut(inputs: tuple[Array | None, ...], starts_BT: Bool[Array, "B T"]) -> tuple[Array | None, ...]:
    """As matrix.cut; where there are no decays, all others are 1."""
    *others, beta_BTH, log_decay_BTH = inputs
    assert beta_BTH is not None
    log_decay_BTH = jnp.zeros_like(beta_BTH) if log_decay_BTH is None else log_decay_BTH
    return (*others, beta_BTH, jnp.where(starts_BT[..., None], matrix.LEAST, log_decay_BTH))


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


def over_devices(run: Callable[..., Any]) -> Callable[..., Any]:
    """An implementation whose heads and whose sequences are split."""
    return matrix.by_products(run, inputs=5)


IMPLEMENTATIONS = {"chunked": chunked, "sequential": matrix.sequential(step)}
SAME_CHAIN = {}
start = matrix.start
