"""FLOPs and sequential depth of a function, counted from its jaxpr.

Loops count as often as they run, which XLA's own cost analysis does not do. A multiply-add is two FLOPs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from suite.counting.jaxprs import CUMULATIVE, MOVEMENT, REDUCTIONS, inner, is_inexact, loop, shape, size, walk

# Their trip count or their inside is not in the jaxpr.
OPAQUE = frozenset(
    "while pallas_call ffi_call custom_call tpu_custom_call dot_product_attention_fwd_wrapper rnn".split()
)
# Jitted functions of suite/ops whose arithmetic is products, spelt as multiplications and sums of whole arrays.
PRODUCTS = frozenset({"causal_convolution"})

UNREACHED = -math.inf
Axes = frozenset[int]  # along which an array changes with the data: along the others it was broadcast or is a constant


@dataclasses.dataclass(frozen=True)
class Count:
    """FLOPs of matrix products, FLOPs of everything else, and the longest chain of dependent operations."""

    matmul: int
    elementwise: int
    depth: int


def count(fn: Callable[..., Any], *shapes: Any) -> Count:
    """Counts `fn` on arguments of these shapes (pytrees of ShapeDtypeStruct); nothing is computed.

    Depth: elementwise operations and products 1, reductions, sorts and cumulative operations ceil(log2 n), data
    movement 0, a scan (length - 1) times its carry-to-carry chain and one body. NotImplementedError for while loops and
    kernels, whose work the jaxpr does not show.
    """
    jaxpr = jax.make_jaxpr(fn)(*shapes).jaxpr
    matmul, elementwise = _work(jaxpr, [_axes(var) for var in jaxpr.invars])
    depths = _depths(jaxpr, [0.0] * len(jaxpr.invars), 0.0)
    return Count(matmul, elementwise, int(max(depths, default=0)))


def sum_over_time(at: Callable[[int], int], length: int) -> int:
    """Sum of `at(t)` over t = 1..length for a function that is affine in pieces, evaluated at few points.

    Both ends and the middle are evaluated; where they lie on a line the interval is closed as a trapezium.
    """
    value = functools.cache(at)

    def between(low: int, high: int) -> int:
        if high - low < 2:
            return sum(value(t) for t in range(low, high + 1))
        middle = (low + high) // 2
        rise = value(high) - value(low)
        if (value(middle) - value(low)) * (high - low) == rise * (middle - low):
            return (value(low) + value(high)) * (high - low + 1) // 2
        return between(low, middle) + between(middle + 1, high)

    return between(1, length)


def _work(jaxpr: core.Jaxpr, arguments: Sequence[Axes]) -> tuple[int, int]:
    """(matmul, elementwise) FLOPs. Constants are no data: a product of two of them, as ALiBi's bias, is no product."""
    matmul = elementwise = 0

    def rule(eqn: core.JaxprEqn, varying: list[Axes]) -> list[Axes]:
        nonlocal matmul, elementwise
        of_products, of_others = _work_of(eqn, varying)
        matmul, elementwise = matmul + of_products, elementwise + of_others
        return _varying(eqn, varying)

    walk(jaxpr, arguments, [Axes()] * len(jaxpr.constvars), lambda _: Axes(), rule)
    return matmul, elementwise


def _work_of(eqn: core.JaxprEqn, varying: list[Axes]) -> tuple[int, int]:
    """(matmul, elementwise) FLOPs of one equation."""
    name, called = eqn.primitive.name, inner(eqn)
    if name in OPAQUE:
        raise NotImplementedError(
            f"cannot count {name}: its work does not stand in the jaxpr; count a reference implementation"
        )
    if name == "cond":
        branches = [_work(branch.jaxpr, varying[1:]) for branch in eqn.params["branches"]]
        return max(matmul for matmul, _ in branches), max(elementwise for _, elementwise in branches)
    if called is not None:
        if name == "scan":
            matmul, elementwise = _work(called.jaxpr, [_axes(var) for var in called.jaxpr.invars])
            return eqn.params["length"] * matmul, eqn.params["length"] * elementwise
        matmul, elementwise = _work(called.jaxpr, varying)
        return (matmul + elementwise, 0) if eqn.params.get("name") in PRODUCTS else (matmul, elementwise)
    if name == "dot_general":
        return _dot_flops(eqn), 0
    if name == "conv_general_dilated":
        return _convolution_flops(eqn), 0
    if name == "mul" and varying[0] - varying[1] and varying[1] - varying[0]:
        return 2 * size(eqn.outvars[0]), 0  # an outer product, as one with an inner axis of one, however it is spelt
    if name in REDUCTIONS:
        return 0, size(eqn.invars[0]) - size(eqn.outvars[0])
    return 0, 0 if name in MOVEMENT else sum(size(out) for out in eqn.outvars if is_inexact(out.aval))


def _axes(atom: Any) -> Axes:
    """All axes of an array of numbers; none of one of integers, which are positions and indices."""
    return frozenset(axis for axis, length in enumerate(shape(atom)) if length > 1 and is_inexact(atom.aval))


def _varying(eqn: core.JaxprEqn, varying: list[Axes]) -> list[Axes]:
    """The axes along which the results change: a broadcast array does not along its new ones, a constant along none."""
    if not any(varying):
        return [Axes()] * len(eqn.outvars)
    if eqn.primitive.name == "broadcast_in_dim":
        axes = eqn.params["broadcast_dimensions"]
        return [frozenset(int(axes[axis]) for axis in varying[0])]
    if len(eqn.invars) == len(eqn.outvars) == 1 and shape(eqn.invars[0]) == shape(eqn.outvars[0]):
        return varying
    return [_axes(out) for out in eqn.outvars]


def _depths(jaxpr: core.Jaxpr, starts: Sequence[float], constants: float) -> list[float]:
    """Longest chain to each output from inputs that stand at `starts`; UNREACHED where none leads there."""

    def rule(eqn: core.JaxprEqn, before: list[float]) -> list[float]:
        name, called = eqn.primitive.name, inner(eqn)
        if name in OPAQUE:
            raise NotImplementedError(f"cannot count the depth of {name}; count a reference implementation")
        if name == "cond":
            branches = [_depths(branch.jaxpr, before[1:], constants) for branch in eqn.params["branches"]]
            return [max(depths) for depths in zip(*branches, strict=True)]
        if called is not None and name != "scan":
            return _depths(called.jaxpr, before, constants)
        here = _scan_depth(eqn) if name == "scan" else _depth_of(eqn)
        return [max(before, default=constants) + here] * len(eqn.outvars)

    return walk(jaxpr, starts, [constants] * len(jaxpr.constvars), lambda _: constants, rule)


def _scan_depth(eqn: core.JaxprEqn) -> float:
    """(length - 1) times the chain from carry to carry, and one body."""
    (body, _), constants, carries = loop(eqn)
    is_carry = [constants <= index < constants + carries for index in range(len(body.invars))]
    from_carries = [0.0 if carry else UNREACHED for carry in is_carry]
    chain = max(_depths(body, from_carries, UNREACHED)[:carries], default=UNREACHED)
    once = max(_depths(body, [0.0] * len(body.invars), 0.0), default=0.0)
    return (eqn.params["length"] - 1) * max(chain, 0.0) + once


def _depth_of(eqn: core.JaxprEqn) -> int:
    name = eqn.primitive.name
    if name in MOVEMENT:
        return 0
    if name in CUMULATIVE:
        return _log2(shape(eqn.invars[0])[eqn.params["axis"]])
    if name in ("sort", "top_k"):
        return _log2(shape(eqn.invars[0])[-1])
    if name in REDUCTIONS:
        return _log2(size(eqn.invars[0]) // max(1, size(eqn.outvars[0])))
    return 1


def _dot_flops(eqn: core.JaxprEqn) -> int:
    ((contracted, _), _) = eqn.params["dimension_numbers"]
    return 2 * size(eqn.outvars[0]) * math.prod(shape(eqn.invars[0])[axis] for axis in contracted)


def _convolution_flops(eqn: core.JaxprEqn) -> int:
    kernel = shape(eqn.invars[1])
    out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * size(eqn.outvars[0]) * (math.prod(kernel) // out_channels)


def _log2(n: int) -> int:
    return max(0, math.ceil(math.log2(n))) if n > 0 else 0
