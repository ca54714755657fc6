"""Mamba-2: Dao and Gu 2024, "Transformers are SSMs".

Its short convolution goes over x, B and C, four taps and a bias before their silu, as in the authors' code
(mamba_ssm/modules/mamba2.py of github.com/state-spaces/mamba).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from suite.mixers import MatrixRecurrence
from suite.ops import convolution, implementations, initial, multihead, precision

NAME = "Mamba-2"
FAMILY = "matrix"
STATE = "matrix"
STATE_KNOB = "d_state"


class Mixer(MatrixRecurrence):
    """S_t = exp(dt A) S_{t-1} + dt B_t x_t^T, y_t = S_t^T C_t + D x_t, then norm(y * silu(z)) and a projection.

    One A < 0 and one dt a head; B and C are shared by the heads of a group. Heads have at most `headdim` channels, and
    there are at least 4, unless `heads` says how many. Models that were released have twice the `d_state`. `taps` 0 is
    without short convolution.
    """

    family = FAMILY
    n_heads: int = eqx.field(static=True)
    ngroups: int = eqx.field(static=True)
    key_size: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DE: Float[Array, "D E"]  # order: z, x, B, C
    taps_CE: Float[Array, "C E"] | None  # order: x, B, C
    taps_bias_E: Float[Array, " E"] | None
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
        taps: int = 4,
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
        input_key, step_key, bias_key, rate_key, out_key, taps_key = jax.random.split(key, 6)
        self.input_DE = initial.dense(input_key, width, width, 2 * inner + 2 * ngroups * d_state)
        self.taps_CE = convolution.taps(taps_key, taps, inner + 2 * ngroups * d_state)
        self.taps_bias_E = jnp.zeros(inner + 2 * ngroups * d_state, jnp.float32) if taps else None
        self.step_DH = initial.dense(step_key, width, width, heads)
        self.step_bias_H = initial.time_step(bias_key, heads)
        self.rate_H = jnp.log(jax.random.uniform(rate_key, (heads,), jnp.float32, 1.0, 16.0))
        self.skip_H = jnp.ones(heads, jnp.float32)
        self.norm_F = jnp.ones(inner, jnp.float32)
        self.out_FD = initial.dense(out_key, inner, inner, width)

    def project(
        self,
        x_BTD: Float[Array, "B T D"],
        past_BPE: Float[Array, "B P E"] | None,
        starts_BT: Bool[Array, "B T"] | None = None,
    ) -> tuple[tuple[Array, ...], tuple[Array, Array], Float[Array, "B P E"] | None]:
        """C and B, then dt x and logarithms of decays, which are wide; x and z."""
        dtype, wide = x_BTD.dtype, precision.wide(x_BTD.dtype)
        inner, keys = self.norm_F.shape[0], self.ngroups * self.key_size
        gate_BTF, rest_BTF = jnp.split(x_BTD @ self.input_DE.astype(dtype), (inner,), axis=-1)
        rest_BTF, past_BPE = convolution.extend(rest_BTF, past_BPE, self.taps_CE, self.taps_bias_E, starts_BT=starts_BT)
        x_BTF, keys_BTF, queries_BTF = jnp.split(jax.nn.silu(rest_BTF), (inner, inner + keys), axis=-1)
        step_BTH = jnp.matmul(x_BTD, self.step_DH.astype(dtype), preferred_element_type=wide)
        step_BTH = jax.nn.softplus(step_BTH + jnp.broadcast_to(self.step_bias_H, step_BTH.shape))
        log_decay_BTH = -step_BTH * jnp.broadcast_to(jnp.exp(self.rate_H), step_BTH.shape)
        keys_BTGK, queries_BTGK = (multihead.split(part_BTF, self.ngroups) for part_BTF in (keys_BTF, queries_BTF))
        x_BTHP = multihead.split(x_BTF, self.n_heads)
        inputs = (queries_BTGK, keys_BTGK, x_BTHP.astype(wide) * step_BTH[..., None], log_decay_BTH[..., None])
        return inputs, (x_BTHP, gate_BTF), past_BPE

    def merge(self, y_BTHP: Float[Array, "B T H P"], rest: tuple[Array, Array]) -> Float[Array, "B T D"]:
        x_BTHP, gate_BTF = rest
        dtype, wide = gate_BTF.dtype, y_BTHP.dtype
        y_BTHP = y_BTHP + jnp.broadcast_to(self.skip_H[:, None], y_BTHP.shape) * x_BTHP.astype(wide)
        gated_BTF = multihead.join(y_BTHP) * jax.nn.silu(gate_BTF.astype(wide))
        # One norm over all heads of a group.
        normed_BTF = multihead.rms_norm(multihead.split(gated_BTF, self.ngroups), self.norm_F)
        return normed_BTF.astype(dtype) @ self.out_FD.astype(dtype)
