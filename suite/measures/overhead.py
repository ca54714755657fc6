"""The cost of the training loop: its seconds beside those of the bare compiled step on a resident batch."""

from collections.abc import Iterator
from typing import Any

import jax

from suite.sweep.record import Row
from suite.training import clock
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = "compilation + 2 * blocks * steps * step"
CONDITIONS = {"calls": "steps", "tokens": "tokens"}
QUANTITIES = {"block": {"bare_seconds": "s", "loop_seconds": "s"}}
BOUNDS = {"blocks": (1, 10_000), "steps": (1, 1_000_000)}


def measure(rig: Rig, *, blocks: int = 10, steps: int = 40) -> Iterator[Row]:
    """One row a block; the loop and the bare step take turns, since a machine's speed drifts."""
    state = rig.state
    batch = rig.resident_batch()

    def bare() -> Any:
        nonlocal state
        state, metrics = rig.step(state, batch)
        return metrics

    clock.time_calls(bare, warmup=5, repeats=1)
    for turn in range(blocks):
        bare_seconds = clock.time_burst(bare, steps)
        loop = rig.train(state, 0, steps + 1)
        _, state, _ = next(loop)  # the first batch waits for its own making
        jax.block_until_ready(state)  # and its step is not among those that are timed

        def looped() -> Any:
            nonlocal state
            _, state, metrics = next(loop)  # noqa: B023 - called in this turn only
            return metrics

        loop_seconds = clock.time_burst(looped, steps)
        loop.close()
        yield {
            "phase": "block",
            "turn": turn,
            "calls": steps,
            "tokens": round(steps * rig.job.tokens_a_step),
            "bare_seconds": bare_seconds,
            "loop_seconds": loop_seconds,
            "outcome": "ok",
        }
