"""The run directory, through a crash at any moment."""

import dataclasses
import json
import os
import pathlib
import shutil
import threading
import zlib
from collections.abc import Callable

import pytest
from etils import epath

from suite import files
from suite.job import Cell, Job
from suite.sweep import provenance, store
from suite.sweep.record import Record, Row, stem


@pytest.fixture
def run(tmp_path: pathlib.Path) -> epath.Path:
    return store.open_run(tmp_path, Job())


def test_rows_come_back_in_their_order(run: epath.Path):
    rows = [{"step": step, "loss": 1 / (step + 1), "text": "é\n"} for step in range(5)]
    for row in rows:
        Record(run, "learning").append(row)
    assert Record(run, "learning").rows() == rows
    assert Record(run, "nothing").rows() == []


def test_a_torn_last_line_is_dropped_and_healed(run: epath.Path):
    Record(run, "learning").append({"step": 0})
    with open(run / "learning.jsonl", "a") as file:
        file.write('{"step": 1, "lo')
    assert Record(run, "learning").rows() == [{"step": 0}]
    Record(run, "learning").append({"step": 2})
    Record(run, "learning").append({"step": 3})
    assert Record(run, "learning").rows() == [{"step": 0}, {"step": 2}, {"step": 3}]


def test_a_line_torn_to_a_number_is_no_row(run: epath.Path):
    with open(run / "learning.jsonl", "a") as file:
        file.write("12")
    assert Record(run, "learning").rows() == []


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused_and_leaves_no_trace(run: epath.Path, number: float):
    Record(run, "learning").append({"loss": 1.0})
    before = (run / "learning.jsonl").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        Record(run, "learning").append({"loss": number})
    assert (run / "learning.jsonl").read_bytes() == before


def test_keep_drops_what_is_not_wanted(run: epath.Path):
    for step in range(6):
        Record(run, "learning").append({"step": step})
    wanted = [{"step": step} for step in range(3)]
    assert Record(run, "learning").keep(lambda row: row["step"] < 3) == wanted
    assert Record(run, "learning").rows() == wanted
    Record(run, "learning").append({"step": 3})
    assert Record(run, "learning").rows() == [*wanted, {"step": 3}]


def test_keep_of_everything_or_of_nothing_writes_nothing(run: epath.Path):
    assert Record(run, "learning").keep(lambda row: False) == []
    Record(run, "learning").append({"step": 0})
    before = os.stat(run / "learning.jsonl").st_mtime_ns
    assert Record(run, "learning").keep(lambda row: True) == [{"step": 0}]
    assert os.stat(run / "learning.jsonl").st_mtime_ns == before


def test_a_run_is_named_by_its_job_and_opened_twice(tmp_path: pathlib.Path):
    run = store.open_run(tmp_path, Job())
    assert run == store.open_run(tmp_path, Job()) == store.run_path(tmp_path, Job())
    assert run.name == Job().id
    assert store.read_job(run) == Job()


def write_job(run: epath.Path, **changes: object) -> None:
    """Writes job.json whole, with other values for some fields; None leaves one out."""
    changed = dataclasses.asdict(Job()) | changes
    fields = {key: value for key, value in changed.items() if value is not None}
    checksum = zlib.crc32(json.dumps(fields, sort_keys=True).encode())
    (run / "job.json").write_text(json.dumps({"id": run.name, **fields, "crc32": checksum}))


def test_a_job_that_changed_under_its_name_is_shown_as_a_difference(run: epath.Path, tmp_path: pathlib.Path):
    write_job(run, learning_rate=0.5, depth=3)
    with pytest.raises(ValueError, match="another job") as raised:
        store.open_run(tmp_path, Job())
    for line in ("depth: stored 3, now 2", "rate: stored 0.5, now 0.001"):
        assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_field_that_an_older_version_had_not_is_at_its_default(run: epath.Path, tmp_path: pathlib.Path):
    write_job(run, remat=None, short_conv=None)
    assert store.open_run(tmp_path, Job()) == run
    assert [(job, job.id) for job, _ in store.survey(tmp_path).runs] == [(Job(), run.name)]


def test_a_field_of_a_newer_version_is_refused_by_name(run: epath.Path, tmp_path: pathlib.Path):
    write_job(run, gone=1)
    with pytest.raises(ValueError, match=r"job.json: written by a newer version, which has the fields gone"):
        store.open_run(tmp_path, Job())
    [problem] = store.survey(tmp_path).problems
    assert problem.path == run / "job.json"
    assert "newer version" in problem.why


def test_a_write_that_fails_leaves_the_old_text(run: epath.Path, monkeypatch: pytest.MonkeyPatch):
    path = run / "env.json"
    files.write(path, "old")

    def fail(source: str, target: str) -> None:
        assert pathlib.Path(source).read_text() == "new"
        assert path.read_text() == "old"
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        files.write(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    files.write(path, "new")
    assert path.read_text() == "new"


def test_a_file_that_was_being_written_is_no_row(run: epath.Path):
    Record(run, "learning").append({"step": 0})
    (run / ".learning.jsonl.12345678").write_text('{"step": 9}\n')
    assert store.all_rows(run) == [{"step": 0}]


def test_a_done_marker_stands_until_it_is_set(run: epath.Path):
    kind = stem("step_time", "a-place", repeat=1)
    assert not Record(run, kind).is_done
    Record(run, kind).mark_done()
    assert Record(run, kind).is_done
    assert not Record(run, stem("step_time", "a-place")).is_done


def test_groups_places_and_repeats_have_files_of_their_own():
    kinds = [
        stem("size"),
        stem("size", "here"),
        stem("size", "here", 1),
        stem("size", "there"),
        stem("size", "here", interleave_with="a b"),
    ]
    assert len(set(kinds)) == len(kinds)


def test_all_rows_reads_every_kind(run: epath.Path):
    for kind in ("size", "step_time@here", "step_time@here.1"):
        Record(run, kind).append({"kind": kind})
    assert [row["kind"] for row in store.all_rows(run)] == ["size", "step_time@here", "step_time@here.1"]


def test_a_survey_finds_every_job(tmp_path: pathlib.Path):
    jobs = [Job(mixer="lstm"), Job(mixer="attention")]
    runs = [store.open_run(tmp_path, job) for job in jobs]
    (tmp_path / "runs" / "half-made").mkdir()
    assert {job.id: run for job, run in store.survey(tmp_path).runs} == dict(
        zip((job.id for job in jobs), runs, strict=True)
    )
    assert store.survey(tmp_path / "nothing").runs == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: pathlib.Path):
    store.check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=rf"^cannot write to --out={tmp_path}/file/out: .*; choose another"):
        store.check_writable(tmp_path / "file" / "out")


def test_the_environment_is_json_and_names_the_sources():
    stored = json.loads(json.dumps(provenance.environment()))
    assert stored["packages"]["jax"]
    assert stored["memory_bytes"] > 0
    assert stored["commit"]
    assert len(stored["source"]) == 16


def test_a_package_that_is_not_installed_is_left_out_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "RECORDED_PACKAGES", ("numpy", "no-package-of-this-name"))
    assert list(provenance.environment()["packages"]) == ["numpy"]


def test_a_users_own_files_stand_beside_the_hash_of_the_sources():
    own = {"./mine.py": "0123456789abcdef"}
    assert provenance.of_source(own) == provenance.of_source({}) | {"own_source": own}


@pytest.mark.parametrize("other", [store.SCHEMA - 1, store.SCHEMA + 1])
def test_records_of_another_schema_are_refused_with_the_reason(other: int, tmp_path: pathlib.Path):
    store.mark_schema(tmp_path)
    assert store.load(tmp_path) == []
    (tmp_path / "schema.json").write_text(json.dumps({"schema": other}))
    for read in (store.load, store.mark_schema):
        with pytest.raises(ValueError, match=rf"schema {other} and this version reads {store.SCHEMA}; choose another"):
            read(tmp_path)


def row(cell: Cell, step: int) -> Row:
    """A row with all that every row has."""
    facts = {"run_id": cell.job.id, "arm": cell.job.arm, "measure": cell.measure, "repeat": 0, "interleave_with": ""}
    return {**facts, "placed": False, "place": "here", "outcome": "ok", "phase": "train", "step": step, "loss": 0.5}


@pytest.fixture
def done(tmp_path: pathlib.Path) -> pathlib.Path:
    """The directory of a cell that is done, with five rows."""
    run = store.open_run(tmp_path, Job())
    for step in range(5):
        Record(run, "learning").append(row(Cell(Job(), "learning"), step))
    Record(run, "learning").mark_done()
    return pathlib.Path(run)


def test_a_whole_directory_has_no_problems(done: pathlib.Path, tmp_path: pathlib.Path):
    store.mark_schema(tmp_path)
    found = store.survey(tmp_path)
    assert not found.problems
    assert [row["step"] for row in found.rows] == list(range(5))
    assert [run.name for _, run in found.runs] == [Job().id]
    assert Record(epath.Path(done), "learning").is_done


def lose_the_last(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def double_the_last(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[-1]]


def change_a_number(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(b"0.5", b"0.4"), *lines[1:]]


def flip_to_no_utf8(lines: list[bytes]) -> list[bytes]:
    return [b"\xff" + lines[0][1:], *lines[1:]]


MISSING = "it is missing; the rows beside it are left out"
HARMS = [lose_the_last, double_the_last, change_a_number, flip_to_no_utf8]


@pytest.mark.parametrize("harm", HARMS)
def test_rows_of_a_done_cell_that_changed_are_left_out_and_begun_again(
    harm: Callable[[list[bytes]], list[bytes]], done: pathlib.Path, tmp_path: pathlib.Path
):
    path = done / "learning.jsonl"
    path.write_bytes(b"".join(harm(path.read_bytes().splitlines(keepends=True))))
    assert not Record(epath.Path(done), "learning").is_done
    found = store.survey(tmp_path)
    assert found.rows == []
    assert [problem.path for problem in found.problems] == [epath.Path(path)]
    Record(epath.Path(done), "learning").put_aside(found.problems[0].why)
    assert (done / "learning.jsonl.bad0").exists()
    assert store.survey(tmp_path)[1:] == ([], [])


def test_of_a_cell_that_is_not_done_a_doubled_row_counts_once_and_damage_costs_its_line(
    done: pathlib.Path, tmp_path: pathlib.Path
):
    (done / "learning.done").unlink()
    path = done / "learning.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[2], b"\xff{}\n", b"{}\n", b'{"step": 9, "torn']))
    found = store.survey(tmp_path)
    assert [row["step"] for row in found.rows] == list(range(5))
    assert [problem.why for problem in found.problems] == [
        "2 lines are no row; left out",
        "1 lines stand there twice; left out",
    ]


@pytest.mark.parametrize("text", ["", "{}", '{"rows": 5, "cr', '{"rows": 5, "crc32": "\xff"}'])
def test_a_done_marker_that_is_damaged_marks_nothing(text: str, done: pathlib.Path, tmp_path: pathlib.Path):
    (done / "learning.done").write_bytes(text.encode("latin-1"))
    assert not Record(epath.Path(done), "learning").is_done
    [problem] = store.survey(tmp_path).problems
    assert f"{done}/learning.done is damaged" in problem.why


def test_a_copied_or_renamed_run_counts_once_and_is_told(done: pathlib.Path, tmp_path: pathlib.Path):
    shutil.copytree(done, done.with_name("copy"))
    found = store.survey(tmp_path)
    assert len(found.rows) == 5
    [problem] = found.problems
    assert problem.path == done.with_name("copy") / "job.json"
    assert problem.why.startswith(f"of {Job().id}; the directory was copied or renamed")


def test_rows_that_were_copied_into_another_cell_are_left_out(done: pathlib.Path, tmp_path: pathlib.Path):
    shutil.copy(done / "learning.jsonl", done / "learning copy.jsonl")
    other = store.open_run(tmp_path, Job(seed=1))
    shutil.copy(done / "learning.jsonl", other / "learning.jsonl")
    found = store.survey(tmp_path)
    assert len(found.rows) == 5
    assert [problem.why for problem in found.problems] == ["5 lines are of another cell; left out"] * 2


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "it is empty"),
        ("{}", "it has no mixer, task"),
        ("[1]", "it holds a list"),
        ('{"mixer": "lstm", ', "no JSON"),
        ('{"mixer": "\xff"}', "byte 11 is not UTF-8"),
    ],
)
def test_a_job_that_cannot_be_read_is_told_and_the_others_are_read(
    text: str, word: str, done: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    other = store.open_run(tmp_path, Job(seed=1))
    (other / "job.json").write_bytes(text.encode("latin-1"))
    found = store.survey(tmp_path)
    assert len(found.rows) == 5
    [problem] = found.problems
    assert problem.path == other / "job.json"
    assert word in problem.why
    assert store.open_run(tmp_path, Job(seed=1)) == other, "the job at hand writes it anew"
    assert "job.json is damaged" in capsys.readouterr().err
    assert not store.survey(tmp_path).problems


def test_rows_without_a_job_are_told(done: pathlib.Path, tmp_path: pathlib.Path):
    (done / "job.json").unlink()
    assert store.survey(tmp_path) == ([], [], [store.Problem(epath.Path(done) / "job.json", MISSING)])


def test_a_job_that_was_edited_by_hand_is_not_believed(done: pathlib.Path, tmp_path: pathlib.Path):
    text = (done / "job.json").read_text()
    (done / "job.json").write_text(text.replace('"depth": 2', '"depth": 7'))
    [problem] = store.survey(tmp_path).problems
    assert "its fields are not those that were written" in problem.why
    assert store.load(tmp_path) == []


def test_what_is_no_run_is_no_run(done: pathlib.Path, tmp_path: pathlib.Path):
    store.mark_schema(tmp_path)
    for name in (".DS_Store", "notes.txt", "learning.jsonl~"):
        (tmp_path / "runs" / name).write_text("x")
        (done / name).write_text("x")
    (tmp_path / "runs" / "gone").symlink_to(tmp_path / "nowhere")
    (done / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "runs" / "empty").mkdir()
    found = store.survey(tmp_path)
    assert len(found.rows) == len(store.all_rows(epath.Path(done))) == 5
    assert len(found.runs) == len(store.survey(tmp_path).runs) == 1
    assert not found.problems


def test_a_schema_that_cannot_be_read_is_told_and_written_anew(
    done: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "schema.json").write_text('{"sch')
    assert [problem.path for problem in store.survey(tmp_path).problems] == [tmp_path / "schema.json"]
    assert len(store.load(tmp_path)) == 5
    store.mark_schema(tmp_path)
    assert "schema.json is damaged" in capsys.readouterr().err
    assert not store.survey(tmp_path).problems


def test_lines_of_several_writers_never_mix(run: epath.Path):
    long = "x" * 20_000
    writers = [
        threading.Thread(target=lambda: [Record(run, "k").append({"t": long}) for _ in range(20)]) for _ in "abcd"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert Record(run, "k").rows() == [{"t": long}] * 80


def test_names_have_bounds_and_those_of_ordinary_jobs_stay():
    assert Job(mixer="rglru+rglru+attention:window=256", depth=3).id.startswith(
        "rglru-rglru-attention-window-256-text-t"
    )
    hybrid = "+".join(f"attention:window={16 + number},heads=8,positions=alibi" for number in range(8))
    jobs = [Job(mixer=hybrid, depth=8), Job(mixer=hybrid.replace("23", "24"), depth=8)]
    names = [job.id for job in jobs]
    stems = [stem(f"decode:{hybrid}", "a" * 100, 3, group) for group in (hybrid, hybrid + "x")]
    assert len({*names, *stems}) == 4
    assert max(map(len, names)) <= 120
    # With what stands before and behind it while it is written or locked; 255 bytes is a file system's limit.
    assert max(len(stem) for stem in stems) + len(".cell.__lock") < 250


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("out/quick", "out/quick"),
        ("out/a #1? 100% b/", "out/a #1? 100% b"),
        ("~/x", f"{pathlib.Path.home()}/x"),
        ("file:///x/a%20b", "/x/a b"),
        ("gs://bucket/a", "gs://bucket/a"),
    ],
)
def test_a_directory_is_read_in_one_way(text: str, path: str):
    assert os.fspath(files.root(text)) == path


@pytest.mark.parametrize("text", ["s3://bucket/a", "http://x", "hdfs://x/y", ""])
def test_a_directory_without_a_client_is_refused(text: str):
    with pytest.raises(ValueError, match="wanted a"):
        files.root(text)


@pytest.fixture
def as_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout for object stores, on files: what is asked of the store is there too."""
    monkeypatch.setattr(files, "is_object", lambda path: True)


def test_objects_are_written_once_and_read_in_their_order(as_objects: None, run: epath.Path):
    for step in range(12):
        Record(run, "learning").append({"step": step})
    objects = {path.name: path.stat().mtime for path in (run / "learning.jsonl.d").iterdir()}
    assert len(objects) == 12
    assert Record(run, "learning").rows() == store.all_rows(run) == [{"step": step} for step in range(12)]
    assert len(Record(run, "learning").keep(lambda row: row["step"] < 10)) == 10
    kept = {path.name: path.stat().mtime for path in (run / "learning.jsonl.d").iterdir()}
    assert kept.items() < objects.items(), "what is kept is not touched"
    Record(run, "learning").append({"step": 10})
    assert [row["step"] for row in Record(run, "learning").rows()] == list(range(11))


def test_a_drop_of_objects_that_is_cut_short_loses_nothing_that_is_wanted(as_objects: None, run: epath.Path):
    for step in range(6):
        Record(run, "learning").append({"step": step})

    def wanted(row: Row) -> bool:
        if row["step"] == 4 and len(list((run / "learning.jsonl.d").iterdir())) < 6:
            raise InterruptedError
        return row["step"] < 3

    with pytest.raises(InterruptedError):
        Record(run, "learning").keep(wanted)
    assert [row["step"] for row in Record(run, "learning").rows()] == list(range(5)), "the newest goes first"
