"""The word problem of a group: Merrill et al. 2024, "The Illusion of State in State-Space Models"."""

import dataclasses
import functools
import itertools

import numpy as np

from suite.tasks import Batch, CounterGenerator

GROUPS = ("A5", "S5", "Z60")


@dataclasses.dataclass(frozen=True)
class Task:
    """A start token, as in parity, then random elements of a finite group; at each the product of all so far is due.

    A5 and S5 (even and all permutations of five things) are not solvable, so no circuit of constant depth is known for
    them; Z60 (addition modulo 60) is as large as A5 and commutative.

    An example of 6 tokens with group=Z60; a point where nothing is due:

        tokens   60 16 16 28 35 26
        targets   . 16 32  0 35  1
    """

    length: int
    seed: int
    group: str = "A5"

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length {self.length} has no room for an element after the start token")
        if self.group not in GROUPS:
            raise ValueError(f"group {self.group!r} is not known; wanted one of {', '.join(GROUPS)}")

    @property
    def vocab(self) -> int:
        return len(products(self.group)) + 1

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        table_EE = products(self.group)
        tokens_BT = CounterGenerator(self.seed, split, ids).integers(len(table_EE), self.length)
        targets_BT, weights_BT = np.zeros_like(tokens_BT), np.ones(tokens_BT.shape, np.float32)
        for at in range(1, self.length):  # from the identity, element 0
            targets_BT[:, at] = table_EE[targets_BT[:, at - 1], tokens_BT[:, at]]
        tokens_BT[:, 0], weights_BT[:, 0] = len(table_EE), 0
        return Batch(tokens_BT, targets_BT, weights_BT)

    def distances(self, split: str, ids: np.ndarray) -> np.ndarray:
        del split  # every target needs the first element
        return np.tile(np.maximum(np.arange(self.length, dtype=np.int32) - 1, 0), (len(ids), 1))


@functools.cache
def products(group: str) -> np.ndarray:
    """The group's table: the number of `a b`, first a and then b, at [a, b]; element 0 is the identity."""
    if group == "Z60":
        at_E = np.arange(60, dtype=np.int32)
        return (at_E[:, None] + at_E[None]) % 60
    permutations = [p for p in itertools.permutations(range(5)) if group == "S5" or _is_even(p)]
    numbers = {permutation: number for number, permutation in enumerate(permutations)}
    table = [[numbers[tuple(b[a[at]] for at in range(5))] for b in permutations] for a in permutations]
    return np.asarray(table, np.int32)


def _is_even(permutation: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(permutation, 2)) % 2 == 0
