"""Where a ratio passes through 1: the one way in which a crossing is found, and the interval of the crossing itself.

The logarithm of the ratio is read on straight lines between the lengths at which it was measured, against the logarithm
of the length, with an interval at every length of the line that follows from those at its two ends (Zou and Donner
2008). Where that interval holds 0, the ratio is not told apart from 1: these lengths are the interval of the crossing,
as Fieller's (1954) is of a ratio. A difference is read alike: it passes through 0.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from suite.judging.statistics import Interval

ABOVE, BELOW, EITHER = 1, -1, 0
REACH = 4.0  # times the longest length: a line is not followed further
ROUNDING = 1e-7  # of halves of intervals over the rise: their squares would be lost


class Region(NamedTuple):
    """Neighbouring lengths at which the ratio is ABOVE 1 beyond doubt, BELOW it, or EITHER as far as was measured."""

    low: float
    high: float
    side: int


def crossings(x: Sequence[float], logs: Sequence[Interval]) -> list[Interval]:
    """Where a ratio passes through 1, each with its interval; `logs` are logarithms of the ratio at the lengths `x`.

    Every crossing lies between lengths at which the ratio is below 1 and above it beyond doubt. Several crossings that
    are not told apart are one, whose value is the middle one.
    """
    crossed = []
    zeros = _zeros(_points(x, logs))
    for before, after in itertools.pairwise([region for region in regions(x, logs) if region.side != EITHER]):
        if before.side != after.side:
            inside = [at for at in zeros if (1 - ROUNDING) * before.high <= at <= (1 + ROUNDING) * after.low]
            value = min(max(statistics.median_low(inside), before.high), after.low)
            crossed.append(Interval(value, before.high, after.low))
    return crossed


def regions(x: Sequence[float], logs: Sequence[Interval]) -> list[Region]:
    """The lengths from the first to the last that was measured, by the side of 1 on which the ratio is there."""
    points = _points(x, logs)
    parted = [Region(at, at, _side(log)) for at, log in points[:1]]
    for (first_at, first), (second_at, second) in itertools.pairwise(points):
        turns = sorted({0.0, 1.0, *(share for share in _turns(first, second) if 0 < share < 1)})
        for low, high in itertools.pairwise(turns):
            side = _side(_on_line((low + high) / 2, first, second))
            begins = _between(low, first_at, second_at)
            if parted[-1].side == side or parted[-1].low == parted[-1].high:
                begins = parted.pop().low
            parted.append(Region(begins, _between(high, first_at, second_at), side))
    return parted


def beyond(x: Sequence[float], logs: Sequence[Interval]) -> Interval | None:
    """The crossing beyond the longest length where the line through the last two goes on: an extrapolation.

    None where the line does not come nearer to 1, reaches it further than REACH times the longest, or does so within
    no bounds.
    """
    points = _points(x, logs)
    if len(points) < 2:
        return None
    (first_at, first), (second_at, second) = points[-2:]
    if _side(second) == EITHER or not 0 < second.value / (first.value or math.inf) < 1:
        return None
    zero = first.value / (first.value - second.value)
    turns = [share for share in _turns(first, second) if share > 1]
    before, after = [share for share in turns if share <= zero], [share for share in turns if share >= zero]
    if not before or not after:
        return None
    at = Interval(*(_between(share, first_at, second_at) for share in (zero, max(before), min(after))))
    return at if at.value <= REACH * second_at else None


Points = list[tuple[float, Interval]]  # a length, and the logarithm of the ratio there


def _points(x: Sequence[float], logs: Sequence[Interval]) -> Points:
    return sorted(zip(x, logs, strict=True))


def _side(log: Interval) -> int:
    return ABOVE if log.low > 0 else BELOW if log.high < 0 else EITHER


def _between(share: float, first: float, second: float) -> float:
    """The length at a share of the way from one to another, on a logarithmic axis; at the ends as it was measured."""
    return second if share == 1 else first * (second / first) ** share


def _on_line(share: float, first: Interval, second: Interval) -> Interval:
    """The logarithm of the ratio at a share of the way from one length to another, with its interval."""
    value = (1 - share) * first.value + share * second.value
    low, high = (
        math.hypot((1 - share) * one, share * other)
        for one, other in (_halves(first, second, side, share) for side in (BELOW, ABOVE))
    )
    return Interval(value, value - low, value + high)


def _halves(first: Interval, second: Interval, side: int, share: float) -> tuple[float, float]:
    """The halves of two intervals that make one side of that on their line: beyond 1 the first is taken away."""
    return _half(first, side if share <= 1 else -side), _half(second, side)


def _half(log: Interval, side: int) -> float:
    return log.high - log.value if side == ABOVE else log.value - log.low


def _turns(first: Interval, second: Interval) -> Iterator[float]:
    """The shares of the way, also beyond the second length, at which a bound of the interval passes through 0."""
    rise = second.value - first.value
    for side, is_between in itertools.product((BELOW, ABOVE), (True, False)):
        one, other = _halves(first, second, side, 0.5 if is_between else 2.0)
        if max(one, other) <= ROUNDING * abs(rise):  # exact: both bounds are the line
            shares = [-first.value / rise] if rise else []
        else:  # value^2 = half^2, a quadratic in the share
            constant, linear = first.value**2 - one**2, 2 * (first.value * rise + one**2)
            shares = _roots(rise**2 - one**2 - other**2, linear, constant)
            # Where the lower bound is 0 the value lies above, where the upper one is, below.
            shares = [share for share in shares if side * (first.value + share * rise) <= 0]
        yield from (share for share in shares if (share <= 1) == is_between)


def _roots(square: float, linear: float, constant: float) -> list[float]:
    """The real roots of a quadratic."""
    inside = linear**2 - 4 * square * constant
    if inside < 0:
        return []
    # One root without the difference of two near numbers, the other from their product.
    larger = -(linear + math.copysign(math.sqrt(inside), linear)) / 2
    return [over / under for over, under in ((larger, square), (constant, larger)) if under]


def _zeros(points: Points) -> list[float]:
    """Where the line through the points passes through 0; at a point that is 0 itself, once."""
    zeros = [at for at, log in points if log.value == 0]
    for (before, one), (after, other) in itertools.pairwise(points):
        if one.value * other.value < 0:
            zeros.append(_between(-one.value / (other.value - one.value), before, after))
    return sorted(zeros)
