"""Orbax save and restore of a training state, behind three functions."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

KEPT = 2  # the newest, and one to fall back on


@contextlib.contextmanager
def opened(directory: epath.PathLike) -> Iterator[ocp.training.Checkpointer]:
    """The rolling checkpoints under `directory`; leaving waits for the last save."""
    policy: Any = ocp.training.preservation_policies.LatestN(KEPT)  # orbax's classes miss the types of its protocol
    with ocp.training.Checkpointer(epath.Path(directory).resolve(), preservation_policy=policy) as checkpointer:
        yield checkpointer


def save(checkpointer: ocp.training.Checkpointer, step: int, state: PyTree) -> None:
    """Starts saving; the state is copied off the device first, so it may be donated afterwards."""
    checkpointer.save_async(step, _named(state), overwrite=True)


def restore_latest(checkpointer: ocp.training.Checkpointer, like: PyTree) -> PyTree | None:
    """The newest state, with the shapes and shardings of `like`; None where nothing was saved."""
    if checkpointer.latest is None:
        return None
    arrays = checkpointer.load(checkpointer.latest, _named(like))
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in _named(like)])


def save_final(directory: epath.PathLike, params: PyTree) -> None:
    """Keeps the trained parameters apart from the rolling checkpoints."""
    ocp.save(epath.Path(directory).resolve(), _named(params), overwrite=True)


def restore_final(directory: epath.PathLike, like: PyTree) -> PyTree:
    """The trained parameters, with the shapes and shardings of `like`."""
    arrays = ocp.load(epath.Path(directory).resolve(), _named(like))
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in _named(like)])


def _named(tree: PyTree) -> dict[str, jax.Array]:
    """Arrays by their path in the tree: a checkpoint that can be read without this project's classes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
