"""The state of each cell under --out: waiting, running, done or failed. Without its .failed a cell is waiting again."""

import collections
import os
from collections.abc import Iterator, Sequence

from etils import epath

from suite import files
from suite.sweep import attempts
from suite.sweep.record import content_of, damage_of

WANTED = "cells.txt"  # under --out: a line for each cell that a comparison has asked for so far
COLUMNS = ("state", "tries", "last end", "worker", "cell")


def table(root: epath.PathLike) -> Iterator[tuple[str, ...]]:
    """A line under COLUMNS for every cell that was asked for or begun, in the order of the runs."""
    stems = _wanted(epath.Path(root) / WANTED)
    runs = f"{os.fspath(root)}/runs"  # from here on texts, for sweeps of many thousand cells
    begun = {run for run in _names(runs) if not run.startswith(".")}
    for run in sorted(begun | stems.keys()):
        folder = f"{runs}/{run}"
        names = _names(folder) if run in begun else set()
        started = {name.rpartition(".")[0] for name in names if name.endswith((".cell", ".done", ".failed"))}
        for stem in sorted(started | stems[run]):
            yield *_state(folder, stem, names), f"{run}/{stem}"


def _wanted(path: epath.Path) -> dict[str, set[str]]:
    """By run, the stems of the cells that a comparison has asked for; of a list that is cut what can be read."""
    stems: dict[str, set[str]] = collections.defaultdict(set)
    if path.exists():
        for line in path.read_bytes().decode(errors="replace").splitlines():
            run, _, stem = line.partition("/")
            if stem:
                stems[run].add(stem)
    return stems


def _names(folder: str) -> set[str]:
    """The names of what lies in a folder; nothing where there is none."""
    try:
        return files.names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _state(folder: str, stem: str, names: set[str]) -> tuple[str, ...]:
    """State, number of attempts, end of the last one, and worker of a cell, whose files are among `names`."""
    start = f"{folder}/{stem}"
    ownership, ended = {"owner": "", "attempts": []}, ""
    if f"{stem}.cell" in names:
        try:
            ownership = files.read_json(f"{start}.cell", "owner", "attempts")
            ended = attempts.last_end(ownership)
        except files.Damaged:
            ended = "no record"  # it was damaged: the cell is free
    tries = str(len(ownership["attempts"]))
    if f"{stem}.done" in names:
        damaged = damage_of(start, content_of(start))
        return ("waiting", tries, "damaged", "") if damaged else ("done", tries, ended, "")
    if f"{stem}.failed" in names:
        return "failed", tries, ended, ""
    if not ownership["owner"]:
        return "waiting", tries, ended, ""
    newest = ownership["attempts"][-1]
    return "running", tries, ended, f"{newest['host']}:{newest['pid']}"


def set_aside(failed: Sequence[str], root: epath.PathLike) -> str:
    """A line on cells that were set aside."""
    listed = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
    return f"set aside after failing: {len(failed)} cells ({listed}); to try again remove their .failed in {root}/runs"
