"""Trials: trainings of one arm on one task that differ in the seed, how many of them solved it, and their guards."""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable

from suite import learning_rates, parts
from suite.job import Cell, Job
from suite.judging.statistics import newcombe
from suite.sweep.record import Row

SOLVED = 0.9  # accuracy at the final position
SHOWN = (0.5, 0.9, 0.99)
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
    probes: tuple[Row, ...]
    failed: tuple[Row, ...]  # trainings that ended without a test: diverged, out of memory, crashed

    @property
    def accuracies(self) -> list[float]:
        """At the final position, one a seed; a training that failed has solved nothing."""
        return [row["final_accuracy"] for row in self.tests] + [0.0] * len(self.failed)

    @property
    def seeds(self) -> int:
        return len(self.accuracies)

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
    """The rows of `learning` on a task, whatever its knobs."""
    return [row for row in rows if row["measure"] == "learning" and parts.split(row["task"])[0] == name]


def variants(mixer: str) -> tuple[str, ...]:
    """The arms as which a mixer is compared: one for each value of the knob in its file's VARIANTS, or itself."""
    try:
        [(knob, values)] = parts.constant("suite.mixers", mixer, "VARIANTS").items()
    except LookupError:
        return (mixer,)
    return tuple(parts.short("suite.mixers", f"{mixer}:{knob}={value}") for value in values)


def gather(rows: Iterable[Row], bar: float = SOLVED) -> dict[str, Trials]:
    """The trials of each arm among trainings that are otherwise alike. The rate of most seeds is an arm's own."""
    by_arm: dict[str, dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["seed"] not in learning_rates.SEEDS and (row.get("phase") == "test" or row["outcome"] != "ok"):
            by_arm[row["arm"]][row["learning_rate"]].append(row)
    return {arm: _trials(arm, by_rate, bar) for arm, by_rate in sorted(by_arm.items())}


def rate_of_most_seeds(rows: list[Row]) -> float:
    """The learning rate with the most seeds; of several such the middle one, for probes lie on either side."""
    seeds = {
        learning_rate: len({row["seed"] for row in rows if row["learning_rate"] == learning_rate})
        for learning_rate in {row["learning_rate"] for row in rows}
    }
    most = sorted(learning_rate for learning_rate, count in seeds.items() if count == max(seeds.values()))
    return most[len(most) // 2]


def _trials(arm: str, by_rate: dict[float, list[Row]], bar: float) -> Trials:
    rate = rate_of_most_seeds([row for rows in by_rate.values() for row in rows])
    ok = [row for rows in by_rate.values() for row in rows if row["outcome"] == "ok"]
    tests = sorted((row for row in ok if row["learning_rate"] == rate), key=lambda row: row["seed"])
    probes = sorted((row for row in ok if row["learning_rate"] != rate), key=lambda row: row["learning_rate"])
    tested = {row["seed"] for row in tests}
    failed = [row for row in by_rate[rate] if row["outcome"] != "ok" and row["seed"] not in tested]
    return Trials(arm, rate, bar, tuple(tests), tuple(probes), tuple(sorted(failed, key=lambda row: row["seed"])))


def solved_difference(one: Trials, other: Trials) -> tuple[float, ...]:
    """Share of seeds that solve the task, `one` less `other`, with Newcombe's 95 % bounds where both have two seeds.

    A seed solves the task or does not: its accuracy is near 1 or near chance, and no mean of it has an interval that
    covers.
    """
    if min(one.seeds, other.seeds) < 2:
        return (one.solved() / one.seeds - other.solved() / other.seeds,)
    return newcombe(one.solved(), one.seeds, other.solved(), other.seeds)
