"""The schedule of launch.contexts: trainings of several seeds, each read at lengths below and beyond its own."""

import dataclasses
import json
from collections.abc import Iterable

from suite import learning_rates, parts
from suite.job import Cell, Job
from suite.sweep.record import Row

FILE = "contexts.json"  # under --out, from which a report knows what was asked


@dataclasses.dataclass(frozen=True)
class Reading:
    """Arms, trained alike and matched to the first, and the measure that reads them at other lengths."""

    arms: tuple[str, ...]
    job: Job  # what every training is made from
    seeds: int
    measure: str  # length_accuracy with its knobs
    own_rates: bool  # whether a learning rate that the table lacks is tuned first; otherwise it is the job's

    def cells(self, rows: list[Row]) -> list[Cell]:
        """The cells that choose learning rates, until these are known; then every training, and what is read of it."""
        jobs = [self._arm(mixer) for mixer in self.arms]
        if self.own_rates:
            known = (*learning_rates.tried(rows), *learning_rates.table())
            untuned = learning_rates.to_tune(job for job in jobs if not learning_rates.covers_any(known, job))
            if untuned:
                return learning_rates.cells(untuned, rows)
            choices = learning_rates.choices(rows)
            jobs = [job.replace(learning_rate=learning_rates.look_up(job, choices)) for job in jobs]
        trainings = [job.replace(seed=seed) for seed in range(self.seeds) for job in jobs]
        return [Cell(training, measure) for training in trainings for measure in ("learning", self.measure)]

    def first_cells(self) -> list[Cell]:
        """Those that are known before anything is measured, with the job's learning rate."""
        return dataclasses.replace(self, own_rates=False).cells([])

    def on(self, devices: int) -> "Reading":
        """The schedule with its batches for so many devices over which examples are split."""
        return dataclasses.replace(self, job=self.job.replace(batch=self.job.batch * devices))

    def with_seconds(self, rows: Iterable[Row]) -> set[Cell]:
        """The cells that need the machine for themselves beside those that depend on the place: none."""
        del rows
        return set()

    def describe(self, place: Row, command: list[str]) -> tuple[str, str]:
        """The file, and its content, from which a report knows what was asked."""
        del place  # rows say theirs
        return FILE, json.dumps({"arms": list(self.arms), "command": command}, indent=1) + "\n"

    def _arm(self, mixer: str) -> Job:
        job = self.job.replace(mixer=mixer)
        return job if mixer == self.arms[0] else job.replace(match_to=self.arms[0])


def measure(longest: int, growth: int, depths: int) -> str:
    """The measure that reads down to the task's shortest example and up to `longest` times the trained length."""
    spec = f"length_accuracy:longest={longest},growth={growth},shortest=1,depths={depths}"
    return parts.short("suite.measures", spec)
