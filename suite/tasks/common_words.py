"""Common words extraction, of RULER: Hsieh et al. 2024, "What's the Real Context Size of Your Long-Context LMs?"."""

import dataclasses
import math

import numpy as np

from suite.tasks import Batch, CounterGenerator

# Memory for examples and embeddings grows with the vocabulary.
BOUNDS = {"vocab": (2, 65_536), "common": (1, 65_536), "ratio": (1, 1_000_000)}


@dataclasses.dataclass(frozen=True)
class Task:
    """Words in random order, of which `common` stand there `ratio` times as often as each of the rest, or a bit more.

    At the end, after a mark, the common words are due in the order of their numbers, each when the one before is read.
    Their share stays as the length grows. Tokens: 0 is the mark, the rest are words.

    An example of 13 tokens with vocab=8,common=2,ratio=3.0; a point where nothing is due:

        tokens   5 6 1 2 7 2 3 4 2 7 7 0 2
        targets  . . . . . . . . . . . 2 7
    """

    length: int
    seed: int
    vocab: int = 32
    common: int = 3
    ratio: float = 4.0

    def __post_init__(self) -> None:
        if not 1 <= self.common < self.words:
            raise ValueError(f"common {self.common} wants at least 1, and fewer than the {self.words} words")
        if self.ratio <= 1:
            raise ValueError(f"ratio {self.ratio} wants more than 1: how much more often a common word stands there")
        rest = self.length - self.common - self.common * self.times
        if rest < 0 or self.times <= math.ceil(rest / (self.words - self.common)):
            raise ValueError(
                f"length {self.length} has no room for {self.common} common words that stand there {self.ratio:g} "
                f"times as often as each of {self.words - self.common} others"
            )

    @property
    def words(self) -> int:
        return self.vocab - 1

    @property
    def times(self) -> int:
        """How often a common word stands there."""
        others = self.words - self.common
        return max(2, math.ceil(self.ratio * (self.length - self.common) / (self.common * self.ratio + others)))

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        draws = CounterGenerator(self.seed, split, ids)
        end = self.length - self.common
        word_BW = 1 + draws.sample(self.words, self.words)
        common_BN, other_BW = np.sort(word_BW[:, : self.common], axis=1), word_BW[:, self.common :]
        often_BT = np.repeat(common_BN, self.times, axis=1)
        # The others are dealt in turns: each stands there equally often, or once more.
        dealt_BT = np.concatenate(
            [often_BT, other_BW[:, np.arange(end - often_BT.shape[1]) % other_BW.shape[1]]], axis=1
        )
        tokens_BT = np.zeros((len(word_BW), self.length), np.int32)
        targets_BT, weights_BT = np.zeros_like(tokens_BT), np.zeros(tokens_BT.shape, np.float32)
        tokens_BT[:, :end] = np.take_along_axis(dealt_BT, draws.sample(end, end), axis=1)
        tokens_BT[:, end + 1 :] = common_BN[:, :-1]
        targets_BT[:, end:] = common_BN
        weights_BT[:, end:] = 1
        return Batch(tokens_BT, targets_BT, weights_BT)

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        del split  # every word counts, the first one too
        at_T = np.arange(self.length, dtype=np.int32)
        return np.tile(np.where(at_T < self.length - self.common, 0, at_T), (len(ids), 1))
