"""A needle in a haystack: Kamradt 2023, "Needle In A Haystack - Pressure Testing LLMs", as keys and values."""

import dataclasses

import numpy as np

from suite.tasks import Batch, CounterGenerator

BOUNDS = {"vocab": (2, 65_536)}  # memory for examples and embeddings grows with it


@dataclasses.dataclass(frozen=True)
class Task:
    """One key-value pair at `depth` of a haystack of random tokens; the last token is the key, and its value is due.

    Depth 0 is the beginning, 1 the end, right before the question; -1 draws it anew for each example. Tokens: the lower
    quarter are keys, the next quarter values, the upper half hay.

    An example of 9 tokens with vocab=16; a point where nothing is due:

        tokens   10 11 12 11  8  9  1  5  1
        targets   .  .  .  .  .  .  .  .  5
    """

    length: int
    seed: int
    vocab: int = 64
    depth: float = -1.0

    def __post_init__(self) -> None:
        if self.vocab < 4:
            raise ValueError(f"vocab {self.vocab} wants at least 4: a key, a value and hay")
        if self.length < 3:
            raise ValueError(f"length {self.length} has no room for a key, its value and the question")
        if self.depth != -1 and not 0 <= self.depth <= 1:
            raise ValueError(f"depth {self.depth} wants 0 to 1, or -1 to draw it")

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        return self._examples(split, ids)[0]

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        return self._examples(split, ids)[1]

    def _examples(self, split: str, ids: np.ndarray) -> tuple[Batch, np.ndarray]:
        draws = CounterGenerator(self.seed, split, ids)
        quarter = self.vocab // 4
        key_B, value_B = draws.integers(quarter, 1)[:, 0], quarter + draws.integers(quarter, 1)[:, 0]
        tokens_BT = 2 * quarter + draws.integers(self.vocab - 2 * quarter, self.length)
        latest = self.length - 3
        drawn_B = draws.integers(latest + 1, 1)[:, 0]
        at_B = drawn_B if self.depth == -1 else np.full_like(drawn_B, round(self.depth * latest))
        row_B = np.arange(len(key_B))
        tokens_BT[row_B, at_B], tokens_BT[row_B, at_B + 1], tokens_BT[:, -1] = key_B, value_B, key_B
        targets_BT, distances_BT = np.zeros_like(tokens_BT), np.zeros_like(tokens_BT)
        targets_BT[:, -1], distances_BT[:, -1] = value_B, self.length - 1 - at_B
        return Batch(tokens_BT, targets_BT, (distances_BT > 0).astype(np.float32)), distances_BT
