"""Linear recurrences h_t = a h_{t-1} + b_t of complex numbers, which are carried as two real arrays.

The decay does not change, but for documents that begin, where it is 0. Implementations as in suite/ops/linear.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from suite import mesh as meshes
from suite.ops import context, recurrent

Complex = tuple[Float[Array, "..."], Float[Array, "..."]]  # real and imaginary part


def start(batch: int, size: int, dtype: jnp.dtype) -> Complex:
    """The state before the first token."""
    zero_BN = jnp.zeros((batch, size), dtype)
    return zero_BN, zero_BN


def step(decay_N: Complex, input_BN: Complex, h_BN: Complex) -> Complex:
    """One token."""
    decay_BN = jax.tree.map(lambda x_N: jnp.broadcast_to(x_N, h_BN[0].shape), decay_N)
    real_BN, imaginary_BN = _multiply(decay_BN, h_BN)
    return real_BN + input_BN[0], imaginary_BN + input_BN[1]


def cut(decay_N: Complex, starts_BT: Bool[Array, "B T"]) -> Complex:
    """Decays of all tokens, of which those that begin a document leave nothing of the state before."""
    return jax.tree.map(lambda x_N: jnp.where(starts_BT[..., None], 0, x_N[None, None]), decay_N)


def sequential(decay_N: Complex, input_BTN: Complex, h_BN: Complex) -> Complex:
    """A scan over time."""

    def advance(input_BN: Complex, h_BN: Complex) -> tuple[Complex, Complex]:
        h_BN = step(decay_N, input_BN, h_BN)
        return h_BN, h_BN

    def advance_by(at: tuple[Complex, Complex], h_BN: Complex) -> tuple[Complex, Complex]:
        h_BN = step(*at, h_BN)
        return h_BN, h_BN

    if decay_N[0].ndim == 1:
        return recurrent.over_time(advance, input_BTN, h_BN)[0]
    return recurrent.over_time(advance_by, (decay_N, input_BTN), h_BN)[0]


def parallel(decay_N: Complex, input_BTN: Complex, h_BN: Complex) -> Complex:
    def combine(left: tuple[Complex, Complex], right: tuple[Complex, Complex]) -> tuple[Complex, Complex]:
        (left_decay, left_input), (right_decay, right_input) = left, right
        carried = _multiply(right_decay, left_input)
        return _multiply(left_decay, right_decay), (carried[0] + right_input[0], carried[1] + right_input[1])

    decay_BTN = jax.tree.map(lambda x_N: jnp.broadcast_to(x_N, input_BTN[0].shape), decay_N)
    power_BTN, inner_BTN = jax.lax.associative_scan(combine, (decay_BTN, input_BTN), axis=1)
    outer_BTN = _multiply(power_BTN, jax.tree.map(lambda x_BN: x_BN[:, None], h_BN))
    return inner_BTN[0] + outer_BTN[0], inner_BTN[1] + outer_BTN[1]


def over_devices(run: Callable[..., Complex]) -> Callable[..., Complex]:
    """An implementation whose channels and whose sequences are split."""

    def by_head(decay_N: Complex, input_BTN: Complex, h_BN: Complex) -> Complex:
        return meshes.by_head(run, (decay_N[0].ndim - 1, 2, 1), 2)(decay_N, input_BTN, h_BN)

    def last(h_BTN: Complex) -> Complex:
        return h_BTN[0][:, -1], h_BTN[1][:, -1]

    def power(decay_N: Complex, input_BTN: Complex) -> Complex:
        zero_BTN = jnp.zeros_like(input_BTN[0])
        return last(by_head(decay_N, (zero_BTN, zero_BTN), (jnp.ones_like(zero_BTN[:, 0]), zero_BTN[:, 0])))

    return context.affine(by_head, context.Passed(power, _multiply, step), last=last)


def _multiply(left: Complex, right: Complex) -> Complex:
    return left[0] * right[0] - left[1] * right[1], left[0] * right[1] + left[1] * right[0]


IMPLEMENTATIONS = {"parallel": parallel, "sequential": sequential}
SAME_CHAIN = {}
