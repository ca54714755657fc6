"""GRU: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder".

The reset gate acts after the product, as in cuDNN.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import gru, implementations, initial, precision, recurrent

FAMILY = "gru"


class Mixer(eqx.Module):
    """h_t = (1 - z) n + z h_{t-1} with n = tanh(W x_t + b + r (R h_{t-1} + c)); the output is h.

    R has one block on its diagonal for each of the heads. `remat` computes the insides of chunks again for the
    gradient, for long sequences.
    """

    heads: int = eqx.field(static=True)
    remat: bool = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DG: Float[Array, "D G"]
    recurrent_HKG: Float[Array, "H K G"]
    bias_G: Float[Array, " G"]
    reset_bias_N: Float[Array, " N"]

    def __init__(
        self, width: int, *, key: PRNGKeyArray, heads: int = 1, remat: bool = False, implementation: str = "auto"
    ):
        recurrent.check_heads(width, heads)
        implementations.check(FAMILY, implementation)
        self.heads, self.remat, self.implementation = heads, remat, implementation
        input_key, recurrent_key = jax.random.split(key)
        self.input_DG = initial.dense(input_key, width, width, gru.GATES * width)
        self.recurrent_HKG = initial.orthogonal(recurrent_key, width // heads, heads, gru.GATES)
        self.bias_G = jnp.zeros(gru.GATES * width, jnp.float32)  # order: reset, update, new
        self.reset_bias_N = jnp.zeros(width, jnp.float32)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def ran(self, dtype: jnp.dtype) -> str:
        return implementations.choose(
            FAMILY, self.implementation, dtype, resident=math.prod(self.recurrent_HKG.shape[1:])
        )

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> Float[Array, "B N"]:
        del length  # one vector, whatever the context
        return jnp.zeros((batch, self.reset_bias_N.shape[0]), precision.wide(dtype))

    def extend(
        self, x_BTD: Float[Array, "B T D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N"]]:
        return recurrent.rematerialised(self._extend, x_BTD, h_BN) if self.remat else self._extend(x_BTD, h_BN)

    def step(
        self, x_BD: Float[Array, "B D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B N"]]:
        cell = recurrent.each_head(gru.cell)
        h_HBK = cell(self._project(x_BD[:, None])[:, 0], *self._weights(), recurrent.split(h_BN, self.heads))
        h_BN = recurrent.join(h_HBK)
        return h_BN.astype(x_BD.dtype), h_BN

    def _extend(
        self, x_BTD: Float[Array, "B T D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N"]]:
        h_HBK, implementation = recurrent.split(h_BN, self.heads), self.ran(x_BTD.dtype)
        h_HTBK, h_HBK = gru.loop(self._project(x_BTD), *self._weights(), h_HBK, implementation)
        return recurrent.join_all(h_HTBK), recurrent.join(h_HBK)

    def _project(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "H T B G"]:
        return recurrent.project(x_BTD, recurrent.by_head(self.input_DG, self.heads, gru.GATES))

    def _weights(self) -> tuple[Float[Array, "H K G"], Float[Array, "H G"], Float[Array, "H K"]]:
        bias_HG = recurrent.by_head(self.bias_G, self.heads, gru.GATES)
        return self.recurrent_HKG, bias_HG, self.reset_bias_N.reshape(self.heads, -1)
