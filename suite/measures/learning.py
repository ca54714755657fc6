"""Training from its start to its test: loss by tokens and by seconds, with checkpoints; the test set is read once."""

import dataclasses
import functools
import math
import statistics
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from suite import contract
from suite.job import Job, differences
from suite.sweep import exit_codes, processes, provenance
from suite.sweep.record import TRAINING, Record, Row
from suite.training import checkpoint, clock
from suite.training import course as courses
from suite.training import step as steps
from suite.training.clock import Stopwatch
from suite.training.course import Course
from suite.training.rig import Rig
from suite.training.step import Metrics, State

NEEDS = ()
PLACED = False
RESUMES = True
SECONDS = "compilation + min(steps * max(step, 0.004), budget_seconds)"
CONDITIONS = {
    "step": "steps",
    "tokens": "tokens",
    "examples": "n",
    "fingerprint": "checksum",
    "settled_steps": "steps",  # those of the schedule, of a training with a budget in seconds
}
HELD_OUT = {
    "seconds": "s as train_seconds",
    "loss": "nats/token as {phase}_loss_nats",
    "accuracy": "fraction",
    "final_accuracy": "fraction",
    "exact_match": "fraction",
}
QUANTITIES = {
    "train": {"seconds": "s", "loss": "nats/token as {phase}_loss_nats", "gradient_norm": "nats/token"},
    "validation": HELD_OUT,
    "test": HELD_OUT,
}
STEM = TRAINING  # of the file with its rows
PACE_STEPS = 5  # of a state that is thrown away, before the first step of a training with a budget
# A checkpoint's own record, before the first step: the step, the last step in a row of training, the rows, the seconds,
# and the metrics of the steps that are in no row yet.
BEGINNING = {"step": 0, "recorded": 0, "rows": 0, "seconds": 0.0, "window": []}


def check(job: Job, task: Any) -> None:
    """Refuses to pass the states of a mixer that cannot read on from one."""
    del task
    if job.state_passing:
        contract.wants(job, "state_passing", "start", "extend")


def measure(rig: Rig) -> Iterator[Row]:
    """Rows of training loss, of validation, and one of the test. Goes on from the newest checkpoint.

    `seconds` is training alone, without compilation, evaluation and checkpoints: equal seconds is a fair budget. They
    go on from a checkpoint, so that a budget is spent by all attempts together; what is lost is not counted.
    """
    job, record = rig.job, rig.record
    with checkpoint.Checkpoints(record.checkpoints) as checkpoints:
        rests_on = provenance.of_training(job, provenance.of_data(rig.task))
        goes_on = functools.partial(_goes_on, record, rests_on)
        state, saved = checkpoints.restore(rig.state, goes_on) or (rig.state, BEGINNING)
        number = int(state.step)
        ahead = courses.saved(job, saved)
        if job.budget_seconds and not number:
            ahead = courses.begin(job, _pace(rig))
            state = steps.over(state, job, ahead.steps, rig.mesh)
        n_rows, validated = _keep_rows(rig, number, saved, ahead)
        window: list[Metrics] = [jax.tree.map(np.asarray, metrics) for metrics in saved["window"]]  # not in a row yet
        watch = _warm(rig, saved["seconds"])
        due = clock.Every(rig.save_seconds, number, processes.agree)

        def save() -> None:
            rig.watchdog.expect(long=True)
            with watch.paused():
                if jax.process_index() == 0:
                    record.flush()  # a checkpoint that outlives its rows is none
                pending = [steps.as_numbers(metrics) for metrics in window]
                if all(metrics["finite"] for metrics in pending):  # of what has diverged a row comes, and no checkpoint
                    origin = {"step": number, "recorded": number - len(window), "rows": n_rows}
                    origin |= {"seconds": watch.spent, "window": pending, "rests_on": rests_on}
                    checkpoints.save(number, state, origin | {"course": dataclasses.asdict(ahead)})
                due.restart(number)

        def settle() -> None:
            nonlocal ahead, state
            ahead = ahead.settle(job, number, processes.agree(watch.spent))
            state = steps.over(state, job, ahead.steps, rig.mesh)

        try:
            if not validated:  # it was preempted just there
                yield _held_out_row(rig, state, "validation", watch.spent, ahead)
                n_rows += 1
            if ahead.is_to_settle(number):
                settle()
            while number < ahead.steps:
                loop = rig.train(state, number, ahead.stop)
                for number, state, metrics in loop:
                    window.append(metrics)
                    validates = ahead.validates(number, job.validate_every)
                    for row in _rows(rig, number, state, window, watch, ahead, validates):
                        yield row
                        n_rows += 1
                        if row["outcome"] != "ok":
                            return
                    if ahead.is_to_settle(number):
                        settle()
                    if validates or due.is_over(number):
                        save()
            with watch.paused():
                yield _held_out_row(rig, state, "test", watch.spent, ahead)
        except exit_codes.Preempted:
            save()
            checkpoints.wait()
            raise
    checkpoint.save_final(record.final, state.params)


def _rows(
    rig: Rig, number: int, state: State, window: list[Metrics], watch: Stopwatch, ahead: Course, validates: bool
) -> Iterator[Row]:
    """The rows that are due after a step. Metrics that are in a row leave the window."""
    size = rig.job.record_every
    if validates:
        jax.block_until_ready(state)
    # All but the newest are done: reading them stops nothing.
    while len(window) > (0 if validates else size):
        ready = window[:size]
        del window[:size]
        yield _training_row(rig, number - len(window), watch.spent, ready)
    if validates:
        with watch.paused():
            yield _held_out_row(rig, state, "validation", watch.spent, ahead)


def _keep_rows(rig: Rig, number: int, saved: Mapping[str, Any], ahead: Course) -> tuple[int, bool]:
    """Drops the rows beyond a restored step; how many are left, and whether a validation due there has its row."""
    first = jax.process_index() == 0
    kept = rig.record.keep(functools.partial(_is_before, saved)) if first else []
    validated = any(row["phase"] == "validation" and row["step"] == number for row in kept)
    is_due = number > 0 and ahead.validates(number, rig.job.validate_every)
    return tuple(processes.agree([len(kept), validated or not is_due]))


def _goes_on(record: Record, rests_on: Mapping[str, str], saved: Mapping[str, Any]) -> bool:
    """Whether training may go on from a checkpoint: it rests on the same, and the rows before it are there."""
    changes = differences(saved["rests_on"], rests_on) if "rests_on" in saved else ["saved by an earlier version"]
    if changes:
        changed = "; ".join(changes)
        _print_once(
            f"crossover: {record.folder} is trained from the start again, for what it rests on changed: {changed}"
        )
    return not changes and sum(_is_before(saved, row) for row in record.rows()) >= saved["rows"]


@functools.cache
def _print_once(line: str) -> None:
    """Both checkpoints of a training give the same line."""
    print(line, file=sys.stderr)


def _is_before(saved: Mapping[str, Any], row: Row) -> bool:
    """Whether training that goes on from a checkpoint does not make a row again."""
    last = {"train": saved["recorded"], "validation": saved["step"]}.get(row.get("phase", ""), -1)
    return row["outcome"] == "ok" and row["step"] <= last


def _pace(rig: Rig) -> float:
    """Seconds of a training step, by the clock of process 0."""
    state, batch = rig.state, rig.resident_batch()

    def call() -> Any:
        nonlocal state
        state, metrics = rig.step(state, batch)
        return metrics

    rig.watchdog.feed(long=True)
    return processes.agree(statistics.median(clock.time_calls(call, warmup=1, repeats=PACE_STEPS)))


def _warm(rig: Rig, spent: float) -> Stopwatch:
    """Compiles everything and takes one step of a state that is thrown away, then starts the watch."""
    for step in rig.steps_of_training:
        state, metrics = step(rig.state, rig.resident_batch())
        jax.block_until_ready(metrics)
    rig.evaluate(state.params, "validation", rig.job.batch)
    return Stopwatch(spent)


def _training_row(rig: Rig, number: int, seconds: float, window: list[Metrics]) -> Row:
    metrics = [steps.as_numbers(of_step) for of_step in window]
    tokens = rig.examples.tokens(number * rig.job.batch)
    row = {"phase": "train", "step": number, "tokens": tokens, "seconds": seconds}
    diverged = [index for index, of_step in enumerate(metrics) if not of_step["finite"]]
    if diverged:
        return {**row, "step": number - len(metrics) + 1 + diverged[0], "outcome": "diverged"}
    means = {name: float(np.mean([of_step[name] for of_step in metrics])) for name in ("loss", "gradient_norm")}
    return {**row, **means, "outcome": "ok"}


def _held_out_row(rig: Rig, state: State, split: str, seconds: float, ahead: Course) -> Row:
    step, job = int(state.step), rig.job
    row = {"phase": split, "step": step, "tokens": rig.examples.tokens(step * job.batch), "seconds": seconds}
    row |= {"settled_steps": ahead.steps} if job.budget_seconds else {}
    examples = {"validation": job.validation_examples, "test": job.test_examples}[split]
    scores = rig.evaluate(state.params, split, examples)
    if not math.isfinite(scores["loss"]):
        return {**row, "outcome": "diverged"}
    return {**row, "examples": examples, "fingerprint": int(state.fingerprint), **scores, "outcome": "ok"}
