"""The block and the backbone."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suite import parts
from suite.job import Job
from suite.model import backbone
from suite.ops import convolution

VOCAB, BATCH, LENGTH = 17, 2, 12
NAMES = parts.names("suite.mixers")
# float32 rounds at 6e-8; a few blocks of some hundred products and a dozen dependent steps stay below.
CLOSE = 2e-5
PROBE_BTV = np.random.default_rng(2).standard_normal((BATCH, LENGTH, VOCAB)).astype(np.float32)


@functools.cache
def build(**changes) -> backbone.Model:
    return backbone.build(Job(**{"width": 32, **changes}), VOCAB, key=jax.random.key(0))


def tokens() -> jax.Array:
    return jax.random.randint(jax.random.key(1), (BATCH, LENGTH), 0, VOCAB)


@eqx.filter_jit
def run(implementation, built: backbone.Model, tokens_BT, probe_BTV):
    """The logits, and the gradient of their product with the probe."""
    arrays, static = eqx.partition(built, eqx.is_array)
    logits_BTV, pull_back = jax.vjp(lambda arrays: implementation(eqx.combine(arrays, static), tokens_BT), arrays)
    return logits_BTV, pull_back(probe_BTV)[0]


def in_parallel(built, tokens_BT):
    return built(tokens_BT)


forward = eqx.filter_jit(in_parallel)


def in_pieces(built, tokens_BT):
    """A chunk, and the rest token by token."""

    def step(state, tokens_B):
        logits_BV, state = built.step(tokens_B, state)
        return state, logits_BV

    state = built.start(BATCH, LENGTH, jnp.dtype(built.dtype))
    first_BTV, state = built.extend(tokens_BT[:, :5], state)
    _, rest_TBV = jax.lax.scan(step, state, jnp.swapaxes(tokens_BT[:, 5:], 0, 1))
    return jnp.concatenate([first_BTV, jnp.swapaxes(rest_TBV, 0, 1)], axis=1)


def unrolled(built: backbone.Model) -> backbone.Model:
    """The same blocks, none of them stacked."""
    repeats = jax.tree.leaves(built.pattern)[0].shape[0]
    blocks = [jax.tree.map(lambda leaf, at=at: leaf[at], block) for at in range(repeats) for block in built.pattern]
    return eqx.tree_at(lambda m: (m.pattern, m.rest), built, ((), (*blocks, *built.rest)))


def assert_close(actual, wanted, close: float = CLOSE):
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
        np.testing.assert_allclose(left, right, rtol=0, atol=close * max(1e-3, np.max(np.abs(right))))


@pytest.mark.parametrize(
    ("mixer", "depth", "short_conv", "block"),
    [
        ("mingru+attention:window=4", 3, 3, "residual"),
        ("elman", 2, 1, "plain"),
    ],
)
def test_chunks_and_steps_equal_the_whole_in_value_and_gradient(mixer: str, depth: int, short_conv: int, block: str):
    built = build(mixer=mixer, short_conv=short_conv, block=block, depth=depth)
    wanted = run(in_parallel, built, tokens(), PROBE_BTV)
    assert_close(run(in_pieces, built, tokens(), PROBE_BTV), wanted)


def test_a_pattern_with_a_remainder_equals_its_blocks_one_after_another():
    built = build(mixer="elman+attention", depth=5, short_conv=2)
    assert (len(built.pattern), len(built.rest)) == (2, 1)
    flat = unrolled(built)
    kinds = [type(block.mixer).__module__.rpartition(".")[2] for block in flat.rest]
    assert kinds == ["elman", "attention", "elman", "attention", "elman"]
    logits_BTV, gradient = run(in_parallel, built, tokens(), PROBE_BTV)
    flat_logits_BTV, flat_gradient = run(in_parallel, flat, tokens(), PROBE_BTV)
    assert_close(logits_BTV, flat_logits_BTV)
    assert_close(unrolled(gradient), flat_gradient)


def test_a_pattern_longer_than_the_depth_is_refused():
    with pytest.raises(ValueError, match="depth 2 cuts the pattern of 3 mixers off; give --depth=3"):
        build(mixer="lstm+attention+mingru", depth=2)


def test_a_model_is_causal():
    built = build(mixer="lstm+attention", short_conv=3, depth=3)
    before_BTV, after_BTV = (forward(built, tokens().at[:, 7:].set(token)) for token in (3, 4))
    np.testing.assert_array_equal(before_BTV[:, :7], after_BTV[:, :7])
    assert np.all(np.any(before_BTV[:, 7:] != after_BTV[:, 7:], axis=-1))


def test_convolution_is_a_sum_over_the_last_tokens():
    x_BTD, past_BPD, taps_CD = (
        np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        for seed, shape in enumerate([(2, 7, 5), (2, 3, 5), (4, 5)])
    )
    seen_BSD = np.concatenate([past_BPD, x_BTD], axis=1).astype(np.float64)
    wanted_BTD = np.zeros((2, 7, 5))
    for at in range(7):
        for tap in range(4):
            wanted_BTD[:, at] += taps_CD[tap] * seen_BSD[:, at + 3 - tap]
    actual_BTD, kept_BPD = convolution.extend(jnp.asarray(x_BTD), jnp.asarray(past_BPD), jnp.asarray(taps_CD))
    np.testing.assert_array_equal(kept_BPD, x_BTD[:, -3:])
    np.testing.assert_allclose(actual_BTD, wanted_BTD, rtol=0, atol=1e-5)  # four float32 products of size 1


def test_taps_reach_as_far_as_there_are_taps():
    # A mixer that sees only its own token, so that what comes from the past comes through the taps.
    for short_conv in (0, 1, 4):
        built = build(mixer="attention:window=1", short_conv=short_conv, depth=1)
        changed_BTV = forward(built, tokens().at[:, 4].set((tokens()[:, 4] + 1) % VOCAB)) != forward(built, tokens())
        reached = np.flatnonzero(np.any(changed_BTV, axis=(0, 2)))
        assert list(reached) == list(range(4, 4 + max(1, short_conv)))


def test_a_block_of_zeros_passes_the_stream_on_if_residual_and_nothing_if_plain():
    x_BTD = jax.random.normal(jax.random.key(1), (BATCH, LENGTH, 32), jnp.float32)
    for kind, wanted_BTD in {"residual": x_BTD, "plain": jnp.zeros_like(x_BTD)}.items():
        block = unrolled(build(mixer="attention", block=kind)).rest[0]
        np.testing.assert_array_equal(jax.tree.map(jnp.zeros_like, block)(x_BTD), wanted_BTD)


@pytest.mark.parametrize("mixer", NAMES)
def test_bfloat16_is_the_dtype_of_products_and_of_nothing_else(mixer: str):
    # One short convolution, the mixer's own or the block's: each rounds.
    short_conv = 0 if parts.knobs("suite.mixers", mixer).get("taps") else 2
    low, high = build(mixer=mixer, short_conv=short_conv, dtype="bfloat16"), build(mixer=mixer, short_conv=short_conv)
    logits_BTV, gradient = jax.eval_shape(lambda: run(in_parallel, low, tokens(), PROBE_BTV))
    assert {leaf.dtype for leaf in jax.tree.leaves((low, logits_BTV, gradient))} == {jnp.dtype("float32")}
    low_BTV, high_BTV = forward(low, tokens()), forward(high, tokens())
    difference = np.max(np.abs(low_BTV - high_BTV)) / np.max(np.abs(high_BTV))
    assert 1e-4 < difference < 0.05  # rounding at 0.4 %, in some dozen places: there, and no more than that
    assert 0.3 < np.std(high_BTV) < 3  # the embedding's scale: neither dead nor sure at the start


def test_a_block_without_an_mlp_is_its_mixer_alone():
    x_BTD = jax.random.normal(jax.random.key(1), (BATCH, LENGTH, 32), jnp.float32)
    for kind, stream_BTD in {"residual": x_BTD, "plain": jnp.zeros_like(x_BTD)}.items():
        block = unrolled(build(mixer="lstm", block=kind, hidden=-1)).rest[0]
        wanted_BTD = stream_BTD + block.mixer(backbone.rms_norm(x_BTD, block.mixer_scale_D))
        np.testing.assert_allclose(block(x_BTD), wanted_BTD, rtol=1e-6)


def test_every_key_gives_another_model_and_the_same_key_the_same():
    first, again, other = (
        jax.tree.leaves(backbone.build(Job(mixer="elman", width=32, depth=1), VOCAB, key=jax.random.key(seed)))
        for seed in (0, 0, 1)
    )
    for leaf, same, unlike in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(leaf, same)
        assert np.ptp(leaf) == 0 or not np.array_equal(leaf, unlike)


def test_no_two_blocks_and_no_two_matrices_start_alike():
    blocks = unrolled(build(mixer="elman+elman", depth=5)).rest
    matrices = [np.asarray(leaf) for leaf in jax.tree.leaves(blocks) if leaf.ndim >= 2]
    corners = {leaf[..., :8, :8].tobytes() for leaf in matrices}
    assert len(corners) == len(matrices) == 5 * 5


def hidden(width: int) -> int:
    return 8 * round(width / 3)


@pytest.mark.parametrize("width", [64, 96])
@pytest.mark.parametrize("depth", [1, 3])
def test_parameters_are_those_counted_by_hand(width: int, depth: int):
    around = VOCAB * width + width + depth * (2 * width + 3 * width * hidden(width))
    by_hand = {
        "attention": 4 * width**2,
        "attention:kv_heads=1": 2 * width**2 + 2 * width * width // 4,
        "lstm": 8 * width**2 + 4 * width,
        "gru": 6 * width**2 + 4 * width,
        "elman": 2 * width**2 + width,
        "mingru": 2 * width**2 + width,
    }
    for mixer, count in by_hand.items():
        shapes = backbone.shapes(Job(mixer=mixer, width=width, depth=depth), VOCAB)
        assert backbone.count_parameters(shapes) == around + depth * count, mixer
        for hidden_size, own in ((40, 3 * width * 40 + 2 * width), (-1, width)):
            other = backbone.shapes(Job(mixer=mixer, width=width, depth=depth, hidden=hidden_size), VOCAB)
            assert backbone.count_parameters(other) == VOCAB * width + width + depth * (count + own), mixer
        tapped = backbone.shapes(Job(mixer=mixer, width=width, depth=depth, short_conv=4), VOCAB)
        assert backbone.count_parameters(tapped) == around + depth * (count + 4 * width), mixer


def test_shapes_are_those_of_the_model_that_is_built():
    job = Job(mixer="lstm+attention", depth=3, width=32)
    built = backbone.build(job, VOCAB, key=jax.random.key(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), backbone.shapes(job, VOCAB)) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), built
    )


@pytest.mark.parametrize("mixer", [*NAMES, "attention:positions=learned"])
def test_decay_acts_on_matrices_stacked_or_not(mixer: str):
    # Two repeats of two blocks are stacked, and a fifth block stands alone.
    shapes = backbone.shapes(Job(mixer=f"{mixer}+{mixer}", width=32, depth=5, short_conv=2), VOCAB)
    marks = backbone.matrices(shapes)
    alone = jax.tree.leaves(marks.rest[0])
    assert alone == [leaf.ndim >= 2 for leaf in jax.tree.leaves(shapes.rest[0])]
    assert [jax.tree.leaves(block) for block in marks.pattern] == [alone, alone]
    assert marks.embedding_VD
    assert not marks.scale_D
    assert marks.rest[0].taps_CD
    assert not marks.rest[0].mixer_scale_D


def test_a_width_that_the_mixer_refuses_is_said_to_be():
    with pytest.raises(ValueError, match="width 50 is not a multiple of heads 4"):
        build(mixer="attention", width=50)
