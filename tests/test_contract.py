"""A user's own mixer or task that breaks its contract is refused before anything is trained on it."""

import itertools
import pathlib
import re
import sys

import programs
import pytest

from suite import contract, parts
from suite.job import Job
from suite.measures import decode, gradient_reach, size
from suite.sweep import provenance

# An exponential mean of the inputs, in its three forms; each test breaks one line of it.
MIXER = """
import equinox as eqx
import jax
import jax.numpy as jnp
from suite.ops import precision

class Mixer(eqx.Module):
    weight_DD: jax.Array
    decay: float = eqx.field(static=True)

    def __init__(self, width, *, key, decay: float = 1 / 2, multiple: int = 1):
        if width % multiple:
            raise ValueError(f"width {width} is not a multiple of {multiple}")
        self.decay = decay
        self.weight_DD = jax.random.normal(key, (width, width)) / width**0.5

    def __call__(self, x_BTD):
        return self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))[0]

    def start(self, batch, length, dtype):
        return jnp.zeros((batch, self.weight_DD.shape[0]), self.wide(dtype))

    def extend(self, x_BTD, state_BD):
        state_BD, y_TBD = jax.lax.scan(lambda *a: self.one(*a), state_BD, jnp.swapaxes(x_BTD, 0, 1))
        return jnp.swapaxes(y_TBD, 0, 1), state_BD

    def step(self, x_BD, state_BD):
        state_BD, y_BD = self.one(state_BD, x_BD)
        return y_BD, state_BD

    def one(self, state_BD, x_BD):
        state_BD = self.decay * state_BD + (x_BD @ self.weight_DD.astype(x_BD.dtype)).astype(state_BD.dtype)
        return state_BD, state_BD.astype(x_BD.dtype)

    def wide(self, dtype):
        return precision.wide(dtype)
"""
SWAPPED = "return jnp.swapaxes(y_TBD, 0, 1), state_BD"
BROKEN = [
    (
        "return y_BD, state_BD",
        "return 0 * y_BD, state_BD",
        r"step gives other values than __call__ at token 0: -?0 against -?\d",
    ),
    (
        "return y_BD, state_BD",
        "return y_BD + 0 * jax.lax.stop_gradient(y_BD) - (y_BD - jax.lax.stop_gradient(y_BD)), state_BD",
        r"step gives other gradients than __call__: [\d.]+ of their largest entry apart",
    ),
    (SWAPPED, "return jnp.swapaxes(y_TBD, 0, 1), 0 * state_BD", r"extend gives other values than __call__ at token 5"),
    (
        SWAPPED,
        "return jnp.swapaxes(y_TBD, 0, 1) + x_BTD[:, -1:] * x_BTD[:, -1:], state_BD",
        r"not causal: the output at token 7 has a gradient at token 11",
    ),
    (
        SWAPPED,
        "return jnp.flip(jnp.cumsum(jnp.flip(x_BTD, 1), 1), 1), state_BD",
        r"not causal: a change of token 7 moves the output at token 0 by",
    ),
    (
        SWAPPED,
        "return jnp.swapaxes(y_TBD, 0, 1) - jnp.mean(jnp.swapaxes(y_TBD, 0, 1), 0, keepdims=True), state_BD",
        r"mixes examples: a change of one moves the output of another by [\d.]+",
    ),
    (SWAPPED, "return jnp.swapaxes(y_TBD, 0, 1) / 0, state_BD", r"__call__ gives (nan|-?inf) at token 0"),
    (
        SWAPPED,
        "return jnp.swapaxes(y_TBD, 0, 1).astype(jnp.float32), state_BD",
        r"__call__ makes float32 \(2, 12, 32\) of bfloat16 \(2, 12, 32\); wanted the same shape and dtype",
    ),
    (
        "return y_BD, state_BD",
        "return y_BD, state_BD.astype(jnp.bfloat16)",
        r"step gives a state of bfloat16 \(2, 32\) where start gave float32 \(2, 32\), in float32",
    ),
    ("width)) / width**0.5", "width)).astype(jnp.bfloat16)", r"a parameter is bfloat16 \(32, 32\); wanted float32"),
    ("return y_BD, state_BD", "return {}['y'], state_BD", r"mine\.py, line 29: KeyError: 'y'"),
]


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    (tmp_path / "mine.py").write_text(MIXER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def checked(here: pathlib.Path, spec: str = "./mine.py", task: str = "parity") -> None:
    job = Job(mixer=spec, task=task, length=16, width=32)
    contract.check_job(job, provenance.make_task(job, str(here)), here / "out")


def test_a_mixer_that_holds_its_contract_passes_once(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    checked(here)
    monkeypatch.setattr(contract, "check_mixer", None)  # called again, it would raise
    checked(here)
    with pytest.raises(ValueError, match="NoneType"):
        checked(here, "./mine.py:decay=0.25")


@pytest.mark.parametrize(("line", "instead", "said"), BROKEN)
def test_a_mixer_that_breaks_its_contract_is_refused_in_a_line(here: pathlib.Path, line: str, instead: str, said: str):
    assert line in MIXER
    (here / "mine.py").write_text(MIXER.replace(line, instead))
    with pytest.raises(ValueError, match=r"^\./mine\.py(: |, line )[^\n]*$") as raised:
        checked(here)
    assert re.search(said, f"{raised.value}"), raised.value


def test_a_mixer_is_held_to_it_at_a_width_that_its_knobs_fit(here: pathlib.Path):
    checked(here, "./mine.py:multiple=48")
    with pytest.raises(ValueError, match=r"line 13: ValueError: width 32 is not a multiple of 31"):
        checked(here, "./mine.py:multiple=31")


def test_a_mixer_of_one_form_is_trained_and_what_wants_the_others_is_refused(here: pathlib.Path):
    (here / "mine.py").write_text(
        MIXER.replace("def step", "def not_a_step")
        .replace("def extend", "def _extend")
        .replace("self.extend", "self._extend")
    )
    checked(here)
    job, task = Job(mixer="./mine.py", task="parity", length=16, width=32), None
    with pytest.raises(
        ValueError, match=r"^decode wants a mixer with start, extend, step; \./mine\.py.* has no extend, step$"
    ):
        decode.check(job, task, shortest=16, longest=16, tokens=8, batch=1)
    with pytest.raises(ValueError, match=r"^size wants a mixer with start, step; .* has no step$"):
        size.check(job, task)


def test_a_mixer_that_stays_in_float32_has_no_gradient_reach(here: pathlib.Path):
    job = Job(mixer="./mine.py", task="parity", length=16, width=32)
    task = provenance.make_task(job, "")
    gradient_reach.check(job, task, probes=1)
    (here / "narrow.py").write_text(MIXER.replace("return precision.wide(dtype)", "return jnp.float32"))
    with pytest.raises((TypeError, ValueError), match="float32"):
        gradient_reach.check(job.replace(mixer="./narrow.py"), task, probes=1)


TASK = """
import dataclasses
import numpy as np
from suite.tasks import Batch, CounterGenerator

@dataclasses.dataclass(frozen=True)
class Task:
    length: int
    seed: int
    vocab: int = 8

    def batch(self, split, ids):
        tokens_BT = CounterGenerator(self.seed, split, ids).integers(8, self.length)
        return Batch(tokens_BT, tokens_BT, np.ones(tokens_BT.shape, np.float32))
"""


def test_a_task_that_holds_its_contract_passes(here: pathlib.Path):
    (here / "task.py").write_text(TASK)
    checked(here, "lstm", "./task.py")


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("integers(8", "integers(9", "tokens of split train go from 0 to 8; vocab is 8"),
        (
            "return Batch(tokens_BT,",
            "return Batch(tokens_BT.astype(np.int64),",
            "tokens_BT of split train is int64 (4, 16); wanted int32 (4, 16)",
        ),
        ("self.length)\n", "self.length - 1)\n", "is int32 (4, 15); wanted int32 (4, 16)"),
        ("np.ones(", "np.zeros(", "want finite numbers of at least 0 and not only zeros"),
        (
            "(self.seed, split, ids)",
            "(self.seed, split, np.arange(len(ids)))",
            "example 3 of split train is another alone than among others",
        ),
        ("vocab: int = 8", "vocab: float = 8.0", "vocab 8.0 wants a number of at least 1"),
        ("return Batch(", "return {}[split](", "./task.py, line 14: KeyError: 'train'"),
    ],
)
def test_a_task_that_breaks_its_contract_is_refused_in_a_line(here: pathlib.Path, line: str, instead: str, said: str):
    assert line in TASK
    (here / "task.py").write_text(TASK.replace(line, instead))
    with pytest.raises(ValueError, match=rf"^\./task\.py[^\n]*{re.escape(said.removeprefix('./task.py'))}[^\n]*$"):
        checked(here, "lstm", "./task.py")


def test_every_task_of_the_folder_holds_its_contract(data_dir: pathlib.Path):
    for name in parts.names("suite.tasks"):
        job = Job(mixer="lstm", task=name, length=64)
        contract.check_task(provenance.make_task(job, str(data_dir)), job.length)


@pytest.mark.slow
def test_an_arm_that_breaks_the_contract_is_refused_by_job_and_compare_before_anything_is_trained(here: pathlib.Path):
    (here / "mine.py").write_text(MIXER.replace("return y_BD, state_BD", "return 0 * y_BD, state_BD"))
    job = programs.command("job", "--mixer=./mine.py", *programs.TINY, "--measures=learning,decode", "--out=out")
    compare = programs.command("compare", "--arms=./mine.py,lstm", "--scale=smoke", "--claims=path_length", "--out=out")
    for command in (job, compare):
        ended = programs.run(command, cwd=here)
        assert ended.returncode == 70, ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("crossover: ./mine.py: step gives other values than __call__")
    assert not list(itertools.chain((here / "out").rglob("*.jsonl"), (here / "out").rglob("*.failed")))
