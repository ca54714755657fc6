"""minLSTM: Feng et al. 2024, "Were RNNs All We Needed?"."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.mixers import DiagonalRecurrence
from suite.ops import implementations, initial, precision

NAME = "the minLSTM"
FAMILY = "linear"
STATE = "diagonal"


class Mixer(DiagonalRecurrence):
    """h_t = f h_{t-1} + i W x_t with f and i divided by their sum: an LSTM whose gates do not see h."""

    family = FAMILY
    size: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DG: Float[Array, "D G"]
    bias_G: Float[Array, " G"]

    def __init__(self, width: int, *, key: PRNGKeyArray, implementation: str = "auto"):
        implementations.check(FAMILY, implementation)
        self.size, self.implementation = width, implementation
        self.input_DG = initial.dense(key, width, width, 3 * width)  # order: forget, input, new
        # A forget bias of 1 keeps memory open at first, as for the LSTM (Jozefowicz et al. 2015).
        self.bias_G = jnp.zeros(2 * width, jnp.float32).at[:width].set(1.0)

    def gates(self, x_D: Float[Array, "*T D"]) -> tuple[Float[Array, "*T N"], Float[Array, "*T N"], None]:
        """f / (f + i) and i / (f + i) W x, by the difference of logarithms."""
        gates_G = (x_D @ self.input_DG.astype(x_D.dtype)).astype(precision.wide(x_D.dtype))
        forget_N, into_N, new_N = jnp.split(gates_G, 3, axis=-1)
        forget_bias_N, input_bias_N = jnp.split(self.bias_G, 2)
        forget_N = jax.nn.log_sigmoid(forget_N + jnp.broadcast_to(forget_bias_N, forget_N.shape))
        into_N = jax.nn.log_sigmoid(into_N + jnp.broadcast_to(input_bias_N, into_N.shape))
        return jax.nn.sigmoid(forget_N - into_N), jax.nn.sigmoid(into_N - forget_N) * new_N, None

    def output(self, h_N: Float[Array, "*T N"], rest: None) -> Float[Array, "*T N"]:
        return h_N
