"""Finds what a directory no longer needs: checkpoints of done trainings, rows put aside, leftovers, the cache.

Rows, final parameters and all small files stay, and so does everything of a cell that is not done. The cache of
compiled programs, which workers share, stays while a cell is being run.
"""

import collections
import os
import re
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from suite import files
from suite.sweep import status
from suite.sweep.record import TRAINING, Record

ASIDE = re.compile(r"(?P<name>.+)\.bad\d+(\.manifest)?")
# Files that were being written when a process was killed.
LEFTOVER = re.compile(r"\.probe-[0-9a-f]+|\..+\.[0-9a-f]{8}")
LEFT_SECONDS = 3600  # nobody writes on one file for so long


class Pruned(NamedTuple):
    """A path that is no longer needed, its number of files and their bytes."""

    path: epath.Path
    files: int
    bytes: int


def find(root: epath.PathLike) -> list[Pruned]:
    """The paths that can be removed under a directory without loss, in the order of the runs."""
    root = epath.Path(root)
    done: dict[str, set[str]] = collections.defaultdict(set)
    running = False
    for state, *_, name in status.table(root):
        run, _, stem = name.partition("/")
        running |= state == "running"
        done[run] |= {stem} if state == "done" else set()
    paths = [path for run in sorted(done) for path in _of_run(root / "runs" / run, done[run])]
    paths += [] if running else [path for path in (root / "cache",) if path.exists()]
    paths += _leftovers(root, [root, *(root / "runs" / run for run in sorted(done) if (root / "runs" / run).exists())])
    return [Pruned(path, *size(path)) for path in paths if not _is_link(path)]


def size(path: epath.Path) -> tuple[int, int]:
    """The files beneath a path, or that it is, and their bytes."""
    if not path.is_dir():
        return 1, path.stat().length
    sizes = [(epath.Path(folder) / name).stat().length for folder, _, names in path.walk() for name in names]
    return len(sizes), sum(sizes)


def _of_run(run: epath.Path, done: set[str]) -> Iterator[epath.Path]:
    """Of one run, by its done cells: checkpoints whose training has its final parameters, and what was put aside."""
    names = files.names(run) if run.exists() and not _is_link(run) else set()
    trainings = [Record(run, stem) for stem in sorted(done) if stem.partition("@")[0] == TRAINING]
    for training in trainings:
        if training.checkpoints.name in names and (training.final.name in names or _has_failed(training)):
            yield training.checkpoints
    finals = {training.final.name for training in trainings}
    for name in sorted(names):
        aside = ASIDE.fullmatch(name)
        if aside is not None and (aside["name"] in finals or aside["name"].partition(".jsonl")[0] in done):
            yield run / name


def _has_failed(training: Record) -> bool:
    """Whether a training came to an end without parameters: it diverged, or memory did not suffice."""
    return any(row["outcome"] != "ok" for row in training.rows())


def _leftovers(root: epath.Path, folders: list[epath.Path]) -> list[epath.Path]:
    """Files beside those that they were to become, old by the clock of the file system that they lie on."""
    candidates = [
        folder / name for folder in folders for name in sorted(files.names(folder)) if LEFTOVER.fullmatch(name)
    ]
    if not candidates:
        return []
    probe = root / f".probe-{uuid.uuid4().hex}"
    probe.write_text("")
    now = probe.stat().mtime
    files.remove(probe)
    return [path for path in candidates if path.exists() and now - path.stat().mtime > LEFT_SECONDS]


def _is_link(path: epath.Path) -> bool:
    """Whether a path is a link, to files that are somebody's."""
    return not files.is_object(path) and os.path.islink(path)
