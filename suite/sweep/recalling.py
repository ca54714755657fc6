"""The schedule of launch.recall: arms at several sizes of their state, trained on recall, with their decode latency."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from suite import learning_rates, parts
from suite.job import Cell, Job
from suite.scale import SCALES
from suite.sweep.record import Row

FILE = "recall.json"  # under --out, from which a report knows what was asked
WIDTH = "width"  # what is turned of an arm that names no knob of its state
WINDOW = "window"  # attention's knob, in tokens
SEEDS = 3  # trainings of each size
GROUP = "recall"  # whose arms and sizes take turns in decoding


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The arms of a scale, how large they are, and what gives each a smaller or a larger state."""

    arms: tuple[str, ...]
    job: Job  # what every training is made from; its width is that of an arm whose knob is turned
    widths: tuple[int, ...]  # of an arm without a knob of its state
    windows: tuple[int, ...]  # of attention, in tokens; 0 for all
    states: tuple[int, ...]  # values of the knob of a recurrence


ARMS = ("attention", "lstm", "mamba2", "gated_deltanet", "mlstm")  # one or two of each family; a hybrid beside them


# The short convolution lets each arm see a key and its value side by side (Arora et al. 2023). At the laptop's width
# and rate (0.01) 600 steps are too few: no arm recalled 0.9 of 8 pairs in the mean of three seeds, at any size of its
# state. In 1,200, each of three seeds: attention all, mLSTM 0.98 and more from width 32, Gated DeltaNet all at 64.
SIZES = {
    "laptop": Sizes(
        (*ARMS, "mamba2+attention:window=16"),
        Job(task="recall:pairs=8,vocab=32", short_conv=4, width=32, depth=2, length=64, batch=16, steps=1000).replace(
            validate_every=1000, validation_examples=256, test_examples=512
        ),
        widths=(16, 32, 64),
        windows=(8, 24, 0),
        states=(4, 16, 64),
    ),
    "gpu_hour": Sizes(
        (*ARMS, "mamba2+attention:window=64"),
        SCALES["gpu_hour"].job.replace(
            **{"task": "recall:pairs=64,vocab=8192", "short_conv": 4, "length": 512, "batch": 64, "steps": 1000},
            **{"validate_every": 500, "validation_examples": 512, "test_examples": 3000},
        ),
        widths=(256, 512, 1024),
        windows=(64, 192, 0),
        states=(16, 64, 256),
    ),
    "pod": Sizes(
        (*ARMS, "mamba2+attention:window=256"),
        SCALES["pod"].job.replace(
            **{"task": "recall:pairs=256,vocab=8192", "short_conv": 4, "width": 512, "steps": 2000},
            **{"validate_every": 500, "validation_examples": 512, "test_examples": 3000},
        ),
        widths=(256, 512, 1024),
        windows=(256, 768, 0),
        states=(16, 64, 256),
    ),
}


class Size(NamedTuple):
    """One size of an arm: what was turned, to which value, and the job that it stands for, matched to no other yet."""

    arm: str
    turned: str  # a knob of the mixer, or WIDTH
    value: int
    job: Job


@dataclasses.dataclass(frozen=True)
class Recalling:
    """Arms, each at several sizes of its state, with as many parameters as the first arm at that width."""

    arms: tuple[str, ...]
    sizes: Sizes
    seeds: int
    rates: str  # of learning_rates.RATES; empty: the job's own learning rate

    def cells(self, rows: list[Row]) -> list[Cell]:
        """The cells that choose learning rates, until these are known; then every training, its bytes and its decoding.

        An arm's learning rate is chosen for it as it is named, at the job's width, and is that of all its sizes.
        """
        named = [self._matched(self.sizes.job.replace(mixer=arm)) for arm in self.arms]
        if self.rates:
            untuned, named = learning_rates.choose(named, self.rates, rows)
            if untuned:
                return untuned
        rate = {arm: job.learning_rate for arm, job in zip(self.arms, named, strict=True)}
        jobs = [self._matched(size.job).replace(learning_rate=rate[size.arm]) for size in self.ladder()]
        trainings = (Cell(job.replace(seed=seed), "learning") for seed in range(self.seeds) for job in jobs)
        decoding = (Cell(job, _decode(job.length), 0, GROUP) for job in jobs)
        return list(dict.fromkeys([*trainings, *(Cell(job, "size") for job in jobs), *decoding]))

    def ladder(self) -> Iterator[Size]:
        """The sizes of every arm, the smallest first: by the knob of its state, unless the arm's name has set it."""
        for arm in self.arms:
            job = self.sizes.job.replace(mixer=arm)
            knob = job.state_knob
            if knob and knob not in parts.split(job.arm)[1]:
                for value in self.sizes.windows if knob == WINDOW else self.sizes.states:
                    mixer = parts.with_knobs("suite.mixers", arm, {knob: value})
                    yield Size(arm, knob, value, job.replace(mixer=mixer))
            else:
                for width in self.sizes.widths:
                    yield Size(arm, WIDTH, width, job.replace(width=width))

    def first_cells(self) -> list[Cell]:
        """Those that are known before anything is measured, with the learning rates of the table."""
        return dataclasses.replace(self, rates=self.rates and "table").cells([])

    def on(self, devices: int) -> "Recalling":
        """The schedule with its batches for so many devices over which examples are split."""
        job = self.sizes.job.replace(batch=self.sizes.job.batch * devices)
        return dataclasses.replace(self, sizes=dataclasses.replace(self.sizes, job=job))

    def with_seconds(self, rows: Iterable[Row]) -> set[Cell]:
        """The cells that need the machine for themselves beside those that depend on the place: none."""
        del rows
        return set()

    def describe(self, place: Row, command: list[str]) -> tuple[str, str]:
        """The file, and its content, from which a report knows what was asked."""
        del place  # rows say theirs
        sizes = [
            {"arm": arm, "turned": turned, "value": value, "mixer": job.arm, "width": job.width}
            for arm, turned, value, job in self.ladder()
        ]
        return FILE, json.dumps({"arms": list(self.arms), "sizes": sizes, "command": command}, indent=1) + "\n"

    def _matched(self, job: Job) -> Job:
        return job if job.arm == self.arms[0] else job.replace(match_to=self.arms[0])


def sizes(scale: str) -> Sizes:
    """The sizes of a scale; ValueError where there are none."""
    if scale not in SIZES:
        raise ValueError(f"launch.recall has no scale {scale}; known: {', '.join(SIZES)}")
    return SIZES[scale]


def _decode(length: int) -> str:
    """The measure of a token's latency after a context of the trained length, which is read at once."""
    return parts.short("suite.measures", f"decode:shortest={length},longest={length},chunk={length}")
