"""cuDNN's LSTM, by JAX's own binding: on NVIDIA GPUs, float32 only, all of the layer with its input projection."""

from typing import Any

import jax.numpy as jnp
from jax.experimental import rnn
from jaxtyping import Array, Float

from suite import mesh as meshes

State = tuple[Float[Array, "B N"], Float[Array, "B N"]]


def lstm(cell: Any, x_BTD: Float[Array, "B T D"], weights: Any, state: State) -> tuple[Float[Array, "B T N"], State]:
    """Outputs of all tokens and the last state; ValueError for another dtype than float32."""
    del cell  # it has its own
    if x_BTD.dtype != jnp.float32:
        raise ValueError(f"cuDNN's LSTM wants float32 and not {x_BTD.dtype}; take implementation=factors")

    def run(x_BTD: Array, weights: Array, h_BN: Array, c_BN: Array) -> tuple[Array, Array, Array]:
        batch, length, width = x_BTD.shape
        lengths_B = jnp.full(batch, length, jnp.int32)
        results: Any = rnn.lstm(x_BTD, h_BN[None], c_BN[None], weights, lengths_B, width, h_BN.shape[-1], 1, 0.0, False)
        y_BTN, h_1BN, c_1BN = results
        return y_BTN, h_1BN[0], c_1BN[0]

    y_BTN, h_BN, c_BN = meshes.sharded(run, (0, None, 0, 0), (0, 0, 0))(
        x_BTD, flat(weights.input_DG, weights.recurrent_HKG[0], *weights.biases), *state
    )
    return y_BTN, (h_BN, c_BN)


def flat(
    input_DG: Float[Array, "D G"], recurrent_NG: Float[Array, "N G"], bias_G: Float[Array, " G"]
) -> Float[Array, " W"]:
    """All weights as cuDNN has them: gates are rows, in our order; of its two biases the second is 0."""
    return jnp.concatenate([input_DG.T.ravel(), recurrent_NG.T.ravel(), bias_G, jnp.zeros_like(bias_G)])
