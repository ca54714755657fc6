"""Linear recurrences h_t = a_t h_{t-1} + b_t, elementwise, real or complex, behind one door."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from suite.ops.kernels import diagonal


def recurrence(
    decay_BTN: Float[Array, "B T N"],
    input_BTN: Float[Array, "B T N"],
    h_BN: Float[Array, "B N"],
    implementation: str,
) -> Float[Array, "B T N"]:
    """All states h_1..h_T of the recurrence from h_0 = `h_BN`, in the dtype of all three: a wide one.

    `sequential` is a scan over time; `parallel` an associative scan of log2 T depth (Blelloch 1990); `pallas` a kernel.
    """
    if implementation == "sequential":
        return _sequential(decay_BTN, input_BTN, h_BN)
    if implementation == "pallas":
        return diagonal.scan(decay_BTN, input_BTN, h_BN)
    return _parallel(decay_BTN, input_BTN, h_BN)


def _sequential(
    decay_BTN: Float[Array, "B T N"], input_BTN: Float[Array, "B T N"], h_BN: Float[Array, "B N"]
) -> Float[Array, "B T N"]:
    def step(h_BN: Float[Array, "B N"], at: tuple[Array, Array]) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
        decay_BN, input_BN = at
        h_BN = decay_BN * h_BN + input_BN
        return h_BN, h_BN

    _, h_TBN = jax.lax.scan(step, h_BN, (jnp.swapaxes(decay_BTN, 0, 1), jnp.swapaxes(input_BTN, 0, 1)))
    return jnp.swapaxes(h_TBN, 0, 1)


def _parallel(
    decay_BTN: Float[Array, "B T N"], input_BTN: Float[Array, "B T N"], h_BN: Float[Array, "B N"]
) -> Float[Array, "B T N"]:
    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        (left_decay, left_input), (right_decay, right_input) = left, right
        return left_decay * right_decay, right_decay * left_input + right_input

    decay_BTN, input_BTN = jax.lax.associative_scan(combine, (decay_BTN, input_BTN), axis=1)
    return decay_BTN * h_BN[:, None] + input_BTN


Complex = tuple[Float[Array, "..."], Float[Array, "..."]]  # real and imaginary part


def complex_recurrence(decay_N: Complex, input_BTN: Complex, h_BN: Complex, implementation: str) -> Complex:
    """All states h_1..h_T of h_t = a h_{t-1} + b_t for a complex `a` that does not change, as two real arrays."""
    if implementation == "sequential":

        def step(h_BN: Complex, input_BN: Complex) -> tuple[Complex, Complex]:
            h_BN = complex_step(decay_N, input_BN, h_BN)
            return h_BN, h_BN

        input_TBN = jax.tree.map(lambda x_BTN: jnp.swapaxes(x_BTN, 0, 1), input_BTN)
        _, h_TBN = jax.lax.scan(step, h_BN, input_TBN)
        return jax.tree.map(lambda x_TBN: jnp.swapaxes(x_TBN, 0, 1), h_TBN)

    def combine(left: tuple[Complex, Complex], right: tuple[Complex, Complex]) -> tuple[Complex, Complex]:
        (left_decay, left_input), (right_decay, right_input) = left, right
        carried = _multiply(right_decay, left_input)
        return _multiply(left_decay, right_decay), (carried[0] + right_input[0], carried[1] + right_input[1])

    decay_BTN = jax.tree.map(lambda x_N: jnp.broadcast_to(x_N, input_BTN[0].shape), decay_N)
    power_BTN, inner_BTN = jax.lax.associative_scan(combine, (decay_BTN, input_BTN), axis=1)
    outer_BTN = _multiply(power_BTN, jax.tree.map(lambda x_BN: x_BN[:, None], h_BN))
    return inner_BTN[0] + outer_BTN[0], inner_BTN[1] + outer_BTN[1]


def complex_step(decay_N: Complex, input_BN: Complex, h_BN: Complex) -> Complex:
    """a h + b."""
    decay_BN = jax.tree.map(lambda x_N: jnp.broadcast_to(x_N, h_BN[0].shape), decay_N)
    real_BN, imaginary_BN = _multiply(decay_BN, h_BN)
    return real_BN + input_BN[0], imaginary_BN + input_BN[1]


def _multiply(left: Complex, right: Complex) -> Complex:
    return left[0] * right[0] - left[1] * right[1], left[0] * right[1] + left[1] * right[0]
