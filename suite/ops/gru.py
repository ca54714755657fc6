"""The GRU's implementations: suite/mixers/gru.py has its equations, and here is its backward pass by factors.

With dh the gradient that comes back to h_t from later tokens and the output, and a = R_n h_{t-1} + c what the reset
gate r acts on, the changes of the gates before their nonlinearities are

    d_n = dh (1 - z) n',   d_z = dh (h_{t-1} - n) z',   d_r = d_n a r'      where x' is the slope of gate x
    dh_{t-1} = dh z + (d_r, d_z, d_n r) R^T

so all that the backward loop needs is five numbers a channel, which the forward loop has at hand, and one matrix
product. The gradient of R is one product of all tokens, after the loop.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from suite.ops import recurrent

GATES = 3  # order: reset, update, new
State = tuple[Float[Array, "B K"]]


def _forward(
    x_BG: Float[Array, "B G"], h_BG: Float[Array, "B G"], biases: tuple[Array, Array], state: State
) -> tuple[State, tuple[Array, ...], tuple[Array, ...]]:
    """The state; the factors of all gates and that of what is new; the update gate."""
    (bias_1G, reset_bias_1K), (h_BK,) = biases, state
    reset_x_BK, update_x_BK, new_x_BK = jnp.split(x_BG + bias_1G, GATES, axis=-1)
    reset_h_BK, update_h_BK, new_h_BK = jnp.split(h_BG, GATES, axis=-1)
    reset_BK, update_BK = jax.nn.sigmoid(reset_x_BK + reset_h_BK), jax.nn.sigmoid(update_x_BK + update_h_BK)
    inner_BK = new_h_BK + reset_bias_1K  # what the reset gate acts on
    new_BK = jnp.tanh(new_x_BK + reset_BK * inner_BK)
    to_new_BK = (1 - update_BK) * (1 - new_BK * new_BK)
    factors = [
        to_new_BK * inner_BK * reset_BK * (1 - reset_BK),
        (h_BK - new_BK) * update_BK * (1 - update_BK),
        to_new_BK * reset_BK,
    ]
    h_BK = (1 - update_BK) * new_BK + update_BK * h_BK
    return (h_BK,), (jnp.concatenate(factors, axis=-1), to_new_BK), (update_BK,)


def _backward(
    kept: tuple[Array, ...], from_output_BK: Float[Array, "B K"], state: State, product: Callable[..., Any]
) -> tuple[State, tuple[Array, ...]]:
    """Changes of the state, of the product, and of what is new."""
    factor_BG, new_BK, update_BK = kept
    dh_BK = state[0] + from_output_BK
    change_BG, at_h_BK = product(jnp.concatenate([dh_BK] * GATES, axis=-1) * factor_BG)
    return (dh_BK * update_BK + at_h_BK,), (change_BG, dh_BK * new_BK)


def _of_gates(
    change_HTBG: Float[Array, "H T B G"], new_HTBK: Float[Array, "H T B K"]
) -> tuple[Array, Array, tuple[Array, ...]]:
    """The third of the changes has come through the reset gate: it is the product's, and not that of what comes in."""
    size = new_HTBK.shape[-1]
    outside_HTBG = jnp.concatenate([change_HTBG[..., : 2 * size], new_HTBK], axis=-1)
    return outside_HTBG, change_HTBG, (outside_HTBG, change_HTBG[..., 2 * size :])


GRADIENT = recurrent.Gradient(_forward, _backward, _of_gates, overwritten=2)
IMPLEMENTATIONS = {
    **recurrent.IMPLEMENTATIONS,
    "factors": recurrent.layer(recurrent.factors(GRADIENT)),
    "pallas": recurrent.layer(recurrent.pallas(GRADIENT)),
}
SAME_CHAIN = {"pallas": "scan"}
over_devices = recurrent.over_devices
