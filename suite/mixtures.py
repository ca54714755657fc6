"""Lengths of the training examples of a job: all alike, a mixture, or a curriculum that grows with the training.

64:1,256:1,1024:2   with weights: a quarter have 64 tokens, a quarter 256, half of them 1,024
uniform:1-40        each length from 1 to 40 as often as any other
grow:64-1024        64 tokens, then 128, 256, 512 and 1,024: each length for as many examples as any other
"""

import dataclasses
import math
import re

import numpy as np

MOST = 1 << 16  # lengths, and the sum of their weights


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Rising lengths with their weights, which have no common divisor; with `grows` they follow one another."""

    lengths: tuple[int, ...]
    weights: tuple[int, ...]
    grows: bool = False

    @property
    def shortest(self) -> int:
        return self.lengths[0]

    @property
    def longest(self) -> int:
        return self.lengths[-1]

    @property
    def total(self) -> int:
        """The sum of the weights."""
        return sum(self.weights)

    @property
    def mean(self) -> int | float:
        """Tokens of an example, the mean over a training."""
        tokens = sum(length * weight for length, weight in zip(self.lengths, self.weights, strict=True))
        return tokens / self.total if tokens % self.total else tokens // self.total

    def at(self, place_N: np.ndarray) -> np.ndarray:
        """The lengths at places 0..total-1: the shortest takes as many of the first as its weight, and so on."""
        return np.asarray(self.lengths)[np.searchsorted(np.cumsum(self.weights), place_N, side="right")]

    def __str__(self) -> str:
        """The one spelling of these lengths; empty where there is one alone."""
        ends = f"{self.shortest}-{self.longest}"
        if len(self.lengths) == 1:
            return ""
        if self.grows:
            return f"grow:{ends}"
        if self.lengths == tuple(range(self.shortest, self.longest + 1)) and self.total == len(self.lengths):
            return f"uniform:{ends}"
        return ",".join(f"{length}:{weight}" for length, weight in zip(self.lengths, self.weights, strict=True))


def of(text: str, length: int) -> Mixture:
    """The lengths of a job with these two fields."""
    return parse(text) if text else Mixture((length,), (1,))


def parse(text: str) -> Mixture:
    """ValueError says what is wrong with the text."""
    if ends := re.fullmatch(r"(uniform|grow):(\d+)-(\d+)", text, re.ASCII):
        name, shortest, longest = ends[1], int(ends[2]), int(ends[3])
        if not 1 <= shortest <= longest:
            raise ValueError(f"lengths {text} want the shorter one first, of at least 1")
        if name == "grow":
            doubled = [shortest << times for times in range((longest // shortest).bit_length())]
            lengths = tuple(dict.fromkeys([*doubled, longest]))
            return Mixture(lengths, (1,) * len(lengths), grows=len(lengths) > 1)
        _check_few(text, longest - shortest + 1)
        return Mixture(tuple(range(shortest, longest + 1)), (1,) * (longest - shortest + 1))
    pairs = [re.fullmatch(r"(\d+):(\d+)", pair, re.ASCII) for pair in text.split(",")]
    weights = {int(pair[1]): int(pair[2]) for pair in pairs if pair}
    if len(weights) < len(pairs) or min(*weights, *weights.values()) < 1:
        raise ValueError(
            f"lengths {text!r} want whole numbers of at least 1, each length once and with its weight, as in "
            "64:1,256:1,1024:2; or uniform:1-40, or grow:64-1024"
        )
    divisor = math.gcd(*weights.values())
    shares = {length: weight // divisor for length, weight in sorted(weights.items())}
    _check_few(text, sum(shares.values()))
    return Mixture(tuple(shares), tuple(shares.values()))


def _check_few(text: str, total: int) -> None:
    if total > MOST:
        raise ValueError(f"lengths {text} have weights of {total:,} in all; wanted at most {MOST:,}")
