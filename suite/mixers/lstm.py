"""LSTM: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", with the forget gate of Gers et al. 2000."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import initial, precision, recurrent

State = tuple[Float[Array, "B N"], Float[Array, "B N"]]


class Mixer(eqx.Module):
    """c_t = f c_{t-1} + i g and h_t = o tanh(c_t), gates from W x_t + R h_{t-1} + b; the output is h."""

    input_DG: Float[Array, "D G"]
    recurrent_NG: Float[Array, "N G"]
    bias_G: Float[Array, " G"]

    def __init__(self, width: int, *, key: PRNGKeyArray):
        input_key, recurrent_key = jax.random.split(key)
        self.input_DG = initial.dense(input_key, width, width, 4 * width)
        self.recurrent_NG = initial.orthogonal(recurrent_key, width, 4)
        # A forget bias of 1 keeps memory open at first (Jozefowicz et al. 2015). Order: input, forget, cell, output.
        self.bias_G = jnp.zeros(4 * width, jnp.float32).at[width : 2 * width].set(1.0)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> State:
        del length  # two vectors, whatever the context
        zero_BN = jnp.zeros((batch, self.recurrent_NG.shape[0]), precision.wide(dtype))
        return zero_BN, zero_BN

    def extend(self, x_BTD: Float[Array, "B T D"], state: State) -> tuple[Float[Array, "B T D"], State]:
        dtype = x_BTD.dtype

        def cell(input_BG: Float[Array, "B G"], state: State) -> tuple[Float[Array, "B N"], State]:
            h_BN, c_BN = state
            recurrent_BG = recurrent.product(h_BN, self.recurrent_NG, dtype)
            gates_BG = input_BG.astype(h_BN.dtype) + recurrent_BG + self.bias_G[None]
            in_BN, forget_BN, cell_BN, out_BN = jnp.split(gates_BG, 4, axis=-1)
            c_BN = jax.nn.sigmoid(forget_BN) * c_BN + jax.nn.sigmoid(in_BN) * jnp.tanh(cell_BN)
            h_BN = jax.nn.sigmoid(out_BN) * jnp.tanh(c_BN)
            return h_BN.astype(dtype), (h_BN, c_BN)

        return recurrent.scan(cell, x_BTD @ self.input_DG.astype(dtype), state)

    def step(self, x_BD: Float[Array, "B D"], state: State) -> tuple[Float[Array, "B D"], State]:
        y_BTD, state = self.extend(x_BD[:, None], state)
        return y_BTD[:, 0], state
