"""Seconds of a training step: of its compilation, fenced, in bursts, and with real input."""

import math
from collections.abc import Iterator
from typing import Any

import jax

from suite.sweep import processes
from suite.sweep.record import Row
from suite.training import clock
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = "compilation + (12 + blocks) * step + blocks * max(step, 0.15)"
CONDITIONS = {"cached": "flag", "calls": "steps", "tokens": "tokens"}
QUANTITIES = {
    "compile": {
        "compile_seconds": "s",
        "argument_bytes": "bytes",
        "output_bytes": "bytes",
        "alias_bytes": "bytes",
        "temp_bytes": "bytes",
    },
    "block": {"fenced_seconds": "s", "burst_seconds": "s"},
    "fed": {"fed_seconds": "s", "burst_seconds": "s"},
}
BLOCK_SECONDS = 0.1  # a block shorter than this times the scheduler of a busy machine
LONGEST_BURST = 50
BOUNDS = {"blocks": (1, 10_000), "warmup": (0, 10_000)}


def measure(rig: Rig, *, blocks: int = 10, warmup: int = 5) -> Iterator[Row]:
    """A row for the compilation, one a block of resident-batch steps, and one with real input at the end."""
    compiled, seconds, cached = rig.programs.compiled_step
    memory = compiled.memory_analysis()
    assert memory is not None, "the backend gives no memory of a compiled program"
    yield {
        "phase": "compile",
        "compile_seconds": seconds,
        "cached": cached,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "outcome": "ok",
    }
    state = rig.state
    batch = rig.resident_batch()

    def call() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics

    warm = clock.time_calls(call, warmup=warmup, repeats=2)
    # All processes of a job must make the same number of steps, so the count is process 0's.
    burst = processes.agree(min(LONGEST_BURST, max(1, math.ceil(BLOCK_SECONDS / min(warm)))))
    for turn in range(blocks):
        [fenced] = clock.time_calls(call, warmup=0, repeats=1)
        yield {
            "phase": "block",
            "turn": turn,
            "calls": burst,
            "tokens": round(burst * rig.job.tokens_a_step),
            "fenced_seconds": fenced,
            "burst_seconds": clock.time_burst(call, burst),
            "outcome": "ok",
        }
    steps = max(3, burst)
    fed = rig.train(state, 0, steps + 1)
    _, state, _ = next(fed)  # the first batch waits for its own making
    jax.block_until_ready(state)  # and its step is not among those that are timed

    def call_fed() -> Any:
        nonlocal state
        _, state, metrics = next(fed)
        return metrics

    fed_seconds = clock.time_burst(call_fed, steps)
    yield {
        "phase": "fed",
        "calls": steps,
        "tokens": round(steps * rig.job.tokens_a_step),
        "fed_seconds": fed_seconds,
        "burst_seconds": clock.time_burst(call, steps),
        "outcome": "ok",
    }
