"""Decoding: what is timed is the model, its state is what `size` computes, and arms take turns row by row."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suite import inference
from suite import mesh as meshes
from suite.job import Job
from suite.measures import decode
from suite.model import backbone, matching
from suite.sweep.record import Row
from suite.training import rig

# Without residuals: with them an untrained model of tied embeddings repeats its last token, whatever the context.
JOB = Job(task="recall:pairs=2,vocab=16", width=16, depth=2, length=16, batch=8, block="plain", short_conv=2)
MIXERS = ["attention", "lstm", "mingru+attention:kv_heads=2,window=8", "mlstm+rwkv7"]
SIZES: dict[str, Any] = {"shortest": 16, "longest": 64, "chunk": 8, "tokens": 4, "blocks": 2}


def build(mixer: str, devices: list) -> rig.Rig:
    match_to = "" if mixer == "attention" else "attention"
    return rig.build(JOB.replace(mixer=mixer, match_to=match_to), meshes.make(devices=devices))


def of(rows: list[Row], phase: str) -> list[Row]:
    return [row for row in rows if row["phase"] == phase]


@pytest.fixture(scope="module")
def measured(devices: list) -> dict[str, list[Row]]:
    """Rows of each arm, taken in turns as a worker takes them."""
    cells = [decode.measure(build(mixer, devices[:1]), **SIZES) for mixer in MIXERS]
    turns = list(itertools.zip_longest(*cells))
    return {mixer: [turn[index] for turn in turns] for index, mixer in enumerate(MIXERS)}


def test_every_arm_writes_the_same_rows_in_the_same_order(measured: dict[str, list[Row]]):
    wanted = [(phase, at) for at in (16, 64) for phase in ("prefill", "memory", "decode", "decode")]
    for rows in measured.values():
        assert [(row["phase"], row["context"]) for row in rows] == wanted
        assert all(row["outcome"] == "ok" for row in rows)


def test_rows_say_what_was_read_and_decoded_and_take_no_name_of_a_job_field(measured: dict[str, list[Row]]):
    for row in measured["lstm"]:
        assert not row.keys() & Job.__dataclass_fields__.keys()
    assert [(row["read"], row["chunk"]) for row in of(measured["lstm"], "prefill")] == [(16, 8), (64, 8)]
    for row in of(measured["lstm"], "decode"):
        assert row["decoded"] % SIZES["tokens"] == 0
        # A block is not shorter than it should be, on a machine that is not five times as fast as a moment before.
        assert row["decode_seconds"] > inference.BLOCK_SECONDS / 5


@pytest.mark.parametrize("mixer", MIXERS)
def test_live_bytes_are_those_that_size_computes(mixer: str, measured: dict[str, list[Row]], devices: list):
    built = build(mixer, devices[:1])
    shapes = backbone.shapes(built.programs.job, built.task.vocab)
    for row in of(measured[mixer], "memory"):
        assert row["capacity"] == row["context"] + SIZES["tokens"]
        assert row["state_bytes"] == matching.state_bytes(shapes, built.programs.job, row["capacity"])


def test_sequences_share_only_the_counter_of_a_cache(devices: list):
    knobs = {**SIZES, "longest": 16, "batch": 3, "blocks": 1}
    live = {}
    for mixer in ("attention", "lstm"):
        built = build(mixer, devices[:1])
        [row] = of(list(decode.measure(built, **knobs)), "memory")
        one = matching.state_bytes(
            backbone.shapes(built.programs.job, built.task.vocab), built.programs.job, row["capacity"]
        )
        live[mixer] = row["sequences"] * one - row["state_bytes"]
    assert live == {"attention": 2 * 4 * JOB.depth, "lstm": 0}


def test_a_part_of_a_context_may_be_read_and_the_cache_is_for_all(devices: list):
    rows = list(decode.measure(build("attention", devices[:1]), **SIZES, read=24))
    assert [(row["context"], row["read"]) for row in of(rows, "prefill")] == [(16, 16), (64, 24)]
    assert [row["capacity"] for row in of(rows, "memory")] == [20, 68]


def test_it_runs_on_one_device_of_a_mesh(devices: list):
    rows = list(decode.measure(build("attention", devices), **{**SIZES, "longest": 16}))
    assert [row["phase"] for row in rows] == ["prefill", "memory", "decode", "decode"]
    built = inference.on_one_device(build("attention", devices))
    assert {device for leaf in jax.tree.leaves(eqx.filter(built, eqx.is_array)) for device in leaf.devices()} == {
        devices[0]
    }


# The LSTM by a start that repeats itself less.
@pytest.mark.parametrize("mixer", ["lstm:forget=one" if mixer == "lstm" else mixer for mixer in MIXERS])
def test_decoded_tokens_are_the_likeliest_of_the_parallel_form(mixer: str, devices: list):
    built = build(mixer, devices[:1])
    whole = eqx.combine(built.state.params, built.static)
    flat = inference.on_one_device(built)
    params, static = eqx.partition(flat, eqx.is_array)
    prompt_BT = np.random.default_rng(0).integers(16, size=(2, 24), dtype=np.int32)
    state = jax.jit(lambda: flat.start(2, 32, jnp.dtype("float32")))()
    read, further = inference.make_read(static), inference.make_decode(static, 8, 32)
    for first in range(0, 24, 8):
        token_B, state = read(params, jnp.asarray(prompt_BT[:, first : first + 8]), state)
    # A call consumes the state and gives one back.
    token_B, decoded_BT, state = further(params, first_B := token_B, state, jnp.int32(1))
    np.testing.assert_array_equal(token_B, decoded_BT[:, -1])
    read_BT = jnp.concatenate([jnp.asarray(prompt_BT), first_B[:, None], decoded_BT], axis=1)
    logits_BTV = np.asarray(eqx.filter_jit(whole)(read_BT[:, :-1]))[:, 23:]
    chosen_BT = np.take_along_axis(logits_BTV, np.asarray(read_BT)[:, 24:, None], axis=2)[..., 0]
    # Logits are of unit scale; a few blocks in float32 stay within this of one another, and so may two likeliest.
    np.testing.assert_allclose(chosen_BT, logits_BTV.max(axis=2), rtol=0, atol=1e-4)
    # Every burst starts from the same context, within a call as from call to call.
    second_B, _, state = further(params, token_B, state, jnp.int32(1))
    _, third_BT, state = further(params, second_B, state, jnp.int32(1))
    _, both_BT, _ = further(params, token_B, state, jnp.int32(2))
    np.testing.assert_array_equal(both_BT, third_BT)
    assert len(np.unique(read_BT[:, 24:])) > 2


def test_only_what_is_made_for_a_length_grows_with_it(devices: list):
    flat = inference.on_one_device(build("mingru+attention:kv_heads=2,window=8", devices[:1]))
    sizes = {length: jax.tree.leaves(inference.grows(flat, length)) for length in (8, 9)}
    assert (sum(sizes[8]), sum(sizes[9])) == (2, 0)  # keys and values, until the window is full
