"""sLSTM: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory"; its MLP is the block's."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from suite.mixers import Recurrence
from suite.ops import context, initial, multihead, precision, recurrent

NAME = "the sLSTM"
FAMILY = "recurrent"
STATE = "nonlinear"
# Output, cell, normaliser, and the logarithm of the scale that cell and normaliser are divided by.
State = tuple[Float[Array, "B N"], Float[Array, "B N"], Float[Array, "B N"], Float[Array, "B N"]]
EMPTY = (0.0, 0.0, 0.0, -math.inf)  # of which the vectors of the first state are


class Mixer(Recurrence):
    """c_t = f c_{t-1} + i z, n_t = f n_{t-1} + i, h_t = o c_t / n_t; i = exp, f = sigmoid; a norm over each head.

    Gates see h_{t-1} through block-diagonal matrices, one block a head. Cell and normaliser are kept divided by
    exp(m_t), m_t = max(log f + m_{t-1}, log i): h does not depend on m, so no gradient goes through it.
    """

    n_heads: int = eqx.field(static=True)
    input_DG: Float[Array, "D G"]  # order of gates: input, forget, cell, output
    recurrent_HKG: Float[Array, "H K G"]
    bias_G: Float[Array, " G"]
    norm_N: Float[Array, " N"]

    def __init__(self, width: int, *, key: PRNGKeyArray, heads: int = 4):
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        size = width // heads
        self.n_heads = heads
        input_key, recurrent_key = jax.random.split(key)
        self.input_DG = initial.dense(input_key, width, width, 4 * width)
        self.recurrent_HKG = initial.dense(recurrent_key, size, heads, size, 4 * size)
        forget_N = initial.forget_gate("spread", size, heads)
        self.bias_G = jnp.zeros(4 * width, jnp.float32).at[width : 2 * width].set(forget_N)
        self.norm_N = jnp.ones(width, jnp.float32)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> State:
        del length  # four vectors, whatever the context
        zero_BN = jnp.zeros((batch, self.norm_N.shape[0]), precision.wide(dtype))
        return zero_BN, zero_BN, zero_BN, jnp.full_like(zero_BN, EMPTY[-1])

    def extend(
        self, x_BTD: Float[Array, "B T D"], state: State, starts_BT: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], State]:
        layer = recurrent.layer(functools.partial(recurrent.scan, empty=EMPTY))
        starts = () if starts_BT is None else (starts_BT,)

        def read(
            weights: recurrent.Weights, x_BTD: Float[Array, "B T D"], state: recurrent.State
        ) -> tuple[Array, recurrent.State]:
            return layer(_cell, x_BTD, weights, state, *starts)

        weights = recurrent.Weights(self.input_DG, self.recurrent_HKG, (self.bias_G,))
        h_BTN, state = context.in_turn(read, weights, x_BTD, state)
        h_BTHK = multihead.split(h_BTN.astype(precision.wide(x_BTD.dtype)), self.n_heads)
        return multihead.layer_norm(h_BTHK, self.norm_N).astype(x_BTD.dtype), state

    def step(self, x_BD: Float[Array, "B D"], state: State) -> tuple[Float[Array, "B D"], State]:
        y_BTD, state = self.extend(x_BD[:, None], state)
        return y_BTD[:, 0], state


def _cell(
    x_BG: Float[Array, "B G"], h_BG: Float[Array, "B G"], biases: recurrent.Biases, state: recurrent.State
) -> recurrent.State:
    _, cell_BK, normaliser_BK, scale_BK = state
    log_input_BK, forget_BK, new_BK, out_BK = jnp.split(x_BG + h_BG + biases[0], 4, axis=-1)
    log_forget_BK = jax.nn.log_sigmoid(forget_BK) + scale_BK
    scale_BK = jax.lax.stop_gradient(jnp.maximum(log_forget_BK, log_input_BK))
    keep_BK, take_BK = jnp.exp(log_forget_BK - scale_BK), jnp.exp(log_input_BK - scale_BK)
    cell_BK = keep_BK * cell_BK + take_BK * jnp.tanh(new_BK)
    normaliser_BK = keep_BK * normaliser_BK + take_BK
    return jax.nn.sigmoid(out_BK) * cell_BK / normaliser_BK, cell_BK, normaliser_BK, scale_BK
