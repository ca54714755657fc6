"""Causal depthwise convolution: a few taps over the last tokens of each channel."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def causal(
    x_BTD: Float[Array, "B T D"], past_BPD: Float[Array, "B P D"], taps_CD: Float[Array, "C D"]
) -> Float[Array, "B T D"]:
    """y_t = sum over k of taps_k * x_{t-k}; `past_BPD` holds the inputs before the first token (taps - 1)."""
    length = x_BTD.shape[1]
    long_BSD = jnp.concatenate([past_BPD, x_BTD], axis=1)
    last = taps_CD.shape[0] - 1
    return sum(
        (
            taps_CD[tap].astype(x_BTD.dtype)[None, None] * long_BSD[:, last - tap : last - tap + length]
            for tap in range(taps_CD.shape[0])
        ),
        start=jnp.zeros_like(x_BTD),
    )
