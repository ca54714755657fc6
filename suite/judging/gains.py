"""The gain of one arm over another by stratum of the test: its size, and its share of the whole, with intervals.

Both arms of a pair are tested on the same targets of the same documents, seed by seed, so that documents are resampled
for both at once. Arrays are (seeds, documents, strata); a row that stands for several documents is drawn like one.
"""

import dataclasses
import functools

import numpy as np

from suite.judging.statistics import Interval, percentile_interval


@dataclasses.dataclass(frozen=True)
class Gains:
    """Nats by which one arm's loss lies below the other's, summed over the targets of each stratum, and their number.

    The strata are those of one partition: every target is in one of them.
    """

    nats_MFS: np.ndarray
    targets_MFS: np.ndarray

    def __post_init__(self) -> None:
        if self.nats_MFS.shape[1] < 2:
            raise ValueError(f"an interval over documents needs two; got {self.nats_MFS.shape[1]}")

    @property
    def whole(self) -> Interval:
        """The gain in nats a target, over all targets."""
        nats_RS, targets_RS = self._resampled
        value = self.nats_MFS.sum() / self.targets_MFS.sum()
        return percentile_interval(float(value), nats_RS.sum(axis=1) / targets_RS.sum(axis=1))

    def of_stratum(self, index: int) -> Interval:
        """The gain in nats a target of the stratum; resamples without such a target are left out."""
        nats_R, targets_R = (sums_RS[:, index] for sums_RS in self._resampled)
        has_R = targets_R > 0
        value = self.nats_MFS[..., index].sum() / self.targets_MFS[..., index].sum()
        return percentile_interval(float(value), nats_R[has_R] / targets_R[has_R])

    def share(self, index: int) -> Interval:
        """The share of the whole gain that the stratum carries; ValueError where the whole is not clear of 0."""
        whole = self.whole
        if whole.low <= 0 <= whole.high:
            raise ValueError(f"no shares of a gain of {whole.value:.3g} nats a target, whose interval holds 0")
        nats_RS, _ = self._resampled
        value = self.nats_MFS[..., index].sum() / self.nats_MFS.sum()
        return percentile_interval(float(value), nats_RS[:, index] / nats_RS.sum(axis=1))

    def share_of_targets(self, index: int) -> float:
        return float(self.targets_MFS[..., index].sum() / self.targets_MFS.sum())

    @functools.cached_property
    def _resampled(self) -> tuple[np.ndarray, np.ndarray]:
        """Nats and targets of each resample, (resamples, strata) each."""
        sums_RC = crossed_bootstrap(np.concatenate([self.nats_MFS, self.targets_MFS], axis=2))
        nats_RS, targets_RS = np.split(sums_RC, 2, axis=1)
        return nats_RS, targets_RS


def crossed_bootstrap(values_MFC: np.ndarray, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Sums of resampled data, (resamples, columns), where each seed meets each document: both are drawn again.

    The pigeonhole bootstrap (Owen 2007): a document that is drawn is drawn for every seed, since it is as hard for one
    as for the next.
    """
    generator = np.random.default_rng(seed)
    members, documents, _ = values_MFC.shape
    seeds_RM = generator.multinomial(members, np.full(members, 1 / members), size=resamples)
    documents_RF = generator.multinomial(documents, np.full(documents, 1 / documents), size=resamples)
    of_seeds = (seeds_RM[:, [member]] * (documents_RF @ values_FC) for member, values_FC in enumerate(values_MFC))
    return np.sum([*of_seeds], axis=0)
