"""LRU: Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences"."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.ops import implementations, initial, linear, precision

STATE_KNOB = "d_hidden"
State = tuple[Float[Array, "B N"], Float[Array, "B N"]]


class Mixer(eqx.Module):
    """h_t = lambda h_{t-1} + gamma B x_t with complex lambda inside the unit circle; the output is Re(C h) + d x.

    Complex numbers are carried as two real ones. The paper's gated layer after it is the block's MLP.
    """

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
        implementations.check("complex", implementation)
        self.implementation = implementation
        size = d_hidden or width
        input_key, out_key, radius_key, phase_key, skip_key = jax.random.split(key, 5)
        self.input_DG = initial.dense(input_key, 2 * width, width, 2 * size)  # each part half of B's variance
        self.out_GD = initial.dense(out_key, size, 2 * size, width)
        # Uniform on the ring between the two radii.
        square_N = jax.random.uniform(radius_key, (size,), jnp.float32, r_min**2, r_max**2)
        self.decay_N = jnp.log(-0.5 * jnp.log(square_N))
        self.phase_N = jnp.log(jax.random.uniform(phase_key, (size,), jnp.float32, 1e-3, 1.0) * max_phase)
        self.gain_N = 0.5 * jnp.log1p(-square_N)
        self.skip_D = initial.dense(skip_key, 1, width)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def ran(self, dtype: jnp.dtype) -> str:
        return implementations.choose("complex", self.implementation, dtype)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> State:
        del length  # one complex vector, whatever the context
        zero_BN = jnp.zeros((batch, self.decay_N.shape[0]), precision.wide(dtype))
        return zero_BN, zero_BN

    def extend(self, x_BTD: Float[Array, "B T D"], state: State) -> tuple[Float[Array, "B T D"], State]:
        h_BTN = linear.complex_recurrence(self._decay(), self._input(x_BTD), state, self.ran(x_BTD.dtype))
        real_BTN, imaginary_BTN = h_BTN
        return self._output(x_BTD, h_BTN), (real_BTN[:, -1], imaginary_BTN[:, -1])

    def step(self, x_BD: Float[Array, "B D"], state: State) -> tuple[Float[Array, "B D"], State]:
        h_BN = linear.complex_step(self._decay(), self._input(x_BD), state)
        return self._output(x_BD, h_BN), h_BN

    def _decay(self) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        radius_N, phase_N = jnp.exp(-jnp.exp(self.decay_N)), jnp.exp(self.phase_N)
        return radius_N * jnp.cos(phase_N), radius_N * jnp.sin(phase_N)

    def _input(self, x_D: Float[Array, "... D"]) -> tuple[Float[Array, "... N"], Float[Array, "... N"]]:
        input_G = (x_D @ self.input_DG.astype(x_D.dtype)).astype(precision.wide(x_D.dtype))
        real_N, imaginary_N = jnp.split(input_G, 2, axis=-1)
        gain_N = jnp.broadcast_to(jnp.exp(self.gain_N), real_N.shape)
        return gain_N * real_N, gain_N * imaginary_N

    def _output(
        self, x_D: Float[Array, "... D"], h_N: tuple[Float[Array, "... N"], Float[Array, "... N"]]
    ) -> Float[Array, "... D"]:
        h_G = jnp.concatenate(h_N, axis=-1).astype(x_D.dtype)
        return h_G @ self.out_GD.astype(x_D.dtype) + jnp.broadcast_to(self.skip_D, x_D.shape).astype(x_D.dtype) * x_D
