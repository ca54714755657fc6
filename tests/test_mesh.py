"""Meshes: what --mesh says, where parameters lie, and that every arm trains on every mesh as on one device."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suite import mesh as meshes
from suite import parts
from suite.job import Job
from suite.training import rig
from suite.training.programs import Programs

JOB = Job(task="text", width=16, depth=2, length=32, batch=8, steps=20, learning_rate=1e-3, test_examples=32)
MESHES = ("data:8", "data:2,fsdp:4", "data:2,fsdp:2,model:2", "context:4,data:2", "fsdp:2,context:2,model:2")
ARMS = (
    *("lstm", "gru:heads=2", "mingru", "mamba2", "gated_deltanet", "rwkv7"),
    *("attention", "attention:window=6", "attention:kv_heads=2", "rglru+rglru+attention:window=8"),
)
HYBRID = "mamba2+attention:window=6"  # of kinds that each mesh treats in its own way
OTHERS = [name for name in parts.names("suite.mixers") if name not in ARMS]


def losses(job: Job, mesh: str, devices: list, data_dir: Any) -> tuple[list[float], int]:
    built = rig.build(job, meshes.make(mesh, devices), data_dir=str(data_dir))
    steps = [(float(metrics["loss"]), state) for _, state, metrics in built.train(built.state, 0, job.steps)]
    return [loss for loss, _ in steps], int(steps[-1][1].fingerprint)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("mixer", [HYBRID, *(pytest.param(arm, marks=pytest.mark.slow) for arm in ARMS)])
def test_every_mesh_trains_as_one_device(mixer: str, mesh: str, devices: list, data_dir: Any) -> None:
    job = JOB.replace(mixer=mixer, depth=3 if mixer.count("+") == 2 else 2)
    one, one_print = losses(job, "", devices[:1], data_dir)
    many, many_print = losses(job, mesh, devices, data_dir)
    assert one_print == many_print
    np.testing.assert_allclose(many, one, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", OTHERS)
def test_the_others_train_over_data_fsdp_and_model_as_on_one_device(mixer: str, devices: list, data_dir: Any) -> None:
    one, _ = losses(JOB.replace(mixer=mixer), "", devices[:1], data_dir)
    many, _ = losses(JOB.replace(mixer=mixer), "data:2,fsdp:2,model:2", devices, data_dir)
    np.testing.assert_allclose(many, one, rtol=1e-5)
