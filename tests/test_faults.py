"""What goes wrong in long runs, caused on purpose: nothing is lost, nothing is silently wrong, and the exit code tells.

Each test ends by starting the same command again, which must come to what an undisturbed run comes to, bit by bit.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from programs import assert_same, ended, environment, ranks, rows_of, run, start, training, wait, wait_for_step

from suite.sweep import store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An undisturbed training of one process."""
    out = tmp_path_factory.mktemp("whole")
    assert run(training(out)).returncode == 0
    return out


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An undisturbed training of two processes."""
    out = tmp_path_factory.mktemp("whole_of_two")
    codes, said = wait(ranks(training(out)))
    assert codes == [0, 0], said
    return out


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A training of one process that was killed after 85 of its 120 steps."""
    out = tmp_path_factory.mktemp("killed")
    assert run(training(out, "--fault=kill@85:0")).returncode == -signal.SIGKILL
    return out


@pytest.fixture(scope="module")
def preempted(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A training of two processes that were given notice after 45 steps."""
    out = tmp_path_factory.mktemp("preempted")
    codes, said = wait(ranks(training(out, "--fault=term@45:0")))
    assert codes == [75, 75], said
    return out


def test_a_rank_that_is_killed_takes_the_other_with_it_and_both_come_back(
    tmp_path: pathlib.Path, whole_of_two: pathlib.Path
) -> None:
    codes, said = wait(ranks(training(tmp_path, "--fault=kill@45:1")))
    assert codes == [134, 137], said
    codes, said = wait(ranks(training(tmp_path)))
    assert codes == [0, 0], said
    assert_same(tmp_path, whole_of_two)


MESH = ("--mesh=data:2,fsdp:2,model:2", "--mixer=lstm:heads=2")


def test_a_training_over_four_axes_that_is_killed_goes_on_bit_by_bit(tmp_path: pathlib.Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(training(whole, *MESH), devices=8).returncode == 0
    assert run(training(killed, *MESH, "--fault=kill@45:0"), devices=8).returncode == -9
    assert run(training(killed, *MESH), devices=8).returncode == 0
    assert_same(killed, whole)


def test_two_processes_of_two_devices_train_as_one_device(tmp_path: pathlib.Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ("--mixer=lstm:heads=2+attention", "--depth=2", "--task=text", "--learning_rate=1e-3")
    flags = (*flags, "--steps=20", "--record_every=1")
    assert run(training(one, *flags)).returncode == 0
    codes, said = wait(ranks(training(two, *flags, "--mesh=data:2,fsdp:2"), devices=2))
    assert codes == [0, 0], said
    losses = [[row["loss"] for row in rows_of(out) if row["phase"] == "train"] for out in (one, two)]
    assert len(losses[0]) == 20
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_a_rank_that_raises_ends_both_within_a_second(tmp_path: pathlib.Path, whole_of_two: pathlib.Path) -> None:
    both = ranks(training(tmp_path, "--fault=raise@45:1"))
    with ended(both):
        gone = [0.0, 0.0]
        while not all(gone):
            for rank, process in enumerate(both):
                if not gone[rank] and process.poll() is not None:
                    gone[rank] = time.monotonic()
            time.sleep(0.01)
        said = [process.communicate()[1] for process in both]
    assert both[1].returncode == 70
    assert "the fault of step 45" in said[1]
    assert both[0].returncode in (134, -signal.SIGABRT), said[0]
    assert abs(gone[0] - gone[1]) < 1
    codes, said = wait(ranks(training(tmp_path)))
    assert codes == [0, 0], said
    assert_same(tmp_path, whole_of_two)


def test_a_rank_that_is_stuck_is_found_by_the_watchdog_which_shows_where(
    tmp_path: pathlib.Path, whole_of_two: pathlib.Path
) -> None:
    patience = ["--patience=4", "--patience=5"]  # rank 0, which waits for the other, is found stuck before it
    codes, said = wait(ranks(training(tmp_path, "--fault=stuck@45:1"), own=patience))
    assert codes[1] == 124, said
    assert codes[0] in (124, 134)
    assert "no progress for" in said[1]
    assert "in strike" in said[1], "the stack of what is stuck"
    codes, said = wait(ranks(training(tmp_path)))
    assert codes == [0, 0], said
    assert_same(tmp_path, whole_of_two)


def test_a_rank_that_is_late_at_a_barrier_is_named(tmp_path: pathlib.Path, whole_of_two: pathlib.Path) -> None:
    both = ranks(training(tmp_path, "--fault=late@0:1", "--patience=5"))
    codes, said = wait(both)
    assert codes[0] == 134, said
    assert "rank 1 did not come to the barrier" in said[0]
    assert codes[1] == 134, said
    codes, said = wait(ranks(training(tmp_path)))
    assert codes == [0, 0], said
    assert_same(tmp_path, whole_of_two)


def test_a_rank_that_is_stopped_is_given_up_after_its_heartbeat(
    tmp_path: pathlib.Path, whole_of_two: pathlib.Path
) -> None:
    both = ranks(training(tmp_path, "--fault=stop@45:1"))
    with ended(both):
        began = time.monotonic()
        both[0].communicate(timeout=100)
        assert time.monotonic() - began < 90, "JAX's own heartbeat is 100 s"
        assert both[0].returncode in (134, -signal.SIGABRT)
        assert both[1].poll() is None
    codes, said = wait(ranks(training(tmp_path)))
    assert codes == [0, 0], said
    assert_same(tmp_path, whole_of_two)


@pytest.mark.parametrize("kind", ["term", "int"])
def test_notice_to_one_rank_saves_and_ends_both(kind: str, tmp_path: pathlib.Path, whole_of_two: pathlib.Path) -> None:
    codes, said = wait(ranks(training(tmp_path, f"--fault={kind}@45:1")))
    assert codes == ([75, 75] if kind == "term" else [75, 130]), said
    [folder] = tmp_path.glob("runs/*/checkpoints")
    newest = max(int(path.stem) for path in folder.glob("*.manifest"))
    assert 45 <= newest < 60, "saved between two validations, where the notice came, in the middle of a row's steps"
    codes, said = wait(ranks(training(tmp_path)))
    assert codes == [0, 0], said
    assert_same(tmp_path, whole_of_two)


def test_a_notice_within_a_validation_is_kept_bit_by_bit(tmp_path: pathlib.Path) -> None:
    flags = ["--steps=40", "--validation_examples=64"]
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    codes, said = wait(ranks(training(disturbed, *flags, "--fault=term@20:0")))
    assert codes == [75, 75], said
    assert [row["phase"] for row in store.load(disturbed)] == ["train"] * 2, "the validation was not over"
    for out in (disturbed, undisturbed):
        codes, said = wait(ranks(training(out, *flags)))
        assert codes == [0, 0], said
    assert_same(disturbed, undisturbed)


def test_a_notice_ends_a_measure_within_seconds(tmp_path: pathlib.Path) -> None:
    process = start(training(tmp_path, "--measures=step_time:blocks=10000"))
    with ended([process]):
        while not any(row.get("phase") == "block" for row in store.load(tmp_path)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.terminate()
        began = time.monotonic()
        process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 75
    assert not list(tmp_path.glob("runs/*/*.done"))


def test_kills_at_random_moments_while_it_saves(tmp_path: pathlib.Path, whole: pathlib.Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # shown where it fails
    moments = random.Random(seed)
    for step in (20, 60, 100):
        process = start(training(tmp_path))
        with ended([process]):
            wait_for_step(tmp_path, step, process)
            time.sleep(moments.uniform(0, 0.1))
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert run(training(tmp_path)).returncode == 0
    assert_same(tmp_path, whole)


def test_a_batch_that_is_poisoned_gives_an_outcome_and_not_a_number(tmp_path: pathlib.Path) -> None:
    ended_ = run(training(tmp_path, "--fault=poison@45:0"))
    assert ended_.returncode == 0, ended_.stderr
    rows = store.load(tmp_path)
    assert [row["outcome"] for row in rows][-1] == "diverged"
    assert rows[-1]["step"] == 45
    assert {row["outcome"] for row in rows[:-1]} == {"ok"}
    assert list(tmp_path.glob("runs/*/learning.done")), "a divergence is a result"
    assert not list(tmp_path.glob("runs/*/final"))


def test_rows_that_are_torn_are_made_again(tmp_path: pathlib.Path, killed: pathlib.Path, whole: pathlib.Path) -> None:
    out = pathlib.Path(shutil.copytree(killed, tmp_path / "out"))
    [path] = out.glob("runs/*/learning.jsonl")
    os.truncate(path, path.stat().st_size - 7)
    assert run(training(out)).returncode == 0
    assert_same(out, whole)


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_a_checkpoint_that_is_damaged_is_put_aside_and_the_one_before_taken(
    harm: str, tmp_path: pathlib.Path, killed: pathlib.Path, whole: pathlib.Path
) -> None:
    out = pathlib.Path(shutil.copytree(killed, tmp_path / "out"))
    [folder] = out.glob("runs/*/checkpoints")
    steps = sorted(int(path.stem) for path in folder.glob("*.manifest"))
    largest = max((folder / str(steps[-1])).rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else -1)
    if harm == "flip":
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    else:
        os.truncate(largest, largest.stat().st_size - 7)
    again = run(training(out))
    assert again.returncode == 0, again.stderr
    assert f"{folder / str(steps[-1])} is damaged" in again.stderr
    assert (folder / f"{steps[-1]}.bad0").exists()
    assert_same(out, whole)


def test_a_disk_that_fills_up_ends_it_in_one_line_and_nothing_is_lost(
    tmp_path: pathlib.Path, whole: pathlib.Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(disk)]).returncode:
        pytest.skip("NOT TESTED: a tmpfs cannot be mounted here; it takes root")
    try:
        process = start(training(disk, "--fault=stop@5:0"))
        with ended([process]):
            while pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                assert process.poll() is None
                time.sleep(0.05)
            free = shutil.disk_usage(disk).free
            (disk / "other").write_bytes(bytes(free - 60_000))  # rows have room, a checkpoint has not
            process.send_signal(signal.SIGCONT)
            _, said = process.communicate(timeout=100)
        assert process.returncode == 70
        assert len([line for line in said.splitlines() if "no room for a checkpoint" in line]) == 1
        assert f"{disk}/runs" in said
        assert "MB are free; make room and start again" in said
        (disk / "other").unlink()
        assert run(training(disk)).returncode == 0
        assert_same(disk, whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_clock_that_jumps_changes_nothing(tmp_path: pathlib.Path, whole: pathlib.Path) -> None:
    """The wall clock leaps by a day, forwards and backwards, at every reading; durations and leases do not read it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "real, leaps = time.time, itertools.cycle([0, 86_400, -86_400, 3 * 86_400])\n"
        "time.time = lambda: real() + next(leaps)\n"
    )
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), variables["PYTHONPATH"]])
    out = tmp_path / "out"
    for flags, code in (["--fault=kill@65:0"], -signal.SIGKILL), ([], 0):
        done = subprocess.run(training(out, *flags), env=variables, capture_output=True, timeout=200)
        assert done.returncode == code, done.stderr
    assert all(0 <= row["seconds"] < 200 for row in store.load(out))
    assert_same(out, whole)


@pytest.mark.parametrize(("processes", "devices"), [(1, 1), (1, 4)])
def test_a_job_of_two_processes_goes_on_with_another_number(
    processes: int, devices: int, tmp_path: pathlib.Path, preempted: pathlib.Path, whole_of_two: pathlib.Path
) -> None:
    out = pathlib.Path(shutil.copytree(preempted, tmp_path / "out"))
    codes, said = wait(ranks(training(out), processes, devices))
    assert codes == [0] * processes, said
    mine, theirs = store.load(out), store.load(whole_of_two)
    assert [(row["phase"], row["step"]) for row in mine] == [(row["phase"], row["step"]) for row in theirs]
    assert mine[-1]["fingerprint"] == theirs[-1]["fingerprint"], "the same data"
    # float32 sums in another order, over 120 steps.
    np.testing.assert_allclose([row["loss"] for row in mine], [row["loss"] for row in theirs], rtol=1e-4)


def test_two_of_one_job_at_once_are_done_once(tmp_path: pathlib.Path, whole: pathlib.Path) -> None:
    both = [start(training(tmp_path)) for _ in range(2)]
    codes, said = wait(both)
    assert codes == [0, 0], said
    assert_same(tmp_path, whole)
    [path] = tmp_path.glob("runs/*/learning.cell")
    assert len(json.loads(path.read_text())["attempts"]) == 1


def test_a_network_that_is_cut_ends_both_and_they_come_back(tmp_path: pathlib.Path, whole_of_two: pathlib.Path) -> None:
    """Two network namespaces with a cable between them, which is pulled in the middle of a training."""
    if os.geteuid() or not shutil.which("ip") or subprocess.run(["ip", "netns", "add", "crossover-a"]).returncode:
        pytest.skip("NOT TESTED: no network namespaces here; they take root and iproute2")
    try:
        for line in (
            "netns add crossover-b",
            "link add crossover-0 netns crossover-a type veth peer name crossover-1 netns crossover-b",
            *(
                f"-n crossover-{end} addr add 10.99.0.{host}/24 dev crossover-{host - 1}"
                for host, end in ((1, "a"), (2, "b"))
            ),
            *(f"-n crossover-{end} link set {link} up" for end, link in (("a", "crossover-0"), ("b", "crossover-1"))),
            *(f"-n crossover-{end} link set lo up" for end in "ab"),
        ):
            subprocess.run(["ip", *line.split()], check=True)
        # Each end sees a host name of its own, which gloo looks up.
        long = training(tmp_path, "--steps=100000", "--validate_every=1000", "--coordinator_address=10.99.0.1:8476")
        both = []
        for rank, end in enumerate("ab"):
            named = f"hostname 10.99.0.{rank + 1}; exec " + " ".join(
                [*long, "--num_processes=2", f"--process_id={rank}"]
            )
            both.append(start(["ip", "netns", "exec", f"crossover-{end}", "unshare", "-u", "sh", "-c", named]))
        with ended(both):
            wait_for_step(tmp_path, 1000, both[0])
            subprocess.run(["ip", "-n", "crossover-a", "link", "set", "crossover-0", "down"], check=True)
            began = time.monotonic()
            codes, said = wait(both, 120)
        assert time.monotonic() - began < 90, "JAX's own heartbeat is 100 s"
        assert codes == [134, 134], said
    finally:
        for end in "ab":
            subprocess.run(["ip", "netns", "del", f"crossover-{end}"], check=False)
    codes, said = wait(ranks(training(tmp_path / "again")))
    assert codes == [0, 0], said
    assert_same(tmp_path / "again", whole_of_two)
