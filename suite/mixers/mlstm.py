"""mLSTM: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory"; its MLP is the block's, as in xLSTM 7B."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.mixers import MatrixRecurrence
from suite.ops import implementations, initial, multihead, precision

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
    qkv_DF: Float[Array, "D F"]  # order: queries, keys, values, output gates
    gate_DG: Float[Array, "D G"]  # order: input, forget
    gate_bias_G: Float[Array, " G"]
    norm_F: Float[Array, " F"]
    out_FD: Float[Array, "F D"]

    def __init__(
        self, width: int, *, key: PRNGKeyArray, heads: int = 4, qk_dim_factor: float = 0.5, implementation: str = "auto"
    ):
        if not qk_dim_factor > 0:
            raise ValueError(f"qk_dim_factor {qk_dim_factor} wants more than 0")
        implementations.check(FAMILY, implementation)
        self.n_heads, self.implementation = heads, implementation
        self.key_size = multihead.size(qk_dim_factor * width, heads)
        inner = heads * multihead.size(width, heads)
        qkv_key, bias_key, out_key = jax.random.split(key, 3)
        self.qkv_DF = initial.dense(qkv_key, width, width, 2 * heads * self.key_size + 2 * inner)
        # As in the authors' code: gates first see their biases only, and forget gates start between 0.95 and 0.998,
        # so that heads remember for different times.
        self.gate_DG = jnp.zeros((width, 2 * heads), jnp.float32)
        input_H = 0.1 * jax.random.normal(bias_key, (heads,), jnp.float32)
        self.gate_bias_G = jnp.concatenate([input_H, jnp.linspace(3.0, 6.0, heads, dtype=jnp.float32)])
        self.norm_F = jnp.ones(inner, jnp.float32)
        self.out_FD = initial.dense(out_key, inner, inner, width)

    def project(self, x_D: Float[Array, "*T D"]) -> tuple[tuple[Array | None, ...], Float[Array, "*T F"]]:
        """Queries, keys, values and logarithms of both gates (wide); output gates before their sigmoid."""
        dtype, wide = x_D.dtype, precision.wide(x_D.dtype)
        keys, inner = self.n_heads * self.key_size, self.norm_F.shape[0]
        q_F, k_F, v_F, gate_F = jnp.split(x_D @ self.qkv_DF.astype(dtype), (keys, 2 * keys, 2 * keys + inner), axis=-1)
        q_HK, k_HK, v_HP = (multihead.split(x_F, self.n_heads) for x_F in (q_F, k_F, v_F))
        gates_G = jnp.matmul(x_D, self.gate_DG.astype(dtype), preferred_element_type=wide)
        log_input_H, forget_H = jnp.split(gates_G + jnp.broadcast_to(self.gate_bias_G, gates_G.shape), 2, axis=-1)
        return (q_HK, k_HK / self.key_size**0.5, v_HP, log_input_H, jax.nn.log_sigmoid(forget_H)), gate_F

    def merge(self, y_HP: Float[Array, "*T H P"], rest: Float[Array, "*T F"]) -> Float[Array, "*T D"]:
        dtype = rest.dtype
        y_F = multihead.layer_norm(y_HP, self.norm_F).astype(dtype)
        return (jax.nn.sigmoid(rest) * y_F) @ self.out_FD.astype(dtype)
