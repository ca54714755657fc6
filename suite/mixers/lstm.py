"""LSTM: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", with the forget gate of Gers et al. 2000."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.mixers import NonlinearRecurrence
from suite.ops import implementations, initial, recurrent
from suite.ops.kernels import persistent

NAME = "the LSTM"
FAMILY = "lstm"
STATE = "nonlinear"
# At scale quick, on two machines, of 10 seeds one, spread and chrono solve recall 48 tokens back with 800 steps in 0, 9
# and 10, and parity of 20 tokens with 500 steps in 8, 4 and 7: chrono is the default.
VARIANTS = {"forget": ("one", "spread", "chrono")}


class Mixer(NonlinearRecurrence):
    """c_t = f c_{t-1} + i g and h_t = o tanh(c_t), gates from W x_t + R h_{t-1} + b; the output is h."""

    family, vectors = FAMILY, 2
    remat: bool = eqx.field(static=True)
    dilation: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DG: Float[Array, "D G"]  # order: input, forget, cell, output
    recurrent_HKG: Float[Array, "H K G"]
    bias_G: Float[Array, " G"]

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        heads: int = 1,
        forget: str = "chrono",
        dilation: int = 1,
        remat: bool = False,
        implementation: str = "auto",
    ):
        recurrent.check(width, heads, dilation)
        implementations.check(FAMILY, implementation)
        if implementation == "cudnn" and heads > 1:
            raise ValueError(f"cuDNN's LSTM has one head and not {heads}; take implementation=factors")
        if implementation == "persistent":
            persistent.check(width // heads)
        self.remat, self.dilation, self.implementation = remat, dilation, implementation
        input_key, recurrent_key = jax.random.split(key)
        self.input_DG = initial.dense(input_key, width, width, 4 * width)
        self.recurrent_HKG = initial.orthogonal(recurrent_key, width // heads, heads, 4)
        forget_N = initial.forget_gate(forget, width // heads, heads)
        # Chrono's input gates are closed as far as its forget gates are open.
        input_N = -forget_N if forget == "chrono" else jnp.zeros_like(forget_N)
        self.bias_G = jnp.concatenate([input_N, forget_N, jnp.zeros(2 * width, jnp.float32)])

    def cell(
        self, x_BG: Float[Array, "B G"], h_BG: Float[Array, "B G"], biases: recurrent.Biases, state: recurrent.State
    ) -> recurrent.State:
        (bias_1G,), (_, c_BK) = biases, state
        in_BK, forget_BK, new_BK, out_BK = jnp.split(x_BG + h_BG + bias_1G, 4, axis=-1)
        c_BK = jax.nn.sigmoid(forget_BK) * c_BK + jax.nn.sigmoid(in_BK) * jnp.tanh(new_BK)
        return jax.nn.sigmoid(out_BK) * jnp.tanh(c_BK), c_BK

    def weights(self) -> recurrent.Weights:
        return recurrent.Weights(self.input_DG, self.recurrent_HKG, (self.bias_G,))
