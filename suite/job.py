"""Job: what is computed, said once. Flags, JSON and the run's id are all made from its fields."""

import dataclasses
import functools
import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from absl import flags

from suite import mixtures, parts

FOLDERS = {"mixer": "suite.mixers", "match_to": "suite.mixers", "task": "suite.tasks"}  # of the fields that are specs
LARGEST = {int: 2**31 - 1, float: 1e30}  # where int32 and float32 end, or soon after
flags.disclaim_key_flags()  # those that are defined here are the caller's
MOST_PASSING = 0.1  # of the steps: a remedy that costs more is another training
LONGEST = 120  # letters of a name: a file's may have 255 bytes, and to a cell's come its place and suffixes


def _field(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    bounds = {"minimum": minimum} if maximum is None else {"minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, **bounds})


@dataclasses.dataclass(frozen=True)
class Job:
    """One training job. Specs are kept canonical: every knob spelt out, so a changed default is seen."""

    mixer: str = _field(
        "attention", "sequence mixer: a file of suite/mixers or your own, with knobs; a hybrid is a+b+c"
    )
    task: str = _field("text", "task: a file of suite/tasks or your own, with knobs")
    block: str = _field(
        "residual", "what surrounds the mixer: residual stream or plain stack", choices=("residual", "plain")
    )
    short_conv: int = _field(0, "taps of causal depthwise convolution before every mixer; 0 for none", minimum=0)
    hidden: int = _field(
        0, "hidden size of the MLP after every mixer; 0 for two thirds of 4 D, -1 for no MLP", minimum=-1
    )
    head_size: int = _field(
        0,
        "channels of a head of attention, whose number follows from the width; 0: as --mixer says",
        minimum=0,
    )
    width: int = _field(128, "width D of the model; with --match_to, the width of the arm that is matched", minimum=1)
    depth: int = _field(2, "number of blocks", minimum=1)
    match: str = _field(
        "params",
        "the quantity that is made equal to that of --match_to, by the width (state_bytes: by a knob of the mixer)",
        choices=("params", "flops", "state_bytes", "step_time", "none"),
    )
    match_to: str = _field("", "the mixer to match at --width; empty for an arm that is taken as it is")
    own_width: int = _field(0, "the width of this arm, as found by timing; 0 to find it by --match", minimum=0)
    length: int = _field(256, "tokens in a training example; of several lengths the longest", minimum=1)
    lengths: str = _field(
        "",
        "lengths of the training examples, the longest of which is --length: with weights as in 64:1,256:1,1024:2, "
        "uniform:1-40, or grow:64-1024, doubled in stages of equally many examples; empty: all have --length",
    )
    batch: int = _field(16, "examples in a step, over all devices", minimum=1)
    microbatch: int = _field(
        0, "examples of which the gradient is taken at once, over all devices; 0 for the batch", minimum=0
    )
    remat: str = _field(
        "none",
        "block: the backward pass computes every block again, which saves memory",
        choices=("none", "block"),
    )
    reset: bool = _field(
        False, "attention is cut and states begin anew where a document ends within an example; for tasks of documents"
    )
    steps: int = _field(200, "optimiser steps; with --budget_seconds the most", minimum=1)
    budget_seconds: float = _field(
        0.0,
        "seconds of training, without compilation, evaluation and checkpoints, after which it ends; 0: after --steps",
        minimum=0.0,
    )
    state_passing: float = _field(
        0.0,
        "fraction of --steps that is added, at most a tenth, in which a recurrence reads each window from its state at "
        "the end of another, at the learning rate that the steps ended on (Buitrago and Gu 2025); attention as before",
        minimum=0.0,
        maximum=MOST_PASSING,
    )
    optimizer: str = _field("adamw", "update rule", choices=("adamw", "sgd", "lion"))
    learning_rate: float = _field(1e-3, "peak learning rate", minimum=0.0)
    warmup: float = _field(0.1, "fraction of the steps over which the learning rate rises linearly", minimum=0.0)
    decay: str = _field(
        "cosine", "course of the learning rate after warmup (cosine ends at a tenth)", choices=("cosine", "constant")
    )
    weight_decay: float = _field(0.1, "decoupled weight decay of matrices", minimum=0.0)
    clip: float = _field(1.0, "largest global gradient norm; 0 for no clipping", minimum=0.0)
    dtype: str = _field(
        "float32", "dtype of the products; parameters, carries and loss stay float32", choices=("float32", "bfloat16")
    )
    state_dtype: str = _field(
        "float32",
        "dtype of what decoding carries from token to token, attention's cache or the state of a recurrence, which is "
        "rounded to it; float32: as the mixer makes it, a cache in --dtype",
        choices=("float32", "bfloat16"),
    )
    seed: int = _field(0, "seed of initialisation and data", minimum=0)
    record_every: int = _field(10, "steps between rows of training loss", minimum=1)
    validate_every: int = _field(50, "steps between validations, each followed by a checkpoint", minimum=1)
    validation_examples: int = _field(64, "examples of a validation", minimum=1)
    test_examples: int = _field(256, "examples of the test at the end", minimum=1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if self.batch % (self.microbatch or self.batch):
            raise ValueError(f"batch {self.batch} is not a multiple of microbatch {self.microbatch}")
        if self.warmup > 1:
            raise ValueError(f"warmup is a fraction of the steps, at most 1; got {self.warmup}")
        self._check_lengths()
        object.__setattr__(self, "lengths", str(self.mixture))
        # A spec is brought into its one canonical spelling.
        object.__setattr__(self, "mixer", parts.canonical("suite.mixers", self.mixer))
        object.__setattr__(self, "task", parts.canonical("suite.tasks", self.task))
        blocks = len(parts.pattern(self.mixer))
        if blocks > self.depth:
            raise ValueError(f"depth {self.depth} cuts the pattern of {blocks} mixers off; give --depth={blocks}")
        if self.match_to:
            object.__setattr__(self, "match_to", parts.canonical("suite.mixers", self.match_to))

    @functools.cached_property
    def arm(self) -> str:
        """The mixer as people write it: only the knobs that differ from their defaults."""
        return parts.short("suite.mixers", self.mixer)

    @functools.cached_property
    def state_knob(self) -> str:
        """The knob that the mixer names as that of its state's size; empty for a mixer without one and for a hybrid."""
        if "+" in self.mixer:
            return ""
        try:
            return str(parts.constant("suite.mixers", self.mixer, "STATE_KNOB"))
        except LookupError:
            return ""

    @functools.cached_property
    def mixture(self) -> mixtures.Mixture:
        """The lengths of the training examples with their weights."""
        return mixtures.of(self.lengths, self.length)

    @property
    def tokens_a_step(self) -> int | float:
        """Tokens that a step trains on, the mean over the training: padding is none of them."""
        return self.batch * self.mixture.mean

    @functools.cached_property
    def passes(self) -> tuple[bool, ...]:
        """Of each mixer of the pattern, whether its state has a fixed size, and can be passed from window to window.

        LookupError for one that does not say its STATE.
        """
        return tuple(parts.constant("suite.mixers", spec, "STATE") != "cache" for spec in parts.pattern(self.mixer))

    @property
    def last_step(self) -> int:
        """The step that a training without a budget ends on, after those in which states are passed."""
        return self.steps + math.ceil(round(self.state_passing * self.steps, 6))

    @property
    def id(self) -> str:
        """Readable prefix and a hash of what differs from the defaults: the name of the run's directory."""
        digest = hashlib.sha256(json.dumps(self._changed(), sort_keys=True).encode()).hexdigest()[:10]
        task = slug(parts.short("suite.tasks", self.task))
        sizes = f"t{self.length}-b{self.batch}-s{self.seed}-{digest}"
        return f"{bounded(f'{slug(self.arm)}-{task}', LONGEST - len(sizes) - 1)}-{sizes}"

    def own_files(self) -> dict[str, str]:
        """The hashes of the user's own files that it rests on, by their names; without own parts, none."""
        mixers = [spec for spec in (self.mixer, self.match_to) if spec]
        specs = [*(("suite.mixers", spec) for spec in mixers), ("suite.tasks", self.task)]
        return {name: hash for folder, spec in specs for name, hash in parts.own_files(folder, spec).items()}

    def replace(self, **changes: Any) -> "Job":
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """A job as it was stored: a user's own file need not be there any more.

        A field or a knob that an older version did not have is at its default, at which it changes nothing.
        """
        stored = json.loads(text)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if newer := sorted(stored.keys() - fields.keys()):
            raise ValueError(f"written by a newer version, which has the fields {', '.join(newer)}; use that one")
        job = object.__new__(cls)
        for name, field in fields.items():
            value = _checked(field, stored.get(name, field.default))
            folder = FOLDERS.get(name)
            object.__setattr__(job, name, _completed(folder, str(value)) if folder and value else value)
        job._check_lengths()
        return job

    def to_flagfile(self) -> str:
        """Every field as a flag: what --flagfile reads."""
        return "".join(f"--{name}={value}\n" for name, value in dataclasses.asdict(self).items())

    def flags(self) -> list[str]:
        """The command-line flags that make this job, defaults left out."""
        return [f"--{name}={value}" for name, value in self._changed().items()]

    def _check_lengths(self) -> None:
        if self.mixture.longest != self.length:
            raise ValueError(
                f"length {self.length} is not the longest of lengths {self.lengths}; "
                f"give --length={self.mixture.longest}"
            )
        if self.mixture.grows and self.budget_seconds:
            raise ValueError(
                f"lengths {self.lengths} grow with the steps, whose number a budget of seconds leaves open; "
                "give --steps without --budget_seconds, or lengths with weights"
            )

    def _changed(self) -> dict[str, Any]:
        """Fields that differ from their defaults, specs in their short form."""
        changed = {}
        default = Job()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != getattr(default, field.name):
                folder = FOLDERS.get(field.name)
                changed[field.name] = parts.short(folder, value) if folder and value else value
        return changed


@dataclasses.dataclass(frozen=True)
class Cell:
    """A job and one measure of it: the unit of work. `repeat` counts fresh processes.

    Cells with the same `interleave_with` and `repeat` are timed in one process and take turns.
    """

    job: Job
    measure: str
    repeat: int = 0
    interleave_with: str = ""

    @property
    def placed(self) -> bool:
        """Whether its rows depend on the place: those of its measure do, or the job's training ends by seconds."""
        return self.job.budget_seconds > 0 or parts.constant("suite.measures", self.measure, "PLACED")

    @property
    def label(self) -> str:
        repeat = f" #{self.repeat + 1}" if self.repeat else ""
        return f"{self.measure} {self.job.arm} T={self.job.length} B={self.job.batch}{repeat}"

    def own_files(self) -> dict[str, str]:
        """The hashes of the user's own files that its rows rest on: those of the job, and the measure's."""
        return self.job.own_files() | parts.own_files("suite.measures", self.measure)

    def command(self, out: str) -> str:
        """The shell command that makes this cell's rows again."""
        argv = ["python", "-m", "launch.job", *self.job.flags(), f"--measures={self.measure}", f"--out={out}"]
        return shlex.join([*argv, f"--repeat={self.repeat}"] if self.repeat else argv)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Cell":
        return cls(**{**record, "job": Job(**record["job"])})


def define_flags(fields_of: type = Job, leave_out: tuple[str, ...] = ()) -> None:
    """Defines one absl flag for every field of a dataclass whose fields have a help text, choices and bounds."""
    for field in dataclasses.fields(fields_of):
        if field.name in leave_out:
            continue
        default: Any = field.default
        help, choices, minimum = (field.metadata[key] for key in ("help", "choices", "minimum"))
        if choices:
            flags.DEFINE_enum(field.name, default, choices, help)
        elif field.type is int:
            flags.DEFINE_integer(field.name, default, help, lower_bound=minimum, upper_bound=LARGEST[int])
        elif field.type is float:
            most = {"maximum": LARGEST[float], **field.metadata}["maximum"]
            flags.DEFINE_float(field.name, default, help, lower_bound=minimum, upper_bound=most)
        elif field.type is bool:
            flags.DEFINE_bool(field.name, default, help)
        else:
            flags.DEFINE_string(field.name, default, help)
        flags.declare_key_flag(field.name)


def from_flags(values: flags.FlagValues, base: Job | None = None) -> Job:
    """The Job that the parsed flags describe; over `base`, only the flags that were given count.

    Where --lengths is given without --length, that is the longest of them.
    """
    named = [field.name for field in dataclasses.fields(Job) if field.name in values]
    chosen: dict[str, Any] = {name: values[name].value for name in named if base is None or values[name].present}
    if chosen.get("lengths") and not values["length"].present:
        chosen["length"] = mixtures.parse(chosen["lengths"]).longest
    return Job(**chosen) if base is None else base.replace(**chosen)


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One line for every key whose values differ."""
    missing = "(not there)"
    return [
        f"{key}: stored {stored.get(key, missing)!r}, now {wanted.get(key, missing)!r}"
        for key in sorted(stored.keys() | wanted.keys())
        if stored.get(key, missing) != wanted.get(key, missing)
    ]


def slug(text: str) -> str:
    """Letters, digits, dots, underscores and dashes only, and not too many of them: a part of a file name."""
    return bounded(re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.").lower(), LONGEST)


def bounded(name: str, longest: int) -> str:
    """A name of at most so many letters: the end of one that has more is given as its hash."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return name if len(name) <= longest else f"{name[: longest - len(digest) - 1]}-{digest}"


@functools.cache
def _completed(folder: str, spec: str) -> str:
    """A stored spec with the knobs that its parts have gained since; of a user's own parts nothing is read."""
    ours = parts.names(folder)
    try:
        return "+".join(
            parts.canonical(folder, part) if parts.split(part)[0] in ours else part for part in parts.pattern(spec)
        )
    except (LookupError, ValueError):  # a knob that is no more
        return spec


def _checked(field: dataclasses.Field, value: Any) -> int | float | str | bool:
    """The value in its field's own type: a rate of 1 is 1.0, so one job has one id."""
    wanted = field.type
    assert isinstance(wanted, type)
    if isinstance(value, bool) is not (wanted is bool) or not isinstance(
        value, (int, float) if wanted is float else wanted
    ):
        raise TypeError(f"{field.name} wants {wanted.__name__}, not {value!r}")
    if wanted is float and not math.isfinite(value):
        raise ValueError(f"{field.name} wants a finite number; got {value!r}")
    choices, minimum = field.metadata["choices"], field.metadata["minimum"]
    most = {"maximum": LARGEST[wanted], **field.metadata}["maximum"] if wanted in LARGEST else None
    if most is not None and value > most:
        raise ValueError(f"{field.name} wants at most {most}; got {value!r}")
    if choices and value not in choices:
        raise ValueError(f"{field.name} wants one of {', '.join(choices)}; got {value!r}")
    if minimum is not None and not value >= minimum:
        raise ValueError(f"{field.name} wants at least {minimum}; got {value!r}")
    return wanted(value)
