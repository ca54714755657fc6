"""Trials: trainings of one arm on one task that differ in the seed, how many of them solved it, and their guards."""

import dataclasses
import functools
import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from suite import learning_rates, parts
from suite.job import Cell, Job
from suite.judging import factors
from suite.judging.statistics import newcombe
from suite.sweep.record import Row

SOLVED = 0.9  # accuracy at the final position
SHOWN = (0.5, 0.9, 0.99)
OTHERS = 3  # seeds of an arm: as many as a word on which of the judged it is like needs
PROBES = (1 / 3, 3.0)  # of the rate
COLUMNS = (
    "learning rate",
    "accuracy of each seed",
    "median",
    *(f"solved at {at:g}" for at in SHOWN),
    "probes of the rate",
)


@dataclasses.dataclass(frozen=True)
class Trials:
    """The tests of one arm: those at its rate, by seed, and those at the probes of the rate."""

    arm: str
    learning_rate: float
    bar: float  # accuracy at the final position from which a seed has solved the task
    tests: tuple[Row, ...]
    validations: tuple[Row, ...]  # the last of each training
    probes: tuple[Row, ...]
    failed: tuple[Row, ...]  # trainings that ended without a test: diverged, out of memory, crashed

    @property
    def accuracies(self) -> list[float]:
        """At the final position, one a seed; a training that failed has solved nothing."""
        return [row["final_accuracy"] for row in self.tests] + [0.0] * len(self.failed)

    @property
    def seeds(self) -> int:
        return len(self.tests) + len(self.failed)

    @property
    def median(self) -> float:
        return statistics.median(self.accuracies)

    def solved(self, at: float | None = None) -> int:
        """How many seeds reach the bar, or another accuracy."""
        return sum(accuracy >= (self.bar if at is None else at) for accuracy in self.accuracies)

    @property
    def all_solved(self) -> bool:
        return self.solved() == self.seeds

    @property
    def mostly_solved(self) -> bool:
        return 2 * self.solved() > self.seeds

    @property
    def validated(self) -> tuple[float, float]:
        """Medians over seeds of the final accuracy and of minus the loss on validation: more is better."""
        if not self.validations:
            return -1.0, -math.inf
        accuracy = statistics.median(row["final_accuracy"] for row in self.validations)
        return accuracy, -statistics.median(row["loss"] for row in self.validations)

    @property
    def winning_probe(self) -> Row | None:
        """A probe that solves what most seeds at the rate itself do not: the rate was badly chosen."""
        if self.mostly_solved:
            return None
        return next((row for row in self.probes if row["final_accuracy"] >= self.bar), None)

    def __str__(self) -> str:
        return f"{self.solved()}/{self.seeds}"


def table_cells(trials: Trials) -> tuple[str, ...]:
    """An arm's line of a table under COLUMNS."""
    outcomes = [row["outcome"] for row in trials.failed]
    each = ", ".join([f"{row['final_accuracy']:.2f}" for row in trials.tests] + outcomes)
    probes = ", ".join(f"{row['final_accuracy']:.2f} at {row['learning_rate']:g}" for row in trials.probes)
    shares = (f"{trials.solved(at)}/{trials.seeds}" for at in SHOWN)
    return (f"{trials.learning_rate:g}", each, f"{trials.median:.2f}", *shares, probes)


def cells(job: Job, seeds: int, *, probes: bool) -> list[Cell]:
    """A training for each seed, and with `probes` one at a third and at three times the rate, of seed 0."""
    trainings = [job.replace(seed=seed) for seed in range(seeds)]
    if probes:
        rates = [float(f"{job.learning_rate * factor:.3g}") for factor in PROBES]
        trainings += [job.replace(seed=0, learning_rate=learning_rate) for learning_rate in rates]
    return [Cell(training, "learning") for training in trainings]


def of_task(rows: Iterable[Row], name: str) -> list[Row]:
    """The rows of trainings on a task, whatever its knobs, but for those that chose learning rates."""
    return [
        row
        for row in rows
        if row["measure"] == "learning"
        and parts.split(row["task"])[0] == name
        and row["seed"] not in learning_rates.SEEDS
    ]


@functools.cache
def variants(mixer: str) -> tuple[str, ...]:
    """The arms as which a mixer is compared: one for each value of the knob in its file's VARIANTS, or itself."""
    try:
        [(knob, values)] = parts.constant("suite.mixers", mixer, "VARIANTS").items()
    except LookupError:
        return (mixer,)
    return tuple(parts.short("suite.mixers", f"{mixer}:{knob}={value}") for value in values)


def speaker(arms: Mapping[str, "Trials"], mixer: str) -> str | None:
    """The variant of a mixer that speaks for it: the best on validation, of equals the first; None without any."""
    return max((arm for arm in variants(mixer) if arm in arms), key=lambda arm: arms[arm].validated, default=None)


def to_guard(
    arms: Mapping[str, "Trials"], longer: Mapping[str, "Trials"], mixer: str, seeds: int
) -> tuple[str, tuple[str, ...]] | None:
    """The variant that speaks for a mixer, and those that are trained for longer; None until it is known who speaks.

    One after another is trained for longer, the best on validation first, until all seeds of one solve the task: no
    other could solve it more often. `longer` are the trials of such trainings.
    """
    if not is_complete(arms, mixer, seeds):
        return None
    ranked = sorted(variants(mixer), key=lambda arm: arms[arm].validated, reverse=True)  # of equals the first stays so
    trained = []
    for arm in ranked:
        trained.append(arm)
        if arm not in longer or longer[arm].seeds < seeds or longer[arm].all_solved:
            break
    return ranked[0], tuple(trained)


def shares(arms: Mapping[str, "Trials"], judged: Collection[str]) -> dict[str, float]:
    """The shares of seeds that solve a task, of the arms that speak and of all others that have enough for a word."""
    spoken_for = {name for arm in judged for name in variants(parts.split(arm)[0])} - {*judged}
    return {
        arm: of_arm.solved() / of_arm.seeds
        for arm, of_arm in arms.items()
        if arm not in spoken_for and of_arm.seeds >= OTHERS
    }


def is_complete(arms: Mapping[str, "Trials"], mixer: str, seeds: int) -> bool:
    """Whether all variants of a mixer have as many seeds: only then is it known which speaks."""
    return all(arm in arms and arms[arm].seeds >= seeds for arm in variants(mixer))


def gather(rows: Iterable[Row], bar: float = SOLVED) -> dict[str, Trials]:
    """The trials of each arm, in its setting of most trainings. The rate of most seeds is an arm's own."""
    by_arm: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["seed"] not in learning_rates.SEEDS:
            by_arm[row["arm"]].append(row)
    main = {arm: next(iter(factors.settings(of_arm).values())) for arm, of_arm in sorted(by_arm.items())}
    trials = {arm: _trials(arm, of_arm, bar) for arm, of_arm in main.items()}
    return {arm: of_arm for arm, of_arm in trials.items() if of_arm.seeds or of_arm.probes}


def rate_of_most_seeds(rows: list[Row]) -> float:
    """The learning rate with the most seeds; of several such the middle one, for probes lie on either side."""
    seeds = {
        learning_rate: len({row["seed"] for row in rows if row["learning_rate"] == learning_rate})
        for learning_rate in {row["learning_rate"] for row in rows}
    }
    most = sorted(learning_rate for learning_rate, count in seeds.items() if count == max(seeds.values()))
    return most[len(most) // 2]


def _trials(arm: str, rows: list[Row], bar: float) -> Trials:
    ends = [row for row in rows if row.get("phase") == "test" or row["outcome"] != "ok"]
    rate = rate_of_most_seeds(ends) if ends else 0.0

    ok = [row for row in ends if row["outcome"] == "ok"]
    tests = _at_rate(ok, rate)
    tested = {row["seed"] for row in tests}
    last = [row for row in rows if row.get("phase") == "validation" and row.get("step") == row["steps"]]
    validations = _at_rate((row for row in last if row["outcome"] == "ok"), rate)
    probes = sorted((row for row in ok if row["learning_rate"] != rate), key=lambda row: row["learning_rate"])
    failed = _at_rate((row for row in ends if row["outcome"] != "ok" and row["seed"] not in tested), rate)
    return Trials(arm, rate, bar, tests, validations, tuple(probes), failed)


def _at_rate(rows: Iterable[Row], rate: float) -> tuple[Row, ...]:
    return tuple(sorted((row for row in rows if row["learning_rate"] == rate), key=lambda row: row["seed"]))


def solved_difference(one: Trials, other: Trials) -> tuple[float, ...]:
    """Share of seeds that solve the task, `one` less `other`, with Newcombe's 95 % bounds where both have two seeds.

    A seed solves the task or does not: its accuracy is near 1 or near chance, and no mean of it has an interval that
    covers.
    """
    if min(one.seeds, other.seeds) < 2:
        return (one.solved() / one.seeds - other.solved() / other.seeds,)
    return newcombe(one.solved(), one.seeds, other.solved(), other.seeds)
