"""How far back gradients reach: the norm of d h_T / d x_{T-k} by distance k, in float64, before any training."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float, Int

from suite import mesh as meshes
from suite import parts
from suite.job import Job
from suite.model import backbone, matching
from suite.model.backbone import Model
from suite.sweep.record import Row
from suite.training.programs import Programs
from suite.training.rig import Rig

NEEDS = ()
PLACED = False
RESUMES = False
SECONDS = "compilation"
CONDITIONS = {"distance": "tokens"}
QUANTITIES = {"reach": {"norm": "1 as jacobian_norm_at_{distance}"}}
NEAR = 8  # the first distances, each measured
FAR = 999  # the textbook's distance, measured in longer sequences too
BOUNDS = {"probes": (1, 2**16)}
BETWEEN = 12  # distances from the near ones to the start of the sequence, evenly in their logarithm


def check(job: Job, task: Any, *, probes: int) -> None:
    """Refuses a sequence without a far distance, and a user's own mixer that computes in less than float64."""
    del probes
    if job.length < NEAR + 2:
        raise ValueError(f"length {job.length} is too short: wanted {NEAR + 2}, {NEAR} near distances and a far one")
    check_wide(job, task)


def check_wide(job: Job, task: Any) -> None:
    """TypeError where a user's own mixer computes in less than float64."""
    if not job.own_files():
        return  # the tests check the suite's mixers
    solved = matching.solve(job, task.vocab)
    with jax.enable_x64(True), parts.own_lines("suite.mixers", job.mixer):
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float64), backbone.shapes(solved, task.vocab)
        )
        x_BTD = jax.ShapeDtypeStruct((1, job.length, solved.width), jnp.float64)
        tokens_BT = jax.ShapeDtypeStruct((1, job.length), jnp.int32)

        def wide(built: Model, x_BTD: Float[Array, "B T D"], tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
            return dataclasses.replace(built, dtype="float64").through(x_BTD, built.starts(tokens_BT))

        _refuse_narrow(job, jax.make_jaxpr(wide)(shapes, x_BTD, tokens_BT).jaxpr)


def measure(rig: Rig, *, probes: int = 8) -> Iterator[Row]:
    """One row a distance k. h_T is what the blocks give at the last position, x_t the embedded token at position t.

    One example of random tokens, with --reset one document: none of them ends it. Tokens, probes and parameters come
    from the job's seed.
    """
    length, end = rig.job.length, rig.static.end
    tokens_T = np.random.default_rng(rig.job.seed).integers(rig.task.vocab, size=length, dtype=np.int32)
    if end is not None:
        tokens_T[tokens_T == end] = (end + 1) % rig.task.vocab
    for row in follow(rig, rig.state.params, tokens_T, length - 1, distances(length), probes):
        yield {"phase": "reach", **row}


def follow(rig: Rig, params: Model, tokens_T: np.ndarray, last: int, ks: Iterable[int], probes: int) -> Iterator[Row]:
    """For each k of `ks` the norm of d h_last / d x_(last-k) with these parameters; probes come from the job's seed."""
    params = jax.device_get(meshes.on_one_device(params, rig.mesh))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    probe_PD = np.random.default_rng([rig.job.seed, probes]).standard_normal((probes, params.embedding_VD.shape[1]))
    # On the host: a TPU's float64 is a pair of float32, with their range. It ends before the first row: a generator
    # that stops inside would leave it on for others.
    with jax.enable_x64(True):
        arguments = jax.device_put((params, tokens_T, np.int32(last), probe_PD), jax.local_devices(backend="cpu")[0])
        program = _program(rig.programs)
        _refuse_narrow(rig.job, program.trace(*arguments).jaxpr.jaxpr)
        gradient_PTD = jax.device_get(program(*arguments))
    norm_T = norms(gradient_PTD)
    for k in ks:
        norm = float(norm_T[last - k])
        yield {"distance": k} | ({"norm": norm, "outcome": "ok"} if np.isfinite(norm) else {"outcome": "diverged"})


def distances(length: int) -> list[int]:
    """0 to 8, then evenly in their logarithm to length - 1, and 999 where there is room."""
    near = range(min(NEAR + 1, length))
    spread = np.geomspace(NEAR, length - 1, BETWEEN + 1).round().astype(int).tolist() if length > NEAR + 1 else []
    return sorted({*near, *spread, *([FAR] if length > FAR else [])})


def pull_back(
    through: Callable[[Array], Array], x_TD: Float[Array, "T D"], last: Int[Array, ""], probe_PD: Float[Array, "P D"]
) -> Float[Array, "P T D"]:
    """v^T d h_last / d x_t for every probe v and position t; `through` is (B, T, D) -> (B, T, D) and h its output."""
    _, transposed = jax.vjp(lambda x_TD: through(x_TD[None])[0, last], x_TD)
    # One probe after another: of all at once, XLA copies a whole sequence at each step of a recurrence, in four times
    # the time.
    return jax.lax.map(lambda probe_D: transposed(probe_D)[0], probe_PD)


def norms(gradient_PTD: np.ndarray) -> np.ndarray:
    """J_t = |d h_T / d x_t|_F / sqrt D, 1 for the identity: |J|_F^2 = tr(J J^T) is the mean of |v^T J|^2 over probes.

    The estimator is Hutchinson's (1989) with normal v; its relative error is about 1 / sqrt(2 probes) at most, where J
    has rank one.
    """
    # In parts of the largest entry: the square of 1e-200 is 0 in float64.
    largest_T = np.max(np.abs(gradient_PTD), axis=(0, 2))
    scale_T = np.where(largest_T > 0, largest_T, 1.0)
    with np.errstate(invalid="ignore"):  # inf / inf is nan, and seen as such by the caller
        return scale_T * np.sqrt(np.mean(np.square(gradient_PTD / scale_T[:, None]), axis=(0, 2)))


def narrower(jaxpr: core.Jaxpr) -> set[str]:
    """Floating dtypes below float64 in which anything is computed: there, what is below 1e-45 is lost unseen."""
    computed: list[Any] = [out.aval for eqn in jaxpr.eqns for out in eqn.outvars]
    floating = {aval.dtype for aval in computed if jnp.issubdtype(aval.dtype, jnp.floating)}
    names = {str(dtype) for dtype in floating if dtype != np.float64}
    for value in (value for eqn in jaxpr.eqns for value in jax.tree.leaves(eqn.params)):
        if isinstance(value, core.ClosedJaxpr):
            names |= narrower(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            names |= narrower(value)
    return names


def _refuse_narrow(job: Job, jaxpr: core.Jaxpr) -> None:
    narrow = narrower(jaxpr)
    if narrow:
        raise TypeError(
            f"{job.arm} computes in {', '.join(sorted(narrow))} where inputs are float64: ask precision.wide"
        )


@functools.lru_cache(maxsize=32)
def _program(programs: Programs) -> jax.stages.Wrapped:
    """The gradients of a job's model; jobs that differ in their seed alone share it."""

    @jax.jit
    def gradients(
        params: Model, tokens_T: Int[Array, " T"], last: Int[Array, ""], probe_PD: Float[Array, "P D"]
    ) -> Float[Array, "P T D"]:
        model = dataclasses.replace(eqx.combine(params, programs.static), dtype="float64")
        starts_BT = model.starts(tokens_T[None])
        return pull_back(lambda x_BTD: model.through(x_BTD, starts_BT), model.embed(tokens_T), last, probe_PD)

    return gradients
