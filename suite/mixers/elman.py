"""Elman network: Elman 1990, "Finding Structure in Time"."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import initial, precision, recurrent


class Mixer(eqx.Module):
    """h_t = tanh(W x_t + R h_{t-1} + b); the output is h."""

    input_DN: Float[Array, "D N"]
    recurrent_NN: Float[Array, "N N"]
    bias_N: Float[Array, " N"]

    def __init__(self, width: int, *, key: PRNGKeyArray):
        input_key, recurrent_key = jax.random.split(key)
        self.input_DN = initial.dense(input_key, width, width, width)
        self.recurrent_NN = initial.orthogonal(recurrent_key, width, 1)
        self.bias_N = jnp.zeros(width, jnp.float32)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> Float[Array, "B N"]:
        del length  # one vector, whatever the context
        return jnp.zeros((batch, self.bias_N.shape[0]), precision.wide(dtype))

    def extend(
        self, x_BTD: Float[Array, "B T D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N"]]:
        dtype = x_BTD.dtype

        def cell(
            input_BN: Float[Array, "B N"], h_BN: Float[Array, "B N"]
        ) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
            recurrent_BN = recurrent.product(h_BN, self.recurrent_NN, dtype)
            h_BN = jnp.tanh(input_BN.astype(h_BN.dtype) + recurrent_BN + self.bias_N[None])
            return h_BN.astype(dtype), h_BN

        return recurrent.scan(cell, x_BTD @ self.input_DN.astype(dtype), h_BN)

    def step(
        self, x_BD: Float[Array, "B D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B N"]]:
        y_BTD, h_BN = self.extend(x_BD[:, None], h_BN)
        return y_BTD[:, 0], h_BN
