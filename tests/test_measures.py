"""What every measure must hold: each file of the folder is run on one tiny job, as a worker runs it."""

import collections
import math
import pathlib
import re

import pytest
from counters import moving
from programs import run_here
from test_report import CPU, put

from suite import declarations, energy, parts, report
from suite.job import Job
from suite.report import records, results
from suite.sweep import exit_codes, store
from suite.sweep.record import Row

NAMES = parts.names("suite.measures")
NOT_PLACED = [name for name in NAMES if not parts.constant("suite.measures", name, "PLACED")]
JOB = Job(mixer="lstm", match_to="attention", task="recall:pairs=1,vocab=16", width=16, depth=1, length=12, batch=8)
JOB = JOB.replace(steps=2, validate_every=2, record_every=1, validation_examples=8, test_examples=8)
TEXT = JOB.replace(task="text")
ON_TEXT = ("strata",)  # measures that want it
ON_COUNTERS = ("energy",)  # which few machines let a test read
ASKED = {"length_accuracy": {"depths": 1}}  # what is measured only where a knob asks for it

MINE = '''
"""The square of each number up to some number."""

NEEDS = ()
PLACED = False
RESUMES = False
SECONDS = "most / 100"
CONDITIONS = {"number": "1", "read": "tokens"}
QUANTITIES = {"squares": {"square": "1 as square_of_{number}", "cost": "s per read"}}
BOUNDS = {"most": (1, 100)}


def measure(rig, *, most: int = 3):
    for number in range(1, most + 1):
        yield {"phase": "squares", "number": number, "read": 4, "square": number**2, "cost": 2.0, "outcome": "ok"}
'''


def smallest(name: str) -> str:
    """A measure with each number at the least that its BOUNDS allow."""
    if not parts.knobs("suite.measures", name):
        return name
    least = {knob: low for knob, (low, _) in parts.constant("suite.measures", name, "BOUNDS").items()}
    asked = least | ASKED.get(name, {})
    return parts.short("suite.measures", parts.with_knobs("suite.measures", name, asked))


def rows_of(out: pathlib.Path, name: str) -> list[Row]:
    return [row for row in store.load(out) if parts.split(row["measure"])[0] == name]


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory, data_dir: pathlib.Path) -> list[pathlib.Path]:
    """A directory with every measure of a job, and another with those again that do not depend on the place."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    for out, names in ((first, NAMES), (second, NOT_PLACED)):
        measures = [smallest(name) for name in names if name not in (*ON_TEXT, *ON_COUNTERS)]
        assert run_here(out, JOB, *measures) == exit_codes.DONE
        assert run_here(out, TEXT, "learning", *ON_TEXT, data_dir=data_dir) == exit_codes.DONE
    powercap = tmp_path_factory.mktemp("powercap")
    with pytest.MonkeyPatch.context() as patch, moving(powercap):
        patch.setattr(energy, "POWERCAP", powercap)
        assert run_here(first, JOB, *map(smallest, ON_COUNTERS)) == exit_codes.DONE
    return [first, second]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_declares_is_read_without_running_it(name: str):
    declarations.check(name)
    module, _ = parts.load("suite.measures", name)
    for constant in parts.BESIDE["suite.measures"]:
        assert parts.constant("suite.measures", name, constant) == getattr(module, constant)


@pytest.mark.parametrize("name", NAMES)
def test_every_phase_and_quantity_that_is_declared_is_measured(name: str, outs: list[pathlib.Path]):
    measured: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows_of(outs[0], name):
        assert row["outcome"] == "ok"
        measured[row["phase"]] |= row.keys()
    quantities = declarations.columns(name).quantities
    assert measured.keys() == quantities.keys()
    assert all(measured[phase] >= columns.keys() for phase, columns in quantities.items())


@pytest.mark.parametrize("name", NOT_PLACED)
def test_two_runs_agree_in_all_but_seconds_unless_the_place_decides(name: str, outs: list[pathlib.Path]):
    quantities = declarations.columns(name).quantities
    first, second = (
        [
            {column: value for column, value in row.items() if not _is_time(quantities[row["phase"]], column)}
            for row in rows_of(out, name)
        ]
        for out in outs
    )
    assert first == second


def _is_time(quantities: dict[str, declarations.Quantity], column: str) -> bool:
    return column in quantities and quantities[column].unit == "s"


@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_finite_and_told_apart_in_the_table(name: str, outs: list[pathlib.Path]):
    for phase in declarations.columns(name).quantities:
        rows = [row for row in rows_of(outs[0], name) if row["phase"] == phase]
        lines = results.table([row for row in rows if "turn" not in row])
        assert all(math.isfinite(line["value"]) for line in lines)
        conditions = {tuple(value for column, value in line.items() if column not in ("value", "n")) for line in lines}
        assert len(conditions) == len(lines)


def test_where_a_need_has_diverged_a_row_says_so_and_nothing_crashes(tmp_path: pathlib.Path, data_dir: pathlib.Path):
    names = [name for name in NAMES if parts.constant("suite.measures", name, "NEEDS")]
    for job, measures in ((JOB, [name for name in names if name not in ON_TEXT]), (TEXT, ON_TEXT)):
        diverging = job.replace(learning_rate=1e30)
        assert run_here(tmp_path, diverging, "learning", *measures, data_dir=data_dir) == exit_codes.DONE
        assert rows_of(tmp_path, "learning")[-1]["outcome"] == "diverged"
    for name in names:
        [row] = rows_of(tmp_path, name)
        assert (row["phase"], row["outcome"]) == (declarations.columns(name).first, "diverged")


def test_a_measure_of_ones_own_is_in_the_table_and_in_the_report(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("mine.py").write_text(MINE)
    declarations.check("./mine.py:most=2")
    assert declarations.seconds("./mine.py:most=2", JOB, step=1.0, compilation=1.0) == 0.02
    assert run_here(tmp_path / "out", JOB, "./mine.py:most=2") == exit_codes.DONE
    pathlib.Path("mine.py").unlink()  # no report opens it
    report.write("out")
    lines = {line["metric"]: line["value"] for line in results.table(store.load("out"))}
    assert lines == {"square_of_1": 1, "square_of_2": 4, "squares_cost": 0.5}
    text = pathlib.Path("out/report.md").read_text()
    assert "./mine.py:most=2 (not judged)" in text
    assert "cost (s / read)" in text


DECLARED = {"CONDITIONS": {"number": "1"}, "QUANTITIES": {"squares": {"square": "1 per number"}}}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({}, "they do not say which columns were measured"),
        ({"columns": 7}, "wanted CONDITIONS as in"),
        ({"columns": DECLARED | {"QUANTITIES": {"squares": {"square": 1}}}}, "wanted QUANTITIES of phase squares"),
        ({"columns": DECLARED}, "a row lacks a condition: 'number'"),
        ({"columns": DECLARED, "number": 0}, "a row lacks a condition: .*zero"),
        ({"columns": DECLARED, "number": "two"}, "a row lacks a condition"),
    ],
)
def test_rows_of_an_own_measure_that_cannot_be_read_are_left_out_with_the_reason(
    tmp_path: pathlib.Path, row: Row, why: str
):
    put(tmp_path, JOB, "./mine.py", [{"phase": "squares", "square": 4.0, **row}], CPU)
    comparison = records.read(tmp_path)
    assert comparison.rows == []
    [problem] = [problem for problem in comparison.problems if problem.where == "rows of ./mine.py"]
    assert re.search(f"{why}.*; left out$", problem.why)


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("NEEDS = ()", "", r"mine\.py defines no NEEDS .*suite/measures/__init__\.py says what it is"),
        ('"most / 100"', "time()", r"defines no SECONDS that can be read without running the file"),
        ('"most / 100"', '"least / 100"', r"cannot compute 'least / 100'; wanted .* step"),
        ("NEEDS = ()", 'NEEDS = ("lerning",)', r"no measure 'lerning'; did you mean 'learning'"),
        ("PLACED = False", "PLACED = 0", r"PLACED and RESUMES as True or False"),
        ('{"squares": {', '{"squares": [', "mine.py, line"),
        ('"s per read"', '"s per token"', r"'s per token' of cost names token; wanted names of CONDITIONS"),
        ("{number}", "{count}", r"of square names count; wanted names of CONDITIONS"),
        ('"s per read"', '"seconds a token"', r"cannot read 'seconds a token' of cost"),
        ('"cost"', '"width"', r"columns have the names of fields of a job, .*: width"),
    ],
)
def test_declarations_that_cannot_be_used_are_refused_in_a_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, error: str
):
    monkeypatch.chdir(tmp_path)
    assert before in MINE
    pathlib.Path("mine.py").write_text(MINE.replace(before, after, 1))
    with pytest.raises((LookupError, ValueError), match=error) as raised:
        declarations.check("./mine.py")
    assert len(str(raised.value.args[0]).splitlines()) == 1


def test_a_column_that_is_not_declared_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("mine.py").write_text(MINE.replace('"cost": 2.0', '"price": 2.0'))
    with pytest.raises(ValueError, match=r"\./mine\.py: columns that neither CONDITIONS nor QUANTITIES name: price"):
        run_here(tmp_path / "out", JOB, "./mine.py")
