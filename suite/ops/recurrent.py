"""Nonlinear recurrences: a cell scanned over time, its input projection taken out of the loop."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from suite.ops import precision

Cell = Callable[[Float[Array, "B F"], PyTree], tuple[Float[Array, "B N"], PyTree]]


def scan(cell: Cell, input_BTF: Float[Array, "B T F"], state: PyTree) -> tuple[Float[Array, "B T N"], PyTree]:
    """Runs `cell(input_BF, state) -> h_BN, state` over the time axis."""

    def step(state: PyTree, input_BF: Float[Array, "B F"]) -> tuple[PyTree, Float[Array, "B N"]]:
        h_BN, state = cell(input_BF, state)
        return state, h_BN

    state, h_TBN = jax.lax.scan(step, state, jnp.swapaxes(input_BTF, 0, 1))
    return jnp.swapaxes(h_TBN, 0, 1), state


def product(h_BN: Float[Array, "B N"], weight_NG: Float[Array, "N G"], dtype: jnp.dtype) -> Float[Array, "B G"]:
    """The recurrent product: factors in the compute dtype, wide sums."""
    return jnp.matmul(h_BN.astype(dtype), weight_NG.astype(dtype), preferred_element_type=precision.wide(dtype))
