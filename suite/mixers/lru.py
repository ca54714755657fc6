"""LRU: Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences"."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.mixers import DiagonalRecurrence
from suite.ops import complex, implementations, initial, precision

NAME = "the LRU"
FAMILY = "complex"
STATE = "diagonal"
STATE_KNOB = "d_hidden"


class Mixer(DiagonalRecurrence):
    """h_t = lambda h_{t-1} + gamma B x_t with complex lambda inside the unit circle; the output is Re(C h) + d x.

    Complex numbers are carried as two real ones. The paper's gated layer after it is the block's MLP.
    """

    family = FAMILY
    size: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DG: Float[Array, "D G"]  # real parts of B, imaginary parts of B
    out_GD: Float[Array, "G D"]  # real parts of C, minus the imaginary parts of C
    decay_N: Float[Array, " N"]  # lambda = exp(-exp(decay) + i exp(phase))
    phase_N: Float[Array, " N"]
    gain_N: Float[Array, " N"]  # logarithm of gamma
    skip_D: Float[Array, " D"]

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        d_hidden: int = 0,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 6.28,
        implementation: str = "auto",
    ):
        if not 0 < r_min < r_max < 1:
            raise ValueError(f"r_min {r_min} and r_max {r_max} want 0 < r_min < r_max < 1")
        if d_hidden < 0 or not max_phase > 0:
            raise ValueError(f"d_hidden {d_hidden} wants at least 0 and max_phase {max_phase} more than 0")
        implementations.check(FAMILY, implementation)
        size = d_hidden or width
        self.size, self.implementation = size, implementation
        input_key, out_key, radius_key, phase_key, skip_key = jax.random.split(key, 5)
        self.input_DG = initial.dense(input_key, 2 * width, width, 2 * size)  # each part half of B's variance
        self.out_GD = initial.dense(out_key, size, 2 * size, width)
        # Uniform on the ring between the two radii.
        square_N = jax.random.uniform(radius_key, (size,), jnp.float32, r_min**2, r_max**2)
        self.decay_N = jnp.log(-0.5 * jnp.log(square_N))
        self.phase_N = jnp.log(jax.random.uniform(phase_key, (size,), jnp.float32, 1e-3, 1.0) * max_phase)
        self.gain_N = 0.5 * jnp.log1p(-square_N)
        self.skip_D = initial.dense(skip_key, 1, width)

    def gates(self, x_D: Float[Array, "*T D"]) -> tuple[complex.Complex, complex.Complex, Float[Array, "*T D"]]:
        """The decay, which is the same at all tokens, and the inputs; x for the skip."""
        radius_N, phase_N = jnp.exp(-jnp.exp(self.decay_N)), jnp.exp(self.phase_N)
        input_G = (x_D @ self.input_DG.astype(x_D.dtype)).astype(precision.wide(x_D.dtype))
        real_N, imaginary_N = jnp.split(input_G, 2, axis=-1)
        gain_N = jnp.broadcast_to(jnp.exp(self.gain_N), real_N.shape)
        decay_N = (radius_N * jnp.cos(phase_N), radius_N * jnp.sin(phase_N))
        return decay_N, (gain_N * real_N, gain_N * imaginary_N), x_D

    def output(self, h_N: complex.Complex, rest: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        y_D = jnp.concatenate(h_N, axis=-1) @ self.out_GD.astype(rest.dtype)
        return y_D + jnp.broadcast_to(self.skip_D, rest.shape).astype(rest.dtype) * rest
