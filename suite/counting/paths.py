"""Shortest paths through a function: the fewest arithmetic operations from an input to an output.

A jaxpr is evaluated with a distance beside every number. Where a derivative is a sum over paths of products, a distance
is the least over paths of sums; a path ends where its derivative is zero whatever lies beyond.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float, PyTree

from suite.counting import jaxprs
from suite.counting.jaxprs import is_inexact, shape, walk

CALLS = frozenset("jit call closed_call eval_jaxpr checkpoint remat2 custom_jvp_call custom_vjp_call".split())
# Their derivative is zero everywhere.
CUTS = frozenset("stop_gradient bitcast_convert_type sign floor ceil round".split())
MOVEMENT = jaxprs.MOVEMENT | {"select_n", "stack", "unstack", "tile"}
# They change a number's type, place or name, which its distance does not share.
UNCHANGED = frozenset(
    "convert_element_type copy copy_p sharding_constraint optimization_barrier device_put mesh_cast reshard "
    "layout_constraint pvary name".split()
)
ELEMENTWISE = frozenset(
    "add add_any sub mul div rem neg abs max min clamp pow integer_pow square one_minus_square sqrt rsqrt cbrt "
    "exp exp2 expm1 log log2 log1p logistic tanh sinh cosh asinh acosh atanh sin cos tan asin acos atan atan2 "
    "erf erfc erf_inv lgamma digamma real imag complex conj reduce_precision".split()
)
# In a product of many numbers one that is 0 ends the paths of all others, which a least distance would not show.
REDUCTIONS = jaxprs.REDUCTIONS - {"reduce_prod", "sort", "top_k"}
CUMULATIVE = jaxprs.CUMULATIVE - {"cumprod"}

# A value and its distances, or None where no path leads to any part of it: so a weight costs nothing to carry along.
Pair = tuple[Any, Array | None]


def shortest(
    advance: Callable[[Float[Array, "B D"], PyTree], tuple[Float[Array, "B D"], PyTree]],
    state: PyTree,
    x_TBD: Float[Array, "T B D"],
) -> Float[Array, " T"]:
    """Fewest operations from the first input to any output of every step; inf where no path leads there.

    `advance(x_BD, state) -> (h_BD, state)` is one step. Traceable: one scan over time.
    """

    def step(carry: tuple[PyTree, PyTree], at: tuple[Array, Array]) -> tuple[tuple[PyTree, PyTree], Array]:
        (state, distances), (x_BD, mark) = carry, at
        mark_BD = jnp.broadcast_to(mark, x_BD.shape)
        (_, state), (distance_BD, distances) = follow(advance, (x_BD, state), (mark_BD, distances))
        return (state, distances), jnp.min(distance_BD)

    mark_T = jnp.full(x_TBD.shape[0], jnp.inf, jnp.float32).at[0].set(0.0)
    unmarked = jax.tree.map(lambda leaf: _filled(leaf, None), state)
    return jax.lax.scan(step, (state, unmarked), (x_TBD, mark_T))[1]


def follow(fn: Callable[..., Any], values: Sequence[PyTree], distances: Sequence[PyTree]) -> tuple[PyTree, PyTree]:
    """`fn(*values)` and the distances of its outputs, as jax.jvp gives outputs and tangents; traceable as that is.

    Distances are float32 arrays of the values' shapes, inf where no path leads; None at integers and wherever else an
    argument is not marked. Arithmetic costs 1 and takes the least of its operands, data movement costs nothing. No path
    goes through a product with exactly 0, the branch of a select that is not taken, or a stop_gradient.
    NotImplementedError for an operation without a rule that a path may lead to.
    """
    leaves, tree = jax.tree.flatten(tuple(values))
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*values)
    arguments = list(zip(leaves, tree.flatten_up_to(tuple(distances)), strict=True))
    results = _complete(_evaluate(closed.jaxpr, closed.consts, arguments))
    out_tree = jax.tree.structure(shape)
    return out_tree.unflatten([value for value, _ in results]), out_tree.unflatten([reach for _, reach in results])


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Pair]) -> list[Pair]:
    constants = [(const, None) for const in consts]
    return walk(jaxpr, arguments, constants, lambda literal: (literal.val, None), _apply)


def _apply(eqn: core.JaxprEqn, pairs: list[Pair]) -> list[Pair]:
    name = eqn.primitive.name
    if name in CALLS:
        called = jaxprs.inner(eqn)
        assert called is not None, f"{name} calls nothing"
        return _evaluate(*called, pairs)
    if all(distance is None for _, distance in pairs):
        return [(value, None) for value in _bind(eqn, [value for value, _ in pairs])]
    if name == "scan":
        return _scan(eqn, pairs)
    if name == "cond":
        return _cond(eqn, pairs)
    return list(zip(_bind(eqn, [value for value, _ in pairs]), _distances(eqn, pairs), strict=True))


def _distances(eqn: core.JaxprEqn, pairs: list[Pair]) -> list[Any]:
    """Distances of what an operation gives that is neither call nor loop."""
    name = eqn.primitive.name
    distances: list[Any] = [distance for _, distance in pairs]
    if name in CUTS or not any(is_inexact(out.aval) for out in eqn.outvars):
        return [None] * len(eqn.outvars)
    if name in UNCHANGED:
        return distances
    if name in MOVEMENT:
        return _move(eqn, pairs)
    if name in ELEMENTWISE:
        return [_elementwise(eqn, pairs)]
    if name == "dot_general":
        return [_dot_general(eqn, pairs)]
    if name in REDUCTIONS:
        return [jnp.min(distances[0], axis=eqn.params["axes"], initial=jnp.inf) + 1]
    if name in CUMULATIVE:
        return [jax.lax.cummin(distances[0], axis=eqn.params["axis"], reverse=eqn.params["reverse"]) + 1]
    raise NotImplementedError(f"cannot follow a path through {name}; give it a rule in suite/counting/paths.py")


def _move(eqn: core.JaxprEqn, pairs: list[Pair]) -> list[Array]:
    """Distances moved as the values are, by the same indices and predicates."""
    filler = {"fill_value": jnp.inf} if eqn.primitive.name == "gather" else {}  # what lies out of bounds is on no path
    operands = [_filled(value, distance) if is_inexact(jax.typeof(value)) else value for value, distance in pairs]
    return _bind(eqn, operands, **filler)


def _elementwise(eqn: core.JaxprEqn, pairs: list[Pair]) -> Array:
    values = [value for value, _ in pairs]
    # What the derivative by each operand has as a factor that may be exactly 0.
    multiplied = {"mul": values[::-1], "div": [None, values[0]], "square": values, "one_minus_square": values}
    factors = multiplied[eqn.primitive.name] if eqn.primitive.name in multiplied else [None] * len(values)
    paths = [
        distance if factor is None else jnp.where(factor == 0, jnp.inf, distance)
        for (_, distance), factor in zip(pairs, factors, strict=True)
        if distance is not None
    ]
    return jnp.broadcast_to(functools.reduce(jnp.minimum, paths), shape(eqn.outvars[0])) + 1


def _dot_general(eqn: core.JaxprEqn, pairs: list[Pair]) -> Array:
    """Least, over what is summed, of an operand's distances where the other is not 0."""
    (left, left_distance), (right, right_distance) = pairs
    (left_summed, right_summed), (left_batched, right_batched) = eqn.params["dimension_numbers"]
    paths = []
    if left_distance is not None:
        distance_BIS = _as_matrices(left_distance, left_batched, left_summed)
        paths.append(_least(distance_BIS, _as_matrices(right, right_batched, right_summed)))
    if right_distance is not None:
        distance_BJS = _as_matrices(right_distance, right_batched, right_summed)
        paths.append(jnp.swapaxes(_least(distance_BJS, _as_matrices(left, left_batched, left_summed)), 1, 2))
    return functools.reduce(jnp.minimum, paths).reshape(shape(eqn.outvars[0])) + 1


def _as_matrices(array: Array, batched: Sequence[int], summed: Sequence[int]) -> Array:
    """The array with three axes: the batched, the free, the summed."""
    free = [axis for axis in range(array.ndim) if axis not in (*batched, *summed)]
    sizes = [math.prod(array.shape[axis] for axis in axes) for axes in (batched, free, summed)]
    return jnp.transpose(array, (*batched, *free, *summed)).reshape(sizes)


def _least(distance_BIS: Float[Array, "B I S"], factor_BJS: Array) -> Float[Array, "B I J"]:
    path_BIJS = jnp.where(factor_BJS[:, None] == 0, jnp.inf, distance_BIS[:, :, None])
    return jnp.min(path_BIJS, axis=-1, initial=jnp.inf)


def _scan(eqn: core.JaxprEqn, pairs: list[Pair]) -> list[Pair]:
    (body, consts), first, carries = jaxprs.loop(eqn)
    constants, start, looped = pairs[:first], pairs[first : first + carries], pairs[first + carries :]

    def step(carry: list[Pair], at: list[Pair]) -> tuple[list[Pair], list[Pair]]:
        results = _complete(_evaluate(body, consts, [*constants, *carry, *at]))
        return results[:carries], results[carries:]

    # A path may enter a carry at any turn: it has distances from the first.
    carry, stacked = jax.lax.scan(
        step, _complete(start), looped, length=eqn.params["length"], reverse=eqn.params["reverse"]
    )
    return [*carry, *stacked]


def _cond(eqn: core.JaxprEqn, pairs: list[Pair]) -> list[Pair]:
    (index, _), *operands = pairs

    def take(branch: Any, operands: list[Pair]) -> list[Pair]:
        return _complete(_evaluate(branch.jaxpr, branch.consts, operands))

    return jax.lax.switch(index, [functools.partial(take, branch) for branch in eqn.params["branches"]], operands)


def _bind(eqn: core.JaxprEqn, operands: list[Any], **changed: Any) -> list[Any]:
    results = eqn.primitive.bind(*operands, **{**eqn.params, **changed})
    return list(results) if eqn.primitive.multiple_results else [results]


def _complete(pairs: list[Pair]) -> list[Pair]:
    """Every number with its distances, be they inf throughout."""
    return [(value, _filled(value, distance)) for value, distance in pairs]


def _filled(value: Any, distance: Array | None) -> Array | None:
    if distance is None and is_inexact(jax.typeof(value)):
        return jnp.full(jnp.shape(value), jnp.inf, jnp.float32)
    return distance
