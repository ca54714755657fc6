"""Specs, and what they name."""

import pathlib
import subprocess
import sys

import pytest

from suite import parts

FOLDERS = sorted(parts.ENTRY)
MINE = """
class Mixer:
    def __init__(self, width, *, key, size: int = 3, leaky: bool = False, rate: float = 0.5, kind: str = ""):
        pass
"""
# Specs and their short form, where every knob stands that differs from its default.
SPECS = {
    "lstm": "lstm",
    "attention": "attention",
    "attention:window=256": "attention:window=256",
    "attention:window=256,heads=8": "attention:heads=8,window=256",
    "attention:heads=4,positions=rope": "attention",
    "mingru:implementation=auto+attention:window=8+lstm": "mingru+attention:window=8+lstm",
}


@pytest.fixture
def mine(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return str(path)


def test_every_file_of_every_folder_is_a_part_with_knobs():
    for folder in FOLDERS:
        for name in parts.names(folder):
            knobs = parts.knobs(folder, name)
            assert all(isinstance(value, bool | int | float | str) for value in knobs.values()), (folder, name)


def test_every_mixer_and_task_can_be_loaded():
    for folder in ("suite.mixers", "suite.tasks"):
        for name in parts.names(folder):
            module, knobs = parts.load(folder, name)
            assert hasattr(module, parts.ENTRY[folder])
            assert knobs == parts.knobs(folder, name)


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_survives_being_completed_and_shortened(spec: str):
    full = parts.canonical("suite.mixers", spec)
    assert parts.canonical("suite.mixers", full) == full
    assert parts.short("suite.mixers", full) == SPECS[spec] == parts.short("suite.mixers", spec)
    assert parts.canonical("suite.mixers", parts.short("suite.mixers", full)) == full


def test_a_canonical_spec_spells_out_every_knob():
    for name in parts.names("suite.mixers"):
        _, given = parts.split(parts.canonical("suite.mixers", name))
        said = {knob for knob, value in parts.knobs("suite.mixers", name).items() if value != ""}
        assert set(given) == said


def test_an_argument_that_the_suite_fills_in_is_no_knob():
    for name in parts.names("suite.tasks"):
        assert not {"length", "seed", "data_dir", "vocab_size"} & parts.knobs("suite.tasks", name).keys()
    with pytest.raises(LookupError, match="no knob 'seed'"):
        parts.knobs("suite.tasks", "recall:seed=3")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_misspelt_name_lists_the_known_ones(folder: str):
    with pytest.raises(LookupError) as raised:
        parts.knobs(folder, "nobody")
    known = parts.names(folder)
    assert str(raised.value).endswith(f"known: {', '.join(known) if known else 'none'}")


def test_a_near_miss_is_suggested():
    with pytest.raises(LookupError, match=r"^no mixer 'lstmm'; did you mean 'lstm'\? known: .*attention.*lstm"):
        parts.load("suite.mixers", "lstmm")
    with pytest.raises(LookupError, match=r"^'attention' has no knob 'head'; did you mean 'heads'\? known: .*window"):
        parts.load("suite.mixers", "attention:head=4")
    with pytest.raises(LookupError, match=r"^'parity' has no knob 'length'; known: none$"):
        parts.load("suite.tasks", "parity:length=4")


@pytest.mark.parametrize(
    "spec", ["attention:heads", "attention:heads=", "attention:=4", "attention:heads=4,", ":heads=4", "", "a++b", "a+"]
)
def test_what_is_no_spec_says_what_one_is(spec: str):
    with pytest.raises(ValueError, match="wanted name"):
        parts.canonical("suite.mixers", spec)


def test_a_knob_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="'heads' stands twice"):
        parts.knobs("suite.mixers", "attention:heads=4,heads=8")


def test_a_value_takes_the_type_of_its_default(mine: str):
    assert parts.knobs("suite.mixers", f"{mine}:size=7,leaky=true,rate=2,kind=b") == {
        "size": 7,
        "leaky": True,
        "rate": 2.0,
        "kind": "b",
    }
    for spec, wanted in {"size=7.5": "int", "leaky=1": "true or false", "rate=fast": "float"}.items():
        with pytest.raises(ValueError, match=f"wants {wanted}, not"):
            parts.knobs("suite.mixers", f"{mine}:{spec}")


def test_a_users_own_file_is_a_part(mine: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(pathlib.Path(mine).parent)
    module, knobs = parts.load("suite.mixers", "./mine.py:size=5")
    assert module.Mixer.__name__ == "Mixer"
    assert knobs == {"size": 5, "leaky": False, "rate": 0.5, "kind": ""}
    assert parts.short("suite.mixers", parts.canonical("suite.mixers", "./mine.py:size=5")) == "./mine.py:size=5"


def test_a_users_own_file_is_loaded_once(mine: str):
    again, _ = parts.load("suite.mixers", f"{mine}:size=8")
    assert parts.load("suite.mixers", mine)[0] is again


def test_a_users_own_file_that_changed_is_read_again(mine: str):
    assert parts.knobs("suite.mixers", mine)["size"] == 3
    pathlib.Path(mine).write_text(MINE.replace("size: int = 3", "size: int = 44"))
    assert parts.knobs("suite.mixers", mine)["size"] == 44


def test_a_module_is_a_part(mine: str, monkeypatch: pytest.MonkeyPatch):
    package = pathlib.Path(mine).parent / "their_lab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    pathlib.Path(mine).rename(package / "fast.py")
    monkeypatch.syspath_prepend(str(package.parent))
    module, knobs = parts.load("suite.mixers", "their_lab.fast:size=2")
    assert (module.__name__, knobs["size"]) == ("their_lab.fast", 2)
    assert parts.source("suite.mixers", "their_lab.fast") == package / "fast.py"


def test_what_lies_nowhere_is_said_to_lie_nowhere():
    with pytest.raises(LookupError, match=r"^no file \./nowhere\.py"):
        parts.load("suite.mixers", "./nowhere.py")
    with pytest.raises(LookupError, match=r"no module 'nowhere\.at_all' can be imported"):
        parts.load("suite.mixers", "nowhere.at_all")


def test_a_file_without_the_class_or_with_a_slip_says_so(tmp_path: pathlib.Path):
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(LookupError, match=r"empty\.py defines no Mixer"):
        parts.knobs("suite.mixers", str(path))
    path.write_text("\nclass Mixer(:\n")
    with pytest.raises(ValueError, match=r"empty\.py, line 2: "):
        parts.knobs("suite.mixers", str(path))


def test_a_pattern_gives_its_parts():
    assert parts.pattern("lstm+lstm+attention:window=256") == ["lstm", "lstm", "attention:window=256"]


def test_reading_specs_imports_neither_jax_nor_tfds():
    program = """
import sys
from suite import parts
from suite.job import Job
Job(mixer="lstm+attention:window=4", task="text").flags()
parts.load("suite.tasks", "recall")
heavy = {"jax", "equinox", "tensorflow_datasets", "vl_convert"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
