"""The run directory, through a crash at any moment."""

import json
import os
import pathlib
import threading

import pytest
from etils import epath

from suite import store
from suite.job import Job


@pytest.fixture
def run(tmp_path: pathlib.Path) -> epath.Path:
    return store.open_run(tmp_path, Job())


def test_rows_come_back_in_their_order(run: epath.Path):
    rows = [{"step": step, "loss": 1 / (step + 1), "text": "é\n"} for step in range(5)]
    for row in rows:
        store.append(run, "learning", row)
    assert store.rows(run, "learning") == rows
    assert store.rows(run, "nothing") == []


def test_a_torn_last_line_is_dropped_and_healed(run: epath.Path):
    store.append(run, "learning", {"step": 0})
    with open(run / "learning.jsonl", "a") as file:
        file.write('{"step": 1, "lo')
    assert store.rows(run, "learning") == [{"step": 0}]
    store.append(run, "learning", {"step": 2})
    store.append(run, "learning", {"step": 3})
    assert store.rows(run, "learning") == [{"step": 0}, {"step": 2}, {"step": 3}]


def test_a_line_torn_to_a_number_is_no_row(run: epath.Path):
    with open(run / "learning.jsonl", "a") as file:
        file.write("12")
    assert store.rows(run, "learning") == []


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused_and_leaves_no_trace(run: epath.Path, number: float):
    store.append(run, "learning", {"loss": 1.0})
    before = (run / "learning.jsonl").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        store.append(run, "learning", {"loss": number})
    assert (run / "learning.jsonl").read_bytes() == before


def test_keep_drops_what_is_not_wanted(run: epath.Path):
    for step in range(6):
        store.append(run, "learning", {"step": step})
    wanted = [{"step": step} for step in range(3)]
    assert store.keep(run, "learning", lambda row: row["step"] < 3) == wanted
    assert store.rows(run, "learning") == wanted
    store.append(run, "learning", {"step": 3})
    assert store.rows(run, "learning") == [*wanted, {"step": 3}]


def test_keep_of_everything_or_of_nothing_writes_nothing(run: epath.Path):
    assert store.keep(run, "learning", lambda row: False) == []
    store.append(run, "learning", {"step": 0})
    before = os.stat(run / "learning.jsonl").st_mtime_ns
    assert store.keep(run, "learning", lambda row: True) == [{"step": 0}]
    assert os.stat(run / "learning.jsonl").st_mtime_ns == before


def test_a_run_is_named_by_its_job_and_opened_twice(tmp_path: pathlib.Path):
    run = store.open_run(tmp_path, Job())
    assert run == store.open_run(tmp_path, Job()) == store.run_path(tmp_path, Job())
    assert run.name == Job().id
    assert Job.from_json((run / "job.json").read_text()) == Job()


def test_a_job_that_changed_under_its_name_is_shown_as_a_difference(tmp_path: pathlib.Path):
    run = store.open_run(tmp_path, Job())
    stored = json.loads((run / "job.json").read_text())
    del stored["conv"]
    (run / "job.json").write_text(json.dumps(stored | {"rate": 0.5, "gone": 1}))
    with pytest.raises(ValueError, match="another job") as raised:
        store.open_run(tmp_path, Job())
    for line in ("conv: stored '(not there)', now 0", "gone: stored 1", "rate: stored 0.5, now 0.001"):
        assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_write_that_fails_leaves_the_old_text(run: epath.Path, monkeypatch: pytest.MonkeyPatch):
    path = run / "env.json"
    store.write(path, "old")

    def fail(source: str, target: str) -> None:
        assert pathlib.Path(source).read_text() == "new"
        assert path.read_text() == "old"
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        store.write(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    store.write(path, "new")
    assert path.read_text() == "new"


def test_a_file_that_was_being_written_is_no_row(run: epath.Path):
    store.append(run, "learning", {"step": 0})
    (run / ".learning.jsonl.12345678").write_text('{"step": 9}\n')
    assert store.all_rows(run) == [{"step": 0}]


def test_a_done_marker_stands_until_it_is_set(run: epath.Path):
    kind = store.kind("step_time", "a-place", repeat=1)
    assert not store.is_done(run, kind)
    store.mark_done(run, kind)
    assert store.is_done(run, kind)
    assert not store.is_done(run, store.kind("step_time", "a-place"))


def test_groups_places_and_repeats_have_files_of_their_own():
    kinds = [
        store.kind("size"),
        store.kind("size", "here"),
        store.kind("size", "here", 1),
        store.kind("size", "there"),
        store.kind("size", "here", group="a b"),
    ]
    assert len(set(kinds)) == len(kinds)


def test_all_rows_reads_every_kind(run: epath.Path):
    for kind in ("size", "step_time@here", "step_time@here.1"):
        store.append(run, kind, {"kind": kind})
    assert [row["kind"] for row in store.all_rows(run)] == ["size", "step_time@here", "step_time@here.1"]


def test_all_runs_finds_every_job(tmp_path: pathlib.Path):
    jobs = [Job(mixer="lstm"), Job(mixer="attention")]
    runs = [store.open_run(tmp_path, job) for job in jobs]
    (tmp_path / "runs" / "half-made").mkdir()
    assert {job.id: run for job, run in store.all_runs(tmp_path)} == dict(
        zip((job.id for job in jobs), runs, strict=True)
    )
    assert list(store.all_runs(tmp_path / "nothing")) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: pathlib.Path):
    store.check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=rf"^cannot write to --out={tmp_path}/file/out: .*; choose another"):
        store.check_writable(tmp_path / "file" / "out")


def test_the_environment_is_json_and_names_the_sources():
    stored = json.loads(json.dumps(store.environment()))
    assert stored["packages"]["jax"]
    assert stored["memory_bytes"] > 0
    assert stored["commit"]
    assert len(stored["source"]) == 16


def test_a_package_that_is_not_installed_is_left_out_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "RECORDED_PACKAGES", ("numpy", "no-package-of-this-name"))
    assert list(store.environment()["packages"]) == ["numpy"]


def test_a_users_own_file_changes_the_hash_of_the_sources(tmp_path: pathlib.Path):
    mine = tmp_path / "mine.py"
    mine.write_text("a")
    first = store.provenance([mine])["source"]
    mine.write_text("b")
    assert len({first, store.provenance([mine])["source"], store.provenance([])["source"]}) == 3


def test_records_of_a_newer_schema_are_refused_with_the_reason(tmp_path: pathlib.Path):
    store.mark_schema(tmp_path)
    assert store.load(tmp_path) == []
    (tmp_path / "schema.json").write_text(json.dumps({"schema": store.SCHEMA + 1}))
    for read in (store.load, store.mark_schema):
        with pytest.raises(ValueError, match=rf"schema {store.SCHEMA + 1} and this version reads up to {store.SCHEMA}"):
            read(tmp_path)


def test_records_of_the_first_schema_are_read(run: epath.Path, tmp_path: pathlib.Path):
    store.append(run, "learning", {"step": 0})
    assert not (tmp_path / "schema.json").exists()
    assert [row["step"] for row in store.load(tmp_path)] == [0]


def test_lines_of_several_writers_never_mix(run: epath.Path):
    long = "x" * 20_000
    writers = [
        threading.Thread(target=lambda: [store.append(run, "k", {"t": long}) for _ in range(20)]) for _ in "abcd"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert store.rows(run, "k") == [{"t": long}] * 80


@pytest.fixture
def as_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout for object stores, on files: what is asked of the store is there too."""
    monkeypatch.setattr(store, "_is_object", lambda path: True)


def test_objects_are_written_once_and_read_in_their_order(as_objects: None, run: epath.Path):
    for step in range(12):
        store.append(run, "learning", {"step": step})
    objects = {path.name: path.stat().mtime for path in (run / "learning.jsonl.d").iterdir()}
    assert len(objects) == 12
    assert store.rows(run, "learning") == store.all_rows(run) == [{"step": step} for step in range(12)]
    assert len(store.keep(run, "learning", lambda row: row["step"] < 10)) == 10
    kept = {path.name: path.stat().mtime for path in (run / "learning.jsonl.d").iterdir()}
    assert kept.items() < objects.items(), "what is kept is not touched"
    store.append(run, "learning", {"step": 10})
    assert [row["step"] for row in store.rows(run, "learning")] == list(range(11))


def test_a_drop_of_objects_that_is_cut_short_loses_nothing_that_is_wanted(as_objects: None, run: epath.Path):
    for step in range(6):
        store.append(run, "learning", {"step": step})

    def wanted(row: store.Row) -> bool:
        if row["step"] == 4 and len(list((run / "learning.jsonl.d").iterdir())) < 6:
            raise InterruptedError
        return row["step"] < 3

    with pytest.raises(InterruptedError):
        store.keep(run, "learning", wanted)
    assert [row["step"] for row in store.rows(run, "learning")] == list(range(5)), "the newest goes first"
