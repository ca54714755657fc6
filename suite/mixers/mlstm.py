"""mLSTM: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory"; its MLP is the block's, as in xLSTM 7B.

xLSTM 7B has no short convolution (xlstm/xlstm_large/model.py of github.com/NX-AI/xlstm). With `taps` there is the one
of the first xLSTM (xlstm/blocks/mlstm/layer.py there), four taps, a bias and a silu before queries and keys alone.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from suite.mixers import MatrixRecurrence
from suite.ops import convolution, implementations, initial, multihead, precision

NAME = "the mLSTM"
FAMILY = "exponential"
STATE = "matrix"


class Mixer(MatrixRecurrence):
    """A matrix memory under exponential input gates, read by queries: o_t * norm(C_t^T q_t / max(abs(n_t^T q_t), 1)).

    C_t = f C_{t-1} + i k_t v_t^T and n_t = f n_{t-1} + i k_t, with one i = exp and one f = sigmoid a head. Keys are
    divided by the root of their size; queries and keys have `qk_dim_factor` of the width.
    """

    family = FAMILY
    n_heads: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    qkv_DE: Float[Array, "D E"]  # order: queries, keys, values, output gates
    taps_CE: Float[Array, "C E"] | None  # of the inputs of queries and keys
    taps_bias_E: Float[Array, " E"] | None
    gate_DG: Float[Array, "D G"]  # order: input, forget
    gate_bias_G: Float[Array, " G"]
    norm_F: Float[Array, " F"]
    out_FD: Float[Array, "F D"]

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        heads: int = 4,
        qk_dim_factor: float = 0.5,
        taps: int = 0,
        implementation: str = "auto",
    ):
        if not qk_dim_factor > 0:
            raise ValueError(f"qk_dim_factor {qk_dim_factor} wants more than 0")
        implementations.check(FAMILY, implementation)
        self.n_heads, self.implementation = heads, implementation
        self.key_size = multihead.size(qk_dim_factor * width, heads)
        inner = heads * multihead.size(width, heads)
        qkv_key, bias_key, out_key, taps_key = jax.random.split(key, 4)
        self.qkv_DE = initial.dense(qkv_key, width, width, 2 * heads * self.key_size + 2 * inner)
        self.taps_CE = convolution.taps(taps_key, taps, width)
        self.taps_bias_E = jnp.zeros(width, jnp.float32) if taps else None
        # As in the authors' code: gates first see their biases only, and forget gates start between 0.95 and 0.998,
        # so that heads remember for different times.
        self.gate_DG = jnp.zeros((width, 2 * heads), jnp.float32)
        input_H = 0.1 * jax.random.normal(bias_key, (heads,), jnp.float32)
        self.gate_bias_G = jnp.concatenate([input_H, jnp.linspace(3.0, 6.0, heads, dtype=jnp.float32)])
        self.norm_F = jnp.ones(inner, jnp.float32)
        self.out_FD = initial.dense(out_key, inner, inner, width)

    def project(
        self,
        x_BTD: Float[Array, "B T D"],
        past_BPE: Float[Array, "B P E"] | None,
        starts_BT: Bool[Array, "B T"] | None = None,
    ) -> tuple[tuple[Array, ...], Float[Array, "B T F"], Float[Array, "B P E"] | None]:
        """Queries, keys, values and logarithms of both gates (wide); output gates before their sigmoid."""
        dtype, wide = x_BTD.dtype, precision.wide(x_BTD.dtype)
        keys = self.n_heads * self.key_size
        qkv_DE = self.qkv_DE.astype(dtype)
        if self.taps_CE is None:
            qk_BTF, rest_BTF = jnp.split(x_BTD @ qkv_DE, (2 * keys,), axis=-1)
        else:
            seen_BTD, past_BPE = convolution.extend(
                x_BTD, past_BPE, self.taps_CE, self.taps_bias_E, starts_BT=starts_BT
            )
            qk_BTF, rest_BTF = jax.nn.silu(seen_BTD) @ qkv_DE[:, : 2 * keys], x_BTD @ qkv_DE[:, 2 * keys :]
        (q_BTF, k_BTF), (v_BTF, gate_BTF) = jnp.split(qk_BTF, 2, axis=-1), jnp.split(rest_BTF, 2, axis=-1)
        q_BTHK, k_BTHK, v_BTHP = (multihead.split(x_BTF, self.n_heads) for x_BTF in (q_BTF, k_BTF, v_BTF))
        gates_BTG = jnp.matmul(x_BTD, self.gate_DG.astype(dtype), preferred_element_type=wide)
        log_input_BTH, forget_BTH = jnp.split(
            gates_BTG + jnp.broadcast_to(self.gate_bias_G, gates_BTG.shape), 2, axis=-1
        )
        return (
            (q_BTHK, k_BTHK / self.key_size**0.5, v_BTHP, log_input_BTH, jax.nn.log_sigmoid(forget_BTH)),
            gate_BTF,
            past_BPE,
        )

    def merge(self, y_BTHP: Float[Array, "B T H P"], rest: Float[Array, "B T F"]) -> Float[Array, "B T D"]:
        dtype = rest.dtype
        y_BTF = multihead.layer_norm(y_BTHP, self.norm_F).astype(dtype)
        return (jax.nn.sigmoid(rest) * y_BTF) @ self.out_FD.astype(dtype)
