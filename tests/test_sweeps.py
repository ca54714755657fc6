"""A comparison through what happens to it: several at once, its own death, cells that fail, a look at how it stands."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from programs import command, ended, run, start, wait

from suite.job import Job
from suite.sweep import status, store
from suite.sweep.record import Record

# Seven cells on one short task: six that are trained, counted or looked back from, and one that is timed.
SMALL = [
    *("--scale=smoke", "--claims=context_length", "--task=recall:pairs=2,vocab=16", "--length=16", "--width=16"),
    *("--batch=8", "--steps=100", "--validate_every=50", "--validation_examples=16", "--test_examples=32"),
    "--lease_seconds=10",
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def compare(out: pathlib.Path, *flags: str) -> list[str]:
    return command("compare", *SMALL, f"--out={out}", *flags)


def attempts(out: pathlib.Path) -> dict[str, list[dict]]:
    """The attempts at every cell."""
    return {str(path): json.loads(path.read_text())["attempts"] for path in out.glob("runs/*/*.cell")}


def learned(out: pathlib.Path) -> dict[str, list[dict]]:
    """The rows of the trainings, without what differs from run to run."""
    dropped = ("seconds", "commit", "source")
    found: dict[str, list[dict]] = {}
    for row in store.load(out):
        if row["measure"] == "learning":
            kept = {key: value for key, value in row.items() if key not in dropped}
            found.setdefault(row["run_id"], []).append(kept)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A comparison that nothing has disturbed."""
    out = tmp_path_factory.mktemp("whole")
    ended_ = run(compare(out), seconds=1000)
    assert ended_.returncode == 0, ended_.stderr
    return out


def test_two_at_once_share_the_cells_and_end_alike(tmp_path: pathlib.Path, whole: pathlib.Path) -> None:
    both = [start(compare(tmp_path)) for _ in range(2)]
    codes, said = wait(both, 1000)
    assert codes == [0, 0], said
    assert learned(tmp_path) == learned(whole)
    found = attempts(tmp_path)
    assert found.keys() == {path.replace(str(whole), str(tmp_path)) for path in attempts(whole)}
    assert all(len(tried) == 1 for tried in found.values()), "no cell was done twice"
    assert len({tried[0]["pid"] for tried in found.values()}) > 1, "the work was shared"


def test_two_workers_of_one_come_to_the_same(tmp_path: pathlib.Path, whole: pathlib.Path) -> None:
    ended_ = run(compare(tmp_path, "--workers=2"), seconds=1000)
    assert ended_.returncode == 0, ended_.stderr
    assert learned(tmp_path) == learned(whole)
    assert all(len(tried) == 1 for tried in attempts(tmp_path).values())


def test_a_comparison_tells_what_its_children_begin_again(tmp_path: pathlib.Path, whole: pathlib.Path) -> None:
    out = pathlib.Path(shutil.copytree(whole, tmp_path / "out"))
    rows = next(out.glob("runs/*/learning.jsonl"))
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:-1]))
    ended_ = run(compare(out), seconds=1000)
    assert ended_.returncode == 0, ended_.stderr
    assert f"{rows} is begun again" in ended_.stderr
    assert learned(out) == learned(whole)


def test_a_cell_that_fails_is_set_aside_and_the_rest_is_done(tmp_path: pathlib.Path, whole: pathlib.Path) -> None:
    ended_ = run(compare(tmp_path, "--fault=raise@3:0"), seconds=1000)
    assert ended_.returncode == 70
    assert "set aside after failing: 4 cells (learning" in ended_.stderr
    assert (tmp_path / "report.html").exists()
    failed = sorted(tmp_path.glob("runs/*/*.failed"))
    assert {path.name for path in failed} == {"learning.failed", "truncated_context.failed"}
    rows = [row for row in store.load(tmp_path) if row["outcome"] != "ok"]
    assert {(row["outcome"], row["error"]) for row in rows} == {("crashed", "1 tries: 70"), ("crashed", "no learning")}
    for measure in ("size", "peak"):
        assert any(row["measure"] == measure for row in store.load(tmp_path)), "the sweep went on"
    status = run(compare(tmp_path, "--status"))
    assert status.returncode == 0
    assert "4 failed" in status.stdout
    for path in failed:
        path.unlink()
    again = run(compare(tmp_path), seconds=1000)
    assert again.returncode == 0, again.stderr
    assert learned(tmp_path) == learned(whole)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_a_comparison_is_the_end_of_its_children_who_save(
    how: signal.Signals, tmp_path: pathlib.Path, whole: pathlib.Path
) -> None:
    process = start(compare(tmp_path, "--steps=100000", "--validate_every=5000"))
    with ended([process]):
        while not any(row["measure"] == "learning" for row in store.load(tmp_path)):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(how)
        process.wait(60)
        assert process.returncode == (75 if how is signal.SIGTERM else -signal.SIGKILL)
        until = time.monotonic() + 60
        while not any(path.stem for path in tmp_path.glob("runs/*/checkpoints/*.manifest")):
            assert time.monotonic() < until, "the child of a comparison that is gone saves by itself"
            time.sleep(0.1)
        while any(line[0] == "running" for line in status.table(tmp_path)):
            assert time.monotonic() < until, "and gives its cell up"
            time.sleep(0.1)


def test_ten_thousand_cells_are_told_in_two_seconds(tmp_path: pathlib.Path) -> None:
    attempt = {"owner": "a", "host": "b", "pid": 1, "progress": "", "processes": 1, "ended": {"0": 0}, "outside": False}
    job = Job(task="recall:pairs=2,vocab=16", length=16, batch=8)
    run = store.open_run(tmp_path / "one", job)
    for measure in ("learning", "size"):
        row = {
            "run_id": job.id,
            "arm": job.arm,
            "measure": measure,
            "repeat": 0,
            "interleave_with": "",
            "placed": False,
        }
        Record(run, measure).append(row | {"place": "here", "outcome": "ok"})
        Record(run, measure).mark_done()
        (run / f"{measure}.cell").write_text(json.dumps({"owner": "", "beat": 0, "attempts": [attempt]}))
    for number in range(5000):
        shutil.copytree(run, tmp_path / "runs" / job.replace(seed=number).id, copy_function=shutil.copyfile)
    # Processor time: the machine may have more to do.
    code = (
        "import resource, subprocess, sys; told = subprocess.run(sys.argv[1:], capture_output=True, text=True).stdout;"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime, told[-12:])"
    )
    argv = [sys.executable, "-c", code, *compare(tmp_path, "--status")]
    seconds, told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split(maxsplit=1)
    assert told.strip() == "10000 done"
    assert float(seconds) < 2
