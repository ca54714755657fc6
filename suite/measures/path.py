"""The shortest path from the token k steps back to the output: operations of the stepwise form."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from suite import contract
from suite import mesh as meshes
from suite.counting import paths
from suite.job import Job
from suite.model.backbone import Model
from suite.sweep.record import Row
from suite.training.rig import Rig

NEEDS = ()
PLACED = False
RESUMES = False
SECONDS = 2
CONDITIONS = {"distance": "tokens", "reachable": "flag"}
QUANTITIES = {"path": {"path": "operations as shortest_path_at_{distance}"}}
FARTHEST = 999  # the distance at which the claim asks what can be learned


def check(job: Job, task: Any) -> None:
    """Refuses an example of one token, and a mixer without a step."""
    del task
    if job.length < 2:
        raise ValueError(f"path: length {job.length} has no token before the last one; wanted at least 2")
    contract.wants(job, "path", "start", "step")


def measure(rig: Rig) -> Iterator[Row]:
    """One row a distance: 1, 2, 4, ... and the job's farthest. From the embedded token to what the last block gives."""
    last = min(FARTHEST, rig.programs.job.length - 1)
    path_T = path_lengths(rig, last + 1)
    for distance in sorted({*(1 << power for power in range(last.bit_length())), last} - {0}):
        path = {"path": int(path_T[distance])} if np.isfinite(path_T[distance]) else {}
        yield {"phase": "path", "distance": distance, "reachable": bool(path), **path, "outcome": "ok"}


def path_lengths(rig: Rig, length: int) -> np.ndarray:
    """The fewest operations from the first token to the output of each of `length` steps; inf where no path exists."""
    job = rig.programs.job

    @jax.jit
    def along(params: Model, tokens_TB: jax.Array) -> jax.Array:
        built = eqx.combine(params, rig.static)
        state = built.start(1, length, jnp.dtype(job.dtype))
        return paths.shortest(built.advance, state, built.embed(tokens_TB))

    # One example fills no mesh: every process follows it on a device of its own.
    params = jax.device_get(meshes.on_one_device(rig.state.params, rig.mesh))
    tokens_TB = jax.random.randint(jax.random.key(0), (length, 1), 0, rig.task.vocab)
    return jax.device_get(along(params, tokens_TB))
