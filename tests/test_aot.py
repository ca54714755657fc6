"""By the real TPU compiler, ahead of time: every kernel, and the whole step of every mixer. Nothing runs.

`libtpu` brings the compiler, for machines without a TPU too; `make test-aot` installs it beside this suite.
"""

import functools
import importlib.util

import equinox as eqx
import jax
import pytest
from ahead import (
    VOCAB,
    assert_the_longest_step_fits,
    assert_trained_and_read,
    compiled_gradient,
    parameter_bytes,
    text_of,
)
from jax.experimental import topologies
from jax.sharding import Mesh

from suite import mesh as meshes
from suite import parts
from suite.counting import collectives
from suite.job import Job
from suite.model import backbone
from suite.planning.topology import parse
from suite.scale import SCALES
from suite.sweep import reading
from suite.sweep.reading import Reading
from suite.training import conditions
from suite.training.programs import Programs, is_shape

pytestmark = [
    pytest.mark.aot,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: make test-aot"),
]
TOPOLOGIES = {"v5e:2x4": 8, "v6e:4x4": 16}
LARGER = {"v5e:8x8": 64}
# A loop over time and one over chunks: a chip of 64 holds and exchanges what a chip of 8 does.
ON_THE_LARGER_TOO = [("lstm", "v5e:2x4"), ("gla", "v5e:2x4")]
# What becomes a custom call of the compiled program: one for the forward pass and one for the backward.
KERNELS = {"pallas", "splash"}
SPECS = [
    "lstm:implementation=pallas",
    "lstm:implementation=pallas,heads=3",  # lanes that are filled up, and a grid with one axis more
    "gru:implementation=pallas",
    "gru:implementation=pallas,heads=3",
    "mingru:implementation=pallas",
    "minlstm:implementation=pallas",
    "rglru:implementation=pallas",
    "attention:implementation=splash",
    "attention:implementation=splash,kv_heads=2,window=100",
]


@functools.cache
def mesh_of(topology: str, n_devices: int) -> Mesh:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    assert len(found.devices) == (TOPOLOGIES | LARGER)[topology]
    return meshes.make(devices=list(found.devices)[:n_devices])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_kernel_compiles_on_one_chip(spec: str, dtype: str) -> None:
    # 300 tokens, 3 examples and 192 channels: no multiples of a tile.
    text = compiled_gradient(spec, mesh_of("v5e:2x4", 1), (3, 300, 192), dtype)
    assert text.count('custom_call_target="tpu_custom_call"') == 2


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("spec", SPECS)
def test_a_kernel_compiles_on_every_chip_of_a_mesh(spec: str, topology: str) -> None:
    n_devices = TOPOLOGIES[topology]
    text = compiled_gradient(spec, mesh_of(topology, n_devices), (8 * n_devices, 512, 384), "bfloat16")
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert f"num_partitions={n_devices}" in text


# On the second chip one mixer of each kind of state, with every kernel: what XLA makes of the rest is as on the first.
@pytest.mark.parametrize(
    ("name", "topology"),
    [
        *((name, "v5e:2x4") for name in parts.names("suite.mixers")),
        *((name, "v6e:4x4") for name in ("attention", "gru", "lstm", "rglru", "mamba2")),
    ],
)
def test_the_whole_step_compiles_with_the_form_that_the_row_names(name: str, topology: str) -> None:
    job, mesh, compiled = compiled_step(name, topology, TOPOLOGIES[topology])
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.argument_size_in_bytes > 0
    assert memory.peak_memory_in_bytes > 0
    assert ("tpu_custom_call" in text_of(compiled)) == (conditions.implementation(job, mesh) in KERNELS)
    if (name, topology) in ON_THE_LARGER_TOO:
        _, _, of_many = compiled_step(name, "v5e:8x8", LARGER["v5e:8x8"])
        many = of_many.memory_analysis()
        assert many is not None
        assert 0 < many.temp_size_in_bytes < 1.01 * memory.temp_size_in_bytes


def compiled_step(name: str, topology: str, n_devices: int) -> tuple[Job, Mesh, jax.stages.Compiled]:
    """A step of four sequences a chip, of which chips exchange gradients alone."""
    mesh = mesh_of(topology, n_devices)
    job = Job(mixer=name, width=256, depth=2, length=512, batch=4 * n_devices, dtype="bfloat16")
    compiled = Programs(job, mesh, VOCAB).lowered_step.compile()
    assert_only_gradients_are_exchanged(compiled, mesh, job)
    return job, mesh, compiled


MESHES = ("data:2,fsdp:2,model:2", "fsdp:2,context:2,model:2")


# A kernel compiles only where every axis of the mesh is split by hand. Over context the LSTM's is run once more for the
# gradient. One head is whole over model. (Of mamba2 XLA joins a parameter over model first, which is slower.)
@pytest.mark.parametrize(
    ("mixer", "spec", "kernels"),
    [
        ("attention", MESHES[0], 2),
        ("lstm:heads=2", MESHES[0], 2),
        ("lstm", MESHES[1], 3),
        ("mingru", MESHES[0], 2),
        ("attention", MESHES[1], 0),  # the ring
    ],
)
def test_a_step_on_a_mesh_runs_kernels_on_shards_and_sends_nothing_in_a_loop_over_time(
    mixer: str, spec: str, kernels: int
) -> None:
    mesh = meshes.make(spec, list(mesh_of("v5e:2x4", 8).devices.flat))
    job = Job(mixer=mixer, width=256, depth=2, length=512, batch=32, dtype="bfloat16")
    compiled = Programs(job, mesh, VOCAB).lowered_step.compile()
    assert text_of(compiled).count('custom_call_target="tpu_custom_call"') == kernels
    sent = collectives.of_program(compiled, mesh)
    assert [one.name for one in sent if one.in_time] == []
    # A parameter that is split over model as well is gathered over fsdp alone.
    gathers = {one.axes for one in sent if one.name.endswith("/all_gather")}
    assert ("fsdp",) in gathers
    assert gathers <= {("fsdp",), ("context",)}


def test_over_two_slices_only_gradients_cross_the_slow_network() -> None:
    slices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4", num_slices=2).devices
    mesh = meshes.make("fsdp:8,data:", list(slices))
    assert mesh.shape["data"] == 2
    assert [{device.slice_index for device in row} for row in mesh.devices.reshape(2, 8)] == [{0}, {1}]
    with pytest.raises(ValueError, match="data:1, which does not go over 2 slices evenly"):
        meshes.make("fsdp:16", list(slices))
    job = Job(mixer="mingru", width=256, batch=32, dtype="bfloat16")
    found = collectives.of_program(Programs(job, mesh, VOCAB).lowered_step.compile(), mesh)
    over_slices = [one for one in found if "data" in one.axes]
    assert {(one.operation, one.axes, one.loops) for one in over_slices} == {("all-reduce", ("data",), ())}
    # Each device sends its part over fsdp of every gradient.
    held = sum(meshes.bytes_a_device(eqx.filter(backbone.shapes(job, VOCAB), is_shape), mesh))
    gradients = collectives.SENT["all-reduce"](held, 2)
    assert gradients < sum(one.sent for one in over_slices) < 1.1 * gradients


def assert_only_gradients_are_exchanged(compiled: jax.stages.Compiled, mesh: Mesh, job: Job) -> None:
    """Each gradient once and outside of loops, and a few numbers."""
    sums = collectives.of_program(compiled, mesh)
    assert {(one.operation, one.axes, one.loops) for one in sums} == {("all-reduce", ("data",), ())}
    gradients = collectives.SENT["all-reduce"](parameter_bytes(job), mesh.size)
    assert gradients < sum(one.sent for one in sums) < 1.1 * gradients


@pytest.mark.parametrize("name", SCALES["pod"].arms)
def test_the_longest_steps_of_scale_pod_fit_what_it_is_for(name: str) -> None:
    assert_the_longest_step_fits(SCALES["pod"], name, parse("v5e:16x16").mesh(""))


def test_what_launch_contexts_trains_and_reads_at_scale_pod_fits() -> None:
    job = reading.SIZES["pod"].job("needle")
    asked = Reading(("attention", "mamba2"), job, seeds=1, measures=(), rates="table")
    assert_trained_and_read(asked, parse("v5e:16x16").mesh(""), longest=16)
