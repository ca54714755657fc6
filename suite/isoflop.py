"""Trainings at fixed compute: the optimum over sizes at each budget of FLOPs, and how it falls (IsoFLOP curves).

The profile of Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", approach 2.
"""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from suite import parts, rates
from suite.statistics import slope
from suite.store import Row

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

    def optima(self, losses: Sequence[float] | None = None) -> list[float]:
        """Of each budget the least loss; with other `losses` in the trainings' order, theirs."""
        losses = [training.loss for training in self.trainings] if losses is None else losses
        found = []
        for budget in self.budgets:
            by_size: dict[int, list[float]] = defaultdict(list)
            for training, loss in zip(self.trainings, losses, strict=True):
                if training.budget == budget:
                    by_size[training.params].append(loss)
            found.append(optimum({size: statistics.fmean(own) for size, own in by_size.items()}))
        return found

    def exponent(self, losses: Sequence[float] | None = None, first: int = 0, last: int | None = None) -> float:
        """b of loss ~ compute^-b over a range of the budgets."""
        budgets, optima = self.budgets[first:last], self.optima(losses)[first:last]
        return -slope(budgets, optima)

    def error(self, times: float) -> float | None:
        """Loss at the top budget less its prediction from budgets at least `times` smaller; None below two of them."""
        top, optima = self.budgets[-1], self.optima()
        reached = zip(self.budgets, optima, strict=True)
        below = [(budget, loss) for budget, loss in reached if budget * times <= 1.01 * top]
        if len(below) < 2:
            return None
        exponent = slope([budget for budget, _ in below], [loss for _, loss in below])
        centre = statistics.fmean(math.log(loss) - exponent * math.log(budget) for budget, loss in below)
        return optima[-1] - math.exp(centre + exponent * math.log(top))


def optimum(loss_by_size: dict[int, float]) -> float:
    """The least loss of a budget: of a parabola in log size where it lies inside, else of the sizes."""
    sizes = sorted(loss_by_size)
    losses = [loss_by_size[size] for size in sizes]
    if len(sizes) < 3:
        return min(losses)
    curvature, tilt, height = np.polyfit(np.log(sizes), losses, 2)
    if curvature <= 0 or not sizes[0] < math.exp(-tilt / (2 * curvature)) < sizes[-1]:
        return min(losses)
    return float(height - tilt**2 / (4 * curvature))


def gather(rows: list[Row]) -> dict[str, Curve]:
    """Trainings on text at fixed budgets: those of the length at which most widths were trained."""
    flops = {_shape(row): row["flops_per_token"] for row in rows if row.get("phase") == "model" and _is_text(row)}
    tests = [
        row
        for row in rows
        if row.get("phase") == "test" and _is_text(row) and row["seed"] not in rates.SEEDS and _shape(row) in flops
    ]
    widths: dict[int, set[int]] = defaultdict(set)
    for row in tests:
        widths[row["length"]].add(row["reference_width"])
    if not widths:
        return {}
    length = max(widths, key=lambda at: len(widths[at]))
    by_arm: dict[str, list[Row]] = defaultdict(list)
    for row in tests:
        if row["length"] == length:
            by_arm[row["arm"]].append(row)
    return {arm: _curve(arm, own, flops) for arm, own in sorted(by_arm.items())}


def _curve(arm: str, tests: list[Row], flops: dict[tuple, float]) -> Curve:
    spent = {id(row): TRAINING * flops[_shape(row)] * row["tokens"] for row in tests}
    budgets = _clusters(spent.values())
    trainings = []
    for row in tests:
        compute = spent[id(row)]
        budget = min(budgets, key=lambda at, compute=compute: abs(math.log(at / compute)))
        trainings.append(Training(row["params"], compute, budget, row["loss"], row))
    repeats: dict[tuple, list[float]] = defaultdict(list)
    for training in trainings:
        repeats[training.budget, training.params].append(training.loss)
    spreads = [statistics.variance(losses) for losses in repeats.values() if len(losses) > 1]
    noise = math.sqrt(statistics.fmean(spreads)) if spreads else None
    return Curve(arm, tuple(trainings), noise)


def _clusters(spent: Iterable[float]) -> list[float]:
    """Budgets: whole steps spend a little more or less than was meant, so what lies within a tenth is one."""
    found: list[list[float]] = []
    for value in sorted(spent):
        if found and value < 1.1 * found[-1][0]:
            found[-1].append(value)
        else:
            found.append([value])
    return [float(f"{statistics.geometric_mean(own):.2g}") for own in found]


def _shape(row: Row) -> tuple:
    names = ("mixer", "task", "block", "conv", "reference_width", "depth", "length", "dtype")
    return tuple(row[name] for name in names)


def _is_text(row: Row) -> bool:
    return parts.split(row["task"])[0] == "text"
