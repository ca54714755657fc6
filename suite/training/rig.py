"""The rig: a job on a mesh with its task, programs and state, the training loop and the evaluation.

`Rig.train` is the one training loop; measures/learning.py writes its rows, validates and saves.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from suite import mesh as meshes
from suite import parts
from suite.job import Job
from suite.model import backbone, matching
from suite.model.backbone import Model
from suite.sweep import processes, provenance
from suite.sweep.record import TRAINING, Record
from suite.sweep.watchdog import Watchdog
from suite.tasks import Batch, corpora
from suite.training import checkpoint, conditions, course, memory, programs
from suite.training import step as steps
from suite.training.examples import Examples, at_length
from suite.training.programs import Programs, is_shape
from suite.training.step import Metrics, State

SAVE_SECONDS = 300.0  # between checkpoints, where validations are farther apart


class Untrained(Exception):
    """The parameters of a training that is over are lost or damaged: it is to be done again."""


@dataclasses.dataclass(frozen=True)
class Rig:
    """A job on a mesh. `run` is the directory of its records and `training` the stem of that of its training.

    `task` has examples of the job's length; those that are trained on may be shorter, as `examples` says.

    `conditions` go into every row.

    Training saves its state at every validation, and where `save_seconds` have gone by since.
    """

    job: Job
    mesh: Mesh
    task: Any
    static: Model
    run: epath.Path | None
    training: str
    conditions: dict[str, Any]
    programs: Programs
    watchdog: Watchdog
    save_seconds: float

    @property
    def state(self) -> State:
        """The state before the first step, made anew at each reading: a step consumes the one that it is given."""
        return self.programs.start(self.job)

    @functools.cached_property
    def examples(self) -> Examples:
        """The examples of each split, at their own lengths."""
        return Examples(self.task, self.job)

    @functools.cached_property
    def trained(self) -> Model:
        """The parameters at the end of training: for measures that need `learning`. Untrained where they are lost."""
        params = checkpoint.restore_final(self.record.final, self.state.params)
        return self._rescued() if params is None else params

    @property
    def record(self) -> Record:
        """The record of the training, beside which checkpoints and trained parameters lie."""
        assert self.run is not None, "a training has a record: build the rig with a run directory"
        return Record(self.run, self.training)

    def _rescued(self) -> Model:
        """The parameters at the end of training from its last checkpoint, kept apart once more."""
        with checkpoint.Checkpoints(self.record.checkpoints) as checkpoints:
            restored = checkpoints.restore(self.state)
        if restored is None or int(restored[0].step) != course.saved(self.job, restored[1]).steps:
            raise Untrained(f"no trained parameters are left in {self.run}")
        checkpoint.save_final(self.record.final, restored[0].params)
        return restored[0].params

    def estimate(self) -> dict[str, Any]:
        """Bytes that a training step holds on a device: of the compiled program, or where there is none of its shapes.

        From shapes they are too few: state, gradient and logits, without what the layers keep.
        """
        if "compiled_step" in self.programs.__dict__:
            return {"estimate_bytes": memory.held_bytes(self.step), "estimated_from": "the compiled step"}
        state = self.programs.like
        held = sum(meshes.bytes_a_device((state, state.params), self.mesh))
        logits = 4 * self.job.batch * self.job.length * self.programs.vocab // self.mesh.size
        return {"estimate_bytes": held + logits, "estimated_from": "shapes"}

    def at_length(self, length: int, changes: Mapping[str, parts.Value] | None = None) -> "Rig":
        """The same parameters on the same task at another length, with other values for these knobs of the mixer.

        LookupError where no mixer of the model has such a knob. A knob that changes a parameter's shape does not fit.
        """
        job = self.job.replace(length=length, lengths="")
        longer = dataclasses.replace(self, job=job, task=at_length(self.task, length))
        if not changes:
            return longer
        solved = with_changes(self.programs.job, changes)
        changed = programs.of_job(solved, self.mesh, self.programs.vocab)
        return dataclasses.replace(longer, static=changed.static, programs=changed)

    def adopt(self, params: Model) -> Model:
        """Parameters of a model that differs from this one only in knobs without parameters, as this model's."""
        shapes = eqx.filter(backbone.shapes(self.programs.job, self.programs.vocab), is_shape)
        return jax.tree.unflatten(jax.tree.structure(shapes), jax.tree.leaves(params))

    @property
    def step(self) -> jax.stages.Compiled:
        """The compiled training step (State, Batch) -> (State, metrics); compiled once for all jobs of its kind."""
        return self.programs.step

    @property
    def steps_of_training(self) -> list[Callable[..., Any]]:
        """The programs that training runs: its step, and where the job passes states the step of the last ones."""
        return [self.step, *([self.programs.passing_step] if self.job.state_passing else [])]

    def batches(self, split: str, first: int, last: int, end: int | None = None) -> Generator[Batch, None, None]:
        """Batches first..last-1 of a split, on the devices, made one ahead in the background.

        A process makes only the examples of its own devices. Those from `end` on fill up the last batch at weight 0.
        """
        size = self.job.batch
        sharding = meshes.over_tokens(self.mesh)
        shapes = programs.batch_shapes(size, self.job.length)

        def make(number: int) -> Batch:
            cache: dict[tuple[int, int], Batch] = {}

            def rows(field: int, index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None  # JAX allows None in the type and never passes it
                low, high, _ = index[0].indices(size)
                if (low, high) not in cache:
                    ids = np.arange(low, high) + number * size
                    batch = self.examples.batch(split, ids)
                    cache[low, high] = batch if end is None else _cut(batch, ids < end)
                return cache[low, high][field][:, index[1]]

            arrays = [
                jax.make_array_from_callback(shape.shape, sharding, functools.partial(rows, field), dtype=shape.dtype)
                for field, shape in enumerate(shapes)
            ]
            return Batch(*arrays)

        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="batches") as background:
            ahead = background.submit(make, first) if first < last else None
            for number in range(first, last):
                assert ahead is not None
                batch = ahead.result()
                ahead = background.submit(make, number + 1) if number + 1 < last else None
                yield batch

    def train(self, state: State, first: int, last: int) -> Generator[tuple[int, State, Metrics], None, None]:
        """The one training loop: steps first+1..last. What it yields may be under way, the step before is done.

        Raises Preempted between two steps: what was yielded last is the newest state.
        """
        before: Metrics | None = None
        for number, batch in enumerate(self.batches("train", first, last), first + 1):
            self.watchdog.feed(long=before is None)
            of_number = self.step if number <= self.job.steps else self.programs.passing_step
            state, metrics = of_number(state, self._struck(number, batch))
            if before is not None:
                jax.block_until_ready(before)
            before = metrics
            yield number, state, metrics

    def _struck(self, number: int, batch: Batch) -> Batch:
        """The batch of a step, after the fault that a test has asked for there."""
        fault = self.watchdog.fault
        if fault is None:
            return batch
        fault.strike(number)
        return batch._replace(weights_BT=batch.weights_BT * np.float32("nan")) if fault.poisons(number) else batch

    def evaluate(self, params: Model, split: str, examples: int) -> dict[str, float]:
        """Loss in nats, accuracy, accuracy at final positions and exact match, over the first `examples` of a split.

        An example is an exact match where all its targets are answered correctly.
        """
        sums: collections.Counter[str] = collections.Counter()
        for number, batch in enumerate(self.batches(split, 0, math.ceil(examples / self.job.batch), end=examples)):
            self.watchdog.feed(long=number == 0)
            sums.update(steps.as_numbers(self.programs.evaluate(params, batch)))
        return {
            "loss": sums["nats"] / sums["weights"],
            "accuracy": sums["correct"] / sums["weights"],
            "final_accuracy": sums["final_correct"] / sums["finals"],
            "exact_match": sums["exact"] / sums["finals"],
        }

    def answers(self, params: Model, split: str, examples: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Batches of at least `examples`: ids_B, and nats, correctness and weights of every target, (B, T) each."""
        size = self.job.batch
        for number, batch in enumerate(self.batches(split, 0, math.ceil(examples / size))):
            self.watchdog.feed(long=number == 0)
            ids_B = np.arange(size) + number * size
            nats_BT, correct_BT = jax.device_get(self.programs.answers(params, batch))
            yield ids_B, nats_BT, correct_BT, self.examples.batch(split, ids_B).weights_BT

    def seen(self, split: str, ids_B: np.ndarray) -> np.ndarray:
        """How many tokens the prediction of each target sees, (B, T): with --reset those of its document alone."""
        at_BT = np.broadcast_to(np.arange(self.job.length), (len(ids_B), self.job.length))
        if not self.job.reset:
            return at_BT + 1
        starts_BT: Any = self.static.starts(jnp.asarray(self.examples.batch(split, ids_B).tokens_BT))
        return at_BT + 1 - np.maximum.accumulate(np.where(starts_BT, at_BT, 0), axis=1)

    def resident_batch(self) -> Batch:
        """One batch of random tokens that stays on the devices: never zeros, which some hardware multiplies faster."""
        rng = np.random.default_rng(self.job.seed)
        shape = (self.job.batch, self.job.length)
        tokens_BS = rng.integers(self.task.vocab, size=(self.job.batch, self.job.length + 1), dtype=np.int32)
        sharding = meshes.over_tokens(self.mesh)
        arrays = (tokens_BS[:, :-1], tokens_BS[:, 1:], np.ones(shape, np.float32))
        return Batch(*(jax.make_array_from_callback(shape, sharding, lambda index, a=a: a[index]) for a in arrays))


def build(
    job: Job,
    mesh: Mesh,
    *,
    run: epath.Path | None = None,
    training: str = TRAINING,
    data_dir: str = corpora.DATA_DIR,
    watchdog: Watchdog | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> Rig:
    """Everything of a job on a mesh; ValueError or LookupError where job, task and mesh do not fit together."""
    task = open_task(job, data_dir)
    check(job, mesh, task.vocab)
    solved = matching.solve(job, task.vocab)
    shared = programs.of_job(solved, mesh, task.vocab)
    fields = conditions.of_row(job, solved, mesh, task)
    return Rig(job, mesh, task, shared.static, run, training, fields, shared, watchdog or Watchdog(), save_seconds)


def check(job: Job, mesh: Mesh, vocab: int) -> None:
    """Raises what would fail later, before a device is touched."""
    if job.reset and mesh.shape["context"] > 1:
        raise ValueError("reset wants whole sequences on a device; take a --mesh without context")
    with parts.own_lines("suite.mixers", job.mixer):
        solved = matching.solve(job, vocab)
        _check_reads(solved, vocab)
    if job.state_passing:
        _check_passing(job, mesh)
    heads = backbone.heads(backbone.shapes(solved, vocab))
    meshes.check(mesh, batch=job.batch, microbatch=job.microbatch, length=job.length, heads=heads)


def _check_passing(job: Job, mesh: Mesh) -> None:
    """Raises where no state can be passed from window to window."""
    if not any(job.passes):
        raise ValueError(f"state_passing wants a state of fixed size, which attention's cache is not; got {job.arm}")
    if job.batch < 2:
        raise ValueError(f"state_passing wants another window in the batch; batch is {job.batch}")
    if job.budget_seconds:
        raise ValueError(
            "state_passing adds to the steps; a training that ends by budget_seconds has no number of them"
        )
    if len(job.mixture.lengths) > 1:
        raise ValueError(
            f"state_passing wants windows of one length, without padding before their ends; got {job.lengths}"
        )
    if job.reset:
        raise ValueError("state_passing goes on from window to window and reset begins anew; give one of them")
    if mesh.shape["context"] > 1:
        raise ValueError("state_passing wants whole sequences on a device; give a --mesh without context")


def check_at_length(job: Job, task: Any, length: int, changes: Mapping[str, parts.Value]) -> None:
    """Raises, before the training, what `Rig.at_length` would after it: of the task and of the model."""
    vocab = at_length(task, length).vocab
    with parts.own_lines("suite.mixers", job.mixer):
        solved = with_changes(matching.solve(job, vocab), changes)
        _check_reads(solved.replace(length=length, lengths=""), vocab)


def knobs_at(factor: int, remedy: str) -> dict[str, parts.Value]:
    """The knobs of the mixer at so many trained lengths: beyond one, that of a remedy is set to the multiple."""
    return {remedy: float(factor)} if remedy and factor > 1 else {}


def with_changes(solved: Job, changes: Mapping[str, parts.Value]) -> Job:
    """The job with other values for these knobs, where a mixer has them; LookupError where none has."""
    if not changes:
        return solved
    mixer = "+".join(_changed(spec, changes) for spec in parts.pattern(solved.mixer))
    if mixer == solved.mixer:
        raise LookupError(f"no mixer of {solved.mixer} has the knobs {', '.join(changes)}")
    return solved.replace(mixer=mixer)


def _check_reads(solved: Job, vocab: int) -> None:
    """Raises what the model says of a batch of the job's length, from shapes alone."""
    tokens_BT = jax.ShapeDtypeStruct((solved.batch, solved.length), jnp.int32)
    jax.eval_shape(lambda built, tokens_BT: built(tokens_BT), backbone.shapes(solved, vocab), tokens_BT)


def open_task(job: Job, data_dir: str) -> Any:
    """The job's task; process 0 prepares its files while the others wait. ValueError where a length has no examples."""
    make = functools.partial(provenance.make_task, job, data_dir)
    task = make() if jax.process_index() == 0 else None
    if jax.process_count() > 1:
        processes.barrier(f"task {job.task}", processes.AGREEING_SECONDS)
    task = make() if task is None else task
    Examples(task, job).check()
    return task


def _cut(batch: Batch, kept_B: np.ndarray) -> Batch:
    """The batch with weight 0 for the examples that are not kept."""
    return batch._replace(weights_BT=batch.weights_BT * kept_B[:, None].astype(np.float32))


def _changed(spec: str, changes: Mapping[str, parts.Value]) -> str:
    """The part of a pattern with those of the changes that it has a knob for."""
    knobs = parts.knobs("suite.mixers", spec)
    return parts.with_knobs("suite.mixers", spec, {knob: changes[knob] for knob in changes.keys() & knobs.keys()})
