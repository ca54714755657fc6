"""Reading a context and going on from it: one meaning in every form, memory that counts, and what does not fit."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suite import inference, parts
from suite import mesh as meshes
from suite.job import Job
from suite.measures import first_token, largest, samples, throughput, token_latency
from suite.model import backbone, matching
from suite.model.backbone import Model
from suite.sweep.record import Row
from suite.sweep.watchdog import Watchdog
from suite.training import memory, programs, rig

# Without residuals: with them an untrained model of tied embeddings repeats its last token, whatever the context.
JOB = Job(task="recall:pairs=2,vocab=16", width=16, depth=1, length=16, batch=2, block="plain", short_conv=2)
ARMS = parts.names("suite.mixers")
PROMPT, CHUNK, DECODED = 10, 4, 512  # chunks of 4, 4 and 2
# Logits are of unit scale: forms of one model in float32 stay within this of one another, and so may two likeliest.
ROUNDING = 1e-4


def build(mixer: str, devices: list, **changes: Any) -> rig.Rig:
    return rig.build(JOB.replace(mixer=mixer, **changes), meshes.make(devices=devices[:1]))


def flat(mixer: str, devices: list, **changes: Any) -> Model:
    return inference.on_one_device(build(mixer, devices, **changes))


def prompt() -> np.ndarray:
    return np.random.default_rng(0).integers(16, size=(2, PROMPT), dtype=np.int32)


def of(rows: list[Row], phase: str) -> list[Row]:
    return [row for row in rows if row["phase"] == phase]


@pytest.mark.parametrize("mixer", ["lstm:forget=one" if arm == "lstm" else arm for arm in ARMS])
def test_512_tokens_decoded_after_chunks_that_do_not_divide_are_the_parallel_forms(mixer: str, devices: list):
    built = flat(mixer, devices)
    params, static = eqx.partition(built, eqx.is_array)
    reader = inference.Reader(built, 2, PROMPT, PROMPT + DECODED, CHUNK)
    pieces = reader.cut(prompt())
    assert [piece_BT.shape[1] for piece_BT in pieces] == [4, 4, 2]
    first_B, state = reader(pieces)
    first_B = np.asarray(first_B)
    decode = inference.make_decode(static, DECODED, PROMPT + DECODED)
    _, decoded_BT, _ = decode(params, jnp.asarray(first_B), state, jnp.int32(1))
    written_BT = np.concatenate([prompt(), first_B[:, None], np.asarray(decoded_BT)], axis=1)
    logits_BTV = np.asarray(eqx.filter_jit(built)(jnp.asarray(written_BT[:, :-1])))[:, PROMPT - 1 :]
    chosen_BT = np.take_along_axis(logits_BTV, written_BT[:, PROMPT:, None], axis=2)[..., 0]
    # Every token is the likeliest; where another one is, the two are as likely but for rounding.
    np.testing.assert_allclose(chosen_BT, logits_BTV.max(axis=2), rtol=0, atol=ROUNDING)
    second_BT = np.sort(logits_BTV, axis=2)[..., -2]
    clear_BT = logits_BTV.max(axis=2) - second_BT > ROUNDING
    np.testing.assert_array_equal(logits_BTV.argmax(axis=2)[clear_BT], written_BT[:, PROMPT:][clear_BT])
    assert clear_BT.mean() > 0.9
    assert len(np.unique(written_BT[:, PROMPT:])) > 2


WINDOWS = ["attention:window=4", "attention:window=32", "attention:kv_heads=1", "mingru+attention:window=8"]


@pytest.mark.parametrize("mixer", ["attention", "lstm", "rwkv7", *WINDOWS])
def test_all_of_a_context_at_once_leaves_the_state_that_chunks_leave(mixer: str, devices: list):
    built = flat(mixer, devices, depth=2)
    readers = [inference.Reader(built, 2, PROMPT, 16, chunk) for chunk in (CHUNK, PROMPT)]
    assert [reader.is_whole for reader in readers] == [False, True]
    (token_B, state), (whole_B, whole_state) = (reader(reader.cut(prompt())) for reader in readers)
    np.testing.assert_array_equal(token_B, whole_B)
    assert jax.tree.structure(state) == jax.tree.structure(whole_state)
    for leaf, whole_leaf in zip(jax.tree.leaves(state), jax.tree.leaves(whole_state), strict=True):
        assert leaf.dtype == whole_leaf.dtype
        np.testing.assert_allclose(leaf, whole_leaf, rtol=0, atol=ROUNDING)


SIZES = {"shortest": 16, "longest": 32, "piece": 16, "blocks": 2}


@pytest.fixture(scope="module")
def tried(devices: list) -> list[Row]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "CHUNKS", (4, 8))
        return list(first_token.measure(build("attention", devices), **SIZES))


def test_the_chunk_is_the_fastest_that_was_tried_and_stands_in_the_row(tried: list[Row]):
    trials = of(tried, "trial")
    assert [(row["chunk"], row["form"]) for row in trials] == [(4, "chunks"), (8, "chunks"), (16, "parallel")]
    fastest = min(trials, key=lambda row: row["trial_seconds"])
    chosen = [32 if fastest["form"] == "parallel" and at == 32 else fastest["chunk"] for at in (16, 16, 32, 32)]
    assert [row["chunk"] for row in of(tried, "first_token")] == chosen
    assert {row["form"] for row in of(tried, "first_token")} == {fastest["form"]}


def test_the_state_after_a_context_has_the_bytes_that_are_computed(tried: list[Row], devices: list):
    built = build("attention", devices)
    for row in of(tried, "memory"):
        computed = matching.state_bytes(backbone.shapes(built.programs.job, 16), built.programs.job, row["context"])
        assert row["state_bytes"] == computed
        assert row["held_bytes"] > row["state_bytes"]
        assert row["held_from"] == "the compiled programs"  # a CPU counts no memory itself


def test_with_constant_tokens_sequences_shrink_as_contexts_grow(devices: list):
    rows = list(first_token.measure(build("lstm", devices), **SIZES, tokens=64, chunk=16))
    assert [(row["context"], row["sequences"]) for row in of(rows, "memory")] == [(16, 4), (32, 2)]
    assert not of(rows, "trial")


@pytest.mark.parametrize(
    ("module", "knobs", "grown", "fitting", "more"),
    [
        (first_token, {"shortest": 64, "chunk": 256}, "longest", 64, 256),
        (token_latency, {"shortest": 64, "tokens": 2}, "longest", 64, 256),
        (throughput, {"shortest": 64, "longest": 64, "tokens": 2}, "most", 4, 16),
    ],
)
def test_what_does_not_fit_the_memory_is_a_row_and_the_end(
    module: Any, knobs: dict[str, int], grown: str, fitting: int, more: int, devices: list
):
    built = build("attention", devices)
    limit = of(list(module.measure(built, **knobs, **{grown: fitting}, blocks=1)), "memory")[-1]["held_bytes"]
    *done, refused = module.measure(built, **knobs, **{grown: more}, blocks=1, memory_bytes=limit)
    assert {row["outcome"] for row in done} == {"ok"}
    assert refused["outcome"] == "oom"
    assert refused["estimate_bytes"] > limit
    assert f"{limit:,} bytes" in refused["error"]
    assert refused["sequences" if module is throughput else "context"] == 2 * fitting


def test_tokens_of_all_sequences_are_counted(devices: list):
    rows = list(throughput.measure(build("lstm", devices), shortest=16, longest=16, most=4, tokens=2, blocks=1))
    assert [row["sequences"] for row in of(rows, "memory")] == [1, 2, 4]
    for row in of(rows, "throughput"):
        assert row["decoded"] % (2 * row["sequences"]) == 0
    one, two, four = (row["state_bytes"] for row in of(rows, "memory"))
    assert (two, four) == (2 * one, 4 * one)


def test_a_tokens_latency_has_its_median_below_its_95th_percentile(devices: list):
    [row] = of(list(token_latency.measure(build("gru", devices), shortest=16, longest=16, blocks=1)), "latency")
    assert 0 < row["median_seconds"] <= row["p95_seconds"] <= row["slowest_seconds"]
    assert row["decoded"] == 40


def test_the_longest_context_decoded_fits_and_at_the_next_grid_step_it_does_not(devices: list):
    built = flat("attention", devices)

    def held(tokens: int) -> int:
        return memory.held_bytes(inference.compile_step(built, 1, tokens))

    limit = held(700)
    row = largest.Search(lambda tokens: largest.decoding(built, 1, tokens), 64, 8, 2**20).run(limit, Watchdog())
    assert (row["outcome"], row["held_bytes"]) == ("ok", held(row["largest"]))
    assert held(row["largest"]) <= limit < held(row["largest"] + row["grid"])
    assert row["grid"] <= row["largest"] / 16
    assert row["beyond"] <= row["largest"] + row["grid"]
    assert row["beyond_bytes"] == held(row["beyond"])


def test_a_state_of_one_size_has_no_longest_context_and_its_row_says_how_far_was_looked(devices: list):
    built = flat("lstm", devices)
    search = largest.Search(lambda tokens: largest.decoding(built, 1, tokens), 2**12, 128, 2**14)
    row = search.run(2**20, Watchdog())
    assert (row["largest"], row["looked_to"]) == (2**14, 2**14)
    assert "beyond" not in row


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_largest_sizes_trained_fit_and_at_the_next_grid_step_they_do_not(devices: list):
    built = build("attention", devices)

    def held(length: int, batch: int) -> int:
        job = built.programs.job.replace(length=length, batch=batch)
        return memory.held_bytes(programs.Programs(job, built.mesh, 16).step)

    limit = held(300, JOB.batch)
    knobs = {"context": 16, "most_tokens": 2**10, "most_sequences": 2**6, "memory_bytes": limit}
    of_phase = {row["phase"]: row for row in largest.measure(built, **knobs)}
    row = of_phase["train_context"]
    assert row["held_bytes"] == held(row["largest"], JOB.batch) <= limit < held(row["largest"] + row["grid"], JOB.batch)
    row = of_phase["train_sequences"]
    assert row["held_bytes"] == held(16, row["largest"]) <= limit < held(16, row["largest"] + row["grid"])
    assert all(row["outcome"] == "ok" and row["ran_seconds"] > 0 for row in of_phase.values())


def test_where_nothing_fits_each_search_is_a_row_out_of_memory(devices: list):
    rows = list(largest.measure(build("lstm", devices), context=16, most_tokens=128, memory_bytes=100))
    assert [(row["phase"], row["outcome"]) for row in rows] == [(phase, "oom") for phase in largest.QUANTITIES]
    assert all(row["estimate_bytes"] > 100 for row in rows)


def test_a_greedy_sample_is_what_decoding_writes_and_a_drawn_one_follows_its_seed(devices: list):
    built = flat("attention", devices)
    params, static = eqx.partition(built, eqx.is_array)
    reader = inference.Reader(built, 2, PROMPT, PROMPT + 8, PROMPT)
    first_B, state = reader(reader.cut(prompt()))
    first_B = np.asarray(first_B)
    _, decoded_BT, _ = inference.make_decode(static, 7, PROMPT + 8)(params, jnp.asarray(first_B), state, jnp.int32(1))
    wanted_BT = np.concatenate([first_B[:, None], decoded_BT], axis=1)
    np.testing.assert_array_equal(samples.write(built, prompt(), 8, 0.0, 0), wanted_BT)
    drawn = [np.asarray(samples.write(built, prompt(), 8, 2.0, seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.any(drawn[0] != drawn[2])


def test_bytes_are_spelt_as_letters_and_other_tokens_as_numbers():
    tokens_T = np.frombuffer(b"a\x1b[0m\n\xff", np.uint8).astype(np.int32)
    assert samples.spelt(tokens_T, True) == "a\\x1b[0m\n\\xff"
    assert samples.spelt(np.array([3, 14]), False) == "3 14"
