"""The cost of a save in the background: bursts of training steps with a save under way, beside bursts without one."""

from collections.abc import Iterator
from typing import Any

import jax

from suite.sweep.record import Row
from suite.training import checkpoint, clock
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = "compilation + 2 * blocks * steps * step"
CONDITIONS = {"calls": "steps", "tokens": "tokens"}
QUANTITIES = {"block": {"bare_seconds": "s", "saving_seconds": "s", "left_seconds": "s", "saved_bytes": "bytes"}}
BOUNDS = {"blocks": (1, 10_000), "steps": (1, 1_000_000)}


def measure(rig: Rig, *, blocks: int = 10, steps: int = 100) -> Iterator[Row]:
    """One row a block; bursts with and without a save take turns, since a machine's speed drifts.

    `left_seconds` is how long a save goes on after its burst: at 0 the bursts show all that it costs.
    """
    assert rig.run is not None, "a save lies in a run directory"
    folder = rig.run / "save_overhead"
    state = rig.state
    batch = rig.resident_batch()
    saved = 0

    with checkpoint.Checkpoints(folder) as checkpoints:

        def call() -> Any:
            nonlocal state
            state, metrics = rig.step(state, batch)
            return metrics

        def call_and_save() -> Any:
            nonlocal saved
            if saved < turn:
                saved = turn
                checkpoints.save(turn, state, {})
            return call()

        clock.time_calls(call, warmup=5, repeats=1)
        for turn in range(1, blocks + 1):
            row = {"phase": "block", "turn": turn - 1, "calls": steps, "tokens": round(steps * rig.job.tokens_a_step)}
            row["bare_seconds"] = clock.time_burst(call, steps)
            row["saving_seconds"] = clock.time_burst(call_and_save, steps)
            [row["left_seconds"]] = clock.time_calls(checkpoints.wait, warmup=0, repeats=1)
            yield {**row, "saved_bytes": checkpoint.size(state), "outcome": "ok"}
    if jax.process_index() == 0:
        folder.rmtree()
