"""Multi-query associative recall: Arora et al. 2023, "Zoology: Measuring and Improving Recall"."""

import dataclasses

import numpy as np

from suite.tasks import Batch, generator


@dataclasses.dataclass(frozen=True)
class Task:
    """Key-value pairs, then each key once more among filler; at its second showing the key's value is due.

    Tokens: 0 is filler, the lower half of the rest are keys, the upper half values. Queries stand on even positions of
    the remaining tokens, drawn without replacement, so the distance from pair to query varies up to the whole length.
    """

    length: int
    seed: int
    vocab: int = 64
    pairs: int = 8

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ValueError(f"pairs {self.pairs} wants at least 1")
        if 4 * self.pairs > self.length:
            raise ValueError(
                f"{self.pairs} pairs and as many queries need {4 * self.pairs} tokens; length is {self.length}"
            )
        if self.pairs > self.keys:
            raise ValueError(f"{self.pairs} pairs need as many keys; vocab {self.vocab} has {self.keys}")

    @property
    def keys(self) -> int:
        return (self.vocab - 1) // 2

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        examples = [self._example(generator(self.seed, split, int(example))) for example in ids]
        tokens_BT, targets_BT, weights_BT = (np.stack(part) for part in zip(*examples, strict=True))
        return Batch(tokens_BT, targets_BT, weights_BT)

    def _example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        keys_P = 1 + rng.choice(self.keys, self.pairs, replace=False).astype(np.int32)
        values_P = 1 + self.keys + rng.choice(self.keys, self.pairs, replace=False).astype(np.int32)
        tokens_T = np.zeros(self.length, np.int32)
        targets_T = np.zeros(self.length, np.int32)
        weights_T = np.zeros(self.length, np.float32)
        shown = 2 * self.pairs
        tokens_T[0:shown:2] = keys_P
        tokens_T[1:shown:2] = values_P
        queries_P = shown + 2 * rng.choice((self.length - shown) // 2, self.pairs, replace=False)
        tokens_T[queries_P] = keys_P
        targets_T[queries_P] = values_P
        weights_T[queries_P] = 1.0
        return tokens_T, targets_T, weights_T
