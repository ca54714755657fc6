"""One walk through a jaxpr, and which of its primitives are data movement, reductions, calls.

What FLOPs, depths and paths have in common: each gives every variable a value by a rule for its equation.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
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

V = TypeVar("V")  # of a variable: what a rule gives it


class Inner(NamedTuple):
    """The jaxpr that a call (jit, custom_vjp, checkpoint) or a scan holds, and its constants."""

    jaxpr: core.Jaxpr
    consts: Sequence[Any]


class Loop(NamedTuple):
    """The body of a scan. Its arguments are constants, carries, inputs; its results are carries, outputs."""

    body: Inner
    constants: int
    carries: int


def walk(
    jaxpr: core.Jaxpr,
    arguments: Sequence[V],
    constants: Sequence[V],
    of_literal: Callable[[core.Literal], V],
    rule: Callable[[core.JaxprEqn, list[V]], Sequence[V]],
) -> list[V]:
    """The values of a jaxpr's results, where `rule(equation, values of its operands)` gives those of its results."""
    values = dict(zip([*jaxpr.invars, *jaxpr.constvars], [*arguments, *constants], strict=True))

    def at(atom: Any) -> V:
        return of_literal(atom) if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        values.update(zip(eqn.outvars, rule(eqn, [at(atom) for atom in eqn.invars]), strict=True))
    return [at(atom) for atom in jaxpr.outvars]


def inner(eqn: core.JaxprEqn) -> Inner | None:
    """What an equation calls; None where it calls nothing."""
    for value in eqn.params.values():
        if isinstance(value, core.ClosedJaxpr):
            return Inner(value.jaxpr, value.consts)
        if isinstance(value, core.Jaxpr):
            return Inner(value, ())
    return None


def loop(eqn: core.JaxprEqn) -> Loop:
    """Takes a scan apart.

    An array that is looped over has one axis more outside than in the body. (The equation's own numbers of constants
    and carries are named differently in every version of JAX.)
    """
    body = inner(eqn)
    assert body is not None
    inputs, outputs = (
        sum(len(shape(outer)) != len(shape(inner)) for outer, inner in zip(outside, inside, strict=True))
        for outside, inside in ((eqn.invars, body.jaxpr.invars), (eqn.outvars, body.jaxpr.outvars))
    )
    carries = len(body.jaxpr.outvars) - outputs
    return Loop(body, len(body.jaxpr.invars) - carries - inputs, carries)


def shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def size(atom: Any) -> int:
    return math.prod(shape(atom))


def is_inexact(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact)
