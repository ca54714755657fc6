"""The blocked form of attention: what the dense form computes, in memory that is linear in the length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from suite import mesh as meshes
from suite.ops import attention, implementations


def made(batch: int, length: int, heads: int, groups: int, size: int) -> list[jax.Array]:
    """Queries, keys, values and weights of the outputs."""
    shapes = [(batch, length, count, size) for count in (heads, groups, groups, heads)]
    return [jax.random.normal(jax.random.key(seed), shape, jnp.float32) for seed, shape in enumerate(shapes)]


def gradient(implementation: str, window: int = 0, slopes: bool = False):
    def value(q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, weigh_BTHK: jax.Array) -> jax.Array:
        slope_H = attention.alibi_slopes(q_BTHK.shape[2]) if slopes else None
        y_BTHK = attention.IMPLEMENTATIONS[implementation](q_BTHK, k_BTHK, v_BTHK, window, slope_H)
        return jnp.sum(y_BTHK.astype(jnp.float32) * weigh_BTHK.astype(jnp.float32))

    return jax.jit(jax.value_and_grad(value, (0, 1, 2)))


@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("window", [0, 2, 130, 200])
@pytest.mark.parametrize("shape", [(2, 300, 4, 4, 16), (1, 128, 4, 2, 8), (2, 37, 6, 1, 4)])
def test_blocks_are_what_the_dense_form_is(shape: tuple[int, ...], window: int, slopes: bool) -> None:
    inputs = made(*shape)
    wanted, found = (gradient(implementation, window, slopes)(*inputs) for implementation in ("dense", "blocked"))
    for want, got in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        # float32 sums of up to 300 terms in another order.
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(want))))


@pytest.mark.parametrize(
    ("implementation", "window", "slopes"),
    [("blocked", 20, True), *(("ring", window, window in (0, 20)) for window in (0, 1, 2, 20, 40))],
)
def test_shards_of_a_sequence_are_what_the_whole_is(
    implementation: str, window: int, slopes: bool, devices: list
) -> None:
    mesh = meshes.make("context:4", devices[:4])  # shards of 16 tokens
    slope_H = attention.alibi_slopes(4) if slopes else None
    run = attention.over_devices(attention.IMPLEMENTATIONS[implementation])
    attend = meshes.on_each_device(mesh, {}, lambda _, __, qkv: run(*qkv, window, slope_H), results="tokens")

    def value(q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, weigh_BTHK: jax.Array) -> jax.Array:
        with meshes.ambient(mesh):
            return jnp.sum(attend({}, {}, (q_BTHK, k_BTHK, v_BTHK)) * weigh_BTHK)

    inputs = made(2, 64, 4, 2, 8)
    wanted = gradient("dense", window, slopes)(*inputs)
    found = jax.jit(jax.value_and_grad(value, (0, 1, 2)), in_shardings=meshes.over_tokens(mesh))(*inputs)
    for want, got in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        # A token that sees itself alone has no gradient by its query.
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(1.0, float(jnp.max(jnp.abs(want)))))


def test_a_ring_holds_two_shards_of_keys_where_gathering_holds_all(devices: list) -> None:
    mesh = meshes.make("context:8", devices)
    inputs, temporary = tuple(made(1, 8192, 1, 1, 64)[:3]), {}
    for implementation in ("blocked", "ring"):
        run = attention.over_devices(attention.IMPLEMENTATIONS[implementation])
        attend = meshes.on_each_device(mesh, {}, lambda _, __, qkv, run=run: run(*qkv, 0, None), results="tokens")
        jitted = jax.jit(lambda qkv, attend=attend: attend({}, {}, qkv), in_shardings=meshes.over_tokens(mesh))
        with meshes.ambient(mesh):
            memory = jitted.lower(inputs).compile().memory_analysis()
        assert memory is not None
        temporary[implementation] = memory.temp_size_in_bytes
    keys = 2 * 8192 * 64 * 4  # and values, of the whole sequence
    assert temporary["blocked"] - temporary["ring"] > keys / 2


def test_a_large_score_does_not_overflow() -> None:
    q_BTHK, k_BTHK, v_BTHK, weigh_BTHK = made(1, 300, 2, 2, 8)
    value, found = gradient("blocked")(20 * q_BTHK, 20 * k_BTHK, v_BTHK, weigh_BTHK)
    wanted, _ = gradient("dense")(20 * q_BTHK, 20 * k_BTHK, v_BTHK, weigh_BTHK)
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in found)


def test_memory_is_linear_in_the_length() -> None:
    temporary = []
    for length in (1024, 4096):
        memory = gradient("blocked").lower(*made(1, length, 4, 4, 16)).compile().memory_analysis()
        assert memory is not None
        temporary.append(memory.temp_size_in_bytes)
    assert temporary[1] < 4.5 * temporary[0]
    assert temporary[1] < 4 * 4096 * 4096 * 4 / 10  # a tenth of the scores of four heads


@pytest.mark.parametrize(
    ("device", "dtype", "size", "implementation"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 192, "cudnn"),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 128, "cudnn"),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 192, "dense"),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 36, "dense"),
        ("NVIDIA H100 80GB HBM3", "float32", 128, "dense"),
    ],
)
def test_cudnn_is_asked_for_what_it_takes(device: str, dtype: str, size: int, implementation: str) -> None:
    gpu = AbstractDevice(device_kind=device, num_cores=None, platform="gpu")
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=gpu)
    with jax.sharding.use_abstract_mesh(mesh):
        assert implementations.choose("attention", "auto", jnp.dtype(dtype), head_size=size) == implementation
