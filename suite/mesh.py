"""Device meshes and shardings: the only file that says PartitionSpec.

Mesh axis `data` splits the batch; parameters and optimiser state are replicated over it.
"""

import contextlib
import math
import re
from collections.abc import Callable

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXES = ("data",)


def parse(spec: str, n_devices: int) -> dict[str, int]:
    """Reads `data:8`; empty means all devices. ValueError where the axes do not use every device."""
    if not spec:
        return {"data": n_devices}
    axes = {}
    for item in spec.split(","):
        match = re.fullmatch(r"([a-z]+):([1-9][0-9]*)", item)
        if match is None or match[1] not in AXES:
            raise ValueError(
                f"cannot read --mesh={spec}; wanted axis:size with the axis {' or '.join(AXES)}, as in data:8"
            )
        axes[match[1]] = int(match[2])
    wanted = math.prod(axes.values())
    if wanted != n_devices:
        raise ValueError(
            f"--mesh={spec} wants {wanted} devices and there are {n_devices}; use data:{n_devices} or leave it out"
        )
    return axes


def make(
    spec: str = "",
    devices: list[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm] - compiled, without stubs
) -> Mesh:
    """The mesh that `spec` describes over `devices` (default: all devices of all processes)."""
    devices = jax.devices() if devices is None else devices
    axes = parse(spec, len(devices))
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The first axis is split over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays that are the same in every process, copied to all devices of the mesh."""

    def copy(leaf: jax.Array) -> jax.Array:
        copies = [jax.device_put(leaf, device) for device in mesh.local_devices]
        return jax.make_array_from_single_device_arrays(leaf.shape, replicated(mesh), copies)

    return jax.tree.map(copy, tree)


def ambient(mesh: Mesh) -> contextlib.AbstractContextManager[None]:
    """What is traced within is for this mesh: `platform` and `sharded` go by it."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def platform() -> str:
    """Where what is traced now will run: on the ambient mesh, else on JAX's default devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def device_kind() -> str:
    """What kind of device that is, as JAX names it."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.devices()[0].device_kind if mesh.empty else mesh.abstract_device.device_kind


def sharded(fn: Callable[..., PyTree], arguments: PyTree, results: PyTree) -> Callable[..., PyTree]:
    """`fn` on each device of the ambient mesh by itself, with its own part of the batch.

    `arguments` and `results` say of every array which of its axes is split over `data`; None for those of which each
    device has the whole. Left to itself XLA splits `fn` too, but by its reshapes: one that merges the batch with an
    axis before it makes every device gather all examples, a loop adds its gradients up over devices at every turn, and
    a kernel does not compile.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size < 2 or mesh.manual_axes:  # on one device, or already on each by itself
        return fn

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "data")

    def specs(axes: PyTree) -> PyTree:
        return jax.tree.map(spec, axes, is_leaf=lambda axis: axis is None)

    # A kernel does not say what its results vary over.
    return jax.shard_map(fn, in_specs=specs(arguments), out_specs=specs(results), check_vma=False)


def total(tree: PyTree) -> PyTree:
    """Sums over all devices, of what is `sharded`."""
    return jax.lax.psum(tree, "data") if jax.sharding.get_abstract_mesh().manual_axes else tree


def check_batch(mesh: Mesh, batch: int, name: str = "batch") -> None:
    """ValueError where a batch cannot be split evenly over the mesh."""
    if batch % mesh.shape["data"]:
        raise ValueError(f"{name} {batch} is not a multiple of the {mesh.shape['data']} devices of mesh axis data")
