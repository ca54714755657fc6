"""What a model is before it runs, against counts by hand: bytes of state and sequential depth."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from suite import parts
from suite.counting import flops
from suite.job import Job
from suite.measures import size
from suite.model import backbone, matching

WIDTH, VOCAB = 32, 50

# Bytes of one block's state at so many tokens: float32 vectors of a recurrence; of a cache the keys and values of every
# token in the dtype of the products, and a position.
STATE_BYTES: dict[str, Callable[[int, int], int]] = {
    "elman": lambda tokens, itemsize: 4 * WIDTH,
    "gru": lambda tokens, itemsize: 4 * WIDTH,
    "lstm": lambda tokens, itemsize: 2 * 4 * WIDTH,
    "lstm:dilation=3": lambda tokens, itemsize: 3 * 2 * 4 * WIDTH,
    "mingru": lambda tokens, itemsize: 4 * WIDTH,
    "minlstm": lambda tokens, itemsize: 4 * WIDTH,
    # Complex numbers.
    "lru": lambda tokens, itemsize: 8 * WIDTH,
    # 4/3 of the width, in four heads: 44 channels; and the last three inputs of the convolution, here and below.
    "rglru": lambda tokens, itemsize: 4 * 44 + 4 * 3 * 44,
    "rglru:taps=0": lambda tokens, itemsize: 4 * 44,
    # Cell, normaliser, output, scale.
    "slstm": lambda tokens, itemsize: 4 * 4 * WIDTH,
    # In each of 4 heads a matrix of half as many key channels as value channels, a normaliser of the keys, and a scale.
    "mlstm": lambda tokens, itemsize: 4 * 4 * (4 * 8 + 4 + 1),
    "mlstm:taps=4": lambda tokens, itemsize: 4 * 4 * (4 * 8 + 4 + 1) + 4 * 3 * WIDTH,
    # In each of 4 heads 64 channels of state times a quarter of twice the width.
    "mamba2": lambda tokens, itemsize: 4 * 64 * 2 * WIDTH + 4 * 3 * (2 * WIDTH + 2 * 64),
    "gla": lambda tokens, itemsize: 4 * 4 * 4 * 8,
    "gla:taps=2": lambda tokens, itemsize: 4 * 4 * 4 * 8 + 4 * 1 * 2 * WIDTH,
    "deltanet": lambda tokens, itemsize: 4 * 4 * 8 * 8 + 4 * 3 * 3 * WIDTH,
    # Keys of 3/4 of the width and values of 3/2.
    "gated_deltanet": lambda tokens, itemsize: 4 * 4 * 6 * 12 + 4 * 3 * 3 * WIDTH,
    # The input before, for the shift, and a square matrix a head.
    "rwkv7": lambda tokens, itemsize: 4 * WIDTH + 4 * 4 * 8 * 8,
    "attention": lambda tokens, itemsize: 2 * WIDTH * itemsize * tokens + 4,
    "attention:kv_heads=1": lambda tokens, itemsize: 2 * (WIDTH // 4) * itemsize * tokens + 4,
    "attention:window=64": lambda tokens, itemsize: 2 * WIDTH * itemsize * min(tokens, 64) + 4,
}

# Dependent operations of a mixer over T tokens, a power of two, in its reference form. Chunked forms are counted with
# the chunks of a CPU: 32 tokens, and 16 of the rule with a rank of one.
DEPTH: dict[str, Callable[[int], int]] = {
    # The input's product; then at each step product, sum with the input, bias, tanh.
    "elman": lambda length: 1 + 4 * length,
    # The input's product; then product, two sums, sigmoid, times the cell, sum, tanh, times the gate.
    "lstm": lambda length: 1 + 8 * length,
    "lstm:dilation=4": lambda length: 1 + 8 * length // 4,
    # The input's product; then product, sum, sigmoid, times the new state, sum, tanh, times the gate, sum.
    "gru": lambda length: 1 + 8 * length,
    # A doubling: product and sum on the way up and on the way down, and their interleaving. Gates at the beginning
    # (product, bias, sigmoid, product) and the initial state at the end.
    "mingru": lambda length: 5 * int(math.log2(length)) + 5,
    # The same doubling; before it the logarithms of two sigmoids (nine operations more) and their difference.
    "minlstm": lambda length: 5 * int(math.log2(length)) + 15,
    # Complex numbers: a product of two is products and a sum, so a doubling is two operations longer.
    "lru": lambda length: 7 * int(math.log2(length)) + 7,
    # Before the doubling the convolution (a product, a sum for each of four taps, the bias), the gates, and the root of
    # 1 - a^2; after it the other branch and the output's product.
    "rglru": lambda length: 5 * int(math.log2(length)) + 21,
    # At each step: product, sum, bias; the logarithm of a sigmoid (nine), the old scale added, the larger one, the
    # difference to it, exp, times n, sum, the quotient, and what joins heads. The norm at the end.
    "slstm": lambda length: 15 + 20 * length,
    # The state goes from chunk to chunk: its scale added, the larger one, less it, exp, times, product, sum. Chunks are
    # of 64 tokens, and a sequence of 16 is one chunk, whose two trees are two levels lower. Log decays are bounded and
    # taken in two parts (quotient, rounded, product, difference), whose differences are added: six, here and below.
    "mlstm": lambda length: 58 + 7 * math.ceil(length / 64) if length >= 64 else 54 + 7,
    # Logarithms of decays: product, bias, softplus (seven), minus, times the rate. Their running sum within a chunk, a
    # tree over its tokens; what is left of each at its end: difference, exp, times, product. From chunk to chunk: times
    # its decay, sum. Then read, decayed and added; skip, gate, norm (square, tree over 64, quotient, sum, root, two
    # products) and the output's product.
    "mamba2": lambda length: 45 + 2 * math.ceil(length / 64) if length >= 64 else 43 + 2,
    # The same in chunks of 32; with one or two of them the decays of pairs within a chunk are the longer way.
    "gla": lambda length: max(45, 41 + 2 * math.ceil(length / 32)) if length >= 32 else 42,
    # From chunk to chunk: what is held is read, taken from the values, put at the keys, added to the state. Within a
    # chunk an inverse by doubling, three operations each: 16 tokens take two doublings less than 64. With decays their
    # tree is two levels lower besides. Without, the convolution of the keys is the longer way to the inverse.
    "deltanet": lambda length: 49 + 4 * math.ceil(length / 64) if length >= 64 else 43 + 4,
    "gated_deltanet": lambda length: 60 + 4 * math.ceil(length / 64) if length >= 64 else 52 + 4,
    # The same with a sum more: what is written at the replacement keys and at the keys. Decays are in its products, and
    # the sum before a token is no difference.
    "rwkv7": lambda length: 65 + 5 * math.ceil(length / 64) if length >= 64 else 57 + 5,
    # The softmax's largest score and its sum are trees over the tokens; everything else is a chain of fixed length:
    # rotations, products, the mask, the exponential, the quotient.
    "attention": lambda length: 2 * int(math.log2(length)) + 16,
    "attention:positions=none": lambda length: 2 * int(math.log2(length)) + 11,
}


def test_every_arm_has_its_bytes_of_state_counted_by_hand() -> None:
    assert {parts.split(mixer)[0] for mixer in STATE_BYTES} == set(parts.names("suite.mixers"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mixer", STATE_BYTES)
def test_bytes_of_state_are_those_counted_by_hand(mixer: str, dtype: str) -> None:
    job = Job(mixer=mixer, width=WIDTH, depth=3, dtype=dtype)
    built = backbone.shapes(job, VOCAB)
    for tokens in (16, 64, 1000):
        wanted = 3 * STATE_BYTES[mixer](tokens, jnp.dtype(dtype).itemsize)
        assert matching.state_bytes(built, job, tokens) == wanted


@pytest.mark.parametrize("mixer", DEPTH)
@pytest.mark.parametrize("length", [16, 64, 256])
def test_sequential_depth_is_that_counted_by_hand(mixer: str, length: int) -> None:
    name, knobs = parts.split(mixer)
    given = knobs | ({"implementation": "reference"} if "implementation" in parts.knobs("suite.mixers", mixer) else {})
    module, knobs = parts.load(
        "suite.mixers", name + ":" + ",".join(f"{knob}={value}" for knob, value in given.items())
    )
    built = eqx.filter_eval_shape(lambda: module.Mixer(WIDTH, key=jax.random.key(0), **knobs))
    x_BTD = jax.ShapeDtypeStruct((1, length, WIDTH), jnp.float32)
    assert flops.count(lambda mixer, x_BTD: mixer(x_BTD), built, x_BTD).depth == DEPTH[mixer](length)


@pytest.mark.parametrize(
    ("mixer", "ran", "same"),
    [
        ("attention", "splash", "attention:implementation=dense"),
        ("gru", "pallas", "gru:implementation=scan"),
        ("lstm+mingru", "pallas+pallas", "lstm:implementation=scan+mingru:implementation=sequential"),
        ("lstm", "factors", "lstm"),
    ],
)
def test_a_kernel_is_as_deep_as_the_form_that_has_its_chain(mixer: str, ran: str, same: str) -> None:
    job = Job(mixer=mixer, width=WIDTH, depth=2, length=64)
    alike = Job(mixer=same, width=WIDTH, depth=2, length=64)
    others = "+".join(["scan"] * len(ran.split("+")))  # no kernels: the forms of the job are counted as they are
    assert size.ran_depth(job, VOCAB, ran) == size.ran_depth(alike, VOCAB, others)
