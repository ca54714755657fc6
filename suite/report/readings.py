"""What was read of trained models at several lengths: each arm, with each of its remedies."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable

from suite import learning_rates, parts
from suite.job import Job
from suite.judging import alike
from suite.report import words
from suite.report.records import Comparison
from suite.report.trainings import Trainings
from suite.sweep import remedies
from suite.sweep.record import Row

MEASURE = "length_accuracy"
FEWEST = 3  # lengths, where launch.contexts was not asked: a claim that reads at two shows them itself

Scores = dict[int, dict[int, float]]  # of each seed, the score at each length


@dataclasses.dataclass(frozen=True)
class Reading:
    """What one arm, with its remedy, has read of the test at several lengths."""

    job: Job  # of a training, without its rate and seed
    arm: str  # without the remedy
    remedy: str  # empty for none
    chunk: int  # tokens that are read at a time; 0 for all
    rows: list[Row]
    missing: list[str]  # the outcomes of the seeds that were not read

    @property
    def name(self) -> str:
        in_chunks = f"{self.chunk} tokens at a time" if self.chunk else ""
        return ", ".join(filter(None, (self.arm, self.remedy, in_chunks)))

    @property
    def in_words(self) -> str:
        """Its name in a sentence: the LSTM with state passing."""
        in_chunks = f", {self.chunk} tokens at a time," if self.chunk else ""
        return f"{words.arm(self.arm)}{f' with {self.remedy}' if self.remedy else ''}{in_chunks}"

    @property
    def side(self) -> str:
        """attention, recurrence, or empty for a hybrid."""
        return remedies.side(self.job)

    @property
    def trained(self) -> int:
        """The longest length of the training."""
        return self.job.length

    @property
    def lengths(self) -> list[int]:
        return sorted({row["eval_length"] for row in self.rows})

    def scores(self, column: str) -> Scores:
        """Of every seed that was read at all lengths."""
        scores: Scores = defaultdict(dict)
        for row in self.rows:
            if row["phase"] == "length":
                scores[row["seed"]][row["eval_length"]] = row[column]
        return {seed: at for seed, at in sorted(scores.items()) if len(at) == len(self.lengths)}

    def accuracy(self, phase: str, column: str) -> dict[tuple[int, int], list[float]]:
        """The accuracies of the seeds at each length, and at each value of a column there."""
        at: dict[tuple[int, int], list[float]] = defaultdict(list)
        for row in self.rows:
            if row["phase"] == phase:
                at[row["eval_length"], row[column]].append(row["accuracy"])
        return dict(sorted(at.items()))


def without_remedies(groups: Iterable[Trainings]) -> list[Trainings]:
    """The groups, those that differ in the passing of states alone as one."""
    merged: dict[Job, Trainings] = {}
    for group in sorted(groups, key=lambda group: group.job.state_passing):
        job = group.job.replace(state_passing=0.0)
        before = merged[job].rows if job in merged else []
        merged[job] = dataclasses.replace(group, job=job, rows=[*before, *group.rows])
    return [merged[job] for job in dict.fromkeys(group.job.replace(state_passing=0.0) for group in groups)]


def readings_of(comparison: Comparison, group: Trainings) -> list[Reading]:
    """The readings of a group's arms, in their order, each arm's first without a remedy."""
    fewest = 1 if comparison.reading else FEWEST
    trained = [row for row in group.rows if row["seed"] not in learning_rates.SEEDS]
    jobs = {row["run_id"]: alike.without_trial(comparison.jobs[row["run_id"]]) for row in trained}
    by_kind: dict[tuple[Job, str, int], list[Row]] = defaultdict(list)
    for row in comparison.rows:
        if row["run_id"] in jobs and row["outcome"] == "ok" and parts.split(row["measure"])[0] == MEASURE:
            chunk = int(parts.knobs("suite.measures", row["measure"])["chunk"])
            by_kind[jobs[row["run_id"]], row["remedy"], chunk].append(row)
    arms = sorted({row["arm"] for row in trained})
    readings = []
    for (job, knob, chunk), rows in by_kind.items():
        seeds = {row["seed"] for row in rows}
        others = {
            row["seed"]: row["outcome"] for row in trained if jobs[row["run_id"]] == job and row["seed"] not in seeds
        }
        missing = ["not read yet" if outcome == "ok" else words.outcome(outcome) for outcome in others.values()]
        asked = comparison.reading["arms"] if comparison.reading else arms
        arm, remedy = remedies.of_reading(job, rows[0]["arm"], knob, asked)
        reading = Reading(job, arm, remedy, chunk, rows, missing)
        if len(reading.lengths) >= fewest and reading.scores("accuracy"):
            readings.append(reading)
    return sorted(readings, key=lambda one: (comparison.order(one.arm), bool(one.remedy), one.remedy, one.chunk))
