"""The training step and its loop: layouts do not matter, seeds are an argument, non-finite is seen."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ahead import VOCAB, parameter_bytes

from suite import mesh as meshes
from suite import parts
from suite.counting import collectives
from suite.job import Job
from suite.model import backbone
from suite.tasks import Batch
from suite.training import programs as shared
from suite.training import rig
from suite.training import step as steps
from suite.training.programs import Programs, batch_shapes

JOB = Job(task="recall:pairs=2,vocab=16", width=16, length=16, batch=16, steps=20, learning_rate=3e-3, test_examples=32)


def losses(job: Job, devices: list, data_dir: pathlib.Path) -> tuple[list[float], int]:
    built = rig.build(job, meshes.make(devices=devices), data_dir=str(data_dir))
    trained = built.train(built.state, 0, job.last_step)
    found = [(float(metrics["loss"]), int(state.fingerprint)) for _, state, metrics in trained]
    return [loss for loss, _ in found], found[-1][1]


# One of each family and a hybrid; tests/test_mesh.py has all.
FAMILIES = ("attention", "lstm", "rglru", "gated_deltanet", "rglru+rglru+attention:window=8")


@pytest.mark.parametrize("mixer", FAMILIES)
def test_eight_devices_train_like_one(mixer: str, devices: list, data_dir: pathlib.Path) -> None:
    job = JOB.replace(mixer=mixer, task="text", length=32, depth=3 if "+" in mixer else 1, steps=10)
    one, one_print = losses(job, devices[:1], data_dir)
    eight, eight_print = losses(job, devices, data_dir)
    assert one_print == eight_print
    # float32 sums in another order, over 10 steps.
    np.testing.assert_allclose(eight, one, rtol=1e-5)


# Loops over time, chunks whose decays are formed pair by pair, and what a model has around its mixers.
EXCHANGING: list[dict[str, Any]] = [
    {"mixer": "lstm+gru+elman+gla+slstm", "depth": 5},
    {"mixer": "lstm:heads=2,remat=true+lru", "depth": 3, "short_conv": 4, "remat": "block", "microbatch": 8},
    {"mixer": "gru:implementation=scan,heads=2", "depth": 2, "block": "plain"},
    *({"mixer": name, "depth": 2} for name in parts.names("suite.mixers")),
]
FIRST, *REST = EXCHANGING


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fields", [FIRST, *(pytest.param(rest, marks=pytest.mark.slow) for rest in REST)], ids=str)
def test_devices_exchange_nothing_but_sums_of_gradients_and_metrics(fields: dict[str, Any], devices: list) -> None:
    temporaries = []
    for n_devices in (2, 8):
        job = JOB.replace(batch=4 * n_devices, **fields)
        job = job.replace(microbatch=job.microbatch * n_devices // 8)
        mesh = meshes.make(devices=devices[:n_devices])
        compiled = Programs(job, mesh, VOCAB).lowered_step.compile()
        sums = collectives.of_program(compiled, mesh)
        assert {(one.operation, one.axes, one.loops) for one in sums} == {("all-reduce", ("data",), ())}
        # Each gradient once, and a few numbers.
        gradients = collectives.SENT["all-reduce"](parameter_bytes(job), n_devices)
        assert 0 < sum(one.sent for one in sums) - gradients < 128
        memory = compiled.memory_analysis()
        assert memory is not None
        temporaries.append(memory.temp_size_in_bytes)
    assert temporaries[0] == temporaries[1]


def test_evaluating_devices_exchange_nothing_but_what_is_asked(devices: list) -> None:
    job = JOB.replace(mixer="lstm+gla", depth=2)
    mesh = meshes.make(devices=devices)
    programs = Programs(job, mesh, VOCAB)
    arguments = (backbone.shapes(job, VOCAB), batch_shapes(job.batch, job.length))
    sums = collectives.of_program(programs.evaluate.lower(*arguments).compile(), mesh)
    assert [(one.operation, one.sent) for one in sums] == [("all-reduce", 2 * 7 * 6 * 4 // 8)]
    # The answers to all targets, whole on every device: nats and correctness.
    gathered = collectives.of_program(programs.answers.lower(*arguments).compile(), mesh)
    assert {one.operation for one in gathered} == {"all-gather"}
    assert sum(one.sent for one in gathered) == 7 * 2 * 4 * job.batch * job.length // 8


@pytest.mark.parametrize("n_devices", [1, 8])
def test_microbatches_train_like_the_whole_batch(n_devices: int, devices: list, data_dir: pathlib.Path) -> None:
    job = JOB.replace(task="text", length=32, depth=1, steps=10, batch=32)
    whole, whole_print = losses(job, devices[:1], data_dir)
    pieces, pieces_print = losses(job.replace(microbatch=8), devices[:n_devices], data_dir)
    assert whole_print == pieces_print
    np.testing.assert_allclose(pieces, whole, rtol=1e-5)


def test_a_microbatch_takes_less_memory(devices: list) -> None:
    job = JOB.replace(batch=64, length=256)
    mesh = meshes.make(devices=devices[:1])
    whole, pieces = (
        Programs(job.replace(microbatch=size), mesh, 256).lowered_step.compile().memory_analysis() for size in (0, 8)
    )
    assert whole is not None
    assert pieces is not None
    assert pieces.temp_size_in_bytes < whole.temp_size_in_bytes / 4


def test_blocks_that_are_computed_again_train_alike_and_are_not_kept(devices: list, data_dir: pathlib.Path) -> None:
    job = JOB.replace(mixer="lstm+attention", task="text", length=32, depth=3, steps=10)
    kept, again = (losses(job.replace(remat=remat), devices[:1], data_dir) for remat in ("none", "block"))
    assert kept[1] == again[1]
    np.testing.assert_allclose(again[0], kept[0], rtol=1e-5)  # XLA fuses the one program otherwise than the other
    mesh = meshes.make(devices=devices[:1])
    deep = JOB.replace(depth=8, length=256)
    programs = [Programs(deep.replace(remat=remat), mesh, 256).lowered_step.compile() for remat in ("none", "block")]
    kept, again = (program.memory_analysis() for program in programs)
    assert kept is not None
    assert again is not None
    assert again.temp_size_in_bytes < kept.temp_size_in_bytes / 3


@pytest.mark.parametrize(
    ("mixer", "length", "gigabytes"), [("lstm:remat=true", 65_536, 1.5), ("attention", 32_768, 1.0)]
)
def test_a_step_over_very_many_tokens_fits(mixer: str, length: int, gigabytes: float, devices: list) -> None:
    """Under 2 and 4 GB with the half that a process takes before it has done anything."""
    job = Job(mixer=mixer, length=length, batch=1, remat="block")
    memory = Programs(job, meshes.make(devices=devices[:1]), 256).lowered_step.compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes + memory.argument_size_in_bytes < gigabytes * 1e9


def test_microbatches_that_do_not_fit_are_refused(devices: list) -> None:
    with pytest.raises(ValueError, match="batch 16 is not a multiple of microbatch 6"):
        JOB.replace(batch=16, microbatch=6)
    with pytest.raises(ValueError, match="microbatch 4 is not a multiple of the 8 devices"):
        rig.check(JOB.replace(batch=16, microbatch=4), meshes.make(devices=devices), 256)


@pytest.mark.parametrize("n_devices", [1, 8])
def test_logits_are_never_whole_where_they_are_many(
    n_devices: int, devices: list, data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JOB.replace(task="text", length=37, depth=1, steps=5, batch=16)
    whole, _ = losses(job, devices[:1], data_dir)
    monkeypatch.setattr(steps, "LOGITS", 16 * 256 * 5 // n_devices)  # 5 tokens at a time
    shared._shared.cache_clear()
    chunked, _ = losses(job, devices[:n_devices], data_dir)
    np.testing.assert_allclose(chunked, whole, rtol=1e-5)
    programs = Programs(job, meshes.make(devices=devices[:n_devices]), 256)
    lowered = programs.lowered_step.as_text()
    shared._shared.cache_clear()
    assert f"tensor<{16 // n_devices}x37x256xf32>" not in lowered
    assert f"tensor<5x{16 // n_devices}x256xf32>" in lowered


def test_the_fingerprint_sees_ids_and_tokens_and_not_their_order(devices: list) -> None:
    tokens_BT = jax.random.randint(jax.random.key(0), (4, 8), 0, 50)
    ids_B = jnp.arange(4)
    whole = int(steps.fingerprint_of(ids_B, tokens_BT))
    assert whole == int(steps.fingerprint_of(ids_B[::-1], tokens_BT[::-1]))
    assert whole != int(steps.fingerprint_of(ids_B + 1, tokens_BT))
    assert whole != int(steps.fingerprint_of(ids_B, tokens_BT.at[2, 3].add(1)))
    assert whole != int(steps.fingerprint_of(ids_B, tokens_BT[:, ::-1]))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion"])
def test_every_optimiser_learns(optimizer: str, devices: list, data_dir: pathlib.Path) -> None:
    learning_rate = {"adamw": 3e-3, "sgd": 1e-1, "lion": 1e-3}[optimizer]
    found, _ = losses(JOB.replace(optimizer=optimizer, learning_rate=learning_rate, steps=40), devices[:1], data_dir)
    assert np.mean(found[-5:]) < np.mean(found[:5])


def test_a_poisoned_state_is_seen_on_the_device(devices: list, data_dir: pathlib.Path) -> None:
    built = rig.build(JOB, meshes.make(devices=devices[:1]), data_dir=str(data_dir))
    state = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.dtype == jnp.float32 else leaf, built.state)
    _, metrics = built.step(state, built.resident_batch())
    assert not steps.as_numbers(metrics)["finite"]


def test_the_state_is_donated(devices: list, data_dir: pathlib.Path) -> None:
    built = rig.build(JOB, meshes.make(devices=devices[:1]), data_dir=str(data_dir))
    state = built.state
    built.step(state, built.resident_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_seeds_share_one_program(devices: list, data_dir: pathlib.Path) -> None:
    mesh = meshes.make(devices=devices[:1])
    first, second = (rig.build(JOB.replace(seed=seed), mesh, data_dir=str(data_dir)) for seed in (0, 1))
    assert first.programs is second.programs
    assert not np.array_equal(first.state.params.embedding_VD, second.state.params.embedding_VD)


def test_the_rate_rises_to_its_peak_and_falls_to_a_tenth(devices: list, data_dir: pathlib.Path) -> None:
    job = JOB.replace(optimizer="sgd", weight_decay=0.0, clip=0.0, steps=100, warmup=0.1, learning_rate=1.0)
    optimizer: Any = steps.make_optimizer(job, {"w": True})
    params = {"w": jnp.zeros((1, 1))}
    state = optimizer.init(params)
    moves = []
    for _ in range(100):
        updates, state = optimizer.update({"w": jnp.ones((1, 1))}, state, params)
        moves.append(-float(updates["w"][0, 0]))
    # Of a constant gradient, momentum 0.9 makes ten in the long run: the peak is passed late, the end is near a tenth.
    assert moves[0] > 0
    assert 10 < np.argmax(moves) < 40
    assert 0.1 < moves[-1] / max(moves) < 0.15


def test_clipping_bounds_the_gradient(devices: list) -> None:
    optimizer: Any = steps.make_optimizer(JOB.replace(optimizer="sgd", clip=1.0, weight_decay=0.0), {"w": True})
    params = {"w": jnp.zeros((2, 2))}
    small, _ = optimizer.update({"w": jnp.full((2, 2), 0.5)}, optimizer.init(params), params)
    large, _ = optimizer.update({"w": jnp.full((2, 2), 5e6)}, optimizer.init(params), params)
    np.testing.assert_allclose(small["w"], large["w"], rtol=1e-6)  # both have norm 1 after clipping


def test_only_matrices_decay(devices: list) -> None:
    optimizer: Any = steps.make_optimizer(JOB.replace(weight_decay=0.5), {"w": True, "b": False})
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    moved: Any = optax.apply_updates(params, updates)
    assert float(moved["w"][0, 0]) < 1.0 == float(moved["b"][0])


def test_weights_of_zero_are_left_out_of_the_loss(devices: list, data_dir: pathlib.Path) -> None:
    built = rig.build(JOB, meshes.make(devices=devices[:1]), data_dir=str(data_dir))
    batch = built.resident_batch()
    half = Batch(batch.tokens_BT, batch.targets_BT, batch.weights_BT.at[:, ::2].set(0.0))
    other = Batch(batch.tokens_BT, batch.targets_BT.at[:, ::2].set(0), half.weights_BT)
    losses_ = [steps.as_numbers(built.step(built.state, chosen)[1])["loss"] for chosen in (batch, half, other)]
    assert losses_[0] != losses_[1] == losses_[2]


def test_a_process_makes_only_the_rows_of_its_own_devices(devices: list, data_dir: pathlib.Path) -> None:
    built = rig.build(JOB, meshes.make(devices=devices), data_dir=str(data_dir))
    [batch] = built.batches("train", 3, 4)
    whole = built.task.batch("train", np.arange(48, 64))
    for mine, all_ in zip(batch, whole, strict=True):
        np.testing.assert_array_equal(mine, all_)
        assert len(mine.addressable_shards) == 8
        assert mine.addressable_shards[0].data.shape[0] == 2


def test_an_evaluation_counts_each_example_once(devices: list, data_dir: pathlib.Path) -> None:
    mesh = meshes.make(devices=devices[:1])
    whole = rig.build(JOB.replace(batch=10), mesh, data_dir=str(data_dir))
    padded = rig.build(JOB.replace(batch=4), mesh, data_dir=str(data_dir))
    params = whole.state.params
    found, other = (built.evaluate(params, "test", 10) for built in (whole, padded))
    np.testing.assert_allclose(found["loss"], other["loss"], rtol=1e-6)  # sums in another order
    assert found["accuracy"] == other["accuracy"]


def test_a_batch_that_does_not_split_is_refused(devices: list) -> None:
    with pytest.raises(ValueError, match="batch 12 is not a multiple of the 8 devices"):
        rig.check(JOB.replace(batch=12), meshes.make(devices=devices), 16)


@pytest.mark.parametrize("spec", ["data:7", "data:0", "heads:8", "data", "data:4,data:2"])
def test_a_mesh_that_does_not_fit_is_refused(spec: str, devices: list) -> None:
    with pytest.raises(ValueError, match="--mesh"):
        meshes.make(spec, devices)


def test_an_example_is_an_exact_match_where_all_its_targets_are_correct() -> None:
    weights_BT = jnp.asarray([[0.0, 1, 2], [0, 1, 1], [1, 1, 1], [0, 0, 0]], jnp.float32)
    correct_BT = jnp.asarray([[0.0, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]], jnp.float32)
    tokens_BT = jnp.zeros((4, 3), jnp.int32)
    summed = steps.sums(jnp.zeros((4, 3)), correct_BT, Batch(tokens_BT, tokens_BT, weights_BT))
    assert (summed["exact"], summed["finals"]) == (2, 3)
