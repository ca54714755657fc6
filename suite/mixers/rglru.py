"""RG-LRU: De et al. 2024, "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient LMs".

The recurrent block of Hawk and Griffin; its short convolution is the suite's factor `conv`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import implementations, initial, linear, multihead, precision

FAMILY = "linear"
STATE_KNOB = "d_rnn"
SHARPNESS = 8.0  # c of the paper


class Mixer(eqx.Module):
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t), a_t = a^(c r_t), times gelu(W x) and projected; u = V x.

    The gates r and i see u through block-diagonal matrices, one block a head. d_rnn 0 is 4/3 of the width.
    """

    n_heads: int = eqx.field(static=True)
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
        self.n_heads, self.implementation = heads, implementation
        size = multihead.size(d_rnn or 4 * width / 3, heads)
        inner = heads * size
        input_key, gate_key, decay_key, out_key = jax.random.split(key, 4)
        self.input_DG = initial.dense(input_key, width, width, 2 * inner)
        self.gate_HKG = initial.dense(gate_key, size, heads, size, 2 * size)
        self.gate_bias_G = jnp.zeros(2 * inner, jnp.float32)
        # a^c uniform between 0.9 and 0.999.
        power_N = jax.random.uniform(decay_key, (inner,), jnp.float32, 0.9, 0.999)
        root_N = power_N ** (1 / SHARPNESS)
        self.decay_N = jnp.log(root_N) - jnp.log1p(-root_N)
        self.out_ND = initial.dense(out_key, inner, inner, width)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def ran(self, dtype: jnp.dtype) -> str:
        return implementations.choose(FAMILY, self.implementation, dtype)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> Float[Array, "B N"]:
        del length  # one vector, whatever the context
        return jnp.zeros((batch, self.decay_N.shape[0]), precision.wide(dtype))

    def extend(
        self, x_BTD: Float[Array, "B T D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N"]]:
        branch_BTN, decay_BTN, input_BTN = self._gates(x_BTD)
        h_BTN = linear.recurrence(decay_BTN, input_BTN, h_BN, self.ran(x_BTD.dtype))
        return self._merge(branch_BTN, h_BTN), h_BTN[:, -1]

    def step(
        self, x_BD: Float[Array, "B D"], h_BN: Float[Array, "B N"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B N"]]:
        branch_BN, decay_BN, input_BN = self._gates(x_BD)
        h_BN = decay_BN * h_BN + input_BN
        return self._merge(branch_BN, h_BN), h_BN

    def _gates(
        self, x_D: Float[Array, "... D"]
    ) -> tuple[Float[Array, "... N"], Float[Array, "... N"], Float[Array, "... N"]]:
        """The gelu branch in the compute dtype; decays and inputs at least float32, for a decay lies close to 1."""
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
        return jax.nn.gelu(branch_N), jnp.exp(log_decay_N), root_N * input_N * u_N.astype(wide)

    def _merge(self, branch_N: Float[Array, "... N"], h_N: Float[Array, "... N"]) -> Float[Array, "... D"]:
        dtype = branch_N.dtype
        return (branch_N * h_N.astype(dtype)) @ self.out_ND.astype(dtype)
