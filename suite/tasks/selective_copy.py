"""Selective copying: Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"."""

import dataclasses

import numpy as np

from suite.tasks import Batch, CounterGenerator

BOUNDS = {"vocab": (2, 65_536)}  # memory for examples and embeddings grows with it


@dataclasses.dataclass(frozen=True)
class Task:
    """A few symbols at random places among blanks; at the marks that end the sequence they are due in their order.

    Tokens: 0 is blank, 1 the mark, the rest are symbols.

    An example of 10 tokens with vocab=6,symbols=3; a point where nothing is due:

        tokens   0 5 0 5 0 3 0 1 1 1
        targets  . . . . . . . 5 5 3
    """

    length: int
    seed: int
    vocab: int = 18
    symbols: int = 8

    def __post_init__(self) -> None:
        if self.vocab < 3:
            raise ValueError(f"vocab {self.vocab} wants a blank, a mark and at least one symbol")
        if self.symbols < 1 or 2 * self.symbols > self.length:
            raise ValueError(f"{self.symbols} symbols and as many marks do not fit into length {self.length}")

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        return self._examples(split, ids)[0]

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        return self._examples(split, ids)[1]

    def _examples(self, split: str, ids: np.ndarray) -> tuple[Batch, np.ndarray]:
        draws = CounterGenerator(self.seed, split, ids)
        first = self.length - self.symbols
        string_BS = 2 + draws.integers(self.vocab - 2, self.symbols)
        places_BS = np.sort(draws.sample(first, self.symbols), axis=1)
        tokens_BT = np.zeros((len(string_BS), self.length), np.int32)
        targets_BT, distances_BT = np.zeros_like(tokens_BT), np.zeros_like(tokens_BT)
        tokens_BT[np.arange(len(string_BS))[:, None], places_BS] = string_BS
        tokens_BT[:, first:] = 1
        targets_BT[:, first:] = string_BS
        distances_BT[:, first:] = np.arange(first, self.length)[None] - places_BS
        return Batch(tokens_BT, targets_BT, (distances_BT > 0).astype(np.float32)), distances_BT
