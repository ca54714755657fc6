"""What a TPU kernel over time holds on chip: a piece of the batch and, of its arrays, the tokens of a piece of time."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from suite import mesh as meshes
from suite.ops import implementations

LANES = 128  # of a vector register; the last axis of a block is a multiple of it, or the whole axis
ROWS = 256  # examples of a piece
TOKENS = 64  # the most of them in a piece
ON_CHIP = 100 << 20  # bytes that a kernel may take; v5e, v5p and v6e have 128 MiB of vector memory
FOR_TOKENS = 16 << 20  # of them for what passes through: each piece twice, as one is fetched while the other is used


@dataclasses.dataclass(frozen=True)
class Grid:
    """Pieces of the batch and, for each of them, of time: from the first to the last, or in reverse.

    The sizes are those of arrays (T, B, channels); `token_bytes` is what passes through for a token of an example.
    """

    length: int
    batch: int
    token_bytes: int
    reverse: bool

    @property
    def rows(self) -> int:
        return min(self.batch, ROWS)

    @property
    def tokens(self) -> int:
        return max(1, min(self.length, TOKENS, FOR_TOKENS // (2 * self.rows * self.token_bytes)))

    @property
    def pieces(self) -> int:
        """Of time; the last may be cut short."""
        return pl.cdiv(self.length, self.tokens)

    def of_tokens(self, channels: int) -> pl.BlockSpec:
        def index(rows: Int[Array, ""], turn: Int[Array, ""]) -> tuple[Any, Any, int]:
            return self._piece(turn), rows, 0

        return pl.BlockSpec((self.tokens, self.rows, channels), index)

    def of_states(self, channels: int) -> pl.BlockSpec:
        """The same in all pieces of time: as an output it is the state that is carried on."""
        return pl.BlockSpec((self.rows, channels), lambda rows, turn: (rows, 0))

    def of_weights(self, *shape: int) -> pl.BlockSpec:
        """Fetched once and kept; there is never a second one under way."""
        return pl.BlockSpec(shape, lambda rows, turn: (0,) * len(shape), pipeline_mode=pl.Buffered(1))

    def each_token(self, step: Callable[[Int[Array, ""]], None]) -> None:
        """Within a kernel: `step(token)` for the tokens of the piece, in their order or in reverse."""
        here = jnp.minimum(self.tokens, self.length - self._piece(pl.program_id(1)) * self.tokens)

        def turn(done: Int[Array, ""], carry: None) -> None:
            step(here - 1 - done if self.reverse else done)
            return carry

        jax.lax.fori_loop(0, here, turn, None)

    def call(self, kernel: Callable[..., None], **specs: Any) -> Callable[..., Any]:
        """The kernel over the grid; states are carried from piece to piece of time, but not of the batch."""
        return pl.pallas_call(
            kernel,
            grid=(pl.cdiv(self.batch, self.rows), self.pieces),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=ON_CHIP
            ),
            interpret=meshes.platform() != "tpu",
            **specs,
        )

    def _piece(self, turn: Int[Array, ""]) -> Int[Array, ""]:
        return self.pieces - 1 - turn if self.reverse else turn


def padded(size: int) -> int:
    """The next multiple of the lanes."""
    return pl.cdiv(size, LANES) * LANES


def widen(x_F: Float[Array, "*T F"], parts: int) -> Float[Array, "*T P"]:
    """Equal parts of the last axis, each filled up with zeros to whole lanes."""
    *outer, width = x_F.shape
    size = width // parts
    if size == padded(size):
        return x_F
    x_GK = x_F.reshape(*outer, parts, size)
    x_GK = jnp.pad(x_GK, [(0, 0)] * (len(outer) + 1) + [(0, padded(size) - size)])
    return x_GK.reshape(*outer, parts * padded(size))


def cut(x_P: Float[Array, "*T P"], parts: int, size: int) -> Float[Array, "*T F"]:
    """The first `size` channels of each part: what `widen` filled up."""
    *outer, width = x_P.shape
    if width == parts * size:
        return x_P
    return x_P.reshape(*outer, parts, -1)[..., :size].reshape(*outer, parts * size)


def widen_weight(weight_KG: Float[Array, "K G"], gates: int) -> Float[Array, "P Q"]:
    """A recurrent matrix with both axes filled up; ValueError where it does not stay on chip."""
    size = weight_KG.shape[0]
    weight_KG = widen(jnp.pad(weight_KG, ((0, padded(size) - size), (0, 0))), gates)
    n_bytes = weight_KG.size * weight_KG.dtype.itemsize
    if n_bytes > implementations.ON_CHIP:
        raise ValueError(
            f"recurrent weights of {n_bytes:,} bytes a head do not stay on chip, where {implementations.ON_CHIP:,} do; "
            "take more heads, or implementation=factors"
        )
    return weight_KG
