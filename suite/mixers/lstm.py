"""LSTM: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", with the forget gate of Gers et al. 2000."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import cudnn, implementations, initial, lstm, precision, recurrent
from suite.ops.kernels import persistent

FAMILY = "lstm"
State = tuple[Float[Array, "B N"], Float[Array, "B N"]]


class Mixer(eqx.Module):
    """c_t = f c_{t-1} + i g and h_t = o tanh(c_t), gates from W x_t + R h_{t-1} + b; the output is h.

    R has one block on its diagonal for each of the heads. `remat` computes the insides of chunks again for the
    gradient, for long sequences.
    """

    heads: int = eqx.field(static=True)
    remat: bool = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DG: Float[Array, "D G"]
    recurrent_HKG: Float[Array, "H K G"]
    bias_G: Float[Array, " G"]

    def __init__(
        self, width: int, *, key: PRNGKeyArray, heads: int = 1, remat: bool = False, implementation: str = "auto"
    ):
        recurrent.check_heads(width, heads)
        implementations.check(FAMILY, implementation)
        if implementation == "cudnn" and heads > 1:
            raise ValueError(f"cuDNN's LSTM has one head and not {heads}; take implementation=factors")
        if implementation == "persistent":
            persistent.check(width // heads)
        self.heads, self.remat, self.implementation = heads, remat, implementation
        input_key, recurrent_key = jax.random.split(key)
        self.input_DG = initial.dense(input_key, width, width, lstm.GATES * width)
        self.recurrent_HKG = initial.orthogonal(recurrent_key, width // heads, heads, lstm.GATES)
        # A forget bias of 1 keeps memory open at first (Jozefowicz et al. 2015). Order: input, forget, cell, output.
        self.bias_G = jnp.zeros(lstm.GATES * width, jnp.float32).at[width : 2 * width].set(1.0)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def ran(self, dtype: jnp.dtype) -> str:
        _, size, gates = self.recurrent_HKG.shape
        return implementations.choose(FAMILY, self.implementation, dtype, resident=size * gates, head_size=size)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> State:
        del length  # two vectors, whatever the context
        zero_BN = jnp.zeros((batch, self.bias_G.shape[0] // lstm.GATES), precision.wide(dtype))
        return zero_BN, zero_BN

    def extend(self, x_BTD: Float[Array, "B T D"], state: State) -> tuple[Float[Array, "B T D"], State]:
        return recurrent.rematerialised(self._extend, x_BTD, state) if self.remat else self._extend(x_BTD, state)

    def step(self, x_BD: Float[Array, "B D"], state: State) -> tuple[Float[Array, "B D"], State]:
        cell = recurrent.each_head(lstm.cell)
        h_HBK, c_HBK = cell(self._project(x_BD[:, None])[:, 0], *self._weights(), self._by_head(state))
        h_BN = recurrent.join(h_HBK)
        return h_BN.astype(x_BD.dtype), (h_BN, recurrent.join(c_HBK))

    def _extend(self, x_BTD: Float[Array, "B T D"], state: State) -> tuple[Float[Array, "B T D"], State]:
        implementation = self.ran(x_BTD.dtype)
        if implementation == "cudnn":
            return cudnn.lstm(x_BTD, self.input_DG, self.recurrent_HKG[0], self.bias_G, state)
        h_HTBK, (h_HBK, c_HBK) = lstm.loop(self._project(x_BTD), *self._weights(), self._by_head(state), implementation)
        return recurrent.join_all(h_HTBK), (recurrent.join(h_HBK), recurrent.join(c_HBK))

    def _project(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "H T B G"]:
        return recurrent.project(x_BTD, recurrent.by_head(self.input_DG, self.heads, lstm.GATES))

    def _weights(self) -> tuple[Float[Array, "H K G"], Float[Array, "H G"]]:
        return self.recurrent_HKG, recurrent.by_head(self.bias_G, self.heads, lstm.GATES)

    def _by_head(self, state: State) -> tuple[Float[Array, "H B K"], Float[Array, "H B K"]]:
        h_BN, c_BN = state
        return recurrent.split(h_BN, self.heads), recurrent.split(c_BN, self.heads)
