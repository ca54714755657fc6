"""Rows of a measure on the test, of arms that were trained under the same conditions: by arm and seed."""

import dataclasses
from collections import defaultdict

from suite import parts
from suite.claims import ATTENTION, LSTM
from suite.job import Job
from suite.judging import alike, trials
from suite.report import words
from suite.report.records import Comparison
from suite.sweep.record import Row


@dataclasses.dataclass(frozen=True)
class Tested:
    """The rows of each arm and seed, all of one corpus, at each arm's own learning rate."""

    job: Job  # the fields that they share
    rows: dict[str, dict[int, list[Row]]]

    @property
    def arms(self) -> list[str]:
        """The judged pair first, then the others in their order: with the first one the others are compared."""
        return sorted(self.rows, key=lambda arm: (arm != ATTENTION, arm != LSTM))

    @property
    def every_row(self) -> list[Row]:
        return [row for seeds in self.rows.values() for rows in seeds.values() for row in rows]

    @property
    def conditions(self) -> str:
        job = self.job
        task, budget = parts.short("suite.tasks", job.task), f"{job.steps:,} steps of {job.batch}"
        return f"trained on {task}, {words.lengths(job)}, {budget}, width {job.width}"


def tested(comparison: Comparison, measure: str) -> list[Tested]:
    """The trainings with rows of a measure by their conditions, those with the most arms first."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in comparison.rows:
        if parts.split(row["measure"])[0] == measure and row["outcome"] == "ok":
            job, corpus = alike.without_arm(comparison.jobs[row["run_id"]]), {"corpus_sha256": "", **row}
            groups[job, row["measure"], corpus["corpus_sha256"]].append(row)
    made = [Tested(job, _by_arm(comparison, rows)) for (job, *_), rows in groups.items()]
    return sorted(made, key=lambda one: (-len(one.rows), one.job.id))


def _by_arm(comparison: Comparison, rows: list[Row]) -> dict[str, dict[int, list[Row]]]:
    by_arm: dict[str, dict[int, list[Row]]] = {}
    for arm in sorted({row["arm"] for row in rows}, key=comparison.order):
        of_arm = [row for row in rows if row["arm"] == arm]
        rate = trials.rate_of_most_seeds(of_arm)
        by_arm[arm] = defaultdict(list)
        for row in of_arm:
            if row["learning_rate"] == rate:
                by_arm[arm][row["seed"]].append(row)
    return by_arm
