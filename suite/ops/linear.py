"""Linear recurrences h_t = a_t h_{t-1} + b_t, elementwise, real.

Each implementation gives all states h_1..h_T from h_0 = `h_BN`, in the dtype of all three arrays: a wide one.
"""

import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from suite import mesh as meshes
from suite.ops import context, recurrent
from suite.ops.kernels import diagonal


def start(batch: int, size: int, dtype: jnp.dtype) -> Float[Array, "B N"]:
    """The state before the first token."""
    return jnp.zeros((batch, size), dtype)


def step(
    decay_BN: Float[Array, "B N"], input_BN: Float[Array, "B N"], h_BN: Float[Array, "B N"]
) -> Float[Array, "B N"]:
    """One token."""
    return decay_BN * h_BN + input_BN


def cut(decay_BTN: Float[Array, "B T N"], starts_BT: Bool[Array, "B T"]) -> Float[Array, "B T N"]:
    """Decays of which those that begin a document leave nothing of the state before."""
    return jnp.where(starts_BT[..., None], 0, decay_BTN)


def sequential(
    decay_BTN: Float[Array, "B T N"], input_BTN: Float[Array, "B T N"], h_BN: Float[Array, "B N"]
) -> Float[Array, "B T N"]:
    """A scan over time."""

    def advance(at: tuple[Array, Array], h_BN: Float[Array, "B N"]) -> tuple[Array, Array]:
        h_BN = step(*at, h_BN)
        return h_BN, h_BN

    return recurrent.over_time(advance, (decay_BTN, input_BTN), h_BN)[0]


def parallel(
    decay_BTN: Float[Array, "B T N"], input_BTN: Float[Array, "B T N"], h_BN: Float[Array, "B N"]
) -> Float[Array, "B T N"]:
    """An associative scan of log2 T depth (Blelloch 1990)."""

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        (left_decay, left_input), (right_decay, right_input) = left, right
        return left_decay * right_decay, right_decay * left_input + right_input

    decay_BTN, input_BTN = jax.lax.associative_scan(combine, (decay_BTN, input_BTN), axis=1)
    return decay_BTN * h_BN[:, None] + input_BTN


def over_devices(run: Callable[..., Array]) -> Callable[..., Array]:
    """An implementation whose channels and whose sequences are split."""
    run = meshes.by_head(run, (2, 2, 1), 2)

    def product(decay_BTN: Float[Array, "B T N"], input_BTN: Float[Array, "B T N"]) -> Float[Array, "B N"]:
        return run(decay_BTN, jnp.zeros_like(input_BTN), jnp.ones_like(decay_BTN[:, 0]))[:, -1]

    passed = context.Passed(product, operator.mul, step)
    return context.affine(run, passed, last=lambda h_BTN: h_BTN[:, -1])


IMPLEMENTATIONS = {"parallel": parallel, "sequential": sequential, "pallas": diagonal.scan}
SAME_CHAIN = {"pallas": "sequential"}
