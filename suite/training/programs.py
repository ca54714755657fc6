"""The programs of a job on a mesh, compiled once for all jobs that differ in their seed and learning rate alone."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from suite import mesh as meshes
from suite.job import Job
from suite.model import backbone
from suite.model.backbone import Model
from suite.tasks import Batch
from suite.training import clock
from suite.training import step as steps
from suite.training.step import State

# Fields that reach no compiled program: jobs that differ in these alone share theirs.
NOT_IN_A_PROGRAM = {
    **{"seed": 0, "record_every": 1, "validate_every": 1, "validation_examples": 1, "test_examples": 1},
    "lengths": "",  # the shape is that of the longest
    **{"learning_rate": 1.0, "warmup": 0.0, "steps": 1, "budget_seconds": 0.0},  # the schedule stands in the state
    "state_passing": 0.0,  # its step is a program of its own
}
# For a program that runs once for a few milliseconds, and on a CPU takes as long to be optimised as a training step.
UNOPTIMISED = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True)
class Programs:
    """The compiled programs of a job; its seed and the schedule of its learning rate are their arguments."""

    job: Job
    mesh: Mesh
    vocab: int

    @functools.cached_property
    def static(self) -> Model:
        return eqx.partition(backbone.shapes(self.job, self.vocab), is_shape)[1]

    @functools.cached_property
    def optimizer(self) -> Any:
        return steps.make_optimizer(self.job, backbone.matrices(backbone.shapes(self.job, self.vocab)))

    def initialise(self, seed: jax.Array, schedule: steps.Schedule) -> State:
        """The state before the first step, to be traced."""
        built = backbone.build(self.job, self.vocab, key=jax.random.key(seed))
        matrices = backbone.matrices(backbone.shapes(self.job, self.vocab))
        optimizer = steps.make_optimizer(self.job, matrices, schedule)
        return steps.start(eqx.filter(built, eqx.is_array), optimizer)

    def start(self, job: Job) -> State:
        """The state before the first step, made on one device of each process, of which its devices get their parts.

        Where devices hold parts that device is the host's CPU: the whole need not fit an accelerator. As a program over
        all devices it does not end on CPU hosts: the threads of the orthogonal matrices' QR and the devices wait for
        each other.
        """
        device = jax.local_devices(backend="cpu")[0] if self._starts_on_cpu else self.mesh.local_devices[0]
        with jax.default_device(device):
            seed = jnp.asarray(job.seed, jnp.int32)
            state = self._initialise(seed, steps.Schedule.of(job))
        return meshes.place(state, meshes.layout(state, self.mesh))

    @functools.cached_property
    def _initialise(self) -> Any:
        return jax.jit(self.initialise, compiler_options=UNOPTIMISED if self._starts_on_cpu else None)

    @property
    def _starts_on_cpu(self) -> bool:
        return meshes.makes_shards(self.mesh) or self.mesh.devices.flat[0].platform == "cpu"

    @functools.cached_property
    def like(self) -> State:
        """The shapes of the state."""
        return jax.eval_shape(self.initialise, jax.ShapeDtypeStruct((), jnp.int32), steps.Schedule.of(self.job))

    @functools.cached_property
    def lowered_step(self) -> jax.stages.Lowered:
        return self._lower(())

    @functools.cached_property
    def lowered_passing_step(self) -> jax.stages.Lowered:
        """The step in which an example is read from the state at the end of another."""
        return self._lower(self.job.passes)

    def _lower(self, passes: tuple[bool, ...]) -> jax.stages.Lowered:
        jitted = steps.make_step(self.static, self.like, self.optimizer, self.mesh, self.job.microbatch, passes)
        return jitted.lower(self.like, batch_shapes(self.job.batch, self.job.length))

    @functools.cached_property
    def compiled_step(self) -> tuple[jax.stages.Compiled, float, bool]:
        """The program, the seconds its compilation took, and whether it came from the persistent cache."""
        return clock.time_compile(self.lowered_step)

    @property
    def step(self) -> jax.stages.Compiled:
        return self.compiled_step[0]

    @functools.cached_property
    def passing_step(self) -> jax.stages.Compiled:
        return clock.time_compile(self.lowered_passing_step)[0]

    @functools.cached_property
    def evaluate(self) -> Any:
        """(params, Batch) -> the sums of the batch."""
        return steps.make_evaluate(self.static, self.mesh, steps.sums)

    @functools.cached_property
    def answers(self) -> Any:
        """(params, Batch) -> nats and correctness of every target, (B, T) each."""
        return steps.make_evaluate(self.static, self.mesh, lambda nats_BT, correct_BT, batch: (nats_BT, correct_BT))


def of_job(job: Job, mesh: Mesh, vocab: int) -> Programs:
    """The programs of a job whose width is solved; jobs that differ in fields of NOT_IN_A_PROGRAM alone share them."""
    return _shared(job.replace(**NOT_IN_A_PROGRAM), mesh, vocab)


@functools.lru_cache(maxsize=32)
def _shared(job: Job, mesh: Mesh, vocab: int) -> Programs:
    return Programs(job, mesh, vocab)


def batch_shapes(size: int, length: int) -> Batch:
    """Shapes of a batch: (B, T) each."""
    tokens = jax.ShapeDtypeStruct((size, length), jnp.int32)
    return Batch(tokens, tokens, jax.ShapeDtypeStruct((size, length), jnp.float32))


def is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
