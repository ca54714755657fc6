"""Trainings at fixed compute: the optimum over sizes at each budget of FLOPs, and how it falls (IsoFLOP curves).

The profile of Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", approach 2.
"""

import dataclasses
import functools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from suite import learning_rates, parts
from suite.judging import alike, trials
from suite.judging.statistics import Estimate, Interval, contrast, t_quantile
from suite.sweep.record import Row

NEAR = 1.5  # budgets lie at least a factor of two apart
SIZED = (*alike.MODEL, "length")  # what FLOPs follow from
TRAINING = 3  # a step does the forward pass and twice as much again backward
SMALLEST, LARGEST = "smallest", "largest"
FLOORS = np.linspace(0, 0.999, 1000)  # shares of the least loss that are tried as the floor of a power law
FITTED = 3  # budgets that a floor, a factor and an exponent need
ROUNDING = 1e-6  # of a loss in float32: seeds that agree to this have no less noise


@dataclasses.dataclass(frozen=True)
class Training:
    """One training: parameters, FLOPs spent, the budget that they come nearest to, test loss in nats."""

    params: int
    compute: float
    budget: float
    loss: float
    row: Row


class Optimum(NamedTuple):
    """The least loss of a budget (nats), its variance, and the degrees of freedom of that, 0 where no seed repeats."""

    budget: float
    loss: float
    variance: float
    dof: int
    edge: str  # "smallest" or "largest" where that size is the best of those tried: the optimum may lie beyond it


class Prediction(NamedTuple):
    """The loss of the top budget as predicted from budgets below it, with its interval, and the gain that it says."""

    interval: Interval
    gain: float  # nats, from the nearest of those budgets


class Probe(NamedTuple):
    """A training at another rate than its size's, the mean loss there, and by how much the probe lies below that."""

    training: Training
    mean: float  # nats
    gain: Estimate  # nats, with the noise of seeds at its budget


@dataclasses.dataclass(frozen=True)
class Curve:
    """The optima of one arm over the budgets. What was trained at another rate than most seeds is a probe of it."""

    arm: str
    trainings: tuple[Training, ...]
    probed: tuple[Training, ...] = ()

    @functools.cached_property
    def losses(self) -> dict[float, dict[int, list[float]]]:
        """Of all seeds, by budget, from the least, and parameters."""
        by_budget: dict[float, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for training in self.trainings:
            by_budget[training.budget][training.params].append(training.loss)
        return {budget: by_budget[budget] for budget in sorted(by_budget)}

    @functools.cached_property
    def optima(self) -> tuple[Optimum, ...]:
        """One a budget, from the least."""
        return tuple(optimum(budget, losses) for budget, losses in self.losses.items())

    @property
    def probes(self) -> list[Probe]:
        """The probes of the rate, each beside the seeds of its size and budget."""
        probes = []
        for training in self.probed:
            seeds = self.losses[training.budget][training.params]
            noise, dof = seed_noise(self.losses[training.budget])
            mean = statistics.fmean(seeds)
            gain = Estimate(mean - training.loss, noise * (1 + 1 / len(seeds)), dof)
            probes.append(Probe(training, mean, gain))
        return probes

    @property
    def budgets(self) -> list[float]:
        return [optimum.budget for optimum in self.optima]

    @property
    def has_noise(self) -> bool:
        """Whether seeds were repeated at every budget."""
        return all(optimum.dof for optimum in self.optima)

    def at(self, budgets: Iterable[float]) -> "Curve":
        """The curve at those of its budgets that are among these."""
        wanted = set(budgets)
        trainings, probed = (
            tuple(training for training in of_rate if training.budget in wanted)
            for of_rate in (self.trainings, self.probed)
        )
        return Curve(self.arm, trainings, probed)

    def below(self, times: float) -> list[Optimum]:
        """The optima of the budgets at least `times` smaller than the top one; budgets are known to two digits."""
        return [optimum for optimum in self.optima if optimum.budget * times <= 1.02 * self.optima[-1].budget]

    @property
    def upper_slope(self) -> Estimate:
        """b of loss ~ compute^-b over the upper half of the budgets, which shares a budget with the lower."""
        return self._contrast(_slope_weights(self.budgets, self._middle, None))

    @property
    def lower_slope(self) -> Estimate:
        """b over the lower half of the budgets, of which there are three or more."""
        return self._contrast(_slope_weights(self.budgets, 0, self._middle + 1))

    @property
    def share_kept(self) -> Estimate:
        """b over the upper half of the budgets, over that of the lower: 1 is a power law, 0 a level."""
        upper, lower = self.upper_slope.value, self.lower_slope.value
        upper_K = _slope_weights(self.budgets, self._middle, None)
        lower_K = _slope_weights(self.budgets, 0, self._middle + 1)
        return self._contrast((upper_K - upper / lower * lower_K) / lower)._replace(value=upper / lower)

    @property
    def _middle(self) -> int:
        """The budget that is in both halves."""
        return (len(self.budgets) - 1) // 2

    def _contrast(self, weights_K: np.ndarray) -> Estimate:
        """A weighted sum of the logarithms of the optima."""
        logs = [math.log(optimum.loss) for optimum in self.optima]
        variances = [optimum.variance / optimum.loss**2 for optimum in self.optima]
        return contrast(weights_K, logs, variances, [optimum.dof for optimum in self.optima])

    def prediction(self, times: float, confidence: float = 0.95) -> Prediction:
        """Of the top budget from those at least `times` smaller; ValueError below three of them, which leave no floor.

        By loss = floor + c * compute^-a, each budget weighted by its noise; the interval has the top's own noise in it.
        """
        below = self.below(times)
        if len(below) < FITTED:
            raise ValueError(f"a floor wants {FITTED} budgets {times:g} times below the top one; got {len(below)}")
        return _prediction(below, self.optima[-1], confidence)


def optimum(budget: float, losses: dict[int, list[float]]) -> Optimum:
    """The least loss of a budget: of the cubic in log size through the best size, its neighbours and the next nearest.

    A parabola is too even: its error in Chinchilla's law is larger than the noise of seeds. The noise of the budget is
    that of its seeds, pooled over its sizes.
    """
    sizes = sorted(losses)
    means = [statistics.fmean(losses[size]) for size in sizes]
    best = min(range(len(sizes)), key=lambda index: means[index])
    noise, dof = seed_noise(losses)
    if best in (0, len(sizes) - 1):
        edge = SMALLEST if best == 0 else LARGEST
        return Optimum(budget, means[best], noise / len(losses[sizes[best]]), dof, edge)
    logs = np.log(sizes) - math.log(sizes[best])
    near = sorted(range(len(sizes)), key=lambda index: (abs(index - best) > 1, abs(logs[index])))[:4]
    weights = _weights_at_minimum(logs[near], np.asarray(means)[near])
    counts = np.asarray([len(losses[sizes[index]]) for index in near])
    variance = noise * float((weights**2 / counts).sum())
    return Optimum(budget, float(weights @ np.asarray(means)[near]), variance, dof, "")


def seed_noise(losses: Mapping[int, list[float]]) -> tuple[float, int]:
    """The variance of a seed's loss, pooled over the sizes of a budget, and its degrees of freedom."""
    dof = sum(len(of_size) - 1 for of_size in losses.values())
    squares = sum(statistics.variance(of_size) * (len(of_size) - 1) for of_size in losses.values() if len(of_size) > 1)
    least = min(statistics.fmean(of_size) for of_size in losses.values())
    return max(squares / max(1, dof), (ROUNDING * least) ** 2), dof


def _weights_at_minimum(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Lagrange's weights at the minimum of the polynomial through all points, between the neighbours of the first.

    They are the derivatives of the minimum by each y too, as the polynomial is level there. Its first point is the
    least and the next two lie on either side.
    """
    level = np.polyder(np.polyfit(x, y, len(x) - 1))
    roots = np.roots(level)
    real = roots[np.isreal(roots)].real
    inside = (real > x[:3].min()) & (real < x[:3].max()) & (np.polyval(np.polyder(level), real) > 0)
    at = real[inside][0] if inside.any() else x[0]  # none where all are equal
    others = [np.delete(x, index) for index in range(len(x))]
    return np.asarray([np.prod(at - other) / np.prod(x[index] - other) for index, other in enumerate(others)])


def _slope_weights(budgets: list[float], first: int, last: int | None) -> np.ndarray:
    """Weights of log losses that make b of a least-squares line over a range of the budgets."""
    x_K = np.log(budgets)
    weights_K = np.zeros(len(x_K))
    centred = x_K[first:last] - x_K[first:last].mean()
    weights_K[first:last] = -centred / (centred**2).sum()
    return weights_K


def _prediction(below: list[Optimum], top: Optimum, confidence: float) -> Prediction:
    """At each floor that is tried the fit is a line, and the best of them predicts.

    A loss of the top budget lies in the interval if the fit to all budgets is not worse than the fit to those below by
    more than the quantile squared (a likelihood ratio).
    """
    x_K = np.log([optimum.budget / top.budget for optimum in below])
    loss_K = np.asarray([optimum.loss for optimum in below])
    variance_K = np.asarray([optimum.variance for optimum in below])
    floor_G = FLOORS * loss_K.min()
    above_GK = loss_K - floor_G[:, None]
    weight_GK, log_GK = above_GK**2 / variance_K, np.log(above_GK)
    w, wx, wxx = weight_GK.sum(1), weight_GK @ x_K, weight_GK @ x_K**2
    share_GK = weight_GK * (wxx[:, None] - wx[:, None] * x_K) / (w * wxx - wx**2)[:, None]  # of each log at the top
    at_top_G = (share_GK * log_GK).sum(1)
    tilt_G = ((weight_GK * log_GK) @ x_K - wx * (weight_GK * log_GK).sum(1) / w) / (wxx - wx**2 / w)
    misfit_G = (weight_GK * (log_GK - at_top_G[:, None] - tilt_G[:, None] * x_K) ** 2).sum(1)
    predicted_G = floor_G + np.exp(at_top_G)
    spread_G = np.exp(at_top_G) ** 2 * (share_GK**2 / weight_GK).sum(1) + top.variance
    best = int(misfit_G.argmin())
    in_loss_K = np.exp(at_top_G[best]) * share_GK[best] / above_GK[best]
    error = contrast(
        [*in_loss_K, 1.0], [*loss_K, top.loss], [*variance_K, top.variance], [*(one.dof for one in below), top.dof]
    )
    allowed_G = t_quantile(error.dof, confidence) ** 2 - (misfit_G - misfit_G[best])
    radius_G = np.sqrt(np.maximum(allowed_G, 0) * spread_G)
    low, high = (predicted_G - radius_G)[allowed_G > 0].min(), (predicted_G + radius_G)[allowed_G > 0].max()
    predicted = float(predicted_G[best])
    fitted = floor_G[best] + np.exp(at_top_G[best] + tilt_G[best] * x_K[-1])
    return Prediction(Interval(predicted, float(low), float(high)), float(fitted) - predicted)


def gather(rows: list[Row]) -> dict[str, Curve]:
    """Trainings on text at fixed budgets: those of the length at which most widths were trained."""
    flops = {
        alike.of_row(row, SIZED): row["flops_per_token"]
        for row in rows
        if row.get("phase") == "model" and is_text(row["task"])
    }
    tests = [
        row
        for row in sorted(rows, key=lambda row: row["run_id"])
        if row.get("phase") == "test"
        and is_text(row["task"])
        and row["seed"] not in learning_rates.SEEDS
        and alike.of_row(row, SIZED) in flops
    ]
    widths: dict[int, set[int]] = defaultdict(set)
    for row in tests:
        widths[row["length"]].add(row["reference_width"])
    if not widths:
        return {}
    length = max(sorted(widths), key=lambda at: len(widths[at]))
    tests = [row for row in tests if row["length"] == length]
    spent = {row["run_id"]: TRAINING * flops[alike.of_row(row, SIZED)] * row["tokens"] for row in tests}
    budgets = _clusters(spent.values())  # of all arms: each rounds to steps of its own
    arms = sorted({row["arm"] for row in tests})
    return {arm: _curve(arm, [row for row in tests if row["arm"] == arm], spent, budgets) for arm in arms}


def _curve(arm: str, tests: list[Row], spent: dict[str, float], budgets: list[float]) -> Curve:
    by_setting: dict[tuple, list[Row]] = defaultdict(list)
    for row in tests:
        by_setting[alike.of_row(row, (*alike.ARM, *alike.CONDITIONS))].append(row)
    trainings, probed = [], []
    for of_setting in by_setting.values():
        rate = trials.rate_of_most_seeds(of_setting)
        for row in of_setting:
            compute = spent[row["run_id"]]
            budget = min(budgets, key=lambda at, compute=compute: abs(math.log(at / compute)))
            training = Training(row["params"], compute, budget, row["loss"], row)
            (trainings if row["learning_rate"] == rate else probed).append(training)
    return Curve(arm, tuple(trainings), tuple(probed))


def _clusters(spent: Iterable[float]) -> list[float]:
    """Budgets: a few whole steps spend up to a third more or less than was meant, and budgets lie a factor apart."""
    clusters: list[list[float]] = []
    for value in sorted(spent):
        if clusters and value < NEAR * clusters[-1][0]:
            clusters[-1].append(value)
        else:
            clusters.append([value])
    return [float(f"{statistics.geometric_mean(cluster):.2g}") for cluster in clusters]


def is_text(task: str) -> bool:
    """Whether a task's spec is text, of whatever corpus."""
    return parts.split(task)[0] == "text"
