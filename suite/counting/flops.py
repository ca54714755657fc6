"""FLOPs and sequential depth of a function, counted from its jaxpr.

Loops count as often as they run, which XLA's own cost analysis does not do. A multiply-add is two FLOPs.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

MOVEMENT = frozenset(
    "broadcast_in_dim reshape transpose slice dynamic_slice dynamic_update_slice gather scatter concatenate pad rev "
    "squeeze split iota convert_element_type copy copy_p stop_gradient bitcast_convert_type sharding_constraint "
    "optimization_barrier device_put mesh_cast reshard layout_constraint pvary random_wrap random_unwrap random_seed "
    "empty empty2 create_token stack unstack".split()
)
REDUCTIONS = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin sort top_k".split()
)
CUMULATIVE = frozenset("cumsum cumprod cummax cummin cumlogsumexp".split())
# Their trip count or their inside is not in the jaxpr.
OPAQUE = frozenset(
    "while pallas_call ffi_call custom_call tpu_custom_call dot_product_attention_fwd_wrapper rnn".split()
)

UNREACHED = -math.inf


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
    matmul, elementwise = _work(jaxpr)
    depths = _depths(jaxpr, [0.0] * len(jaxpr.invars), 0.0)
    return Count(matmul, elementwise, int(max(depths, default=0)))


def sum_over_time(at: Callable[[int], int], length: int) -> int:
    """Sum of `at(t)` over t = 1..length for a function that is affine in pieces, evaluated at few points.

    Both ends and the middle are evaluated; where they lie on a line the interval is closed as a trapezium.
    """
    known: dict[int, int] = {}

    def value(t: int) -> int:
        if t not in known:
            known[t] = at(t)
        return known[t]

    def between(low: int, high: int) -> int:
        if high - low < 2:
            return sum(value(t) for t in range(low, high + 1))
        middle = (low + high) // 2
        rise = value(high) - value(low)
        if (value(middle) - value(low)) * (high - low) == rise * (middle - low):
            return (value(low) + value(high)) * (high - low + 1) // 2
        return between(low, middle) + between(middle + 1, high)

    return between(1, length)


def _work(jaxpr: core.Jaxpr) -> tuple[int, int]:
    """(matmul, elementwise) FLOPs."""
    matmul = elementwise = 0
    varies: dict[core.Var, frozenset[int]] = {}  # axes along which a broadcast array really changes
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        inner = _inner(eqn)
        if name in OPAQUE:
            raise NotImplementedError(
                f"cannot count {name}: its work does not stand in the jaxpr; count a reference form"
            )
        if name == "cond":
            branches = [_work(branch.jaxpr) for branch in eqn.params["branches"]]
            matmul += max(branch[0] for branch in branches)
            elementwise += max(branch[1] for branch in branches)
        elif inner is not None:
            times = eqn.params["length"] if name == "scan" else 1
            inner_matmul, inner_elementwise = _work(inner)
            matmul += times * inner_matmul
            elementwise += times * inner_elementwise
        elif name == "dot_general":
            matmul += _dot_flops(eqn)
        elif name == "conv_general_dilated":
            matmul += _convolution_flops(eqn)
        elif name == "mul" and _is_outer_product(eqn, varies):
            matmul += 2 * _size(eqn.outvars[0])  # as a product with an inner axis of one, however it is spelt
        elif name in REDUCTIONS:
            elementwise += _size(eqn.invars[0]) - _size(eqn.outvars[0])
        elif name not in MOVEMENT:
            elementwise += sum(_size(out) for out in eqn.outvars if _is_inexact(out))
        _follow_broadcast(eqn, varies)
    return matmul, elementwise


def _depths(jaxpr: core.Jaxpr, starts: list[float], constants: float) -> list[float]:
    """Longest chain to each output from inputs that stand at `starts`; UNREACHED where none leads there."""
    depth: dict[core.Var, float] = dict(zip(jaxpr.invars, starts, strict=True)) | dict.fromkeys(
        jaxpr.constvars, constants
    )

    def at(atom: Any) -> float:
        return constants if isinstance(atom, core.Literal) else depth[atom]

    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        before = [at(atom) for atom in eqn.invars]
        inner = _inner(eqn)
        if name in OPAQUE:
            raise NotImplementedError(f"cannot count the depth of {name}; count a reference form")
        if name == "scan":
            after = [max(before, default=constants) + _scan_depth(eqn)] * len(eqn.outvars)
        elif name == "cond":
            branches = [_depths(branch.jaxpr, before[1:], constants) for branch in eqn.params["branches"]]
            after = [max(outs) for outs in zip(*branches, strict=True)]
        elif inner is not None:
            after = _depths(inner, before, constants)
        else:
            after = [max(before, default=constants) + _own_depth(eqn)] * len(eqn.outvars)
        depth.update(zip(eqn.outvars, after, strict=True))
    return [at(atom) for atom in jaxpr.outvars]


def _scan_depth(eqn: core.JaxprEqn) -> float:
    body = _inner(eqn)
    assert body is not None
    # Arguments are constants, carries, inputs, and results carries, outputs; what is looped over has one axis more
    # outside than in the body. (The equation names these numbers differently in every version of JAX.)
    inputs, outputs = (
        sum(len(_shape(outer)) != len(_shape(inner)) for outer, inner in zip(outside, inside, strict=True))
        for outside, inside in ((eqn.invars, body.invars), (eqn.outvars, body.outvars))
    )
    carries = len(body.outvars) - outputs
    consts = len(body.invars) - carries - inputs
    starts = [0.0 if consts <= index < consts + carries else UNREACHED for index in range(len(body.invars))]
    chain = max(_depths(body, starts, UNREACHED)[:carries], default=UNREACHED)
    once = max(_depths(body, [0.0] * len(body.invars), 0.0), default=0.0)
    return (eqn.params["length"] - 1) * max(chain, 0.0) + once


def _own_depth(eqn: core.JaxprEqn) -> int:
    name = eqn.primitive.name
    if name in MOVEMENT:
        return 0
    if name in CUMULATIVE:
        return _log2(_shape(eqn.invars[0])[eqn.params["axis"]])
    if name in ("sort", "top_k"):
        return _log2(_shape(eqn.invars[0])[-1])
    if name in REDUCTIONS:
        return _log2(_size(eqn.invars[0]) // max(1, _size(eqn.outvars[0])))
    return 1


def _inner(eqn: core.JaxprEqn) -> core.Jaxpr | None:
    """The jaxpr that a call (jit, custom_vjp, checkpoint, scan) holds."""
    for value in eqn.params.values():
        if isinstance(value, core.ClosedJaxpr):
            return value.jaxpr
        if isinstance(value, core.Jaxpr):
            return value
    return None


def _dot_flops(eqn: core.JaxprEqn) -> int:
    ((contracted, _), _) = eqn.params["dimension_numbers"]
    return 2 * _size(eqn.outvars[0]) * math.prod(_shape(eqn.invars[0])[axis] for axis in contracted)


def _convolution_flops(eqn: core.JaxprEqn) -> int:
    kernel = _shape(eqn.invars[1])
    out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * _size(eqn.outvars[0]) * (math.prod(kernel) // out_channels)


def _is_outer_product(eqn: core.JaxprEqn, varies: dict[core.Var, frozenset[int]]) -> bool:
    """Whether each factor changes along an axis on which the other is constant."""
    left, right = (_varying(atom, varies) for atom in eqn.invars)
    return bool(left - right) and bool(right - left)


def _follow_broadcast(eqn: core.JaxprEqn, varies: dict[core.Var, frozenset[int]]) -> None:
    if eqn.primitive.name == "broadcast_in_dim":
        source = eqn.invars[0]
        axes = eqn.params["broadcast_dimensions"]
        varies[eqn.outvars[0]] = frozenset(int(axes[axis]) for axis in _varying(source, varies))
    elif len(eqn.invars) == 1 and len(eqn.outvars) == 1 and _shape(eqn.invars[0]) == _shape(eqn.outvars[0]):
        varies[eqn.outvars[0]] = _varying(eqn.invars[0], varies)


def _varying(atom: Any, varies: dict[core.Var, frozenset[int]]) -> frozenset[int]:
    if not isinstance(atom, core.Literal) and atom in varies:
        return varies[atom]
    return frozenset(axis for axis, size in enumerate(_shape(atom)) if size > 1)


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _size(atom: Any) -> int:
    return math.prod(_shape(atom))


def _is_inexact(atom: Any) -> bool:
    return jax.numpy.issubdtype(atom.aval.dtype, jax.numpy.inexact)


def _log2(n: int) -> int:
    return max(0, math.ceil(math.log2(n))) if n > 0 else 0
