"""The conditions of a row: the model, the place, the versions and the data that its numbers were taken with."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from suite import machine, parts
from suite import mesh as meshes
from suite.job import Job, slug
from suite.model import backbone, matching
from suite.sweep import provenance


def of_row(job: Job, solved: Job, mesh: Mesh, task: Any) -> dict[str, Any]:
    """The fields that every row of a job on a mesh has; `solved` is the job at its matched width."""
    params = backbone.count_parameters(backbone.shapes(solved, task.vocab))
    matched = matching.reference(job) if job.match_to and job.match != "none" else solved
    target = backbone.count_parameters(backbone.shapes(matched, task.vocab))
    return {
        "run_id": job.id,
        "arm": job.arm,
        "width": solved.width,
        "params": params,
        "params_mismatch": params / target - 1,
        **({"mismatch": matching.mismatch(job, task.vocab)} if job.match_to and job.match in matching.SOLVED else {}),
        "solved": parts.short("suite.mixers", solved.mixer),
        "implementation": implementation(solved, mesh),
        "place": place(mesh),
        "device_kind": device_kind(mesh),
        "platform": mesh.devices.flat[0].platform,
        "n_devices": mesh.size,
        "mesh": meshes.words(mesh),
        "n_processes": jax.process_count(),
        "jax": jax.__version__,
        **provenance.of_source(job.own_files()),
        **provenance.of_data(task),
    }


def implementation(job: Job, mesh: Mesh) -> str:
    """The implementations that the mixers of a job run on a mesh, one a part of its pattern, joined by +."""
    ran = []
    for spec in backbone.pattern(job):
        module, knobs = parts.load("suite.mixers", spec)
        if "implementation" in knobs:
            shape = eqx.filter_eval_shape(lambda m=module, k=knobs: m.Mixer(job.width, key=jax.random.key(0), **k))
            with meshes.ambient(mesh):
                ran.append(shape.ran(jnp.dtype(job.dtype), **({"cut": True} if job.reset else {})))
        else:
            ran.append("reference")
    return "+".join(ran)


def place(mesh: Mesh) -> str:
    """A name for where it runs: device kind, devices, mesh. Of a CPU also the cores that may be used."""
    name = device_kind(mesh)
    if mesh.devices.flat[0].platform == "cpu":
        name = f"{name} {machine.cores()} cores"
    return slug(f"{name} {meshes.words(mesh).replace(':', '')}")


def device_kind(mesh: Mesh) -> str:
    """The kind under which suite/hardware.py knows a device; for a CPU its brand and model."""
    device = mesh.devices.flat[0]
    return machine.cpu() if device.platform == "cpu" else device.device_kind
