"""Elman network: Elman 1990, "Finding Structure in Time"."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import elman, implementations, initial, precision, recurrent

FAMILY = "elman"


class Mixer(eqx.Module):
    """h_t = tanh(W x_t + R h_{t-1} + b); the output is h.

    R has one block on its diagonal for each of the heads. `remat` computes the insides of chunks again for the
    gradient, for long sequences.
    """

    heads: int = eqx.field(static=True)
    remat: bool = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DN: Float[Array, "D N"]
    recurrent_HKK: Float[Array, "H K K"]
    bias_N: Float[Array, " N"]

    def __init__(
        self, width: int, *, key: PRNGKeyArray, heads: int = 1, remat: bool = False, implementation: str = "auto"
    ):
        recurrent.check_heads(width, heads)
        implementations.check(FAMILY, implementation)
        self.heads, self.remat, self.implementation = heads, remat, implementation
        input_key, recurrent_key = jax.random.split(key)
        self.input_DN = initial.dense(input_key, width, width, width)
        self.recurrent_HKK = initial.orthogonal(recurrent_key, width // heads, heads, 1)
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
        return recurrent.rematerialised(self._extend, x_BTD, h_BN) if self.remat else self._extend(x_BTD, h_BN)

    def step(
        self, x_BD: Float[Array, "B D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B N"]]:
        cell = recurrent.each_head(elman.cell)
        h_HBK = cell(self._project(x_BD[:, None])[:, 0], *self._weights(), recurrent.split(h_BN, self.heads))
        h_BN = recurrent.join(h_HBK)
        return h_BN.astype(x_BD.dtype), h_BN

    def _extend(
        self, x_BTD: Float[Array, "B T D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N"]]:
        h_HBK, implementation = recurrent.split(h_BN, self.heads), self.ran(x_BTD.dtype)
        h_HTBK, h_HBK = elman.loop(self._project(x_BTD), *self._weights(), h_HBK, implementation)
        return recurrent.join_all(h_HTBK), recurrent.join(h_HBK)

    def _project(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "H T B K"]:
        return recurrent.project(x_BTD, recurrent.by_head(self.input_DN, self.heads, 1))

    def _weights(self) -> tuple[Float[Array, "H K K"], Float[Array, "H K"]]:
        return self.recurrent_HKK, self.bias_N.reshape(self.heads, -1)
