"""Programs compiled ahead of time, for a mesh of devices that are not there."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from suite import hardware, parts
from suite import mesh as meshes
from suite.job import Job
from suite.model import backbone, matching
from suite.scale import Scale
from suite.sweep.schedule import Schedule
from suite.training.programs import Programs, batch_shapes

VOCAB = 256


def compiled_gradient(spec: str, mesh: Mesh, shape: tuple[int, int, int], dtype: str) -> str:
    """The program of the gradient of a mixer by its parameters and inputs, (batch, length, width)."""
    module, knobs = parts.load("suite.mixers", spec)
    mixer = eqx.filter_eval_shape(lambda: module.Mixer(shape[-1], key=jax.random.key(0), **knobs))
    arrays, static = eqx.partition(mixer, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def loss(arrays: Any, x_BTD: jax.Array) -> jax.Array:
        return jnp.sum(eqx.combine(arrays, static)(x_BTD).astype(jnp.float32))

    def gradient(arrays: Any, x_BTD: jax.Array) -> Any:
        with meshes.ambient(mesh):
            return jax.grad(loss, (0, 1))(arrays, x_BTD)

    shardings = (meshes.replicated(mesh), meshes.over_batch(mesh))
    traced = jax.jit(gradient, in_shardings=shardings).trace(arrays, jax.ShapeDtypeStruct(shape, dtype))
    lowered = traced.lower(lowering_platforms=("tpu",) if mesh.devices.flat[0].platform == "tpu" else ("cuda",))
    return text_of(lowered.compile())


def text_of(compiled: jax.stages.Compiled) -> str:
    text = compiled.as_text()
    assert text is not None
    return text


def assert_the_longest_step_fits(scale: Scale, name: str, mesh: Mesh) -> None:
    """Compiles an arm's training step at a scale's greatest length; a device's memory holds it."""
    scale = scale.on(mesh.size)
    job = matching.solve(scale.arm(name, length=scale.lengths[-1]), VOCAB)
    assert_fits(Programs(job, mesh, VOCAB).lowered_step, mesh)


def assert_fits(lowered: jax.stages.Lowered, mesh: Mesh) -> None:
    """A device's memory holds the program with its arguments."""
    memory = lowered.compile().memory_analysis()
    assert memory is not None
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    assert held < hardware.peak(mesh.devices.flat[0].device_kind).memory_bytes


def assert_trained_and_read(schedule: Schedule, mesh: Mesh, longest: int) -> None:
    """A device's memory holds each arm's training step, and the program that reads at `longest` times its length."""
    for job in {cell.job.replace(seed=0): None for cell in schedule.on(mesh.size).cells([])}:
        solved = matching.solve(job, VOCAB)
        assert_fits(Programs(solved, mesh, VOCAB).lowered_step, mesh)
        far = Programs(solved.replace(length=longest * job.length), mesh, VOCAB)
        assert_fits(far.answers.lower(far.like.params, batch_shapes(far.job.batch, far.job.length)), mesh)


def parameter_bytes(job: Job) -> int:
    return 4 * backbone.count_parameters(backbone.shapes(job, VOCAB))
