"""How far back arms remember: distances of recall, lengths beyond the trained one, contexts that help on text."""

import functools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from suite import learning_rates, parts
from suite.job import Job
from suite.judging import factors, trials
from suite.report.costs import Question, measure_of
from suite.sweep.record import Row

TESTED = tuple(name for name in factors.FIELDS if name != "length")  # a distance needs a length that holds it
TARGETS = 8  # of truncated_context, which are read beyond the context


class Try(NamedTuple):
    """One trained seed of an arm, and whether it solves the task over so many tokens."""

    at: int
    solved: bool
    row: Row


class Reach(NamedTuple):
    """Tokens over which arms remember; `asked` makes the job and the measures that would tell it at the question."""

    title: str
    tries: Callable[[Iterable[Row]], Iterator[Try]]
    asked: Callable[[Job, Question], tuple[Job, tuple[str, ...]]]
    alike: tuple[str, ...]


class Longest(NamedTuple):
    """The longest distance that most seeds of an arm solve, 0 for none, and how many solve each that was tried."""

    at: int
    seeds: dict[int, tuple[int, int]]  # that solve it, and all
    row: Row  # of the longest one, or of the shortest where none is solved

    def __str__(self) -> str:
        """48 (5/5 seeds; 0/5 at 96)"""
        beyond = [at for at in self.seeds if at > self.at][:1]
        clauses = [f"{_share(self.seeds[self.at])} seeds"] if self.at else []
        clauses += [f"{_share(self.seeds[at])} at {at:,}" for at in beyond]
        return f"{f'{self.at:,}' if self.at else 'none'} ({'; '.join(clauses)})"


def _share(seeds: tuple[int, int]) -> str:
    return f"{seeds[0]}/{seeds[1]}"


def longest(tries: Iterable[Try]) -> dict[str, Longest]:
    """What each arm solves at its own learning rate, the arms that reach farthest first."""
    by_arm: dict[str, dict[int, list[Try]]] = defaultdict(lambda: defaultdict(list))
    for one in tries:
        by_arm[one.row["arm"]][one.at].append(one)
    reached = {arm: _longest(dict(sorted(by_distance.items()))) for arm, by_distance in sorted(by_arm.items())}
    return dict(sorted(reached.items(), key=lambda entry: -entry[1].at))


def _longest(by_distance: dict[int, list[Try]]) -> Longest:
    seeds, rows = {}, {}
    for at, tries in by_distance.items():
        learning_rate = trials.rate_of_most_seeds([one.row for one in tries])
        solved = {one.row["seed"]: one.solved for one in tries if one.row["learning_rate"] == learning_rate}
        seeds[at] = sum(solved.values()), len(solved)
        rows[at] = next(one.row for one in tries if one.row["learning_rate"] == learning_rate)
    most = max((at for at, (solved, of_all) in seeds.items() if 2 * solved > of_all), default=0)
    return Longest(most, seeds, rows[most or min(rows)])


def recalled(rows: Iterable[Row]) -> Iterator[Try]:
    """Tests on tasks whose answer lies at a distance: solved with the accuracy that claims want."""
    for row in _trained(rows, "learning"):
        if row.get("phase") == "test" or row["outcome"] != "ok":
            distance, task = _at_distance(row["task"])
            if distance:
                solved = row["outcome"] == "ok" and row["final_accuracy"] >= trials.SOLVED
                yield Try(distance, solved, row | {"task": task})


def lengthened(rows: Iterable[Row]) -> Iterator[Try]:
    """Tests at lengths that may lie beyond the trained one: solved where it is with any of the remedies."""
    best: dict[tuple[str, int], Try] = {}
    for row in _trained(rows, "length_accuracy"):
        if row.get("phase") == "length" and row["outcome"] == "ok":
            one = Try(row["eval_length"], row["final_accuracy"] >= trials.SOLVED, row)
            key = row["run_id"], one.at
            if key not in best or one.solved:
                best[key] = one
    yield from best.values()


def used(rows: Iterable[Row]) -> Iterator[Try]:
    """Contexts of text, solved where the loss on the same targets would be more with less: by the claim's tolerance."""
    tolerance = float(parts.knobs("suite.claims", "context_length")["tolerance"])
    nats: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in _trained(rows, "truncated_context"):
        if row.get("phase") == "context" and row["outcome"] == "ok":
            nats[row["run_id"]][row["context"]].append(row)
    for by_context in nats.values():
        mean = {
            at: statistics.fmean(row["nats"] for row in of_context) for at, of_context in sorted(by_context.items())
        }
        effective = min(at for at in mean if mean[at] - mean[max(mean)] <= tolerance)
        for at, of_context in by_context.items():
            row = of_context[0]
            yield Try(row["length"] if at == max(mean) else at, at <= effective, row)


def _trained(rows: Iterable[Row], measure: str) -> Iterator[Row]:
    """The rows of a measure of trainings that have not chosen learning rates."""
    for row in rows:
        if measure_of(row) == measure and row["seed"] not in learning_rates.SEEDS:
            yield row


@functools.cache
def _at_distance(task: str) -> tuple[int, str]:
    """The distance of a task's answers, 0 where it sets none, and the task at any distance."""
    if parts.is_own("suite.tasks", task):
        return 0, task
    distance = int({"distance": 0, **parts.knobs("suite.tasks", task)}["distance"])
    return distance, parts.with_knobs("suite.tasks", task, {"distance": 0}) if distance else task


def _at_a_distance(job: Job, asked: Question) -> tuple[Job, tuple[str, ...]]:
    """One pair, asked for as far back as the context reaches."""
    distance = max(2, asked.context - 1)
    task = f"recall:pairs=1,distance={distance}"
    return job.replace(task=task, length=distance + 1), ("learning",)


def _lengthened(job: Job, asked: Question) -> tuple[Job, tuple[str, ...]]:
    """Trained at its own length on a task whose answers have distances, and tested at the least multiple."""
    times = math.ceil(asked.context / job.length)
    spec = f"length_accuracy:growth={times},longest={times}" if times > 1 else "length_accuracy:longest=1"
    task = job.task if parts.split(job.task)[0] != "text" else "needle"
    return job.replace(task=task), ("learning", parts.short("suite.measures", spec))


def _on_text(job: Job, asked: Question) -> tuple[Job, tuple[str, ...]]:
    return job.replace(task="text", length=asked.context + TARGETS), ("learning", "truncated_context")


REACHES = (
    Reach("Recalls a pair from farthest back", recalled, _at_a_distance, TESTED),
    Reach("Still answers at the greatest length", lengthened, _lengthened, factors.FIELDS),
    Reach("Uses the longest context of text", used, _on_text, factors.FIELDS),
)
