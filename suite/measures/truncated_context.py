"""Loss of a trained model on the same targets after contexts of several lengths: how far back it looks."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from suite import mesh as meshes
from suite.job import Job
from suite.sweep.record import Row
from suite.tasks import Batch
from suite.training.rig import Rig

NEEDS = ("learning",)
PLACED = False
RESUMES = False
SECONDS = 15
CONDITIONS = {"context": "tokens", "windows": "n"}
QUANTITIES = {"context": {"nats": "nats/token"}}
BOUNDS = {"targets": (1, 2**20), "examples": (1, 2**31 - 1)}
SHORTEST = 16
GROUP = 8  # windows whose mean is a row: what a bootstrap draws again, documents and never tokens


def check(job: Job, task: Any, *, targets: int, examples: int) -> None:
    """Refuses a job whose examples have no token before the targets."""
    del task, examples
    contexts_of(job.length, targets)


def measure(rig: Rig, *, targets: int = 8, examples: int = 256) -> Iterator[Row]:
    """Nats of the last `targets` of each test window, read with 16, 32, ... tokens before them, and with all.

    A row for each context and group of windows. The context is the first target's; the last one has `targets` more.
    """
    contexts = contexts_of(rig.job.length, targets)
    params, shorten = rig.trained, _shortener(rig)
    size = rig.job.batch
    for number, batch in enumerate(rig.batches("test", 0, math.ceil(examples / size))):
        nats_CBT = [
            jax.device_get(rig.programs.answers(params, shorten(batch, context + targets))[0])[:, -targets:]
            for context in contexts
        ]
        for group, first in enumerate(range(0, size, GROUP)):
            for context, nats_BT in zip(contexts, nats_CBT, strict=True):
                group_BT = nats_BT[first : first + GROUP].astype(np.float64)
                yield {
                    "phase": "context",
                    "context": context,
                    "turn": number * math.ceil(size / GROUP) + group,
                    "windows": len(group_BT),
                    "nats": float(group_BT.mean()),
                    "outcome": "ok",
                }


def contexts_of(length: int, targets: int) -> list[int]:
    """Powers of two from the shortest, and last the whole context before the targets."""
    if length <= targets:
        raise ValueError(f"length {length} leaves no context before {targets} targets; train on longer examples")
    powers = [SHORTEST << power for power in range(length.bit_length())]
    return [*(context for context in powers if context < length - targets), length - targets]


def _shortener(rig: Rig):
    """Cuts a batch to its last tokens, on the devices where it lies."""

    @functools.partial(jax.jit, static_argnums=1, out_shardings=meshes.over_batch(rig.mesh))
    def shorten(batch: Batch, kept: int) -> Batch:
        return Batch(*(array_BT[:, -kept:] for array_BT in batch))

    return shorten
