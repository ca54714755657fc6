"""Why a step takes as long as it does: its parts, the causes that are planted in it, and what cannot be known."""

import itertools
import pathlib
import sys

import jax
import pytest
from test_report import CPU, GPU, JOB, LSTM, describe, luminance, put, put_all, put_size, put_time

from suite import mesh as meshes
from suite import parts, report
from suite.job import Job
from suite.judging.breakdown import (
    BYTES,
    CAUSES,
    DISPATCH,
    INPUT_WAIT,
    PRODUCTS,
    REST,
    WAITING,
    Breakdown,
    beyond_doubt,
)
from suite.measures import step_time
from suite.report import cause_figures, causes, figures, page, records
from suite.report.causes import Cause, Causes
from suite.report.utilisation import Machine, timings
from suite.sweep import store
from suite.training import rig

H100 = GPU | {"device_kind": "NVIDIA H100 80GB HBM3", "place": "h100-data1"}
MILLI = 1e-3

MIXER = '''
"""An LSTM whose input projection stands in its loop, with JAX's own gradient: that of each matrix is summed there."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Mixer(eqx.Module):
    input_DG: Float[Array, "D G"]
    recurrent_NG: Float[Array, "N G"]

    def __init__(self, width, *, key):
        input_key, recurrent_key = jax.random.split(key)
        self.input_DG = jax.random.normal(input_key, (width, 4 * width)) * width**-0.5
        self.recurrent_NG = jax.random.normal(recurrent_key, (width, 4 * width)) * width**-0.5

    def __call__(self, x_BTD):
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))
        return y_BTD

    def start(self, batch, length, dtype):
        nothing_BN = jnp.zeros((batch, self.recurrent_NG.shape[0]), jnp.float32)
        return nothing_BN, nothing_BN

    def extend(self, x_BTD, state):
        def turn(state, x_BD):
            y_BN, state = self.step(x_BD, state)
            return state, y_BN

        state, y_TBN = jax.lax.scan(turn, state, jnp.swapaxes(x_BTD, 0, 1))
        return jnp.swapaxes(y_TBN, 0, 1), state

    def step(self, x_BD, state):
        h_BN, c_BN = state
        gates_BG = x_BD.astype(jnp.float32) @ self.input_DG + h_BN @ self.recurrent_NG
        in_BN, forget_BN, new_BN, out_BN = jnp.split(gates_BG, 4, axis=-1)
        c_BN = jax.nn.sigmoid(forget_BN) * c_BN + jax.nn.sigmoid(in_BN) * jnp.tanh(new_BN)
        h_BN = jax.nn.sigmoid(out_BN) * jnp.tanh(c_BN)
        return h_BN.astype(x_BD.dtype), (h_BN, c_BN)
'''

# Batches that are made slowly: a host that stalls.
TASK = '''
"""Random tokens, of which a batch takes its host longer than a step takes the device."""

import dataclasses
import threading

import numpy as np

from suite.tasks import Batch


@dataclasses.dataclass(frozen=True)
class Task:
    length: int
    seed: int
    milliseconds: int = 300

    vocab = 16

    def batch(self, split, ids):
        threading.Event().wait(self.milliseconds / 1000)
        tokens = np.random.default_rng([self.seed, *map(int, ids)]).integers(16, size=(len(ids), self.length + 1))
        tokens = tokens.astype(np.int32)
        return Batch(tokens[:, :-1], tokens[:, 1:], np.ones((len(ids), self.length), np.float32))
'''


def measure(root: pathlib.Path, job: Job, *measures: str) -> None:
    """The rows of a job's measures, taken here, on one device."""
    built = rig.build(job, meshes.make(devices=jax.devices()[:1]))
    for spec in measures:
        module, knobs = parts.load("suite.measures", spec)
        put(root, job, spec, list(module.measure(built, **knobs)), {**built.conditions, "placed": True})


def cause_of(root: pathlib.Path, job: Job) -> Cause:
    """What the one timed cell of a job consists of."""
    rows = store.load(root)
    [timing] = [timing for timing in timings(rows) if timing.row["run_id"] == job.id]
    return Causes(Machine(rows)).of(timing)


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A working directory with an own mixer and an own task."""
    (tmp_path / "in_loop.py").write_text(MIXER)
    (tmp_path / "stalls.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which folders of own files are added
    monkeypatch.setattr(step_time, "LONGEST_BURST", 5)
    return tmp_path


# Its parts.


def test_parts_are_never_negative_and_their_sum_is_the_step():
    for products, moved, waiting in itertools.product((0.0, 0.3, 0.7, 1.0), repeat=3):
        floors = {PRODUCTS: products, BYTES: moved, WAITING: waiting}
        taken = Breakdown(1.0, floors, {DISPATCH: 0.1, INPUT_WAIT: 0.4})
        assert list(taken.parts) == list(CAUSES)
        assert min(taken.parts.values()) >= 0
        assert sum(taken.parts.values()) == pytest.approx(taken.whole) == pytest.approx(1.5)
        assert 1 - taken.parts[REST] == pytest.approx(max(floors.values())), "floors lie over one another"


def test_a_longest_floor_counts_in_full_though_others_cover_a_part_of_it():
    taken = Breakdown(1.0, {PRODUCTS: 0.4, BYTES: 0.0, WAITING: 0.6}, {})
    assert taken.parts[WAITING] == pytest.approx(0.2)
    assert taken.dominant == (WAITING, 0.6)


def test_a_floor_longer_than_the_step_raises():
    with pytest.raises(ValueError, match=r"waiting of 1\.01 s at the least in a step of 1 s: the peak"):
        Breakdown(1.0, {WAITING: 1.01}, {})


def test_a_floor_that_is_missing_may_be_the_rest_and_nothing_else():
    missing = {WAITING: "no step latency"}
    with pytest.raises(LookupError, match="no step latency"):
        _ = Breakdown(1.0, {PRODUCTS: 0.4, BYTES: 0.0}, {}, missing).dominant
    assert Breakdown(1.0, {PRODUCTS: 0.6, BYTES: 0.0}, {}, missing).dominant[0] == PRODUCTS
    assert Breakdown(1.0, {}, {INPUT_WAIT: 2.0}, dict.fromkeys((PRODUCTS, BYTES, WAITING), "no peak")).dominant[0] == (
        INPUT_WAIT
    )


def test_noise_is_no_cause():
    assert beyond_doubt([0.3, -0.2, 0.1, -0.1]) == 0
    assert beyond_doubt([0.3, 0.31, 0.29]) == pytest.approx(0.3)
    assert (beyond_doubt([0.3]), beyond_doubt([-0.3])) == (0.3, 0)


# Planted causes.


@pytest.mark.slow  # 20 seconds
def test_a_scan_with_its_projection_inside_waits(here: pathlib.Path):
    job = Job(mixer="./in_loop.py", task="recall:pairs=1,vocab=16", width=64, hidden=-1, length=2048, batch=1)
    measure(here, job.replace(length=1024), "size")
    measure(here, job, "size", "peak:size=512", "step_time:blocks=3", "chain:blocks=8")
    cause = cause_of(here, job)
    assert cause.breakdown.dominant[0] == WAITING
    assert "'s step at 2,048 tokens, batch 1, waits: " in cause.sentence
    assert cause.sentence.endswith(" % of it is its chain of 8,192 steps, forward and back")


def test_an_lstm_at_batch_1_waits(tmp_path: pathlib.Path):
    lstm = Job(mixer="lstm", length=1024, batch=1, dtype="bfloat16")
    for at in (512, 1024):
        put_size(tmp_path, lstm.replace(length=at), 1e7, 16 * at, H100)
    put_time(tmp_path, lstm, 10 * MILLI, H100)
    cause = cause_of(tmp_path, lstm)
    assert cause.breakdown.dominant[0] == WAITING
    assert cause.sentence == (
        "the LSTM's step at 1,024 tokens, batch 1, waits: 68 % of it is its chain of 4,096 steps, forward and back"
    )


def test_products_in_float32_on_a_device_with_bfloat16_are_named_with_what_they_would_take(tmp_path: pathlib.Path):
    flops = 0.062 * 494.7e12 / (3 * 4096)  # 62 ms of a step of 120, its input wait of 20 among them
    for at in (JOB, JOB.replace(length=512)):
        put_size(tmp_path, at, flops, 140, H100)
    put_time(tmp_path, JOB, 0.1, H100)
    cause = cause_of(tmp_path, JOB)
    assert cause.breakdown.dominant[0] == PRODUCTS
    assert cause.sentence == (
        "attention's step at 1,024 tokens, batch 4, multiplies: 52 % of it is its products at the peak of float32; its "
        "products take 62 ms at float32's peak and would take 31 ms at bfloat16's"
    )


def test_a_host_that_stalls_starves_the_step(here: pathlib.Path):
    job = Job(task="./stalls.py:milliseconds=100", width=16, depth=1, length=16, batch=8)
    measure(here, job, "size", "peak:size=512", "step_time:blocks=3")
    measure(here, job.replace(length=8), "size")
    cause = cause_of(here, job)
    assert cause.breakdown.dominant[0] == INPUT_WAIT
    assert "attention's step at 16 tokens, batch 8, starves: " in cause.sentence


def test_a_step_that_takes_longer_alone_than_in_a_burst_is_dispatched(tmp_path: pathlib.Path):
    put_size(tmp_path, JOB, 3e5, 140, H100)
    put_size(tmp_path, JOB.replace(length=512), 3e5, 140, H100)
    turn = {"phase": "block", "calls": 5, "tokens": 1, "fenced_seconds": 5 * MILLI, "burst_seconds": 5 * MILLI}
    compiled = {"phase": "compile", "compile_seconds": 1.0, "cached": False, "alias_bytes": 0, "temp_bytes": 0}
    compiled |= {"argument_bytes": 10**6, "output_bytes": 10**6}
    put(tmp_path, JOB, "step_time", [compiled, *(turn | {"turn": number} for number in range(3))], H100)
    cause = cause_of(tmp_path, JOB)
    assert cause.breakdown.dominant == (DISPATCH, pytest.approx(4 * MILLI))
    assert "is dispatched: 80 % of it is launching it and waiting for its end" in cause.sentence
    assert INPUT_WAIT not in cause.breakdown.parts, "it was not measured"


def test_a_burst_of_one_step_tells_no_dispatch(tmp_path: pathlib.Path):
    put_size(tmp_path, JOB, 3e5, 140, H100)
    put(
        tmp_path,
        JOB,
        "step_time",
        [{"phase": "block", "turn": 0, "calls": 1, "tokens": 1, "fenced_seconds": 2.0, "burst_seconds": 1.0}],
        H100,
    )
    assert DISPATCH not in cause_of(tmp_path, JOB).breakdown.parts


# The floors are those of the report's other section.


def test_floors_together_are_the_floor_of_the_fraction_of_attainable(tmp_path: pathlib.Path):
    put_all(tmp_path, H100)
    rows = store.load(tmp_path)
    machine = Machine(rows)
    for timing in timings(rows):
        parts_of = Causes(machine).of(timing).breakdown.parts
        covered = parts_of[PRODUCTS] + parts_of[BYTES] + parts_of[WAITING]
        assert covered == pytest.approx(machine.floor_seconds(timing))


def test_a_chain_is_as_long_as_it_was_timed_less_the_products(tmp_path: pathlib.Path):
    put_all(tmp_path, CPU)
    job = LSTM.replace(length=1024)
    rows = [{"phase": "chain", "turn": turn, "chain_seconds": 0.8, "step_seconds": 1.0} for turn in range(3)]
    put(tmp_path, job, "chain", rows, CPU)
    cause = cause_of(tmp_path, job)
    products = 3 * 3e5 * 4096 / 2e11
    assert cause.breakdown.floors[WAITING] == pytest.approx(0.8 * 0.101 - products)
    assert cause.breakdown.floors[PRODUCTS] == pytest.approx(products)
    attention = cause_of(tmp_path, JOB)
    assert attention.breakdown.floors[WAITING] == 0, "nothing in it runs step by step"


# The section.


def section(root: pathlib.Path) -> str:
    """Its Markdown."""
    return "\n".join(block.markdown() for block in causes.causes(records.read(root)))


def test_every_timed_step_has_a_bar_a_dot_and_a_sentence(tmp_path: pathlib.Path):
    put_all(tmp_path, CPU)
    describe(tmp_path, "quick", True, ["attention", "lstm"], CPU)
    shown = report.compose(records.read(tmp_path))
    charts = {chart.name: chart for chart in shown.charts}
    bars = charts["causes"].spec["data"]["values"]
    assert {bar["step"] for bar in bars} == {
        f"{length} tokens, batch 4: {arm}" for length in ("512", "1,024") for arm in ("attention", "lstm")
    }
    for step in {bar["step"] for bar in bars}:
        assert sum(bar["share"] for bar in bars if bar["step"] == step) == pytest.approx(1)
    _, dots = charts["roofline"].spec["layer"]
    for dot in dots["data"]["values"]:
        row = {"intensity": 3 * 3e5 * 4 * dot["length"] / 2e6, "attained": 3 * 3e5 * 4 * dot["length"] / 0.101}
        assert (dot["x"], dot["y"]) == (pytest.approx(row["intensity"]), pytest.approx(row["attained"]))
    [table] = [block for block in shown.blocks if isinstance(block, page.Table) and "in a sentence" in block.columns]
    assert [line[0] for line in table.rows] == ["attention", "lstm"] * 2
    assert all("that no floor explains; its longest floor is " in line[-1] for line in table.rows)


def test_what_is_missing_is_said_with_the_command_that_measures_it(tmp_path: pathlib.Path):
    put_time(tmp_path, LSTM, 0.1, CPU)
    text = section(tmp_path)
    assert "run the measure" in text
    assert (
        "of the LSTM's step at 1,024 tokens, batch 4, 83 % are unknown: products, bytes and waiting may be in it"
        in text
    )
    for wanted in ("--measures=peak", "--measures=size", "--length=2048 --batch=4 --measures=size"):
        assert wanted in text
    put_all(tmp_path, CPU)
    text = section(tmp_path)
    assert "--measures=peak" not in text
    assert text.count("--measures=chain") == 2, "of the LSTM, which runs step by step, at both lengths"


def test_no_command_is_shown_that_would_be_refused(tmp_path: pathlib.Path):
    for changes in ({}, {"reset": True}, {"microbatch": 2}):
        for length in (1024, 2048):
            put_size(tmp_path, LSTM.replace(length=length, **changes), 3e5, 4 * length, CPU)
        put_time(tmp_path, LSTM.replace(length=1024, **changes), 0.1, CPU)
    [line] = [line for line in section(tmp_path).splitlines() if "--measures=chain" in line]
    assert "--reset" not in line
    assert "--microbatch" not in line


def test_a_step_shorter_than_its_floor_is_not_taken_apart(tmp_path: pathlib.Path):
    put_all(tmp_path, CPU)
    put_time(tmp_path, JOB.replace(batch=8), 1e-6, CPU)
    assert "| not taken apart \\[1\\] |" in section(tmp_path)


def test_causes_have_colours_of_no_arm_that_are_seen_on_white_and_on_black():
    colours = set(cause_figures.COLOURS.values())
    assert len(colours) == len(CAUSES)
    assert not colours & {*figures.PAIR.values(), *figures.BLUES, *figures.OTHERS}
    for colour, paper in itertools.product(colours, (page.LIGHT["paper"], page.DARK["paper"])):
        dark, light = sorted((luminance(colour), luminance(paper)))
        assert (light + 0.05) / (dark + 0.05) > 3  # WCAG 2.1 for graphics
