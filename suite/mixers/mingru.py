"""minGRU: Feng et al. 2024, "Were RNNs All We Needed?"."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import implementations, initial, linear, precision

FAMILY = "linear"


class Mixer(eqx.Module):
    """h_t = (1 - z_t) h_{t-1} + z_t W x_t with z_t = sigmoid(U x_t + b): a GRU whose gates do not see h."""

    implementation: str = eqx.field(static=True)
    input_DG: Float[Array, "D G"]
    bias_N: Float[Array, " N"]

    def __init__(self, width: int, *, key: PRNGKeyArray, implementation: str = "auto"):
        implementations.check(FAMILY, implementation)
        self.implementation = implementation
        self.input_DG = initial.dense(key, width, width, 2 * width)  # order: update, new
        self.bias_N = jnp.zeros(width, jnp.float32)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def ran(self, dtype: jnp.dtype) -> str:
        return implementations.choose(FAMILY, self.implementation, dtype)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> Float[Array, "B N"]:
        del length  # one vector, whatever the context
        return jnp.zeros((batch, self.bias_N.shape[0]), precision.wide(dtype))

    def extend(
        self, x_BTD: Float[Array, "B T D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N"]]:
        decay_BTN, input_BTN = self._gates(x_BTD)
        h_BTN = linear.recurrence(decay_BTN, input_BTN, h_BN, self.ran(x_BTD.dtype))
        return h_BTN.astype(x_BTD.dtype), h_BTN[:, -1]

    def step(
        self, x_BD: Float[Array, "B D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B N"]]:
        decay_BN, input_BN = self._gates(x_BD)
        h_BN = decay_BN * h_BN + input_BN
        return h_BN.astype(x_BD.dtype), h_BN

    def _gates(self, x_D: Float[Array, "... D"]) -> tuple[Float[Array, "... N"], Float[Array, "... N"]]:
        """Decay 1 - z and input z W x, at least float32: near 1, bfloat16 would round a slow decay to none."""
        gates_G = (x_D @ self.input_DG.astype(x_D.dtype)).astype(precision.wide(x_D.dtype))
        update_N, new_N = jnp.split(gates_G, 2, axis=-1)
        update_N = update_N + jnp.broadcast_to(self.bias_N, update_N.shape)
        return jax.nn.sigmoid(-update_N), jax.nn.sigmoid(update_N) * new_N
