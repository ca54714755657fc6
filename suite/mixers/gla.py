"""GLA: Yang et al. 2024, "Gated Linear Attention Transformers with Hardware-Efficient Training".

It is published without a short convolution; with `taps` there is one over queries, keys and values and a silu after it,
as in the code of its authors (fla/layers/gla.py of github.com/fla-org/flash-linear-attention).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from suite.mixers import MatrixRecurrence
from suite.ops import convolution, implementations, initial, multihead, precision

NAME = "gated linear attention"
FAMILY = "matrix"
STATE = "matrix"


class Mixer(MatrixRecurrence):
    """S_t = diag(alpha_t) S_{t-1} + k_t v_t^T, y_t = S_t^T q_t, then swish gate * norm and a projection.

    alpha = sigmoid of a product of low rank, to the power of 1 / gate_logit_normalizer. Keys have `expand_k` of the
    width; queries are divided by the root of their size.
    """

    family = FAMILY
    n_heads: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    normalizer: float = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DE: Float[Array, "D E"]  # order: queries, keys, values, output gates
    taps_CE: Float[Array, "C E"] | None  # order: queries, keys, values
    down_DN: Float[Array, "D N"]
    up_NF: Float[Array, "N F"]
    decay_bias_F: Float[Array, " F"]
    norm_F: Float[Array, " F"]
    out_FD: Float[Array, "F D"]

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        heads: int = 4,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate_low_rank_dim: int = 16,
        gate_logit_normalizer: float = 16.0,
        taps: int = 0,
        implementation: str = "auto",
    ):
        if not (expand_k > 0 and expand_v > 0):
            raise ValueError(f"expand_k {expand_k} and expand_v {expand_v} want more than 0")
        if gate_low_rank_dim < 1 or not gate_logit_normalizer > 0:
            raise ValueError(
                f"gate_low_rank_dim {gate_low_rank_dim} wants at least 1 and "
                f"gate_logit_normalizer {gate_logit_normalizer} more than 0"
            )
        implementations.check(FAMILY, implementation)
        self.n_heads, self.normalizer, self.implementation = heads, gate_logit_normalizer, implementation
        self.key_size = multihead.size(expand_k * width, heads)
        keys, inner = heads * self.key_size, heads * multihead.size(expand_v * width, heads)
        input_key, down_key, up_key, out_key, taps_key = jax.random.split(key, 5)
        self.input_DE = initial.dense(input_key, width, width, 2 * keys + 2 * inner)
        self.taps_CE = convolution.taps(taps_key, taps, 2 * keys + inner)
        self.down_DN = initial.dense(down_key, width, width, gate_low_rank_dim)
        self.up_NF = initial.dense(up_key, gate_low_rank_dim, gate_low_rank_dim, keys)
        self.decay_bias_F = jnp.zeros(keys, jnp.float32)
        self.norm_F = jnp.ones(inner, jnp.float32)
        self.out_FD = initial.dense(out_key, inner, inner, width)

    def project(
        self,
        x_BTD: Float[Array, "B T D"],
        past_BPE: Float[Array, "B P E"] | None,
        starts_BT: Bool[Array, "B T"] | None = None,
    ) -> tuple[tuple[Array, ...], Float[Array, "B T F"], Float[Array, "B P E"] | None]:
        """Queries, keys, values and logarithms of decays (wide); output gates before their activation."""
        dtype, wide = x_BTD.dtype, precision.wide(x_BTD.dtype)
        keys, inner = self.n_heads * self.key_size, self.norm_F.shape[0]
        qkv_BTF, gate_BTF = jnp.split(x_BTD @ self.input_DE.astype(dtype), (2 * keys + inner,), axis=-1)
        qkv_BTF, past_BPE = convolution.extend(qkv_BTF, past_BPE, self.taps_CE, starts_BT=starts_BT)
        qkv_BTF = qkv_BTF if self.taps_CE is None else jax.nn.silu(qkv_BTF)
        q_BTF, k_BTF, v_BTF = jnp.split(qkv_BTF, (keys, 2 * keys), axis=-1)
        low_BTN = x_BTD @ self.down_DN.astype(dtype)
        decay_BTF = jnp.matmul(low_BTN, self.up_NF.astype(dtype), preferred_element_type=wide)
        decay_BTF = (
            jax.nn.log_sigmoid(decay_BTF + jnp.broadcast_to(self.decay_bias_F, decay_BTF.shape)) / self.normalizer
        )
        q_BTHK, k_BTHK, v_BTHP, decay_BTHK = (
            multihead.split(part_BTF, self.n_heads) for part_BTF in (q_BTF, k_BTF, v_BTF, decay_BTF)
        )
        return (q_BTHK / self.key_size**0.5, k_BTHK, v_BTHP, decay_BTHK), gate_BTF, past_BPE

    def merge(self, y_BTHP: Float[Array, "B T H P"], rest: Float[Array, "B T F"]) -> Float[Array, "B T D"]:
        dtype = rest.dtype
        y_BTF = multihead.rms_norm(y_BTHP, self.norm_F).astype(dtype)
        return (jax.nn.silu(rest) * y_BTF) @ self.out_FD.astype(dtype)
