"""Training from start to test: loss by tokens and by seconds, checkpoints on the way, the test set read once."""

from collections.abc import Iterator

import jax
import numpy as np

from suite import checkpoint, store
from suite import step as steps
from suite.clock import Stopwatch
from suite.rig import Rig
from suite.step import Metrics, State
from suite.store import Row

NEEDS = ()
PLACED = False
RESUMES = True
KIND = "learning"


def measure(rig: Rig) -> Iterator[Row]:
    """Rows of training loss, of validation, and one of the test. Goes on from the newest checkpoint.

    `seconds` is training alone, without compilation, evaluation and checkpoints: equal seconds is a fair budget.
    """
    assert rig.run is not None, "learning keeps checkpoints: build the rig with a run directory"
    job = rig.job
    with checkpoint.opened(rig.run / "checkpoints") as checkpointer:
        state = rig.state
        restored = checkpoint.restore_latest(checkpointer, state)
        state = state if restored is None else restored
        first = int(state.step)
        if jax.process_index() == 0:
            kept = store.keep(rig.run, KIND, lambda row: row.get("step", 0) <= first and row["outcome"] == "ok")
        else:
            kept = store.rows(rig.run, KIND)
        watch = _warm(rig, max((row["seconds"] for row in kept if row.get("step", 0) <= first), default=0.0))
        window: list[Metrics] = []
        loop = rig.train(state, first, job.steps)
        for number, state, metrics in loop:
            window.append(metrics)
            validate = number % job.validate_every == 0 or number == job.steps
            if validate:
                jax.block_until_ready(state)
            # All but the newest are done: reading them stops nothing.
            while len(window) > (0 if validate else job.record_every):
                ready, window = window[: job.record_every], window[job.record_every :]
                row = _training_row(rig, number - len(window), watch.spent, ready)
                yield row
                if row["outcome"] != "ok":
                    return
            if validate:
                with watch.paused():
                    yield _held_out_row(rig, state, "validation", job.validation_examples, watch.spent)
                    checkpoint.save(checkpointer, number, state)
        with watch.paused():
            yield _held_out_row(rig, state, "test", job.test_examples, watch.spent)
    checkpoint.save_final(rig.run / "final", state.params)


def outcome(rig: Rig) -> str:
    """How the training of a rig ended: what measures of trained parameters ask first."""
    assert rig.run is not None, "trained parameters lie in a run directory"
    return store.rows(rig.run, KIND)[-1]["outcome"]


def _warm(rig: Rig, spent: float) -> Stopwatch:
    """Compiles everything and takes one step of a state that is thrown away, then starts the watch."""
    state, metrics = rig.step(rig.state, rig.resident_batch())
    jax.block_until_ready((metrics, rig.evaluate(state.params, "validation", rig.job.batch)))
    return Stopwatch(spent)


def _training_row(rig: Rig, number: int, seconds: float, window: list[Metrics]) -> Row:
    facts = [steps.facts(metrics) for metrics in window]
    row = {"phase": "train", "step": number, "tokens": number * rig.job.batch * rig.job.length, "seconds": seconds}
    bad = [index for index, fact in enumerate(facts) if not fact["finite"]]
    if bad:
        return {**row, "step": number - len(facts) + 1 + bad[0], "outcome": "diverged"}
    means = {name: float(np.mean([fact[name] for fact in facts])) for name in ("loss", "gradient_norm")}
    return {**row, **means, "outcome": "ok"}


def _held_out_row(rig: Rig, state: State, split: str, examples: int, seconds: float) -> Row:
    return {
        "phase": split,
        "step": int(state.step),
        "tokens": int(state.step) * rig.job.batch * rig.job.length,
        "seconds": seconds,
        "examples": examples,
        "fingerprint": int(state.fingerprint),
        **rig.evaluate(state.params, split, examples),
        "outcome": "ok",
    }
