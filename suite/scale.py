"""Scales: how much a comparison runs. What is judged stands in the claims; here stand only sizes."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

from suite import learning_rates, parts
from suite.job import Cell, Job

Changes = dict[str, int | str | float]  # fields of a job and their values
CHANGES = ("curves", "recall", "parity", "word_problem", "scaling")  # the fields of a scale that are changes


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes of a comparison. The first arm sets what the others are matched to, unless there is a `reference`.

    Batch sizes are those of one device until `on` has multiplied them; memory is that of one device.
    """

    name: str
    about: str
    evidence: bool  # False: too small for any verdict
    arms: tuple[str, ...]
    job: Job  # what every cell is made from
    # Timing.
    lengths: tuple[int, ...]  # tokens at which steps are timed; the longest is judged
    batches: tuple[int, ...]  # batch sizes tried at the longest length
    memory_bytes: float  # what one arm may use at its best batch
    processes: int  # fresh processes of a timing
    blocks: int  # turns that each arm takes in a process
    contexts: tuple[int, int]  # tokens read before decoding is timed: the least and the most
    decode_batches: tuple[int, ...]  # sequences decoded at once
    # Learning.
    seeds: int  # of the judged pair, where accuracy decides; every other arm has one
    recall: Changes  # recall of one pair
    distances: tuple[int, ...]  # tokens from the pair to its query; the shortest is the easy one
    parity: Changes
    word_problem: Changes  # of A5
    word_seeds: int  # of the judged pair there; 0 leaves it out
    curves: Changes  # training on text
    curve_seeds: int  # of every arm there
    scaling: Changes  # training on text at fixed compute
    widths: tuple[int, ...]  # of the models trained at each budget
    budgets: tuple[float, ...]  # FLOPs of a training
    reach: int  # tokens over which gradients and paths are followed
    untested: dict[str, str]  # claims that cannot be decided at this scale, and why
    matches: tuple[str, ...] = ("params",)  # what arms hold equal; a verdict must not turn between them
    match: str = "params"  # the one of `arm`
    reference: str = ""  # the arm that the others are matched to; empty for the first
    own_widths: Mapping[str, int] = dataclasses.field(default_factory=dict)  # measured, beside job.width
    tuned: bool = True  # rates are those of the table; False: the job's own, for every arm

    def on(self, devices: int) -> "Scale":
        """The scale with its batch sizes for all of `devices`."""

        def larger(changes: Changes) -> Changes:
            return changes | ({"batch": int(changes["batch"]) * devices} if "batch" in changes else {})

        return dataclasses.replace(
            self,
            job=self.job.replace(batch=self.job.batch * devices),
            batches=tuple(size * devices for size in self.batches),
            **{name: larger(getattr(self, name)) for name in CHANGES},
        )

    def without(self, given: Iterable[str]) -> "Scale":
        """The scale without its own values for these fields of the job: the user's count."""
        names = set(given)
        kept = {
            name: {key: value for key, value in getattr(self, name).items() if key not in names} for name in CHANGES
        }
        return dataclasses.replace(self, tuned=self.tuned and "learning_rate" not in names, **kept)

    @property
    def against(self) -> str:
        """The arm that the others are matched to."""
        return self.reference or self.arms[0]

    def arm(self, mixer: str, **changes: int | str | float) -> Job:
        """The job of an arm: matched to the reference unless it is that, at the table's rate for its task."""
        job = self.job.replace(**{"mixer": mixer, **changes})
        if mixer != self.against:
            job = job.replace(match=self.match, match_to=self.against)
        if job.arm in self.own_widths:
            unit = width_unit(mixer)
            width = self.own_widths[job.arm] * job.width / self.job.width
            job = job.replace(own_width=unit * max(1, round(width / unit)))
        return (
            job.replace(learning_rate=learning_rates.look_up(job))
            if self.tuned and "learning_rate" not in changes
            else job
        )


def width_unit(mixer: str) -> int:
    """What a mixer's width is a multiple of: an even size of each head, for every part that has heads."""
    heads = [int({"heads": 1, **parts.knobs("suite.mixers", part)}["heads"]) for part in parts.pattern(mixer)]
    return math.lcm(*(2 * max(1, count) for count in heads))


def _changes(**fields: int | str | float) -> Changes:
    return fields


PAIR = ("attention", "lstm")
FIELD = (*PAIR, "gru", "elman", "mingru", "rglru", "mamba2", "gated_deltanet")  # one or two arms of each family
ON_A_CPU = "the textbook speaks of GPUs and TPUs; on a CPU the ratio is printed"
_SMALL = Job(width=64, depth=2, batch=2, length=1024)
_TINY = _SMALL.replace(width=32, depth=1, length=64, batch=4)
_FEW = _changes(width=16, batch=16, steps=20, validate_every=20, validation_examples=16, test_examples=64)

SCALES = {
    "smoke": Scale(
        name="smoke",
        about="two minutes or three to see that everything works; not evidence",
        evidence=False,
        arms=PAIR,
        job=_TINY,
        lengths=(64,),
        batches=(4,),
        memory_bytes=1e9,
        processes=1,
        blocks=3,
        contexts=(64, 256),
        decode_batches=(1,),
        seeds=1,
        recall=_FEW,
        distances=(4,),
        parity=_FEW | {"length": 8},
        word_problem=_FEW | {"length": 4},
        word_seeds=1,
        curves=_changes(length=64, steps=40, validate_every=20, validation_examples=16, test_examples=32),
        curve_seeds=1,
        scaling=_changes(length=32, batch=4, validate_every=1000, validation_examples=16, test_examples=32),
        widths=(16,),
        budgets=(1e8, 2e8),
        reach=64,
        untested=dict.fromkeys(
            ("parallelism", "path_length", "gradient_flow", "context_length", "compute_scaling", "state_tracking"),
            "smoke is a test of the installation",
        ),
    ),
    "quick": Scale(
        name="quick",
        about="minutes on two CPU cores, for the judged pair at small sizes",
        evidence=True,
        arms=PAIR,
        job=_SMALL,
        lengths=(64, 256, 1024),
        batches=(2,),
        memory_bytes=2e9,
        processes=3,
        blocks=10,
        contexts=(64, 256),
        decode_batches=(1,),
        seeds=5,
        recall=_changes(width=32, batch=16, steps=200, validate_every=200, validation_examples=512, test_examples=1024),
        distances=(4, 48),
        parity=_changes(
            width=32, length=20, batch=32, steps=500, validate_every=500, validation_examples=512, test_examples=1024
        ),
        word_problem=_changes(
            width=32, length=5, batch=64, steps=500, validate_every=500, validation_examples=512, test_examples=1024
        ),
        word_seeds=0,
        curves=_changes(length=256, batch=2, steps=200, validate_every=50, test_examples=256),
        curve_seeds=1,
        scaling=_changes(length=128, batch=2, validate_every=100_000, test_examples=256),
        widths=(16, 32, 64),
        budgets=(7e8, 2e9, 6e9),
        reach=1000,
        untested={
            "parallelism": ON_A_CPU,
            "context_length": "windows of 256 tokens; the rule wants 4,096",
            "compute_scaling": "three budgets over one decade; the rule wants five over two and a half",
        },
    ),
    "laptop": Scale(
        name="laptop",
        about="an hour, as estimated, on two CPU cores: an arm of each family, longer lengths, more compute",
        evidence=True,
        arms=FIELD,
        job=_SMALL,
        lengths=(128, 1024, 2048),
        batches=(1, 4),
        memory_bytes=4e9,
        processes=3,
        blocks=10,
        contexts=(64, 4096),
        decode_batches=(1, 8),
        seeds=5,
        recall=_changes(width=32, batch=16, steps=300, validate_every=300, validation_examples=512, test_examples=1024),
        distances=(8, 32, 128),
        parity=_changes(
            width=32, length=40, batch=32, steps=500, validate_every=500, validation_examples=512, test_examples=1024
        ),
        word_problem=_changes(
            width=64, length=4, batch=64, steps=1500, validate_every=1500, validation_examples=512, test_examples=1024
        ),
        word_seeds=1,
        curves=_changes(length=512, batch=4, steps=300, validate_every=50, test_examples=256),
        curve_seeds=1,
        scaling=_changes(length=128, batch=4, validate_every=1_000_000, test_examples=512),
        widths=(16, 32, 64),
        budgets=(1e9, 4e9, 1.8e10, 7.5e10, 3.2e11),
        reach=1000,
        untested={
            "parallelism": ON_A_CPU,
            "context_length": "windows of 512 tokens; the rule wants 4,096",
        },
    ),
    "gpu": Scale(
        name="gpu",
        about="days on one GPU, with every claim in its full range",
        evidence=True,
        arms=FIELD,
        job=Job(width=768, depth=12, batch=16, length=1024, dtype="bfloat16"),
        lengths=(256, 512, 1024, 2048, 4096, 8192),
        batches=(8, 16, 32, 64),
        memory_bytes=6.4e10,
        processes=5,
        blocks=20,
        contexts=(1024, 65536),
        decode_batches=(1, 16, 128),
        seeds=8,
        recall=_changes(width=128, depth=2, batch=64, steps=10_000, validate_every=1000, test_examples=3072),
        distances=(8, 64, 256, 999),
        parity=_changes(
            width=128, depth=2, length=40, batch=128, steps=10_000, validate_every=1000, test_examples=4096
        ),
        word_problem=_changes(
            width=128, depth=2, length=20, batch=256, steps=50_000, validate_every=5000, test_examples=4096
        ),
        word_seeds=8,
        curves=_changes(length=4096, batch=16, steps=20_000, validate_every=1000, test_examples=1024),
        curve_seeds=2,
        scaling=_changes(length=1024, batch=32, validate_every=1_000_000, test_examples=2048),
        widths=(128, 256, 384, 512, 768),
        budgets=(1e15, 4e15, 1.6e16, 6.4e16, 2.56e17, 1.024e18),
        reach=1000,
        untested={},
        matches=("params", "flops"),
    ),
    "pod": Scale(
        name="pod",
        about="days on a Cloud TPU pod slice; batch sizes are a chip's",
        evidence=True,
        arms=FIELD,
        job=Job(width=1024, depth=24, batch=8, length=2048, dtype="bfloat16"),
        lengths=(512, 1024, 2048, 4096, 8192, 16384),
        batches=(2, 4, 8, 16),
        memory_bytes=1.4e10,
        processes=5,
        blocks=20,
        contexts=(1024, 65536),
        decode_batches=(1, 8, 32),
        seeds=8,
        recall=_changes(width=256, depth=2, batch=16, steps=20_000, validate_every=2000, test_examples=4096),
        distances=(8, 64, 256, 999),
        parity=_changes(width=256, depth=2, length=40, batch=16, steps=10_000, validate_every=1000, test_examples=4096),
        word_problem=_changes(
            width=256, depth=2, length=20, batch=16, steps=50_000, validate_every=5000, test_examples=4096
        ),
        word_seeds=8,
        curves=_changes(length=8192, batch=1, steps=20_000, validate_every=1000, test_examples=1024),
        curve_seeds=2,
        scaling=_changes(length=2048, batch=2, validate_every=1_000_000, test_examples=4096),
        widths=(256, 384, 512, 768, 1024),
        budgets=(1e16, 4e16, 1.6e17, 6.4e17, 2.56e18, 1.024e19),
        reach=1000,
        untested={},
        matches=("params", "flops"),
    ),
}


def curve_cells(scale: Scale) -> list[Cell]:
    """What every report carries beside the claims: sizes, the place's peak, and learning curves on the task."""
    jobs = [scale.arm(mixer, **scale.curves) for mixer in scale.arms]
    peak = Cell(scale.arm(scale.arms[0], length=scale.lengths[0]), "peak")
    return [peak, *(Cell(job, "size") for job in jobs), *(Cell(job, "learning") for job in jobs)]
