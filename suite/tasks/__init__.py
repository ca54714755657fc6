"""Tasks, one file each: a function from example ids to examples.

A file defines `Task`, a frozen dataclass of (length, seed, knobs) with

    vocab                       number of token values
    batch(split, ids) -> Batch  the examples with these ids; split is "train", "validation" or "test"
    distances(split, ids)       of each target, how many tokens back the first one lies that it needs; int32 (B, T)

An example depends on the task, the split and its id alone, so neither a resume nor the number of hosts or devices can
change the data. Weights stand on the targets that can be answered; the last of them is an example's final position,
at which tasks of one answer are judged. Fields that a Task computes itself (`init=False`) are facts about the data and
go into every row; a field `data_dir` is filled in with the place where data sets lie. A task of examples that
hold several documents says, as END at the top, the token that ends one. `BOUNDS = {"knob": (least,
greatest)}` at the top says between which values a knob may lie. suite/contract.py holds the folder's tasks to this, and
a user's own before anything is trained on it.
"""

from typing import Any, NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Batch(NamedTuple):
    """Inputs, what follows them, and how much each target counts; weights are 0 where no answer is due."""

    tokens_BT: Any  # int32
    targets_BT: Any  # int32
    weights_BT: Any  # float32


class CounterGenerator:
    """The random numbers of each example of a batch, from seed, split and id alone, all examples at once.

    SplitMix64 (Steele et al. 2014) in counter form: a generator object an example would cost more than a small step.
    """

    def __init__(self, seed: int, split: str, ids: np.ndarray):
        key = _mix(np.asarray([seed], np.uint64) * _GOLDEN + np.uint64(SPLITS.index(split)))
        self._key_B = _mix(key ^ _mix(np.asarray(ids).astype(np.uint64) + _GOLDEN))
        self._drawn = 0

    def bits(self, count: int) -> np.ndarray:
        """(B, count) of 64 random bits; each call goes on where the last one ended."""
        at_N = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64) * _GOLDEN
        self._drawn += count
        return _mix(self._key_B[:, None] + at_N[None])

    def integers(self, high: int, count: int) -> np.ndarray:
        """(B, count) integers 0..high-1, for `high` well below 2^32."""
        return ((self.bits(count) >> np.uint64(32)) * np.uint64(high) >> np.uint64(32)).astype(np.int32)

    def sample(self, high: int, count: int) -> np.ndarray:
        """(B, count) integers 0..high-1, no two of an example the same, in random order."""
        return np.argsort(self.bits(high), axis=1)[:, :count].astype(np.int32)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
