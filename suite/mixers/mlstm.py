"""mLSTM: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory"; its MLP is the block's, as in xLSTM 7B."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import exponential, implementations, initial, multihead, precision


class Mixer(eqx.Module):
    """A matrix memory under exponential input gates, read by queries: o_t * norm(C_t^T q_t / max(abs(n_t^T q_t), 1)).

    C_t = f C_{t-1} + i k_t v_t^T and n_t = f n_{t-1} + i k_t, with one i = exp and one f = sigmoid a head. Keys are
    divided by the root of their size; queries and keys have `qk_dim_factor` of the width.
    """

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
        implementations.check("matrix", implementation)
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

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def ran(self, dtype: jnp.dtype) -> str:
        return implementations.choose("matrix", self.implementation, dtype)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> exponential.State:
        del length  # a matrix, a vector and a number a head, whatever the context
        value_size = self.norm_F.shape[0] // self.n_heads
        memory_BHKP = jnp.zeros((batch, self.n_heads, self.key_size, value_size), precision.wide(dtype))
        return memory_BHKP, memory_BHKP[..., 0], jnp.full_like(memory_BHKP[..., 0, 0], -jnp.inf)

    def extend(
        self, x_BTD: Float[Array, "B T D"], state: exponential.State
    ) -> tuple[Float[Array, "B T D"], exponential.State]:
        q_BTHK, k_BTHK, v_BTHP, log_input_BTH, log_forget_BTH, gate_BTF = self._project(x_BTD)
        implementation = self.ran(x_BTD.dtype)
        y_BTHP, state = exponential.recurrence(
            q_BTHK, k_BTHK, v_BTHP, log_input_BTH, log_forget_BTH, state, implementation
        )
        return self._merge(y_BTHP, gate_BTF), state

    def step(
        self, x_BD: Float[Array, "B D"], state: exponential.State
    ) -> tuple[Float[Array, "B D"], exponential.State]:
        q_BHK, k_BHK, v_BHP, log_input_BH, log_forget_BH, gate_BF = self._project(x_BD)
        y_BHP, state = exponential.step((q_BHK, k_BHK, v_BHP, log_input_BH, log_forget_BH), state)
        return self._merge(y_BHP, gate_BF), state

    def _project(
        self, x_D: Float[Array, "*T D"]
    ) -> tuple[
        Float[Array, "*T H K"],
        Float[Array, "*T H K"],
        Float[Array, "*T H P"],
        Float[Array, "*T H"],
        Float[Array, "*T H"],
        Float[Array, "*T F"],
    ]:
        """Queries, keys, values, logarithms of the input and forget gates (wide), output gates before their sigmoid."""
        dtype, wide = x_D.dtype, precision.wide(x_D.dtype)
        keys, inner = self.n_heads * self.key_size, self.norm_F.shape[0]
        q_F, k_F, v_F, gate_F = jnp.split(x_D @ self.qkv_DF.astype(dtype), (keys, 2 * keys, 2 * keys + inner), axis=-1)
        q_HK, k_HK, v_HP = (multihead.split(x_F, self.n_heads) for x_F in (q_F, k_F, v_F))
        gates_G = jnp.matmul(x_D, self.gate_DG.astype(dtype), preferred_element_type=wide)
        log_input_H, forget_H = jnp.split(gates_G + jnp.broadcast_to(self.gate_bias_G, gates_G.shape), 2, axis=-1)
        return q_HK, k_HK / self.key_size**0.5, v_HP, log_input_H, jax.nn.log_sigmoid(forget_H), gate_F

    def _merge(self, y_HP: Float[Array, "*T H P"], gate_F: Float[Array, "*T F"]) -> Float[Array, "*T D"]:
        dtype = gate_F.dtype
        y_F = multihead.layer_norm(y_HP, self.norm_F).astype(dtype)
        return (jax.nn.sigmoid(gate_F) * y_F) @ self.out_FD.astype(dtype)
