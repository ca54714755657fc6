"""Collectives read from compiled programs: operations, axes, bytes and loops, of real programs and other compilers'."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ahead import VOCAB
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from suite import mesh as meshes
from suite.counting import collectives, hlo
from suite.counting.collectives import Collective
from suite.job import Job
from suite.training.programs import Programs

AXES = ("data", "fsdp", "model")


@pytest.fixture(scope="module")
def mesh(devices: list) -> Mesh:
    return jax.make_mesh((2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def compiled(fn: Callable, mesh: Mesh, *shapes: tuple[int, ...]) -> list[Collective]:
    """The collectives of `fn` on each device by itself, of float32 arrays that each has whole."""
    mapped = jax.shard_map(fn, mesh=mesh, in_specs=P(), out_specs=P(AXES), check_vma=False)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return collectives.of_program(jax.jit(mapped).lower(*arguments).compile(), mesh)


def permuted(x: jax.Array, axis: str) -> jax.Array:
    return jax.lax.ppermute(x, axis, [(0, 1), (1, 0)])


# Of 8 x 4 float32 on each device, 128 bytes.
@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda x: jax.lax.all_gather(x, "fsdp"), ("all-gather", ("fsdp",), 128)),
        (lambda x: jax.lax.all_gather(x, ("data", "model")), ("all-gather", ("data", "model"), 3 * 128)),
        (lambda x: jax.lax.psum(x, "model"), ("all-reduce", ("model",), 128)),
        (lambda x: jax.lax.psum(x, AXES), ("all-reduce", AXES, 2 * 7 * 128 // 8)),
        (lambda x: jax.lax.psum_scatter(x, ("data", "fsdp")), ("reduce-scatter", ("data", "fsdp"), 3 * 128 // 4)),
        (lambda x: jax.lax.all_to_all(x, "data", 0, 0, tiled=True), ("all-to-all", ("data",), 64)),
        (lambda x: permuted(x, "fsdp"), ("collective-permute", ("fsdp",), 128)),
    ],
)
def test_operation_axes_and_bytes_are_those_of_the_program(
    fn: Callable, expected: tuple[str, tuple[str, ...], int], mesh: Mesh
) -> None:
    shape = (4, 8, 1) if expected[0] == "reduce-scatter" else (8, 4)
    [one] = compiled(fn, mesh, shape)
    assert (one.operation, one.axes, one.sent) == expected
    assert (one.calls, one.loops) == (1, ())


def test_devices_are_those_of_the_mesh_in_its_own_order(devices: list) -> None:
    shuffled = Mesh(np.array(devices)[[3, 1, 4, 0, 5, 7, 2, 6]].reshape(2, 2, 2), AXES)
    assert [one.axes for one in compiled(lambda x: jax.lax.all_gather(x, "fsdp"), shuffled, (8, 4))] == [("fsdp",)]


def test_a_group_of_one_device_and_a_device_that_sends_to_itself_are_left_out(devices: list) -> None:
    flat = Mesh(np.array(devices).reshape(8, 1, 1), AXES)
    assert compiled(lambda x: jax.lax.psum(x, "fsdp"), flat, (8, 4)) == []
    assert compiled(lambda x: jax.lax.ppermute(x, "data", [(i, i) for i in range(8)]), flat, (8, 4)) == []


def nested(over_blocks: bool, over_time: bool) -> Callable:
    """Three blocks of a loop over seven tokens, with a sum over devices in the loops that are asked for."""

    def summed(x: jax.Array, asked: bool) -> jax.Array:
        return jax.lax.psum(x, "data") if asked else x

    def block(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        def token(c: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            c = jnp.tanh(summed(c @ w, over_time) + x)
            return c, c

        return jax.lax.scan(token, jnp.zeros(x.shape[1:]), summed(x, over_blocks))[1], None

    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        with jax.named_scope("blocks"):
            return jnp.sum(jax.lax.scan(block, x, w)[0] ** 2)

    return lambda w, x: jax.grad(loss)(w, x)


def test_a_collective_in_a_loop_over_blocks_is_called_once_a_block(mesh: Mesh) -> None:
    programs = compiled(nested(over_blocks=True, over_time=False), mesh, (3, 4, 4), (7, 8, 4))
    assert [(one.calls, len(one.loops), one.in_time) for one in programs] == [(3, 1, False)] * 2


def test_a_collective_in_a_loop_over_time_is_found_forward_and_backward(mesh: Mesh) -> None:
    programs = compiled(nested(over_blocks=False, over_time=True), mesh, (3, 4, 4), (7, 8, 4))
    assert {(one.calls, len(one.loops), one.in_time) for one in programs} == {(21, 2, True)}
    assert len(programs) >= 2


def test_a_loop_of_unknown_length_is_said_to_be_so(mesh: Mesh) -> None:
    def until(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 100, lambda x: jax.lax.psum(x, "data") + 1, x)

    assert [(one.calls, one.in_time) for one in compiled(until, mesh, (8, 4))] == [(None, True)]


def test_of_the_branches_of_a_condition_the_one_counts_that_sends_most(mesh: Mesh) -> None:
    def either(x: jax.Array) -> jax.Array:
        once, twice = (lambda x: jax.lax.psum(x, "data")), (lambda x: jax.lax.psum(jnp.tile(x, 2), "fsdp")[:, :4])
        return jax.lax.cond(x[0, 0] > 0, once, twice, x)

    assert [(one.axes, one.sent) for one in compiled(either, mesh, (8, 4))] == [(("fsdp",), 256)]


def test_loops_of_the_training_step_go_by_the_names_that_tell_them_apart(devices: list) -> None:
    """A loop over microbatches, in it one over blocks, in it one over time; sums of gradients stand outside of them."""
    job = Job(mixer="lstm", task="recall:pairs=2,vocab=16", width=16, length=24, batch=32, microbatch=16, depth=3)
    mesh = meshes.make(devices=devices)
    text = Programs(job, mesh, VOCAB).lowered_step.compile().as_text()
    assert text is not None
    names = set(re.findall(r'op_name="([^"]*/while)"', text.replace("eval_jaxpr", "closed_call")))  # as JAX 0.12 has it
    blocks = {
        "jit(step)/shard_map/microbatches/while/body/closed_call/" + way
        for way in ("jvp(blocks)/while", "transpose(jvp(blocks))/while")
    }
    assert {name for name in names if not hlo.is_over_time(name)} == {
        "jit(step)/shard_map/microbatches/while",
        *blocks,
    }
    assert any(hlo.is_over_time(name) for name in names)
    sums = collectives.of_text(text, mesh)
    assert {(one.operation, one.axes, one.loops) for one in sums} == {("all-reduce", ("data",), ())}


HEAD = """HloModule jit_step, is_scheduled=true, num_partitions=8

%sum (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[]{:T(128)} parameter(0)
  %b.1 = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%a.1, %b.1)
}
"""
# As libtpu 0.0.42 wrote it for eight chips: a loop over blocks whose length stands in its condition, a reduce-scatter
# that is a fusion, and an all-gather whose three parts lie in fusions, each with a copy of it.
OF_TPU = (
    HEAD
    + """
%start (p.1: bf16[512,256]) -> (bf16[512,256], bf16[1024,256], u32[]) {
  %p.1 = bf16[512,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[1024,256]{1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=11, \
replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}, use_global_device_ids=true, \
frontend_attributes={chain_id="0"}, metadata={op_name="jit(step)/jvp(blocks)/while/body/closed_call/all_gather"}
  ROOT %custom-call.1 = (bf16[512,256]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,256]{1,0:T(8,128)(2,1)S(1)}, \
/*index=2*/u32[]{:S(2)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (p.2: bf16[512,256], q.2: bf16[8,512]) -> bf16[8,512] {
  %p.2 = bf16[512,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %q.2 = bf16[8,512]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %all-gather.2 = bf16[1024,256]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.2), channel_id=11, \
replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}, use_global_device_ids=true, \
frontend_attributes={chain_id="0"}, metadata={op_name="jit(step)/jvp(blocks)/while/body/closed_call/all_gather"}
  ROOT %exponential.2 = bf16[8,512]{1,0:T(8,128)(2,1)S(1)} exponential(%q.2)
}

%all-reduce-scatter.clone.1 (input.3: bf16[1024,1024]) -> bf16[256,1024] {
  %input.3 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-reduce.3 = bf16[1024,1024]{1,0:T(8,128)(2,1)} all-reduce(%input.3), channel_id=5, \
replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%sum
  %zero.3 = s32[]{:T(128)} constant(0)
  ROOT %slice.3 = bf16[256,1024]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%all-reduce.3, %zero.3, %zero.3), \
dynamic_slice_sizes={256,1024}
}

%body (carry.4: (s32[]{:T(128)}, bf16[512,256], bf16[8,512], bf16[1024,1024])) -> (s32[], bf16[512,256]) {
  %carry.4 = (s32[]{:T(128)}, bf16[512,256]{1,0:T(8,128)(2,1)S(1)}, bf16[8,512]{1,0}, bf16[1024,1024]) parameter(0)
  %w.4 = bf16[512,256]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%carry.4), index=1
  %x.4 = bf16[8,512]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%carry.4), index=2
  %g.4 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%carry.4), index=3
  %async-collective-start = (bf16[512,256]{1,0}, bf16[1024,256]{1,0}, u32[]{:S(2)}) fusion(%w.4), kind=kCustom, \
calls=%start
  %fusion.4 = bf16[8,512]{1,0:T(8,128)(2,1)S(1)} fusion(%w.4, %x.4), kind=kOutput, calls=%async_collective_fusion.1
  %fusion.5 = bf16[256,1024]{1,0:T(8,128)(2,1)S(1)} fusion(%g.4), kind=kCustom, calls=%all-reduce-scatter.clone.1
  %all-reduce.7 = bf16[1,256,1024]{2,1,0:T(8,128)(2,1)S(1)} all-reduce(%fusion.5), channel_id=6, \
replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_2'}, \
use_global_device_ids=true, to_apply=%sum, metadata={op_name="jit(step)/transpose(jvp(blocks))/while/body/dot_general"}
  ROOT %tuple.4 = (s32[]{:T(128)}, bf16[512,256]{1,0:T(8,128)(2,1)S(1)}) tuple(%x.4, %w.4)
}

%condition (carry.5: (s32[], bf16[512,256])) -> pred[] {
  %limit = s32[]{:T(128)} constant(24)
  %carry.5 = (s32[]{:T(128)}, bf16[512,256]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %number.5 = s32[]{:T(128)} get-tuple-element(%carry.5), index=0
  ROOT %lt.5 = pred[]{:T(512)} compare(%number.5, %limit), direction=LT
}

ENTRY %main.1_spmd (x.6: f32[]) -> f32[] {
  %x.6 = f32[]{:T(128)} parameter(0)
  %while.6 = (s32[]{:T(128)}, bf16[512,256]{1,0:T(8,128)(2,1)S(1)}) while(%x.6), condition=%condition, body=%body, \
metadata={op_name="jit(step)/transpose(jvp(blocks))/while"}
  ROOT %all-reduce.6 = f32[]{:T(128)} all-reduce(%x.6), channel_id=3, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0','axis_1'}, use_global_device_ids=true, to_apply=%sum
}
"""
)


def test_what_the_compiler_of_a_tpu_writes_is_read(devices: list) -> None:
    mesh = jax.make_mesh((2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    found = [(one.operation, one.axes, one.sent, one.calls, one.in_time) for one in collectives.of_text(OF_TPU, mesh)]
    assert found == [
        ("all-gather", ("fsdp",), 512 * 256 * 2, 24, False),  # once, in the first of its parts
        ("reduce-scatter", ("fsdp", "model"), 3 * 1024 * 1024 * 2 // 4, 24, False),
        ("all-reduce", ("data",), 256 * 1024 * 2, 24, False),
        ("all-reduce", AXES, 2 * 7 * 4 // 8, 1, False),
    ]


# As XLA writes it for GPUs: pairs of -start and -done, some around a computation of their own.
OF_GPU = (
    HEAD
    + """
%async_computation (p.1: f32[64,128]) -> f32[64,128] {
  %p.1 = f32[64,128]{1,0} parameter(0)
  ROOT %all-to-all.1 = f32[64,128]{1,0} all-to-all(%p.1), channel_id=4, replica_groups={{0,4},{1,5},{2,6},{3,7}}, \
dimensions={0}
}

%command_buffer (p.2: f32[64,128]) -> f32[512,128] {
  %p.2 = f32[64,128]{1,0} parameter(0)
  %all-gather-start = (f32[64,128]{1,0}, f32[512,128]{1,0}) all-gather-start(%p.2), channel_id=1, \
replica_groups=[1,8]<=[8], dimensions={0}, use_global_device_ids=true, \
backend_config={"collective_backend_config":{"is_sync":true}}
  ROOT %all-gather-done = f32[512,128]{1,0} all-gather-done(%all-gather-start)
}

ENTRY %main (x.3: f32[64,128]) -> f32[32,128] {
  %x.3 = f32[64,128]{1,0} parameter(0)
  %call.3 = f32[512,128]{1,0} call(%x.3), to_apply=%command_buffer
  %all-reduce-start = f32[64,128]{1,0} all-reduce-start(%x.3), channel_id=2, \
replica_groups=[4,2]<=[2,2,2]T(0,2,1), use_global_device_ids=true, to_apply=%sum
  %all-to-all-start = ((f32[64,128]{1,0}), f32[64,128]{1,0}) async-start(%x.3), calls=%async_computation
  %permute-start = (f32[64,128]{1,0}, f32[64,128]{1,0}) collective-permute-start(%x.3), channel_id=5, \
source_target_pairs={{0,1},{1,0},{2,3},{3,2},{4,4}}
  %reduce-scatter-start = ((f32[64,128]{1,0}), f32[32,128]{1,0}) reduce-scatter-start(%x.3), channel_id=3, \
replica_groups=[4,2]<=[8], dimensions={0}, to_apply=%sum, use_global_device_ids=true
  %all-reduce-done = f32[64,128]{1,0} all-reduce-done(%all-reduce-start)
  %all-to-all-done = f32[64,128]{1,0} async-done(%all-to-all-start), calls=%async_computation
  %permute-done = f32[64,128]{1,0} collective-permute-done(%permute-start)
  ROOT %reduce-scatter-done = f32[32,128]{1,0} reduce-scatter-done(%reduce-scatter-start)
}
"""
)


def test_pairs_of_start_and_done_are_one_collective(mesh: Mesh) -> None:
    size = 64 * 128 * 4
    assert [(one.operation, one.axes, one.sent) for one in collectives.of_text(OF_GPU, mesh)] == [
        ("all-gather", AXES, 7 * size),
        ("all-reduce", ("fsdp",), size),
        ("all-to-all", ("data",), size // 2),
        ("collective-permute", ("model",), size),
        ("reduce-scatter", ("model",), size // 2),
    ]


def test_an_unknown_spelling_is_refused_rather_than_counted_as_nothing(mesh: Mesh) -> None:
    text = HEAD + "\nENTRY %main (x: f32[8]) -> f32[8] {\n  %x = f32[8]{0} parameter(0)\n"
    text += "  ROOT %y = f32[8]{0} all-reduce(%x), replica_groups=everyone, to_apply=%sum\n}\n"
    with pytest.raises(ValueError, match="cannot read the replica_groups of all-reduce"):
        collectives.of_text(text, mesh)
    with pytest.raises(ValueError, match="no program in HLO"):
        collectives.of_text("module @jit_step {}", mesh)
