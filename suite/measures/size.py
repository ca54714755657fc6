"""What a model is before it runs: parameters, FLOPs a token, sequential depth, bytes of state against context."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from suite import flops, model, parts
from suite.job import Job
from suite.model import Model
from suite.rig import Rig
from suite.store import Row

NEEDS = ()
PLACED = False
RESUMES = False
CONTEXTS = (256, 1024, 2048, 4096, 8192, 16384)


def measure(rig: Rig) -> Iterator[Row]:
    """One row for the model at the job's length, then one of state bytes a context; all forward, one example."""
    job = rig.programs.job
    built = model.shapes(job, rig.task.vocab)
    total = flops.sum_over_time(lambda tokens: step_count(built, job, tokens).matmul, job.length)
    elementwise = flops.sum_over_time(lambda tokens: step_count(built, job, tokens).elementwise, job.length)
    yield {
        "phase": "model",
        "flops_per_token": total / job.length,
        "elementwise_per_token": elementwise / job.length,
        "flops_per_token_square": step_count(built, job, job.length).matmul,
        "sequential_depth": reference_depth(job, rig.task.vocab),
        "sequential_depth_ran": _depth(job, rig.task.vocab),
        "outcome": "ok",
    }
    for context in sorted({job.length, *CONTEXTS}):
        yield {"phase": "state", "context": context, "state_bytes": state_bytes(built, job, context), "outcome": "ok"}


def state_bytes(built: Model, job: Job, context: int) -> int:
    """Bytes of one example's state that holds `context` tokens, all blocks."""
    state = jax.eval_shape(lambda built: built.start(1, context, jnp.dtype(job.dtype)), built)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def reference_depth(job: Job, vocab: int) -> int:
    """Longest chain of dependent operations of the forward pass, every mixer in its reference parallel form."""
    return _depth(job.replace(mixer="+".join(_reference(spec) for spec in parts.pattern(job.mixer))), vocab)


def _reference(spec: str) -> str:
    name, given = parts.split(spec)
    if "form" not in parts.knobs("suite.mixers", spec):
        return spec
    return name + ":" + ",".join(f"{knob}={value}" for knob, value in {**given, "form": "reference"}.items())


def _depth(job: Job, vocab: int) -> int:
    tokens = jax.ShapeDtypeStruct((1, job.length), jnp.int32)
    return flops.count(lambda built, tokens_BT: built(tokens_BT), model.shapes(job, vocab), tokens).depth


def step_count(built: Model, job: Job, tokens: int) -> flops.Count:
    """Work of the step that reads token number `tokens`: what causality leaves of it, whatever the fast form does."""
    state = jax.eval_shape(lambda built: built.start(1, tokens, jnp.dtype(job.dtype)), built)
    token = jax.ShapeDtypeStruct((1,), jnp.int32)
    return flops.count(lambda built, token_B, state: built.step(token_B, state), built, token, state)
