"""Mamba-2: Dao and Gu 2024, "Transformers are SSMs"; its short convolution is the suite's factor `conv`."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.mixers import MatrixRecurrence
from suite.ops import implementations, initial, multihead, precision

NAME = "Mamba-2"
FAMILY = "matrix"
STATE = "matrix"
STATE_KNOB = "d_state"


class Mixer(MatrixRecurrence):
    """S_t = exp(dt A) S_{t-1} + dt B_t x_t^T, y_t = S_t^T C_t + D x_t, then norm(y * silu(z)) and a projection.

    One A < 0 and one dt a head; B and C are shared by the heads of a group. Heads have at most `headdim` channels, and
    there are at least 4, unless `heads` says how many. Models that were released have twice the `d_state`.
    """

    family = FAMILY
    n_heads: int = eqx.field(static=True)
    ngroups: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
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
        implementations.check(FAMILY, implementation)
        self.n_heads, self.ngroups, self.key_size, self.implementation = heads, ngroups, d_state, implementation
        inner = heads * multihead.size(expand * width, heads)
        input_key, step_key, bias_key, rate_key, out_key = jax.random.split(key, 5)
        self.input_DF = initial.dense(input_key, width, width, 2 * inner + 2 * ngroups * d_state)
        self.step_DH = initial.dense(step_key, width, width, heads)
        self.step_bias_H = initial.time_step(bias_key, heads)
        self.rate_H = jnp.log(jax.random.uniform(rate_key, (heads,), jnp.float32, 1.0, 16.0))
        self.skip_H = jnp.ones(heads, jnp.float32)
        self.norm_F = jnp.ones(inner, jnp.float32)
        self.out_FD = initial.dense(out_key, inner, inner, width)

    def project(
        self, x_D: Float[Array, "*T D"]
    ) -> tuple[tuple[Array | None, ...], tuple[Float[Array, "*T H P"], Float[Array, "*T F"]]]:
        """C and B, then dt x and logarithms of decays, which are wide; x and z."""
        dtype, wide = x_D.dtype, precision.wide(x_D.dtype)
        inner, keys = self.norm_F.shape[0], self.ngroups * self.key_size
        gate_F, rest_F = jnp.split(x_D @ self.input_DF.astype(dtype), (inner,), axis=-1)
        x_F, keys_F, queries_F = jnp.split(jax.nn.silu(rest_F), (inner, inner + keys), axis=-1)
        step_H = jnp.matmul(x_D, self.step_DH.astype(dtype), preferred_element_type=wide)
        step_H = jax.nn.softplus(step_H + jnp.broadcast_to(self.step_bias_H, step_H.shape))
        log_decay_H = -step_H * jnp.broadcast_to(jnp.exp(self.rate_H), step_H.shape)
        keys_GK, queries_GK = (multihead.split(part_F, self.ngroups) for part_F in (keys_F, queries_F))
        x_HP = multihead.split(x_F, self.n_heads)
        return (queries_GK, keys_GK, x_HP.astype(wide) * step_H[..., None], log_decay_H[..., None]), (x_HP, gate_F)

    def merge(
        self, y_HP: Float[Array, "*T H P"], rest: tuple[Float[Array, "*T H P"], Float[Array, "*T F"]]
    ) -> Float[Array, "*T D"]:
        x_HP, gate_F = rest
        dtype, wide = gate_F.dtype, y_HP.dtype
        y_HP = y_HP + jnp.broadcast_to(self.skip_H[:, None], y_HP.shape) * x_HP.astype(wide)
        gated_F = multihead.join(y_HP) * jax.nn.silu(gate_F.astype(wide))
        # One norm over all heads of a group.
        normed_F = multihead.rms_norm(multihead.split(gated_F, self.ngroups), self.norm_F)
        return normed_F.astype(dtype) @ self.out_FD.astype(dtype)
