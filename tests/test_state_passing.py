"""State passing: in the last steps a recurrence reads a window from its state at the end of another."""

import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import run
from test_faults import assert_same, training
from test_step import losses

from suite import mesh as meshes
from suite import parts
from suite.counting import flops
from suite.job import Job
from suite.measures import learning, size
from suite.model import backbone
from suite.model.backbone import Model
from suite.sweep import store
from suite.tasks import Batch
from suite.training import rig
from suite.training import step as steps
from suite.training.rig import Rig

JOB = Job(mixer="mingru", task="recall:pairs=2,vocab=16", width=16, length=16, batch=8, steps=20, state_passing=0.1)
JOB = JOB.replace(test_examples=32, validation_examples=32, validate_every=20, record_every=1)
RECURRENCES = [name for name in parts.names("suite.mixers") if parts.constant("suite.mixers", name, "STATE") != "cache"]
# One of each kind of state, the whole state of a block, and a pattern that the depth cuts.
FORMS: list[Any] = [
    {"mixer": "mingru", "short_conv": 3},
    {"mixer": "lstm", "block": "plain"},
    pytest.param({"mixer": "mamba2+lru", "depth": 3, "remat": "block"}, marks=pytest.mark.slow, id="mamba2+lru"),
]


def after(built: Rig, state: Any, number: int) -> tuple[Any, dict[str, Any]]:
    """The state and the metrics after one passing step over a batch of the task."""
    [batch] = built.batches("train", number, number + 1)
    return built.programs.passing_step(state, batch)


def model_of(built: Rig) -> Model:
    return eqx.combine(built.state.params, built.static)


def nats(model: Model, logits_BTV: jax.Array, batch: Batch) -> jax.Array:
    return jnp.sum(steps.cross_entropy(logits_BTV, batch.targets_BT) * batch.weights_BT) / jnp.sum(batch.weights_BT)


def before(batch: Batch) -> jax.Array:
    """The windows that the examples of a batch come after."""
    return jnp.asarray(np.roll(np.asarray(batch.tokens_BT), 1, axis=0))


@pytest.mark.parametrize("fields", FORMS, ids=str)
def test_a_window_is_read_as_if_another_window_stood_before_it(fields: dict[str, Any], devices: list) -> None:
    built = rig.build(JOB.replace(**fields), meshes.make(devices=devices[:1]))
    [batch] = built.batches("train", 3, 4)
    model = model_of(built)
    both_BT = jnp.concatenate([before(batch), batch.tokens_BT], axis=1)
    wanted = nats(model, model(both_BT)[:, JOB.length :], batch)
    _, metrics = after(built, built.state, 3)
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)
    _, plain = built.step(built.state, batch)
    assert abs(float(plain["loss"] - metrics["loss"])) > 1e-4  # the state before it makes a difference


def test_in_a_hybrid_attention_starts_empty(devices: list) -> None:
    job = JOB.replace(mixer="attention:heads=2+mingru", depth=3)
    assert job.passes == (False, True)
    built = rig.build(job, meshes.make(devices=devices[:1]))
    [batch] = built.batches("train", 3, 4)
    model = model_of(built)
    (of_attention, of_gru), [of_rest] = steps.end_states(model, before(batch), job.passes)
    assert of_attention is of_rest is None
    blocks = [jax.tree.map(lambda leaf: leaf[0], block) for block in model.pattern]
    x_BTD = blocks[0](model.embed(batch.tokens_BT))
    x_BTD, _ = blocks[1].extend(x_BTD, jax.tree.map(lambda leaf: leaf[0], of_gru))
    wanted = nats(model, model.logits(model.rest[0](x_BTD)), batch)
    _, metrics = after(built, built.state, 3)
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)


def test_no_gradient_goes_into_the_window_before(devices: list) -> None:
    built = rig.build(JOB, meshes.make(devices=devices[:1]))
    [batch] = built.batches("train", 3, 4)
    params = built.state.params

    def norm(flows: bool) -> float:
        def loss(params: Model) -> jax.Array:
            model = eqx.combine(params, built.static)
            state = model.start(JOB.batch, JOB.length, jnp.dtype(JOB.dtype))
            _, state = model.extend(before(batch), state)
            logits_BTV, _ = model.extend(batch.tokens_BT, state if flows else jax.lax.stop_gradient(state))
            return nats(model, logits_BTV, batch)

        return float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jax.grad(loss)(params)))))

    _, metrics = after(built, built.state, 3)
    np.testing.assert_allclose(metrics["gradient_norm"], norm(flows=False), rtol=1e-4)
    assert abs(norm(flows=True) / norm(flows=False) - 1) > 1e-2


def test_to_know_where_a_window_ends_costs_a_forward_pass_without_logits(devices: list) -> None:
    built = rig.build(JOB, meshes.make(devices=devices[:1]))
    tokens_BT = jax.ShapeDtypeStruct((JOB.batch, JOB.length), jnp.int32)
    shapes = backbone.shapes(JOB, built.task.vocab)
    ends = flops.count(lambda model, tokens_BT: steps.end_states(model, tokens_BT, JOB.passes), shapes, tokens_BT)
    tokens = JOB.batch * JOB.length
    logits = 2 * JOB.width * built.task.vocab
    assert ends.matmul == tokens * (next(size.measure(built))["flops_per_token"] - logits)


def rows(job: Job, folder: pathlib.Path, devices: list) -> list[dict[str, Any]]:
    built = rig.build(job, meshes.make(devices=devices[:1]), run=store.open_run(folder, job))
    return [{**row, "seconds": 0.0} for row in learning.measure(built)]


def test_the_steps_before_are_those_of_a_training_without(tmp_path: pathlib.Path, devices: list) -> None:
    passed = rows(JOB, tmp_path, devices)
    plain = rows(JOB.replace(state_passing=0.0), tmp_path, devices)
    assert JOB.last_step == 22
    assert [row for row in passed if row["step"] <= 20] == plain[:-1]  # but for the test at the end
    assert [(row["phase"], row["step"]) for row in passed[-4:]] == [
        *(("train", 21), ("train", 22), ("validation", 22), ("test", 22)),
    ]
    assert passed[-1]["fingerprint"] != plain[-1]["fingerprint"]
    assert passed[-1]["tokens"] == 22 * JOB.batch * JOB.length


def test_states_are_passed_at_a_tenth_of_the_peak_rate() -> None:
    schedule = steps.Schedule.of(JOB.replace(learning_rate=1.0))
    rates = [float(schedule._replace(count=jnp.int32(count)).now("cosine")) for count in range(JOB.last_step)]
    assert rates[JOB.steps :] == pytest.approx([0.1, 0.1])


def test_parameters_are_those_of_a_training_without(devices: list) -> None:
    mesh = meshes.make(devices=devices[:1])
    built, plain = (rig.build(job, mesh) for job in (JOB, JOB.replace(state_passing=0.0)))
    assert built.conditions["params"] == plain.conditions["params"]
    assert built.programs is plain.programs


@pytest.mark.parametrize("mixer", ["mingru", pytest.param("attention:window=8+lstm", marks=pytest.mark.slow)])
def test_eight_devices_pass_like_one(mixer: str, devices: list, data_dir: pathlib.Path) -> None:
    job = JOB.replace(mixer=mixer, batch=16, steps=10, depth=2)
    one, one_print = losses(job, devices[:1], data_dir)
    eight, eight_print = losses(job, devices, data_dir)
    assert one_print == eight_print
    assert len(one) == 11
    # float32 sums in another order, over 11 steps.
    np.testing.assert_allclose(eight, one, rtol=1e-5)


def test_microbatches_pass_like_the_whole_batch(devices: list, data_dir: pathlib.Path) -> None:
    whole, _ = losses(JOB.replace(steps=10), devices[:1], data_dir)
    pieces, _ = losses(JOB.replace(steps=10, microbatch=2), devices[:1], data_dir)
    np.testing.assert_allclose(pieces, whole, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", RECURRENCES)
def test_every_recurrence_passes_its_state(mixer: str, devices: list) -> None:
    built = rig.build(JOB.replace(mixer=mixer), meshes.make(devices=devices[:1]))
    [batch] = built.batches("train", 3, 4)
    model = model_of(built)
    both_BT = jnp.concatenate([before(batch), batch.tokens_BT], axis=1)
    wanted = nats(model, model(both_BT)[:, JOB.length :], batch)
    _, metrics = after(built, built.state, 3)
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_that_is_killed_while_it_passes_states_ends_bit_by_bit(tmp_path: pathlib.Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    passing = ("--state_passing=0.1", "--validate_every=63")  # 120 steps and 12 more
    assert run(training(whole, *passing)).returncode == 0
    assert run(training(killed, *passing, "--fault=kill@128:0")).returncode == -9
    assert run(training(killed, *passing)).returncode == 0
    assert_same(killed, whole)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mixer": "attention"}, "wants a state of fixed size, which attention's cache is not; got attention"),
        ({"batch": 1}, "wants another window in the batch; batch is 1"),
        ({"budget_seconds": 1.0}, "a training that ends by budget_seconds has no number of them"),
        ({"lengths": "8:1,16:1"}, "wants windows of one length, without padding before their ends; got 8:1,16:1"),
        ({"state_passing": 0.2}, "state_passing wants at most 0.1; got 0.2"),
    ],
)
def test_what_cannot_pass_a_state_is_refused(fields: dict[str, Any], says: str, devices: list) -> None:
    with pytest.raises(ValueError, match=says):
        rig.check(JOB.replace(**fields), meshes.make(devices=devices[:1]), 16)


def test_sequences_that_are_split_over_devices_are_refused(devices: list) -> None:
    with pytest.raises(ValueError, match="whole sequences on a device"):
        rig.check(JOB, meshes.make("data:2,context:2", devices[:4]), 16)
