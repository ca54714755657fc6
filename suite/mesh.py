"""Device meshes and shardings: the only file that says PartitionSpec.

A mesh has four axes, of size 1 where none is asked for. `data`, `fsdp` and `context` split a batch: its examples over
the first two, its tokens over the third. `fsdp` also splits parameters and optimiser state, and `model` splits them by
heads and by the hidden channels of an MLP.

A training step runs on every device by itself over `data`, `fsdp` and `context`: a block's parameters are gathered over
`fsdp` when the block is run, and what goes from shard to shard of a sequence is sent in suite/ops/context.py. Over
`model` XLA splits what lies on each of these devices, as the parameters' layout says.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

AXES = ("data", "fsdp", "context", "model")
BY_HAND = ("data", "fsdp", "context")  # over these every device runs by itself
EXAMPLES = ("data", "fsdp")
# The letters at the end of a parameter's name are its axes. The first of these whose size can be divided is split.
LETTERS = {
    "model": ("H", "F"),  # heads; the channels of all heads beside one another, or the hidden ones of an MLP
    "fsdp": ("D", "V", "K", "F", "E", "G", "N", "S"),
}
GATHERED = "gathered"  # the name by which the gradient knows parameters that are gathered again rather than kept


def parse(spec: str, n_devices: int) -> dict[str, int]:
    """The size of every axis of `data:4,fsdp:2`, in which one size may be left out; empty means `data:`.

    ValueError where an axis is unknown or stands twice, or where the sizes do not multiply to the devices.
    """
    sizes: dict[str, int | None] = {}
    for item in (spec or "data:").split(","):
        match = re.fullmatch(r"([a-z]+):([1-9][0-9]*)?", item)
        if match is None or match[1] not in AXES:
            raise ValueError(
                f"cannot read --mesh={spec}; wanted axis:size with the axes {', '.join(AXES)}, as in data:4,fsdp:2"
            )
        if match[1] in sizes:
            raise ValueError(f"--mesh={spec} names the axis {match[1]} twice; name it once")
        sizes[match[1]] = int(match[2]) if match[2] else None
    open_axes = [axis for axis, size in sizes.items() if size is None]
    if len(open_axes) > 1:
        raise ValueError(f"--mesh={spec} leaves the sizes of {' and '.join(open_axes)} out; leave out one at most")
    wanted = math.prod(size or 1 for size in sizes.values())
    if n_devices % wanted or not (open_axes or wanted == n_devices):
        advice = (
            "data:" if not open_axes else ",".join(f"{axis}:" if size is None else axis for axis, size in sizes.items())
        )
        raise ValueError(
            f"--mesh={spec} wants {'a multiple of ' if open_axes else ''}{wanted} devices and there are {n_devices}; "
            f"change a size, or leave one out as in {advice}"
        )
    return {axis: 1 if axis not in sizes else sizes[axis] or n_devices // wanted for axis in AXES}


def make(
    spec: str = "",
    devices: list[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm] - compiled, without stubs
) -> Mesh:
    """The mesh that `spec` describes over `devices` (default: all devices of all processes).

    Over several slices, which a slow network joins, `data` goes over the slices. ValueError where it cannot.
    """
    devices = jax.devices() if devices is None else devices
    sizes = parse(spec, len(devices))
    types = (AxisType.Auto,) * len(sizes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)
    if sizes["data"] % slices:
        raise ValueError(f"--mesh={spec} has data:{sizes['data']}, which does not go over {slices} slices evenly")
    inside = {**sizes, "data": sizes["data"] // slices}
    between = {axis: slices if axis == "data" else 1 for axis in sizes}
    grid = mesh_utils.create_hybrid_device_mesh(tuple(inside.values()), tuple(between.values()), devices=devices)
    return Mesh(grid, tuple(sizes), axis_types=types)


def words(mesh: Mesh) -> str:
    """A mesh in short: the axes that split anything, and `data` where none does."""
    sizes = {axis: size for axis, size in mesh.shape.items() if size > 1} or {"data": mesh.shape["data"]}
    return ",".join(f"{axis}:{size}" for axis, size in sizes.items())


def check(mesh: Mesh, *, batch: int, microbatch: int, length: int, heads: Iterable[int]) -> None:
    """ValueError where a job's batch, its sequences or its mixers' heads cannot be split evenly over the mesh."""
    examples = devices_of_examples(mesh)
    axes = "mesh axis data" if mesh.shape["fsdp"] == 1 else "mesh axes data and fsdp"
    wanted = [("batch", batch, examples, axes), ("microbatch", microbatch, examples, axes)]
    wanted.append(("length", length, mesh.shape["context"], "mesh axis context"))
    wanted += [("heads", count, mesh.shape["model"], "mesh axis model") for count in sorted(heads) if count > 1]
    for name, size, devices, over in wanted:
        if size % devices:
            raise ValueError(f"{name} {size} is not a multiple of the {devices} devices of {over}; change it or --mesh")


# Where arrays lie.


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The first axis, examples, is split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(EXAMPLES))


def over_tokens(mesh: Mesh) -> NamedSharding:
    """The first axis, examples, is split over `data` and `fsdp`, and the second, tokens, over `context`."""
    return NamedSharding(mesh, PartitionSpec(EXAMPLES, "context"))


def layout(tree: PyTree, mesh: Mesh) -> PyTree:
    """The sharding of every array or shape of a tree of parameters, by the letters at the end of its name.

    Optimiser state has the names of its parameters. An array may have one axis before those of its letters, over which
    layers are stacked: it is left alone, as are vectors. A matrix whose name does not say its axes is split over `fsdp`
    along its largest axis that can be. What cannot be divided is whole.
    """

    def of_leaf(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, _spec(_name(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def describe(tree: PyTree, mesh: Mesh) -> dict[str, str]:
    """Of every array of a tree, by its path: the mesh axes that split it and along what, or `whole`."""
    shardings, _ = jax.tree_util.tree_flatten_with_path(layout(tree, mesh))

    def of(spec: PartitionSpec) -> str:
        axes = [f"{axis} along axis {index}" for index, axis in enumerate(spec) if axis and mesh.shape[axis] > 1]
        return ", ".join(axes) or "whole"

    return {jax.tree_util.keystr(path, simple=True, separator="/"): of(sharding.spec) for path, sharding in shardings}


def _name(path: tuple[Any, ...]) -> str:
    names = [str(getattr(key, "name", "")) for key in path]
    return next((name for name in reversed(names) if name), "")


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    _, _, letters = name.rpartition("_")
    split: dict[int, str] = {}  # axis of the array: of the mesh
    if letters.isupper() and 0 <= len(shape) - len(letters) <= 1:
        stacked = len(shape) - len(letters)
        for axis, wanted in LETTERS.items():
            places = [stacked + letters.index(letter) for letter in wanted if letter in letters]
            fits = [place for place in places if place not in split and shape[place] % mesh.shape[axis] == 0]
            if fits and len(letters) > 1 and mesh.shape[axis] > 1:  # an axis of size 1 takes no place from another
                split[fits[0]] = axis
    elif len(shape) > 1:
        fits = [place for place, size in enumerate(shape) if size % mesh.shape["fsdp"] == 0]
        split = {max(fits, key=lambda place: shape[place]): "fsdp"} if fits else {}
    return PartitionSpec(*(split.get(place) for place in range(len(shape))))


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Arrays that are the same in every process, of which every device gets its own part."""

    def of_leaf(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        parts = [
            jax.device_put(leaf if sharding.is_fully_replicated else leaf[index], device)
            for device, index in sharding.addressable_devices_indices_map(leaf.shape).items()
        ]
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)

    return jax.tree.map(of_leaf, tree, shardings)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays that are the same in every process, copied to all devices of the mesh."""
    return place(tree, jax.tree.map(lambda leaf: replicated(mesh), tree))


def on_one_device(tree: PyTree, mesh: Mesh) -> PyTree:
    """The whole of every array, on the first device of this process."""
    if makes_shards(mesh):
        tree = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def devices_of_examples(mesh: Mesh) -> int:
    """Over how many devices the examples of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in EXAMPLES)


def bytes_a_device(tree: PyTree, mesh: Mesh) -> list[int]:
    """What each array of a tree of parameters or their shapes takes on a device."""

    def of_leaf(leaf: Any, sharding: NamedSharding) -> int:
        return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return jax.tree.leaves(jax.tree.map(of_leaf, tree, layout(tree, mesh)))


def makes_shards(mesh: Mesh) -> bool:
    """Whether any device of a mesh holds less than all parameters."""
    return mesh.shape["fsdp"] * mesh.shape["model"] > 1


# What runs on every device by itself.


def ambient(mesh: Mesh) -> contextlib.AbstractContextManager[None]:
    """What is traced within is for this mesh: `platform` and all below go by it."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def platform() -> str:
    """Where what is traced now will run: on the ambient mesh, else on JAX's default devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def device_kind() -> str:
    """What kind of device that is, as JAX names it."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.devices()[0].device_kind if mesh.empty else mesh.abstract_device.device_kind


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shard:
    """A device's part of a parameter, split over `fsdp` along an axis that is counted from the last, as -1.

    `of_model` is the axis that is split over `model`, counted in the same way; None where there is none.
    """

    part: Any  # an array, or what JAX and Equinox put in its place
    axis: int = dataclasses.field(metadata={"static": True})
    of_model: int | None = dataclasses.field(metadata={"static": True})


def whole(tree: PyTree) -> PyTree:
    """The tree with every Shard gathered over `fsdp`; its gradient comes back to each device as the part it has."""

    def gather(leaf: Any) -> Any:
        if not isinstance(leaf, Shard):
            return leaf
        ndim = leaf.part.ndim
        over_fsdp = functools.partial(jax.lax.all_gather, axis_name="fsdp", axis=ndim + leaf.axis, tiled=True)
        if leaf.of_model is not None and "model" not in jax.sharding.get_abstract_mesh().manual_axes:
            # Else XLA gathers it over `model` first, and from then on does not know that it was split.
            spec = PartitionSpec(*[None] * (ndim + leaf.of_model), "model")
            over_fsdp = jax.shard_map(over_fsdp, in_specs=spec, out_specs=spec, check_vma=False, axis_names={"model"})
        return checkpoint_name(over_fsdp(leaf.part), GATHERED)

    return jax.tree.map(gather, tree, is_leaf=is_shard)


def same_over_model(x: Array) -> Array:
    """`x`, of which every device of `model` has the whole; left to itself XLA splits channels, to join them at once."""
    if not _splits("model") or "model" in jax.sharding.get_abstract_mesh().manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def gathered_again(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, for whose gradient what it gathers is gathered once more rather than kept; all else is kept."""
    if not _splits("fsdp"):
        return fn
    policy = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)
    return jax.checkpoint(fn, policy=policy, prevent_cse=False)


def on_each_device(mesh: Mesh, params: PyTree, fn: Callable[..., PyTree], results: str) -> Callable[..., PyTree]:
    """`fn(params, whole, batch)` on every device with its own parameters and its own part of a batch (B, T).

    Left to itself XLA splits `fn` over examples too, but by its reshapes: one that merges the batch with an axis before
    it makes every device gather all examples, a loop adds its gradients up over devices at every turn, and a kernel
    does not compile. `params` are parameters or their shapes; `fn` gets them with a Shard for each that is split over
    `fsdp`. `results` says what it gives: "sums", a pair of a scalar and the parameters' gradient, which are added up
    over devices, or "tokens", arrays (B, T).
    """
    if mesh.size < 2:
        return fn
    lies = jax.tree.map(lambda sharding: sharding.spec, layout(params, mesh))
    specs = jax.tree.map(lambda spec: _of_axes(spec, BY_HAND), lies)
    tokens = PartitionSpec(EXAMPLES, "context")
    is_sum = results == "sums"

    def shards(params: PyTree) -> PyTree:
        def of_leaf(leaf: Array, spec: PartitionSpec) -> Array | Shard:
            if mesh.shape["fsdp"] == 1 or "fsdp" not in spec:
                return leaf
            splits_model = mesh.shape["model"] > 1 and "model" in spec
            of_model = spec.index("model") - len(spec) if splits_model else None
            return Shard(leaf, spec.index("fsdp") - len(spec), of_model)

        return jax.tree.map(of_leaf, params, lies)

    def total(leaf: Array, axes: Sequence[str]) -> Array:
        # XLA refuses a sum over axes that are all of size 1 where `model` is left to it.
        return jax.lax.psum(leaf, tuple(axis for axis in axes if mesh.shape[axis] > 1))

    def run(params: PyTree, shared: PyTree, batch: PyTree) -> PyTree:
        given = fn(shards(params), shared, batch)
        if not is_sum:
            return given
        value, gradient = given

        def add_up(leaf: Array | Shard) -> Array:
            if isinstance(leaf, Shard):  # gathering has added it up over fsdp
                return total(leaf.part, ("data", "context"))
            return total(leaf, BY_HAND)

        return total(value, BY_HAND), jax.tree.map(add_up, gradient, is_leaf=is_shard)

    out_specs = (PartitionSpec(), specs) if is_sum else tokens
    in_specs = (specs, PartitionSpec(), tokens)
    # A kernel does not say what its results vary over, and none compiles beside an axis that is left to XLA.
    names = set(BY_HAND) if mesh.shape["model"] > 1 else set(AXES)
    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, check_vma=False, axis_names=names)


def sharded(fn: Callable[..., PyTree], arguments: PyTree, results: PyTree) -> Callable[..., PyTree]:
    """`fn`, a kernel, which XLA cannot split, on each device of the ambient mesh by itself.

    `arguments` and `results` say of every array which of its axes has examples; None for those of which each device
    has the whole. Within a training step examples are split already, and every device of `model` runs the same.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size < 2 or set(mesh.manual_axes) >= {axis for axis in AXES if mesh.shape[axis] > 1}:
        return fn
    by_hand = bool(mesh.manual_axes)

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None or by_hand else PartitionSpec(*[None] * axis, EXAMPLES)

    def specs(axes: PyTree) -> PyTree:
        return jax.tree.map(spec, axes, is_leaf=lambda axis: axis is None)

    names = {"model"} if by_hand else set(AXES)
    return jax.shard_map(fn, in_specs=specs(arguments), out_specs=specs(results), check_vma=False, axis_names=names)


def by_head(fn: Callable[..., PyTree], arguments: PyTree, results: PyTree) -> Callable[..., PyTree]:
    """`fn` on each device of `model` with its own heads; with all of them where they cannot be divided evenly.

    `arguments` and `results` are prefixes of their trees that say which axis has heads. An array with one head is
    whole on every device.
    """
    if not _splits("model") or "model" in jax.sharding.get_abstract_mesh().manual_axes:
        return fn
    devices = jax.sharding.get_abstract_mesh().shape["model"]

    def run(*given: PyTree) -> PyTree:
        axes = jax.tree.broadcast(arguments, given)
        counts = [leaf.shape[axis] for leaf, axis in zip(jax.tree.leaves(given), jax.tree.leaves(axes), strict=True)]
        divides = all(count == 1 or count % devices == 0 for count in counts) and max(counts) > 1

        def spec(axis: int, heads: int = 0) -> PartitionSpec:
            return PartitionSpec(*[None] * axis, "model") if divides and heads != 1 else PartitionSpec()

        in_specs = jax.tree.map(lambda leaf, axis: spec(axis, leaf.shape[axis]), given, axes)
        out_specs = jax.tree.map(spec, results)
        return jax.shard_map(fn, in_specs=in_specs, out_specs=out_specs, check_vma=False, axis_names={"model"})(*given)

    return run


def _splits(axis: str) -> bool:
    """Whether an axis of the ambient mesh has several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape.get(axis, 1) > 1


def _of_axes(spec: PartitionSpec, axes: Sequence[str]) -> PartitionSpec:
    return PartitionSpec(*(axis if axis in axes else None for axis in spec))


def is_shard(leaf: Any) -> bool:
    return isinstance(leaf, Shard)


# Sequences split over `context`: for suite/ops/context.py.


def shards_of_context() -> int:
    """Into how many parts the sequences of what is traced now are split."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get("context", 1)


def context_index() -> Array:
    """Which part of the sequences this device has, from 0."""
    return jax.lax.axis_index("context")


def gather_context(x: Array, axis: int) -> Array:
    """The parts of all devices, joined along an axis."""
    return jax.lax.all_gather(x, "context", axis=axis, tiled=True)


def to_later_in_context(x: Array, parts: int = 1) -> Array:
    """What the device so many parts before has; 0 where there is none."""
    pairs = [(part, part + parts) for part in range(shards_of_context() - parts)]
    return jax.lax.ppermute(x, "context", pairs)


def to_earlier_in_context(x: Array) -> Array:
    """What the device of the part after has; 0 on that of the last."""
    return jax.lax.ppermute(x, "context", [(part + 1, part) for part in range(shards_of_context() - 1)])


def around_context(x: Array, parts: int = 1) -> Array:
    """What the device so many parts before has, in a circle."""
    shards = shards_of_context()
    return jax.lax.ppermute(x, "context", [(part, (part + parts) % shards) for part in range(shards)])
