"""How far back gradients reach after training: the norm of d h_q / d x_{q-k}, in float64, at an answer's position q."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from suite.job import Job
from suite.measures import gradient_reach
from suite.sweep.record import Row
from suite.training.rig import Rig

NEEDS = ("learning",)
PLACED = False
RESUMES = False
SECONDS = "compilation"
CONDITIONS = {"distance": "tokens"}
QUANTITIES = {"trained_reach": {"norm": "1 as trained_jacobian_norm_at_{distance}"}}
BOUNDS = {"probes": (1, 2**16)}


def check(job: Job, task: Any, *, probes: int) -> None:
    """Refuses a task without distances, and a user's own mixer that computes in less than float64."""
    if not hasattr(task, "distances"):
        raise ValueError(f"trained_gradient_reach wants a task with the method distances; {job.task} has none")
    gradient_reach.check_wide(job, task)


def measure(rig: Rig, *, probes: int = 8) -> Iterator[Row]:
    """One row a distance k, of the first test example: h_q is what the blocks give where its last answer is due.

    Among the distances are that of the answer from its question, and the two tokens after this. With --reset the norm
    is 0 beyond the beginning of the document.
    """
    ids_B = np.asarray([0])
    batch = rig.task.batch("test", ids_B)
    last = int(np.flatnonzero(batch.weights_BT[0])[-1])
    answer = int(rig.task.distances("test", ids_B)[0, last])
    ks = sorted({*gradient_reach.distances(last + 1), *(k for k in range(answer - 2, answer + 1) if 0 <= k <= last)})
    for row in gradient_reach.follow(rig, rig.trained, batch.tokens_BT[0], last, ks, probes):
        yield {"phase": "trained_reach", **row}
