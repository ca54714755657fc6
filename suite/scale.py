"""Scales: how much a comparison runs, as far as its claims share it. What only one claim needs stands in its file."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from types import ModuleType

from suite import learning_rates, parts
from suite.job import Cell, Job
from suite.learning_rates import Choice
from suite.sweep.record import Row

Changes = Mapping[str, int | str | float]  # fields of a job and their values


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes that claims share. The first arm sets what the others are matched to, unless there is a `reference`.

    Batch sizes are those of one device until `on` has multiplied them by the devices over which examples are split.
    """

    name: str
    about: str
    evidence: bool  # False: too small for any verdict
    arms: tuple[str, ...]
    job: Job  # what every cell is made from
    lengths: tuple[int, ...]  # tokens at which steps are timed; the longest is judged
    processes: int  # fresh processes of a timing
    seeds: int  # of the judged pair, where accuracy decides; every other arm has one
    curves: Changes  # training on text
    matches: tuple[str, ...] = ("params",)  # what arms hold equal; a verdict must not turn between them
    match: str = "params"  # the one of `arm`
    reference: str = ""  # the arm that the others are matched to; empty for the first
    own_widths: Mapping[str, int] = dataclasses.field(default_factory=dict)  # measured, beside job.width
    tuned: bool = True  # rates are those that were chosen; False: the job's own, for every arm
    choices: tuple[Choice, ...] = ()  # of rates, made in this comparison; they go before the table
    given: frozenset[str] = frozenset()  # fields of the job that the user set: the sizes of claims give way
    devices: int = 1

    def on(self, devices: int) -> "Scale":
        """The scale with its batch sizes for so many devices over which examples are split."""
        job = self.job.replace(batch=self.job.batch * devices)
        return dataclasses.replace(self, job=job, devices=self.devices * devices)

    def without(self, given: Iterable[str]) -> "Scale":
        """The scale whose sizes give way to the user's for these fields of the job."""
        names = self.given | set(given)
        return dataclasses.replace(self, tuned=self.tuned and "learning_rate" not in names, given=names)

    def batches(self, sizes: Iterable[int]) -> tuple[int, ...]:
        """Batch sizes of one device, on all devices; the user's own in their place."""
        return (self.job.batch,) if "batch" in self.given else tuple(size * self.devices for size in sizes)

    @property
    def against(self) -> str:
        """The arm that the others are matched to."""
        return self.reference or self.arms[0]

    def arm(self, mixer: str, sizes: Changes | None = None, **changes: int | str | float) -> Job:
        """The job of an arm: matched to the reference unless it is that, at the rate that was chosen for its task.

        `sizes` are a preset's, which give way to the user's fields; `changes` are conditions, which do not.
        """
        fitted = {name: value for name, value in (sizes or {}).items() if name not in self.given}
        if "batch" in fitted:
            fitted["batch"] = int(fitted["batch"]) * self.devices
        job = self.job.replace(**{"mixer": mixer, **fitted, **changes})
        if mixer != self.against:
            job = job.replace(match=self.match, match_to=self.against)
        if job.arm in self.own_widths:
            unit = width_unit(mixer)
            width = self.own_widths[job.arm] * job.width / self.job.width
            job = job.replace(own_width=unit * max(1, round(width / unit)))
        return (
            job.replace(learning_rate=learning_rates.look_up(job, self.choices))
            if self.tuned and "learning_rate" not in changes
            else job
        )


def width_unit(mixer: str) -> int:
    """What a mixer's width is a multiple of: an even size of each head, for every part that has heads."""
    heads = [int({"heads": 1, **parts.knobs("suite.mixers", part)}["heads"]) for part in parts.pattern(mixer)]
    return math.lcm(*(2 * max(1, count) for count in heads))


PAIR = ("attention", "lstm")
FIELD = (*PAIR, "gru", "elman", "mingru", "rglru", "mamba2", "gated_deltanet")  # one or two arms of each family
HEAD_SIZE = 64  # channels of attention's heads at scales for accelerators, which its fast kernels take
INSTALLATION = "smoke is a test of the installation"
# Of a training that only shows that it runs.
FEW = {"width": 16, "batch": 16, "steps": 20, "validate_every": 20, "validation_examples": 16, "test_examples": 64}

_QUICK = Scale(
    name="quick",
    about="minutes on two CPU cores, for the judged pair at small sizes",
    evidence=True,
    arms=PAIR,
    job=Job(width=64, depth=2, batch=2, length=1024),
    lengths=(64, 256, 1024),
    processes=3,
    seeds=5,
    curves={"length": 256, "batch": 2, "steps": 200, "validate_every": 50, "test_examples": 256},
)
_SMOKE = dataclasses.replace(
    _QUICK,
    name="smoke",
    about="two minutes or three to see that everything works; not evidence",
    evidence=False,
    job=_QUICK.job.replace(width=32, depth=1, length=64, batch=4),
    lengths=(64,),
    processes=1,
    seeds=1,
    curves={"length": 64, "steps": 40, "validate_every": 20, "validation_examples": 16, "test_examples": 32},
)
_LAPTOP = dataclasses.replace(
    _QUICK,
    name="laptop",
    about="an hour and a half on two CPU cores: an arm of each family, longer lengths, more compute",
    arms=FIELD,
    lengths=(128, 1024, 2048),
    curves={**_QUICK.curves, "length": 512, "batch": 4, "steps": 150},
)
_GPU = dataclasses.replace(
    _LAPTOP,
    name="gpu",
    about="days on one GPU, with every claim in its full range",
    job=Job(width=768, head_size=HEAD_SIZE, depth=12, batch=16, length=1024, dtype="bfloat16"),
    lengths=(256, 512, 1024, 2048, 4096, 8192),
    processes=5,
    seeds=8,
    curves={"length": 4096, "batch": 16, "steps": 20_000, "validate_every": 1000, "test_examples": 1024},
    matches=("params", "flops"),
)
_GPU_HOUR = dataclasses.replace(
    _QUICK,
    name="gpu_hour",
    about="an hour on one H100, as estimated, for the judged pair: what an hour can decide",
    job=Job(width=512, head_size=HEAD_SIZE, depth=6, batch=16, length=1024, dtype="bfloat16"),
    lengths=(256, 1024, 2048),
    curves={"length": 512, "batch": 16, "steps": 500, "validate_every": 250, "test_examples": 256},
)
# What is not trained again at another matching: a day is spent on steps that wait for one another.
_POD = dataclasses.replace(
    _GPU,
    name="pod",
    about="a day, two at most, as planned, on a Cloud TPU slice of 256 v5e chips; batch sizes are a chip's",
    arms=(*PAIR, "mamba2"),
    # With activations of every block Mamba-2's step takes twice the memory of a chip.
    job=Job(width=1024, head_size=HEAD_SIZE, depth=8, batch=4, length=2048, dtype="bfloat16", remat="block"),
    lengths=(512, 1024, 2048, 4096),
    processes=3,
    curves={**_GPU.curves, "length": 4096, "batch": 1, "steps": 2000, "validate_every": 500},
    matches=("params",),
)
SCALES = {scale.name: scale for scale in (_SMOKE, _QUICK, _LAPTOP, _GPU_HOUR, _GPU, _POD)}


def curve_cells(scale: Scale) -> list[Cell]:
    """What every report carries beside the claims: sizes, the place's peak, and learning curves on the task."""
    jobs = [scale.arm(mixer, scale.curves) for mixer in scale.arms]
    peak = Cell(scale.arm(scale.arms[0], length=scale.lengths[0]), "peak")
    return [peak, *(Cell(job, "size") for job in jobs), *(Cell(job, "learning") for job in jobs)]


def claim_cells(claim: ModuleType, scale: Scale, rows: list[Row]) -> list[Cell]:
    """The cells that a claim still needs at a scale, given the rows; none where it has no sizes for the scale."""
    return claim.cells(scale, rows) if scale.name in claim.SIZES else []


def untested(claim: ModuleType, scale: str) -> str:
    """Why a claim cannot be decided at a scale; empty where it can."""
    return claim.SIZES[scale].untested if scale in claim.SIZES else f"it has no sizes for the scale {scale}"
