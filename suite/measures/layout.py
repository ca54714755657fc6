"""Where parameters lie on a mesh: the mesh axes that split each of them, and the bytes that a device holds."""

from collections.abc import Iterator

import jax

from suite import mesh as meshes
from suite.sweep.record import Row
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = 1
CONDITIONS = {"parameter": "name", "split": "axes"}
QUANTITIES = {
    "layout": {
        "bytes_in_all": "bytes as {parameter}_bytes_in_all",
        "bytes_a_device": "bytes as {parameter}_bytes_a_device",
    }
}
ALL, TRAINED = "all parameters", "all parameters and optimiser state"


def measure(rig: Rig) -> Iterator[Row]:
    """A row for each parameter, by its path in the model; then one for all of them, and one with the optimiser's state.

    `split` says which mesh axes split it and along which of its own axes, the first of which counts layers where they
    are stacked; `whole` where every device holds all of it.
    """
    state = rig.programs.like
    splits = meshes.describe(state.params, rig.mesh)
    leaves = jax.tree.leaves(state.params)
    held = meshes.bytes_a_device(state.params, rig.mesh)
    rows = [
        (name, split, _bytes(leaf), part)
        for (name, split), leaf, part in zip(splits.items(), leaves, held, strict=True)
    ]
    for name, tree in ((ALL, state.params), (TRAINED, state)):
        rows.append((name, "", sum(map(_bytes, jax.tree.leaves(tree))), sum(meshes.bytes_a_device(tree, rig.mesh))))
    for name, split, in_all, part in rows:
        yield {
            "phase": "layout",
            **{"parameter": name, "split": split, "bytes_in_all": in_all, "bytes_a_device": part},
            "outcome": "ok",
        }


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return leaf.size * leaf.dtype.itemsize
