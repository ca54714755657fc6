"""Copying a string: Jelassi et al. 2024, "Repeat After Me: Transformers are Better than State Space Models"."""

import dataclasses

import numpy as np

from suite.tasks import Batch, CounterGenerator

BOUNDS = {"vocab": (2, 65_536)}  # memory for examples and embeddings grows with it


@dataclasses.dataclass(frozen=True)
class Task:
    """Random symbols up to the middle, a separator, and the same symbols again, each due when the one before is read.

    Tokens: 0 is the separator, the rest are symbols. Every target lies as far from its source as the string is long.

    An example of 8 tokens with vocab=5; a point where nothing is due:

        tokens   3 4 3 4 0 3 4 3
        targets  . . . . 3 4 3 4
    """

    length: int
    seed: int
    vocab: int = 17

    def __post_init__(self) -> None:
        if self.vocab < 3:
            raise ValueError(f"vocab {self.vocab} wants a separator and at least two symbols")
        if self.length < 2:
            raise ValueError(f"length {self.length} has no room for a symbol and its copy")

    @property
    def symbols(self) -> int:
        return self.length // 2

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        symbols = self.symbols
        string_BS = 1 + CounterGenerator(self.seed, split, ids).integers(self.vocab - 1, symbols)
        tokens_BT = np.zeros((len(string_BS), self.length), np.int32)
        targets_BT, weights_BT = np.zeros_like(tokens_BT), np.zeros(tokens_BT.shape, np.float32)
        tokens_BT[:, :symbols] = string_BS
        tokens_BT[:, symbols + 1 : 2 * symbols] = string_BS[:, :-1]
        targets_BT[:, symbols : 2 * symbols] = string_BS
        weights_BT[:, symbols : 2 * symbols] = 1
        return Batch(tokens_BT, targets_BT, weights_BT)

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        return self.symbols * self.batch(split, ids).weights_BT.astype(np.int32)
