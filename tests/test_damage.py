"""What a crash, a disk or a hand does to the files of a directory, and that the next run mends it or names the file.

The worker of launch.job is run here as it is there, on one device; what it leaves must be what an
undisturbed run leaves.
"""

import pathlib
import shutil
import time
from collections.abc import Callable

import numpy as np
import pytest
from programs import final_of, run_here, worker

from suite.job import Cell, Job
from suite.sweep import attempts, exit_codes, store

JOB = Job(
    mixer="lstm", task="recall:pairs=2,vocab=16", depth=1, width=16, length=16, batch=8, learning_rate=3e-3, steps=40,
    validate_every=10, validation_examples=16, test_examples=16,
)  # fmt: skip
MEASURES = ("learning", "size", "length_accuracy")
TIMED = ("seconds", "commit", "source")


def resume(out: pathlib.Path, *measures: str) -> int:
    return run_here(out, JOB, *measures)


def rows_of(out: pathlib.Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMED} for row in store.load(out)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """All cells done, undisturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert resume(out, *MEASURES) == exit_codes.DONE
    return out


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The training and the size done; what reads the trained parameters is still to come."""
    out = tmp_path_factory.mktemp("done")
    assert resume(out, "learning", "size") == exit_codes.DONE
    return out


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A training that was killed after 30 steps, with checkpoints of 10 and 20 or 20 and 30."""
    out = tmp_path_factory.mktemp("half")
    cell = Cell(JOB, "learning")
    killed = worker(out)
    store.mark_schema(out)
    key = killed.record(cell).key
    owner = attempts.claim(killed.leases, key, "")["owner"]
    rows = killed.measure(cell)
    while next(rows)["step"] < 30:
        pass
    next(rows)
    folder = pathlib.Path(killed.record(cell).folder) / "checkpoints"
    while not (folder / "20.manifest").exists():
        time.sleep(0.01)
    del rows  # which is closed by it: nothing waits for the save under way
    killed.leases.held.clear()
    attempts.note_end(killed.leases, key, owner, 0, exit_codes.KILLED, outside=True)
    return out


def empty(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def cut(path: pathlib.Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def braces(path: pathlib.Path) -> None:
    path.write_bytes(b"{}")


def no_utf8(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes() or b"{}\n")
    content[len(content) // 2] = 0xFF
    path.write_bytes(content)


def missing(path: pathlib.Path) -> None:
    path.unlink()


def folder(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


SLOW = [pytest.param(harm, marks=pytest.mark.slow) for harm in (braces, no_utf8, missing, folder)]
HARMS = [empty, cut, *SLOW]
OF_DONE = [
    *("schema.json", "job.json", "job.flags", "env.json", "final.manifest"),
    *("learning.done", "learning.jsonl", "learning.cell", "size.done", "size.jsonl", "size.cell"),
]
OF_HALF = ["job.json", "env.json", "learning.jsonl", "learning.cell", "newest.manifest"]


def find(out: pathlib.Path, name: str) -> pathlib.Path:
    if name == "newest.manifest":
        return max(out.rglob("checkpoints/*.manifest"), key=lambda path: int(path.stem))
    [path] = [path for path in out.rglob(name) if "checkpoints" not in path.parts]
    return path


@pytest.fixture
def mended(capsys: pytest.CaptureFixture, whole: pathlib.Path, tmp_path: pathlib.Path) -> Callable[..., None]:
    """Damages a file of a directory's copy and resumes it: it ends as the undisturbed run did.

    Where a folder has come in the place of a file it may be a line that names it instead.
    """

    def mended(directory: pathlib.Path, name: str, harm: Callable, *measures: str) -> None:
        damaged = pathlib.Path(shutil.copytree(directory, tmp_path / "out"))
        path = find(damaged, name)
        harm(path)
        try:
            assert resume(damaged, *measures) == exit_codes.DONE
        except (SystemExit, OSError) as error:  # by exit_codes.refuse, or as launch.run answers it
            told = capsys.readouterr().err if isinstance(error, SystemExit) else exit_codes.refused_by_files(error)
            assert f"{path}: Is a directory; move it out of the way" in told
            assert harm is folder
            return
        assert not store.survey(damaged).problems
        mine = [row for row in rows_of(whole) if row["measure"] in measures]
        assert rows_of(damaged) == mine
        for array, wanted in zip(final_of(damaged), final_of(whole), strict=True):
            np.testing.assert_array_equal(array, wanted)
        before = store.load(damaged)
        assert resume(damaged, *measures) == exit_codes.DONE
        assert store.load(damaged) == before, "nothing is made a third time"

    return mended


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", OF_DONE)
def test_of_what_is_done_any_file_may_be_damaged(
    name: str, harm: Callable, done: pathlib.Path, mended: Callable[..., None]
) -> None:
    mended(done, name, harm, *MEASURES)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", OF_HALF)
def test_of_what_was_half_done_any_file_may_be_damaged(
    name: str, harm: Callable, half: pathlib.Path, mended: Callable[..., None]
) -> None:
    mended(half, name, harm, "learning")


def test_where_nothing_is_left_to_do_a_damaged_job_is_written_anew(
    done: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    damaged = pathlib.Path(shutil.copytree(done, tmp_path / "out"))
    before = store.load(damaged)
    cut(find(damaged, "job.json"))
    assert store.load(damaged) == []
    assert resume(damaged, "learning") == exit_codes.DONE
    assert store.load(damaged) == before
    assert "job.json is damaged; written anew" in capsys.readouterr().err


def test_of_a_training_that_is_done_one_state_is_kept(done: pathlib.Path) -> None:
    assert list(done.glob("runs/*/final.manifest"))
    assert not list(done.glob("runs/*/checkpoints"))
