"""RG-LRU: De et al. 2024, "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient LMs".

The recurrent block of Hawk and Griffin; its short convolution is the suite's factor `conv`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.mixers import DiagonalRecurrence
from suite.ops import implementations, initial, multihead, precision

NAME = "the RG-LRU"
FAMILY = "linear"
STATE = "diagonal"
STATE_KNOB = "d_rnn"
SHARPNESS = 8.0  # c of the paper


class Mixer(DiagonalRecurrence):
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t), a_t = a^(c r_t), times gelu(W x) and projected; u = V x.

    The gates r and i see u through block-diagonal matrices, one block a head. d_rnn 0 is 4/3 of the width.
    """

    family = FAMILY
    n_heads: int = eqx.field(static=True)
    size: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DG: Float[Array, "D G"]  # order: gelu branch, recurrent branch
    gate_HKG: Float[Array, "H K G"]  # order: recurrence, input
    gate_bias_G: Float[Array, " G"]
    decay_N: Float[Array, " N"]  # a = sigmoid(decay)
    out_ND: Float[Array, "N D"]

    def __init__(self, width: int, *, key: PRNGKeyArray, heads: int = 4, d_rnn: int = 0, implementation: str = "auto"):
        if d_rnn < 0:
            raise ValueError(f"d_rnn {d_rnn} wants at least 0")
        implementations.check(FAMILY, implementation)
        size = multihead.size(d_rnn or 4 * width / 3, heads)
        inner = heads * size
        self.n_heads, self.size, self.implementation = heads, inner, implementation
        input_key, gate_key, decay_key, out_key = jax.random.split(key, 4)
        self.input_DG = initial.dense(input_key, width, width, 2 * inner)
        self.gate_HKG = initial.dense(gate_key, size, heads, size, 2 * size)
        self.gate_bias_G = jnp.zeros(2 * inner, jnp.float32)
        # a^c uniform between 0.9 and 0.999.
        power_N = jax.random.uniform(decay_key, (inner,), jnp.float32, 0.9, 0.999)
        root_N = power_N ** (1 / SHARPNESS)
        self.decay_N = jnp.log(root_N) - jnp.log1p(-root_N)
        self.out_ND = initial.dense(out_key, inner, inner, width)

    def gates(
        self, x_D: Float[Array, "*T D"]
    ) -> tuple[Float[Array, "*T N"], Float[Array, "*T N"], Float[Array, "*T N"]]:
        """Decays and inputs; the gelu branch in the compute dtype."""
        dtype, wide = x_D.dtype, precision.wide(x_D.dtype)
        branch_N, u_N = jnp.split(x_D @ self.input_DG.astype(dtype), 2, axis=-1)
        gates_HG = jnp.einsum("...HK,HKG->...HG", multihead.split(u_N, self.n_heads), self.gate_HKG.astype(dtype))
        recurrence_N, input_N = (multihead.join(part_HK) for part_HK in jnp.split(gates_HG.astype(wide), 2, axis=-1))
        recurrence_bias_N, input_bias_N = jnp.split(self.gate_bias_G, 2)
        recurrence_N = jax.nn.sigmoid(recurrence_N + jnp.broadcast_to(recurrence_bias_N, u_N.shape))
        input_N = jax.nn.sigmoid(input_N + jnp.broadcast_to(input_bias_N, u_N.shape))
        rate_N = -SHARPNESS * jax.nn.softplus(-self.decay_N)  # c log a
        log_decay_N = recurrence_N * jnp.broadcast_to(rate_N, u_N.shape)
        # 1 - a^2 by expm1: the difference of two numbers close to 1 would keep few digits. At a = 1 its root has no
        # gradient, and below 1e-6 it takes nothing in.
        root_N = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_decay_N), 1e-12))
        return jnp.exp(log_decay_N), root_N * input_N * u_N.astype(wide), jax.nn.gelu(branch_N)

    def output(self, h_N: Float[Array, "*T N"], rest: Float[Array, "*T N"]) -> Float[Array, "*T D"]:
        return (rest * h_N) @ self.out_ND.astype(h_N.dtype)
