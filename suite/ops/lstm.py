"""The LSTM's loop: by JAX's own gradient, or with a backward pass whose factors the forward one leaves behind.

With dh and dc the gradients that come back to h_t and c_t from later tokens and the output,

    dc = dc + dh o (1 - tanh^2 c)          the gates' changes, each before its own nonlinearity:
    d = (dc g i', dc c_{t-1} f', dc i g', dh tanh(c) o')          where x' is the slope of gate x
    dc_{t-1} = dc f,   dh_{t-1} = d R^T

so all that the backward loop needs is a product of what it carries with six numbers a channel, which the forward loop
has at hand, and one matrix product. The gradient of R is one product of all tokens, after the loop.

There all nonlinearities are one: sigmoid(x) = (1 + tanh(x / 2)) / 2, so tanh runs over all gates at once, and with
s = 1/2 for the sigmoids and 1 for the cell's gate every slope is s^2 (1 - tanh^2).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from suite import mesh as meshes
from suite.ops import recurrent
from suite.ops.kernels import lstm as kernel
from suite.ops.kernels import persistent

GATES = 4  # order: input, forget, cell, output
State = tuple[Float[Array, "B K"], Float[Array, "B K"]]
States = tuple[Float[Array, "H B K"], Float[Array, "H B K"]]


def loop(
    u_HTBG: Float[Array, "H T B G"],
    recurrent_HKG: Float[Array, "H K G"],
    bias_HG: Float[Array, "H G"],
    state: States,
    implementation: str,
) -> tuple[Float[Array, "H T B K"], States]:
    """Outputs of all tokens in the dtype of their inputs, and the last state (h, c)."""
    if implementation == "scan":
        return recurrent.each_head(functools.partial(_scan, cell))(u_HTBG, recurrent_HKG, bias_HG, state)
    return _by_factors(u_HTBG, recurrent_HKG, bias_HG, state, implementation)


def cell(
    u_BG: Float[Array, "B G"], recurrent_KG: Float[Array, "K G"], bias_G: Float[Array, " G"], state: State
) -> State:
    """One token."""
    h_BK, c_BK = state
    in_BK, forget_BK, new_BK, out_BK = _gates(u_BG, recurrent_KG, bias_G, h_BK)
    c_BK = forget_BK * c_BK + in_BK * new_BK
    return out_BK * jnp.tanh(c_BK), c_BK


def _gates(
    u_BG: Float[Array, "B G"],
    recurrent_KG: Float[Array, "K G"],
    bias_G: Float[Array, " G"],
    h_BK: Float[Array, "B K"],
) -> tuple[Float[Array, "B K"], ...]:
    in_BK, forget_BK, new_BK, out_BK = jnp.split(_sums(u_BG, recurrent_KG, bias_G, h_BK), GATES, axis=-1)
    return jax.nn.sigmoid(in_BK), jax.nn.sigmoid(forget_BK), jnp.tanh(new_BK), jax.nn.sigmoid(out_BK)


def _sums(
    u_BG: Float[Array, "B G"], recurrent_KG: Float[Array, "K G"], bias_G: Float[Array, " G"], h_BK: Float[Array, "B K"]
) -> Float[Array, "B G"]:
    """What all gates are nonlinear functions of."""
    return u_BG.astype(h_BK.dtype) + recurrent.product(h_BK, recurrent_KG, u_BG.dtype) + bias_G[None]


def _scan(
    advance: Callable[..., State],
    u_TBG: Float[Array, "T B G"],
    recurrent_KG: Float[Array, "K G"],
    bias_G: Float[Array, " G"],
    state: State,
) -> tuple[Float[Array, "T B K"], State]:
    def step(state: State, u_BG: Float[Array, "B G"]) -> tuple[State, Float[Array, "B K"]]:
        state = advance(u_BG, recurrent_KG, bias_G, state)
        return state, state[0].astype(u_BG.dtype)

    state, h_TBK = jax.lax.scan(step, state, u_TBG)
    return h_TBK, state


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _by_factors(
    u_HTBG: Float[Array, "H T B G"],
    recurrent_HKG: Float[Array, "H K G"],
    bias_HG: Float[Array, "H G"],
    state: States,
    implementation: str,
) -> tuple[Float[Array, "H T B K"], States]:
    if implementation != "factors":
        return _forward(u_HTBG, recurrent_HKG, bias_HG, state, implementation)[0]
    # Without a gradient nothing need be left behind.
    return recurrent.each_head(functools.partial(_scan, _cell_at_once))(u_HTBG, recurrent_HKG, bias_HG, state)


def _forward(
    u_HTBG: Float[Array, "H T B G"],
    recurrent_HKG: Float[Array, "H K G"],
    bias_HG: Float[Array, "H G"],
    state: States,
    implementation: str,
) -> tuple[tuple[Float[Array, "H T B K"], States], tuple[Array, ...]]:
    match implementation:
        case "pallas":
            run = recurrent.each_head(meshes.sharded(kernel.forward, (1, None, None, 0, 0), (0, 0, 1, 1, 1, 1)))
        case "persistent":
            run = meshes.sharded(persistent.forward, (2, None, None, 1, 1), (1, 1, 2, 2, 2, 2))
        case _:
            run = recurrent.each_head(_forward_loop)
    h_HBK, c_HBK, factor_HTBG, h_HTBK, open_HTBK, forget_HTBK = run(u_HTBG, recurrent_HKG, bias_HG, *state)
    return (h_HTBK, (h_HBK, c_HBK)), (recurrent_HKG, state[0], h_HTBK, factor_HTBG, open_HTBK, forget_HTBK)


def _backward(
    implementation: str, kept: tuple[Array, ...], changes: tuple[Float[Array, "H T B K"], States]
) -> tuple[Float[Array, "H T B G"], Float[Array, "H K G"], Float[Array, "H G"], States]:
    recurrent_HKG, first_HBK, h_HTBK, factor_HTBG, open_HTBK, forget_HTBK = kept
    from_output_HTBK, state = changes
    match implementation:
        case "pallas":
            run = recurrent.each_head(meshes.sharded(kernel.backward, (1, 1, 1, None, 1, 0, 0), (0, 0, 1)))
        case "persistent":
            run = meshes.sharded(persistent.backward, (2, 2, 2, None, 2, 1, 1), (1, 1, 2))
        case _:
            run = recurrent.each_head(_backward_loop)
    dh_HBK, dc_HBK, change_HTBG = run(factor_HTBG, open_HTBK, forget_HTBK, recurrent_HKG, from_output_HTBK, *state)
    return (
        change_HTBG,
        recurrent.each_head(recurrent.weight_gradient)(first_HBK, h_HTBK, change_HTBG),
        jnp.sum(change_HTBG, axis=(1, 2), dtype=first_HBK.dtype),
        (dh_HBK, dc_HBK),
    )


_by_factors.defvjp(_forward, _backward)


def _at_once(
    u_BG: Float[Array, "B G"], recurrent_KG: Float[Array, "K G"], bias_G: Float[Array, " G"], h_BK: Float[Array, "B K"]
) -> tuple[Float[Array, "B G"], tuple[Float[Array, "B K"], ...]]:
    """The slopes of all gates, and the gates."""
    scale_1G = jnp.repeat(jnp.asarray([0.5, 0.5, 1.0, 0.5], h_BK.dtype), h_BK.shape[1])[None]
    tanh_BG = jnp.tanh(scale_1G * _sums(u_BG, recurrent_KG, bias_G, h_BK))
    in_BK, forget_BK, new_BK, out_BK = jnp.split(tanh_BG, GATES, axis=-1)
    gates = 0.5 + 0.5 * in_BK, 0.5 + 0.5 * forget_BK, new_BK, 0.5 + 0.5 * out_BK
    return (1 - tanh_BG * tanh_BG) * (scale_1G * scale_1G), gates


def _cell_at_once(
    u_BG: Float[Array, "B G"], recurrent_KG: Float[Array, "K G"], bias_G: Float[Array, " G"], state: State
) -> State:
    h_BK, c_BK = state
    _, (in_BK, forget_BK, new_BK, out_BK) = _at_once(u_BG, recurrent_KG, bias_G, h_BK)
    c_BK = forget_BK * c_BK + in_BK * new_BK
    return out_BK * jnp.tanh(c_BK), c_BK


def _forward_loop(
    u_TBG: Float[Array, "T B G"],
    recurrent_KG: Float[Array, "K G"],
    bias_G: Float[Array, " G"],
    h_BK: Float[Array, "B K"],
    c_BK: Float[Array, "B K"],
) -> tuple[Array, ...]:
    """Last states h and c; then of every token the factors of its gates, h, what c gets of dh, the forget gate."""
    narrow_TBK = jnp.zeros((*u_TBG.shape[:2], recurrent_KG.shape[0]), u_TBG.dtype)
    # In bfloat16 a forget gate above 1 - 1/512 would be 1, and a product of many of them would not fall.
    wide_TBK = narrow_TBK.astype(h_BK.dtype)

    def step(token: Int[Array, ""], carry: tuple[Array, ...]) -> tuple[Array, ...]:
        h_BK, c_BK, factor_TBG, h_TBK, open_TBK, forget_TBK = carry
        u_BG = recurrent.at(factor_TBG, token)
        slope_BG, (in_BK, forget_BK, new_BK, out_BK) = _at_once(u_BG, recurrent_KG, bias_G, h_BK)
        before_BK, c_BK = c_BK, forget_BK * c_BK + in_BK * new_BK
        tanh_BK = jnp.tanh(c_BK)
        factor_BG = slope_BG * jnp.concatenate([new_BK, before_BK, in_BK, tanh_BK], axis=-1)
        h_BK = out_BK * tanh_BK
        return (
            h_BK,
            c_BK,
            recurrent.put(factor_TBG, factor_BG, token),
            recurrent.put(h_TBK, h_BK, token),
            recurrent.put(open_TBK, out_BK * (1 - tanh_BK * tanh_BK), token),
            recurrent.put(forget_TBK, forget_BK, token),
        )

    carry = (h_BK, c_BK, u_TBG, narrow_TBK, narrow_TBK, wide_TBK)
    return jax.lax.fori_loop(0, u_TBG.shape[0], step, carry)


def _backward_loop(
    factor_TBG: Float[Array, "T B G"],
    open_TBK: Float[Array, "T B K"],
    forget_TBK: Float[Array, "T B K"],
    recurrent_KG: Float[Array, "K G"],
    from_output_TBK: Float[Array, "T B K"],
    dh_BK: Float[Array, "B K"],
    dc_BK: Float[Array, "B K"],
) -> tuple[Array, ...]:
    """Changes of the first h and c; then those of every token's gates."""
    length, dtype, wide = factor_TBG.shape[0], factor_TBG.dtype, dh_BK.dtype
    turned_GK = recurrent_KG.T

    def step(done: Int[Array, ""], carry: tuple[Array, ...]) -> tuple[Array, ...]:
        dh_BK, dc_BK, change_TBG = carry
        at = functools.partial(recurrent.at, token=length - 1 - done)
        dh_BK = dh_BK + at(from_output_TBK).astype(wide)
        dc_BK = dc_BK + dh_BK * at(open_TBK).astype(wide)
        carried_BG = jnp.concatenate([dc_BK, dc_BK, dc_BK, dh_BK], axis=-1)
        change_BG = recurrent.once((carried_BG * at(change_TBG).astype(wide)).astype(dtype))
        change_TBG = recurrent.put(change_TBG, change_BG, length - 1 - done)
        return recurrent.product(change_BG, turned_GK, dtype), dc_BK * at(forget_TBK), change_TBG

    return jax.lax.fori_loop(0, length, step, (dh_BK, dc_BK, factor_TBG))
