"""Multi-query associative recall: Arora et al. 2023, "Zoology: Measuring and Improving Recall"."""

import dataclasses

import numpy as np

from suite.tasks import Batch, CounterGenerator

BOUNDS = {"vocab": (2, 65_536), "queries": (0, 65_536)}  # memory for examples and embeddings grows with the vocabulary


@dataclasses.dataclass(frozen=True)
class Task:
    """Key-value pairs, then each key once more among filler; at its second showing the key's value is due.

    Tokens: 0 is blank, the lower half of the rest are keys, the upper half values. At `distance` 0 the queries stand on
    every second place after the pairs, drawn without replacement, so that the distance varies up to the whole length;
    otherwise each stands exactly `distance` tokens after its key, the whole at a random offset: the load stays as it is
    while the distance grows. `density` is the share of the filler that is noise, values that belong to no key. Of the
    pairs `queries` are asked for, 0 for all; the others distract.

    An example of 14 tokens with vocab=9,pairs=3; a point where nothing is due:

        tokens   2 7 3 8 1 6 3 0 2 0 1 0 0 0
        targets  . . . . . . 8 . 7 . 6 . . .
    """

    length: int
    seed: int
    vocab: int = 64
    pairs: int = 8
    distance: int = 0
    density: float = 0.0
    queries: int = 0

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ValueError(f"pairs {self.pairs} wants at least 1")
        if not 0 <= self.density <= 1:
            raise ValueError(f"density {self.density} is a share, wanted 0 to 1")
        if self.queries > self.pairs:
            raise ValueError(f"{self.queries} queries need as many pairs; there are {self.pairs}")
        if self.distance == 0 and 4 * self.pairs > self.length:
            raise ValueError(
                f"{self.pairs} pairs and as many queries need {4 * self.pairs} tokens; length is {self.length}"
            )
        if self.pairs > self.keys:
            raise ValueError(f"{self.pairs} pairs need as many keys; vocab {self.vocab} has {self.keys}")
        if self.distance and self.distance < 2 * self.pairs:
            raise ValueError(f"{self.pairs} pairs lie between key and query: distance wants at least {2 * self.pairs}")
        if self.distance and self.span > self.length:
            raise ValueError(
                f"{self.pairs} pairs at distance {self.distance} need {self.span} tokens; length is {self.length}"
            )

    @property
    def keys(self) -> int:
        return (self.vocab - 1) // 2

    @property
    def span(self) -> int:
        """Tokens from the first key to the last query, at a fixed distance."""
        return self.distance + 2 * self.pairs - 1

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        return self._examples(split, ids)[0]

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        return self._examples(split, ids)[1]

    def _examples(self, split: str, ids: np.ndarray) -> tuple[Batch, np.ndarray]:
        draws = CounterGenerator(self.seed, split, ids)
        keys_BP = 1 + draws.sample(self.keys, self.pairs)
        values_BP = 1 + self.keys + draws.sample(self.keys, self.pairs)
        shown_BP, queries_BP = self._places(draws)
        row_B1 = np.arange(len(keys_BP))[:, None]
        tokens_BT = np.zeros((len(keys_BP), self.length), np.int32)
        targets_BT, distances_BT = np.zeros_like(tokens_BT), np.zeros_like(tokens_BT)
        if self.density:
            noise_BT = 1 + self.keys + draws.integers(self.keys, self.length)
            is_noise_BT = draws.integers(1 << 20, self.length) < self.density * (1 << 20)
            tokens_BT = np.where(is_noise_BT, noise_BT, tokens_BT)
        asked_BQ = draws.sample(self.pairs, self.queries or self.pairs)
        queries_BQ = queries_BP[row_B1, asked_BQ]
        # After a query a value would look like a new pair.
        tokens_BT[row_B1, np.minimum(queries_BQ + 1, self.length - 1)] = 0
        tokens_BT[row_B1, shown_BP] = keys_BP
        tokens_BT[row_B1, shown_BP + 1] = values_BP
        tokens_BT[row_B1, queries_BQ] = keys_BP[row_B1, asked_BQ]
        targets_BT[row_B1, queries_BQ] = values_BP[row_B1, asked_BQ]
        distances_BT[row_B1, queries_BQ] = queries_BQ - shown_BP[row_B1, asked_BQ]
        return Batch(tokens_BT, targets_BT, (distances_BT > 0).astype(np.float32)), distances_BT

    def _places(self, draws: CounterGenerator) -> tuple[np.ndarray, np.ndarray]:
        """Where the keys are shown, (B, P), and where they are asked for."""
        if self.distance:
            offset_B1 = draws.integers(self.length - self.span + 1, 1)
            shown_BP = offset_B1 + 2 * np.arange(self.pairs)
            return shown_BP, shown_BP + self.distance
        shown = 2 * self.pairs
        queries_BP = shown + 2 * draws.sample((self.length - shown) // 2, self.pairs)
        return np.broadcast_to(2 * np.arange(self.pairs), queries_BP.shape), queries_BP
