"""DeltaNet: Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule over Sequence Length"."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.mixers import MatrixRecurrence
from suite.ops import implementations, initial, multihead, precision

NAME = "DeltaNet"
FAMILY = "delta"
STATE = "matrix"


class Mixer(MatrixRecurrence):
    """S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, y_t = S_t^T q_t, then a norm and a projection.

    Queries and keys are silu of a product, at length 1; values are silu of a product. beta lies in (0, 1), and in
    (0, 2) with `allow_neg_eigval` (Grazzi et al. 2024): a reflection, which a parity needs.
    """

    family = FAMILY
    n_heads: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    allow_neg_eigval: bool = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DF: Float[Array, "D F"]  # order: queries, keys, values
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
        implementation: str = "auto",
    ):
        if not (expand_k > 0 and expand_v > 0):
            raise ValueError(f"expand_k {expand_k} and expand_v {expand_v} want more than 0")
        implementations.check(FAMILY, implementation)
        self.n_heads, self.allow_neg_eigval, self.implementation = heads, allow_neg_eigval, implementation
        self.key_size = multihead.size(expand_k * width, heads)
        keys, inner = heads * self.key_size, heads * multihead.size(expand_v * width, heads)
        input_key, beta_key, out_key = jax.random.split(key, 3)
        self.input_DF = initial.dense(input_key, width, width, 2 * keys + inner)
        self.beta_DH = initial.dense(beta_key, width, width, heads)
        self.norm_F = jnp.ones(inner, jnp.float32)
        self.out_FD = initial.dense(out_key, inner, inner, width)

    def project(self, x_D: Float[Array, "*T D"]) -> tuple[tuple[Array | None, ...], jnp.dtype]:
        """Queries, keys, values, and beta (wide); no decays."""
        dtype, wide, keys = x_D.dtype, precision.wide(x_D.dtype), self.n_heads * self.key_size
        q_F, k_F, v_F = jnp.split(jax.nn.silu(x_D @ self.input_DF.astype(dtype)), (keys, 2 * keys), axis=-1)
        q_HK, k_HK, v_HP = (multihead.split(part_F, self.n_heads) for part_F in (q_F, k_F, v_F))
        beta_H = jax.nn.sigmoid(jnp.matmul(x_D, self.beta_DH.astype(dtype), preferred_element_type=wide))
        beta_H = 2 * beta_H if self.allow_neg_eigval else beta_H
        return (multihead.unit(q_HK), multihead.unit(k_HK), v_HP, beta_H, None), dtype

    def merge(self, y_HP: Float[Array, "*T H P"], rest: jnp.dtype) -> Float[Array, "*T D"]:
        return multihead.rms_norm(y_HP, self.norm_F).astype(rest) @ self.out_FD.astype(rest)
