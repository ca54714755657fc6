"""The schedule of launch.contexts: trainings of several seeds, each read at lengths below and beyond its own."""

import dataclasses
import json
from collections.abc import Iterable, Mapping

from suite import learning_rates, parts
from suite.job import Cell, Job
from suite.scale import HEAD_SIZE
from suite.sweep import remedies
from suite.sweep.record import Row

TASK = "needle"
LONGEST, LONGEST_TEXT = 16, 4  # that are read, in trained lengths
FILE = "contexts.json"  # under --out, from which a report knows what was asked


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the models of a scale are and how long they train, on a task with questions and on text."""

    questions: Job
    text: Job  # what it has of its own
    seeds: int

    def job(self, task: str) -> Job:
        """The job of a task, before the user's flags."""
        return self.text if parts.split(task)[0] == "text" else self.questions


_LAPTOP = Job(task="needle", width=64, depth=2, length=64, batch=32, steps=500, validate_every=250)
_LAPTOP = _LAPTOP.replace(validation_examples=512, test_examples=512)
_LAPTOP_TEXT = _LAPTOP.replace(task="text", length=256, batch=8, validation_examples=128)
_GPU_HOUR = Job(task="needle", width=512, head_size=HEAD_SIZE, depth=6, length=512, batch=32, dtype="bfloat16")
_GPU_HOUR = _GPU_HOUR.replace(steps=1000, validate_every=500, validation_examples=512, test_examples=1024)
_POD = Job(task="needle", width=1024, head_size=HEAD_SIZE, depth=8, length=2048, batch=4, dtype="bfloat16")
_POD = _POD.replace(remat="block", steps=2000, validate_every=500, validation_examples=1024, test_examples=2048)
# Batches are those of one device.
SIZES: Mapping[str, Size] = {
    "laptop": Size(_LAPTOP, _LAPTOP_TEXT, seeds=3),
    "gpu_hour": Size(_GPU_HOUR, _GPU_HOUR.replace(task="text"), seeds=3),
    "pod": Size(_POD, _POD.replace(task="text"), seeds=5),
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """Arms, trained alike and matched to the first, and the measures that read them."""

    arms: tuple[str, ...]
    job: Job  # what every training is made from
    seeds: int
    measures: tuple[str, ...]  # with their knobs
    rates: str  # of learning_rates.RATES; empty: the job's own learning rate
    remedied: bool = False  # whether the remedies of each arm are trained and read too

    def cells(self, rows: list[Row]) -> list[Cell]:
        """The cells that choose learning rates, until these are known; then every training, and what is read of it."""
        jobs = [self._arm(mixer) for mixer in self.arms]
        if self.rates:
            untuned, jobs = learning_rates.choose(jobs, self.rates, rows)
            if untuned:
                return untuned
        trainings = [job.replace(seed=seed) for seed in range(self.seeds) for job in jobs]
        if self.remedied:
            return list(dict.fromkeys(remedies.cells(trainings, self.measures, rows)))
        return [Cell(training, measure) for training in trainings for measure in ("learning", *self.measures)]

    def first_cells(self) -> list[Cell]:
        """Those that are known before anything is measured, with the learning rates of the table."""
        return dataclasses.replace(self, rates=self.rates and "table").cells([])

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


def size(scale: str) -> Size:
    """The sizes of a scale; ValueError where there are none."""
    if scale not in SIZES:
        raise ValueError(f"launch.contexts has no scale {scale}; known: {', '.join(SIZES)}")
    return SIZES[scale]


def measures(task: str, longest: int = 0, growth: int = 2, depths: int = 10) -> tuple[str, ...]:
    """The measures that read a task: of text by kind of byte and by position, up to `longest` trained lengths.

    A task with questions is read from its shortest example up to `longest` times the trained length. With 0 that is
    LONGEST_TEXT or LONGEST.
    """
    if parts.split(task)[0] == "text":
        specs = ["strata", f"loss_by_position:longest={longest or LONGEST_TEXT}"]
    else:
        specs = [f"length_accuracy:longest={longest or LONGEST},growth={growth},shortest=1,depths={depths}"]
    return tuple(parts.short("suite.measures", spec) for spec in specs)
