"""Guards of the verdicts, by real trainings and timings at tiny sizes: null pair, planted pair, broken control."""

import dataclasses
import itertools

import pytest

from suite import mesh as meshes
from suite.claims import parallelism, path_length
from suite.job import Job
from suite.judging import trials
from suite.judging.statistics import fisher
from suite.measures import step_time
from suite.sweep.record import Row
from suite.training import rig

ATTENTION, LSTM = "attention", "lstm"
JOB = Job(width=16, depth=2, batch=16, steps=60, learning_rate=1e-2, validation_examples=16, test_examples=128)
RUNS, ALLOWED = 20, 1

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def at(distance: int, **changes: int | str | float) -> Job:
    return JOB.replace(task=f"recall:pairs=1,vocab=16,distance={distance}", length=distance + 4, **changes)


def row_of(job: Job, measure: str, **facts: object) -> Row:
    shared = {"run_id": job.id, "arm": job.arm, "measure": measure, "repeat": 0, "interleave_with": "", "placed": False}
    return dataclasses.asdict(job) | {"reference_width": job.width, "outcome": "ok", **shared, **facts}


def trained(job: Job, devices: list, label: str = "") -> Row:
    """The row of a test after a real training; with a label, as if it were that arm's."""
    built = rig.build(job, meshes.make(devices=devices[:1]))
    state = built.state
    for _, after, _ in built.train(state, 0, job.steps):
        state = after
    found = built.evaluate(state.params, "test", job.test_examples)
    row = row_of(job, "learning", phase="test", examples=job.test_examples, **found)
    return row | ({"arm": label, "mixer": label} if label else {})


def test_a_null_pair_shows_no_difference_in_what_is_learned(devices: list) -> None:
    """Attention against attention of other seeds, at a budget at which some seeds solve the task and some do not."""
    job = at(8, steps=40)
    found, solved = [], 0
    for run in range(RUNS):
        seeds = [run * 10 + number for number in range(10)]
        rows = [
            trained(job.replace(seed=seed), devices, ATTENTION if number < 5 else LSTM)
            for number, seed in enumerate(seeds)
        ]
        solved += sum(row["final_accuracy"] >= trials.SOLVED for row in rows)
        arms = trials.gather(rows)
        counts = [(arms[arm].solved(), arms[arm].seeds) for arm in (ATTENTION, LSTM)]
        found.append(fisher(*counts[0], *counts[1]) < 0.05)
    assert sum(found) <= ALLOWED
    assert 0.1 < solved / (10 * RUNS) < 0.9, "seeds that all do the same would test nothing"


def test_a_planted_pair_holds_and_a_broken_control_does_not(devices: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handicapped arm sees two times three tokens back: enough for the near distance, not for the far one."""
    monkeypatch.setattr(path_length, "FAR", 16)  # the textbook's distance, at a size for two cores
    blind = f"{ATTENTION}:window=4"
    rows = [
        trained(at(distance, mixer=mixer, seed=seed, steps=300), devices, label)
        for distance, (mixer, label), seed in itertools.product(
            (4, 16), ((ATTENTION, ATTENTION), (blind, LSTM)), range(5)
        )
    ]
    for label, path in ((ATTENTION, 20), (LSTM, 2000)):  # the handicapped arm stands for one with a long path
        rows.append(row_of(at(16, mixer=label), "path", phase="path", distance=16, reachable=True, path=path))
    finding = path_length.judge(rows)
    assert finding.verdict == "holds", finding
    # The arm that stands for the LSTM, not trained at the near distance: nothing can be said of the far one.
    untrained = [
        trained(at(4, mixer=blind, seed=seed, steps=300, learning_rate=1e-9), devices, LSTM) for seed in range(5)
    ]
    kept = [row for row in rows if not (row["arm"] == LSTM and row["length"] == 8)]
    finding = path_length.judge([*kept, *untrained])
    assert finding.verdict == "undecided", finding
    assert "a control failed: the LSTM solves distance 4" in finding.reason


def test_a_null_pair_shows_no_difference_in_speed(devices: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention timed against itself, in turns, as the claim wants it: a difference is one at both batches."""
    monkeypatch.setattr(step_time, "BLOCK_SECONDS", 0.02)  # 360 timings; noise only widens the intervals
    job = JOB.replace(task="parity", length=64)
    control = timed(
        job.replace(mixer="mingru"), (parallelism.PARALLEL, parallelism.SEQUENTIAL), parallelism.CONTROL, devices
    )
    different = []
    for _ in range(RUNS):
        equal = timed(job.replace(batch=2), (ATTENTION, LSTM), "length 64", devices)
        best = timed(job.replace(batch=4), (ATTENTION, LSTM), parallelism.BEST, devices)
        reason = parallelism.judge([*equal, *best, *control], length=64).reason
        different.append("neither is faster beyond doubt" not in reason)
    assert sum(different) <= ALLOWED


def timed(job: Job, labels: tuple[str, str], group: str, devices: list) -> list[Row]:
    """Rows of one job timed twice at once, in turns, as if it were two arms; three times over."""
    built = rig.build(job, meshes.make(devices=devices[:1]))
    rows = []
    for repeat in range(3):
        # The row of the compilation and three blocks: the claim reads none of what comes after.
        turns = zip(*(itertools.islice(step_time.measure(built, blocks=3), 4) for _ in labels), strict=True)
        for pair in turns:
            for label, row in zip(labels, pair, strict=True):
                shared = {"arm": label, "interleave_with": group, "repeat": repeat, "placed": True, "platform": "gpu"}
                rows.append(row_of(job, "step_time", **row) | shared)
    return rows
