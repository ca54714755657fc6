"""Gradient reach: models in float64, norms that are known beforehand, and verdicts on made-up norms."""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
from etils import epath

from suite import mesh as meshes
from suite import parts
from suite.claims import LIKE_ATTENTION, LIKE_LSTM, NEITHER, Finding, gradient_flow
from suite.job import Job
from suite.measures import gradient_reach, learning, trained_gradient_reach
from suite.model import backbone
from suite.ops import linear, precision
from suite.scale import SCALES
from suite.sweep import store
from suite.sweep.record import Record, Row
from suite.training import rig

WIDTH, BATCH, LENGTH = 32, 2, 12
# Every file at its defaults, and the knobs that take another way through the code.
SPECS = [
    *parts.names("suite.mixers"),
    "attention:implementation=dense,kv_heads=2",
    "attention:implementation=cudnn,window=5",
    "attention:positions=alibi,heads=8,window=4",
    "attention:positions=learned,max_length=12",
    "mingru:implementation=parallel",
]
# float64 rounds at 1e-16; what was computed in float32 anywhere would be off by 1e-8.
CLOSE = 1e-12


# float64, all through.


def build(spec: str):
    module, knobs = parts.load("suite.mixers", spec)
    return module.Mixer(WIDTH, key=jax.random.key(0), **knobs)


def in_float64(tree):
    """To be called where float64 is on."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)) if eqx.is_array(leaf) else leaf, tree)


def in_steps(mixer, x_BTD):
    def step(state, x_BD):
        y_BD, state = mixer.step(x_BD, state)
        return state, y_BD

    state, y_TBD = jax.lax.scan(step, mixer.start(BATCH, LENGTH, x_BTD.dtype), jnp.swapaxes(x_BTD, 0, 1))
    return jnp.swapaxes(y_TBD, 0, 1), state


def whole(mixer, x_BTD):
    return mixer(x_BTD), mixer.start(BATCH, LENGTH, x_BTD.dtype)


@pytest.mark.parametrize("spec", SPECS)
def test_a_mixer_cast_to_float64_computes_in_it(spec: str):
    x_BTD = np.random.default_rng(1).standard_normal((BATCH, LENGTH, WIDTH))
    mixer = build(spec)
    with jax.enable_x64(True):
        arrays, static = eqx.partition(in_float64(mixer), eqx.is_array)
        found = []
        for implementation in (whole, in_steps):

            def run(arrays, x_BTD, implementation=implementation):
                y_BTD, state = implementation(eqx.combine(arrays, static), x_BTD)
                return jnp.sum(jnp.sin(y_BTD)), (y_BTD, state)

            gradient = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))
            assert gradient_reach.narrower(gradient.trace(arrays, x_BTD).jaxpr.jaxpr) == set()
            slopes, (y_BTD, state) = gradient(arrays, x_BTD)
            floats = [leaf for leaf in jax.tree.leaves((y_BTD, state)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
            assert {leaf.dtype for leaf in floats} == {np.dtype(np.float64)}
            found.append(jax.tree.leaves((y_BTD, slopes)))
        for one, two in zip(*found, strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=CLOSE * max(1.0, float(np.max(np.abs(two)))))


@pytest.mark.parametrize("knobs", ["", "window=200", "positions=alibi,window=5,kv_heads=2"])
def test_both_forms_of_attention_are_one_in_float64(knobs: str):
    x_BTD = np.random.default_rng(1).standard_normal((1, 300, WIDTH))  # more than a block, and no multiple of one
    mixers = [
        build(f"attention:{knobs}{',' if knobs else ''}implementation={implementation}")
        for implementation in ("dense", "blocked")
    ]
    with jax.enable_x64(True):
        dense, blocked = (eqx.filter_jit(in_float64(mixer))(jnp.asarray(x_BTD)) for mixer in mixers)
        np.testing.assert_allclose(dense, blocked, rtol=0, atol=CLOSE)


def test_a_model_in_float64_is_the_model_but_for_rounding():
    job = Job(mixer="attention+lstm+mingru", width=WIDTH, depth=3, short_conv=3)
    built = eqx.filter_jit(lambda key: backbone.build(job, 64, key=key))(jax.random.key(0))
    tokens_BT = np.random.default_rng(1).integers(64, size=(BATCH, LENGTH), dtype=np.int32)
    narrow_BTV = np.asarray(eqx.filter_jit(built)(jnp.asarray(tokens_BT)))
    with jax.enable_x64(True):
        wide = dataclasses.replace(in_float64(built), dtype="float64")
        wide_BTV = eqx.filter_jit(wide)(jnp.asarray(tokens_BT))
        assert (narrow_BTV.dtype, wide_BTV.dtype) == (np.float32, np.float64)
        # float32 rounds at 6e-8; some hundred products in each of three blocks stay below.
        np.testing.assert_allclose(narrow_BTV, wide_BTV, rtol=0, atol=1e-4)


def test_only_float64_is_wider_than_float32():
    assert [precision.wide(dtype) for dtype in ("bfloat16", "float16", "float32")] == [np.float32] * 3
    assert precision.wide("float64") == np.float64


# Norms that are known.


def reach(through: Callable, length: int, width: int = 4, probes: int = 8) -> np.ndarray:
    """J_k by k of a function over time, by the measure's own parts."""
    rng = np.random.default_rng(0)
    x_TD, probe_PD = rng.standard_normal((length, width)), rng.standard_normal((probes, width))
    with jax.enable_x64(True):
        pull_back = jax.jit(functools.partial(gradient_reach.pull_back, through))
        gradient_PTD = pull_back(x_TD, np.int32(length - 1), probe_PD)
        return gradient_reach.norms(np.asarray(gradient_PTD))[::-1]


def linear_recurrence(decay: float, implementation: str) -> Callable:
    def through(x_BTD):
        return linear.IMPLEMENTATIONS[implementation](jnp.full_like(x_BTD, decay), x_BTD, jnp.zeros_like(x_BTD[:, 0]))

    return through


@pytest.mark.parametrize("implementation", linear.IMPLEMENTATIONS)
@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0, 1.5])
def test_a_linear_recurrence_decays_by_its_eigenvalue(decay: float, implementation: str):
    norm_K = reach(linear_recurrence(decay, implementation), 1000)
    # A thousand products, each rounded at 1e-16. 0.5 to the 999 is 2e-301: float32 ends at 1e-45.
    np.testing.assert_allclose(norm_K / norm_K[0], decay ** np.arange(1000.0), rtol=1e-12)


def test_what_is_below_float64_is_zero():
    norm_K = reach(linear_recurrence(0.4, "sequential"), 1000)
    assert norm_K[770] > 0  # 4e-307
    assert norm_K[999] == 0.0  # 1e-398


def test_the_estimate_is_the_frobenius_norm():
    weight_DD = np.random.default_rng(3).standard_normal((4, 4))
    probes = 4096
    [norm] = reach(lambda x_BTD: x_BTD @ jnp.asarray(weight_DD), 1, probes=probes)
    assert norm == pytest.approx(np.linalg.norm(weight_DD) / 2, rel=4 / math.sqrt(2 * probes))  # four deviations
    [identity] = reach(lambda x_BTD: x_BTD, 1, probes=probes)
    assert identity == pytest.approx(1.0, rel=4 / math.sqrt(2 * probes))


def test_squares_of_small_norms_do_not_underflow():
    assert gradient_reach.norms(np.full((2, 1, 3), 1e-200)) == pytest.approx(np.asarray([1e-200]), rel=1e-12, abs=0)
    assert not np.isfinite(gradient_reach.norms(np.full((2, 1, 3), np.inf))[0])


def test_distances_are_near_and_then_spread_to_the_first_token():
    for length in (10, 64, 1000, 4096):
        found = gradient_reach.distances(length)
        assert found[:9] == list(range(9))
        assert found[-1] == length - 1
        assert found == sorted(set(found))
    assert len(gradient_reach.distances(1000)) == 21
    assert gradient_reach.distances(4) == [0, 1, 2, 3]
    assert 999 in gradient_reach.distances(4096)


def test_float32_inside_a_loop_is_seen():
    def loop(x_N):
        return jax.lax.scan(lambda h_N, _: (jnp.sin(h_N.astype(jnp.float32)).astype(h_N.dtype), None), x_N, length=3)

    with jax.enable_x64(True):
        assert gradient_reach.narrower(jax.make_jaxpr(loop)(jnp.zeros(3)).jaxpr) == {"float32"}
        assert gradient_reach.narrower(jax.make_jaxpr(jnp.sin)(jnp.zeros(3)).jaxpr) == set()


# The measure.

LEAKY = '''"""h_t = a h_{t-1} + x_t, and y = h: 2026."""

import equinox as eqx
import jax
import jax.numpy as jnp


class Mixer(eqx.Module):
    decay_N: jax.Array

    def __init__(self, width, *, key, decay: float = 0.5):
        self.decay_N = jnp.full(width, decay, jnp.float32)

    def __call__(self, x_BTD):
        def step(h_BN, x_BN):
            h_BN = self.decay_N[None] * h_BN + x_BN
            return h_BN, h_BN

        start_BN = jnp.zeros_like(x_BTD[:, 0])
        return jnp.swapaxes(jax.lax.scan(step, start_BN, jnp.swapaxes(x_BTD, 0, 1))[1], 0, 1)
'''
JOB = Job(task="recall:pairs=2,vocab=16", width=16, depth=1, length=64, batch=8, block="plain")


def measured(job: Job, devices: list, **knobs: int) -> list[Row]:
    return list(gradient_reach.measure(rig.build(job, meshes.make(devices=devices)), **knobs))


@pytest.fixture
def leaky(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "leaky.py"
    path.write_text(LEAKY)
    return str(path)


def test_a_known_decay_is_measured_through_the_whole_model(leaky: str, devices: list):
    rows = measured(JOB.replace(mixer=f"{leaky}:decay=0.5", length=1000), devices[:1])
    assert [row["distance"] for row in rows] == gradient_reach.distances(1000)
    assert {(row["phase"], row["outcome"]) for row in rows} == {("reach", "ok")}
    norm = {row["distance"]: row["norm"] for row in rows}
    wanted = math.log10(np.mean([0.5**k for k in range(1, 9)])) - 999 * math.log10(0.5)
    found = math.log10(np.mean([norm[k] for k in range(1, 9)])) - math.log10(norm[999])
    # Before the recurrence stands only the norm of each token's own scale, 16 numbers: within a factor of two.
    assert found == pytest.approx(wanted, abs=math.log10(2))
    assert norm[999] < 1e-290


def test_distance_is_counted_back_from_the_last_token(tmp_path: pathlib.Path, devices: list):
    path = tmp_path / "delay.py"
    path.write_text(
        "import jax.numpy as jnp\n"
        "import equinox as eqx\n"
        "class Mixer(eqx.Module):\n"
        "    def __init__(self, width, *, key): ...\n"
        "    def __call__(self, x_BTD):\n"
        "        return jnp.pad(x_BTD, ((0, 0), (3, 0), (0, 0)))[:, :-3]\n"
    )
    rows = measured(JOB.replace(mixer=str(path)), devices[:1])
    assert [row["distance"] for row in rows if row["norm"]] == [3]


def test_a_residual_stream_around_a_leaky_state_reaches_no_farther(leaky: str, devices: list):
    # The stream joins layers and not positions: over time only the mixer carries.
    far = [measured(JOB.replace(mixer=leaky, block=block), devices[:1])[-1]["norm"] for block in ("plain", "residual")]
    assert max(far) < 1e-15


def test_a_seed_gives_its_norms_again_and_another_gives_others(devices: list):
    one, again, other = (measured(JOB.replace(mixer="mingru", seed=seed), devices[:1]) for seed in (0, 0, 1))
    assert one == again
    assert all(left["norm"] != right["norm"] for left, right in zip(one, other, strict=True))


def test_seeds_share_one_program(devices: list):
    mesh = meshes.make(devices=devices[:1])
    built = [rig.build(JOB.replace(mixer="mingru", seed=seed), mesh) for seed in (0, 1)]
    for each in built:
        list(gradient_reach.measure(each))
    assert built[0].programs is built[1].programs
    program: Any = gradient_reach._program(built[0].programs)
    assert program._cache_size() == 1


def test_it_is_the_same_on_any_mesh(devices: list):
    job = JOB.replace(mixer="mingru", dtype="bfloat16")
    assert measured(job, devices[:1]) == measured(job, devices)
    assert not gradient_reach.PLACED


def test_float64_is_off_between_two_rows(devices: list):
    rows = gradient_reach.measure(rig.build(JOB.replace(mixer="mingru"), meshes.make(devices=devices[:1])))
    next(rows)
    assert jnp.zeros(1).dtype == jnp.float32


def test_a_mixer_that_narrows_is_refused(tmp_path: pathlib.Path, devices: list):
    path = tmp_path / "narrow.py"
    path.write_text(LEAKY.replace("h_BN, h_BN\n\n", "h_BN, h_BN.astype(jnp.float32).astype(h_BN.dtype)\n\n"))
    with pytest.raises(TypeError, match=r"narrow\.py.* computes in float32"):
        measured(JOB.replace(mixer=str(path)), devices[:1])


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="length 9 is too short: wanted 10"):
        gradient_reach.check(JOB.replace(length=9, task="recall:pairs=1,vocab=16"), None, probes=8)
    with pytest.raises(ValueError, match="gradient_reach:probes wants 1 to 65536; got 0"):
        parts.knobs("suite.measures", "gradient_reach:probes=0")


# After training.


def trained(job: Job, run: pathlib.Path, devices: list) -> tuple[rig.Rig, dict[int, float]]:
    """The rig of a training, and its norms by distance."""
    built = rig.build(job, meshes.make(devices=devices[:1]), run=epath.Path(run))
    list(learning.measure(built))
    return built, {row["distance"]: row["norm"] for row in trained_gradient_reach.measure(built)}


RECALL = JOB.replace(task="recall:pairs=1,vocab=16,distance=20", mixer="mingru", length=24, steps=2)
RECALL = RECALL.replace(validate_every=2, validation_examples=8, test_examples=8)


def test_after_training_the_norms_are_those_of_the_trained_model_at_an_answer(tmp_path: pathlib.Path, devices: list):
    built, norm = trained(RECALL, tmp_path, devices)
    batch = built.task.batch("test", np.asarray([0]))
    last = int(np.flatnonzero(batch.weights_BT[0])[-1])
    assert {0, 1, 8, 18, 19, 20, last} <= norm.keys()
    with jax.enable_x64(True):
        model = dataclasses.replace(eqx.combine(in_float64(built.trained), built.static), dtype="float64")
        x_TD = model.embed(jnp.asarray(batch.tokens_BT[0]))
        jacobian_DTD = jax.jit(jax.jacrev(lambda x_TD: model.through(x_TD[None])[0, last]))(x_TD)
        exact_T = np.sqrt(np.sum(np.square(jacobian_DTD), axis=(0, 2)) / x_TD.shape[1])
    found_K = np.asarray([norm[k] / exact_T[last - k] for k in sorted(norm)])
    # Eight probes: four deviations of a norm whose Jacobian has rank one.
    np.testing.assert_allclose(found_K, 1, atol=4 / math.sqrt(2 * 8))


def test_training_moves_the_norms(tmp_path: pathlib.Path, devices: list):
    slow, fast = (
        trained(RECALL.replace(learning_rate=rate), tmp_path / str(rate), devices)[1] for rate in (1e-9, 1e-2)
    )
    assert slow.keys() == fast.keys()
    assert all(slow[k] != pytest.approx(fast[k], rel=1e-4) for k in slow)


# The claim, on made-up norms.

ATTENTION = Job(width=64, length=1000)
SEEDS = range(5)
STABLE, VANISHING = -0.4, 80.0


def put(
    root: pathlib.Path,
    mixer: str,
    decay: float,
    *,
    block: str = "residual",
    seeds: Sequence[int] = SEEDS,
    length: int = 1000,
    near: float = 0.5,
    far: float | None = None,
) -> None:
    """Norms that fall by 10^decay, one cell a seed; seeds lie 0.1 apart."""
    for seed in seeds:
        end = near * 10.0 ** -(decay + 0.1 * (seed - 2)) if far is None else far
        norms = {**dict.fromkeys(range(1, 9), near), length - 1: end}
        append(root, mixer, block, seed, length, [{"distance": k, "norm": norm} for k, norm in norms.items()])


def append(root: pathlib.Path, mixer: str, block: str, seed: int, length: int, rows: list[Row]) -> None:
    matched = "" if mixer == "attention" else "attention"
    job = ATTENTION.replace(mixer=mixer, match_to=matched, block=block, seed=seed, length=length)
    run = store.open_run(root, job)
    for row in rows:
        facts = {"phase": "reach", "outcome": "ok", "measure": "gradient_reach", "run_id": job.id, "arm": job.arm}
        facts |= {"repeat": 0, "interleave_with": "", "placed": False, "place": ""}
        Record(run, "gradient_reach").append(facts | row)


def put_all(root: pathlib.Path, **decays: float) -> None:
    for mixer, decay in ({"attention": STABLE, "lstm": VANISHING, "elman": 200.0} | decays).items():
        put(root, mixer, decay)


def judge(root: pathlib.Path, **thresholds: Any) -> Finding:
    finding = planted.finding(gradient_flow, store.load(root), **thresholds)
    json.dumps(dataclasses.asdict(finding), allow_nan=False)
    return finding


def test_vanishing_recurrences_and_a_stable_attention_hold(tmp_path: pathlib.Path):
    put_all(tmp_path)
    finding = judge(tmp_path)
    assert (finding.verdict, finding.basis) == ("holds", "measured")
    assert [number.value for number in finding.numbers] == pytest.approx([STABLE, VANISHING, 200.0])
    # Five seeds 0.1 apart: a deviation of 0.158, a standard error of 0.0707, and t = 2.776.
    assert finding.numbers[0].high == pytest.approx(STABLE + 2.776 * 0.0707, abs=1e-3)
    assert {number.n for number in finding.numbers} == {5}
    assert finding.controls[0].met
    assert finding.tables[0].rows[1][:2] == ("lstm", "80 (95 % 79.8 to 80.2)")
    assert finding.arms == (("elman", LIKE_LSTM),)
    assert "10^80 in the LSTM" in finding.sentence
    assert finding.scope == "1,000 tokens, width 64, depth 2, 5 seeds, before training"


def test_exploding_counts_as_vanishing_does(tmp_path: pathlib.Path):
    put_all(tmp_path, elman=-30.0)
    finding = judge(tmp_path)
    assert finding.verdict == "holds"
    assert finding.numbers[2].value == pytest.approx(-30.0)


@pytest.mark.parametrize(
    ("mixer", "decay", "said"),
    [
        ("attention", 2.0, "attention's |D| of 2 (95 % 1.8 to 2.2) lies above 1"),
        ("attention", -2.0, "attention's |D| of 2 (95 % 1.8 to 2.2) lies above 1"),
        ("lstm", 1.0, "lstm's |D| of 1 (95 % 0.804 to 1.2) lies below 2.4"),
        ("elman", 0.05, "elman's |D| of 0.05 (95 % 0 to 0.246) lies below 2.4"),
    ],
)
def test_one_on_the_other_side_fails(tmp_path: pathlib.Path, mixer: str, decay: float, said: str):
    put_all(tmp_path, **{mixer: decay})
    finding = judge(tmp_path)
    assert (finding.verdict, finding.reason) == ("fails", said)


@pytest.mark.parametrize(("mixer", "decay"), [("attention", 0.9), ("attention", -1.1), ("lstm", 2.5), ("elman", -2.3)])
def test_an_interval_across_a_bound_is_undecided(tmp_path: pathlib.Path, mixer: str, decay: float):
    put_all(tmp_path, **{mixer: decay})
    finding = judge(tmp_path)
    assert finding.verdict == "undecided"
    assert f"{mixer}'s |D|" in finding.reason
    assert "straddles" in finding.reason


def test_a_reader_may_try_other_thresholds(tmp_path: pathlib.Path):
    put_all(tmp_path)
    assert judge(tmp_path, threshold=100.0).verdict == "fails"
    assert judge(tmp_path, stable=0.1).verdict == "fails"


def test_a_short_sequence_is_untested_and_its_numbers_are_there(tmp_path: pathlib.Path):
    for mixer, decay in (("attention", 0.1), ("lstm", 5.0), ("elman", 9.0)):
        put(tmp_path, mixer, decay, length=64)
    finding = judge(tmp_path)
    assert (finding.verdict, finding.reason) == ("untested", "1,000 tokens were not reached, 64 were")
    assert finding.numbers[1].value == pytest.approx(5.0)
    assert "over 63 tokens" in finding.sentence
    assert judge(tmp_path, length=64).verdict == "holds"


def test_a_longer_sequence_is_judged_over_999_tokens(tmp_path: pathlib.Path):
    for mixer, decay in (("attention", 0.1), ("lstm", 80.0), ("elman", 200.0)):
        for seed in SEEDS:
            norms = dict.fromkeys(range(1, 9), 1.0) | {999: 10.0 ** -(decay + 0.1 * seed), 2047: 1e-300}
            append(tmp_path, mixer, "residual", seed, 2048, [{"distance": k, "norm": n} for k, n in norms.items()])
    finding = judge(tmp_path)
    assert finding.verdict == "holds"
    assert finding.numbers[1].value == pytest.approx(80.2)
    put_all(tmp_path)  # at 1,000 tokens, the shortest that will do
    assert judge(tmp_path).scope.startswith("1,000 tokens")


def test_a_mixer_that_is_missing_and_a_lone_seed_are_untested(tmp_path: pathlib.Path):
    assert judge(tmp_path).verdict == "untested"
    put(tmp_path, "attention", STABLE)
    put(tmp_path, "lstm", VANISHING)
    assert judge(tmp_path).reason == "not measured in the residual block: elman"
    put(tmp_path, "elman", 200.0, seeds=[0])
    finding = judge(tmp_path)
    assert (finding.verdict, finding.reason) == ("untested", "fewer than two seeds give no interval (elman)")
    assert finding.numbers[2].low is None


def test_a_cell_that_is_still_written_does_not_count_yet(tmp_path: pathlib.Path):
    put_all(tmp_path)
    append(tmp_path, "lstm", "residual", 5, 1000, [{"distance": 1, "norm": 0.0}])
    finding = judge(tmp_path)
    assert (finding.verdict, finding.numbers[1].n) == ("holds", 5)


@pytest.mark.parametrize("broken", ["zero", "failed"])
def test_a_broken_control_leaves_it_undecided(tmp_path: pathlib.Path, broken: str):
    put_all(tmp_path)
    if broken == "zero":
        put(tmp_path, "lstm", VANISHING, seeds=[5], near=0.0, far=0.0)
    else:
        append(tmp_path, "lstm", "residual", 5, 1000, [{"distance": 999, "outcome": "diverged"}])
    finding = judge(tmp_path)
    assert finding.verdict == "undecided"
    assert not finding.controls[0].met
    assert {"zero": "lstm, seed 5 (a norm of 0)", "failed": "lstm, residual, seed 5 (diverged)"}[
        broken
    ] in finding.reason


def test_an_arm_of_which_every_cell_failed_is_no_missing_one(tmp_path: pathlib.Path):
    put(tmp_path, "attention", STABLE)
    put(tmp_path, "lstm", VANISHING)
    for seed in SEEDS:
        append(tmp_path, "elman", "residual", seed, 1000, [{"outcome": "crashed"}])
    finding = judge(tmp_path)
    assert finding.verdict == "undecided"
    assert "elman, residual, seed 4 (crashed)" in finding.reason


def test_an_end_of_zero_is_at_least_what_float64_can_tell(tmp_path: pathlib.Path):
    put(tmp_path, "attention", STABLE)
    put(tmp_path, "lstm", VANISHING)
    put(tmp_path, "elman", 200.0, seeds=SEEDS[:4])
    put(tmp_path, "elman", 0.0, seeds=SEEDS[4:], far=0.0)
    finding = judge(tmp_path)
    assert finding.verdict == "holds"
    number = finding.numbers[2]
    assert "at least" in number.name
    assert number.value == pytest.approx((4 * 199.95 + 307.351) / 5, abs=0.01)
    assert finding.tables[0].rows[2][1].startswith("at least 221")
    assert "at least 10^221 in the Elman network" in finding.sentence
    [figure] = finding.figures
    assert {point.x for point in figure.points if point.series == "elman"} == set(range(1, 9))
    assert min(point.low for point in figure.points if point.low is not None) > 0


@pytest.mark.parametrize(
    ("decay", "said"),
    [(3.0, "residuals are the cause"), (-0.2, "residuals are not the cause"), (1.0, "the cause is undecided")],
)
def test_residuals_are_the_cause_where_attention_is_unstable_without(tmp_path: pathlib.Path, decay: float, said: str):
    put_all(tmp_path)
    put(tmp_path, "attention", decay, block="plain")
    finding = judge(tmp_path)
    assert finding.verdict == "holds"
    assert said in finding.reason
    assert [figure.name for figure in finding.figures] == ["gradient_reach_residual", "gradient_reach_plain"]
    assert finding.tables[0].rows[0][2].startswith(f"{decay:g} (95 %")


def test_other_arms_are_shown_and_not_judged(tmp_path: pathlib.Path):
    put_all(tmp_path)
    for mixer, decay in (("gru", 50.0), ("mingru", 0.2), ("attention:window=8", 1.5)):
        put(tmp_path, mixer, decay, seeds=[2])
    append(tmp_path, "gru", "plain", 0, 1000, [{"outcome": "crashed"}])
    finding = judge(tmp_path)
    assert finding.verdict == "holds"
    assert finding.reason.endswith("failed: gru, plain, seed 0 (crashed)")
    likeness = dict(finding.arms)
    assert likeness == {
        "elman": LIKE_LSTM,
        "gru": LIKE_LSTM,
        "mingru": LIKE_ATTENTION,
        "attention:window=8": NEITHER,
    }


def test_the_interval_of_the_size_follows_from_that_of_the_number():
    positive, negative, across = (gradient_flow.magnitude([value - 0.1, value + 0.1]) for value in (5.0, -5.0, 0.0))
    assert positive == pytest.approx(negative)
    assert positive.low < positive.value < positive.high
    assert (across.value, across.low) == (pytest.approx(0.0), 0.0)


def test_cells_are_the_judged_three_in_both_blocks_and_one_seed_of_the_others():
    scale = dataclasses.replace(SCALES["quick"], arms=("attention", "lstm", "gru"))
    found = gradient_flow.cells(scale, [])
    assert len(found) == len(set(found)) == 2 * (3 * scale.seeds + 1)
    assert {cell.job.length for cell in found} == {1000}
    assert {cell.job.match_to.split(":")[0] for cell in found if cell.job.arm != "attention"} == {"attention"}
    assert {cell.measure for cell in found} == {"gradient_reach"}
    assert {cell.job.seed for cell in found if cell.job.arm == "gru"} == {0}
