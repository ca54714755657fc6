"""What a device reads, writes and waits for in a compiled program, by its HLO: nothing runs.

Bytes are those that its instructions read and write, each as often as the loops around it run: a fusion reads its
operands and writes its results, and what it makes within stays in registers. Of an array that is sliced the slice is
read, of one that is updated in place the update is written; what a TPU keeps in vector memory is left out. Caches are
not known: a machine that has large ones moves less.
"""

import re
from typing import NamedTuple

import jax

from suite.counting import hlo
from suite.counting.hlo import Instruction

# They move nothing by themselves.
FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all partition-id replica-id iota "
    "opt-barrier add-dependency".split()
)
ON_CHIP = re.compile(r"\b[a-z]+\d*\w*\[[\d,<=]*\]\{[^}]*S\(1\)[^}]*\}")  # in a TPU's vector memory
SLICES = ("dynamic-slice", "slice", "gather")


class Traffic(NamedTuple):
    """Bytes that a device reads and writes in one call of a program, and the turns of its loops over time."""

    accessed_bytes: int
    turns: int


def of_program(compiled: jax.stages.Compiled) -> Traffic:
    """The traffic of a compiled program. A loop whose length the program does not state counts once."""
    text = compiled.as_text()
    assert text is not None, "the backend gives no text of a compiled program"
    return of_text(text)


def of_text(text: str) -> Traffic:
    """The same from a program's HLO."""
    entry, computations = hlo.parse(text)
    return _of_computation(entry, computations)


def _of_computation(name: str, computations: dict[str, list[Instruction]]) -> Traffic:
    here = {instruction.name: instruction for instruction in computations[name]}
    accessed = turns = 0
    for instruction in here.values():
        if instruction.opcode == "conditional":
            branches = [_of_computation(branch, computations) for branch in hlo.called(instruction)]
            most = max(branches, key=lambda branch: branch.accessed_bytes)
            accessed, turns = accessed + most.accessed_bytes, turns + most.turns
        elif instruction.opcode in ("while", "call"):
            loop = hlo.loop_of(instruction, computations) if instruction.opcode == "while" else None
            trips = 1 if loop is None or loop.trips is None else loop.trips
            inner = [_of_computation(called, computations) for called in hlo.called(instruction)]
            accessed += trips * sum(one.accessed_bytes for one in inner)
            turns += trips * (sum(one.turns for one in inner) + (loop is not None and loop.over_time))
        elif instruction.opcode not in FREE:
            accessed += _moved(instruction, here, computations)
    return Traffic(accessed, turns)


def _moved(instruction: Instruction, here: dict[str, Instruction], computations: dict[str, list[Instruction]]) -> int:
    """The bytes that one instruction reads and writes."""
    operands = [here[name] for name in hlo.operand_names(instruction) if name in here]
    if instruction.opcode == "fusion":
        [name] = hlo.called(instruction)
        return _of_fusion(operands, instruction, computations[name])
    if instruction.opcode in SLICES:
        return 2 * _n_bytes(instruction.type)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _n_bytes(operands[1].type)
    read = 0 if instruction.opcode.endswith("-done") else sum(_n_bytes(operand.type) for operand in operands)
    return read + (0 if instruction.opcode.endswith("-start") else _n_bytes(instruction.type))


def _of_fusion(operands: list[Instruction], fusion: Instruction, inside: list[Instruction]) -> int:
    by_name = {instruction.name: instruction for instruction in inside}
    parameters = {int(one.operands): one for one in inside if one.opcode == "parameter"}
    read = 0
    for index, operand in enumerate(operands):
        users = _users(parameters[index].name, inside)
        sliced = [user for user, place in users if _is_part(user, place)]
        if users and len(sliced) == len(users):
            read += sum(_n_bytes(user.type) for user in sliced if user.opcode in SLICES)
        else:
            read += _n_bytes(operand.type)
    roots = _roots(inside[-1], by_name)
    updates = [by_name[hlo.operand_names(root)[1]] for root in roots if root.opcode == "dynamic-update-slice"]
    in_place = sum(_n_bytes(root.type) for root in roots if root.opcode == "dynamic-update-slice")
    return read + _n_bytes(fusion.type) - in_place + sum(_n_bytes(update.type) for update in updates)


def _is_part(user: Instruction, place: int) -> bool:
    """Whether an instruction reads only a part of the operand at this place: a slice, or what it updates in place."""
    return place == 0 and user.opcode in (*SLICES, "dynamic-update-slice")


def _users(name: str, inside: list[Instruction]) -> list[tuple[Instruction, int]]:
    """Who reads a value, with the place of it among its operands; what only shows it in another shape is passed by."""
    users = []
    for one in inside:
        if name in (operands := hlo.operand_names(one)):
            users += _users(one.name, inside) if one.opcode == "bitcast" else [(one, operands.index(name))]
    return users


def _roots(root: Instruction, by_name: dict[str, Instruction]) -> list[Instruction]:
    """The instructions that make what a computation gives."""
    if root.opcode == "tuple":
        return [inner for name in hlo.operand_names(root) for inner in _roots(by_name[name], by_name)]
    while root.opcode == "bitcast":
        root = by_name[hlo.operand_names(root)[0]]
    return [root]


def _n_bytes(types: str) -> int:
    return hlo.n_bytes(ON_CHIP.sub("", types))
