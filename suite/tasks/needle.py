"""Needles in a haystack: Kamradt 2023, with several keys, values and queries as in RULER (Hsieh et al. 2024)."""

import dataclasses

import numpy as np

from suite.tasks import Batch, CounterGenerator

# Memory for examples and embeddings grows with the vocabulary.
BOUNDS = {"vocab": (2, 65_536), "keys": (1, 65_536), "values": (1, 65_536), "queries": (1, 65_536)}


@dataclasses.dataclass(frozen=True)
class Task:
    """Pairs of key and value, the needles, in a haystack of random tokens; at the end keys are asked for their values.

    Of `keys` that are shown the first `queries` are asked for, in random order; the others distract. A key has `values`
    needles: after it all of its values are due, in the order in which they stand in the hay, each when the one before
    is read. One needle of the first key that is asked for lies at `depth`: 0 is the beginning of the haystack, 1 its
    end; -1 draws it anew for each example. Tokens: the lower quarter are keys, the next quarter values, the upper half
    hay.

    An example of 14 tokens with vocab=16,keys=2,values=2; a point where nothing is due:

        tokens    8  3  5  3  7  2  4 11 13  2  6 12  2  4
        targets   .  .  .  .  .  .  .  .  .  .  .  .  4  6
    """

    length: int
    seed: int
    vocab: int = 64
    depth: float = -1.0
    keys: int = 1
    values: int = 1
    queries: int = 1

    def __post_init__(self) -> None:
        if self.vocab < 4:
            raise ValueError(f"vocab {self.vocab} wants at least 4: a key, a value and hay")
        if self.length < 3:
            raise ValueError(f"length {self.length} has no room for a key, its value and the question")
        if self.depth != -1 and not 0 <= self.depth <= 1:
            raise ValueError(f"depth {self.depth} wants 0 to 1, or -1 to draw it")
        if min(self.keys, self.values, self.queries) < 1:
            raise ValueError(f"keys {self.keys}, values {self.values} and queries {self.queries} want at least 1 each")
        if self.queries > self.keys:
            raise ValueError(f"{self.queries} queries need as many keys; there are {self.keys}")
        if self.needles > self.vocab // 4:
            raise ValueError(f"{self.needles} needles need as many values; vocab {self.vocab} has {self.vocab // 4}")
        if 2 * self.needles + self.answers > self.length:
            raise ValueError(
                f"{self.needles} needles and {self.answers} answers need {2 * self.needles + self.answers} tokens; "
                f"length is {self.length}"
            )

    @property
    def needles(self) -> int:
        return self.keys * self.values

    @property
    def answers(self) -> int:
        """The values that are due, and the tokens of the question."""
        return self.queries * self.values

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        return self._examples(split, ids)[0]

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        return self._examples(split, ids)[1]

    def _examples(self, split: str, ids: np.ndarray) -> tuple[Batch, np.ndarray]:
        draws = CounterGenerator(self.seed, split, ids)
        quarter, end = self.vocab // 4, self.length - self.answers
        # A needle takes two places of the hay; it begins after its site by a token for each needle before it.
        sites = end - self.needles
        key_B1, value_B1 = draws.integers(quarter, 1), draws.integers(quarter, 1)
        tokens_BT = 2 * quarter + draws.integers(self.vocab - 2 * quarter, self.length)
        site_B1 = draws.integers(sites, 1)
        if self.depth != -1:
            site_B1 = np.full_like(site_B1, round(self.depth * (sites - 1)))
        site_BN = _with_others(draws, site_B1, sites, self.needles)
        shape = (len(site_BN), self.keys, self.values)
        key_BK = _with_others(draws, key_B1, quarter, self.keys)
        value_BKV = quarter + _with_others(draws, value_B1, quarter, self.needles).reshape(shape)
        rank_BN = np.argsort(np.argsort(site_BN, axis=1), axis=1)
        at_BKV = np.sort((site_BN + rank_BN).reshape(shape), axis=2)
        row_B11 = np.arange(len(site_BN))[:, None, None]
        tokens_BT[row_B11, at_BKV], tokens_BT[row_B11, at_BKV + 1] = key_BK[:, :, None], value_BKV
        asked = slice(0, self.queries)
        due_BQV = value_BKV[:, asked]
        tokens_BT[:, end:] = _flat(np.concatenate([key_BK[:, asked, None], due_BQV[:, :, :-1]], axis=2))
        targets_BT, distances_BT = np.zeros_like(tokens_BT), np.zeros_like(tokens_BT)
        targets_BT[:, end:] = _flat(due_BQV)
        distances_BT[:, end:] = np.arange(end, self.length) - _flat(at_BKV[:, asked])
        return Batch(tokens_BT, targets_BT, (distances_BT > 0).astype(np.float32)), distances_BT


def _with_others(draws: CounterGenerator, first_B1: np.ndarray, high: int, count: int) -> np.ndarray:
    """(B, count) integers 0..high-1: the first one and others at random, no two of an example the same."""
    others_BN = (first_B1 + 1 + draws.sample(high - 1, count - 1)) % high
    return np.concatenate([first_B1, others_BN], axis=1).astype(np.int32)


def _flat(of_queries_BQV: np.ndarray) -> np.ndarray:
    return of_queries_BQV.reshape(len(of_queries_BQV), -1)
