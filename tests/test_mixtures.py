"""Trainings on several lengths: an example is a function of its id, padding trains nothing and is no token."""

import pathlib
import signal
from typing import Any

import numpy as np
import pytest
from programs import assert_same, command, rows_of, run, run_here, training

from suite import learning_rates, mixtures
from suite import mesh as meshes
from suite.job import Job
from suite.judging import alike, factors
from suite.report import utilisation
from suite.report.trainings import DISTINGUISHING
from suite.sweep import provenance, store
from suite.tasks import SPLITS, CounterGenerator
from suite.training import rig
from suite.training.examples import APART, BLOCK, Examples

JOB = Job(mixer="lstm", task="recall:pairs=2,vocab=16", width=16, length=32, batch=8, steps=60, learning_rate=3e-3)
JOB = JOB.replace(validate_every=20, validation_examples=16, test_examples=16, record_every=20)
MIXED = JOB.replace(lengths="8:1,16:1,32:2")
GROWS = JOB.replace(lengths="grow:8-32")
IDS = np.array([3, 0, 11, 7, 2_000_000_000, 12])
MANY = np.arange(40_000)


def examples(job: Job, data_dir: Any = "") -> Examples:
    return Examples(provenance.make_task(job, str(data_dir)), job)


# What the flag says.


@pytest.mark.parametrize(
    ("given", "lengths", "weights", "spelt"),
    [
        ("64:1,256:1,1024:2", (64, 256, 1024), (1, 1, 2), "64:1,256:1,1024:2"),
        ("1024:4,64:2,256:2", (64, 256, 1024), (1, 1, 2), "64:1,256:1,1024:2"),
        ("uniform:3-6", (3, 4, 5, 6), (1, 1, 1, 1), "uniform:3-6"),
        ("3:2,4:2,5:2", (3, 4, 5), (1, 1, 1), "uniform:3-5"),
        ("grow:64-1024", (64, 128, 256, 512, 1024), (1, 1, 1, 1, 1), "grow:64-1024"),
        ("grow:64-200", (64, 128, 200), (1, 1, 1), "grow:64-200"),
        ("64:3", (64,), (1,), ""),
        ("uniform:64-64", (64,), (1,), ""),
        ("grow:64-64", (64,), (1,), ""),
    ],
)
def test_one_mixture_has_one_spelling(given: str, lengths: tuple, weights: tuple, spelt: str) -> None:
    mixture = mixtures.parse(given)
    assert (mixture.lengths, mixture.weights, str(mixture)) == (lengths, weights, spelt)
    assert mixtures.of(spelt, lengths[-1]) == mixture
    job = JOB.replace(task="copy", length=lengths[-1], lengths=given)
    assert Job.from_json(job.to_json()) == job
    assert job.lengths == spelt


def test_a_mixture_of_one_length_is_the_plain_training() -> None:
    assert JOB.replace(lengths="32:7").id == JOB.id
    assert "lengths" not in " ".join(JOB.flags())


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ("64", "as in 64:1,256:1,1024:2"),
        ("64:0,32:1", "at least 1"),
        ("0:1,32:1", "at least 1"),
        ("8:1,8:2,32:1", "each length once"),
        ("8:1,,32:1", "as in"),
        ("8:0.5,32:1", "as in"),
        ("8:99999,32:1", "weights of 100,000 in all"),
        ("uniform:32-8", "the shorter one first"),
        ("uniform:0-32", "of at least 1"),
        ("uniform:1-999999999", "at most 65,536"),
        ("grow:32", "as in"),
        ("grow:0-32", "of at least 1"),
        ("8:1,16:1", "length 32 is not the longest of lengths 8:1,16:1; give --length=16"),
    ],
)
def test_lengths_that_say_nothing_clear_are_refused(lengths: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JOB.replace(lengths=lengths)


def test_a_curriculum_needs_to_know_its_steps() -> None:
    assert MIXED.replace(budget_seconds=5.0).lengths
    with pytest.raises(ValueError, match="a budget of seconds leaves open"):
        GROWS.replace(budget_seconds=5.0)


# What is trained on.


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("job", [MIXED, GROWS, JOB.replace(lengths="uniform:9-32")], ids=lambda job: job.lengths)
def test_an_example_depends_on_its_id_only(job: Job, split: str) -> None:
    whole = examples(job).batch(split, IDS)
    for order in ([4, 1, 5, 0, 3, 2], [2], [0, 1]):
        for part, of_whole in zip(examples(job).batch(split, IDS[order]), whole, strict=True):
            np.testing.assert_array_equal(part, of_whole[order])
            assert part.dtype == of_whole.dtype


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("task", ["recall:pairs=2,vocab=16", "copy", "text"])
def test_an_example_is_that_of_its_length_and_padding_weighs_nothing(
    task: str, split: str, data_dir: pathlib.Path
) -> None:
    job = MIXED.replace(task=task)
    mixed, ids = examples(job, data_dir), np.arange(64)
    batch, length_B = mixed.batch(split, ids), mixed.lengths(split, ids)
    assert set(length_B) == {8, 16, 32}
    for row, length in enumerate(length_B):
        alone = examples(JOB.replace(task=task, length=int(length)), data_dir).batch(split, ids[row : row + 1])
        for part, of_alone in zip(batch, alone, strict=True):
            np.testing.assert_array_equal(part[row, :length], of_alone[0])
            assert not part[row, length:].any()
        assert batch.weights_BT[row].any()


def test_the_test_has_the_longest_alone() -> None:
    for part, plain in zip(examples(MIXED).batch("test", IDS), examples(JOB).batch("test", IDS), strict=True):
        np.testing.assert_array_equal(part, plain)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_lengths_have_the_shares_of_their_weights(split: str) -> None:
    length_B = examples(MIXED).lengths(split, MANY)
    for length, share in {8: 0.25, 16: 0.25, 32: 0.5}.items():
        # A share of 40,000 examples strays by 0.0025 at most: a standard deviation; five of them.
        assert abs(np.mean(length_B == length) - share) < 5 * 0.0025
    uniform = examples(JOB.replace(lengths="uniform:9-32")).lengths(split, MANY)
    assert (np.abs(np.bincount(uniform, minlength=33)[9:] / len(MANY) - 1 / 24) < 5 * 0.001).all()


def test_seeds_splits_and_what_an_example_holds_are_drawn_apart() -> None:
    train = examples(MIXED).lengths("train", MANY)
    for other in (
        examples(MIXED).lengths("validation", MANY),
        examples(MIXED.replace(seed=1)).lengths("train", MANY),
    ):
        same = np.mean(train == other)  # of draws apart: 1/16 + 1/16 + 1/4
        assert abs(same - 0.375) < 5 * 0.0025
    assert APART > mixtures.MOST
    # What a task draws first for an example says nothing of its length.
    first_B = CounterGenerator(MIXED.seed, "train", MANY).integers(2, 1)[:, 0] == 1
    assert abs(np.mean(train[first_B]) - np.mean(train[~first_B])) < 5 * 0.1


def test_a_curriculum_goes_from_length_to_length_as_the_ids_rise() -> None:
    length_B = examples(GROWS).lengths("train", np.arange(GROWS.steps * GROWS.batch + 8))
    assert (np.diff(length_B) >= 0).all()
    assert [np.sum(length_B[:480] == length) for length in (8, 16, 32)] == [160, 160, 160]
    assert set(length_B[480:]) == {32}
    # Twice as long a training is at the same length when it is half over.
    longer = examples(GROWS.replace(steps=120)).lengths("train", np.arange(960))
    np.testing.assert_array_equal(longer[::2], length_B[:480])
    validation = examples(GROWS).lengths("validation", MANY)
    assert all(abs(np.mean(validation == length) - 1 / 3) < 5 * 0.0025 for length in (8, 16, 32))


@pytest.mark.parametrize("job", [JOB, MIXED, GROWS.replace(steps=2 * BLOCK // 8)], ids=lambda job: job.lengths)
def test_tokens_are_those_of_the_examples_without_padding(job: Job) -> None:
    for count in (0, 1, 100, BLOCK - 1, BLOCK, 2 * BLOCK):
        assert examples(job).tokens(count) == examples(job).lengths("train", np.arange(count)).sum()
    assert examples(job).tokens(2 * BLOCK) == pytest.approx(2 * BLOCK * job.tokens_a_step / job.batch, rel=0.01)


def test_a_length_that_the_task_cannot_make_is_refused_with_the_shortest_that_it_can(tmp_path: pathlib.Path) -> None:
    flags = ["--task=recall:pairs=2,vocab=16", "--lengths=7:1,32:1", "--width=16", "--measures=learning"]
    ended = run(command("job", *flags, f"--out={tmp_path}"))
    assert ended.returncode == 70
    assert "has no examples of 7 tokens" in ended.stderr
    assert "the shortest have 8" in ended.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("task", "shortest"), [("needle", 3), ("copy", 2), ("selective_copy", 16), ("recall", 32)])
def test_the_shortest_of_a_task_is_found(task: str, shortest: int) -> None:
    job = JOB.replace(task=task, length=64, lengths="1:1,64:1")
    with pytest.raises(ValueError, match=rf"the shortest have {shortest}$"):
        examples(job).check()
    examples(job.replace(lengths=f"{shortest}:1,64:1")).check()


# Trainings.


def losses(built: rig.Rig) -> tuple[list[float], int]:
    steps = [(float(metrics["loss"]), state) for _, state, metrics in built.train(built.state, 0, 12)]
    return [loss for loss, _ in steps], int(steps[-1][1].fingerprint)


def test_eight_devices_train_as_one(devices: list) -> None:
    for job in (MIXED, GROWS.replace(steps=12)):
        one, one_print = losses(rig.build(job, meshes.make("", devices[:1])))
        for mesh in ("data:8", "data:2,fsdp:2,context:2"):
            many, many_print = losses(rig.build(job, meshes.make(mesh, devices)))
            assert many_print == one_print
            np.testing.assert_allclose(many, one, rtol=1e-5, err_msg=mesh)


def test_mixtures_share_the_program_of_their_longest_and_no_data(devices: list) -> None:
    mesh = meshes.make(devices=devices[:1])
    plain, mixed, grows = (rig.build(job, mesh) for job in (JOB, MIXED, GROWS))
    assert mixed.programs is plain.programs is grows.programs
    assert len({losses(built)[1] for built in (plain, mixed, grows)}) == 3


def test_what_is_padded_changes_no_loss(devices: list) -> None:
    """Training at 16 tokens alone is training in a shape of 32 with all examples at 16."""
    mesh = meshes.make(devices=devices[:1])
    short, _ = losses(rig.build(JOB.replace(length=16, steps=24), mesh))
    padded, _ = losses(rig.build(JOB.replace(lengths="grow:16-32", steps=24), mesh))  # of which 12 steps are done
    np.testing.assert_allclose(padded, short, rtol=1e-5)


def test_rows_count_tokens_that_are_trained_on(tmp_path: pathlib.Path) -> None:
    for job in (MIXED, GROWS):
        assert run_here(tmp_path, job, "learning") == 0
    for job in (MIXED, GROWS):
        rows = [row for row in store.load(tmp_path) if row["run_id"] == job.id and row["step"]]
        assert rows
        for row in rows:
            assert row["tokens"] == examples(job).lengths("train", np.arange(row["step"] * 8)).sum()
            assert row["tokens"] < row["step"] * job.batch * job.length
            assert row["lengths"] == job.lengths


def test_the_tokens_a_second_of_a_step_leave_padding_out(tmp_path: pathlib.Path) -> None:
    for job in (JOB, MIXED):
        assert run_here(tmp_path, job, "step_time:blocks=2") == 0
    rows = store.load(tmp_path)
    per_call = {row["lengths"]: row["tokens"] / row["calls"] for row in rows if row["phase"] == "block"}
    assert per_call == {"": 8 * 32, MIXED.lengths: 8 * 22}
    seconds = {timing.row["lengths"]: timing.tokens_per_second * timing.seconds for timing in utilisation.timings(rows)}
    assert seconds == pytest.approx(per_call)


def test_a_model_of_a_mixture_is_read_at_one_length_at_a_time(tmp_path: pathlib.Path) -> None:
    spec = "length_accuracy:longest=2,growth=2,shortest=1"
    assert run_here(tmp_path, MIXED.replace(steps=20), "learning", spec) == 0
    read = {row["eval_length"]: row for row in store.load(tmp_path) if row["phase"] == "length"}
    assert set(read) == {8, 16, 32, 64}


def test_nothing_is_pooled_that_differs_in_its_lengths() -> None:
    assert "lengths" in DISTINGUISHING
    assert "lengths" in factors.FIELDS
    assert alike.without_arm(JOB) != alike.without_arm(MIXED)
    assert alike.of_job(JOB, alike.SETTING) != alike.of_job(MIXED, alike.SETTING)


def test_a_rate_that_was_tuned_for_one_length_is_not_taken_as_tuned_for_a_mixture() -> None:
    line = next(line for line in learning_rates.table() if line.task == "parity")
    plain = Job(mixer=line.arm, task="parity", length=line.length, width=line.width, batch=line.batch)
    plain = plain.replace(steps=line.steps, learning_rate=line.learning_rate)
    mixed = plain.replace(lengths=f"2:1,{line.length}:1")
    assert learning_rates.is_tuned(plain)
    assert not learning_rates.is_tuned(mixed)
    assert learning_rates.look_up(mixed) == line.learning_rate, "the nearest"
    assert learning_rates.provenance(mixed).startswith("not tuned for this training; the nearest: ")
    assert len(learning_rates.to_tune([plain, mixed, mixed.replace(lengths=f"uniform:2-{line.length}")])) == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("lengths", ["8:1,16:2", "grow:8-16"])
def test_a_training_that_is_killed_twice_ends_as_one_that_never_was(lengths: str, tmp_path: pathlib.Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(training(whole, f"--lengths={lengths}")).returncode == 0
    for step in (45, 85):
        argv = training(killed, f"--lengths={lengths}", f"--fault=kill@{step}:0")
        assert run(argv).returncode == -signal.SIGKILL
    assert run(training(killed, f"--lengths={lengths}")).returncode == 0
    assert_same(killed, whole)
    assert {row["lengths"] for row in rows_of(whole)} == {lengths}
