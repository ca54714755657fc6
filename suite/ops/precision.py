"""The dtype in which sums, norms and carries are kept."""

import jax.numpy as jnp
from jax.typing import DTypeLike


def wide(dtype: DTypeLike) -> jnp.dtype:
    """float32, and float64 where the inputs are float64.

    Narrow inputs are widened: in bfloat16 1 + 1/256 == 1, and a slow state would stop moving. float64 stays as it is:
    it is there to follow gradients below 1e-45, where float32 ends.
    """
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)
