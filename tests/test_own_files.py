"""A user's own files: what they are called, what is known of them, and what happens when they change."""

import pathlib
import sys

import pytest

from suite import parts, user_files
from suite.job import Cell, Job

MINE = """
class Mixer:
    def __init__(self, width, *, key, size: int = 3):
        pass
"""


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A working directory with an own file in it."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which folders of own files are added
    return tmp_path


def test_an_own_file_has_a_hash_and_the_suites_have_none(here: pathlib.Path):
    assert Job(mixer="lstm+attention", match_to="gru").own_files() == {}
    first = Job(mixer="lstm+./mine.py:size=2").own_files()
    assert first.keys() == {"./mine.py"}
    (here / "mine.py").write_text(MINE + "\n# changed\n")
    second = Job(match_to="./mine.py").own_files()
    assert first.keys() == second.keys()
    assert first != second


def test_an_own_file_inside_the_checkout_has_a_hash_too(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(user_files, "SUITE", here / "suite")
    assert parts.own_files("suite.mixers", "./mine.py").keys() == {"./mine.py"}


def test_files_that_an_own_file_imports_are_among_them(here: pathlib.Path):
    (here / "near.py").write_text("import numpy\nfrom deeper import thing\n")
    (here / "deeper").mkdir()
    (here / "deeper" / "__init__.py").write_text("import mine\nthing = 1\n")
    (here / "random.py").write_text("the library's is meant")
    (here / "mine.py").write_text(f"import random\n{MINE}        import near\n")
    assert Job(mixer="./mine.py").own_files().keys() == {"./mine.py", "./near.py", "./deeper/__init__.py"}


def test_an_own_measure_counts_for_its_cell_alone(here: pathlib.Path):
    (here / "mine.py").write_text("def measure(rig): ...")
    cell = Cell(Job(mixer="lstm"), "./mine.py")
    assert cell.own_files().keys() == {"./mine.py"}
    assert cell.job.own_files() == {}


@pytest.mark.parametrize(
    "spelling", ["./mine.py", "mine.py", "./mine", "{}/mine.py", "./linked.py", "./sub/../mine.py"]
)
def test_a_file_is_one_arm_however_it_is_spelt(here: pathlib.Path, spelling: str):
    (here / "linked.py").symlink_to(here / "mine.py")
    (here / "sub").mkdir()
    assert parts.short("suite.mixers", spelling.format(here)) == "./mine.py"
    assert Job(mixer=f"{spelling.format(here)}:size=5").id == Job(mixer="./mine.py:size=5").id


def test_a_file_of_the_suite_is_its_part_however_it_is_spelt():
    assert parts.short("suite.mixers", str(parts.source("suite.mixers", "lstm"))) == "lstm"
    assert parts.short("suite.mixers", "suite.mixers.lstm") == "lstm"


def test_a_file_elsewhere_is_named_from_the_root(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    (here / "sub").mkdir()
    monkeypatch.chdir(here / "sub")
    assert parts.short("suite.mixers", "../mine.py") == f"{here}/mine.py"


def test_a_path_may_have_an_equals_sign(here: pathlib.Path):
    (here / "mine.py").rename(here / "a=b.py")
    assert parts.split_list("attention:heads=8,window=4,./a=b.py:size=4,lstm") == [
        "attention:heads=8,window=4",
        "./a=b.py:size=4",
        "lstm",
    ]
    assert parts.knobs("suite.mixers", "./a=b.py:size=4") == {"size": 4}


DEFAULTS = """# -*- coding: latin-1 -*-
SIZE: int = 6  # r\xe9sum\xe9
class Mixer:
    def __init__(
        self, width, *, key, third: float = 1 / 3, size: int = SIZE * 2, eight: int = 2**3, low: float = -1.5,
        nothing: float | None = None, pair: tuple = (1, 2), made: int = len("abc"), lost: int = UNKNOWN, inverse=1 / 0,
    ):
        pass
"""


def test_a_default_may_be_an_expression_in_a_file_of_any_encoding(here: pathlib.Path):
    (here / "mine.py").write_bytes(DEFAULTS.encode("latin-1"))
    assert parts.knobs("suite.mixers", "./mine.py") == {"third": 1 / 3, "size": 12, "eight": 8, "low": -1.5}
    full = parts.canonical("suite.mixers", "./mine.py")
    assert parts.short("suite.mixers", full) == "./mine.py"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere_at_all\n", r"^\./mine\.py, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'$"),
        ("x = 1\nfrom .near import thing\n", r"^\./mine\.py, line 2: ImportError: .*; import it by its name alone"),
        ("\n{}['there']\n", r"^\./mine\.py, line 2: KeyError: 'there'$"),
        ("import sys\nsys.exit('enough')\n", r"^\./mine\.py, line 2: SystemExit: enough$"),
        ("def f():\n    return 1 / 0\nf()\n", r"^\./mine\.py, line 2: ZeroDivisionError: division by zero$"),
        ("import broken\n", r"broken\.py, line 1: invalid syntax"),
        ("import failing\n", r"^\./failing\.py, line 1: IndexError"),
    ],
)
def test_what_goes_wrong_in_an_own_file_is_said_in_a_line_with_its_place(here: pathlib.Path, text: str, said: str):
    (here / "failing.py").write_text("[][0]\n")
    (here / "broken.py").write_text("1 +* 2\n")
    (here / "mine.py").write_text(text + MINE)
    with pytest.raises(ValueError, match=said):
        parts.load("suite.mixers", "./mine.py")
    with pytest.raises(ValueError, match=said):  # nothing half imported is left
        parts.load("suite.mixers", "./mine.py")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# -*- coding: klingon -*-\n", r"mine\.py, line 1: .*klingon"),
        (b"# \xff\xfe\n", r"mine\.py"),
        (b"\x00", r"mine\.py, line 1: .*null bytes"),
    ],
)
def test_what_is_no_text_is_said_in_a_line(here: pathlib.Path, content: bytes, said: str):
    (here / "mine.py").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        parts.knobs("suite.mixers", "./mine.py")


def test_a_file_beside_an_own_one_is_imported_and_none_in_its_place(here: pathlib.Path):
    for folder, number in (("one", 1), ("two", 2)):
        (here / folder).mkdir()
        (here / folder / "beside_an_own_file.py").write_text(f"NUMBER = {number}\n")
        (here / folder / "mine.py").write_text(f"import beside_an_own_file\n{MINE}")
    assert parts.load("suite.mixers", "./one/mine.py")[0].beside_an_own_file.NUMBER == 1
    with pytest.raises(
        ValueError, match=r"^\./two/mine\.py imports beside_an_own_file and gets .*one/beside.*another name"
    ):
        parts.load("suite.mixers", "./two/mine.py")


def test_the_hash_is_that_of_what_was_imported(here: pathlib.Path):
    first = parts.own_files("suite.mixers", "./mine.py")
    parts.load("suite.mixers", "./mine.py")
    (here / "mine.py").write_text(MINE + "# edited while it runs\n")
    assert parts.own_files("suite.mixers", "./mine.py") == first
