"""The model before it runs: mismatch, FLOPs a token, sequential depth, and bytes of state by context."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from suite import contract, parts
from suite.counting import flops
from suite.job import Job
from suite.model import backbone, matching
from suite.ops import implementations
from suite.sweep.record import Row
from suite.training.rig import Rig

NEEDS = ()
PLACED = False
RESUMES = False
SECONDS = 2
CONDITIONS = {"context": "tokens"}
QUANTITIES = {
    "model": {
        "params_mismatch": "fraction as params_mismatch_fraction",
        "mismatch": "fraction as mismatch_fraction",
        "flops_per_token": "FLOP/token as flops_per_token",
        "elementwise_per_token": "FLOP/token as elementwise_flops_per_token",
        "flops_per_token_square": "FLOP/token as flops_per_token_square",
        "sequential_depth": "operations as sequential_depth",
        "sequential_depth_ran": "operations as sequential_depth_ran",
    },
    "state": {"state_bytes": "bytes as state_bytes"},
}
CONTEXTS = (256, 1024, 2048, 4096, 8192, 16384)


def check(job: Job, task: Any) -> None:
    """Refuses a mixer without a step, whose FLOPs are those of a token."""
    del task
    contract.wants(job, "size", "start", "step")


def measure(rig: Rig) -> Iterator[Row]:
    """One row for the model at the job's length, then one of state bytes a context; all forward, one example."""
    job = rig.programs.job
    built = backbone.shapes(job, rig.task.vocab)
    elementwise = flops.sum_over_time(lambda tokens: matching.step_count(built, job, tokens).elementwise, job.length)
    yield {
        "phase": "model",
        **{name: rig.conditions[name] for name in ("params_mismatch", "mismatch") if name in rig.conditions},
        "flops_per_token": matching.flops_per_token(built, job),
        "elementwise_per_token": elementwise / job.length,
        "flops_per_token_square": matching.step_count(built, job, job.length).matmul,
        "sequential_depth": reference_depth(job, rig.task.vocab),
        "sequential_depth_ran": ran_depth(job, rig.task.vocab, rig.conditions["implementation"]),
        "outcome": "ok",
    }
    for context in sorted({job.length, *CONTEXTS}):
        try:
            state_bytes = matching.state_bytes(built, job, context)
        except ValueError:  # learned positions end: beyond them there is no state
            if context == job.length:
                raise
            continue
        yield {"phase": "state", "context": context, "state_bytes": state_bytes, "outcome": "ok"}


def reference_depth(job: Job, vocab: int) -> int:
    """The longest chain of dependent operations of the forward pass, with reference implementations."""
    return _depth(job.replace(mixer="+".join(_reference(spec) for spec in parts.pattern(job.mixer))), vocab)


def ran_depth(job: Job, vocab: int, ran: str) -> int:
    """The same with the implementations that ran, one a part of the pattern; of a kernel, one with the same chain."""
    specs = zip(parts.pattern(job.mixer), ran.split("+"), strict=True)
    return _depth(job.replace(mixer="+".join(_counted(spec, implementation) for spec, implementation in specs)), vocab)


def _counted(spec: str, implementation: str) -> str:
    """The spec with an implementation whose chain a kernel shares, which no jaxpr shows."""
    try:
        family = str(parts.constant("suite.mixers", spec, "FAMILY"))
    except LookupError:  # a user's own
        return spec
    same = implementations.family(family).SAME_CHAIN
    return (
        parts.with_knobs("suite.mixers", spec, {"implementation": same[implementation]})
        if implementation in same
        else spec
    )


def _reference(spec: str) -> str:
    if "implementation" not in parts.knobs("suite.mixers", spec):
        return spec
    return parts.with_knobs("suite.mixers", spec, {"implementation": "reference"})


def _depth(job: Job, vocab: int) -> int:
    tokens = jax.ShapeDtypeStruct((1, job.length), jnp.int32)
    return flops.count(lambda built, tokens_BT: built(tokens_BT), backbone.shapes(job, vocab), tokens).depth
