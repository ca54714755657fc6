"""The directory that this schema's first version has left is read by all later ones.

tests/stored has a small one, of one command: a training of 20 steps and its size; the trained parameters, which are
large, are not there.
"""

import json
import pathlib
import shutil

import pytest
from programs import run_here

from suite.report import records
from suite.sweep import exit_codes, store

STORED = pathlib.Path(__file__).parent / "stored"


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(STORED / f"schema_{store.SCHEMA}", tmp_path / "out"))


def test_it_is_read_whole(out: pathlib.Path) -> None:
    found = store.survey(out)
    assert not found.problems
    assert [row["phase"] for row in found.rows] == ["train", "validation"] * 2 + ["test", "model"] + ["state"] * 7
    [(job, run)] = found.runs
    assert job.id == run.name, "what a job has gained since changes nothing"
    assert job == job.replace(), "every knob stands there, those that its parts have gained too"


def test_it_is_reported_whole(out: pathlib.Path) -> None:
    found = records.read(out)
    assert not found.problems
    assert len(found.rows) == 13


def test_it_is_resumed_and_what_is_done_stays(out: pathlib.Path) -> None:
    [(job, run)] = store.survey(out).runs
    before = (run / "size.jsonl").read_bytes()
    assert run_here(out, job, "learning", "size") == exit_codes.DONE
    assert (run / "size.jsonl").read_bytes() == before
    assert len(store.load(out)) == 13
    # This wants the trained parameters: they are made again.
    assert run_here(out, job, "length_accuracy") == exit_codes.DONE
    assert {row["measure"] for row in store.load(out)} == {"learning", "size", "length_accuracy"}
    assert json.loads((out / "schema.json").read_text()) == {"schema": store.SCHEMA}
    assert not store.survey(out).problems
