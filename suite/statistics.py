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


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of log y against log x: the exponent of a power law."""
    fit: Any = scipy.stats.linregress(np.log(x), np.log(y))
    return float(fit.slope)
