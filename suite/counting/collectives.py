"""Collectives of a compiled program: what a device sends, over which axes of the mesh, and inside which loops.

Read from the program's HLO, as XLA prints it for CPU, GPU and TPU: exact, and nothing runs. JAX's own tools count a
loop's body once; here every collective knows the loops around it, their lengths and whether they go over time.

Bytes are those that one device sends in one call, by the cost of a ring, without the padding of a layout. Of n devices
and an operand of b bytes on each:

    all-gather             (n - 1) b         each passes on all parts of the result but one
    reduce-scatter         (n - 1) / n b
    all-reduce             2 (n - 1) / n b   a reduce-scatter and an all-gather
    all-to-all             (n - 1) / n b
    collective-permute     b                 where a device sends to itself alone: nothing

A pair of -start and -done is one collective. Groups of one device send nothing and are left out. Between slices, over
which only `data` goes (suite/mesh.py), TPU's compiler hands an array to its runtime, with the name of the collective.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from suite.counting import hlo

SENT: dict[str, Callable[[int, int], int]] = {  # by the operand's bytes and the number of devices in a group
    "all-gather": lambda size, n: (n - 1) * size,
    "reduce-scatter": lambda size, n: (n - 1) * size // n,
    "all-reduce": lambda size, n: 2 * (n - 1) * size // n,
    "all-to-all": lambda size, n: (n - 1) * size // n,
    "collective-permute": lambda size, n: size,
}
UNKNOWN = ("ragged-all-to-all", "collective-broadcast")  # XLA makes none of them from this suite
COLLECTIVE = re.compile(rf"({'|'.join((*UNKNOWN, *SENT))})(?:-start)?")
# TPU's compiler writes a reduce-scatter as a fusion of an all-reduce and a slice.
REDUCE_SCATTER_OF_TPU = "all-reduce-scatter"

# It also spreads an asynchronous collective over several fusions, which compute meanwhile: each has a copy of it.
CHAIN = re.compile(r'\bchannel_id=(\d+).*\bchain_id="(\w+)"')

# Of a send: what it is a part of, and the slices that take part.
BETWEEN_SLICES = re.compile(r'_xla_megascale_target="\{([\d,]+)\}.*_xla_megascale_transfer_type="(\w+)"')

IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
OF_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, ?device_ids=\((.*?)\))? ?\{([^}]*)\}")


class Collective(NamedTuple):
    """A collective of a compiled program: the bytes that a device sends in one call, and the loops around it."""

    operation: str
    axes: tuple[str, ...]
    sent: int
    loops: tuple[hlo.Loop, ...]  # the outermost first
    operands: str  # their types on one device
    name: str  # op_name

    @property
    def calls(self) -> int | None:
        """How often it runs in one call of the program; None where the length of a loop around it is not known."""
        trips = [loop.trips for loop in self.loops if loop.trips is not None]
        return math.prod(trips) if len(trips) == len(self.loops) else None

    @property
    def in_time(self) -> bool:
        """Whether a loop over time is around it."""
        return any(loop.over_time for loop in self.loops)


class Program(NamedTuple):
    """The computations of a program, and the mesh that it is for."""

    computations: dict[str, list[hlo.Instruction]]
    mesh: Mesh
    chains: set[tuple[str, ...]]  # that were counted


def of_program(compiled: jax.stages.Compiled, mesh: Mesh) -> list[Collective]:
    """The collectives of a program that was compiled for a mesh, those of loops with their loops around them."""
    text = compiled.as_text()
    assert text is not None, "the backend gives no text of a compiled program"
    return of_text(text, mesh)


def of_text(text: str, mesh: Mesh) -> list[Collective]:
    """The same from a program's HLO. ValueError where it holds what this reading does not know."""
    entry, computations = hlo.parse(text)
    return list(_of_computation(entry, Program(computations, mesh, set()), ()))


def _of_computation(name: str, program: Program, loops: tuple[hlo.Loop, ...]) -> Iterator[Collective]:
    """Those of a computation and of all that it calls."""
    instructions = program.computations[name]
    types = {instruction.name: instruction.type for instruction in instructions}
    for instruction in instructions:
        match = COLLECTIVE.fullmatch(instruction.opcode)
        if match:
            operation = "reduce-scatter" if REDUCE_SCATTER_OF_TPU in name else match[1]
            yield from _collective(operation, instruction, types, program, loops)
        elif instruction.opcode == "send":
            yield _between_slices(instruction, types, loops)
        elif instruction.opcode == "conditional":
            branches = [list(_of_computation(branch, program, loops)) for branch in hlo.called(instruction)]
            yield from max(branches, key=_total, default=[])
        elif not instruction.opcode.endswith(("-update", "-done")):  # they name the computation of their -start
            inner = (*loops, hlo.loop_of(instruction, program.computations)) if instruction.opcode == "while" else loops
            for called in hlo.called(instruction):
                yield from _of_computation(called, program, inner)


def _collective(
    operation: str, instruction: hlo.Instruction, types: dict[str, str], program: Program, loops: tuple[hlo.Loop, ...]
) -> Iterator[Collective]:
    """One; none where no device sends to another, or where another link of its chain was counted."""
    if operation in UNKNOWN:
        raise ValueError(f"no cost is known of a {operation}; give it one in suite/counting/collectives.py")
    mesh = program.mesh
    groups = _pairs(instruction) if operation == "collective-permute" else _groups(instruction, mesh.size)
    groups = [group for group in groups if len(set(group)) > 1]
    if chain := CHAIN.search(instruction.attributes):
        groups = [] if chain.groups() in program.chains else groups
        program.chains.add(chain.groups())
    if groups:
        operands = _operands(instruction, types)
        sent = SENT[operation](hlo.n_bytes(operands), max(map(len, groups)))
        yield Collective(operation, _axes(groups, mesh), sent, loops, operands, hlo.op_name(instruction))


def _between_slices(instruction: hlo.Instruction, types: dict[str, str], loops: tuple[hlo.Loop, ...]) -> Collective:
    match = BETWEEN_SLICES.search(instruction.attributes)
    operation = match[2].lower().replace("_", "-") if match else ""
    if match is None or operation not in SENT:
        raise ValueError(f"no cost is known of the send {instruction.attributes}; give it one in {__name__}")
    operands = _operands(instruction, types)
    sent = SENT[operation](hlo.n_bytes(operands), len(_numbers(match[1])))
    return Collective(operation, ("data",), sent, loops, operands, hlo.op_name(instruction))


def _operands(instruction: hlo.Instruction, types: dict[str, str]) -> str:
    """The types of what goes into an instruction; a token, which orders sends, is nothing."""
    named = [types[operand] for operand in hlo.operand_names(instruction)]
    return ", ".join(type for type in named if not type.startswith("token"))


def _total(collectives: list[Collective]) -> int:
    return sum(one.sent * (one.calls or 1) for one in collectives)


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    """The axes of the mesh along which devices of one group differ. Device k of a program is the k-th of the mesh."""
    varying = set()
    for group in groups:
        places = zip(*np.unravel_index(group, mesh.devices.shape), strict=True)
        for axis, at in zip(mesh.axis_names, zip(*places, strict=True), strict=True):
            if len(set(at)) > 1:
                varying.add(axis)
    return tuple(axis for axis in mesh.axis_names if axis in varying)


def _groups(instruction: hlo.Instruction, n_devices: int) -> list[list[int]]:
    """The devices of each group: {{0,1},{2,3}}, [2,2]<=[4], or mesh['a'=2,'b'=2] {'b'}; {} stands for all."""
    attributes = instruction.attributes
    if iota := IOTA.search(attributes):
        return _iota(iota[2], iota[3]).reshape(_numbers(iota[1])).tolist()
    if of_mesh := OF_MESH.search(attributes):
        return _of_mesh(*of_mesh.groups())
    listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", attributes)
    if listed is None:
        raise ValueError(f"cannot read the replica_groups of {instruction.opcode}: {attributes}")
    groups = [_numbers(group) for group in re.findall(r"\{([\d,]*)\}", listed[1])]
    # With a channel, ids count programs that differ in nothing unless they are said to be those of devices.
    of_programs = "channel_id=" in attributes and "use_global_device_ids=true" not in attributes
    everywhere = not groups or (of_programs and groups == [[0]])
    return [list(range(n_devices))] if everywhere else groups


def _iota(shape: str, order: str | None) -> np.ndarray:
    """Counts from 0 in this shape, with its axes in another order: `2,4` and `1,0`."""
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids.transpose(_numbers(order)) if order else ids


def _of_mesh(sizes: str, ids: str | None, over: str) -> list[list[int]]:
    """Groups along axes of XLA's own mesh; `'a':(2)4` is the part of size 4 of axis a, below its first part of 2."""
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes)}
    iota = re.fullmatch(r"\[([\d,]+)\]T\(([\d,]+)\)", ids or "")
    devices = _iota(iota[1], iota[2]).flatten().tolist() if iota else _numbers(ids or "")
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in range(math.prod(axes.values())):
        place = dict(zip(axes, map(int, np.unravel_index(number, tuple(axes.values()))), strict=True))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", over):
            below = axes[name] // (int(before) * int(size)) if size else 1
            place[name] -= place[name] // below % int(size or axes[name]) * below
        groups.setdefault(tuple(place.values()), []).append(devices[number] if devices else number)
    return list(groups.values())


def _pairs(instruction: hlo.Instruction) -> list[list[int]]:
    match = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", instruction.attributes)
    if match is None:
        raise ValueError(f"cannot read the source_target_pairs of {instruction.opcode}: {instruction.attributes}")
    return [_numbers(pair) for pair in re.findall(r"\{([\d,]*)\}", match[1])]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
