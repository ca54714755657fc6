"""Gated DeltaNet: Yang et al. 2024, "Gated Delta Networks: Improving Mamba2 with Delta Rule".

Its short convolutions go over queries, keys and values, four taps without a bias before their silu, as in the code of
its authors (fla/layers/gated_deltanet.py of github.com/fla-org/flash-linear-attention).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from suite.mixers import MatrixRecurrence
from suite.ops import convolution, implementations, initial, multihead, precision

NAME = "Gated DeltaNet"
FAMILY = "delta"
STATE = "matrix"


class Mixer(MatrixRecurrence):
    """S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, y_t = S_t^T q_t, then norm * silu gate.

    alpha = exp(-exp(rate) softplus(W x + b)), as in Mamba-2; the rest as in DeltaNet. Keys have `expand_k` of the
    width and values `expand_v`, which makes 6 D^2 parameters. `taps` 0 is without short convolution.
    """

    family = FAMILY
    n_heads: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    allow_neg_eigval: bool = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DE: Float[Array, "D E"]  # order: queries, keys, values
    taps_CE: Float[Array, "C E"] | None  # the same
    gate_DF: Float[Array, "D F"]
    beta_DH: Float[Array, "D H"]
    step_DH: Float[Array, "D H"]
    step_bias_H: Float[Array, " H"]
    rate_H: Float[Array, " H"]
    norm_F: Float[Array, " F"]
    out_FD: Float[Array, "F D"]

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        heads: int = 4,
        expand_k: float = 0.75,
        expand_v: float = 1.5,
        allow_neg_eigval: bool = False,
        taps: int = 4,
        implementation: str = "auto",
    ):
        if not (expand_k > 0 and expand_v > 0):
            raise ValueError(f"expand_k {expand_k} and expand_v {expand_v} want more than 0")
        implementations.check(FAMILY, implementation)
        self.n_heads, self.allow_neg_eigval, self.implementation = heads, allow_neg_eigval, implementation
        self.key_size = multihead.size(expand_k * width, heads)
        keys, inner = heads * self.key_size, heads * multihead.size(expand_v * width, heads)
        input_key, gate_key, beta_key, step_key, bias_key, rate_key, out_key, taps_key = jax.random.split(key, 8)
        self.input_DE = initial.dense(input_key, width, width, 2 * keys + inner)
        self.taps_CE = convolution.taps(taps_key, taps, 2 * keys + inner)
        self.gate_DF = initial.dense(gate_key, width, width, inner)
        self.beta_DH = initial.dense(beta_key, width, width, heads)
        self.step_DH = initial.dense(step_key, width, width, heads)
        self.step_bias_H = initial.time_step(bias_key, heads)
        self.rate_H = jnp.log(jax.random.uniform(rate_key, (heads,), jnp.float32, 1e-4, 16.0))
        self.norm_F = jnp.ones(inner, jnp.float32)
        self.out_FD = initial.dense(out_key, inner, inner, width)

    def project(
        self,
        x_BTD: Float[Array, "B T D"],
        past_BPE: Float[Array, "B P E"] | None,
        starts_BT: Bool[Array, "B T"] | None = None,
    ) -> tuple[tuple[Array, ...], Float[Array, "B T F"], Float[Array, "B P E"] | None]:
        """Queries, keys, values; beta and logarithms of decays (wide); output gates before their activation."""
        dtype, wide, keys = x_BTD.dtype, precision.wide(x_BTD.dtype), self.n_heads * self.key_size
        qkv_BTF, past_BPE = convolution.extend(
            x_BTD @ self.input_DE.astype(dtype), past_BPE, self.taps_CE, starts_BT=starts_BT
        )
        q_BTF, k_BTF, v_BTF = jnp.split(jax.nn.silu(qkv_BTF), (keys, 2 * keys), axis=-1)
        q_BTHK, k_BTHK, v_BTHP = (multihead.split(part_BTF, self.n_heads) for part_BTF in (q_BTF, k_BTF, v_BTF))
        beta_BTH = jax.nn.sigmoid(jnp.matmul(x_BTD, self.beta_DH.astype(dtype), preferred_element_type=wide))
        beta_BTH = 2 * beta_BTH if self.allow_neg_eigval else beta_BTH
        step_BTH = jnp.matmul(x_BTD, self.step_DH.astype(dtype), preferred_element_type=wide)
        step_BTH = jax.nn.softplus(step_BTH + jnp.broadcast_to(self.step_bias_H, step_BTH.shape))
        log_decay_BTH = -step_BTH * jnp.broadcast_to(jnp.exp(self.rate_H), step_BTH.shape)
        gate_BTF = x_BTD @ self.gate_DF.astype(dtype)
        return (multihead.unit(q_BTHK), multihead.unit(k_BTHK), v_BTHP, beta_BTH, log_decay_BTH), gate_BTF, past_BPE

    def merge(self, y_BTHP: Float[Array, "B T H P"], rest: Float[Array, "B T F"]) -> Float[Array, "B T D"]:
        dtype = rest.dtype
        y_BTF = multihead.rms_norm(y_BTHP, self.norm_F).astype(dtype)
        return (jax.nn.silu(rest) * y_BTF) @ self.out_FD.astype(dtype)
