"""launch.report --prune: what is needed no more goes, and nothing that a report or a next run rests on."""

import json
import os
import pathlib
import re
import subprocess

import pytest
from programs import TINY, command, run
from test_report import CPU, JOB, LSTM, describe, launch, put_answers, put_size, put_time

from suite import files
from suite.job import Job
from suite.sweep import prune, store
from suite.sweep.record import Record, stem

OLD = 2 * prune.LEFT_SECONDS
TIMES = stem("step_time:blocks=3", CPU["place"])


def put(path: pathlib.Path, seconds_ago: float = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    now = path.stat().st_mtime
    os.utime(path, (now - seconds_ago, now - seconds_ago))


def put_run(root: pathlib.Path, job: Job, *done: str) -> pathlib.Path:
    """A run as it may be found, with whatever can be left in it; of its cells those of `done` are done."""
    put_size(root, job, 3e5, 140, CPU)
    put_answers(root, job, 0.5, CPU)
    put_time(root, job, 0.1, CPU)
    folder = pathlib.Path(store.run_path(root, job))
    for kind in done:
        Record(store.run_path(root, job), kind).mark_done()
    for name in ("20/array", "20.manifest", "40/array", "40.manifest", "40.bad0/array", "40.bad0.manifest"):
        put(folder / "checkpoints" / name)
    for name in ("final/array", "final.manifest", "final.bad0/array", "final.bad0.manifest", "learning.jsonl.bad0"):
        put(folder / name)
    for name in (f"{TIMES}.jsonl.bad0", "notes.txt", "learning.cell", "learning.failed.txt", "learning.badly"):
        put(folder / name)
    (folder / "learning.cell").write_text(json.dumps({"owner": "", "beat": 0, "attempts": []}))
    put(folder / ".learning.jsonl.0123abcd", OLD)
    put(folder / ".job.json.0123abcd")  # somebody may be writing it
    return folder


def hold(folder: pathlib.Path, stem: str) -> None:
    attempt = {"owner": "me", "host": "here", "pid": 1, "progress": "", "processes": 1, "ended": {}, "outside": False}
    (folder / f"{stem}.cell").write_text(json.dumps({"owner": "me", "beat": 0, "attempts": [attempt]}))


def put_whole(root: pathlib.Path) -> None:
    put_run(root, JOB, "learning", "size", TIMES)
    put_run(root, LSTM, "size")
    describe(root, "quick", True, ["attention", "lstm"], CPU)
    put(root / "cache" / "program")
    put(root / "log.txt", OLD)
    put(root / ".probe-0123abcd", OLD)
    put(root / ".probe-4567abcd")


def lying(root: pathlib.Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}


def test_of_done_cells_what_is_needed_no_more_goes_and_all_of_the_others_stays(tmp_path: pathlib.Path):
    put_whole(tmp_path)
    rows, before = store.load(tmp_path), lying(tmp_path)
    done = launch(f"--out={tmp_path}", "--prune", "--dry_run")
    assert (done.returncode, lying(tmp_path)) == (0, before)
    assert "would be removed" in done.stdout
    done = launch(f"--out={tmp_path}", "--prune")
    assert done.returncode == 0, done.stderr
    gone = before - lying(tmp_path)
    of_done = ("checkpoints/", "final.bad0", "learning.jsonl.bad0", f"{TIMES}.jsonl.bad0")
    assert gone == {
        name
        for name in before
        if name in ("cache/program", ".probe-0123abcd")
        or name.endswith("/.learning.jsonl.0123abcd")
        or (name.startswith(f"runs/{JOB.id}/") and any(f"/{what}" in name for what in of_done))
    }
    assert len(gone) == 1 + 1 + 2 + 6 + 2 + 2
    assert store.load(tmp_path) == rows
    size = sum(1 for _ in gone)
    assert done.stdout.splitlines()[-1].startswith(f"{size} files and 0.0 MB of {len(before)} files and")
    assert launch(f"--out={tmp_path}", "--prune").stdout.startswith("0 files and 0.0 MB of")


def test_what_is_being_run_is_left_alone(tmp_path: pathlib.Path):
    put_whole(tmp_path)
    hold(tmp_path / "runs" / LSTM.id, "learning")
    found = {one.path.relative_to(tmp_path).as_posix() for one in prune.find(tmp_path)}
    assert "cache" not in found
    assert f"runs/{JOB.id}/checkpoints" in found
    assert not [name for name in found if LSTM.id in name and not name.endswith(".0123abcd")]


def test_checkpoints_stay_where_the_parameters_are_lost_or_the_rows_damaged(tmp_path: pathlib.Path):
    put_whole(tmp_path)
    folder = tmp_path / "runs" / JOB.id
    (folder / "final").rename(folder / "lost")
    assert not [one for one in prune.find(tmp_path) if one.path.name == "checkpoints"]
    (folder / "lost").rename(folder / "final")
    os.truncate(folder / "learning.jsonl", 100)
    assert not [one for one in prune.find(tmp_path) if one.path.name in ("checkpoints", "learning.jsonl.bad0")]


def test_links_are_not_followed(tmp_path: pathlib.Path):
    root, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    put_whole(root)
    for path in (root / "cache", root / "runs" / JOB.id / "checkpoints"):
        path.rename(elsewhere if path.name == "cache" else tmp_path / "others")
        path.symlink_to(elsewhere if path.name == "cache" else tmp_path / "others")
    before = lying(tmp_path)
    for one in prune.find(root):
        files.remove(one.path)
    assert {"elsewhere/program", "others/20/array"} <= lying(tmp_path) < before
    assert (root / "cache").is_symlink()


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--prune"], "no records in"),
        (["--prune", "--to=x"], "leave it or --to out"),
        (["--prune", "--threshold=parallelism.threshold=5"], "leave it or --threshold out"),
        (["--dry_run"], "--dry_run is for --prune"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path: pathlib.Path, flags: list[str], why: str):
    done = launch(f"--out={tmp_path}", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (70, 1)
    assert why in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pruned_directory_goes_on_as_before(tmp_path: pathlib.Path):
    argv = command("job", *TINY, "--steps=4", "--validate_every=2", f"--out={tmp_path}")
    assert run([*argv, "--measures=learning"]).returncode == 0
    rows, cache = store.load(tmp_path), prune.size(store.epath.Path(tmp_path / "cache"))
    assert cache[1] > 0
    done: subprocess.CompletedProcess[str] = launch(f"--out={tmp_path}", "--prune")
    assert re.search(rf"^{cache[0]:,} files and {cache[1] / 1e6:.1f} MB of .* removed$", done.stdout, re.M), done.stdout
    again = run([*argv, "--measures=learning,length_accuracy:longest=1"])
    assert again.returncode == 0, again.stderr
    assert [row for row in store.load(tmp_path) if row["measure"] == "learning"] == rows
