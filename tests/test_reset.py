"""With --reset=true no document of an example sees another."""

import collections
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from suite import contract, parts
from suite import mesh as meshes
from suite.contract import WIDTH
from suite.job import Job
from suite.measures import gradient_reach, learning, length_accuracy, loss_by_position, strata
from suite.model import backbone
from suite.ops import implementations
from suite.tasks import text
from suite.tasks.corpora.strata import STRATA
from suite.training import conditions, rig

# Every file, and the knobs that take another way through the code.
SPECS = [
    *parts.names("suite.mixers"),
    "attention:implementation=dense,positions=alibi",
    "attention:kv_heads=2,window=3",
    "elman:implementation=scan,heads=2",
    "gru:remat=true,dilation=3",
    "lstm:heads=4,dilation=2",
    "mingru:implementation=parallel",
    "lru:implementation=parallel",
    "mamba2:implementation=sequential",
    "gla:implementation=sequential,taps=4",
    "mlstm:implementation=sequential,taps=2",
    "deltanet:implementation=sequential",
    "rwkv7:implementation=sequential",
]
CLOSE = 1e-5  # as in tests/test_mixers.py: sums of some hundred products in another order
JOB = Job(task="text", width=16, depth=2, length=32, batch=8, short_conv=3, reset=True)


def build(spec: str):
    module, knobs = parts.load("suite.mixers", spec)
    return module.Mixer(WIDTH, key=jax.random.key(0), **knobs)


@pytest.mark.parametrize("spec", SPECS)
def test_documents_read_together_equal_each_alone_in_value_and_gradient(spec: str):
    contract.check_starts(build(spec), WIDTH, CLOSE)


@pytest.mark.parametrize("spec", ["attention", "mamba2", "gla", "gated_deltanet", "mlstm", "rwkv7"])
def test_documents_end_within_chunks_and_blocks_of_a_long_sequence(spec: str):
    mixer, begins = build(spec), (1, 70, 200)
    x_BTD = jax.random.normal(jax.random.key(1), (1, 300, WIDTH), jnp.float32)
    starts_BT = jnp.zeros((1, 300), bool).at[0, jnp.asarray(begins)].set(True)

    @eqx.filter_jit
    def gradient(x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
        y_BTD, pull_back = jax.vjp(lambda x_BTD: mixer(x_BTD, starts_BT), x_BTD)
        return y_BTD, pull_back(y_BTD.at[:, :70].set(0).at[:, 200:].set(0))[0]

    read = eqx.filter_jit(lambda x_BTD: mixer(x_BTD))
    alone_BTD = jnp.concatenate([read(part_BTD) for part_BTD in jnp.split(x_BTD, begins, axis=1)], axis=1)
    y_BTD, gradient_BTD = gradient(x_BTD)
    assert contract.distance(y_BTD, alone_BTD) <= CLOSE
    assert np.all(np.isfinite(gradient_BTD))
    # As the contract has it of later tokens: sums of decays that cancel leave their rounding.
    outside = max(np.max(np.abs(gradient_BTD[:, :70])), np.max(np.abs(gradient_BTD[:, 200:])))
    assert outside <= contract.ROUNDING * np.max(np.abs(gradient_BTD[:, 70:200]))


def test_a_mixer_that_looks_back_over_a_start_breaks_the_contract():
    class Leaks(eqx.Module):
        def __call__(self, x_BTD: jax.Array, starts_BT: jax.Array | None = None) -> jax.Array:
            return jnp.cumsum(x_BTD, axis=1)

    with pytest.raises(ValueError, match=r"^reset: documents read together are .* apart from each alone$"):
        contract.check_starts(Leaks(), WIDTH)


def test_through_the_backbone_a_document_is_read_as_alone():
    model = backbone.build(JOB.replace(mixer="lstm+attention"), 256, key=jax.random.key(0))
    tokens_BT = jax.random.randint(jax.random.key(1), (2, 30), 1, 256).at[:, 11].set(0)
    alone_BTV = jnp.concatenate([model(tokens_BT[:, :12]), model(tokens_BT[:, 12:])], axis=1)
    assert contract.distance(model(tokens_BT), alone_BTV) <= CLOSE


def test_a_training_with_reset_on_eight_devices_is_that_on_one(devices: list, data_dir: pathlib.Path):
    losses = []
    job = JOB.replace(mixer="attention+gru", steps=2)
    for count in (1, 8):
        built = rig.build(job, meshes.make(devices=devices[:count]), data_dir=str(data_dir))
        assert built.conditions["implementation"] == "blocked+factors"
        losses.append([float(metrics["loss"]) for _, _, metrics in built.train(built.state, 0, 2)])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_job_without_reset_keeps_its_id():
    assert "reset" not in JOB.replace(reset=False).flags()[0]
    assert JOB.replace(reset=False).id == JOB.replace(reset=False).replace().id != JOB.id
    assert "--reset=True" in JOB.flags()
    assert Job.from_json(JOB.to_json()) == JOB
    with pytest.raises(TypeError, match="reset wants bool, not 1"):
        Job.from_json('{"reset": 1}')
    with pytest.raises(TypeError, match="depth wants int, not True"):
        Job.from_json('{"depth": true}')


def test_what_cannot_be_reset_is_refused(devices: list, data_dir: pathlib.Path, tmp_path: pathlib.Path):
    with pytest.raises(ValueError, match=r"^reset wants a task of documents, .*; recall.* has none"):
        backbone.build(JOB.replace(task="recall"), 64, key=jax.random.key(0))
    own = tmp_path / "mine.py"
    own.write_text(
        "import equinox as eqx\n\nclass Mixer(eqx.Module):\n    def __init__(self, width, *, key):\n        pass\n"
        "    def __call__(self, x_BTD):\n        return x_BTD\n"
    )
    with pytest.raises(
        ValueError, match=r"^reset wants a mixer that takes starts_BT; .* does not, these do: attention"
    ):
        backbone.build(JOB.replace(mixer=str(own)), 256, key=jax.random.key(0))
    mesh = meshes.make("context:2", devices=devices[:2])
    with pytest.raises(ValueError, match=r"^reset wants whole sequences on a device"):
        rig.check(JOB, mesh, 256)
    for spec, implementation in (("attention", "splash"), ("attention", "ring"), ("lstm", "pallas"), ("gru", "pallas")):
        mixer = build(f"{spec}:implementation={implementation}")
        with pytest.raises(ValueError, match=f"^implementation {implementation} does not reset .*these do: "):
            mixer.ran(jnp.dtype("float32"), cut=True)


@pytest.mark.parametrize("name", parts.names("suite.measures"))
def test_what_reads_on_from_a_state_refuses_reset_and_nothing_else_does(name: str, data_dir: pathlib.Path):
    job, task = JOB.replace(mixer="lstm"), text.Task(32, 0, data_dir=str(data_dir))
    module, knobs = parts.load("suite.measures", name)
    check = getattr(module, "check", lambda *_, **knobs: None)
    if name == "length_accuracy":
        check(job, task, **knobs)  # in parallel form
        knobs["chunk"] = 4
    check(job.replace(reset=False), task, **knobs)
    if "inference" in vars(module):
        with pytest.raises(ValueError, match=f"^{name}.* got --reset=true: give --reset=false or leave out {name}"):
            check(job, task, **knobs)
    else:
        check(job, task, **knobs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, devices: list, data_dir: pathlib.Path) -> rig.Rig:
    """After a step, with windows enough that documents end in some."""
    job = JOB.replace(mixer="mingru", depth=1, length=256, steps=1, test_examples=128)
    job = job.replace(validate_every=1, validation_examples=8)
    built = rig.build(
        job, meshes.make(devices=devices[:1]), run=epath.Path(tmp_path_factory.mktemp("run")), data_dir=str(data_dir)
    )
    list(learning.measure(built))
    return built


def seen_of(trained: rig.Rig) -> np.ndarray:
    """Of each target of the test how many bytes stand before it in its document."""
    windows = [row_T.astype(np.uint8).tobytes() for row_T in trained.task.batch("test", np.arange(128)).tokens_BT]
    return np.asarray([[at - window[:at].rfind(b"\0") for at in range(len(window))] for window in windows])


def test_positions_and_distances_are_counted_from_the_beginning_of_the_document(trained: rig.Rig):
    seen_BT = seen_of(trained)
    assert np.any(seen_BT != np.arange(1, 257))
    targets: collections.Counter[tuple[int, int]] = collections.Counter()
    for row in loss_by_position.measure(trained):
        targets[row["low"], row["high"]] += row["targets"]
    assert targets == {(low, high): np.sum((seen_BT >= low) & (seen_BT <= high)) for low, high in targets}
    by_distance = [row for row in length_accuracy.measure(trained, longest=1, depths=2) if row["phase"] != "length"]
    for row in by_distance[:-1]:  # all of the document may be needed
        assert row["targets"] == np.sum((seen_BT > row["low"]) & (seen_BT <= row["high"] + 1))
    assert (by_distance[-1]["at_depth"], by_distance[-1]["targets"]) == (0, seen_BT.size)


def test_strata_of_a_job_with_reset_are_those_of_documents_kept_apart(trained: rig.Rig):
    counted = collections.Counter()
    for row in strata.measure(trained):
        counted[row["partition"], row["stratum"]] += row["targets"]
    told_BT = trained.task.strata("test", np.arange(128), reset=True).of_partition["repetition"]
    for number, stratum in enumerate(STRATA["repetition"]):
        assert counted["repetition", stratum] == np.sum(told_BT == number)


def test_no_gradient_goes_beyond_the_beginning_of_a_document(trained: rig.Rig):
    tokens_T = np.arange(1, 257, dtype=np.int32) % 255 + 1
    tokens_T[200] = text.END
    rows = list(gradient_reach.follow(trained, trained.trained, tokens_T, 255, range(256), 2))
    assert [row["norm"] > 0 for row in rows] == [k < 255 - 200 for k in range(256)]


def test_random_tokens_of_a_gradient_are_one_document(trained: rig.Rig):
    random_T = np.random.default_rng(trained.job.seed).integers(256, size=256, dtype=np.int32)
    assert np.any(random_T[:-1] == text.END)
    assert all(row["norm"] > 0 for row in gradient_reach.measure(trained, probes=2))


@pytest.mark.parametrize("family", implementations.CANNOT_CUT)
def test_the_table_of_what_cannot_reset_names_implementations(family: str):
    assert set(implementations.CANNOT_CUT[family]) < set(implementations.family(family).IMPLEMENTATIONS)
    assert conditions.implementation(JOB, meshes.make(devices=jax.devices()[:1])) == "blocked"
