"""A user's own files: what they are called, what is known of them, and what happens when they change."""

import pathlib

import pytest

from suite import parts
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
    parts._hash.cache_clear()
    return tmp_path


def test_an_own_file_has_a_hash_and_the_suites_have_none(here: pathlib.Path):
    assert Job(mixer="lstm+attention", match_to="gru").own_files() == {}
    first = Job(mixer="lstm+./mine.py:size=2").own_files()
    assert first.keys() == {"./mine.py"}
    (here / "mine.py").write_text(MINE + "\n# changed\n")
    parts._hash.cache_clear()
    second = Job(match_to="./mine.py").own_files()
    assert first.keys() == second.keys()
    assert first != second


def test_an_own_file_inside_the_checkout_has_a_hash_too(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "SUITE", here / "suite")
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
