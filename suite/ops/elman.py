"""The Elman network's implementations: suite/mixers/elman.py has its equation; here is its backward pass.

With dh the gradient that comes back to h_t: d = dh (1 - h^2) and dh_{t-1} = d R^T. The gradient of R is one product of
all tokens, after the loop.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from suite.ops import recurrent

State = tuple[Float[Array, "B K"]]


def _forward(
    x_BK: Float[Array, "B K"], h_BK: Float[Array, "B K"], biases: tuple[Float[Array, "1 K"]], state: State
) -> tuple[State, tuple[Array, ...], tuple[Array, ...]]:
    """The state, which is all that the backward pass needs."""
    del state  # what it does is in R h already
    return (jnp.tanh(x_BK + h_BK + biases[0]),), (), ()


def _backward(
    kept: tuple[Array], from_output_BK: Float[Array, "B K"], state: State, product: Callable[..., Any]
) -> tuple[State, tuple[Array, ...]]:
    (h_BK,), (dh_BK,) = kept, state
    change_BK, dh_BK = product((dh_BK + from_output_BK) * (1 - jnp.square(h_BK)))
    return (dh_BK,), (change_BK,)


GRADIENT = recurrent.Gradient(_forward, _backward, recurrent.of_one_sum, overwritten=0)
IMPLEMENTATIONS = {**recurrent.IMPLEMENTATIONS, "factors": recurrent.layer(recurrent.factors(GRADIENT))}
SAME_CHAIN = {}
over_devices = recurrent.over_devices
