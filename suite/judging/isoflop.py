"""Trainings at fixed compute: the optimum over sizes at each budget of FLOPs, and how it falls (IsoFLOP curves).

The profile of Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", approach 2.
"""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from suite import learning_rates, parts
from suite.judging import alike
from suite.sweep.store import Row

NEAR = 1.5  # budgets lie at least a factor of two apart
SIZED = (*alike.MODEL, "length")  # what FLOPs follow from
TRAINING = 3  # a step does the forward pass and twice as much again backward


@dataclasses.dataclass(frozen=True)
class Training:
    """One training: parameters, FLOPs spent, the budget that they come nearest to, test loss in nats."""

    params: int
    compute: float
    budget: float
    loss: float
    row: Row


@dataclasses.dataclass(frozen=True)
class Curve:
    """The optima of one arm over the budgets, and the spread of its seeds."""

    arm: str
    trainings: tuple[Training, ...]
    noise: float | None  # standard deviation of test loss over seeds; None where none was repeated

    @property
    def budgets(self) -> list[float]:
        return sorted({training.budget for training in self.trainings})

    @property
    def losses(self) -> np.ndarray:
        """Test loss of each training."""
        return np.asarray([training.loss for training in self.trainings])

    def optima(self, losses_RN: np.ndarray | None = None) -> np.ndarray:
        """The least loss of each budget, (K,); with other losses of the trainings, (R, N), theirs, (R, K)."""
        if losses_RN is None:
            return self.optima(self.losses[None])[0]
        optima = []
        for budget in self.budgets:
            at = [index for index, training in enumerate(self.trainings) if training.budget == budget]
            sizes_N = np.asarray([self.trainings[index].params for index in at])
            sizes_S = np.unique(sizes_N)
            mean_RS = np.stack([losses_RN[:, at][:, sizes_N == size].mean(axis=1) for size in sizes_S], axis=1)
            optima.append(optimum(sizes_S, mean_RS))
        return np.stack(optima, axis=1)

    def exponents(self, losses_RN: np.ndarray, first: int = 0, last: int | None = None) -> np.ndarray:
        """b of loss ~ compute^-b over a range of the budgets, (R,)."""
        optima_RK = self.optima(losses_RN)[:, first:last]
        return -np.polyfit(np.log(self.budgets[first:last]), np.log(optima_RK).T, 1)[0]

    def exponent(self, first: int = 0, last: int | None = None) -> float:
        """b of the losses that were measured."""
        return float(self.exponents(self.losses[None], first, last)[0])

    def error(self, times: float) -> float | None:
        """Loss at the top budget less its prediction from budgets at least `times` smaller; None below two of them."""
        budgets_K, optima_K = np.asarray(self.budgets), self.optima()
        below_K = budgets_K * times <= 1.01 * budgets_K[-1]
        if below_K.sum() < 2:
            return None
        line = np.polyfit(np.log(budgets_K[below_K]), np.log(optima_K[below_K]), 1)
        return float(optima_K[-1] - np.exp(np.polyval(line, np.log(budgets_K[-1]))))


def optimum(sizes_S: np.ndarray, losses_RS: np.ndarray) -> np.ndarray:
    """The least loss of a budget, (R,): of a parabola in log size where it lies inside, else of the sizes tried."""
    tried_R = losses_RS.min(axis=1)
    if len(sizes_S) < 3:
        return tried_R
    logs_S = np.log(sizes_S)
    curvature_R, tilt_R, height_R = np.polyfit(logs_S, losses_RS.T, 2)
    convex_R = curvature_R > 0
    at_R = -tilt_R / (2 * np.where(convex_R, curvature_R, 1.0))
    inside_R = convex_R & (at_R > logs_S[0]) & (at_R < logs_S[-1])
    return np.where(inside_R, height_R + tilt_R * at_R / 2, tried_R)


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
    trainings = []
    for row in tests:
        compute = spent[row["run_id"]]
        budget = min(budgets, key=lambda at, compute=compute: abs(math.log(at / compute)))
        trainings.append(Training(row["params"], compute, budget, row["loss"], row))
    repeats: dict[tuple, list[float]] = defaultdict(list)
    for training in trainings:
        repeats[training.budget, training.params].append(training.loss)
    spreads = [statistics.variance(losses) for losses in repeats.values() if len(losses) > 1]
    noise = math.sqrt(statistics.fmean(spreads)) if spreads else None
    return Curve(arm, tuple(trainings), noise)


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
