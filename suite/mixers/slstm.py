"""sLSTM: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory"; its MLP is the block's."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.mixers import Recurrence
from suite.ops import initial, multihead, precision, recurrent

NAME = "the sLSTM"
FAMILY = "recurrent"
STATE = "nonlinear"
# Cell, normaliser, output, and the logarithm of the scale that cell and normaliser are divided by.
State = tuple[Float[Array, "B N"], Float[Array, "B N"], Float[Array, "B N"], Float[Array, "B N"]]


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
        return zero_BN, zero_BN, zero_BN, jnp.full_like(zero_BN, -jnp.inf)

    def extend(self, x_BTD: Float[Array, "B T D"], state: State) -> tuple[Float[Array, "B T D"], State]:
        dtype = x_BTD.dtype

        def cell(input_BG: Float[Array, "B G"], state: State) -> tuple[Float[Array, "B N"], State]:
            cell_BN, normaliser_BN, h_BN, scale_BN = state
            recurrent_BHG = jnp.einsum(
                "BHK,HKG->BHG",
                multihead.split(h_BN.astype(dtype), self.n_heads),
                self.recurrent_HKG.astype(dtype),
                preferred_element_type=h_BN.dtype,
            )
            recurrent_BG = jnp.concatenate(
                [multihead.join(x_BHK) for x_BHK in jnp.split(recurrent_BHG, 4, axis=-1)], -1
            )
            gates_BG = input_BG.astype(h_BN.dtype) + recurrent_BG + self.bias_G[None]
            log_input_BN, forget_BN, new_BN, out_BN = jnp.split(gates_BG, 4, axis=-1)
            log_forget_BN = jax.nn.log_sigmoid(forget_BN) + scale_BN
            scale_BN = jax.lax.stop_gradient(jnp.maximum(log_forget_BN, log_input_BN))
            keep_BN, take_BN = jnp.exp(log_forget_BN - scale_BN), jnp.exp(log_input_BN - scale_BN)
            cell_BN = keep_BN * cell_BN + take_BN * jnp.tanh(new_BN)
            normaliser_BN = keep_BN * normaliser_BN + take_BN
            h_BN = jax.nn.sigmoid(out_BN) * cell_BN / normaliser_BN
            return h_BN, (cell_BN, normaliser_BN, h_BN, scale_BN)

        h_BTN, state = recurrent.over_time(cell, x_BTD @ self.input_DG.astype(dtype), state)
        return multihead.layer_norm(multihead.split(h_BTN, self.n_heads), self.norm_N).astype(dtype), state

    def step(self, x_BD: Float[Array, "B D"], state: State) -> tuple[Float[Array, "B D"], State]:
        y_BTD, state = self.extend(x_BD[:, None], state)
        return y_BTD[:, 0], state
