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
    curves: dict[str, int | str | float]  # changes to the job for the learning curves

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
        curves={"length": 64, "steps": 40, "validate_every": 20, "validation_examples": 16, "test_examples": 32},
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
        curves={"length": 256, "batch": 8, "steps": 300, "rate": 3e-3, "validate_every": 30, "test_examples": 512},
    ),
}


def curve_cells(scale: Scale) -> list[Cell]:
    """What every report carries beside the claims: sizes, the place's peak, and learning curves on the task."""
    jobs = [scale.arm(mixer, **scale.curves) for mixer in scale.arms]
    peak = Cell(scale.arm(scale.arms[0], length=scale.lengths[0]), "peak")
    return [peak, *(Cell(job, "size") for job in jobs), *(Cell(job, "learning") for job in jobs)]
