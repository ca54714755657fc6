"""launch.contexts: rates are chosen first, then arms are trained alike and read at other lengths."""

import dataclasses
import pathlib

import pytest
from programs import command, run
from test_rates import validated
from test_report import CPU, put

from launch import studies
from suite import learning_rates, report
from suite.job import Cell, Job
from suite.learning_rates import GRID, SEEDS
from suite.report import records
from suite.sweep import reading, store
from suite.sweep.comparison import Comparison
from suite.sweep.options import Options
from suite.sweep.reading import SIZES, Reading
from suite.sweep.record import Row

JOB = Job(task="needle:vocab=16", width=32, depth=1, length=16, batch=8, steps=10, validate_every=10)
MEASURE = "length_accuracy:longest=16,growth=2,shortest=1,depths=10"
READING = Reading(("attention", "lstm"), JOB, seeds=3, measures=(MEASURE,), rates="tuned")


def tuned(cell: Cell, best: float) -> Row:
    """The last validation of a training in which one rate does best."""
    is_best = cell.job.learning_rate == best
    return validated(cell.job, final_accuracy=1.0 if is_best else 0.5, loss=0.1 if is_best else 0.7)


def test_measures_are_spelt_as_people_write_them() -> None:
    assert reading.measures("needle", longest=16, growth=2, depths=10) == (MEASURE,)
    assert reading.measures("recall:pairs=1", longest=4, growth=4, depths=0) == ("length_accuracy:shortest=1",)


def test_text_which_has_no_questions_is_read_by_kind_of_byte_and_by_position() -> None:
    assert reading.measures("text:corpus=packages", 4, 2, 10) == ("strata", "loss_by_position:longest=4")


def test_learning_rates_come_first_and_each_arm_is_trained_at_its_own() -> None:
    first = READING.cells([])
    assert {(cell.measure, cell.job.seed) for cell in first} == {("learning", seed) for seed in SEEDS}
    assert {(cell.job.arm, cell.job.learning_rate) for cell in first} == {
        (arm, rate) for arm in READING.arms for rate in GRID
    }
    rows = [tuned(cell, {"attention": 1e-3, "lstm": 3e-3}[cell.job.arm]) for cell in first]
    trained = READING.cells(rows)
    assert {(cell.job.arm, cell.job.learning_rate) for cell in trained} == {("attention", 1e-3), ("lstm", 3e-3)}
    assert {cell.job.seed for cell in trained} == {0, 1, 2}
    assert [cell.measure for cell in trained[:2]] == ["learning", MEASURE]
    assert len(trained) == 2 * 3 * 2


def test_a_rate_that_was_given_is_every_arms_and_the_others_are_matched_to_the_first() -> None:
    cells = dataclasses.replace(READING, rates="").first_cells()
    assert {cell.job.learning_rate for cell in cells} == {JOB.learning_rate}
    assert {(cell.job.arm, cell.job.match_to.partition(":")[0]) for cell in cells} == {
        ("attention", ""),
        ("lstm", "attention"),
    }


def test_rates_of_the_table_are_taken_at_once_where_they_are_asked_for() -> None:
    cells = dataclasses.replace(READING, rates="table").cells([])
    assert {cell.job.seed for cell in cells} == {0, 1, 2}
    for job in {cell.job for cell in cells}:
        assert job.learning_rate == learning_rates.look_up(job)


@pytest.mark.parametrize("task", ["needle", "text"])
@pytest.mark.parametrize("scale", SIZES)
def test_a_scale_multiplies_its_batch_for_all_devices(scale: str, task: str) -> None:
    size = SIZES[scale]
    asked = Reading(READING.arms, size.job(task), size.seeds, reading.measures(task, 4, 2, 10), rates="table")
    batches = {cell.job.batch for cell in asked.on(8).cells([])}
    assert batches == {8 * size.job(task).batch}


def test_the_rates_that_were_chosen_are_written_as_lines_of_the_table(tmp_path: pathlib.Path) -> None:
    for cell in READING.cells([]):
        is_best = cell.job.learning_rate == 3e-3
        scores = {"final_accuracy": 1.0 if is_best else 0.5, "loss": 0.1 if is_best else 0.7}
        at_end = {"phase": "validation", "step": cell.job.steps, "tokens": 10, "seconds": 1.0, "accuracy": 1.0}
        put(tmp_path, cell.job, "learning", [at_end | scores | {"outcome": "ok"}], CPU)
    study = studies.Study("contexts", own=(), without=())
    comparison = Comparison(READING, Options(str(tmp_path)), 0, True, {}, ["--seeds=3"], study.report, lambda: 0.0)
    comparison.place = CPU
    study.report(comparison, False)
    assert not (tmp_path / "rates.csv").exists(), "before the end some are not chosen yet"
    study.report(comparison, True)
    chosen = learning_rates.read((tmp_path / "rates.csv").read_text())
    assert {(line.arm, line.learning_rate) for line in chosen} == {("attention", 3e-3), ("lstm", 3e-3)}
    assert "python -m launch.contexts --seeds=3" in (tmp_path / "rates.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_command_trains_reads_and_draws(tmp_path: pathlib.Path) -> None:
    sizes = ["--task=needle:vocab=16", "--length=16", "--width=16", "--depth=1", "--batch=8", "--steps=8"]
    few = [
        "--validate_every=8",
        "--validation_examples=8",
        "--test_examples=16",
        "--seeds=2",
        "--growth=4",
        "--longest=4",
    ]
    argv = command("contexts", "--arms=attention,lstm", *sizes, *few, "--learning_rate=3e-3", f"--out={tmp_path}")
    ended = run(argv, seconds=580)
    assert ended.returncode == 0, ended.stderr
    lengths = {(row["arm"], row["seed"], row["eval_length"]) for row in store.load(tmp_path) if "eval_length" in row}
    assert lengths == {
        (arm, seed, length) for arm in ("attention", "lstm") for seed in (0, 1) for length in (4, 16, 64)
    }
    text = report.compose(records.read(tmp_path)).markdown()
    assert "Context on needle:vocab=16" in text
    assert "python -m launch.contexts --arms=attention,lstm" in text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_command_reads_text_by_kind_of_byte_and_by_position(tmp_path: pathlib.Path) -> None:
    sizes = ["--task=text", "--length=32", "--width=16", "--depth=1", "--batch=8", "--steps=8", "--validate_every=8"]
    few = ["--validation_examples=8", "--test_examples=64", "--seeds=2", "--longest=2", "--learning_rate=3e-3"]
    ended = run(command("contexts", "--arms=attention,lstm", *sizes, *few, f"--out={tmp_path}"), seconds=580)
    assert ended.returncode == 0, ended.stderr
    text = report.compose(records.read(tmp_path)).markdown()
    assert "Where the gain is" in text
    assert "the mean loss changes from the bin that ends at 32 tokens to the one that ends at 64 by" in text
