"""Sequences that are split over devices, mesh axis `context`: how attention and recurrences go from shard to shard.

Where they are not split everything here leaves its arguments as they are.

- An affine recurrence is run on all shards at once from an empty state. The states that come out, and what each shard
  makes of any state that comes in, are combined in as many rounds as doubling takes (Hillis and Steele 1986), and the
  shards are run from what they then start with: what is sent does not grow with the sequence, and the time is twice
  that of a shard.
- A nonlinear one is run shard by shard: memory is saved and no time.
- Attention has keys and values of other shards passed on to it, one shard after another, or gathers all of them: what
  is sent grows with the sequence, unless a window ends it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from suite import mesh as meshes


def positions(length: int) -> Int[Array, " T"]:
    """The positions in the sequence of the tokens of this shard."""
    at_T = jnp.arange(length)
    return at_T if meshes.shards_of_context() == 1 else at_T + meshes.context_index() * length


def before(x: Float[Array, "B ..."], first: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """`x` of the shard before this one; `first`, of the same shape, for the first."""
    if meshes.shards_of_context() == 1:
        return first
    return jnp.where(meshes.context_index() == 0, first, meshes.to_later_in_context(x).astype(first.dtype))


def gather(x_BTHK: Float[Array, "B T ..."]) -> Float[Array, "B S ..."]:
    """The tokens of all shards, which are the second axis."""
    return x_BTHK if meshes.shards_of_context() == 1 else meshes.gather_context(x_BTHK, axis=1)


def in_ring(
    visit: Callable[[Int[Array, ""], PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    own: PyTree,
    passed: PyTree,
    collected: PyTree,
    back: float,
) -> tuple[PyTree, PyTree]:
    """`visit(shard, own, passed, collected) -> own, collected` for `passed` of this shard and of those before it.

    `passed` goes from device to device, and with it goes `collected`, to which every device adds and which comes back
    to its shard. A device is visited by `back` shards before its own, all if there are fewer, and after them by shards
    of the future: `visit` has to leave these alone.
    """
    shards, own_shard = meshes.shards_of_context(), meshes.context_index()
    rounds = int(min(shards - 1, back))

    def turn(done: Int[Array, ""], carry: Any) -> Any:
        own, passed, collected = carry
        coming = jax.tree.map(meshes.around_context, passed)  # before the visit, in whose time it can be sent
        own, collected = visit((own_shard - done) % shards, own, passed, collected)
        return own, coming, jax.tree.map(meshes.around_context, collected)

    with jax.named_scope("ring"):  # suite/counting/collectives.py tells loops apart by it
        own, passed, collected = jax.lax.fori_loop(0, rounds, turn, (own, passed, collected))
        own, collected = visit((own_shard - rounds) % shards, own, passed, collected)
        return own, jax.tree.map(functools.partial(meshes.around_context, parts=-rounds), collected)


class Passed(NamedTuple):
    """How states go through shards of an affine recurrence.

    transition(*inputs) is what a shard makes of any state that comes into it; compose(later, earlier) is that of two
    shards, and carry(transition, end, state) the state after a shard whose end is `end` from an empty state.
    """

    transition: Callable[..., PyTree]
    compose: Callable[[PyTree, PyTree], PyTree]
    carry: Callable[[PyTree, PyTree, PyTree], PyTree]


def affine(
    run: Callable[..., Any], passed: Passed, last: Callable[[Any], PyTree] = lambda results: results[1]
) -> Callable[..., Any]:
    """`run(*inputs, state)` over whole sequences, of which each device has a shard; the first state is empty.

    `last` finds the last state in what `run` gives.
    """
    shards = meshes.shards_of_context()
    if shards == 1:
        return run

    def of_shard(*arguments: Any) -> Any:
        *inputs, first = arguments
        transition, end = passed.transition(*inputs), last(run(*inputs, first))
        back = 1
        while back < shards:  # afterwards `end` is that of this shard and of twice as many before it
            earlier, end_before = _sent((transition, end), back)
            end = _from(back, passed.carry(transition, end, end_before), end)
            transition = _from(back, passed.compose(transition, earlier), transition)
            back *= 2
        return run(*inputs, _from(1, _sent(end, 1), first))

    return of_shard


def _sent(tree: PyTree, back: int) -> PyTree:
    """What the device that many shards before has; 0 where there is none."""
    return jax.tree.map(functools.partial(meshes.to_later_in_context, parts=back), tree)


def _from(shard: int, there: PyTree, before: PyTree) -> PyTree:
    """`there` from a shard on, and `before` on those before it."""
    return jax.tree.map(functools.partial(jnp.where, meshes.context_index() >= shard), there, before)


def in_turn(
    run: Callable[[PyTree, Array, PyTree], tuple[Array, PyTree]], params: PyTree, x_BTD: Array, state: PyTree
) -> tuple[Array, PyTree]:
    """`run(params, x_BTD, state) -> y_BTD, state`, shard after shard; the state after the shard, on each."""
    return run(params, x_BTD, state) if meshes.shards_of_context() == 1 else _in_turn(run, params, x_BTD, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_turn(run: Callable[..., Any], params: PyTree, x_BTD: Array, state: PyTree) -> tuple[Array, PyTree]:
    return _turns_forward(run, params, x_BTD, state)[0]


def _turns_forward(run: Callable[..., Any], params: PyTree, x_BTD: Array, first: PyTree) -> tuple[Any, Any]:
    """What came in is all that is kept: a shard is run once more for its gradient."""

    def turn(shard: Int[Array, ""], carry: Any) -> Any:
        incoming, results = carry
        results = jax.lax.cond(meshes.context_index() == shard, lambda: run(params, x_BTD, incoming), lambda: results)
        sent = jax.tree.map(meshes.to_later_in_context, results[1])
        is_next = meshes.context_index() == shard + 1
        return jax.tree.map(functools.partial(jnp.where, is_next), sent, incoming), results

    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, params, x_BTD, first))
    with jax.named_scope("ring"):  # suite/counting/hlo.py tells loops apart by it
        incoming, results = jax.lax.fori_loop(0, meshes.shards_of_context(), turn, (first, empty))
    return results, (params, x_BTD, incoming)


def _turns_backward(run: Callable[..., Any], kept: Any, changes: tuple[Array, PyTree]) -> tuple[PyTree, Array, PyTree]:
    from_y_BTD, from_last = changes
    shards = meshes.shards_of_context()

    def turn(done: Int[Array, ""], carry: Any) -> Any:
        from_last, results = carry
        shard = shards - 1 - done
        results = jax.lax.cond(
            meshes.context_index() == shard, lambda: jax.vjp(run, *kept)[1]((from_y_BTD, from_last)), lambda: results
        )
        sent = jax.tree.map(meshes.to_earlier_in_context, results[2])
        is_last = meshes.context_index() == shard - 1
        return jax.tree.map(lambda sent, own: jnp.where(is_last, own + sent, own), sent, from_last), results

    empty = jax.tree.map(jnp.zeros_like, kept)
    with jax.named_scope("ring"):
        _, (params, x_BTD, first) = jax.lax.fori_loop(0, shards, turn, (from_last, empty))
    # What came into any shard but the first is another's.
    return params, x_BTD, jax.tree.map(lambda x: jnp.where(meshes.context_index() == 0, x, 0), first)


_in_turn.defvjp(_turns_forward, _turns_backward)
