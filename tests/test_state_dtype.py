"""The dtype in which decoding keeps its state: what it takes, what it rounds, and what it leaves alone."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suite import inference, parts
from suite import mesh as meshes
from suite.job import Job
from suite.measures import learning, length_accuracy, token_latency
from suite.model import backbone, matching
from suite.sweep import store
from suite.sweep.record import Record, Row
from suite.training import rig

VOCAB, BATCH, LENGTH = 17, 2, 24
ARMS = [*parts.names("suite.mixers"), "mingru+attention:kv_heads=2,window=8"]
JOB = Job(task="recall:pairs=2,vocab=16", width=32, depth=2, length=LENGTH, batch=BATCH, short_conv=2)
TOKENS_BT = np.random.default_rng(1).integers(VOCAB, size=(BATCH, LENGTH), dtype=np.int32)
# bfloat16 rounds at 2^-9 of a number; logits are of unit scale, and a rounded state is carried over 24 tokens.
ROUNDED = 0.1


@functools.cache
def build(mixer: str, state_dtype: str = "float32", dtype: str = "float32") -> backbone.Model:
    """An untrained model; of other state dtypes it has the same parameters."""
    job = JOB.replace(mixer=mixer, state_dtype=state_dtype, dtype=dtype)
    return backbone.build(job, VOCAB, key=jax.random.key(0))


@eqx.filter_jit
def read(built: backbone.Model, tokens_BT: jax.Array, chunk: int) -> jax.Array:
    return built.logits(built.in_chunks(built.embed(tokens_BT), chunk))


@eqx.filter_jit
def step(built: backbone.Model, tokens_B: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    return built.step(tokens_B, state)


def decoded(built: backbone.Model) -> tuple[np.ndarray, Any]:
    """The logits after each token, a call a token, and the state after the last."""
    state, logits = jax.jit(lambda: built.start(BATCH, LENGTH, jnp.dtype(built.dtype)))(), []
    for token in range(LENGTH):
        logits_BV, state = step(built, jnp.asarray(TOKENS_BT[:, token]), state)
        logits.append(np.asarray(logits_BV))
    return np.stack(logits, axis=1), state


@pytest.mark.parametrize("mixer", ARMS)
def test_a_state_in_bfloat16_takes_half_the_bytes_and_moves_outputs_by_its_rounding(mixer: str) -> None:
    wide_BTV, wide_state = decoded(build(mixer))
    narrow_BTV, narrow_state = decoded(build(mixer, "bfloat16"))
    for wide, narrow in zip(jax.tree.leaves(wide_state), jax.tree.leaves(narrow_state), strict=True):
        assert wide.shape == narrow.shape
        if jnp.issubdtype(wide.dtype, jnp.floating):
            assert (wide.dtype, narrow.dtype, narrow.nbytes) == (jnp.float32, jnp.bfloat16, wide.nbytes / 2)
        else:  # the position of a cache
            assert wide.dtype == narrow.dtype
            np.testing.assert_array_equal(wide, narrow)
    apart = np.max(np.abs(narrow_BTV - wide_BTV))
    assert 0 < apart < ROUNDED


@pytest.mark.parametrize("mixer", ["attention", "lstm", "mlstm"])
def test_a_program_of_many_tokens_rounds_as_a_call_a_token_does(mixer: str) -> None:
    wide_BTV, _ = decoded(build(mixer))
    narrow_BTV, _ = decoded(build(mixer, "bfloat16"))
    in_one_BTV = np.asarray(read(build(mixer, "bfloat16"), jnp.asarray(TOKENS_BT), 1))
    assert np.max(np.abs(in_one_BTV - narrow_BTV)) < np.max(np.abs(narrow_BTV - wide_BTV)) / 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mixer", ARMS)
def test_a_state_in_float32_is_the_mixers_own(mixer: str, dtype: str) -> None:
    built = inference.unstacked(build(mixer, dtype=dtype))
    for block in built.rest:
        x_BD = jnp.zeros((BATCH, JOB.width), dtype)
        own = jax.eval_shape(lambda block=block: block.mixer.start(BATCH, LENGTH, jnp.dtype(dtype)))
        kept = jax.eval_shape(lambda block=block: block.start(BATCH, LENGTH, jnp.dtype(dtype)))
        _, after = jax.eval_shape(block.step, x_BD, kept)
        assert own == kept[1]
        assert after == kept
    if dtype == "float32":
        kept = jax.eval_shape(lambda: built.start(BATCH, LENGTH, jnp.dtype(dtype)))
        assert "bf16" not in str(jax.make_jaxpr(built.step)(TOKENS_BT[:, 0], kept))


def test_training_knows_nothing_of_the_state(devices: list) -> None:
    mesh = meshes.make(devices=devices[:1])
    wide, narrow = (rig.build(JOB.replace(mixer="lstm", state_dtype=name), mesh) for name in ("float32", "bfloat16"))
    assert wide.programs.lowered_step.as_text() == narrow.programs.lowered_step.as_text()
    assert wide.job.id != narrow.job.id


@pytest.mark.parametrize("mixer", ["attention", "mamba2"])
def test_arms_are_matched_by_the_bytes_that_are_kept(mixer: str) -> None:
    job = JOB.replace(mixer=mixer, match="state_bytes")
    wide, narrow = (matching.quantity(job.replace(state_dtype=name), VOCAB) for name in ("float32", "bfloat16"))
    counter = 4 * JOB.depth if mixer == "attention" else 0
    assert narrow - counter == (wide - counter) / 2


def test_what_is_decoded_with_holds_the_bytes_that_size_computes(devices: list) -> None:
    built = rig.build(JOB.replace(mixer="attention", state_dtype="bfloat16"), meshes.make(devices=devices[:1]))
    rows = list(token_latency.measure(built, shortest=64, longest=64, tokens=2, blocks=1))
    [memory] = [row for row in rows if row["phase"] == "memory"]
    shapes = backbone.shapes(built.programs.job, built.task.vocab)
    assert memory["state_bytes"] == matching.state_bytes(shapes, built.programs.job, memory["capacity"])


# Accuracy by length.

TRAINED = Job(mixer="lstm", task="parity", width=16, depth=1, length=8, batch=16, steps=20, learning_rate=1e-2)
TRAINED = TRAINED.replace(validate_every=20, validation_examples=16, test_examples=48)


def trained(root: Any, job: Job, devices: list) -> rig.Rig:
    run = store.open_run(root, job)
    built = rig.build(job, meshes.make(devices=devices[:2]), run=run)
    for row in learning.measure(built):
        Record(run, learning.STEM).append(row)
    return built


def without(rows: list[Row], *names: str) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def test_lengths_are_read_in_chunks_as_in_parallel_form(tmp_path: Any, devices: list) -> None:
    built = trained(tmp_path, TRAINED, devices)
    whole, by_fives, by_tokens = (list(length_accuracy.measure(built, chunk=chunk)) for chunk in (0, 5, 1))
    assert [{row["chunk"] for row in rows} for rows in (whole, by_fives, by_tokens)] == [{0}, {5}, {1}]
    assert without(whole, "chunk") == without(by_fives, "chunk") == without(by_tokens, "chunk")


def test_a_rounded_state_is_read_with_token_by_token_by_the_same_parameters(tmp_path: Any, devices: list) -> None:
    job = TRAINED.replace(mixer="attention:heads=2")
    wide, narrow = (trained(tmp_path, job.replace(state_dtype=name), devices) for name in ("float32", "bfloat16"))
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.leaves(built.trained) for built in (wide, narrow)))
    assert {row["chunk"] for row in length_accuracy.measure(narrow)} == {1}
    of_wide, of_narrow, in_parallel = (
        np.concatenate([nats_BT for _, nats_BT, _, _ in answers])
        for answers in (
            inference.answers_in_chunks(wide, wide.trained, "test", 48, 1),
            inference.answers_in_chunks(narrow, narrow.trained, "test", 48, 1),
            wide.answers(wide.trained, "test", 48),
        )
    )
    np.testing.assert_allclose(of_wide, in_parallel, atol=1e-5)  # float32, other orders of sums
    assert 1e-4 < np.max(np.abs(of_narrow - of_wide)) < ROUNDED
