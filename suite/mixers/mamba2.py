"""Mamba-2: Dao and Gu 2024, "Transformers are SSMs"; its short convolution is the suite's factor `conv`."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import implementations, initial, matrix, multihead, precision

STATE_KNOB = "d_state"


class Mixer(eqx.Module):
    """S_t = exp(dt A) S_{t-1} + dt B_t x_t^T, y_t = S_t^T C_t + D x_t, then norm(y * silu(z)) and a projection.

    One A < 0 and one dt a head; B and C are shared by the heads of a group. Heads have at most `headdim` channels, and
    there are at least 4, unless `heads` says how many. Models that were released have twice the `d_state`.
    """

    n_heads: int = eqx.field(static=True)
    ngroups: int = eqx.field(static=True)
    d_state: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DF: Float[Array, "D F"]  # order: z, x, B, C
    step_DH: Float[Array, "D H"]
    step_bias_H: Float[Array, " H"]
    rate_H: Float[Array, " H"]  # logarithm of -A
    skip_H: Float[Array, " H"]
    norm_F: Float[Array, " F"]
    out_FD: Float[Array, "F D"]

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        heads: int = 0,
        headdim: int = 64,
        d_state: int = 64,
        expand: float = 2.0,
        ngroups: int = 1,
        implementation: str = "auto",
    ):
        if d_state < 1 or not expand > 0:
            raise ValueError(f"d_state {d_state} wants at least 1 and expand {expand} more than 0")
        heads = multihead.count(expand * width, heads, headdim)
        if ngroups < 1 or heads % ngroups:
            raise ValueError(f"heads {heads} is not a multiple of ngroups {ngroups}")
        implementations.check("matrix", implementation)
        self.n_heads, self.ngroups, self.d_state, self.implementation = heads, ngroups, d_state, implementation
        inner = heads * multihead.size(expand * width, heads)
        input_key, step_key, bias_key, rate_key, out_key = jax.random.split(key, 5)
        self.input_DF = initial.dense(input_key, width, width, 2 * inner + 2 * ngroups * d_state)
        self.step_DH = initial.dense(step_key, width, width, heads)
        self.step_bias_H = initial.time_step(bias_key, heads)
        self.rate_H = jnp.log(jax.random.uniform(rate_key, (heads,), jnp.float32, 1.0, 16.0))
        self.skip_H = jnp.ones(heads, jnp.float32)
        self.norm_F = jnp.ones(inner, jnp.float32)
        self.out_FD = initial.dense(out_key, inner, inner, width)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def ran(self, dtype: jnp.dtype) -> str:
        return implementations.choose("matrix", self.implementation, dtype)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> Float[Array, "B H K P"]:
        del length  # a matrix a head, whatever the context
        value_size = self.norm_F.shape[0] // self.n_heads
        return jnp.zeros((batch, self.n_heads, self.d_state, value_size), precision.wide(dtype))

    def extend(
        self, x_BTD: Float[Array, "B T D"], state_BHKP: Float[Array, "B H K P"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B H K P"]]:
        gate_BTF, x_BTHP, keys_BTGK, queries_BTGK, step_BTH, log_decay_BTH = self._project(x_BTD)
        v_BTHP = (x_BTHP.astype(step_BTH.dtype) * step_BTH[..., None]).astype(x_BTD.dtype)
        y_BTHP, state_BHKP = matrix.recurrence(
            queries_BTGK, keys_BTGK, v_BTHP, log_decay_BTH[..., None], state_BHKP, self.ran(x_BTD.dtype)
        )
        return self._merge(y_BTHP, x_BTHP, gate_BTF), state_BHKP

    def step(
        self, x_BD: Float[Array, "B D"], state_BHKP: Float[Array, "B H K P"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B H K P"]]:
        gate_BF, x_BHP, key_BGK, query_BGK, step_BH, log_decay_BH = self._project(x_BD)
        v_BHP = x_BHP.astype(step_BH.dtype) * step_BH[..., None]
        y_BHP, state_BHKP = matrix.step((query_BGK, key_BGK, v_BHP, jnp.exp(log_decay_BH)[..., None]), state_BHKP)
        return self._merge(y_BHP, x_BHP, gate_BF), state_BHKP

    def _project(
        self, x_D: Float[Array, "*T D"]
    ) -> tuple[
        Float[Array, "*T F"],
        Float[Array, "*T H P"],
        Float[Array, "*T G K"],
        Float[Array, "*T G K"],
        Float[Array, "*T H"],
        Float[Array, "*T H"],
    ]:
        """z, x, B and C in the compute dtype; steps dt and logarithms of decays, wide."""
        dtype, wide = x_D.dtype, precision.wide(x_D.dtype)
        inner, keys = self.norm_F.shape[0], self.ngroups * self.d_state
        gate_F, rest_F = jnp.split(x_D @ self.input_DF.astype(dtype), (inner,), axis=-1)
        x_F, keys_F, queries_F = jnp.split(jax.nn.silu(rest_F), (inner, inner + keys), axis=-1)
        step_H = jnp.matmul(x_D, self.step_DH.astype(dtype), preferred_element_type=wide)
        step_H = jax.nn.softplus(step_H + jnp.broadcast_to(self.step_bias_H, step_H.shape))
        log_decay_H = -step_H * jnp.broadcast_to(jnp.exp(self.rate_H), step_H.shape)
        keys_GK, queries_GK = (multihead.split(part_F, self.ngroups) for part_F in (keys_F, queries_F))
        return gate_F, multihead.split(x_F, self.n_heads), keys_GK, queries_GK, step_H, log_decay_H

    def _merge(
        self, y_HP: Float[Array, "*T H P"], x_HP: Float[Array, "*T H P"], gate_F: Float[Array, "*T F"]
    ) -> Float[Array, "*T D"]:
        dtype, wide = gate_F.dtype, y_HP.dtype
        y_HP = y_HP + jnp.broadcast_to(self.skip_H[:, None], y_HP.shape) * x_HP.astype(wide)
        gated_F = multihead.join(y_HP) * jax.nn.silu(gate_F.astype(wide))
        # One norm over all heads of a group.
        normed_F = multihead.rms_norm(multihead.split(gated_F, self.ngroups), self.norm_F)
        return normed_F.astype(dtype) @ self.out_FD.astype(dtype)
