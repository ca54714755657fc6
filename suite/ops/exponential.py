"""Exponential gates (Beck et al. 2024): a matrix state under input gates exp(i), kept in range by a running maximum."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from suite import mesh as meshes
from suite.ops import context, implementations, matrix

# Memory, normaliser, and the logarithm of the scale that both are divided by.
State = tuple[Float[Array, "B H K P"], Float[Array, "B H K"], Float[Array, "B H"]]


def chunked(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHP: Float[Array, "B T H P"],
    log_input_BTH: Float[Array, "B T H"],
    log_forget_BTH: Float[Array, "B T H"],
    state: State,
) -> tuple[Float[Array, "B T H P"], State]:
    """C_t = f_t C_{t-1} + i_t k_t v_t^T, n_t = f_t n_{t-1} + i_t k_t, y_t = C_t^T q_t / max(abs(n_t^T q_t), 1).

    Memory and normaliser are stored divided by exp(m_t), m_t = max(log f_t + m_{t-1}, log i_t): y does not depend on m,
    which is why no gradient goes through it. Outputs in the wide dtype.
    """
    memory_BHKP, normaliser_BHK, scale_BH = state
    length, dtype = q_BTHK.shape[1], q_BTHK.dtype
    chunk = implementations.chunk("scalar", length)
    # The normaliser is one more column of the memory, whose value is always 1.
    v_BTHP = jnp.concatenate([v_BTHP, jnp.ones((*v_BTHP.shape[:3], 1), dtype)], axis=-1)
    state_BHKP = jnp.concatenate([memory_BHKP, normaliser_BHK[..., None]], axis=-1)
    q_JBHTK, k_JBHTK, v_JBHTP = (matrix.in_chunks(x, chunk) for x in (q_BTHK, k_BTHK, v_BTHP))
    log_input_JBHT = matrix.in_chunks(log_input_BTH[..., None], chunk, fill=-jnp.inf)[..., 0]
    parts_JBHT = matrix.sums(matrix.in_chunks(log_forget_BTH[..., None], chunk)).map(lambda x_JBHT1: x_JBHT1[..., 0])
    sum_JBHT = parts_JBHT.joined()

    past_TS = jnp.tri(chunk, dtype=bool)
    weight_JBHTS = matrix.pairs(parts_JBHT) + log_input_JBHT[..., None, :]
    weight_JBHTS = jnp.where(past_TS[None, None, None], weight_JBHTS, -jnp.inf)
    largest_JBHT = jax.lax.stop_gradient(jnp.max(weight_JBHTS, axis=-1))
    left_JBHT = weight_JBHTS[..., -1, :]  # the last row: what each token leaves for the next chunk

    def pass_on(carry: tuple[Array, Array], at: tuple[Array, ...]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        state_BHKP, scale_BH = carry
        k_BHTK, v_BHTP, left_BHT, total_BH, largest_BH = at
        new_BH = jax.lax.stop_gradient(jnp.maximum(total_BH + scale_BH, largest_BH))
        k_BHTK = k_BHTK * jnp.exp(left_BHT - new_BH[..., None])[..., None].astype(dtype)
        added_BHKP = jnp.einsum("BHTK,BHTP->BHKP", k_BHTK, v_BHTP, preferred_element_type=state_BHKP.dtype)
        return (
            (jnp.exp(total_BH + scale_BH - new_BH)[..., None, None] * state_BHKP + added_BHKP, new_BH),
            (state_BHKP, scale_BH),
        )

    inputs = (k_JBHTK, v_JBHTP, left_JBHT, sum_JBHT[..., -1], largest_JBHT[..., -1])
    (state_BHKP, scale_BH), (before_JBHKP, before_JBH) = jax.lax.scan(pass_on, (state_BHKP, scale_BH), inputs)
    carried_JBHT = sum_JBHT + before_JBH[..., None]
    scale_JBHT = jax.lax.stop_gradient(jnp.maximum(carried_JBHT, largest_JBHT))
    score_JBHTS = matrix.scores(q_JBHTK, k_JBHTK) * jnp.exp(weight_JBHTS - scale_JBHT[..., None])
    y_JBHTP = matrix.weigh(score_JBHTS, v_JBHTP)
    y_JBHTP = y_JBHTP + matrix.read(q_JBHTK, (carried_JBHT - scale_JBHT)[..., None], before_JBHKP)
    y_JBHTP = _divide(y_JBHTP[..., :-1], y_JBHTP[..., -1], scale_JBHT)
    return matrix.out_of_chunks(y_JBHTP, length), (state_BHKP[..., :-1], state_BHKP[..., -1], scale_BH)


def start(batch: int, heads: int, keys: int, values: int, dtype: jnp.dtype) -> State:
    """The state before the first token."""
    memory_BHKP = matrix.start(batch, heads, keys, values, dtype)
    return memory_BHKP, memory_BHKP[..., 0], jnp.full_like(memory_BHKP[..., 0, 0], -jnp.inf)


def step(
    inputs: tuple[
        Float[Array, "B H K"], Float[Array, "B H K"], Float[Array, "B H P"], Float[Array, "B H"], Float[Array, "B H"]
    ],
    state: State,
) -> tuple[Float[Array, "B H P"], State]:
    """One token: query, key, value and the logarithms of the input and forget gates."""
    q_BHK, k_BHK, v_BHP, log_input_BH, log_forget_BH = inputs
    memory_BHKP, normaliser_BHK, scale_BH = state
    q_BHK, k_BHK, v_BHP = (x.astype(memory_BHKP.dtype) for x in (q_BHK, k_BHK, v_BHP))
    new_BH = jax.lax.stop_gradient(jnp.maximum(log_forget_BH + scale_BH, log_input_BH))
    forget_BH, input_BH = jnp.exp(log_forget_BH + scale_BH - new_BH), jnp.exp(log_input_BH - new_BH)
    k_BHK = input_BH[..., None] * k_BHK
    memory_BHKP = forget_BH[..., None, None] * memory_BHKP + matrix.outer(k_BHK, v_BHP)
    normaliser_BHK = forget_BH[..., None] * normaliser_BHK + k_BHK
    y_BHP = jnp.einsum("BHK,BHKP->BHP", q_BHK, memory_BHKP)
    y_BHP = _divide(y_BHP, jnp.einsum("BHK,BHK->BH", q_BHK, normaliser_BHK), new_BH)
    return y_BHP, (memory_BHKP, normaliser_BHK, new_BH)


def cut(inputs: tuple[Array, ...], starts_BT: Bool[Array, "B T"]) -> tuple[Array, ...]:
    """Inputs whose forget gates, the last of them, leave nothing of the state before a token that begins a document."""
    *others, log_forget_BTH = inputs
    return (*others, jnp.where(starts_BT[..., None], matrix.LEAST, log_forget_BTH))


def over_devices(run: Callable[..., Any]) -> Callable[..., Any]:
    """An implementation whose heads and whose sequences are split."""

    def total(q_BTHK: Array, k_BTHK: Array, v_BTHP: Array, log_input_BTH: Array, log_forget_BTH: Array) -> Array:
        return jnp.sum(log_forget_BTH, axis=1)

    def carry(total_BH: Float[Array, "B H"], end: State, state: State) -> State:
        (end_BHKP, end_BHK, end_BH), (memory_BHKP, normaliser_BHK, scale_BH) = end, state
        new_BH = jax.lax.stop_gradient(jnp.maximum(total_BH + scale_BH, end_BH))
        kept_BH, added_BH = jnp.exp(total_BH + scale_BH - new_BH), jnp.exp(end_BH - new_BH)
        memory_BHKP = kept_BH[..., None, None] * memory_BHKP + added_BH[..., None, None] * end_BHKP
        return memory_BHKP, kept_BH[..., None] * normaliser_BHK + added_BH[..., None] * end_BHK, new_BH

    passed = context.Passed(total, operator.add, carry)
    return context.affine(meshes.by_head(run, (*[2] * 5, 1), (2, 1)), passed)


def _divide(
    y_P: Float[Array, "*T P"], normaliser: Float[Array, "*T"], scale: Float[Array, "*T"]
) -> Float[Array, "*T P"]:
    """By max(abs(n), 1), where n and y are stored divided by exp(scale)."""
    return y_P / jnp.maximum(jnp.abs(normaliser), jnp.exp(-scale))[..., None]


IMPLEMENTATIONS = {"chunked": chunked, "sequential": matrix.sequential(step)}
SAME_CHAIN = {}
