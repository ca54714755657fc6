"""Orbax save and restore of a training state: rolling checkpoints that are verified, and the final parameters."""

import concurrent.futures
import errno
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from suite import files, manifest
from suite.sweep import processes

KEPT = 2  # the newest, and one to fall back on
# Orbax counts the seconds of a save by the wall clock, which may leap; what is stuck is the watchdog's affair.
PATIENCE = 10 * 24 * 3600
SPARE = 1.1  # room that is wanted over the bytes of the arrays: what orbax writes beside them


class Checkpoints:
    """The rolling checkpoints under a directory, `<step>` and `<step>.manifest` each; leaving waits for the last save.

    Only what has a manifest counts: it is written after orbax has committed.
    `origin` is what the caller says of a state.
    """

    def __init__(self, directory: epath.PathLike):
        self.directory = files.absolute(directory)
        self._background = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._under_way: concurrent.futures.Future[None] | None = None
        self._newest = -1

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """A failure does not wait: the save may be waiting for a process that is gone."""
        if error_type is None:
            self.wait()
        self._background.shutdown(wait=error_type is None)

    def save(self, step: int, state: PyTree, origin: Mapping[str, Any]) -> None:
        """Starts saving, after the save before; the state is copied off the device first, so it may be donated then.

        A step that was saved or restored before is not written again.
        """
        if step == self._newest:
            return
        self.wait()
        self._newest = step
        arrays = _named(state)
        check_room(self.directory, size(state))
        with _patient():
            committed = ocp.save_async(self.directory / str(step), arrays, overwrite=True)
        self._under_way = self._background.submit(self._finish, self.directory / str(step), committed, origin)

    def wait(self) -> None:
        """Returns when no save is under way; raises what went wrong with it."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def restore(
        self, like: PyTree, fits: Callable[[Mapping[str, Any]], bool] = lambda origin: True
    ) -> tuple[PyTree, dict[str, Any]] | None:
        """The newest whole state whose origin fits, with the shapes and shardings of `like`, and its origin.

        None where there is none. What was saved after it is forgotten.
        """
        newest = processes.agree(self._newest_whole(fits) if jax.process_index() == 0 else None)
        if newest is None:
            return None
        self._newest = newest["step"]
        return _load(self.directory / str(self._newest), like), newest["origin"]

    def _newest_whole(self, fits: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any] | None:
        """Verifies from the newest to the oldest; what is damaged is put aside, what was never complete removed."""
        if not self.directory.exists():
            return None
        complete = {path.name for path in self._complete()}
        for path in self.directory.iterdir():
            if path.is_dir() and path.name not in complete and ".bad" not in path.name:
                path.rmtree()
        for path in reversed(self._complete()):
            if not _put_aside_if_damaged(path):
                origin = manifest.origin(path)
                if fits(origin):
                    return {"step": int(path.name), "origin": origin}
                _remove(path)
        return None

    def _complete(self) -> list[epath.Path]:
        """What has a manifest, the oldest first."""
        steps = [path.stem for path in self.directory.iterdir() if path.suffix == ".manifest" and path.stem.isdigit()]
        return [self.directory / step for step in sorted(steps, key=int)]

    def _finish(self, path: epath.Path, committed: Any, origin: Mapping[str, Any]) -> None:
        committed.result()
        if jax.process_index() == 0:
            manifest.write(path, dict(origin))
            for old in self._complete()[:-KEPT]:
                _remove(old)


def forget(directory: epath.Path) -> None:
    """Removes the checkpoints under a directory, of a training that is over; what was put aside is a person's."""
    if not directory.exists():
        return
    for path in directory.iterdir():
        if ".bad" not in path.name:
            files.remove(path)
    if not files.names(directory):
        directory.rmdir()


def save_final(directory: epath.PathLike, params: PyTree) -> None:
    """Keeps the trained parameters apart from the rolling checkpoints."""
    path, arrays = files.absolute(directory), _named(params)
    check_room(path.parent, size(params))
    with _patient():
        ocp.save(path, arrays, overwrite=True)
    if jax.process_index() == 0:
        manifest.write(path, {})


def restore_final(directory: epath.PathLike, like: PyTree) -> PyTree | None:
    """The trained parameters, with the shapes and shardings of `like`.

    None where they are not there, or damaged, and put aside.
    """
    path = files.absolute(directory)
    whole = processes.agree(jax.process_index() == 0 and not _put_aside_if_damaged(path) and path.is_dir())
    return _load(path, like) if whole else None


def _patient() -> ocp.Context:
    return ocp.Context(async_options=ocp.options.AsyncOptions(timeout_secs=PATIENCE))


def size(tree: PyTree) -> int:
    """Bytes of all arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def check_room(directory: epath.Path, wanted: int) -> None:
    """OSError, saying which path and how much, where the disk has no room for so many bytes; asked before a save."""
    if "://" in os.fspath(directory):
        return  # an object store
    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < SPARE * wanted:
        shortage = (
            f"no room for a checkpoint: it wants {SPARE * wanted / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free"
        )
        raise OSError(errno.ENOSPC, f"{shortage}; make room and start again", os.fspath(directory))


def _remove(path: epath.Path) -> None:
    manifest.path_of(path).unlink()
    path.rmtree()


def _put_aside_if_damaged(path: epath.Path) -> bool:
    if not manifest.path_of(path).exists():
        return False  # final parameters of a directory of schema 1
    damage = manifest.damage(path)
    if damage:
        print(f"crossover: {path} is damaged ({damage}); put aside as {manifest.quarantine(path)}", file=sys.stderr)
    return bool(damage)


def _load(path: epath.Path, like: PyTree) -> PyTree:
    arrays = ocp.load(path, _named(like))
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in _named(like)])


def _named(tree: PyTree) -> dict[str, jax.Array]:
    """Arrays by their path in the tree: a checkpoint that can be read without this project's classes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
