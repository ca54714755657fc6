"""The LSTM's implementations: suite/mixers/lstm.py has its equations, and here is its backward pass by factors.

With dh and dc the gradients that come back to h_t and c_t from later tokens and the output,

    dc = dc + dh o (1 - tanh^2 c)          the gates' changes, each before its own nonlinearity:
    d = (dc g i', dc c_{t-1} f', dc i g', dh tanh(c) o')          where x' is the slope of gate x
    dc_{t-1} = dc f,   dh_{t-1} = d R^T

so all that the backward loop needs is a product of what it carries with six numbers a channel, which the forward loop
has at hand, and one matrix product. The gradient of R is one product of all tokens, after the loop.

In the loop all nonlinearities are one: sigmoid(x) = (1 + tanh(x / 2)) / 2, so tanh runs over all gates at once, and
with s = 1/2 for the sigmoids and 1 for the cell's gate every slope is s^2 (1 - tanh^2).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from suite import mesh as meshes
from suite.ops import cudnn, recurrent
from suite.ops.kernels import persistent

GATES = 4  # order: input, forget, cell, output
State = tuple[Float[Array, "B K"], Float[Array, "B K"]]
Kept = tuple[State, tuple[Array, ...], tuple[Array, ...]]


def _at_once(
    x_BG: Float[Array, "B G"], h_BG: Float[Array, "B G"], biases: tuple[Float[Array, "1 G"]], state: State
) -> Kept:
    """The state; the factors of all gates and what c gets of dh; the forget gate."""
    (bias_1G,), (_, before_BK) = biases, state
    scale_1G = jnp.repeat(jnp.asarray([0.5, 0.5, 1.0, 0.5], x_BG.dtype), before_BK.shape[1])[None]
    tanh_BG = jnp.tanh(scale_1G * (x_BG + h_BG + bias_1G))
    slope_BG = (1 - tanh_BG * tanh_BG) * (scale_1G * scale_1G)
    in_BK, forget_BK, new_BK, out_BK = jnp.split(tanh_BG, GATES, axis=-1)
    in_BK, forget_BK, out_BK = 0.5 + 0.5 * in_BK, 0.5 + 0.5 * forget_BK, 0.5 + 0.5 * out_BK
    c_BK = forget_BK * before_BK + in_BK * new_BK
    tanh_BK = jnp.tanh(c_BK)
    factor_BG = slope_BG * jnp.concatenate([new_BK, before_BK, in_BK, tanh_BK], axis=-1)
    return (out_BK * tanh_BK, c_BK), (factor_BG, out_BK * (1 - tanh_BK * tanh_BK)), (forget_BK,)


def _gate_by_gate(
    in_BK: Array, forget_BK: Array, new_BK: Array, out_BK: Array, before_BK: Array
) -> tuple[State, tuple[Array, ...], Array, Array]:
    """The same from the sums of each gate, for kernels, where a vector of scales is not to be had."""
    in_BK, forget_BK, out_BK = jax.nn.sigmoid(in_BK), jax.nn.sigmoid(forget_BK), jax.nn.sigmoid(out_BK)
    new_BK = jnp.tanh(new_BK)
    c_BK = forget_BK * before_BK + in_BK * new_BK
    tanh_BK = jnp.tanh(c_BK)
    factors = (
        new_BK * in_BK * (1 - in_BK),
        before_BK * forget_BK * (1 - forget_BK),
        in_BK * (1 - new_BK * new_BK),
        tanh_BK * out_BK * (1 - out_BK),
    )
    return (out_BK * tanh_BK, c_BK), factors, out_BK * (1 - tanh_BK * tanh_BK), forget_BK


def _in_kernel(
    x_BG: Float[Array, "B G"], h_BG: Float[Array, "B G"], biases: tuple[Float[Array, "1 G"]], state: State
) -> Kept:
    in_BK, forget_BK, new_BK, out_BK = jnp.split(x_BG + h_BG + biases[0], GATES, axis=-1)
    state, factors, open_BK, forget_BK = _gate_by_gate(in_BK, forget_BK, new_BK, out_BK, state[1])
    return state, (jnp.concatenate(factors, axis=-1), open_BK), (forget_BK,)


def _backward(
    kept: tuple[Array, ...], from_output_BK: Float[Array, "B K"], state: State, product: Callable[..., Any]
) -> tuple[State, tuple[Array, ...]]:
    factor_BG, open_BK, forget_BK = kept
    dh_BK, dc_BK = state
    dh_BK = dh_BK + from_output_BK
    dc_BK = dc_BK + dh_BK * open_BK
    change_BG, dh_BK = product(jnp.concatenate([dc_BK, dc_BK, dc_BK, dh_BK], axis=-1) * factor_BG)
    return (dh_BK, dc_BK * forget_BK), (change_BG,)


def _persistent(*arrays: Any) -> Any:
    return meshes.sharded(functools.partial(persistent.forward, _gate_by_gate), (2, None, 1), (1, 2, 2))(*arrays)


def _persistent_backward(*arrays: Any) -> Any:
    return meshes.sharded(persistent.backward, (2, 2, None, 1), (1, 2))(*arrays)


IMPLEMENTATIONS = {
    **recurrent.IMPLEMENTATIONS,
    "factors": recurrent.layer(recurrent.factors(recurrent.Gradient(_at_once, _backward, recurrent.of_one_sum, 1))),
    "pallas": recurrent.layer(recurrent.pallas(recurrent.Gradient(_in_kernel, _backward, recurrent.of_one_sum, 1))),
    "persistent": recurrent.layer(recurrent.kernels(_persistent, _persistent_backward, recurrent.of_one_sum)),
    "cudnn": cudnn.lstm,
}
SAME_CHAIN = {"cudnn": "scan", "pallas": "scan", "persistent": "scan"}
over_devices = recurrent.over_devices
