"""Every field of Job reaches what it names: the program, the data or the records."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest

from suite import inference
from suite import mesh as meshes
from suite.job import Job
from suite.measures import learning
from suite.sweep import store
from suite.sweep.record import Record
from suite.training import rig

BASE = Job(mixer="lstm", match_to="attention", task="recall:pairs=2,vocab=16", width=16, length=16, batch=8, steps=4)
BASE = BASE.replace(record_every=2, validate_every=2, validation_examples=8, test_examples=8)

CHANGED = {
    "mixer": "gru",
    "task": "recall:pairs=3,vocab=16",
    "block": "plain",
    "short_conv": 3,
    "hidden": 40,
    "head_size": 8,
    "width": 24,
    "depth": 3,
    "match": "none",
    "match_to": "elman",
    "own_width": 40,
    "length": 32,
    "lengths": "12:1,16:1",
    "batch": 16,
    "microbatch": 4,
    "remat": "block",
    "reset": True,
    "steps": 6,
    "budget_seconds": 1e-6,
    "state_passing": 0.1,
    "optimizer": "lion",
    "learning_rate": 5e-4,
    "warmup": 0.9,
    "decay": "constant",
    "weight_decay": 0.2,
    "clip": 0.5,
    "dtype": "bfloat16",
    "state_dtype": "bfloat16",
    "seed": 1,
    "record_every": 1,
    "validate_every": 1,
    "validation_examples": 16,
    "test_examples": 16,
}
BASES = {
    "head_size": BASE.replace(mixer="attention", match_to=""),  # of heads that are no knob of BASE's mixer
    "reset": BASE.replace(task="text"),  # of documents
}
IN_THE_RECORDS = (
    *("budget_seconds", "state_passing", "record_every", "validate_every", "validation_examples", "test_examples"),
)
IN_DECODING = ("state_dtype",)


def start(built: rig.Rig) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(built.state)]


def program(built: rig.Rig) -> str:
    return built.programs.lowered_step.as_text()


def data(built: rig.Rig) -> list[np.ndarray]:
    return [np.asarray(part) for part in built.examples.batch("train", np.arange(4))]


def records(job: Job, folder: pathlib.Path, devices: list) -> list[tuple]:
    run = store.open_run(folder, job)
    built = rig.build(job, meshes.make(devices=devices[:1]), run=run)
    kept = []
    for row in learning.measure(built):
        Record(run, learning.STEM).append(row)
        kept.append((row["phase"], row["step"], row.get("examples")))
    return kept


def test_every_field_has_a_change_to_try() -> None:
    assert CHANGED.keys() == {field.name for field in dataclasses.fields(Job)}


@pytest.mark.parametrize("field", [field for field in CHANGED if field not in (*IN_THE_RECORDS, *IN_DECODING)])
def test_a_field_changes_the_program_the_start_or_the_data(field: str, devices: list, data_dir: pathlib.Path) -> None:
    mesh = meshes.make(devices=devices[:1])
    base = {field: BASE, **BASES}[field]
    jobs = (base, base.replace(**{field: CHANGED[field]}))
    before, after = (rig.build(job, mesh, data_dir=str(data_dir)) for job in jobs)

    def same(part: Callable[[rig.Rig], list[np.ndarray]]) -> bool:
        return all(np.array_equal(*pair) for pair in zip(part(before), part(after), strict=True))

    assert program(before) != program(after) or not same(start) or not same(data)


def test_fields_of_the_records_change_the_records(tmp_path: pathlib.Path, devices: list) -> None:
    before = records(BASE, tmp_path, devices)
    for field in IN_THE_RECORDS:
        assert records(BASE.replace(**{field: CHANGED[field]}), tmp_path, devices) != before, field


@pytest.mark.parametrize("field", IN_DECODING)
def test_a_field_of_decoding_changes_the_program_of_a_token(field: str, devices: list) -> None:
    mesh = meshes.make(devices=devices[:1])
    before, after = (rig.build(job, mesh) for job in (BASE, BASE.replace(**{field: CHANGED[field]})))
    programs = [inference.compile_step(inference.on_one_device(built), 2, 32).as_text() for built in (before, after)]
    assert programs[0] != programs[1]
