"""Values that nobody would mean: they work, or are refused in one line, at once."""

import importlib
from collections.abc import Callable

import jax
import numpy as np
import pytest

from suite import parts
from suite.job import Job
from suite.measures import decode, gradient_reach, length_accuracy, path, truncated_context
from suite.model import backbone
from suite.tasks import parity, recall, text

HOSTILE = {
    int: ("-1", "0", "1", "2147483647", f"{10**20}", "nan", "1.5", "9" * 5000),
    float: ("-1", "0", "1e-300", "1e30", "1e300", "nan", "inf", "-inf", f"{10**20}"),
    str: ("nonsense", "0", "nan"),
    bool: ("1", "nan"),
}


def knobs_of(folder: str) -> list[tuple[str, str, str]]:
    """Each knob of each part with each value to try; the long ones by their place, for the names of the tests."""
    return [
        (name, knob, value)
        for name in parts.names(folder)
        for knob, default in parts.knobs(folder, name).items()
        for value in HOSTILE[type(default)]
    ]


def attempt(try_it: Callable[[], object]) -> None:
    """Runs it; what is refused is refused in one line."""
    refused: Exception | None = None
    try:
        try_it()
    except (ValueError, LookupError) as error:
        refused = error
    if refused is not None:
        assert not isinstance(refused, KeyError | IndexError), repr(refused)
        assert len(str(refused.args[0]).splitlines()) == 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", parts.names("suite.mixers"))
def test_a_mixer_works_or_refuses_a_knob_in_a_line(name: str):
    for other, knob, value in knobs_of("suite.mixers"):
        if other == name:
            attempt(lambda knob=knob, value=value: backbone.shapes(Job(mixer=f"{name}:{knob}={value}", width=32), 8))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [name for name in parts.names("suite.tasks") if parts.knobs("suite.tasks", name)])
def test_a_task_works_or_refuses_a_knob_in_a_line(name: str, data_dir):
    def draw(spec: str) -> None:
        module, knobs = parts.load("suite.tasks", spec)
        data = {"data_dir": str(data_dir)} if name == "text" else {}
        task = module.Task(length=64, seed=2**31 - 1, **data, **knobs)
        batch = task.batch("train", np.arange(2))
        assert np.all(batch.tokens_BT >= 0)
        assert np.all(batch.tokens_BT < task.vocab)

    for other, knob, value in knobs_of("suite.tasks"):
        if other == name:
            attempt(lambda knob=knob, value=value: draw(f"{name}:{knob}={value}"))


@pytest.mark.parametrize("name", parts.names("suite.measures"))
def test_every_number_of_a_measure_has_bounds_and_what_lies_outside_is_refused(name: str):
    module = importlib.import_module(f"suite.measures.{name}")
    numbers = {knob for knob, value in parts.knobs("suite.measures", name).items() if isinstance(value, int | float)}
    assert numbers == (set(module.BOUNDS) if numbers else set())
    for knob in numbers:
        low, high = module.BOUNDS[knob]
        for value in (low - 1, high + 1):
            with pytest.raises(ValueError, match=rf"^{name}:{knob} wants .* to .*; got {value}$"):
                parts.knobs("suite.measures", f"{name}:{knob}={value}")
        for value in ("nan", "inf", f"{10**20}", "9" * 5000):
            with pytest.raises(ValueError, match=rf"^{name}:{knob} wants [^\n]*$"):
                parts.knobs("suite.measures", f"{name}:{knob}={value}")


TASK = parity.Task(length=64, seed=0)
RECALL = recall.Task(length=64, seed=0)
OF_TEXT = ("strata",)  # measures of a text's targets
LEARNED = Job(mixer="attention:positions=learned,max_length=64", task="parity", length=64, width=32)


@pytest.mark.parametrize(
    ("module", "job", "changes", "said"),
    [
        (decode, Job(length=64), {"shortest": 64, "longest": 16}, "no context from shortest 64 to longest 16"),
        (decode, LEARNED, {"shortest": 16, "longest": 64}, "length 72 is beyond max_length 64"),
        (truncated_context, Job(length=8), {}, "length 8 leaves no context before 8 targets"),
        (gradient_reach, Job(length=9), {}, "length 9 is too short: wanted 10"),
        (path, Job(length=1), {}, "length 1 has no token before the last one"),
        (length_accuracy, LEARNED, {}, "length 256 is beyond max_length 64"),
        (
            length_accuracy,
            Job(mixer="lstm", length=64, width=32),
            {"remedy": "ntk"},
            "no mixer of lstm.* has the knobs ntk",
        ),
    ],
)
def test_what_a_measure_cannot_do_is_said_before_anything_is_trained(module, job: Job, changes: dict, said: str):
    name = module.__name__.rpartition(".")[2]
    knobs = parts.knobs("suite.measures", name) | changes
    with pytest.raises((ValueError, LookupError), match=said):
        module.check(job, TASK, **knobs)


def test_every_measure_can_measure_the_default_job_or_one_of_recall(data_dir):
    job = Job(mixer="lstm", length=64, width=32)
    for name in parts.names("suite.measures"):
        module, knobs = parts.load("suite.measures", name)
        if "check" in vars(module):
            if name in OF_TEXT:
                module.check(job, text.Task(length=64, seed=0, data_dir=str(data_dir)), **knobs)
            else:
                module.check(job.replace(task="recall"), RECALL, **knobs)


@pytest.mark.parametrize("field", [field for field in Job.__dataclass_fields__.values() if field.type in (int, float)])
def test_a_number_of_a_job_has_an_end(field):
    changes: list[dict] = [{field.name: value} for value in ((2**31, 10**30) if field.type is int else (1e31, 1e300))]
    for change in changes:
        with pytest.raises(ValueError, match=f"^{field.name} wants at most"):
            Job(**change)


def test_the_largest_seed_starts_a_model_and_its_data():
    job = Job(mixer="lstm", task="parity", width=8, depth=1, seed=2**31 - 1)
    built = backbone.build(job, 3, key=jax.random.key(job.seed))
    assert np.all(np.isfinite(np.asarray(built.embedding_VD)))
    assert parity.Task(length=8, seed=job.seed).batch("train", np.arange(2)).tokens_BT.shape == (2, 8)
