"""The mixers' own forward and backward pass, alone, in turns with the whole training step on a resident batch.

Of an arm that runs step by step it is the chain of its steps, each of which waits for the token before.
"""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from suite import inference
from suite.job import Job
from suite.sweep.record import Row
from suite.training import clock
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = "2 * compilation + 2 * (2 + blocks) * step"
CONDITIONS = {}
QUANTITIES = {"chain": {"chain_seconds": "s", "step_seconds": "s"}}
BOUNDS = {"blocks": (1, 10_000)}


def check(job: Job, task: Any, **_: int) -> None:
    """Refuses a step of several parts, whose passes are not of the whole batch, and one that cuts documents apart."""
    del task
    if job.reset:
        raise ValueError(
            "chain: wants a job without reset, which the mixers' own pass does not do; got --reset=true: "
            "give --reset=false or leave out chain"
        )
    if job.microbatch:
        raise ValueError(f"chain: wants a job without microbatches; got --microbatch={job.microbatch}")


def measure(rig: Rig, *, blocks: int = 10) -> Iterator[Row]:
    """One row a block: both on the job's batch and length, the pass on the first device with its share of the batch."""
    run, mixers, x_BTD = own_pass(rig)
    state, batch = rig.state, rig.resident_batch()

    def step() -> Any:
        nonlocal state
        state, metrics = rig.step(state, batch)
        return metrics

    clock.time_calls(run, mixers, x_BTD, warmup=2, repeats=0)
    clock.time_calls(step, warmup=2, repeats=0)
    for turn in range(blocks):
        [chain_seconds] = clock.time_calls(run, mixers, x_BTD, warmup=0, repeats=1)
        [step_seconds] = clock.time_calls(step, warmup=0, repeats=1)
        times = {"chain_seconds": chain_seconds, "step_seconds": step_seconds}
        yield {"phase": "chain", "turn": turn, **times, "outcome": "ok"}


def own_pass(rig: Rig) -> tuple[Any, PyTree, Float[Array, "B T D"]]:
    """The compiled pass of all mixers, each on what comes out of the one below, with its arguments."""
    mixers, static = eqx.partition([block.mixer for block in inference.on_one_device(rig).rest], eqx.is_array)
    shape = (max(1, rig.job.batch // rig.mesh.size), rig.job.length, rig.programs.job.width)
    x_BTD = jax.random.normal(jax.random.key(rig.job.seed), shape, jnp.float32).astype(rig.job.dtype)

    @jax.jit
    def both_ways(mixers: PyTree, x_BTD: Float[Array, "B T D"]) -> PyTree:
        def total(mixers: PyTree, x_BTD: Float[Array, "B T D"]) -> Float[Array, ""]:
            for mixer in eqx.combine(mixers, static):
                x_BTD = x_BTD + mixer(x_BTD)
            return jnp.sum(x_BTD, dtype=jnp.float32)

        return jax.grad(total, argnums=(0, 1))(mixers, x_BTD)

    return both_ways, mixers, jax.device_put(x_BTD, rig.mesh.local_devices[0])
