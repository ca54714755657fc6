"""A budget in seconds: it ends a training, the steps that it buys are settled from the pace, and seconds add up."""

import pathlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import programs
import pytest

from suite import mesh as meshes
from suite.job import Cell, Job
from suite.measures import learning
from suite.sweep import exit_codes, store, worker
from suite.sweep.record import Record
from suite.training import clock, conditions, course, rig

SMALL = Job(mixer="lstm", task="recall:pairs=2,vocab=16", width=16, length=16, batch=8, learning_rate=3e-3)
SMALL = SMALL.replace(validate_every=10_000, validation_examples=8, test_examples=8, record_every=1)
BUDGET = SMALL.replace(steps=10_000, budget_seconds=6.0)
TICK = 0.25  # seconds of a step; its multiples are exact in binary


def ended(budget: float, pace: Callable[[float], float], first: float, most: int = 10**9) -> tuple[int, float, int]:
    """The steps and the seconds with which a training ends whose step after so many seconds takes pace(seconds)."""
    job = BUDGET.replace(budget_seconds=budget, steps=min(most, 2**31 - 1))
    ahead, number, spent, settled = course.begin(job, first), 0, 0.0, 1
    while number < ahead.steps:
        number, spent = number + 1, spent + pace(spent)
        if ahead.is_to_settle(number):
            ahead, settled = ahead.settle(job, number, spent), settled + 1
    return number, spent, settled


def test_an_even_pace_settles_one_number_and_the_budget_is_spent_to_a_step() -> None:
    for seconds in (0.001, 0.013, 0.3):
        number, spent, settled = ended(60.0, lambda _, seconds=seconds: seconds, seconds)
        assert number == round(60 / seconds)
        assert abs(spent - 60) <= seconds
        assert settled <= 1 + len(course.SHARES)


@pytest.mark.parametrize("first", [0.001, 0.1])
def test_a_pace_that_was_taken_wrong_and_drifts_ends_near_the_budget(first: float) -> None:
    for drift in (-0.5, 0.5, 2.0):  # of the pace, from the first step to the end
        _, spent, _ = ended(60.0, lambda spent, drift=drift: 0.01 * (1 + drift * spent / 60), first)
        assert abs(spent - 60) < 0.02 * 60, (first, drift, spent)


def test_a_machine_that_is_half_as_fast_from_the_middle_on_ends_near_the_budget() -> None:
    _, spent, _ = ended(60.0, lambda spent: 0.01 if spent < 30 else 0.02, 0.01)
    assert abs(spent - 60) < 0.02 * 60


def test_the_steps_of_the_job_are_the_most_and_one_is_the_least() -> None:
    assert ended(60.0, lambda _: 0.01, 0.01, most=100)[0] == 100
    assert ended(1e-6, lambda _: 0.01, 0.01)[0] == 1


def test_its_rows_and_parameters_are_those_of_a_place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = BUDGET.replace(budget_seconds=0.02)
    cells = [Cell(job, "learning"), Cell(job, "size")]
    workers = []
    for place in ("here", "there"):
        for module in (conditions, worker):
            monkeypatch.setattr(module, "place", lambda mesh, place=place: place)
        workers.append(programs.worker(tmp_path))
        assert workers[-1].run(cells) == 0
    rows = store.load(tmp_path)
    for one in workers:
        at_place = store.of_place(rows, one.place["place"])
        assert {row["place"] for row in at_place} == {one.place["place"]}
        assert {row["measure"] for row in at_place} == {"learning", "size"}
        last = one.record(cells[0]).rows()[-1]
        assert one.build(cells[0]).evaluate(one.build(cells[0]).trained, "test", 8)["loss"] == last["loss"]
    assert not store.of_place(rows, "elsewhere")


@pytest.fixture(scope="module")
def even() -> Iterator[None]:
    """A clock that only training steps move on, each by a tick."""
    now = [0.0]

    def step(self: rig.Rig) -> Callable:
        def timed(*args: object) -> object:
            now[0] += TICK
            return self.programs.step(*args)

        return timed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
        patch.setattr(rig.Rig, "step", property(step))
        yield


def training(job: Job, out: pathlib.Path) -> Any:
    """Trains, or goes on; the rows before they are written."""
    run = store.open_run(out, job)
    return learning.measure(rig.build(job, meshes.make(devices=jax.devices()[:1]), run=run))


def recorded(rows: Iterator[dict], job: Job, out: pathlib.Path, until: int = 10**9) -> list[dict]:
    """Writes rows down, as the worker does, up to one of this step."""
    kept = []
    for row in rows:
        Record(store.run_path(out, job), learning.STEM).append(row)
        kept.append(row)
        if row["step"] >= until:
            break
    return kept


def final(job: Job, out: pathlib.Path) -> list[np.ndarray]:
    return programs.final_of_run(job, store.run_path(out, job))


@pytest.fixture(scope="module")
def whole(even: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], list[np.ndarray]]:
    """The rows and the final parameters of an undisturbed training."""
    out = tmp_path_factory.mktemp("whole")
    return recorded(training(BUDGET, out), BUDGET, out), final(BUDGET, out)


def test_at_an_even_pace_it_is_bit_by_bit_the_training_of_so_many_steps(whole: tuple, tmp_path: pathlib.Path) -> None:
    steps = SMALL.replace(steps=round(BUDGET.budget_seconds / TICK))
    of_steps = recorded(training(steps, tmp_path), steps, tmp_path)[-1]
    last = whole[0][-1]
    assert (last["step"], last["settled_steps"], last["seconds"]) == (24, 24, BUDGET.budget_seconds)
    assert {name: last[name] for name in of_steps} == of_steps
    for one, other in zip(whole[1], final(steps, tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("at", [3, 12])  # between two settlements, and at one
def test_an_attempt_that_is_cut_off_counts_and_the_next_spends_the_rest(
    at: int, whole: tuple, tmp_path: pathlib.Path
) -> None:
    attempt = training(BUDGET, tmp_path)
    recorded(attempt, BUDGET, tmp_path, until=at)
    with pytest.raises(exit_codes.Preempted):
        attempt.throw(exit_codes.Preempted())
    again = recorded(training(BUDGET, tmp_path), BUDGET, tmp_path)
    assert again[0]["step"] >= at, "it goes on"
    record = Record(store.run_path(tmp_path, BUDGET), learning.STEM)
    assert record.rows() == whole[0], "seconds and all"
    for one, other in zip(whole[1], final(BUDGET, tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_that_are_killed_come_back_and_end_at_one_step_near_the_budget(tmp_path: pathlib.Path) -> None:
    flags = ["--budget_seconds=8", "--steps=1000000", "--validate_every=5"]
    codes, said = programs.wait(programs.ranks(programs.training(tmp_path, *flags, "--fault=kill@18:1")))
    assert codes == [134, 137], said
    newest = max(int(path.stem) for path in tmp_path.glob("runs/*/checkpoints@*/*.manifest"))
    codes, said = programs.wait(programs.ranks(programs.training(tmp_path, *flags)))
    assert codes == [0, 0], said
    rows = store.load(tmp_path)
    assert newest > 0
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows), "what was lost was made again"
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    last = rows[-1]
    assert (last["phase"], last["budget_seconds"], last["step"]) == ("test", 8.0, last["settled_steps"])
    assert abs(last["seconds"] - 8) < 1


def test_a_job_without_a_budget_is_named_and_recorded_as_ever(tmp_path: pathlib.Path) -> None:
    assert SMALL.replace(budget_seconds=0.0).id == SMALL.id
    assert "budget_seconds" not in " ".join(SMALL.flags())
    rows = list(training(SMALL.replace(steps=2), tmp_path))
    assert not any("settled_steps" in row for row in rows)
    assert not Cell(SMALL, "learning").placed
