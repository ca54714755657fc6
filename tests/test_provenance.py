"""What numbers rest on: compared where training goes on, and where a done cell is skipped."""

import os
import pathlib
import sys
import time
from collections.abc import Generator

import programs
import pytest

from suite import mesh as meshes
from suite import parts, user_files
from suite.job import Cell, Job
from suite.measures import learning
from suite.sweep import provenance, store
from suite.sweep.record import Record, Row
from suite.training import rig

# An LSTM by another name, and a task whose data lie in a file.
MIXER = """
from suite.mixers import elman

class Mixer(elman.Mixer):
    pass
"""
TASK = """
import dataclasses, hashlib, pathlib
import numpy as np
from suite.tasks import Batch

@dataclasses.dataclass(frozen=True)
class Task:
    length: int
    seed: int
    data_dir: str = dataclasses.field(default="")
    corpus_sha256: str = dataclasses.field(init=False)
    vocab = 8

    def __post_init__(self):
        digest = hashlib.sha256((pathlib.Path(self.data_dir) / "corpus").read_bytes()).hexdigest()
        object.__setattr__(self, "corpus_sha256", digest)

    def batch(self, split, ids):
        tokens_BT = (np.asarray(ids)[:, None] + np.arange(self.length)) % 8
        return Batch(tokens_BT.astype(np.int32), tokens_BT.astype(np.int32), np.ones(tokens_BT.shape, np.float32))
"""


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    (tmp_path / "mine.py").write_text(MIXER)
    (tmp_path / "theirs.py").write_text(TASK)
    (tmp_path / "corpus").write_text("one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def job(**changes: object) -> Job:
    base = Job(mixer="./mine.py", task="./theirs.py", width=16, length=16, batch=8, steps=8, record_every=2)
    return base.replace(**{"validate_every": 4, "validation_examples": 8, "test_examples": 8, **changes})


def training(out: pathlib.Path, devices: list) -> Generator[Row, None, None]:
    """The rows of a training, as they are written, from wherever it goes on."""
    run = store.open_run(out, job())
    built = rig.build(job(), meshes.make(devices=devices[:1]), run=run, data_dir=".")
    for row in learning.measure(built):
        of_cell = {"measure": "learning", "repeat": 0, "interleave_with": "", "placed": False}
        Record(run, learning.STEM).append(row | built.conditions | of_cell)
        yield row


def stop_half_way(out: pathlib.Path, devices: list) -> None:
    """Leaves a checkpoint of step 4 and a row of step 6."""
    half = training(out, devices)
    while next(half)["step"] < 6:
        pass
    while not (store.run_path(out, job()) / "checkpoints" / "4.manifest").exists():
        time.sleep(0.01)
    half.close()


def new_flag(monkeypatch: pytest.MonkeyPatch, here: pathlib.Path) -> str:
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_cpu_enable_fast_math=true")
    return "--xla_cpu_enable_fast_math: stored '(not there)', now 'true'"


def new_source(monkeypatch: pytest.MonkeyPatch, here: pathlib.Path) -> str:
    monkeypatch.setattr(provenance, "_source", lambda: "0123456789abcdef")
    return "now '0123456789abcdef'"


def new_own_file(monkeypatch: pytest.MonkeyPatch, here: pathlib.Path) -> str:
    before = parts.own_files("suite.mixers", "./mine.py")["./mine.py"]
    monkeypatch.delitem(user_files._imported, here / "mine.py")  # as in a new process
    (here / "mine.py").write_text(MIXER + "# edited\n")
    return f"./mine.py: stored '{before}', now '"


def new_corpus(monkeypatch: pytest.MonkeyPatch, here: pathlib.Path) -> str:
    (here / "corpus").write_text("another")
    return "corpus_sha256: stored '"


@pytest.mark.parametrize("change", [new_flag, new_source, new_own_file, new_corpus])
def test_what_is_half_trained_begins_again_where_anything_beneath_it_has_changed(
    here: pathlib.Path, devices: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, change
):
    learning._print_once.cache_clear()
    stop_half_way(here / "out", devices)
    said = change(monkeypatch, here)
    assert next(training(here / "out", devices))["step"] == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "is trained from the start again" in lines[0]
    assert said in lines[0]


def test_what_is_half_trained_goes_on_with_more_devices_or_dumps(
    here: pathlib.Path, devices: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    stop_half_way(here / "out", devices)
    fewer = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    monkeypatch.setenv("XLA_FLAGS", f"{fewer} --xla_dump_to=/tmp/nowhere")
    assert next(training(here / "out", devices))["step"] == 6
    assert not capsys.readouterr().err


def done(out: pathlib.Path, devices: list) -> list[Row]:
    for _ in training(out, devices):
        pass
    Record(store.run_path(out, job()), learning.STEM).mark_done()
    return store.load(out)


def test_a_done_cell_of_another_own_file_or_corpus_is_refused(
    here: pathlib.Path, devices: list, monkeypatch: pytest.MonkeyPatch
):
    rows = done(here / "out", devices)
    assert {"./mine.py", "./theirs.py"} == rows[0]["own_source"].keys()
    cells = [Cell(job(seed=1), "size")]  # a job of its own, and of the same file
    provenance.check_done(here / "out", rows, cells, ".")
    provenance.check_done(here / "out", rows, [Cell(Job(mixer="lstm", task="parity"), "size")], ".")
    new_own_file(monkeypatch, here)
    advice = r"[0-9a-f]{16} then, [0-9a-f]{16} now; use another --out, or remove .*/out/runs/mine"
    with pytest.raises(ValueError, match=rf"^\./mine\.py has changed since it was measured \(1 done cells\): {advice}"):
        provenance.check_done(here / "out", rows, cells, ".")
    new_corpus(monkeypatch, here)
    with pytest.raises(ValueError, match=rf"^the corpus of \./theirs\.py has changed .*: {advice}"):
        provenance.check_done(here / "out", rows, [Cell(job(mixer="lstm"), "size")], ".")


def test_what_was_not_done_is_not_refused(here: pathlib.Path, devices: list, monkeypatch: pytest.MonkeyPatch):
    next(training(here / "out", devices))
    new_own_file(monkeypatch, here)
    provenance.check_done(here / "out", store.load(here / "out"), [Cell(job(), "learning")], ".")


def test_another_version_of_the_suite_is_told_once_and_its_cells_stay(
    here: pathlib.Path, devices: list, monkeypatch: pytest.MonkeyPatch
):
    rows = done(here / "out", devices)
    assert provenance.of_another_version(rows) == ""
    monkeypatch.setattr(provenance, "_source", lambda: "0123456789abcdef")
    assert provenance.of_another_version(rows).startswith("1 done cells are of another version of the suite")
    provenance.check_done(here / "out", rows, [Cell(job(), "learning")], ".")


@pytest.mark.slow
def test_an_edited_own_file_is_refused_by_job_and_compare_before_anything_is_trained(here: pathlib.Path):
    argv = programs.command("job", "--mixer=./mine.py", *programs.TINY, "--measures=size", "--out=out")
    assert programs.run(argv, cwd=here).returncode == 0
    (here / "mine.py").write_text(MIXER + "# edited\n")
    compare = programs.command("compare", "--arms=./mine.py,lstm", "--scale=smoke", "--claims=path_length", "--out=out")
    before = sorted((here / "out").rglob("*.jsonl"))
    for command in (argv, compare):
        ended = programs.run(command, cwd=here)
        assert ended.returncode == 70, ended.stderr
        assert "./mine.py has changed since it was measured" in ended.stderr.splitlines()[-1]
    assert sorted((here / "out").rglob("*.jsonl")) == before
