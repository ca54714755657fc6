"""A compiled program's HLO, as XLA prints it for CPU, GPU and TPU: its computations, its loops, the sizes of arrays."""

import math
import re
from typing import NamedTuple

# Scopes (jax.named_scope) of the training step's loops that do not go over time; every other loop of a program does.
BLOCKS, MICROBATCHES, RING = "blocks", "microbatches", "ring"
NOT_OVER_TIME = {BLOCKS, MICROBATCHES, RING}
CALLS = ("closed_call", "eval_jaxpr")  # what JAX 0.10 and 0.12 put between a scope and its loop

COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,<=]*)\]")
BITS = {"pred": 8, "token": 0, "opaque": 0}
CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
OP_NAME = re.compile(r'op_name="([^"]*)"')


class Loop(NamedTuple):
    """A loop of a compiled program: its op_name, how often its body runs (None: not written there), what it is over."""

    name: str
    trips: int | None
    over_time: bool


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    type: str
    opcode: str
    operands: str
    attributes: str


def parse(text: str) -> tuple[str, dict[str, list[Instruction]]]:
    """The name of the entry computation, and the instructions of each computation."""
    entry, computations = "", {}
    here: list[Instruction] = []
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY ")) and (match := COMPUTATION.match(line)):
            here = computations[match[1]] = []
            entry = match[1] if line.startswith("ENTRY ") else entry
        elif match := INSTRUCTION.match(line):
            here.append(_instruction(match[1], match[2]))
    if not entry:
        raise ValueError(f"no program in HLO: it begins with {text[:60]!r}")
    return entry, computations


def operand_names(instruction: Instruction) -> list[str]:
    """The names of the values that an instruction reads."""
    return re.findall(r"%([\w.\-]+)", instruction.operands)


def called(instruction: Instruction) -> list[str]:
    """The computations that an instruction calls."""
    branches = BRANCHES.search(instruction.attributes)
    listed = re.findall(r"[\w.\-]+", branches[1]) if branches else []
    return [*listed, *CALLED.findall(instruction.attributes)]


def loop_of(instruction: Instruction, computations: dict[str, list[Instruction]]) -> Loop:
    """The loop that a `while` is."""
    trips = TRIPS.search(instruction.attributes)
    name = op_name(instruction)
    return Loop(name, int(trips[1]) if trips else _trips(instruction, computations), is_over_time(name))


def is_over_time(name: str) -> bool:
    """Whether a loop goes over time, by its op_name, as in `jit(step)/transpose(jvp(blocks))/while`.

    Trip counts do not tell: a loop may be unrolled, or as long as the model is deep. The scopes of the few loops that
    do not go over time are written where these are written, and every loop of a mixer, a user's own too, goes without.
    A loop without a name is taken for one over time; those that XLA makes of one operation have that operation's.
    """
    *before, last = ["", *(scope for scope in name.split("/") if scope not in CALLS)]
    scope = re.search(r"(\w*)\)*$", before[-1] if before else "")
    return not name or (last == "while" and (scope is None or scope[1] not in NOT_OVER_TIME))


def n_bytes(types: str) -> int:
    """Bytes of all arrays of a type, without the padding of a layout."""
    bits = 0
    for element, width, shape in ARRAY.findall(types):
        size = int(width) if width else BITS[element]
        bits += size * math.prod(int(axis.removeprefix("<=")) for axis in filter(None, shape.split(",")))
    return math.ceil(bits / 8)


def op_name(instruction: Instruction) -> str:
    """The scopes of JAX that an instruction was made in; empty where the compiler made it by itself."""
    name = OP_NAME.search(instruction.attributes)
    return name[1] if name else ""


def _trips(instruction: Instruction, computations: dict[str, list[Instruction]]) -> int | None:
    """The length of a loop that counts up from 0 to a constant of its condition; None where it is another loop."""
    condition = re.search(r"\bcondition=%?([\w.\-]+)", instruction.attributes)
    assert condition is not None, f"a while without a condition: {instruction}"
    inside = _within(condition[1], computations)
    limits = [one.operands for one in inside if one.opcode == "constant" and re.match(r"[su]\d+\[\]", one.type)]
    counts_up = [one for one in inside if one.opcode == "compare" and "direction=LT" in one.attributes]
    return int(limits[0]) if len(limits) == len(counts_up) == 1 else None


def _within(name: str, computations: dict[str, list[Instruction]]) -> list[Instruction]:
    """The instructions of a computation and of all that it calls."""
    here = computations[name]
    return [*here, *(inner for one in here for name in called(one) for inner in _within(name, computations))]


def _instruction(name: str, text: str) -> Instruction:
    """Takes `f32[4] all-gather(%x), dimensions={0}` apart; types and operands may hold brackets and spaces."""
    end = _end(text) if text.startswith("(") else text.index(" ")
    opcode, _, rest = text[end:].strip().partition("(")
    close = _end("(" + rest) - 1
    return Instruction(name, text[:end], opcode, rest[: close - 1], rest[close:])


def _end(text: str) -> int:
    """Where the bracket closes that a text begins with."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"a bracket does not close: {text[:60]}")
