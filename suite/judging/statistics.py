"""Intervals that verdicts rest on."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy  # its stats are imported by the first call: that takes longer than advice may


class Interval(NamedTuple):
    """An estimate and the bounds of its interval."""

    value: float
    low: float
    high: float


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean and Student's t interval; ValueError below two values, which give no interval."""
    if len(values) < 2:
        raise ValueError(f"an interval needs at least two values; got {len(values)}")
    mean = float(np.mean(values))
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1) * scipy.stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def ratio_interval(log_ratios: Sequence[float], confidence: float = 0.95) -> Interval:
    """Geometric mean of ratios and its t interval, from their logarithms, one a process."""
    return Interval(*(math.exp(bound) for bound in t_interval(log_ratios, confidence)))


class Estimate(NamedTuple):
    """A value, its variance, and the degrees of freedom from which that is known: 0 where nothing was repeated."""

    value: float
    variance: float
    dof: float

    def interval(self, confidence: float = 0.95) -> Interval:
        """Student's t interval; ValueError where nothing was repeated."""
        if not self.dof:
            raise ValueError(f"{self.value:.3g} has no interval: nothing that it rests on was repeated")
        half = t_quantile(self.dof, confidence) * math.sqrt(self.variance)
        return Interval(self.value, self.value - half, self.value + half)


def t_quantile(dof: float, confidence: float = 0.95) -> float:
    """Half the width of a two-sided t interval, in standard deviations."""
    return float(scipy.stats.t.ppf((1 + confidence) / 2, dof))


def contrast(
    weights: Sequence[float] | np.ndarray,
    values: Sequence[float],
    variances: Sequence[float],
    dofs: Sequence[float],
) -> Estimate:
    """A weighted sum of independent values, with Welch's degrees of freedom (Satterthwaite 1946)."""
    terms = [weight**2 * variance for weight, variance in zip(weights, variances, strict=True)]
    variance = float(sum(terms))
    value = float(sum(weight * value for weight, value in zip(weights, values, strict=True)))
    used = [(term, dof) for term, dof in zip(terms, dofs, strict=True) if term]
    known = used and all(dof for _, dof in used)
    return Estimate(value, variance, variance**2 / sum(term**2 / dof for term, dof in used) if known else 0.0)


def difference(one: Estimate, other: Estimate) -> Estimate:
    """One estimate less another that is independent of it."""
    return contrast([1, -1], *zip(one, other, strict=True))


def fieller(over: Estimate, under: Estimate, confidence: float = 0.95) -> Interval:
    """The ratio of two independent estimates (Fieller 1954); ValueError where the lower one is not clear of 0."""
    value = over.value / under.value
    t = t_quantile(contrast([1, -value], *zip(over, under, strict=True)).dof, confidence)
    square = under.value**2 - t**2 * under.variance
    if square <= 0:
        raise ValueError(f"a ratio to {under.value:.3g}, whose interval reaches 0, has no interval")
    middle = over.value * under.value / square
    half = math.sqrt(middle**2 - (over.value**2 - t**2 * over.variance) / square)
    return Interval(value, middle - half, middle + half)


def newcombe(successes: int, trials: int, other_successes: int, other_trials: int) -> Interval:
    """Difference of two shares with its 95 % interval; ValueError where either group is of one.

    The hybrid of Wilson's intervals with continuity correction (Newcombe 1998, method 11).
    """
    if min(trials, other_trials) < 2:
        raise ValueError(f"an interval of a difference needs two in each group; got {trials} and {other_trials}")
    (share, low, high), (other, other_low, other_high) = (
        wilson(successes, trials),
        wilson(other_successes, other_trials),
    )
    below, above = math.hypot(share - low, other_high - other), math.hypot(high - share, other - other_low)
    return Interval(share - other, max(-1.0, share - other - below), min(1.0, share - other + above))


def wilson(successes: int, trials: int) -> Interval:
    """A share with Wilson's 95 % interval, with continuity correction."""
    bounds = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilsoncc")
    return Interval(successes / trials, float(bounds.low), float(bounds.high))


def fisher(successes: int, trials: int, other_successes: int, other_trials: int) -> float:
    """One-sided p-value of Fisher's exact test that the first group succeeds more often than the other."""
    table = [[successes, trials - successes], [other_successes, other_trials - other_successes]]
    test: Any = scipy.stats.fisher_exact(table, alternative="greater")
    return float(test.pvalue)


def majority(successes: int, trials: int) -> float:
    """One-sided p-value of the exact binomial test that more than half succeed; 1 without trials."""
    test: Any = scipy.stats.binomtest(successes, trials, 0.5, alternative="greater") if trials else None
    return float(test.pvalue) if trials else 1.0


def at_least(successes: int, trials: int, chance: float) -> float:
    """The probability of so many successes or more."""
    return float(scipy.stats.binom.sf(successes - 1, trials, chance))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for testing all of them, in the order given (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of log y against log x: the exponent of a power law."""
    fit: Any = scipy.stats.linregress(np.log(x), np.log(y))
    return float(fit.slope)


def bootstrap(members: Sequence[np.ndarray], resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Means of resampled data, (resamples, columns): members drawn again, then the rows of each of them.

    A member, a seed say, is an array of (rows, columns). Data of the same shapes are resampled alike: paired.
    """
    generator = np.random.default_rng(seed)
    drawn_RM = generator.integers(len(members), size=(resamples, len(members)))
    total_RC = np.zeros((resamples, members[0].shape[1]))
    for slot in range(len(members)):
        for index, member in enumerate(members):
            (chosen,) = np.nonzero(drawn_RM[:, slot] == index)
            rows = len(member)
            times = generator.multinomial(rows, np.full(rows, 1 / rows), size=len(chosen))
            total_RC[chosen] += times @ member / rows
    return total_RC / len(members)


def percentile_interval(value: float, resampled: np.ndarray, confidence: float = 0.95) -> Interval:
    """The value and the percentiles of its resamples; each bound is one of them, so steps stay steps."""
    bounds = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = np.quantile(resampled, bounds, method="inverted_cdf")
    return Interval(value, float(low), float(high))
