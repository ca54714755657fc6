"""Recurrences over time: every implementation is the plain scan from any state, in value and gradient."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from suite import contract, parts
from suite.ops import cudnn, implementations

NAMES = [
    name
    for name in parts.names("suite.mixers")
    if parts.constant("suite.mixers", name, "STATE") == "nonlinear"
    and "implementation" in parts.knobs("suite.mixers", name)
]
IMPLEMENTATIONS = [
    (name, implementation)
    for name in NAMES
    for implementation in implementations.family(str(parts.constant("suite.mixers", name, "FAMILY"))).IMPLEMENTATIONS
    if implementation not in ("scan", "cudnn")
]  # which wants its GPU
WIDTH = 24


def build(spec: str, width: int) -> Any:
    module, knobs = parts.load("suite.mixers", spec)
    return module.Mixer(width, key=jax.random.key(0), **knobs)


def random(tree: Any, seed: int) -> Any:
    """Normal numbers in the shapes and dtypes of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), tree)


def gradients(mixer: Any, batch: int, length: int, dtype: str, width: int = WIDTH) -> Any:
    """Outputs and last state from a random state, and the gradients of parameters, inputs and first state."""
    arrays, static = eqx.partition(mixer, eqx.is_array)
    arrays = jax.tree.map(lambda leaf: leaf.astype(dtype), arrays)
    arrays = jax.tree.map(lambda leaf, noise: leaf + 0.3 * noise, arrays, random(arrays, 1))
    x_BTD = random(jax.ShapeDtypeStruct((batch, length, width), dtype), 2)
    state = random(mixer.start(batch, length, x_BTD.dtype), 3)

    def extend(arrays: Any, x_BTD: jax.Array, state: Any) -> Any:
        return eqx.combine(arrays, static).extend(x_BTD, state)

    @jax.jit
    def both(arguments: Any, probe: Any) -> Any:
        found, pull_back = jax.vjp(extend, *arguments)
        return found, pull_back(probe)

    arguments = (arrays, x_BTD, state)
    return both(arguments, random(jax.eval_shape(extend, *arguments), 4))


def assert_close(actual: Any, wanted: Any, close: float) -> None:
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_allclose(left, right, rtol=0, atol=close * np.max(np.abs(right)))


@pytest.mark.parametrize("shape", [(2, 19), (1, 1), (3, 33)])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("name", "implementation"), IMPLEMENTATIONS)
def test_every_implementation_is_the_plain_scan_from_any_state(
    name: str, implementation: str, heads: int, shape: tuple[int, int]
) -> None:
    width = 16 * heads if implementation == "persistent" else WIDTH  # whose heads are powers of two
    plain, other = (
        gradients(build(f"{name}:heads={heads},implementation={f}", width), *shape, "float32", width)
        for f in ("scan", implementation)
    )
    assert_close(other, plain, 1e-5)  # a few dozen roundings of 6e-8, some of them carried along


@pytest.mark.parametrize("spec", ["lstm:dilation=3,heads=2", "gru:dilation=5,remat=true", "elman:dilation=16"])
def test_a_dilated_recurrence_holds_the_contract_of_a_mixer(spec: str) -> None:
    contract.check_mixer(build(spec, WIDTH), WIDTH, close=1e-5, rounding=0.0)


def test_a_dilated_recurrence_reads_every_so_many_tokens_as_a_sequence_of_their_own() -> None:
    dilated, plain = build("lstm:dilation=3", WIDTH), build("lstm", WIDTH)
    x_BTD = random(jax.ShapeDtypeStruct((2, 11, WIDTH), jnp.float32), 0)
    y_BTD = dilated(x_BTD)
    for first in range(3):
        np.testing.assert_allclose(y_BTD[:, first::3], plain(x_BTD[:, first::3]), rtol=0, atol=1e-6)


def test_a_head_that_no_multiprocessor_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="heads of 24 channels, 2 bytes a number, do not stay in one multiprocessor"):
        build("lstm:implementation=persistent", WIDTH)
    with pytest.raises(ValueError, match=r"heads of 128 channels, 4 bytes a number, .* wanted 16, 32, 64: take"):
        gradients(build("lstm:implementation=persistent", 128), 1, 2, "float32", 128)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_factors_are_exact_in_float64(name: str, heads: int) -> None:
    with jax.enable_x64(True):
        plain, other = (
            gradients(build(f"{name}:heads={heads},implementation={implementation}", WIDTH), 2, 19, "float64")
            for implementation in ("scan", "factors")
        )
        assert_close(other, plain, 1e-13)


def test_weights_are_laid_out_as_cudnn_has_them() -> None:
    """By JAX's own reading of that layout, and its own LSTM: cuDNN itself wants its GPU."""
    mixer = build("lstm", WIDTH)
    mixer = jax.tree.map(lambda leaf: leaf + 0.3 * random(leaf, 1) if eqx.is_array(leaf) else leaf, mixer)
    x_BTD = random(jax.ShapeDtypeStruct((2, 19, WIDTH), "float32"), 2)
    state = random(mixer.start(2, 19, x_BTD.dtype), 3)
    weights = rnn.unpack_lstm_weights(
        cudnn.flat(mixer.input_DG, mixer.recurrent_HKG[0], mixer.bias_G), WIDTH, WIDTH, 1, False
    )
    h_1BN, c_1BN = (leaf[None] for leaf in state)
    lengths_B = jnp.full(2, 19, jnp.int32)
    y_BTN, h_1BN, c_1BN = rnn.lstm_ref(x_BTD, h_1BN, c_1BN, *weights, lengths_B, WIDTH, WIDTH, 1, 0.0, False)
    assert_close((y_BTN, (h_1BN[0], c_1BN[0])), mixer.extend(x_BTD, state), 1e-5)


@functools.cache
def temporary_bytes(spec: str, width: int, length: int) -> int:
    """What a gradient step of a mixer holds at its worst beside its arguments and results."""
    mixer = eqx.filter_eval_shape(build, spec, width)
    arrays, static = eqx.partition(mixer, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def loss(arrays: Any, x_BTD: jax.Array) -> jax.Array:
        return jnp.sum(eqx.combine(arrays, static)(x_BTD))

    step: Callable = jax.jit(jax.grad(loss, (0, 1)))
    shape = jax.ShapeDtypeStruct((1, length, width), jnp.float32)
    memory = step.lower(arrays, shape).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def numbers_held(spec: str, length: int) -> float:
    """The same in float32 a channel and token."""
    return temporary_bytes(spec, 64, length) / (4 * 64 * length)


@pytest.mark.parametrize(("name", "numbers"), [("elman", 3), ("gru", 10), ("lstm", 12)])
def test_loops_overwrite_their_buffers(name: str, numbers: int) -> None:
    # Inputs and outputs with time first, gates, and what the forward pass leaves: a copied buffer would be one more.
    assert numbers_held(f"{name}:implementation=factors", 1024) < numbers + 0.5


@pytest.mark.parametrize("name", NAMES)
def test_rematerialised_chunks_are_the_whole(name: str) -> None:
    for length in (1, 2, 33):  # 33: six chunks of five, and three tokens more
        plain, other = (
            gradients(build(f"{name}:remat={remat}", WIDTH), 2, length, "float32") for remat in ("false", "true")
        )
        assert_close(other, plain, 1e-5)


def test_rematerialised_memory_grows_as_the_root() -> None:
    # What is left is one array of outputs, or none; the insides of a chunk become fewer and fewer numbers a token.
    short, middle, long = (numbers_held("lstm:remat=true", length) for length in (1024, 4096, 16384))
    assert middle - long < 0.5 * (short - middle)
    assert long < 1.5 < 0.2 * numbers_held("lstm", 4096)


@pytest.mark.parametrize(
    ("device", "dtype", "heads", "implementation"),
    [
        ("NVIDIA H200", "bfloat16", 6, "persistent"),
        ("NVIDIA H200", "bfloat16", 12, "persistent"),
        ("NVIDIA H200", "bfloat16", 1, "factors"),  # 768 channels of one head do not stay in a multiprocessor
        ("NVIDIA H200", "float32", 12, "factors"),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 12, "factors"),  # not timed there
    ],
)
def test_the_persistent_kernel_is_chosen_for_heads_that_it_was_timed_with(
    device: str, dtype: str, heads: int, implementation: str
) -> None:
    gpu = AbstractDevice(device_kind=device, num_cores=None, platform="gpu")
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=gpu)
    lstm = eqx.filter_eval_shape(functools.partial(build, f"lstm:heads={heads}", 768))
    with jax.sharding.use_abstract_mesh(mesh):
        assert lstm.ran(jnp.dtype(dtype)) == implementation


def arguments_of(recurrence: str, reset: float) -> tuple[Any, ...]:
    """Random inputs of 150 tokens, of which one in twelve has the logarithm `reset` for its decay."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, unit: bool = False) -> Any:
        x = rng.normal(size=shape).astype(np.float32)
        return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True) if unit else x)

    def log_decays(*shape: int) -> Any:
        slow = -np.exp(1.5 * rng.normal(size=shape) - 3)
        return jnp.asarray(np.where(rng.random(shape) < 1 / 12, reset, slow), jnp.float32)

    q, k, v, c = (normal(2, 150, 3, 8, unit=unit) for unit in (False, True, False, True))
    state, rates = normal(2, 3, 8, 8), jax.nn.sigmoid(normal(2, 150, 3))
    match recurrence:
        case "decay of a head":
            return "matrix", q, k, v, log_decays(2, 150, 3, 1), state
        case "decay of a channel":
            return "matrix", q, k, v, log_decays(2, 150, 3, 8), state
        case "delta rule":
            return "delta", q, k, v, rates, log_decays(2, 150, 3), state
        case "low rank":
            return "low_rank", q, k, v, c, 0.5 * c, log_decays(2, 150, 3, 8), state
        case "exponential gates":
            first = (state, state[..., 0], jnp.zeros((2, 3)))
            return "exponential", q, k, v, normal(2, 150, 3), log_decays(2, 150, 3), first
    return "linear", jnp.exp(log_decays(2, 150, 24)), normal(2, 150, 24), normal(2, 24)


@functools.cache
def pulled_back(family: str, implementation: str) -> Callable:
    run = implementations.pick(family, implementation)

    @jax.jit
    def both(arguments: Any, probe: Any) -> Any:
        results, pull_back = jax.vjp(run, *arguments)
        return results, pull_back(probe)

    return both


RECURRENCES = (
    *("decay of a head", "decay of a channel", "delta rule", "low rank", "exponential gates"),
    "of numbers",
)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_a_reset_takes_no_digits_from_what_comes_after(recurrence: str) -> None:
    for reset in (-1.0, -40.0, -1e3, -1e5, -3e38, -np.inf):
        family, *arguments = arguments_of(recurrence, reset)
        others = [name for name in implementations.family(family).IMPLEMENTATIONS if name != "sequential"]
        probe = random(jax.eval_shape(implementations.pick(family, "sequential"), *arguments), 1)
        wanted = pulled_back(family, "sequential")(tuple(arguments), probe)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(wanted))
        largest = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(wanted))
        for implementation in others:
            results = pulled_back(family, implementation)(tuple(arguments), probe)
            for left, right in zip(jax.tree.leaves(results), jax.tree.leaves(wanted), strict=True):
                # Hundreds of products and sums that each round at 6e-8, as in the plain scan, which is as far from
                # float64; sums of whole log decays were off by 2e-4 at -1e3 and by 2e-2 at -1e5.
                close = 1e-5 * max(np.max(np.abs(right)), 1e-3 * largest)
                np.testing.assert_allclose(left, right, rtol=0, atol=close, err_msg=f"{implementation} at {reset}")
