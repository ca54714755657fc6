"""Scales: how much a comparison runs. What is judged stands in the claims; here stand only sizes."""

import dataclasses

from suite.job import Cell, Job


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes of a comparison. The first arm sets the parameters that the others are matched to.

    Batch sizes are those of one device until `on` has multiplied them; memory is that of one device.
    """

    name: str
    about: str
    evidence: bool  # False: too small for any verdict
    arms: tuple[str, ...]
    job: Job  # what every cell is made from
    lengths: tuple[int, ...]  # tokens at which steps are timed; the longest is judged
    batches: tuple[int, ...]  # batch sizes tried at the longest length
    memory_bytes: float  # what one arm may use at its best batch
    processes: int  # fresh processes of a timing
    blocks: int  # turns that each arm takes in a process
    seeds: int  # of the judged pair, where accuracy decides; every other arm has one
    curves: dict[str, int | str | float]  # changes to the job for training on text
    curve_seeds: int  # of every arm, on text
    recall: dict[str, int | str | float]  # changes to the job for recall of one pair
    distances: tuple[int, ...]  # tokens from the pair to its query; the shortest is the easy one
    tracking: dict[str, int | str | float]  # changes to the job for parity and the word problem
    reach: int  # tokens over which gradients are followed
    contexts: tuple[int, ...]  # tokens read before decoding is timed
    decode_batches: tuple[int, ...]  # sequences decoded at once
    scaling: dict[str, int | str | float]  # changes to the job for training at fixed compute
    widths: tuple[int, ...]  # of the models trained at each budget
    budgets: tuple[float, ...]  # FLOPs of a training
    untested: dict[str, str]  # claims that cannot be decided at this scale, and why

    def on(self, devices: int) -> "Scale":
        """The scale with its batch sizes for all of `devices`."""
        batch = {"batch": int(self.curves["batch"]) * devices} if "batch" in self.curves else {}
        return dataclasses.replace(
            self,
            job=self.job.replace(batch=self.job.batch * devices),
            batches=tuple(size * devices for size in self.batches),
            curves={**self.curves, **batch},
        )

    def arm(self, mixer: str, **changes: int | str | float) -> Job:
        """The job of an arm: matched to the first one unless it is that."""
        reference = "" if mixer == self.arms[0] else self.arms[0]
        return self.job.replace(**{"mixer": mixer, "match_to": reference, **changes})


_SMALL = Job(width=64, depth=2, batch=2, length=1024)

SCALES = {
    "smoke": Scale(
        name="smoke",
        about="a minute to see that everything works; not evidence",
        evidence=False,
        arms=("attention", "lstm"),
        job=_SMALL.replace(width=32, length=64, batch=4),
        lengths=(32, 64),
        batches=(2, 4),
        memory_bytes=1e9,
        processes=1,
        blocks=3,
        seeds=1,
        curves={"length": 64, "steps": 40, "validate_every": 20, "validation_examples": 16, "test_examples": 32},
        curve_seeds=1,
        recall={"width": 16, "batch": 16, "steps": 20, "validate_every": 20, "validation_examples": 16},
        distances=(4, 8),
        tracking={"width": 16, "length": 8, "batch": 16, "steps": 20, "validate_every": 20, "validation_examples": 16},
        reach=64,
        contexts=(64, 256),
        decode_batches=(1,),
        scaling={"length": 32, "batch": 4, "validate_every": 1000, "validation_examples": 16, "test_examples": 32},
        widths=(16,),
        budgets=(1e8, 2e8),
        untested={},
    ),
    "quick": Scale(
        name="quick",
        about="minutes on two CPU cores, for the judged pair at small sizes",
        evidence=True,
        arms=("attention", "lstm"),
        job=_SMALL,
        lengths=(128, 256, 512, 1024),
        batches=(1, 2, 4),
        memory_bytes=2e9,
        processes=3,
        blocks=10,
        seeds=5,
        curves={"length": 512, "batch": 4, "steps": 300, "rate": 3e-3, "validate_every": 30, "test_examples": 512},
        curve_seeds=2,
        recall={"width": 32, "batch": 32, "steps": 300, "validate_every": 300, "test_examples": 1024},
        distances=(8, 64, 256),
        tracking={"width": 32, "length": 16, "batch": 64, "steps": 500, "validate_every": 500, "test_examples": 1024},
        reach=1000,
        contexts=(1024, 4096, 16384),
        decode_batches=(1, 8),
        scaling={"length": 128, "batch": 8, "validate_every": 1000, "test_examples": 256},
        widths=(16, 32, 64),
        budgets=(3e9, 1e10, 3e10),
        untested={},
    ),
}


def curve_cells(scale: Scale) -> list[Cell]:
    """What every report carries beside the claims: sizes, the place's peak, and learning curves on the task."""
    jobs = [scale.arm(mixer, **scale.curves) for mixer in scale.arms]
    peak = Cell(scale.arm(scale.arms[0], length=scale.lengths[0]), "peak")
    return [peak, *(Cell(job, "size") for job in jobs), *(Cell(job, "learning") for job in jobs)]
