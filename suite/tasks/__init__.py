"""Tasks, one file each: a function from example ids to examples.

A file defines `Task`, a frozen dataclass of (length, seed, knobs) with

    vocab                       number of token values
    batch(split, ids) -> Batch  the examples with these ids; split is "train", "validation" or "test"

An example depends on the task, the split and its id alone, so neither a resume nor the number of hosts or devices can
change the data. Fields that a Task computes itself (`init=False`) are facts about the data and go into every row;
a field `data_dir` is filled in with the place where data sets lie.
"""

from typing import Any, NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")


class Batch(NamedTuple):
    """Inputs, what follows them, and how much each target counts; weights are 0 where no answer is due."""

    tokens_BT: Any  # int32
    targets_BT: Any  # int32
    weights_BT: Any  # float32


def generator(seed: int, split: str, example: int) -> np.random.Generator:
    """The random numbers of one example."""
    return np.random.default_rng([seed, SPLITS.index(split), example])
