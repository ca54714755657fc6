"""How weights start."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def dense(key: PRNGKeyArray, fan_in: int, *shape: int) -> Float[Array, "..."]:
    """Normal of variance 1 / fan_in (LeCun et al. 1998), float32."""
    return jax.random.normal(key, shape, jnp.float32) / fan_in**0.5


def orthogonal(key: PRNGKeyArray, size: int, heads: int, gates: int) -> Float[Array, "H K G"]:
    """For each head `gates` orthogonal matrices side by side (Saxe et al. 2014): they keep a recurrence's scale."""
    matrices_HGKK = jax.random.orthogonal(key, size, (heads, gates), jnp.float32)
    return jnp.concatenate(jnp.unstack(matrices_HGKK, axis=1), axis=-1)


def time_step(key: PRNGKeyArray, size: int) -> Float[Array, " N"]:
    """Biases whose softplus is spread evenly in the logarithm between 0.001 and 0.1 (Gu and Dao 2023, section 3.6)."""
    step_N = jnp.exp(jax.random.uniform(key, (size,), jnp.float32, math.log(1e-3), math.log(1e-1)))
    return step_N + jnp.log(-jnp.expm1(-step_N))


FORGET_GATES = ("one", "spread", "chrono")
LONGEST = 1000  # tokens, the range of chrono's memories


def forget_gate(how: str, size: int, heads: int) -> Float[Array, " N"]:
    """Biases of the gates that keep the state, (heads * size,): how long a recurrence remembers before any training.

    one: 1, a memory of about 2 tokens (Jozefowicz et al. 2015). spread: evenly from 3 to 6 over the channels of each
    head, memories of 20 to 400 tokens (Beck et al. 2024, xLSTM). chrono: memories from 1 to LONGEST tokens, as many of
    each length, where Tallec and Ollivier 2018 draw them at random. ValueError for another name.
    """
    match how:
        case "one":
            bias_K = jnp.ones(size, jnp.float32)
        case "spread":
            bias_K = jnp.linspace(3.0, 6.0, size, dtype=jnp.float32)
        case "chrono":
            bias_K = jnp.log(jnp.linspace(1.0, LONGEST - 1, size, dtype=jnp.float32))
        case _:
            raise ValueError(f"forget wants one of {', '.join(FORGET_GATES)}; got {how!r}")
    return jnp.tile(bias_K, heads)
