"""A stranger's records: a report of them opens, imports and runs nothing that they name."""

import csv
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
from test_report import CPU, LSTM, describe, put_all, put_learning, put_size, put_time

from suite import learning_rates, parts, spreadsheets
from suite.job import Job
from suite.report import records, results

ROOT = pathlib.Path(__file__).parent.parent
# Runs a program and writes down what it opens, lists, imports or runs of two folders and of a package.
WATCHED = """
import os, runpy, sys
code, native, package, seen, module, *argv = sys.argv[1:]
def watch(event, arguments):
    if event in ("open", "exec", "import", "os.listdir", "os.scandir"):
        at = str(getattr(arguments[0], "co_filename", arguments[0]))
        if at.startswith((code + os.sep, native)) or at.partition(".")[0] == package:
            os.write(log, f"{event} {at}\\n".encode())
log = os.open(seen, os.O_WRONLY | os.O_CREAT)
sys.addaudithook(watch)
sys.argv = [module, *argv]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
# Valid as any part, and leaves a mark wherever it is run.
PART = """
import pathlib
pathlib.Path({mark!r}).write_text("it ran")
QUESTION = TEXTBOOK = RULE = CLAIMED = "mine"
SIZES = {{}}
class Mixer:
    def __init__(self, width, *, key, size: int = 3): ...
class Task:
    size: int = 3
def measure(rig, *, size: int = 3): ...
def cells(scale, rows): return []
def judge(rows, *, bar: float = 0.5):
    from suite.claims import Finding
    return Finding("holds", "measured", "mine was judged", f"above {{bar}}")
def tell(rows, judged, *, bar): return judged
"""


@pytest.fixture
def stranger(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder of a stranger's code: a file, and a package with a module."""
    folder = tmp_path / "theirs"
    (folder / "stranger").mkdir(parents=True)
    for file in ("part.py", "stranger/__init__.py", "stranger/part.py"):
        (folder / file).write_text(PART.format(mark=str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(str(folder))
    return folder


def put_strange_records(root: pathlib.Path, stranger: pathlib.Path) -> None:
    """A small comparison, and records that name the stranger's code wherever a record names a part."""
    put_all(root, CPU)
    describe(root, "quick", True, ["attention", "lstm"], CPU)
    for name in (str(stranger / "part.py"), "stranger.part"):
        for job in (
            Job(mixer=f"{name}:size=4", depth=2),
            Job(mixer=f"attention+{name}", depth=2),
            Job(task=f"{name}:size=5"),
            LSTM.replace(match_to=name),
        ):
            put_time(root, job, 0.1, CPU)
            put_size(root, job, 3e5, 140, CPU)
            put_learning(root, job, 2.0, CPU)
    for stored in (root / "runs").glob("*/*.jsonl"):
        rows = [json.loads(line) for line in stored.read_text().splitlines()]
        if "lstm" in stored.parent.name:
            named = {
                "arm": "stranger.part:size=4",
                "solved": str(stranger / "part.py"),
                "implementation": "stranger.part",
            }
            stored.write_text("".join(json.dumps(row | named) + "\n" for row in rows))
    settings = json.loads((root / "compare.json").read_text())
    settings["claims"] = ["parallelism", str(stranger / "part.py"), "stranger.part", "stranger/part"]
    (root / "compare.json").write_text(json.dumps(settings))
    (root / "cells.txt").write_text("x/stranger.part@y.0\n")
    (root / "cache").mkdir()
    (root / "cache" / "stranger").write_bytes(b"native code")
    (stranger.parent / "ran").unlink(missing_ok=True)  # a Job of a dotted name has imported its package


def watched(
    out: pathlib.Path, stranger: pathlib.Path, module: str, *argv: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What a program does with the stranger's files, or with the folder of native code."""
    seen = stranger.parent / "seen"
    command = [sys.executable, "-c", WATCHED, str(stranger), str(out / "cache"), "stranger", str(seen), module, *argv]
    search = os.pathsep.join([str(ROOT), str(stranger)])
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=stranger, env=os.environ | {"PYTHONPATH": search}, check=False
    )
    return done, seen.read_text().splitlines()


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("launch.report", ["--out=OUT"]),
        ("launch.report", ["--diff", "OUT", "OUT", "--to=TO"]),
        ("launch.compare", ["--status", "--out=OUT"]),
    ],
    ids=["report", "diff", "status"],
)
def test_nothing_that_a_record_names_is_opened_or_run(
    tmp_path: pathlib.Path, stranger: pathlib.Path, module: str, flags: list[str]
):
    out = tmp_path / "out"
    put_strange_records(out, stranger)
    argv = [flag.replace("OUT", str(out)).replace("TO", str(tmp_path / "to")) for flag in flags]
    done, seen = watched(out, stranger, module, *argv)
    assert done.returncode == 0, done.stderr
    assert seen == []
    assert not (tmp_path / "ran").exists()
    assert "Traceback" not in done.stderr


def test_a_claim_of_the_readers_own_is_judged_where_the_command_line_gives_it(
    tmp_path: pathlib.Path, stranger: pathlib.Path
):
    out, mine = tmp_path / "out", str(stranger / "part.py")
    put_strange_records(out, stranger)
    comparison = records.read(out)
    assert [judged.name for judged in comparison.judged] == ["parallelism"]
    for name in (mine, "stranger.part", "stranger/part"):
        assert records.Problem(f"claim {name}", records.NOT_GIVEN) in comparison.problems
    done, seen = watched(out, stranger, "launch.report", f"--out={out}", "--claims=./part.py")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").exists()
    assert not [line for line in seen if "stranger" in line]
    stored = json.loads((out / "report.json").read_text())
    assert [claim["name"] for claim in stored["claims"]] == ["parallelism", "./part.py"]
    assert [claim["verdict"] for claim in stored["claims"]] == ["untested", "holds"]
    comparison = records.read(out, ["stranger.part.bar=0.7"], ["stranger.part"])
    assert [judged.finding.reason for judged in comparison.judged][1:] == ["above 0.7"]


def test_a_stored_spec_is_taken_as_it_stands(stranger: pathlib.Path):
    stored = f"{stranger / 'part.py'}:size=3"
    assert parts.short("suite.mixers", stored) == str(stranger / "part.py")
    with parts.reading_records():
        assert parts.short("suite.mixers", stored) == parts.canonical("suite.mixers", stored) == stored
        assert parts.short("suite.mixers", "attention:heads=4+stranger.part") == "attention+stranger.part"
        for read in (parts.source, parts.knobs, parts.load):
            with pytest.raises(LookupError, match="what else records name is not opened"):
                read("suite.mixers", str(stranger / "part.py"))


FORMULAS = (
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1+1",
    "\uff1d1+1",
    "=cmd|'/C calc'!A1",
    "'=1",
    "''",
)
PLAIN = ("", "a\r=1", "a\n=1", "attention:heads=8", "lstm", "a'b", "1e-3 3e-3", "not derived: -1", "x=1", "c@d")


@pytest.mark.parametrize("cell", [*FORMULAS, *PLAIN])
def test_a_text_is_no_formula_of_a_spreadsheet_and_comes_back_as_it_was(cell: str):
    written = spreadsheets.text(("text", "number", "other"), [(cell, -1.5, cell), (cell, 3, "")])
    lines = list(csv.reader(io.StringIO(written, newline="")))
    assert [line[0] for line in lines[1:]] == ([f"'{cell}"] * 2 if cell in FORMULAS else [cell] * 2)
    assert [line[1] for line in lines] == ["number", "-1.5", "3"]
    assert spreadsheets.read(written)[1] == [cell, "-1.5", cell]


def test_what_a_record_says_is_no_formula_in_the_table(tmp_path: pathlib.Path):
    put_learning(tmp_path, LSTM, -2.0, CPU | {"device_kind": "=1+1", "implementation": "@x"})
    comparison = records.read(tmp_path)
    columns, first, *_ = spreadsheets.read(results.text(comparison.every_row))
    line = dict(zip(columns, first, strict=True))
    assert (line["device_kind"], float(line["value"])) == ("=1+1", -1.0)
    assert "'=1+1" in results.text(comparison.every_row)


def test_a_table_of_rates_comes_back_as_it_was_written():
    lines = learning_rates.table()
    strange = [dataclasses.replace(lines[0], arm="=evil", task="-task", device_kind="@kind", score=-0.5), *lines[1:]]
    assert list(learning_rates.read(learning_rates.text(strange))) == strange
    assert learning_rates.read(learning_rates.TABLE.read_text()) == lines
    assert learning_rates.text(lines) == learning_rates.TABLE.read_text()
