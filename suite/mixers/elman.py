"""Elman network: Elman 1990, "Finding Structure in Time"."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from suite.mixers import NonlinearRecurrence
from suite.ops import implementations, initial, recurrent

NAME = "the Elman network"
FAMILY = "elman"
STATE = "nonlinear"
VARIANTS = {"start": ("orthogonal", "identity")}


class Mixer(NonlinearRecurrence):
    """h_t = tanh(W x_t + R h_{t-1} + b); the output is h."""

    family, vectors = FAMILY, 1
    remat: bool = eqx.field(static=True)
    dilation: int = eqx.field(static=True)
    implementation: str = eqx.field(static=True)
    input_DN: Float[Array, "D N"]
    recurrent_HKK: Float[Array, "H K K"]
    bias_N: Float[Array, " N"]

    def __init__(
        self,
        width: int,
        *,
        key: PRNGKeyArray,
        heads: int = 1,
        start: str = "orthogonal",
        dilation: int = 1,
        remat: bool = False,
        implementation: str = "auto",
    ):
        recurrent.check(width, heads, dilation)
        implementations.check(FAMILY, implementation)
        if start not in VARIANTS["start"]:
            raise ValueError(f"start wants one of {', '.join(VARIANTS['start'])}; got {start!r}")
        self.remat, self.dilation, self.implementation = remat, dilation, implementation
        input_key, recurrent_key = jax.random.split(key)
        self.input_DN = initial.dense(input_key, width, width, width)
        size = width // heads
        if start == "orthogonal":
            self.recurrent_HKK = initial.orthogonal(recurrent_key, size, heads, 1)
        else:  # the state stays as it is but for tanh and new inputs (Le et al. 2015)
            self.recurrent_HKK = jnp.broadcast_to(jnp.eye(size, dtype=jnp.float32), (heads, size, size))
        self.bias_N = jnp.zeros(width, jnp.float32)

    def cell(
        self, x_BG: Float[Array, "B G"], h_BG: Float[Array, "B G"], biases: recurrent.Biases, state: recurrent.State
    ) -> recurrent.State:
        return (jnp.tanh(x_BG + h_BG + biases[0]),)

    def weights(self) -> recurrent.Weights:
        return recurrent.Weights(self.input_DN, self.recurrent_HKK, (self.bias_N,))
