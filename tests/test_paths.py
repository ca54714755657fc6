"""Shortest paths: each rule by itself, mixers against counts by hand, and every one against gradients."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suite import mesh as meshes
from suite import parts
from suite.counting import paths
from suite.job import Job
from suite.measures import path
from suite.model import backbone
from suite.training import rig

INF = math.inf
WIDTH, VOCAB, STEPS = 16, 32, 10


def floats(*numbers: float) -> jax.Array:
    return jnp.asarray(numbers, jnp.float32)


def normal(seed: int, *axes: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), axes, jnp.float32)


def distances(fn: Callable[..., Any], x: jax.Array, *unmarked: Any) -> Any:
    """Distances of what `fn` gives from its first argument, all of which is marked; its values must be fn's own."""
    values, found = paths.follow(fn, (x, *unmarked), (jnp.zeros(x.shape, jnp.float32), *[None] * len(unmarked)))
    jax.tree.map(np.testing.assert_array_equal, values, fn(x, *unmarked))
    return found


def same(actual: Any, *wanted: Any) -> None:
    np.testing.assert_array_equal(actual, np.asarray(wanted, np.float32))


# One rule after another.


def test_arithmetic_costs_one_and_takes_the_nearest_operand() -> None:
    same(distances(lambda x: jnp.tanh(x * 2 + 1), floats(1, 2)), 3, 3)
    same(distances(lambda x, y: jnp.exp(jnp.sin(x)) - x / y, floats(1, 2), floats(3, 4)), 2, 2)


def test_what_does_not_depend_on_the_mark_is_on_no_path() -> None:
    same(distances(lambda x, y: jnp.tanh(y), floats(1, 2), floats(3, 4)), INF, INF)


def test_moved_numbers_keep_their_distance() -> None:
    y = floats(7)
    same(distances(lambda x, y: jnp.concatenate([x + 1, y, x[::-1]]), floats(1, 2), y), 1, 1, INF, 0, 0)
    same(distances(lambda x, y: jnp.pad(x, (1, 0)).reshape(1, 3).T, floats(1, 2), y), [INF], [0], [0])
    same(distances(lambda x, y: jnp.split(jnp.concatenate([x, y]), 3)[2], floats(1, 2), y), INF)
    same(distances(lambda x, y: jnp.broadcast_to(x, (2, 2)).astype(jnp.bfloat16), floats(1, 2), y), [0, 0], [0, 0])


def test_numbers_moved_by_an_index_keep_their_distance() -> None:
    x, y, at = floats(1, 2, 3), floats(5, 6, 7, 8), jnp.asarray(2)
    same(distances(lambda x, y, at: jax.lax.dynamic_update_slice(y, x[:1], (at,)), x, y, at), INF, INF, 0, INF)
    same(distances(lambda x, y, at: y.at[at].set(x[0] + 1), x, y, at), INF, INF, 1, INF)
    same(distances(lambda x, y, at: jax.lax.dynamic_slice(jnp.concatenate([x, y]), (at,), (2,)), x, y, at), 0, INF)
    same(distances(lambda x, y, at: jnp.concatenate([x, y])[jnp.stack([at, at + 1])], x, y, at), 0, INF)
    outside, inside = paths.follow(
        lambda x: x.at[jnp.asarray([0, 3])].get(mode="fill", fill_value=0.0), (x,), (jnp.zeros(3),)
    )
    same(outside, 1, 0)
    same(inside, 0, INF)


def test_no_path_goes_through_a_product_with_zero() -> None:
    x, y = floats(1, 2), floats(0, 3)
    same(distances(lambda x, y: x * y, x, y), INF, 1)
    same(distances(lambda x, y: y * x, x, y), INF, 1)
    same(distances(lambda x, y: y / x, x, y), INF, 1)
    same(distances(lambda x: x * 0.0, x), INF, INF)
    same(distances(jnp.square, floats(0, 2)), INF, 1)
    # At 1 the direct way has the factor 1 - 1; the longer one, through the difference, has the factor 1.
    same(distances(lambda x: (x - 1) * x, floats(1)), 2)


def test_a_sum_is_as_near_as_the_nearest_of_its_terms() -> None:
    x, y = normal(0, 2, 3), normal(1, 2, 3)
    same(distances(lambda x, y: jnp.sum(jnp.where(y > 10, x, y), axis=1), x, y), INF, INF)
    same(distances(lambda x, y: jnp.sum(jnp.concatenate([y, -x]), axis=1), x, y), INF, INF, 2, 2)
    same(distances(lambda x: jnp.max(jnp.tanh(x)), x), 2)
    same(distances(lambda x, y: jnp.cumsum(jnp.concatenate([y[0], x[0]])), x, y), INF, INF, INF, 1, 1, 1)
    same(distances(lambda x, y: jax.lax.cumsum(jnp.stack([y[0], x[0]]), reverse=True), x, y), [1] * 3, [1] * 3)


@pytest.mark.parametrize("axes", ["IS,SJ->IJ", "BIS,JSB->BIJ", "SIR,RSJ->IJ", "BI,BJ->BIJ"])
def test_a_product_of_arrays_is_followed_product_by_product(axes: str) -> None:
    *own, out = axes.replace("->", ",").split(",")
    every = out + "".join(sorted(set(own[0]) - set(out)))
    rng = np.random.default_rng(0)
    sizes = dict(zip("BIJSR", (2, 3, 4, 5, 2), strict=True))
    shapes = [[sizes[axis] for axis in axes] for axes in own]
    factors = [rng.normal(size=shape) * (rng.random(shape) < 0.3) for shape in shapes]
    reaches = [rng.choice([0.0, 1.0, 5.0, INF, INF, INF], size=shape) for shape in shapes]

    def spread(array: np.ndarray, axes: str) -> np.ndarray:
        """The array over all axes there are, of length 1 where it has none."""
        sorted_ = np.transpose(array, [axes.index(axis) for axis in every if axis in axes])
        return np.expand_dims(sorted_, [at for at, axis in enumerate(every) if axis not in axes])

    for marked in ([0], [1], [0, 1]):
        given = [jnp.asarray(reach, jnp.float32) if at in marked else None for at, reach in enumerate(reaches)]
        values = [jnp.asarray(factor, jnp.float32) for factor in factors]
        _, found = paths.follow(functools.partial(jnp.einsum, axes), values, given)
        through = [
            np.where(spread(factors[1 - at], own[1 - at]) == 0, INF, spread(reaches[at], own[at])) for at in marked
        ]
        wanted = np.min(functools.reduce(np.minimum, through), axis=tuple(range(len(out), len(every)))) + 1
        np.testing.assert_array_equal(found, wanted)


def test_a_select_follows_the_branch_that_is_taken() -> None:
    x, y = floats(1, -1), floats(3, 4)
    same(distances(lambda x, y: jnp.where(x > 0, x + 1 + 1, y), x, y), 2, INF)
    same(distances(lambda x, y: jax.lax.select_n(jnp.asarray([2, 0]), x, y, -x), x, y), 1, 0)


@pytest.mark.parametrize(("index", "wanted"), [(0, 0), (1, 3), (2, INF)])
def test_a_switch_follows_the_branch_that_is_taken(index: int, wanted: float) -> None:
    def switch(x: jax.Array, index: jax.Array) -> jax.Array:
        return jax.lax.switch(index, [lambda x: x, lambda x: jnp.tanh(x + 1) * 2, jnp.zeros_like], x)

    same(distances(switch, floats(1, 2), jnp.asarray(index)), wanted, wanted)


@pytest.mark.parametrize("cut", [jax.lax.stop_gradient, jnp.round, jnp.sign], ids=lambda cut: cut.__name__)
def test_no_path_goes_where_no_gradient_goes(cut: Callable[[jax.Array], jax.Array]) -> None:
    same(distances(cut, floats(1, 2)), INF, INF)
    same(distances(lambda x: x * 2 + cut(x), floats(1, 2)), 2, 2)


def test_integers_are_on_no_path() -> None:
    assert distances(lambda x: x > 0, floats(1, 2)) is None
    same(distances(lambda x: x.astype(jnp.int32).astype(jnp.float32), floats(1, 2)), INF, INF)


def test_a_masked_key_is_on_no_path() -> None:
    seen, value_SK = jnp.asarray([True, False, True]), normal(0, 3, 2)

    def attend(score_S: jax.Array, value_SK: jax.Array) -> jax.Array:
        return jax.nn.softmax(jnp.where(seen, score_S, -1e30)) @ value_SK

    zero_S = jnp.zeros(3, jnp.float32)
    _, weights = paths.follow(lambda score_S: jax.nn.softmax(jnp.where(seen, score_S, -1e30)), (zero_S,), (zero_S,))
    same(weights, 3, INF, 3)  # minus the largest, exp, division
    for key, wanted in enumerate([1, INF, 1]):
        mark_SK = jnp.full((3, 2), INF, jnp.float32).at[key].set(0.0)
        _, found = paths.follow(attend, (zero_S, value_SK), (None, mark_SK))
        same(found, wanted, wanted)


def test_calls_are_gone_into() -> None:
    @jax.custom_vjp
    def doubled(x: jax.Array) -> jax.Array:
        return jnp.sin(x) * 2

    doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (g,))
    x = floats(1, 2)
    same(distances(jax.jit(lambda x: jnp.sin(x) * 2), x), 2, 2)
    same(distances(jax.checkpoint(lambda x: jnp.sin(x) * 2), x), 2, 2)
    same(distances(doubled, x), 2, 2)
    same(distances(jax.nn.relu, x), 1, 1)  # a custom_jvp


def test_a_loop_is_followed_turn_by_turn() -> None:
    def recur(x: jax.Array, steps_T: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(carry: tuple, at: jax.Array) -> tuple[tuple, jax.Array]:
            near, far, number = carry
            return (jnp.tanh(near) * at, jnp.where(number < 2, far, near), number + 1), near

        (near, far, _), near_T = jax.lax.scan(step, (x, jnp.zeros_like(x), jnp.asarray(0)), steps_T)
        return jnp.stack([near, far]), near_T

    ends, through = distances(recur, floats(1), floats(1, 2, 0, 4))
    same(through, [0], [2], [4], [INF])
    same(ends, [INF], [INF])
    ends, _ = distances(recur, floats(1), floats(1, 2, 3))
    same(ends, [6], [4])


def test_a_loop_over_marked_inputs_runs_either_way() -> None:
    def total(x: jax.Array, reverse: bool) -> jax.Array:
        return jax.lax.scan(lambda sum_, at: (sum_ + at, sum_ + at), 0.0, x, reverse=reverse)[1]

    same(distances(lambda x: total(x, False), floats(1, 2, 3)), 1, 1, 1)
    x, mark = floats(1, 2, 3), floats(INF, 0, INF)
    same(paths.follow(lambda x: total(x, False), (x,), (mark,))[1], INF, 1, 2)
    same(paths.follow(lambda x: total(x, True), (x,), (mark,))[1], 2, 1, INF)


def test_loops_may_be_nested_and_everything_compiled() -> None:
    def layers(x: jax.Array, weights_LN: jax.Array) -> jax.Array:
        def layer(x: jax.Array, weight_N: jax.Array) -> tuple[jax.Array, None]:
            return jax.lax.scan(lambda x, at: (jnp.sin(x) + at, None), x, weight_N)[0], None

        return jax.lax.scan(layer, x, weights_LN)[0]

    @jax.jit
    def compiled(x: jax.Array, weights_LN: jax.Array) -> jax.Array:
        # The weights are closed over, and traced.
        return paths.follow(lambda x: layers(x, weights_LN), (x,), (jnp.zeros(2),))[1]

    same(compiled(floats(1, 2), normal(0, 4, 3)), 24, 24)


@pytest.mark.parametrize(
    ("name", "fn"),
    [
        ("while", lambda x: jax.lax.while_loop(lambda x: x[0] < 10, lambda x: x + 1, x)),
        ("sort", jnp.sort),
        ("top_k", lambda x: jax.lax.top_k(x, 1)[0]),
        ("reduce_prod", jnp.prod),
        ("cumprod", jnp.cumprod),
        ("scatter-add", lambda x: x.at[0].add(x[1])),
    ],
)
def test_an_operation_without_a_rule_is_refused_if_a_path_leads_there(name: str, fn: Callable) -> None:
    with pytest.raises(NotImplementedError, match=f"cannot follow a path through {name};"):
        distances(fn, floats(1, 2))
    same(distances(lambda x, y: x + jnp.sum(fn(y)), floats(1, 2), floats(3, 4)), 1, 1)


# Mixers by hand.

TAPS = 4  # of a mixer's own convolution: tap c looks c steps back and costs a product and TAPS - c additions


def tapped(k: int) -> int:
    """The cheapest tap that looks at most k steps back: the farthest."""
    return 1 + TAPS - min(k, TAPS - 1)


def beyond(k: int) -> int:
    """Steps that are left when a convolution has looked back as far as it can."""
    return max(0, k - (TAPS - 1))


def through_delta_rule(k: int) -> int:
    """Through a state that is corrected, to what is read of it.

    By beta: product, sigmoid, times the value's difference, outer product, added; the decayed state at every step;
    read. By the convolution of the query while it sees the token: product, taps, silu, made a unit, read. Later by that
    of the key: product, taps, silu, made a unit, outer product, added; the decayed state; read.
    """
    by_taps = 4 + tapped(k) if k < TAPS else 5 + tapped(k) + 2 * beyond(k) + 1
    return min(5 + 2 * k + 1, by_taps)


# From the input of a block through its first norm and its mixer, to what the mixer gives k steps later. The norm costs
# 2: by the reciprocal root, by the scale.
BY_HAND = {
    # The first tanh comes after a product by W, the recurrent product added and the bias added; every further one
    # after a product by R, the input added, the bias added.
    "elman": lambda k: 2 + 4 + 4 * k,
    # Product by W, two additions. In the same step through the output gate: sigmoid, times tanh(c). Later through c: a
    # gate's sigmoid or the cell's tanh, times the other, added to the old c; times the forget gate and added to the new
    # at every step; tanh and times the output gate.
    "lstm": lambda k: 2 + 3 + (3 + 2 * k + 2 if k else 2),
    "lstm:dilation=3": lambda k: INF if k % 3 else BY_HAND["lstm"](k // 3),
    # Product by W, bias. Through n: r (R h + c) added, tanh, times 1 - z, added to z h; then z h at every step.
    "gru": lambda k: 2 + 2 + 4 + 2 * k,
    # Product by W, times z, added to (1 - z) h; then (1 - z) h at every step.
    "mingru": lambda k: 2 + 3 + 2 * k,
    "minlstm": lambda k: 2 + 3 + 2 * k,
    # In the same step the skip: times d, added. Later: product by B, times gamma, added; at every step a product, the
    # difference of two that makes a real part, the input added; product by C, the skip added.
    "lru": lambda k: 2 + (3 + 3 * k + 2 if k else 2),
    # In the same step the other branch: product, gelu, times h. Later: product, taps and bias, times the gates, added;
    # a h at every step; times the branch. The output matrix.
    "rglru": lambda k: 2 + (1 + tapped(k) + 1 + 2 + 2 * beyond(k) + 1 if k else 3) + 1,
    # Product, the recurrent product and the bias added. In the same step through the output gate: sigmoid, times c.
    # Later through the input gate into n: its logarithm less the scale, exp, added; f n at every step. Over n, and the
    # norm: less the mean, by the root, by the scale.
    "slstm": lambda k: 2 + 3 + (3 + 2 * k if k else 2) + 1 + 3,
    # In the same step the output gate: product, sigmoid. Later: product by V, outer product, added; f C at every step;
    # read, over n, less the mean, by the root, by the scale. Times the gate, the output matrix.
    "mlstm": lambda k: 2 + (3 + 2 * k + 5 if k else 2) + 2,
    # In the same step z: product, silu. Later x: product, taps and bias, silu; then the skip, times it and added, while
    # the convolution sees the token; then B: outer product, added; the decayed state at every step; read, the skip
    # added. Times each other, the norm, the output matrix.
    "mamba2": lambda k: (
        2 + (1 + tapped(k) + 1 + 1 + (2 if k < TAPS else 2 + 2 * beyond(k) + 2) if k else 2) + 1 + 2 + 1
    ),
    # In the same step the output gate: product, swish. Later: product by V, outer product, added; the decayed state at
    # every step; read, norm. Times the gate, the output matrix.
    "gla": lambda k: 2 + (3 + 2 * k + 1 + 2 if k else 2) + 2,
    # Through the rule. The norm, the output matrix.
    "deltanet": lambda k: 2 + through_delta_rule(k) + 2 + 1,
    # In the same step the output gate: product, silu. Later through the rule, the norm. Times the gate, the output
    # matrix.
    "gated_deltanet": lambda k: 2 + (through_delta_rule(k) + 2 if k else 2) + 1 + 1,
    # The next token sees this one's input through the shift: less its own, times a share, added. In the same step or
    # the next one through the gate: product, sigmoid, product. Later, from the next token on: product by V, outer
    # product, added; decayed, less what is removed, and a new one added at every step; read, less the mean, by the
    # root, by the scale, the bias and the bonus added. Times the gate, the output matrix.
    "rwkv7": lambda k: 2 + (3 + 3 + 3 * (k - 1) + 6 if k > 1 else (3 if k else 1) + 3) + 2,
    # Product by V, the weighted sum, over the sum of weights, product by the output matrix, however long ago.
    # Positions turn or shift queries, keys and scores, and a value's path meets none; learned ones join the input.
    "attention": lambda k: 2 + 4,
    "attention:kv_heads=2": lambda k: 2 + 4,
    "attention:positions=alibi,kv_heads=1": lambda k: 2 + 4,
    "attention:positions=none": lambda k: 2 + 4,
    "attention:positions=learned": lambda k: 2 + 1 + 4,
}
# The MLP: norm, product, times the other product's silu, product.
MLP = 2 + 3


def lengths(job: Job) -> np.ndarray:
    """Shortest path from a first random token to the output of each step, at random weights."""
    rng = np.random.default_rng(0)
    arrays, static = eqx.partition(backbone.shapes(job, VOCAB), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / WIDTH**0.5, arrays)

    @jax.jit
    def along(weights: backbone.Model, tokens_TB: jax.Array) -> jax.Array:
        built = eqx.combine(weights, static)
        return paths.shortest(built.advance, built.start(1, STEPS, jnp.dtype(job.dtype)), built.embed(tokens_TB))

    return np.asarray(along(weights, jnp.asarray(rng.integers(VOCAB, size=(STEPS, 1)))))


@pytest.mark.parametrize("mixer", BY_HAND)
def test_paths_of_a_residual_model_equal_the_count_by_hand(mixer: str) -> None:
    # One block carries the token through time; everywhere else it stays on the stream, which is added to twice a block.
    depth, own = 3, BY_HAND[mixer]
    wanted = [own(k) + 2 * depth if k else 2 * depth for k in range(STEPS)]
    same(lengths(Job(mixer=mixer, width=WIDTH, depth=depth)), *wanted)


@pytest.mark.parametrize("mixer", [name for name in BY_HAND if ":" not in name])
def test_paths_of_a_plain_model_equal_the_count_by_hand(mixer: str) -> None:
    # One block carries the token through time and the other passes it on within a step, or each carries it a part.
    own = BY_HAND[mixer]
    wanted = [min(own(part) + own(k - part) for part in range(k + 1)) + 2 * MLP for k in range(STEPS)]
    same(lengths(Job(mixer=mixer, width=WIDTH, depth=2, block="plain")), *wanted)


# A convolution of three taps: tap c looks c steps back and costs a product and, as the taps are added up from the
# first to a zero, 3 - c additions. So the farthest tap is also the cheapest.


@pytest.mark.parametrize("mixer", ["elman", "attention"])
def test_convolution_in_a_residual_model_costs_and_saves_steps(mixer: str) -> None:
    depth, own = 2, BY_HAND[mixer]
    back = [min(k, 2) for k in range(STEPS)]
    wanted = [own(k - c) + (4 - c) + 2 * depth if k else 2 * depth for k, c in enumerate(back)]
    same(lengths(Job(mixer=mixer, width=WIDTH, depth=depth, short_conv=3)), *wanted)


def test_convolution_in_a_plain_model_saves_steps_in_every_block() -> None:
    depth, own = 2, BY_HAND["lstm"]
    back = [min(k, 2 * depth) for k in range(STEPS)]
    wanted = [own(k - c) + (depth - 1) * own(0) + 4 * depth - c + depth * MLP for k, c in enumerate(back)]
    same(lengths(Job(mixer="lstm", width=WIDTH, depth=depth, short_conv=3, block="plain")), *wanted)


@pytest.mark.parametrize("block", ["residual", "plain"])
def test_a_window_is_crossed_in_hops_of_one_block_each(block: str) -> None:
    window, depth, own = 4, 2, BY_HAND["attention"](0)
    hops = [math.ceil(k / (window - 1)) for k in range(STEPS)]
    assert max(hops) > depth
    cost = [hop * own + 2 * depth if block == "residual" else depth * (own + MLP) for hop in hops]
    wanted = [cost if hop <= depth else INF for hop, cost in zip(hops, cost, strict=True)]
    same(lengths(Job(mixer=f"attention:window={window}", width=WIDTH, depth=depth, block=block)), *wanted)


def test_a_hybrid_goes_the_way_of_its_attention() -> None:
    lstm, attention = BY_HAND["lstm"], BY_HAND["attention"]
    wanted = [2 * lstm(0) + attention(k) + 3 * MLP for k in range(STEPS)]
    same(lengths(Job(mixer="lstm+attention", width=WIDTH, depth=3, block="plain")), *wanted)


def test_narrow_products_are_as_far_as_wide_ones() -> None:
    job = Job(mixer="gru", width=WIDTH, depth=2)
    same(lengths(job.replace(dtype="bfloat16")), *lengths(job))


# Two ways to see what depends on what: a path is where the gradient is.


def sparse(mixer: Any) -> Any:
    """The mixer without two thirds of its weights: what a matrix does not connect, no path connects.

    Vectors are moved off their first values: a share of exactly 1 of the token before hides the token itself.
    """

    def thin(leaf: jax.Array) -> jax.Array:
        kept = jax.random.bernoulli(jax.random.key(leaf.size), 1 / 3, leaf.shape)
        return jnp.where(kept, leaf, 0.0) if leaf.ndim == 2 else 0.9 * leaf

    return jax.tree.map(thin, mixer)


# What an exponential gate weighs it also divides by: a gradient may cancel, and then only rounding tells it from zero.
# So this one is compiled as XLA has it, and not as tests/conftest.py has all others.
AS_BY_DEFAULT = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}


@pytest.mark.parametrize("spec", [*parts.names("suite.mixers"), "attention:window=2,positions=alibi"])
def test_paths_are_where_gradients_are(spec: str) -> None:
    width, steps = 8, 5
    module, knobs = parts.load("suite.mixers", spec)
    mixer = module.Mixer(width, key=jax.random.key(0), **knobs)
    # Where there is one key its weight is 1 whatever its score, a constant that only the value's path shows as such.
    mixer = mixer if spec.startswith("attention") else sparse(mixer)

    def outputs(x_TD: jax.Array) -> jax.Array:
        def step(state: Any, x_D: jax.Array) -> tuple[Any, jax.Array]:
            y_BD, state = mixer.step(x_D[None], state)
            return state, y_BD[0]

        return jax.lax.scan(step, mixer.start(1, steps, jnp.dtype(jnp.float32)), x_TD)[1]

    x_TD, size = normal(1, steps, width), steps * width
    one_by_one = jnp.where(jnp.eye(size) == 1, 0.0, INF).reshape(size, steps, width)
    found = jax.jit(jax.vmap(lambda mark_TD: paths.follow(outputs, (x_TD,), (mark_TD,))[1]))(one_by_one)
    gradient = jax.jit(jax.jacrev(outputs), compiler_options=AS_BY_DEFAULT)(x_TD).reshape(size, size).T
    np.testing.assert_array_equal(np.isfinite(found).reshape(size, size), gradient != 0)
    causal = np.count_nonzero(gradient) / (size * (steps + 1) * width / 2)
    # These are dense even when thinned: a norm joins all channels again.
    assert causal == 1 if spec in ("attention", "mamba2") else 0 < causal <= 1


# The measure.


def rows(job: Job, devices: list) -> list[dict]:
    built = rig.build(job, meshes.make(devices=devices), data_dir="unused")
    found = list(path.measure(built))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert not {key for row in found for key in row} & {field.name for field in dataclasses.fields(Job)}
    return found


def test_a_row_says_how_far_a_token_is(devices: list) -> None:
    job = Job(mixer="mingru", task="recall:pairs=2,vocab=16", width=WIDTH, length=14, batch=8)
    wanted = [BY_HAND["mingru"](k) + 2 * job.depth for k in (1, 2, 4, 8, 13)]
    assert rows(job, devices) == [
        {"phase": "path", "distance": k, "reachable": True, "path": cost, "outcome": "ok"}
        for k, cost in zip((1, 2, 4, 8, 13), wanted, strict=True)
    ]


def test_a_row_says_what_cannot_be_reached(devices: list) -> None:
    job = Job(mixer="attention:window=2", task="recall:pairs=2,vocab=16", width=WIDTH, length=9, batch=8)
    near, two, *far = rows(job, devices[:1])
    assert (near["path"], two["path"]) == (6 + 4, 12 + 4)
    assert far == [{"phase": "path", "distance": k, "reachable": False, "outcome": "ok"} for k in (4, 8)]


def test_the_farthest_distance_is_that_of_the_claim(devices: list) -> None:
    job = Job(mixer="mingru", task="recall:pairs=2,vocab=16", width=WIDTH, depth=1, length=1500, batch=8)
    last = rows(job, devices[:1])[-1]
    assert (last["distance"], last["path"]) == (999, BY_HAND["mingru"](999) + 2)
