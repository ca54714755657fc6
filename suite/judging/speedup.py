"""Effective speedup: how many times as long one arm has to be trained as another until both have the same loss.

The seconds to a loss are read on a training's own validation curve, on straight lines of the least loss so far against
the logarithm of the seconds, and never beyond its end. The loss is the larger of the two at the ends, which both reach:
the arm that is ahead is read in the middle of its schedule, where it has not been annealed, so that its lead is, if
anything, larger.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from suite.judging.statistics import Interval, ratio_interval
from suite.sweep.record import Row


class Curve(NamedTuple):
    """The least validation loss of a training so far, at seconds that rise."""

    seconds: tuple[float, ...]
    losses: tuple[float, ...]

    def seconds_to(self, loss: float) -> float | None:
        """Seconds until the training has had this loss; None where it was not reached before its end.

        One that is there at its first validation has it then, or before.
        """
        if loss < self.losses[-1]:
            return None
        before, *_ = points = list(zip(self.seconds, self.losses, strict=True))
        for after in points:
            if after[1] <= loss:
                share = (before[1] - loss) / (before[1] - after[1]) if before[1] > loss else 1.0
                return before[0] * (after[0] / before[0]) ** share
            before = after
        raise AssertionError("the last loss is the least")


def curves(rows: Iterable[Row]) -> dict[int, Curve]:
    """The curves of an arm's trainings, by their seeds, from rows of validation."""
    by_seed: dict[int, dict[float, float]] = defaultdict(dict)
    for row in rows:
        if row.get("phase") == "validation" and row["outcome"] == "ok" and row["seconds"] > 0:
            by_seed[row["seed"]][row["seconds"]] = row["loss"]
    return {
        seed: Curve(tuple(seconds), tuple(itertools.accumulate(losses, min)))
        for seed, at in sorted(by_seed.items())
        for seconds, losses in [zip(*sorted(at.items()), strict=True)]
    }


def log_speedup(first: Curve, second: Curve) -> float:
    """The logarithm of how many times as long the second is trained to the loss that both reach."""
    loss = max(first.losses[-1], second.losses[-1])
    reached = [curve.seconds_to(loss) for curve in (first, second)]
    assert reached[0] is not None
    assert reached[1] is not None
    return math.log(reached[1] / reached[0])


def speedup(first: Mapping[int, Curve], second: Mapping[int, Curve]) -> Interval | None:
    """The effective speedup of the first arm over the second, over the seeds that both have; None below two."""
    logs = [log_speedup(first[seed], second[seed]) for seed in first.keys() & second.keys()]
    return ratio_interval(logs) if len(logs) > 1 else None


def caught_up(ahead: Mapping[int, Curve], behind: Mapping[int, Curve]) -> tuple[int, int]:
    """In how many of the seeds that both have one arm reached the other's last loss before its own end."""
    seeds = ahead.keys() & behind.keys()
    return sum(behind[seed].seconds_to(ahead[seed].losses[-1]) is not None for seed in seeds), len(seeds)
