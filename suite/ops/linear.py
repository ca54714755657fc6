"""Linear recurrences h_t = a_t h_{t-1} + b_t, elementwise, behind one door."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def recurrence(
    decay_BTN: Float[Array, "B T N"],
    input_BTN: Float[Array, "B T N"],
    h_BN: Float[Array, "B N"],
    form: str,
) -> Float[Array, "B T N"]:
    """All states h_1..h_T of the recurrence from h_0 = `h_BN`, in the dtype of all three: a wide one.

    `sequential` is a scan over time; `parallel` an associative scan of log2 T depth (Blelloch 1990).
    """
    if form == "sequential":
        return _sequential(decay_BTN, input_BTN, h_BN)
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
