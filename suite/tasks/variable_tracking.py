"""Variable tracking, of RULER: Hsieh et al. 2024, "What's the Real Context Size of Your Long-Context LMs?"."""

import dataclasses

import numpy as np

from suite.tasks import Batch, CounterGenerator

# Memory for examples and embeddings grows with the vocabulary.
BOUNDS = {"vocab": (2, 65_536), "chains": (1, 65_536), "hops": (0, 65_536), "queries": (1, 65_536)}


@dataclasses.dataclass(frozen=True)
class Task:
    """Assignments in a haystack of random tokens; at the end variables are asked for, and their values are due.

    An assignment is a variable and, right after it, the value or the variable whose value it takes. A chain begins with
    a value and hands it on in `hops` assignments more. Those of one chain stand in their order, the chains mixed, and
    hay after each. The last variable of each of the first `queries` chains is asked for, in random order. With `every`
    the value is due wherever it is handed on, too: a prefix is an example of its own, and what one hop asks for is
    learned before two. Tokens: the lower quarter are variables, the next quarter values, the upper half hay.

    An example of 14 tokens with vocab=16,hops=1; a point where nothing is due:

        tokens   11  3  5 14  2  6 14  0  2 15  1  3 13  1
        targets   .  .  .  .  .  .  .  .  6  .  .  5  .  5
    """

    length: int
    seed: int
    vocab: int = 64
    chains: int = 2
    hops: int = 2
    queries: int = 1
    every: bool = True

    def __post_init__(self) -> None:
        if self.chains < 1 or self.hops < 0 or self.queries < 1:
            raise ValueError(
                f"chains {self.chains} and queries {self.queries} want at least 1 each, hops {self.hops} at least 0"
            )
        if self.queries > self.chains:
            raise ValueError(f"{self.queries} queries need as many chains; there are {self.chains}")
        if self.assignments > self.vocab // 4:
            raise ValueError(
                f"{self.assignments} assignments need as many variables; vocab {self.vocab} has {self.vocab // 4}"
            )
        if 3 * self.assignments + self.queries > self.length:
            raise ValueError(
                f"{self.assignments} assignments and {self.queries} queries need "
                f"{3 * self.assignments + self.queries} tokens; length is {self.length}"
            )

    @property
    def assignments(self) -> int:
        return self.chains * (self.hops + 1)

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        return self._examples(split, ids)[0]

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        return self._examples(split, ids)[1]

    def _examples(self, split: str, ids: np.ndarray) -> tuple[Batch, np.ndarray]:
        draws = CounterGenerator(self.seed, split, ids)
        quarter, end = self.vocab // 4, self.length - self.queries
        tokens_BT = 2 * quarter + draws.integers(self.vocab - 2 * quarter, self.length)
        variable_BCA = draws.sample(quarter, self.assignments).reshape(-1, self.chains, self.hops + 1)
        value_BC = quarter + draws.sample(quarter, self.chains)
        # An assignment takes two places and one of hay: it begins after its site by two for each of those before it.
        site_BN = np.sort(draws.sample(end - 2 * self.assignments, self.assignments), axis=1)
        place_BN = site_BN + 2 * np.arange(self.assignments)
        rank_BCA = np.sort(draws.sample(self.assignments, self.assignments).reshape(variable_BCA.shape), axis=2)
        row_B11 = np.arange(len(place_BN))[:, None, None]
        at_BCA = place_BN[row_B11, rank_BCA]
        tokens_BT[row_B11, at_BCA] = variable_BCA
        tokens_BT[row_B11, at_BCA + 1] = np.concatenate([value_BC[:, :, None], variable_BCA[:, :, :-1]], axis=2)
        asked = slice(0, self.queries)
        tokens_BT[:, end:] = variable_BCA[:, asked, -1]
        targets_BT, distances_BT = np.zeros_like(tokens_BT), np.zeros_like(tokens_BT)
        targets_BT[:, end:] = value_BC[:, asked]
        distances_BT[:, end:] = np.arange(end, self.length) - at_BCA[:, asked, 0]
        if self.every:
            handed_BCH = at_BCA[:, :, 1:] + 1
            targets_BT[row_B11, handed_BCH] = value_BC[:, :, None]
            distances_BT[row_B11, handed_BCH] = handed_BCH - at_BCA[:, :, :1]
        return Batch(tokens_BT, targets_BT, (distances_BT > 0).astype(np.float32)), distances_BT
