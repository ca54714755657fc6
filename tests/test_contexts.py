"""Contexts on planted arms: a leaky integrator, a window of 32 tokens; and the section of the report."""

import pathlib
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from test_report import CPU, put, put_answers

from suite import mesh as meshes
from suite import report
from suite.job import Job
from suite.learning_rates import SEEDS
from suite.measures import length_accuracy
from suite.model.backbone import Model
from suite.report import contexts, page, records
from suite.sweep import store
from suite.sweep.reading import Reading
from suite.sweep.record import Row
from suite.training import checkpoint, rig

VOCAB, VALUES = 16, slice(4, 8)
JOB = Job(task=f"needle:vocab={VOCAB}", width=VOCAB, depth=1, length=16, batch=64, block="plain", hidden=-1)
JOB = JOB.replace(test_examples=1024)
LEAKY = '''
"""A leaky integrator."""

import equinox as eqx
import jax
import jax.numpy as jnp


class Mixer(eqx.Module):
    """h_t = keep h_{t-1} + x_t, of which a matrix reads the output."""

    keep: float = eqx.field(static=True)
    read_DF: jax.Array

    def __init__(self, width: int, *, key, keep: float = 0.9):
        self.keep = keep
        self.read_DF = jnp.eye(width)

    def __call__(self, x_BTD):
        def step(h_BD, x_BD):
            h_BD = self.keep * h_BD + x_BD
            return h_BD, h_BD

        _, h_TBD = jax.lax.scan(step, jnp.zeros_like(x_BTD[:, 0]), jnp.swapaxes(x_BTD, 0, 1))
        return jnp.swapaxes(h_TBD, 0, 1) @ self.read_DF
'''


def measured(out: pathlib.Path, job: Job, weights: dict[str, np.ndarray], devices: list, **knobs: Any) -> list[Row]:
    """The rows of a model whose tokens are unit vectors and whose mixer has these weights."""
    built = rig.build(job, meshes.make(devices=devices[:1]), run=store.open_run(out, job))

    def leaves(model: Model) -> list:
        return [model.embedding_VD, *(getattr(model.pattern[0].mixer, name) for name in weights)]

    arrays = [np.eye(VOCAB, dtype=np.float32), *(weight[None] for weight in weights.values())]
    params = eqx.tree_at(leaves, built.state.params, [jnp.asarray(array, jnp.float32) for array in arrays])
    assert built.run is not None
    checkpoint.save_final(built.run / "final", params)
    return list(length_accuracy.measure(built, **knobs))


@pytest.fixture
def leaky(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, devices: list) -> list[Row]:
    """Read by what it keeps of values, among hay that looks a little like one value or another."""
    (tmp_path / "leaky.py").write_text(LEAKY)
    monkeypatch.chdir(tmp_path)
    read = np.zeros((VOCAB, VOCAB))
    read[VALUES, VALUES] = np.eye(4)
    signs = np.repeat([-1.0, 1.0], 4)[:, None].repeat(4, axis=1)  # as often for a value as against it
    read[8:, VALUES] = 0.02 * np.random.default_rng(0).permuted(signs, axis=0)
    job = JOB.replace(mixer="./leaky.py")
    return measured(tmp_path / "out", job, {"read_DF": read}, devices, longest=16, growth=2, shortest=1, depths=4)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory, devices: list) -> list[Row]:
    """Attention to the values, of the last 32 tokens."""
    query, key, value = np.zeros((3, VOCAB, VOCAB))
    query[:, 0] = key[VALUES, 0] = 2.0
    value[VALUES, VALUES] = np.eye(4)
    weights = {"query_DF": query, "key_DF": key, "value_DF": value, "out_FD": np.eye(VOCAB)}
    job = JOB.replace(mixer="attention:heads=1,window=32,positions=none")
    out = tmp_path_factory.mktemp("windowed")
    return measured(out, job, weights, devices, longest=16, growth=2, shortest=1, depths=4)


def by_length(rows: list[Row], column: str = "accuracy") -> dict[int, float]:
    return {row["eval_length"]: row[column] for row in rows if row["phase"] == "length"}


def test_lengths_go_down_to_the_tasks_shortest_and_up_to_sixteen_times(windowed: list[Row]) -> None:
    assert list(by_length(windowed)) == [4, 8, 16, 32, 64, 128, 256]  # a needle and its question take three tokens


def test_depths_share_out_all_answers(windowed: list[Row]) -> None:
    for length, accuracy in by_length(windowed).items():
        bins = [row for row in windowed if row["phase"] == "depth" and row["eval_length"] == length]
        assert {row["at_depth"] for row in bins} <= {0, 25, 50, 75}
        assert sum(row["targets"] for row in bins) == 1024
        mean = np.average([row["accuracy"] for row in bins], weights=[row["targets"] for row in bins])
        assert mean == pytest.approx(accuracy)
        if length >= 64:  # a needle lies anywhere in the hay
            assert all(abs(row["targets"] / 1024 - 1 / 4) < 0.1 for row in bins)


def test_a_leaky_integrator_loses_the_needle_at_the_beginning_first(leaky: list[Row]) -> None:
    at = {(row["eval_length"], row["at_depth"]): row["accuracy"] for row in leaky if row["phase"] == "depth"}
    lost = min(length for length, depth in at if at[length, depth] < 0.9)
    across = [at[lost, depth] for depth in (0, 25, 50, 75)]
    assert across == sorted(across)
    assert across[0] < 0.9 <= across[-1]
    # Where it is lost, one of four values is right by chance.
    assert max(at[256, depth] for depth in (0, 25, 50)) < 0.35


def test_an_arm_reads_what_its_window_holds_and_no_more(windowed: list[Row]) -> None:
    accuracy = by_length(windowed)
    assert [length for length, right in accuracy.items() if right == 1.0] == [4, 8, 16, 32]
    assert accuracy[64] < 0.7


def test_an_answer_of_several_values_is_an_exact_match_less_often_than_its_values_are_right(
    tmp_path: pathlib.Path, devices: list
) -> None:
    job = JOB.replace(mixer="attention:heads=1", task=f"needle:vocab={VOCAB},values=3")
    rows = measured(tmp_path, job, {"out_FD": np.eye(VOCAB)}, devices, longest=2, growth=2)
    accuracy, exact = by_length(rows), by_length(rows, "exact_match")
    assert accuracy.keys() == exact.keys() == {16, 32}
    assert all(exact[length] + accuracy[length] > 0 and exact[length] < accuracy[length] for length in accuracy)


def test_the_effective_context_of_a_window_of_32_is_32(windowed: list[Row]) -> None:
    assert contexts.effective({0: by_length(windowed)}, 0.9) == [32]
    assert contexts.effective({0: by_length(windowed)}, 0.5) == [64]
    assert contexts.effective({0: {8: 0.3, 16: 0.2}}, 0.9) == [0]


def test_averages_rise_and_fall_as_those_of_ruler() -> None:
    gemini = [96.7, 95.8, 96.0, 95.9, 95.9, 94.4]  # at 4k to 128k: Hsieh et al. 2024, table 3
    rising = range(1, 7)
    averages = [contexts.weighted(gemini, weights) for weights in ([1] * 6, rising, rising[::-1])]
    assert [round(average, 1) for average in averages] == [95.8, 95.5, 96.1]


# The section of the report.

READ = JOB.replace(length=64, block="residual", width=32, hidden=0)
LENGTHS = (16, 32, 64, 128)


def put_read(root: pathlib.Path, job: Job, accuracies: dict[int, float], exact: float = 1.0) -> None:
    """A training that was read at some lengths; `exact` is what exact match is of the accuracy."""
    put_answers(root, job, accuracies[job.length], CPU)
    rows: list[Row] = []
    for length, accuracy in accuracies.items():
        at = {"eval_length": length, "remedy": "", "outcome": "ok"}
        whole = {"accuracy": accuracy, "final_accuracy": accuracy, "exact_match": exact * accuracy}
        rows.append({"phase": "length", "examples": 1024, **whole, **at})
        rows += [
            {"phase": "depth", "at_depth": depth, "targets": 100, "accuracy": accuracy * (50 + depth) / 100, **at}
            for depth in (0, 50)
        ]
        rows.append({"phase": "distance", "low": 8, "high": 15, "targets": 100, "accuracy": accuracy, **at})
    put(root, job, "length_accuracy:longest=2,growth=2,shortest=16,depths=2", rows, CPU)


def put_arms(root: pathlib.Path) -> None:
    """Three seeds of attention that read 64, 64 and 128 tokens, and two of the LSTM that read 16 and none."""
    for seed, furthest in enumerate((64, 64, 128)):
        at = {length: 0.95 if length <= furthest else 0.6 for length in LENGTHS}
        put_read(root, READ.replace(seed=seed), at)
    lstm = READ.replace(mixer="lstm", match_to="attention", learning_rate=3e-3)
    for seed, furthest in enumerate((16, 8)):
        at = {length: 0.92 if length <= furthest else 0.4 for length in LENGTHS}
        put_read(root, lstm.replace(seed=seed), at, exact=0.5)
    diverged = {"phase": "train", "step": 3, "tokens": 9, "seconds": 1.0, "outcome": "diverged"}
    put(root, lstm.replace(seed=2), "learning", [diverged], CPU)


def section(root: pathlib.Path) -> list[page.Block]:
    blocks = report.compose(records.read(root)).blocks
    heads = [index for index, block in enumerate(blocks) if isinstance(block, page.Heading)]
    [first] = [
        at for at in heads if blocks[at] == page.Heading("Context on needle:vocab=16 (not judged)", 2, "contexts 1")
    ]
    return list(blocks[first : next(at for at in heads if at > first)])


def test_the_table_has_rulers_shape(tmp_path: pathlib.Path) -> None:
    put_arms(tmp_path)
    [table] = [block for block in section(tmp_path) if isinstance(block, page.Table)]
    effective = ("effective", "effective at 0.5", "effective at 0.99")
    assert table.columns == (
        *("arm", "seeds", "that learned", "trained", *effective),
        *("16", "32", "64", "128", "average", "inc.", "dec."),
    )
    attention, lstm, exact = table.rows
    assert attention[:7] == ("attention", "3", "3", "64", "64 (64 to 128 or more)", "128 or more", "less than 16")
    assert attention[7:] == ("95 %", "95 %", "95 %", "72 %", "89 %", "86 %", "93 %")
    assert lstm[:6] == (
        "lstm",
        "2, diverged",
        "0",
        "64",
        "less than 16 (less than 16 to 16)",
        "less than 16 (less than 16 to 16)",
    )
    assert (exact[0], exact[7]) == ("lstm, exact match", "33 %")


def test_the_effective_context_is_a_sentence_with_its_seeds(tmp_path: pathlib.Path) -> None:
    put_arms(tmp_path)
    text = next(block.text for block in section(tmp_path) if isinstance(block, page.Prose))
    said = "Trained at 64 tokens, attention reads 64 (64 to 128 or more) in three seeds and the LSTM reads less than 16"
    assert said in text
    assert "in two seeds, of which none learned the task" in text
    assert "holds the median of all seeds with a probability of 50 % of two and 75 % of three" in text


def test_the_heat_map_has_a_panel_for_each_arm(tmp_path: pathlib.Path) -> None:
    put_arms(tmp_path)
    charts = {block.name: block for block in section(tmp_path) if isinstance(block, page.Chart)}
    assert list(charts) == [
        *("contexts_1_length", "contexts_1_depth", "contexts_1_distance_trained", "contexts_1_distance_longest"),
    ]
    squares, names, depths, *labels = [layer["data"]["values"] for layer in charts["contexts_1_depth"].spec["layer"]]
    assert [name["label"] for name in names] == ["attention", "lstm"]
    assert [depth["label"] for depth in depths] == ["0 %", "50 %"] * 2, "its first and its last row, left of each panel"
    assert len(squares) == 2 * len(LENGTHS) * 2
    by_place = {(one["arm"], one["length"], one["depth"]): one["accuracy"] for one in squares}
    assert by_place["attention", 32, "0 %"] == pytest.approx(0.95 / 2)
    assert by_place["lstm", 16, "50 %"] == pytest.approx((0.92 + 0.4) / 2)
    first, last = (next(one for one in squares if one["depth"] == depth) for depth in ("0 %", "50 %"))
    assert first["y"] < last["y"], "the beginning of the example stands on top"
    assert {one["label"] for one in labels[1]} == {"64"}, "the trained length stands in bold"
    assert "lstm 20 %" in charts["contexts_1_depth"].alternative
    assert report.write(tmp_path).exists()
    assert (tmp_path / "figures" / "contexts_1_depth.png").stat().st_size > 10_000


def test_what_a_claim_reads_at_two_lengths_has_no_section(tmp_path: pathlib.Path) -> None:
    put_read(tmp_path, READ, {64: 0.9, 256: 0.5})
    assert "Context on" not in report.compose(records.read(tmp_path)).markdown()


def test_what_launch_contexts_was_asked_for_stands_first_with_its_command(tmp_path: pathlib.Path) -> None:
    put_arms(tmp_path)
    asked = Reading(("lstm", "attention"), READ, seeds=3, measures=("length_accuracy",), rates="tuned")
    name, content = asked.describe({}, ["--arms=lstm,attention", "--length=64"])
    (tmp_path / name).write_text(content)
    # A training that chose a rate is no seed of the table.
    put_answers(tmp_path, READ.replace(seed=SEEDS[0]), 0.9, CPU)
    drawn = report.compose(records.read(tmp_path))
    assert (
        "on needle:vocab=16, trained at 64 tokens, the LSTM reads less than 16 (less than 16 to 16) in two"
        in drawn.headline
    )
    [table] = [block for block in section(tmp_path) if isinstance(block, page.Table)]
    assert [line[:2] for line in table.rows] == [
        *(("lstm", "2, diverged"), ("lstm, exact match", "2, diverged"), ("attention", "3")),
    ]
    assert "python -m launch.contexts --arms=lstm,attention --length=64" in drawn.markdown()
    assert not [block for block in drawn.blocks if "No claim can be decided here" in getattr(block, "text", "")]


def test_a_damaged_file_of_what_was_asked_is_named_and_left_out(tmp_path: pathlib.Path) -> None:
    put_arms(tmp_path)
    (tmp_path / "contexts.json").write_text('{"arms": [1], "command": []}')
    comparison = records.read(tmp_path)
    assert [problem.where for problem in comparison.problems] == ["contexts.json"]
    assert section(tmp_path)
