"""RG-LRU: De et al. 2024, "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient LMs".

The recurrent block of Hawk and Griffin, with its short convolution of four taps and a bias before the recurrence and no
activation (recurrentgemma/jax/modules.py of github.com/google-deepmind/recurrentgemma).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from suite.mixers import Recurrence
from suite.ops import convolution, implementations, initial, linear, multihead, precision

NAME = "the RG-LRU"
FAMILY = "linear"
STATE = "diagonal"
STATE_KNOB = "d_rnn"
SHARPNESS = 8.0  # c of the paper
# The last inputs of the short convolution, and h.
State = tuple[Float[Array, "B P N"] | None, Float[Array, "B N"]]


class Mixer(Recurrence):
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t), a_t = a^(c r_t), times gelu(W x) and projected; u = conv(V x).

    The gates r and i see u through block-diagonal matrices, one block a head. d_rnn 0 is 4/3 of the width, `taps` 0
    without short convolution.
    """

    n_heads: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DG: Float[Array, "D G"]  # order: gelu branch, recurrent branch
    taps_CN: Float[Array, "C N"] | None
    taps_bias_N: Float[Array, " N"] | None
    gate_HKG: Float[Array, "H K G"]  # order: recurrence, input
    gate_bias_G: Float[Array, " G"]
    decay_N: Float[Array, " N"]  # a = sigmoid(decay)
    out_ND: Float[Array, "N D"]

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        heads: int = 4,
        d_rnn: int = 0,
        taps: int = 4,
        implementation: str = "auto",
    ):
        if d_rnn < 0:
            raise ValueError(f"d_rnn {d_rnn} wants at least 0")
        implementations.check(FAMILY, implementation)
        size = multihead.size(d_rnn or 4 * width / 3, heads)
        inner = heads * size
        self.n_heads, self.implementation = heads, implementation
        input_key, gate_key, decay_key, out_key, taps_key = jax.random.split(key, 5)
        self.input_DG = initial.dense(input_key, width, width, 2 * inner)
        self.taps_CN = convolution.taps(taps_key, taps, inner)
        self.taps_bias_N = jnp.zeros(inner, jnp.float32) if taps else None
        self.gate_HKG = initial.dense(gate_key, size, heads, size, 2 * size)
        self.gate_bias_G = jnp.zeros(2 * inner, jnp.float32)
        # a^c uniform between 0.9 and 0.999.
        power_N = jax.random.uniform(decay_key, (inner,), jnp.float32, 0.9, 0.999)
        root_N = power_N ** (1 / SHARPNESS)
        self.decay_N = jnp.log(root_N) - jnp.log1p(-root_N)
        self.out_ND = initial.dense(out_key, inner, inner, width)

    def ran(self, dtype: jnp.dtype, *, cut: bool = False) -> str:
        return implementations.choose(FAMILY, self.implementation, dtype, cut=cut)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> State:
        del length  # the same whatever the context
        wide = precision.wide(dtype)
        return convolution.start(batch, self.taps_CN, wide), linear.start(batch, self.decay_N.shape[0], wide)

    def extend(
        self, x_BTD: Float[Array, "B T D"], state: State, starts_BT: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], State]:
        past_BPN, h_BN = state
        branch_BTN, decay_BTN, input_BTN, past_BPN = self._project(x_BTD, past_BPN, starts_BT)
        decay_BTN = decay_BTN if starts_BT is None else linear.cut(decay_BTN, starts_BT)
        h_BTN = implementations.pick(FAMILY, self.ran(x_BTD.dtype))(decay_BTN, input_BTN, h_BN)
        return self._merge(branch_BTN, h_BTN), (past_BPN, h_BTN[:, -1])

    def step(self, x_BD: Float[Array, "B D"], state: State) -> tuple[Float[Array, "B D"], State]:
        past_BPN, h_BN = state
        *rows_BTN, past_BPN = self._project(x_BD[:, None], past_BPN)
        branch_BN, decay_BN, input_BN = (jnp.squeeze(row_BTN, 1) for row_BTN in rows_BTN)
        h_BN = linear.step(decay_BN, input_BN, h_BN)
        return self._merge(branch_BN, h_BN), (past_BPN, h_BN)

    def _project(
        self,
        x_BTD: Float[Array, "B T D"],
        past_BPN: Float[Array, "B P N"] | None,
        starts_BT: Bool[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T N"], Float[Array, "B T N"], Float[Array, "B T N"], Float[Array, "B P N"] | None]:
        """The branch after its gelu; decays and inputs, wide."""
        dtype, wide = x_BTD.dtype, precision.wide(x_BTD.dtype)
        branch_BTN, u_BTN = jnp.split(x_BTD @ self.input_DG.astype(dtype), 2, axis=-1)
        u_BTN, past_BPN = convolution.extend(u_BTN, past_BPN, self.taps_CN, self.taps_bias_N, starts_BT)
        gates_BTHG = jnp.einsum("BTHK,HKG->BTHG", multihead.split(u_BTN, self.n_heads), self.gate_HKG.astype(dtype))
        recurrence_BTN, input_BTN = (
            multihead.join(part_BTHK) for part_BTHK in jnp.split(gates_BTHG.astype(wide), 2, axis=-1)
        )
        recurrence_bias_N, input_bias_N = jnp.split(self.gate_bias_G, 2)
        recurrence_BTN = jax.nn.sigmoid(recurrence_BTN + jnp.broadcast_to(recurrence_bias_N, u_BTN.shape))
        input_BTN = jax.nn.sigmoid(input_BTN + jnp.broadcast_to(input_bias_N, u_BTN.shape))
        rate_N = -SHARPNESS * jax.nn.softplus(-self.decay_N)  # c log a
        log_decay_BTN = recurrence_BTN * jnp.broadcast_to(rate_N, u_BTN.shape)
        # 1 - a^2 by expm1: the difference of two numbers close to 1 would keep few digits. At a = 1 its root has no
        # gradient, and below 1e-6 it takes nothing in.
        root_BTN = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_decay_BTN), 1e-12))
        return jax.nn.gelu(branch_BTN), jnp.exp(log_decay_BTN), root_BTN * input_BTN * u_BTN.astype(wide), past_BPN

    def _merge(self, branch_N: Float[Array, "*T N"], h_N: Float[Array, "*T N"]) -> Float[Array, "*T D"]:
        return (branch_N * h_N.astype(branch_N.dtype)) @ self.out_ND.astype(branch_N.dtype)
