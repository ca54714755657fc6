"""minGRU: Feng et al. 2024, "Were RNNs All We Needed?"."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.mixers import DiagonalRecurrence
from suite.ops import implementations, initial, precision

NAME = "the minGRU"
FAMILY = "linear"
STATE = "diagonal"


class Mixer(DiagonalRecurrence):
    """h_t = (1 - z_t) h_{t-1} + z_t W x_t with z_t = sigmoid(U x_t + b): a GRU whose gates do not see h."""

    family = FAMILY
    size: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DG: Float[Array, "D G"]
    bias_N: Float[Array, " N"]

    def __init__(self, width: int, *, key: PRNGKeyArray, implementation: str = "auto"):
        implementations.check(FAMILY, implementation)
        self.size, self.implementation = width, implementation
        self.input_DG = initial.dense(key, width, width, 2 * width)  # order: update, new
        self.bias_N = jnp.zeros(width, jnp.float32)

    def gates(self, x_D: Float[Array, "*T D"]) -> tuple[Float[Array, "*T N"], Float[Array, "*T N"], None]:
        gates_G = (x_D @ self.input_DG.astype(x_D.dtype)).astype(precision.wide(x_D.dtype))
        update_N, new_N = jnp.split(gates_G, 2, axis=-1)
        update_N = update_N + jnp.broadcast_to(self.bias_N, update_N.shape)
        return jax.nn.sigmoid(-update_N), jax.nn.sigmoid(update_N) * new_N, None

    def output(self, h_N: Float[Array, "*T N"], rest: None) -> Float[Array, "*T N"]:
        return h_N
