"""Parity of bits: Hahn 2020, "Theoretical Limitations of Self-Attention in Neural Sequence Models"."""

import dataclasses
from typing import ClassVar

import numpy as np

from suite.tasks import Batch, Draws


@dataclasses.dataclass(frozen=True)
class Task:
    """Random bits; at every one the parity of all bits so far is due, so each prefix is an example of its length."""

    length: int
    seed: int

    vocab: ClassVar[int] = 2

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        tokens_BT = Draws(self.seed, split, ids).integers(2, self.length)
        parity_BT = np.cumsum(tokens_BT, axis=1, dtype=np.int32) % 2
        return Batch(tokens_BT, parity_BT, np.ones(tokens_BT.shape, np.float32))

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        del split  # every target needs the first bit
        return np.tile(np.arange(self.length, dtype=np.int32), (len(ids), 1))
