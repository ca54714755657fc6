"""Job: its id, its flags, its JSON, and what it refuses."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from suite import job
from suite.job import Cell, Job

FIELDS = {field.name: field for field in dataclasses.fields(Job)}
# One value for every field that is not its default. A new field without a line here fails the first test.
OTHER = {
    "mixer": "lstm",
    "task": "recall",
    "block": "plain",
    "short_conv": 4,
    "hidden": 96,
    "head_size": 32,
    "width": 64,
    "depth": 3,
    "match": "none",
    "match_to": "gru",
    "own_width": 48,
    "length": 128,
    "lengths": "64:1,256:1",
    "batch": 8,
    "microbatch": 4,
    "remat": "block",
    "reset": True,
    "steps": 100,
    "budget_seconds": 60.0,
    "state_passing": 0.05,
    "optimizer": "lion",
    "learning_rate": 3e-4,
    "warmup": 0.2,
    "decay": "constant",
    "weight_decay": 0.0,
    "clip": 0.0,
    "dtype": "bfloat16",
    "state_dtype": "bfloat16",
    "seed": 1,
    "record_every": 5,
    "validate_every": 25,
    "validation_examples": 32,
    "test_examples": 128,
}


def parsed(arguments: list[str], leave_out: tuple[str, ...] = ()) -> flags.FlagValues:
    """The flags of a program that defines those of a job and nothing else."""
    before = flags.FLAGS
    values = flags.FlagValues()
    with pytest.MonkeyPatch.context() as patch:
        # absl's DEFINE functions take the global values as a default argument; this program's are private.
        for name in (
            "DEFINE_enum",
            "DEFINE_integer",
            "DEFINE_float",
            "DEFINE_bool",
            "DEFINE_string",
            "declare_key_flag",
        ):
            patch.setattr(flags, name, _into(getattr(flags, name), values))
        job.define_flags(leave_out=leave_out)
    values(["program", *arguments])
    assert flags.FLAGS is before
    return values


def _into(define, values: flags.FlagValues):
    return lambda *args, **kwargs: define(*args, flag_values=values, **kwargs)


def test_every_field_has_a_help_text_and_a_line_in_this_test():
    assert OTHER.keys() == FIELDS.keys()
    assert all(field.metadata["help"] for field in FIELDS.values())
    assert all(field.type in (bool, int, float, str) for field in FIELDS.values())


def test_every_field_changes_the_id():
    ids = {Job().id} | {Job(**{name: value}).id for name, value in OTHER.items()}
    assert len(ids) == len(OTHER) + 1


def test_an_id_is_stable_and_a_file_name():
    assert Job().id == Job().id == Job(**dataclasses.asdict(Job())).id
    assert Job(mixer="attention:heads=4").id == Job(mixer="attention").id
    assert Job(mixer="lstm+attention:window=8", task="recall:pairs=2").id == (
        "lstm-attention-window-8-recall-pairs-2-t256-b16-s0-"
        + Job(mixer="lstm+attention:window=8", task="recall:pairs=2").id.rpartition("-")[2]
    )
    for name, value in OTHER.items():
        assert job.slug(Job(**{name: value}).id) == Job(**{name: value}).id


def test_specs_are_kept_with_every_knob_and_shown_with_those_that_differ():
    assert Job(mixer="attention").mixer == Job(mixer="attention:heads=4").mixer
    assert "heads=4" in Job(mixer="attention").mixer
    assert Job(mixer="attention:heads=4,window=8").arm == "attention:window=8"


def test_a_job_survives_json():
    for name, value in OTHER.items():
        changed = Job(**{name: value})
        assert Job.from_json(changed.to_json()) == changed
    assert json.loads(Job().to_json()) == dataclasses.asdict(Job())


def test_a_job_survives_its_flags():
    for name, value in OTHER.items():
        changed = Job(**{name: value})
        assert job.from_flags(parsed(changed.flags())) == changed
    everything = Job(**{**OTHER, "lengths": "64:1,128:1"})
    assert len(everything.flags()) == len(FIELDS)
    assert job.from_flags(parsed(everything.flags())) == everything


def test_defaults_need_no_flags():
    assert Job().flags() == []
    assert job.from_flags(parsed([])) == Job()


def test_every_field_is_a_key_flag_with_its_help():
    values = parsed([])
    for name, field in FIELDS.items():
        assert field.metadata["help"] in values[name].help
        assert values[name].default == field.default


def test_a_flag_that_is_left_out_is_not_defined():
    values = parsed(["--batch=4"], leave_out=("mixer",))
    assert "mixer" not in values
    assert job.from_flags(values).batch == 4


def test_over_a_base_only_given_flags_count():
    base = Job(mixer="gru", steps=7)
    assert job.from_flags(parsed(["--batch=2"]), base) == base.replace(batch=2)
    # A flag that is given at its default is given.
    assert job.from_flags(parsed(["--mixer=attention"]), base) == Job(steps=7)


def test_a_flagfile_is_read(tmp_path: pathlib.Path):
    (tmp_path / "flags").write_text("\n".join(Job(mixer="lstm", learning_rate=0.003).flags()))
    assert job.from_flags(parsed([f"--flagfile={tmp_path / 'flags'}"])) == Job(mixer="lstm", learning_rate=0.003)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--batch=-3", "batch"),
        ("--block=round", "block"),
        ("--learning_rate=fast", "learning_rate"),
        ("--batchh=3", "batchh"),
    ],
)
def test_a_bad_flag_is_refused_by_name(argument: str, said: str):
    with pytest.raises(flags.Error, match=said):
        parsed([argument])


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.metadata["minimum"] is not None])
def test_a_number_below_its_minimum_is_refused(name: str):
    with pytest.raises(ValueError, match=f"^{name} wants at least"):
        Job(**{name: FIELDS[name].metadata["minimum"] - 1})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block": "round"}, "block wants one of residual, plain; got 'round'"),
        ({"learning_rate": float("nan")}, "learning_rate wants a finite number; got nan"),
        ({"clip": float("inf")}, "clip wants a finite number; got inf"),
        ({"warmup": 1.5}, "warmup is a fraction of the steps, at most 1; got 1.5"),
    ],
)
def test_a_value_out_of_range_is_refused(changes: dict, said: str):
    with pytest.raises(ValueError, match=f"^{said}$"):
        Job(**changes)


def test_a_value_of_another_type_is_refused():
    program = """
from suite.job import Job
for changes in ({"batch": "3"}, {"batch": 3.5}, {"batch": True}, {"mixer": 3}, {"learning_rate": None}):
    try:
        Job(**changes)
    except TypeError as error:
        print(error)
"""
    # In a process of its own: here the checks of signatures would be first.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "batch wants int, not '3'",
        "batch wants int, not 3.5",
        "batch wants int, not True",
        "mixer wants str, not 3",
        "learning_rate wants float, not None",
    ]


@pytest.mark.parametrize(
    "changes", [{"mixer": "lstmm"}, {"task": "txt"}, {"match_to": "lstmm"}, {"mixer": "attention:head=4"}]
)
def test_unknown_parts_are_refused_when_the_job_is_made(changes: dict):
    with pytest.raises(LookupError, match="known: "):
        Job(**changes)


def test_a_whole_number_is_a_rate():
    assert Job(learning_rate=1).id == Job(learning_rate=1.0).id
    assert Job(learning_rate=1).to_json() == Job(learning_rate=1.0).to_json()


def test_differences_name_the_key_and_both_values():
    assert job.differences({"a": 1, "b": 2}, {"a": 1, "b": 2}) == []
    assert job.differences({"a": 1, "b": 2, "c": None}, {"a": 1, "b": 3, "d": 4}) == [
        "b: stored 2, now 3",
        "c: stored None, now '(not there)'",
        "d: stored '(not there)', now 4",
    ]


def test_a_cell_survives_a_dict_and_its_command_makes_its_job():
    cell = Cell(Job(mixer="lstm+attention:window=8", learning_rate=0.003), "step_time", repeat=2, interleave_with="a b")
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
    words = cell.command("an out").split(" -m launch.job ")[1]
    assert "--repeat=2" in words
    assert "'--out=an out'" in words
    assert all(flag in words for flag in cell.job.flags())


def test_a_stored_job_outlives_a_users_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("class Mixer:\n    def __init__(self, width, *, key, size: int = 3): ...\n")
    job = Job(mixer="./mine.py:size=5")
    (tmp_path / "mine.py").unlink()
    stored = Job.from_json(job.to_json())
    assert stored == job
    assert stored.arm == "./mine.py:size=5"
