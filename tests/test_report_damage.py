"""A report of a damaged directory: what can be read is reported, and what cannot is listed; nothing is a traceback."""

import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Callable

import pytest
from test_report import CPU, GPU, JOB, LSTM, describe, launch, put_answers, put_pair, put_size, put_time

from suite import parts, report
from suite.report import diff, records, results
from suite.sweep import store
from suite.sweep.record import Record, stem

ENVIRONMENT = {"python": "3.11.0", "platform": "Linux", "cpu": "Some CPU", "cores": 2, "memory_bytes": 1 << 30}
ENVIRONMENT |= {"packages": {"jax": "0.10.2"}, "variables": {}, "commit": "abc", "source": "0123456789abcdef"}
ATTENTION_RUN, LSTM_RUN = f"runs/{JOB.id}", f"runs/{LSTM.id}"


def put_whole(root: pathlib.Path) -> None:
    """Two runs of done cells and all the small files that a comparison has."""
    root.mkdir(exist_ok=True)
    store.mark_schema(root)
    for job in (JOB, LSTM):
        put_size(root, job, 3e5, 140, CPU)
        put_answers(root, job, 0.5, CPU)
        put_time(root, job, 0.1, CPU)
        run = store.run_path(root, job)
        for stored in run.glob("*.jsonl"):
            Record(run, stored.name.removesuffix(".jsonl")).mark_done()
        (run / "env.json").write_text(json.dumps(ENVIRONMENT))
    describe(root, "quick", True, ["attention", "lstm"], CPU)
    (root / "compare.flags").write_text("--scale=quick\n")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("whole")
    put_whole(root)
    for path in root.rglob("env.json"):  # the newest is shown, by the second: what is harmed then is newer
        os.utime(path, (1, 1))
    return root


def drawn(root: pathlib.Path) -> tuple[records.Comparison, str]:
    """The records, and the texts of their report without its pictures."""
    comparison = records.read(root)
    with parts.reading_records():
        page = report.compose(comparison)
        texts = [page.html(), page.markdown(), results.text(comparison.every_row)]
        strict = json.loads(report.as_json(comparison, page.headline), parse_constant=pytest.fail)
        sections_of_both = diff.compose(comparison, comparison)
    assert [problem["where"] for problem in strict["problems"]] == [problem.where for problem in comparison.problems]
    return comparison, "\n".join([*texts, sections_of_both.markdown()])


def emptied(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def cut(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def braces(path: pathlib.Path) -> None:
    path.write_text("{}")


def a_list(path: pathlib.Path) -> None:
    path.write_text("[1, 2]")


def one_byte(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] = 0xFF
    path.write_bytes(content)


def zeros(path: pathlib.Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def a_directory(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


def a_dangling_link(path: pathlib.Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = (emptied, cut, braces, one_byte, a_directory, a_dangling_link)
LEARNING = f"{LSTM_RUN}/learning.jsonl"
TIMES = f"{LSTM_RUN}/{stem('step_time:blocks=3', CPU['place'])}.jsonl"
# Each, and how a report names it: a done marker stands for its rows.
FILES = {name: name for name in ("schema.json", "compare.json", f"{LSTM_RUN}/job.json", f"{LSTM_RUN}/env.json")}
FILES |= {LEARNING: LEARNING, TIMES: TIMES, LEARNING.replace("jsonl", "done"): LEARNING}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.rpartition("/")[2])
def test_what_is_damaged_is_listed_and_the_others_are_reported(
    whole: pathlib.Path, tmp_path: pathlib.Path, file: str, damage: Callable[[pathlib.Path], None]
):
    root = tmp_path / "out"
    shutil.copytree(whole, root)
    damage(root / file)
    comparison, text = drawn(root)
    assert {row["arm"] for row in comparison.rows} >= {"attention"}
    if damage is a_dangling_link and file.endswith("json") and not file.endswith("job.json"):
        assert comparison.problems == ()  # as if it were not there
    else:
        [problem] = comparison.problems
        assert problem.where in (file, FILES[file])
        assert "Left out of" in text
        assert problem.where in text


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", ["compare.flags", f"{LSTM_RUN}/job.flags", f"{LSTM_RUN}/.cell", "cells.txt"])
def test_a_damage_of_what_no_number_rests_on_stops_no_report(
    whole: pathlib.Path, tmp_path: pathlib.Path, file: str, damage: Callable[[pathlib.Path], None]
):
    root = tmp_path / "out"
    shutil.copytree(whole, root)
    (root / file).write_text("--scale=quick\n")
    damage(root / file)
    comparison, _ = drawn(root)
    assert comparison.problems == ()
    assert len(comparison.rows) == len(records.read(whole).rows)


def test_stray_files_are_ignored(whole: pathlib.Path, tmp_path: pathlib.Path):
    root = tmp_path / "out"
    shutil.copytree(whole, root)
    run = root / LSTM_RUN
    for name in ("runs/.DS_Store", "runs/notes.txt", f"{LSTM_RUN}/.DS_Store", f"{LSTM_RUN}/learning.jsonl~"):
        (root / name).write_bytes(b"\xff\x00")
    for name in ("learning.jsonl.bak", "learning (copy).txt", ".learning.jsonl.swp", "size.jsonl.orig"):
        shutil.copy(run / "learning.jsonl", run / name)
    for name in ("runs/link", f"{LSTM_RUN}/link.txt", f"{LSTM_RUN}/link"):
        (root / name).symlink_to("nowhere")
    (root / "runs" / "empty").mkdir()
    comparison, _ = drawn(root)
    assert (comparison.problems, comparison.rows) == ((), records.read(whole).rows)


@pytest.mark.parametrize(
    ("written", "damaged"), [(b'"ok"', b'"o\xff"'), (b"0.1", b"NaN"), (b"0.1", b"-Infinity"), (b'"ok"', 5000 * b"[")]
)
def test_a_line_that_is_none_costs_no_other(
    whole: pathlib.Path, tmp_path: pathlib.Path, written: bytes, damaged: bytes
):
    root = tmp_path / "out"
    shutil.copytree(whole, root)
    (root / TIMES.replace("jsonl", "done")).unlink()  # still being measured
    lines = (root / TIMES).read_bytes().splitlines(keepends=True)
    assert written in lines[1]
    lines[1] = lines[1].replace(written, damaged, 1)
    (root / TIMES).write_bytes(b"".join(lines))
    comparison, _ = drawn(root)
    assert comparison.problems == (records.Problem(TIMES, "1 lines are no row; left out"),)
    assert len(comparison.rows) == len(records.read(whole).rows) - 1


def test_a_copied_a_renamed_and_a_foreign_run_are_listed(whole: pathlib.Path, tmp_path: pathlib.Path):
    root = tmp_path / "out"
    shutil.copytree(whole, root)
    shutil.copytree(root / LSTM_RUN, root / "runs" / "copy")
    shutil.copytree(root / LSTM_RUN, root / "runs" / "<b>moved")
    comparison, text = drawn(root)
    assert [problem.where for problem in comparison.problems] == ["runs/<b>moved/job.json", "runs/copy/job.json"]
    assert all("copied or renamed" in problem.why for problem in comparison.problems)
    assert comparison.rows == records.read(whole).rows
    assert "runs/&lt;b&gt;moved/job.json" in text


@pytest.mark.parametrize(
    ("field", "value"),
    [("mixer", "attention:knob=3"), ("mixer", "attention+"), ("task", "text:corpus"), ("match_to", "lstm:a=1,a=2")],
)
def test_a_run_of_specs_that_this_version_cannot_read_is_listed(
    whole: pathlib.Path, tmp_path: pathlib.Path, field: str, value: str
):
    root = tmp_path / "out"
    shutil.copytree(whole, root)
    path = root / LSTM_RUN / "job.json"
    stored = json.loads(path.read_text()) | {field: value}
    fields = {name: stored[name] for name in stored if name not in ("id", "crc32")}
    checksum = zlib.crc32(json.dumps(fields, sort_keys=True).encode())  # as another version wrote it
    path.write_text(json.dumps(stored | {"crc32": checksum}))
    comparison, _ = drawn(root)
    [problem] = comparison.problems
    assert problem.where == LSTM_RUN
    assert {row["run_id"] for row in comparison.rows} == {JOB.id}


def test_rows_of_two_versions_are_said_to_be(whole: pathlib.Path, tmp_path: pathlib.Path):
    root = tmp_path / "out"
    shutil.copytree(whole, root)
    for file in (LEARNING, LEARNING.replace("jsonl", "done")):
        (root / file).unlink()
    put_answers(root, LSTM, 0.5, CPU | {"source": "another", "jax": "0.12.0"})
    comparison, text = drawn(root)
    jax, source = comparison.problems
    assert source.why == "taken with 2 versions of the source; a fresh --out has one"
    assert jax.why == "taken with 2 versions of JAX; a fresh --out has one"
    assert jax.why in text


def test_without_a_comparison_there_is_no_evidence(tmp_path: pathlib.Path):
    """A directory whose compare.json is lost may be of any scale, and single jobs are of none."""
    put_pair(tmp_path, 20.0)
    describe(tmp_path, "quick", True, ["attention", "lstm"], GPU)
    comparison, _ = drawn(tmp_path)
    assert (comparison.evidence, comparison.judged[0].finding.verdict) == (True, "holds")
    for lose in (pathlib.Path.unlink, emptied):
        lose(tmp_path / "compare.json")
        comparison, text = drawn(tmp_path)
        [parallelism] = [judged.finding for judged in comparison.judged if judged.name == "parallelism"]
        assert (comparison.evidence, parallelism.verdict) == (False, "untested")
        assert parallelism.reason.startswith(f"{records.NO_SCALE}; ")
        assert f"No claim can be decided here: {records.NO_SCALE}." in text
        (tmp_path / "compare.json").touch()


def test_problems_stand_in_every_format_and_on_the_terminal(tmp_path: pathlib.Path):
    root, to = tmp_path / "out", tmp_path / "to"
    put_whole(root)
    emptied(root / LSTM_RUN / "job.json")
    settings = json.loads((root / "compare.json").read_text())
    hostile = "<script>alert(1)</script>[x](javascript:1)|\x1b[2J\n# .py"
    (root / "compare.json").write_text(json.dumps(settings | {"claims": [hostile]}))
    before = sorted(root.rglob("*"))
    done = launch(f"--out={root}", f"--to={to}")
    assert done.returncode == 0
    assert sorted(root.rglob("*")) == before  # it may only be read
    damaged, claim = f"runs/{LSTM.id}/job.json: it is empty", ascii(hostile)[1:-1]
    assert sorted(done.stderr.splitlines()) == [
        f"crossover: claim {claim}: {records.NOT_GIVEN}",
        f"crossover: {damaged}",
    ]
    drawn_report = json.loads((to / "report.json").read_text())
    assert drawn_report["problems"] == [
        {"where": f"claim {hostile}", "why": records.NOT_GIVEN},
        {"where": f"runs/{LSTM.id}/job.json", "why": "it is empty"},
    ]
    shown, text = (to / "report.html").read_text(), (to / "report.md").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "<script>alert" not in shown
    assert r"\<script\>alert(1)\</script\>\[x\](javascript:1)\|" in text
    assert "it is empty" in shown
    assert "it is empty" in text
    assert [path.name for path in to.iterdir()]
    done = launch("--diff", str(root), str(root), f"--to={to}")
    assert sorted(done.stderr.splitlines())[1] == f"crossover: A: {damaged}"
    assert "it is empty" in (to / "diff.html").read_text()


def test_what_cannot_be_written_says_where_else(tmp_path: pathlib.Path):
    put_size(tmp_path, JOB, 3e5, 140, CPU)
    (tmp_path / "file").touch()
    done = launch(f"--out={tmp_path}", f"--to={tmp_path / 'file' / 'below'}")
    assert (done.returncode, done.stderr.count("\n")) == (70, 1)
    assert "--to=DIRECTORY writes it elsewhere" in done.stderr
