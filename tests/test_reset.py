"""With --reset=true no document of an example sees another."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suite import contract, parts
from suite import mesh as meshes
from suite.contract import WIDTH
from suite.job import Job
from suite.measures import length_accuracy
from suite.model import backbone
from suite.ops import implementations
from suite.tasks import text
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
    task = text.Task(32, 0, data_dir=str(data_dir))
    knobs = {"longest": 1, "growth": 4, "remedy": "", "shortest": 0, "depths": 0}
    length_accuracy.check(JOB, task, **knobs, chunk=0)
    with pytest.raises(ValueError, match=r"^reset begins anew in parallel form alone"):
        length_accuracy.check(JOB, task, **knobs, chunk=4)
    for spec, implementation in (("attention", "splash"), ("attention", "ring"), ("lstm", "pallas"), ("gru", "pallas")):
        mixer = build(f"{spec}:implementation={implementation}")
        with pytest.raises(ValueError, match=f"^implementation {implementation} does not reset .*these do: "):
            mixer.ran(jnp.dtype("float32"), cut=True)


@pytest.mark.parametrize("family", implementations.CANNOT_CUT)
def test_the_table_of_what_cannot_reset_names_implementations(family: str):
    assert set(implementations.CANNOT_CUT[family]) < set(implementations.family(family).IMPLEMENTATIONS)
    assert conditions.implementation(JOB, meshes.make(devices=jax.devices()[:1])) == "blocked"
