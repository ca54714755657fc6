"""h_t = a_t h_{t-1} + b_t on a TPU, in one pass over memory: what an associative scan makes log2 T passes for.

The gradient is the same recurrence from the last token to the first, by the same kernel.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from suite import mesh as meshes

ROWS = 8  # examples, tokens of a register, and registers' worth of both in a piece: 3 arrays of 1 MiB, each twice
TOKENS = 128
LANES = 256


@jax.custom_vjp
def scan(
    decay_BTN: Float[Array, "B T N"], input_BTN: Float[Array, "B T N"], h_BN: Float[Array, "B N"]
) -> Float[Array, "B T N"]:
    """All states from h_0 = `h_BN`."""
    return _sharded(decay_BTN, input_BTN, h_BN, reverse=False)


def _forward(
    decay_BTN: Float[Array, "B T N"], input_BTN: Float[Array, "B T N"], h_BN: Float[Array, "B N"]
) -> tuple[Float[Array, "B T N"], tuple[Array, ...]]:
    h_BTN = _sharded(decay_BTN, input_BTN, h_BN, reverse=False)
    return h_BTN, (decay_BTN, h_BTN, h_BN)


def _backward(
    kept: tuple[Array, ...], change_BTN: Float[Array, "B T N"]
) -> tuple[Float[Array, "B T N"], Float[Array, "B T N"], Float[Array, "B N"]]:
    """g_t = dy_t + a_{t+1} g_{t+1}; then b_t changes by g_t, a_t by g_t h_{t-1} and h_0 by a_1 g_1."""
    decay_BTN, h_BTN, first_BN = kept
    next_BTN = jnp.concatenate([decay_BTN[:, 1:], jnp.zeros_like(decay_BTN[:, :1])], axis=1)
    change_BTN = _sharded(next_BTN, change_BTN, jnp.zeros_like(first_BN), reverse=True)
    before_BTN = jnp.concatenate([first_BN[:, None], h_BTN[:, :-1]], axis=1)
    return change_BTN * before_BTN, change_BTN, decay_BTN[:, 0] * change_BTN[:, 0]


scan.defvjp(_forward, _backward)


def _sharded(
    decay_BTN: Float[Array, "B T N"], input_BTN: Float[Array, "B T N"], h_BN: Float[Array, "B N"], *, reverse: bool
) -> Float[Array, "B T N"]:
    def run(decay_BTN: Array, input_BTN: Array, h_BN: Array) -> Array:
        return _scan(decay_BTN, input_BTN, h_BN, reverse=reverse)

    return meshes.sharded(run, (0, 0, 0), 0)(decay_BTN, input_BTN, h_BN)


def _scan(
    decay_BTN: Float[Array, "B T N"], input_BTN: Float[Array, "B T N"], h_BN: Float[Array, "B N"], *, reverse: bool
) -> Float[Array, "B T N"]:
    """A grid over examples and channels and, in order, over time; one row of eight of a register at a time."""
    batch, length, width = input_BTN.shape
    # Zeros after the last token change nothing, from either end.
    filled = -length % ROWS
    decay_BTN, input_BTN = (jnp.pad(x_BTN, ((0, 0), (0, filled), (0, 0))) for x_BTN in (decay_BTN, input_BTN))
    # A whole number of pieces: what lies beyond the last token of a piece cut short is not zero.
    tokens = next(tokens for tokens in range(TOKENS, 0, -ROWS) if (length + filled) % tokens == 0)
    rows, lanes, pieces = min(batch, ROWS), min(width, LANES), (length + filled) // tokens

    def kernel(decay_ref: Any, input_ref: Any, first_ref: Any, all_ref: Any, h_ref: Any) -> None:
        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            h_ref[...] = first_ref[...]

        def turn(done: Int[Array, ""], h_B1N: Float[Array, "B 1 N"]) -> Float[Array, "B 1 N"]:
            start = (tokens // ROWS - 1 - done if reverse else done) * ROWS
            at = (slice(None), pl.ds(pl.multiple_of(start, ROWS), ROWS), slice(None))
            decay_BRN, input_BRN = decay_ref[at], input_ref[at]
            states: list[Any] = [None] * ROWS
            for row in reversed(range(ROWS)) if reverse else range(ROWS):
                h_B1N = decay_BRN[:, row : row + 1] * h_B1N + input_BRN[:, row : row + 1]
                states[row] = h_B1N
            all_ref[at] = jnp.concatenate(states, axis=1)
            return h_B1N

        h_ref[...] = jax.lax.fori_loop(0, tokens // ROWS, turn, h_ref[...])

    def index(rows: Any, lanes: Any, turn: Any) -> tuple[Any, Any, Any]:
        return rows, pieces - 1 - turn if reverse else turn, lanes

    of_tokens = pl.BlockSpec((rows, tokens, lanes), index)
    h_BTN = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(batch, rows), pl.cdiv(width, lanes), pieces),
        in_specs=[of_tokens, of_tokens, pl.BlockSpec((rows, 1, lanes), lambda rows, lanes, turn: (rows, 0, lanes))],
        out_specs=of_tokens,
        out_shape=jax.ShapeDtypeStruct(input_BTN.shape, input_BTN.dtype),
        scratch_shapes=[pltpu.VMEM((rows, 1, lanes), input_BTN.dtype)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=meshes.platform() != "tpu",
    )(decay_BTN, input_BTN, h_BN[:, None])
    return h_BTN[:, :length]
