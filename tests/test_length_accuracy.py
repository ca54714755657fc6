"""Accuracy by length and distance, and loss by position: trained parameters at their own length and beyond."""

import pathlib

import numpy as np
import pytest

from suite import mesh as meshes
from suite.job import Job
from suite.measures import learning, length_accuracy, loss_by_position
from suite.sweep import store
from suite.sweep.record import Record, Row
from suite.training import rig

JOB = Job(mixer="lstm", task="parity", width=16, depth=1, length=8, batch=16, steps=40, learning_rate=1e-2)
JOB = JOB.replace(validate_every=40, validation_examples=16, test_examples=48)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, devices: list) -> rig.Rig:
    """After a short training, on two devices."""
    run = store.open_run(tmp_path_factory.mktemp("out"), JOB)
    built = rig.build(JOB, meshes.make(devices=devices[:2]), run=run)
    for row in learning.measure(built):
        Record(run, learning.STEM).append(row)
    return built


@pytest.fixture(scope="module")
def measured(trained: rig.Rig) -> tuple[Row, list[Row]]:
    """The row of the test, and the rows of the measure."""
    assert trained.run is not None
    return Record(trained.run, learning.STEM).rows()[-1], list(length_accuracy.measure(trained))


def test_positions_share_out_the_loss_of_the_test(trained: rig.Rig, measured: tuple[Row, list[Row]]) -> None:
    rows = list(loss_by_position.measure(trained))
    # The first token is the start, which is no target's question; each of 48 examples has one target at the others.
    bins = [(2, 2, 8), (3, 4, 16), (5, 8, 32)]
    assert [(row["turn"], row["low"], row["high"], row["targets"]) for row in rows] == [
        (group, *of_bin) for group in range(6) for of_bin in bins
    ]
    mean = np.average([row["loss"] for row in rows], weights=[row["targets"] for row in rows])
    assert mean == pytest.approx(measured[0]["loss"])


def test_positions_go_on_beyond_the_trained_length_and_a_bin_ends_with_it(trained: rig.Rig) -> None:
    far = trained.at_length(24)
    rows = list(loss_by_position.measure(trained, longest=3))
    assert list(dict.fromkeys((row["low"], row["high"]) for row in rows)) == [(2, 2), (3, 4), (5, 8), (9, 16), (17, 24)]
    assert loss_by_position.bins(12, 48) == [1, 2, 4, 8, 12, 16, 32, 48]
    nats_NT = np.concatenate([nats_BT for _, nats_BT, _, _ in far.answers(trained.trained, "test", 48)])
    beyond = [row["loss"] for row in rows if row["low"] == 17]
    np.testing.assert_allclose(beyond, nats_NT[:, 16:24].reshape(6, -1).mean(axis=1), rtol=1e-5)  # summed otherwise


def test_the_trained_length_is_read_as_the_test_was(measured: tuple[Row, list[Row]]) -> None:
    test, rows = measured
    first = rows[0]
    assert (first["phase"], first["eval_length"], first["examples"]) == ("length", 8, 48)
    for name in ("accuracy", "final_accuracy", "exact_match"):
        assert first[name] == pytest.approx(test[name], abs=1e-6)


def test_it_is_read_at_four_times_the_length_too(measured: tuple[Row, list[Row]]) -> None:
    _, rows = measured
    assert [row["eval_length"] for row in rows if row["phase"] == "length"] == [8, 32]


@pytest.mark.parametrize("length", [8, 32])
def test_distances_share_out_all_targets(measured: tuple[Row, list[Row]], length: int) -> None:
    _, rows = measured
    whole, *buckets = [row for row in rows if row["eval_length"] == length]
    # Of parity every token after the start is a target, and needs the first bit.
    assert [(row["low"], row["high"]) for row in buckets[:4]] == [(0, 0), (1, 1), (2, 3), (4, 7)]
    furthest = length - 2
    assert [row["targets"] for row in buckets] == [
        48 * (min(row["high"], furthest) - row["low"] + 1) for row in buckets
    ]
    mean = np.average([row["accuracy"] for row in buckets], weights=[row["targets"] for row in buckets])
    assert mean == pytest.approx(whole["accuracy"])


def test_a_remedy_is_a_knob_of_the_mixer_that_takes_effect_beyond_the_trained_length(
    tmp_path: pathlib.Path, devices: list
) -> None:
    job = JOB.replace(mixer="attention:heads=2", steps=4, validate_every=4)
    run = store.open_run(tmp_path, job)
    built = rig.build(job, meshes.make(devices=devices[:1]), run=run)
    for row in learning.measure(built):
        Record(run, learning.STEM).append(row)
    plain, stretched = (
        [row for row in length_accuracy.measure(built, remedy=remedy) if row["phase"] == "length"]
        for remedy in ("", "interpolation")
    )
    assert [row["remedy"] for row in stretched] == ["interpolation"] * 2
    assert stretched[0] == {**plain[0], "remedy": "interpolation"}
    stretched_rig = built.at_length(32, {"interpolation": 4.0})
    assert "interpolation=4.0" in stretched_rig.programs.job.mixer
    before, after = (
        np.concatenate([nats_BT for _, nats_BT, _, _ in far.answers(far.adopt(built.trained), "test", 16)])
        for far in (built.at_length(32), stretched_rig)
    )
    assert np.max(np.abs(before - after)) > 1e-3
    for remedy, nats_NT in (("", before), ("interpolation", after)):
        rows = list(loss_by_position.measure(built.at_length(8), longest=4, remedy=remedy))
        assert {row["remedy"] for row in rows} == {remedy}
        last = [row["loss"] for row in rows if row["high"] == 32][:2]
        np.testing.assert_allclose(last, nats_NT[:, 16:].reshape(2, -1).mean(axis=1), rtol=1e-5)  # summed otherwise


def test_a_remedy_that_the_mixer_does_not_have_is_refused(devices: list) -> None:
    built = rig.build(JOB, meshes.make(devices=devices[:1]))
    with pytest.raises(LookupError, match="has the knobs interpolation"):
        built.at_length(32, {"interpolation": 4.0})
    with pytest.raises(LookupError, match="has the knobs ntk"):
        loss_by_position.check(JOB, built.task, longest=4, remedy="ntk")
