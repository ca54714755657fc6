"""GRU: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder".

The reset gate acts after the product, as in cuDNN.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import initial, precision, recurrent


class Mixer(eqx.Module):
    """h_t = (1 - z) n + z h_{t-1} with n = tanh(W x_t + b + r (R h_{t-1} + c)); the output is h."""

    input_DG: Float[Array, "D G"]
    recurrent_NG: Float[Array, "N G"]
    bias_G: Float[Array, " G"]
    reset_bias_N: Float[Array, " N"]

    def __init__(self, width: int, *, key: PRNGKeyArray):
        input_key, recurrent_key = jax.random.split(key)
        self.input_DG = initial.dense(input_key, width, width, 3 * width)
        self.recurrent_NG = initial.orthogonal(recurrent_key, width, 3)
        self.bias_G = jnp.zeros(3 * width, jnp.float32)  # order: reset, update, new
        self.reset_bias_N = jnp.zeros(width, jnp.float32)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> Float[Array, "B N"]:
        del length  # one vector, whatever the context
        return jnp.zeros((batch, self.recurrent_NG.shape[0]), precision.wide(dtype))

    def extend(
        self, x_BTD: Float[Array, "B T D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N"]]:
        dtype = x_BTD.dtype

        def cell(
            input_BG: Float[Array, "B G"], h_BN: Float[Array, "B N"]
        ) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
            at_x_BG = input_BG.astype(h_BN.dtype) + self.bias_G[None]
            at_h_BG = recurrent.product(h_BN, self.recurrent_NG, dtype)
            reset_x_BN, update_x_BN, new_x_BN = jnp.split(at_x_BG, 3, axis=-1)
            reset_h_BN, update_h_BN, new_h_BN = jnp.split(at_h_BG, 3, axis=-1)
            reset_BN = jax.nn.sigmoid(reset_x_BN + reset_h_BN)
            update_BN = jax.nn.sigmoid(update_x_BN + update_h_BN)
            new_BN = jnp.tanh(new_x_BN + reset_BN * (new_h_BN + self.reset_bias_N[None]))
            h_BN = (1 - update_BN) * new_BN + update_BN * h_BN
            return h_BN.astype(dtype), h_BN

        return recurrent.scan(cell, x_BTD @ self.input_DG.astype(dtype), h_BN)

    def step(
        self, x_BD: Float[Array, "B D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B N"]]:
        y_BTD, h_BN = self.extend(x_BD[:, None], h_BN)
        return y_BTD[:, 0], h_BN
