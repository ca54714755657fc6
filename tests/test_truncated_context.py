"""A context is cut before the same targets: whole it gives the answers, and what is cut off does not count."""

import itertools
import pathlib

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from suite import mesh as meshes
from suite.job import Job
from suite.measures import learning, truncated_context
from suite.sweep import store
from suite.sweep.record import Record, Row
from suite.training import rig
from suite.training import step as steps

TARGETS, EXAMPLES = 4, 40
JOB = Job(width=16, length=48, batch=16, steps=20, validate_every=20, validation_examples=16, test_examples=16)


@pytest.fixture(scope="module", params=["attention", "lstm"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, devices: list, data_dir: pathlib.Path
) -> rig.Rig:
    job = JOB.replace(mixer=request.param)
    run = store.open_run(tmp_path_factory.mktemp("out"), job)
    built = rig.build(job, meshes.make(devices=devices), run=run, data_dir=str(data_dir))
    for row in learning.measure(built):
        Record(run, learning.STEM).append(row)
    return built


@pytest.fixture(scope="module")
def rows(trained: rig.Rig) -> list[Row]:
    return list(truncated_context.measure(trained, targets=TARGETS, examples=EXAMPLES))


def nats(rows: list[Row], context: int) -> list[float]:
    return [row["nats"] for row in rows if row["context"] == context]


def test_every_group_of_windows_is_read_with_every_context(rows: list[Row]):
    groups = itertools.product(range(6), (16, 32, 44))  # 40 examples are 3 whole batches of 2 groups
    assert [(row["turn"], row["context"]) for row in rows] == list(groups)
    assert {row["windows"] for row in rows} == {8}
    assert not rows[0].keys() & JOB.__dataclass_fields__.keys()


def test_contexts_are_powers_of_two_and_all_that_there_is():
    assert truncated_context.contexts_of(4096, 8) == [16, 32, 64, 128, 256, 512, 1024, 2048, 4088]
    assert truncated_context.contexts_of(24, 8) == [16]
    assert truncated_context.contexts_of(12, 8) == [4]
    with pytest.raises(ValueError, match="length 8 leaves no context before 8 targets"):
        truncated_context.contexts_of(8, 8)


def test_the_whole_context_gives_the_answers_of_the_whole_window(trained: rig.Rig, rows: list[Row]):
    answers = trained.answers(trained.trained, "test", EXAMPLES)
    nats_NT = np.concatenate([nats_BT for _, nats_BT, _, _ in answers])[:, -TARGETS:]
    wanted = nats_NT.reshape(6, 8, TARGETS).mean(axis=(1, 2))
    np.testing.assert_allclose(nats(rows, 44), wanted, rtol=1e-6)  # the same float32 numbers, averaged in float64


def test_a_cut_context_is_the_model_on_the_last_tokens_alone(trained: rig.Rig, rows: list[Row]):
    tokens_BT, targets_BT, _ = trained.task.batch("test", np.arange(48))
    logits_BTV = eqx.filter_jit(eqx.combine(trained.trained, trained.static))(jnp.asarray(tokens_BT[:, -20:]))
    nats_BT = steps.cross_entropy(logits_BTV, jnp.asarray(targets_BT[:, -20:]))[:, -TARGETS:]
    wanted = np.asarray(nats_BT).reshape(6, 8, TARGETS).mean(axis=(1, 2))
    np.testing.assert_allclose(nats(rows, 16), wanted, rtol=1e-5)  # float32 sums in another order
    assert np.all(np.asarray(nats(rows, 16)) != np.asarray(nats(rows, 44)))
