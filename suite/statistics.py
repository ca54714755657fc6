"""Intervals that verdicts rest on."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats


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


def fisher(successes: int, trials: int, other_successes: int, other_trials: int) -> float:
    """One-sided p-value of Fisher's exact test that the first group succeeds more often than the other."""
    table = [[successes, trials - successes], [other_successes, other_trials - other_successes]]
    found: Any = scipy.stats.fisher_exact(table, alternative="greater")
    return float(found.pvalue)


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
