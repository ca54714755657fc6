"""DeltaNet: Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule over Sequence Length".

Its short convolutions go over queries, keys and values, four taps without a bias before their silu, as in the code of
its authors (fla/layers/delta_net.py of github.com/fla-org/flash-linear-attention).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from suite.mixers import MatrixRecurrence
from suite.ops import convolution, implementations, initial, multihead, precision

NAME = "DeltaNet"
FAMILY = "delta"
STATE = "matrix"


class Mixer(MatrixRecurrence):
    """S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, y_t = S_t^T q_t, then a norm and a projection.

    Queries and keys are silu of a product, at length 1; values are silu of a product. beta lies in (0, 1), and in
    (0, 2) with `allow_neg_eigval` (Grazzi et al. 2024): a reflection, which a parity needs. `taps` 0 is without short
    convolution.
    """

    family = FAMILY
    n_heads: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    allow_neg_eigval: bool = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DE: Float[Array, "D E"]  # order: queries, keys, values
    taps_CE: Float[Array, "C E"] | None  # the same
    beta_DH: Float[Array, "D H"]
    norm_F: Float[Array, " F"]
    out_FD: Float[Array, "F D"]

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        heads: int = 4,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
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
        input_key, beta_key, out_key, taps_key = jax.random.split(key, 4)
        self.input_DE = initial.dense(input_key, width, width, 2 * keys + inner)
        self.taps_CE = convolution.taps(taps_key, taps, 2 * keys + inner)
        self.beta_DH = initial.dense(beta_key, width, width, heads)
        self.norm_F = jnp.ones(inner, jnp.float32)
        self.out_FD = initial.dense(out_key, inner, inner, width)

    def project(
        self,
        x_BTD: Float[Array, "B T D"],
        past_BPE: Float[Array, "B P E"] | None,
        starts_BT: Bool[Array, "B T"] | None = None,
    ) -> tuple[tuple[Array | None, ...], jnp.dtype, Float[Array, "B P E"] | None]:
        """Queries, keys, values, and beta (wide); no decays."""
        dtype, wide, keys = x_BTD.dtype, precision.wide(x_BTD.dtype), self.n_heads * self.key_size
        qkv_BTF, past_BPE = convolution.extend(
            x_BTD @ self.input_DE.astype(dtype), past_BPE, self.taps_CE, starts_BT=starts_BT
        )
        q_BTF, k_BTF, v_BTF = jnp.split(jax.nn.silu(qkv_BTF), (keys, 2 * keys), axis=-1)
        q_BTHK, k_BTHK, v_BTHP = (multihead.split(part_BTF, self.n_heads) for part_BTF in (q_BTF, k_BTF, v_BTF))
        beta_BTH = jax.nn.sigmoid(jnp.matmul(x_BTD, self.beta_DH.astype(dtype), preferred_element_type=wide))
        beta_BTH = 2 * beta_BTH if self.allow_neg_eigval else beta_BTH
        return (multihead.unit(q_BTHK), multihead.unit(k_BTHK), v_BTHP, beta_BTH, None), dtype, past_BPE

    def merge(self, y_BTHP: Float[Array, "B T H P"], rest: jnp.dtype) -> Float[Array, "B T D"]:
        return multihead.rms_norm(y_BTHP, self.norm_F).astype(rest) @ self.out_FD.astype(rest)
