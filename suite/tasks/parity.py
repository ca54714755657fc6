"""Parity of bits: Hahn 2020, "Theoretical Limitations of Self-Attention in Neural Sequence Models"."""

import dataclasses
from typing import ClassVar

import numpy as np

from suite.tasks import Batch, CounterGenerator

START = 2


@dataclasses.dataclass(frozen=True)
class Task:
    """A start token, then random bits; at each the parity of all so far is due: a prefix is an example of its own.

    Without the start token attention could not tell 1 from 11: to a weighted mean, equal tokens are one.

    An example of 8 tokens; a point where nothing is due:

        tokens   2 1 0 0 1 0 1 0
        targets  . 1 1 1 0 0 1 1
    """

    length: int
    seed: int

    vocab: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length {self.length} has no room for a bit after the start token")

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        tokens_BT = CounterGenerator(self.seed, split, ids).integers(2, self.length)
        tokens_BT[:, 0] = 0
        parity_BT = np.cumsum(tokens_BT, axis=1, dtype=np.int32) % 2
        tokens_BT[:, 0] = START
        weights_BT = np.ones(tokens_BT.shape, np.float32)
        weights_BT[:, 0] = 0
        return Batch(tokens_BT, parity_BT, weights_BT)

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        del split  # every target needs the first bit
        return np.tile(np.maximum(np.arange(self.length, dtype=np.int32) - 1, 0), (len(ids), 1))
