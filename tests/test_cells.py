"""Who has a cell, what was tried, and when that was enough: leases by conditional writes, on real files."""

import itertools
import json
import multiprocessing
import pathlib
import time
from collections.abc import Callable

import pytest

from suite.job import Cell, Job
from suite.sweep import attempts, exit_codes, status, store
from suite.sweep.leases import LeaseLost, Leases
from suite.sweep.record import Record

CELL = Cell(Job(), "size")
KEY = f"runs/{CELL.job.id}/size.cell"
KEYS = [f"runs/cell-{number}/size.cell" for number in range(40)]


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def take_all(root: str, start: float) -> list[str]:
    """What one of several workers gets of all keys."""
    leases = Leases(root, 30, time.monotonic)
    while time.time() < start:
        pass
    return [key for key in KEYS if attempts.claim(leases, key, "")]


@pytest.mark.timeout(120)
def test_of_four_workers_at_once_each_cell_has_one(tmp_path: pathlib.Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as workers:
        taken = workers.starmap(take_all, [(str(tmp_path), time.time() + 5)] * 4)
    assert sorted(itertools.chain(*taken)) == sorted(KEYS)
    assert sum(map(bool, taken)) > 1, "one that had come first to all would have tested nothing"


def test_a_lease_that_is_renewed_is_not_taken_and_one_that_is_not_is(tmp_path: pathlib.Path) -> None:
    mine, theirs = Clock(), Clock()
    holder, watcher = Leases(tmp_path, 30, mine), Leases(tmp_path, 30, theirs)
    assert attempts.claim(holder, KEY, "")
    for _ in range(5):
        assert not attempts.claim(watcher, KEY, "")
        theirs.now += 29
        holder.held[KEY].renew()
    assert not attempts.claim(watcher, KEY, ""), "it was renewed between the looks"
    theirs.now += 31
    record = attempts.claim(watcher, KEY, "")
    assert [attempt["ended"] for attempt in record["attempts"]] == [{}, {}]


def test_no_two_clocks_need_to_agree(tmp_path: pathlib.Path) -> None:
    mine, theirs = Clock(), Clock()
    mine.now, theirs.now = 1e9, -1e9
    holder, watcher = Leases(tmp_path, 30, mine), Leases(tmp_path, 30, theirs)
    assert attempts.claim(holder, KEY, "")
    assert not attempts.claim(watcher, KEY, "")
    theirs.now += 29
    assert not attempts.claim(watcher, KEY, "")


def test_who_was_stopped_too_long_writes_no_more(tmp_path: pathlib.Path) -> None:
    mine, theirs = Clock(), Clock()
    holder, watcher = Leases(tmp_path, 30, mine), Leases(tmp_path, 30, theirs)
    attempts.claim(holder, KEY, "")
    attempts.claim(watcher, KEY, "")
    mine.now = theirs.now = 31
    assert attempts.claim(watcher, KEY, "")
    with pytest.raises(LeaseLost):
        holder.check()
    with pytest.raises(LeaseLost):
        attempts.release(holder, KEY, exit_codes.DONE)
    watcher.check()


def test_who_was_stopped_while_nobody_waited_goes_on(tmp_path: pathlib.Path) -> None:
    clock = Clock()
    holder = Leases(tmp_path, 30, clock)
    attempts.claim(holder, KEY, "")
    clock.now = 1000
    holder.check()
    attempts.release(holder, KEY, exit_codes.DONE)
    assert not holder.held


def test_a_lease_is_renewed_in_the_background(tmp_path: pathlib.Path) -> None:
    holder, watcher = (Leases(tmp_path, 1, time.monotonic) for _ in range(2))
    with holder.renewed():
        attempts.claim(holder, KEY, "")
        began = time.monotonic()
        while time.monotonic() < began + 2.5:
            assert not attempts.claim(watcher, KEY, "")
            time.sleep(0.05)
    while not attempts.claim(watcher, KEY, ""):
        assert time.monotonic() < began + 10
        time.sleep(0.05)


def verdict_after(root: pathlib.Path, *ended: Callable[[Leases, str], None] | int, progress: str = "") -> str:
    """The verdict on a cell after attempts that ended so: by a code, or as a function does it."""
    clock = Clock()
    leases = Leases(root, 30, clock)
    for end in ended:
        owner = attempts.claim(leases, KEY, progress)["owner"]
        leases.held.clear()
        if isinstance(end, int):
            attempts.note_end(leases, KEY, owner, 0, end, outside=False)
        else:
            end(leases, owner)
    verdict = attempts.verdict(attempts.claim(leases, KEY, progress))
    attempts.withdraw(leases, KEY)
    return verdict


def from_outside(leases: Leases, owner: str) -> None:
    attempts.note_end(leases, KEY, owner, 0, exit_codes.KILLED, outside=True)


def silently(leases: Leases, owner: str) -> None:
    """As where machine and all are gone: nobody says anything, and the lease lapses."""
    attempts.claim(leases, KEY, "")
    leases.clock.now += 31  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        ((), ""),
        ((exit_codes.KILLED,), ""),
        ((exit_codes.KILLED, exit_codes.KILLED), "oom"),
        ((exit_codes.KILLED, exit_codes.PREEMPTED, exit_codes.KILLED), "oom"),
        ((from_outside,) * 9, ""),
        ((exit_codes.PREEMPTED,) * 9, ""),
        ((exit_codes.STUCK, exit_codes.PEER_DIED), ""),
        ((exit_codes.STUCK, exit_codes.PEER_DIED, exit_codes.KILLED), "crashed"),
        ((silently,) * 9, ""),
        ((silently,) * 10, "crashed"),
        ((exit_codes.REFUSED,), "crashed"),
        ((exit_codes.REFUSED, exit_codes.DONE), ""),  # set aside, and to be tried again
        ((exit_codes.REFUSED, exit_codes.DONE, exit_codes.REFUSED), "crashed"),
    ],
)
def test_what_attempts_come_to(ended: tuple, verdict: str, tmp_path: pathlib.Path) -> None:
    assert verdict_after(tmp_path, *ended) == verdict


def test_an_attempt_that_came_further_begins_the_count_anew(tmp_path: pathlib.Path) -> None:
    assert verdict_after(tmp_path, exit_codes.KILLED, progress="20") == ""
    assert verdict_after(tmp_path, exit_codes.KILLED, progress="40") == ""
    assert verdict_after(tmp_path, progress="60") == ""


def test_whose_peer_is_gone_has_not_failed_by_itself(tmp_path: pathlib.Path) -> None:
    leases = Leases(tmp_path, 30, time.monotonic)
    verdicts = []
    for _ in range(attempts.ALL_TRIES + 1):
        record = attempts.claim(leases, KEY, "", processes=2)
        verdicts.append(attempts.verdict(record))
        attempts.release(leases, KEY, exit_codes.PEER_DIED)
    assert verdicts == [""] * attempts.ALL_TRIES + ["crashed"]


def test_the_end_of_one_rank_is_added_to_the_other(tmp_path: pathlib.Path) -> None:
    leases = Leases(tmp_path, 30, time.monotonic)
    owner = attempts.claim(leases, KEY, "")["owner"]
    attempts.note_end(leases, KEY, owner, 0, exit_codes.PEER_DIED, outside=False)
    attempts.note_end(leases, KEY, owner, 1, exit_codes.KILLED, outside=False)
    record, _ = leases.read(KEY)
    assert record["attempts"][0]["ended"] == {"0": exit_codes.PEER_DIED, "1": exit_codes.KILLED}
    assert attempts.last_end(record) == "134,137"
    assert not record["owner"]


def test_the_table_says_of_every_cell_how_it_stands(tmp_path: pathlib.Path) -> None:
    leases = Leases(tmp_path, 30, time.monotonic)
    run = store.open_run(tmp_path, CELL.job)
    for stem in ("done", "failed", "running", "waiting"):
        attempts.claim(leases, Record(run, stem).key, "")
    Record(run, "done").mark_done()
    Record(run, "failed").mark_failed()
    for stem, code in (("done", exit_codes.DONE), ("failed", exit_codes.REFUSED), ("waiting", exit_codes.PREEMPTED)):
        attempts.release(leases, Record(run, stem).key, code)
    (tmp_path / status.WANTED).write_text(f"{run.name}/wanted\n{run.name}/done\n")
    table = {line[-1].rpartition("/")[2]: line for line in status.table(tmp_path)}
    states = {stem: (line[0], line[1], line[2]) for stem, line in table.items()}
    assert states == {
        "done": ("done", "1", "0"),
        "failed": ("failed", "1", "70"),
        "running": ("running", "1", ""),
        "waiting": ("waiting", "1", "75"),
        "wanted": ("waiting", "0", ""),
    }
    assert table["running"][3]


def test_a_record_is_json_that_a_person_can_read(tmp_path: pathlib.Path) -> None:
    leases = Leases(tmp_path, 30, time.monotonic)
    attempts.claim(leases, KEY, "20")
    record = json.loads((tmp_path / KEY).read_text())
    assert record["attempts"][0]["progress"] == "20"
