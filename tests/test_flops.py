"""FLOPs and depth against counts made by hand."""

import jax
import jax.numpy as jnp
import pytest

from suite import parts
from suite.counting import flops
from suite.job import Job
from suite.model import backbone, matching

F32 = jnp.float32


def shape(*axes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(axes, F32)


def step_count(job: Job, vocab: int, tokens: int) -> flops.Count:
    return matching.step_count(backbone.shapes(job, vocab), job, tokens)


def test_a_product_is_two_flops_a_multiply_add() -> None:
    assert flops.count(jnp.matmul, shape(3, 5), shape(5, 7)) == flops.Count(2 * 3 * 5 * 7, 0, 1)


def test_a_loop_counts_as_often_as_it_runs() -> None:
    def recur(weight_NN: jax.Array, h_BN: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h_BN, _: (jnp.tanh(h_BN @ weight_NN), None), h_BN, None, length=64)[0]

    counted = flops.count(recur, shape(64, 64), shape(2, 64))
    assert counted == flops.Count(64 * 2 * 2 * 64 * 64, 64 * 2 * 64, 2 * 64)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_rank_one_update_counts_the_same_however_it_is_spelt(batch: int) -> None:
    spellings = [
        lambda k_BK, v_BV: jnp.einsum("BK,BV->BKV", k_BK, v_BV),
        lambda k_BK, v_BV: k_BK[:, :, None] * v_BV[:, None, :],
        lambda k_BK, v_BV: (
            jnp.broadcast_to(k_BK[:, :, None], (batch, 8, 5)) * jnp.broadcast_to(v_BV[:, None, :], (batch, 8, 5))
        ),
    ]
    counts = {flops.count(spelt, shape(batch, 8), shape(batch, 5)) for spelt in spellings}
    assert {(count.matmul, count.elementwise) for count in counts} == {(2 * batch * 8 * 5, 0)}


def test_scaling_by_a_vector_is_no_matrix_product() -> None:
    counted = flops.count(lambda x_BD, scale_D: x_BD * jnp.broadcast_to(scale_D, x_BD.shape), shape(4, 8), shape(8))
    assert counted == flops.Count(0, 32, 1)


def test_a_product_of_constants_is_no_matrix_product() -> None:
    def add_bias(x_HS: jax.Array, at: jax.Array) -> jax.Array:
        return x_HS + jnp.asarray([0.5, 0.25], F32)[:, None] * (at - jnp.arange(8)).astype(F32)[None]

    counted = flops.count(add_bias, shape(2, 8), jax.ShapeDtypeStruct((), jnp.int32))
    assert counted.matmul == 0


def test_reductions_are_as_deep_as_a_tree() -> None:
    assert flops.count(jnp.sum, shape(100)).depth == 7
    assert flops.count(lambda x_N: jnp.cumsum(x_N), shape(64)).depth == 6


def test_an_associative_scan_is_shallow_and_a_loop_is_not() -> None:
    depths = {}
    for implementation in ("parallel", "sequential"):
        job = Job(mixer=f"mingru:implementation={implementation}", width=16, depth=1, length=256)
        tokens = jax.ShapeDtypeStruct((1, 256), jnp.int32)
        depths[implementation] = flops.count(
            lambda built, tokens_BT: built(tokens_BT), backbone.shapes(job, 32), tokens
        ).depth
    assert (
        depths["sequential"] - depths["parallel"] > 256 + 255 - 4 * 8 - 10
    )  # 2 operations a token, against 2 passes of log2 T levels


def test_work_that_the_jaxpr_does_not_show_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="while"):
        flops.count(lambda x: jax.lax.while_loop(lambda x: x < 10, lambda x: x + 1, x), shape())


@pytest.mark.parametrize("window", [1, 3, 64, 100])
def test_sums_over_time_equal_the_sum_token_by_token(window: int) -> None:
    calls = []

    def at(tokens: int) -> int:
        calls.append(tokens)
        return 7 + 4 * min(tokens, window)

    assert flops.sum_over_time(at, 100) == sum(7 + 4 * min(t, window) for t in range(1, 101))
    assert len(set(calls)) < 60


def n(width: int) -> int:
    """Channels of RG-LRU: 4/3 of the width, in four heads."""
    return 4 * -(-round(4 * width / 3) // 4)


# Per token and layer, forward: the mixer's products by hand; three D x F matrices of the MLP; the logits once.
BY_HAND = {
    "elman": lambda d, t: 2 * 2 * d * d,
    "lstm": lambda d, t: 2 * 8 * d * d,
    "gru": lambda d, t: 2 * 6 * d * d,
    "mingru": lambda d, t: 2 * 2 * d * d,
    "minlstm": lambda d, t: 2 * 3 * d * d,
    # B and C of complex numbers; the state is times a diagonal.
    "lru": lambda d, t: 2 * 4 * d * d,
    # N = 4/3 D: two branches and the output, and two gates in four blocks; four taps.
    "rglru": lambda d, t: 2 * (3 * d * n(d) + 2 * n(d) * n(d) // 4 + 4 * n(d)),
    "rglru:taps=0": lambda d, t: 2 * (3 * d * n(d) + 2 * n(d) * n(d) // 4),
    # Four gates from the input, and from the state in four blocks.
    "slstm": lambda d, t: 2 * (4 * d * d + 4 * d * d // 4),
    # Queries and keys of half the width, values, output gates and output; two gates a head; in each head an outer
    # product into the memory and a product out of it, and the normaliser's product.
    "mlstm": lambda d, t: 2 * (4 * d * d + 2 * 4 * d + 2 * 4 * (d // 8) * (d // 4) + d // 2),
    "mlstm:taps=4": lambda d, t: BY_HAND["mlstm"](d, t) + 2 * 4 * d,
    # z, x and the output of twice the width, B and C of 64 channels, a step a head; into the state and out of it; four
    # taps over x, B and C.
    "mamba2": lambda d, t: 2 * (3 * 2 * d * d + 2 * 64 * d + 4 * d + 2 * 64 * 2 * d + 4 * (2 * d + 2 * 64)),
    "mamba2:taps=0": lambda d, t: 2 * (3 * 2 * d * d + 2 * 64 * d + 4 * d + 2 * 64 * 2 * d),
    # Queries and keys of half the width, values, output gates and output; decays through 16 channels.
    "gla": lambda d, t: 2 * (4 * d * d + 16 * d + 16 * d // 2 + 2 * 4 * (d // 8) * (d // 4)),
    "gla:taps=2": lambda d, t: BY_HAND["gla"](d, t) + 2 * 2 * (2 * d // 2 + d),
    # Queries, keys, values and output, beta a head; what is held, the outer product, the read; four taps.
    "deltanet": lambda d, t: 2 * (4 * d * d + 4 * d + 3 * 4 * (d // 4) ** 2 + 4 * 3 * d),
    # Queries and keys of 3/4 of the width, values, gates and output of 3/2; beta and decay a head; four taps.
    "gated_deltanet": lambda d, t: 2 * (6 * d * d + 2 * 4 * d + 3 * 4 * (3 * d // 16) * (3 * d // 8) + 4 * 3 * d),
    # Receptance, key, value and output; decay and replacement through 24 channels at this width and the gate through
    # 48; what is held, two outer products, the read.
    "rwkv7": lambda d, t: 2 * (4 * d * d + 2 * 2 * 24 * d + 2 * 48 * d + 4 * 4 * (d // 4) ** 2),
    "attention": lambda d, t: 2 * 4 * d * d + 4 * d * t,
    "attention:kv_heads=1": lambda d, t: 2 * (2 * d * d + 2 * d * d // 4) + 4 * d * t,
    "attention:window=5": lambda d, t: 2 * 4 * d * d + 4 * d * min(t, 5),
    "attention:positions=alibi": lambda d, t: 2 * 4 * d * d + 4 * d * t,  # a bias is added, and no product
}


@pytest.mark.parametrize("mixer", BY_HAND)
def test_flops_of_a_token_equal_the_count_by_hand(mixer: str) -> None:
    width, depth, vocab, tokens = 48, 3, 32, 9
    job = Job(mixer=mixer, width=width, depth=depth)
    mlp = 2 * 3 * width * (8 * round(width / 3))
    by_hand = depth * (BY_HAND[mixer](width, tokens) + mlp) + 2 * width * vocab
    assert step_count(job, vocab, tokens).matmul == by_hand


@pytest.mark.parametrize(("hidden", "wide"), [(0, 8 * 16), (40, 40), (-1, 0)])
def test_an_mlp_counts_as_wide_as_the_job_says(hidden: int, wide: int) -> None:
    job = Job(mixer="lstm", width=48, depth=3, hidden=hidden)
    assert step_count(job, 32, 9).matmul == 3 * (BY_HAND["lstm"](48, 9) + 2 * 3 * 48 * wide) + 2 * 48 * 32


def test_taps_before_a_mixer_are_products_too() -> None:
    job = Job(mixer="lstm", width=48, depth=3)
    with_taps, without = (step_count(job.replace(short_conv=taps), 32, 9).matmul for taps in (4, 0))
    assert with_taps - without == 3 * 2 * 4 * 48


@pytest.mark.parametrize("mixer", [name for name in parts.names("suite.mixers") if name != "attention"])
def test_flops_of_a_recurrence_do_not_grow_with_length(mixer: str) -> None:
    job = Job(mixer=mixer, width=32)
    assert step_count(job, 32, 10) == step_count(job, 32, 10_000)
