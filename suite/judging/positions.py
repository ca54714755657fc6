"""How many tokens a trained model reads with any gain, from its loss by position (Kaplan et al. 2020, figure 7)."""

import dataclasses
import functools

import numpy as np

from suite.judging.statistics import Interval, bootstrap, percentile_interval

TOLERANCE = 0.01  # nats a token


@dataclasses.dataclass(frozen=True)
class Curve:
    """Loss by position: of each seed an array of (groups of windows, bins); bins end at `highs`, in tokens."""

    highs: tuple[int, ...]
    members: tuple[np.ndarray, ...]

    @property
    def loss_K(self) -> np.ndarray:
        return np.mean([member_GK.mean(axis=0) for member_GK in self.members], axis=0)

    def loss(self, index: int) -> Interval:
        """The loss at a bin, its interval over seeds and windows."""
        return percentile_interval(float(self.loss_K[index]), self._resampled_RK[:, index])

    def reach(self) -> Interval:
        """The end of the first bin after which no other bin has a loss that is lower by TOLERANCE or more."""
        [value] = reach(self.loss_K[None], self.highs)
        return percentile_interval(float(value), reach(self._resampled_RK, self.highs))

    def rise(self, before: int, after: int) -> Interval:
        """How far the loss at one bin lies above that at another."""
        rises_R = self._resampled_RK[:, after] - self._resampled_RK[:, before]
        return percentile_interval(float(self.loss_K[after] - self.loss_K[before]), rises_R)

    @functools.cached_property
    def _resampled_RK(self) -> np.ndarray:
        return bootstrap(self.members)


def reach(loss_RK: np.ndarray, highs: tuple[int, ...]) -> np.ndarray:
    """Of each row the end of the first bin within TOLERANCE of the least loss from there on."""
    least_RK = np.minimum.accumulate(loss_RK[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(highs)[np.argmax(loss_RK - least_RK < TOLERANCE, axis=1)]
