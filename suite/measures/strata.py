"""Loss of the test by kind of token: raw sums for each document and stratum, the same for all arms that share a task.

suite/tasks/corpora/strata.py says the rule of each stratum.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from suite.job import Job
from suite.sweep.record import Row
from suite.tasks.corpora.strata import STRATA
from suite.training.rig import Rig

NEEDS = ("learning",)
PLACED = False
RESUMES = False
SECONDS = "compilation + test_examples / batch * step / 2"
CONDITIONS = {"partition": "name", "stratum": "name", "targets": "n"}
QUANTITIES = {"stratum": {"nats": "nats per targets as {partition}_{stratum}_loss_nats"}}
BLOCKS = 128  # rows are of one document each, or, where a split has more of them, of so many runs of documents


def check(job: Job, task: Any) -> None:
    """Refuses a task whose targets belong to no document."""
    if not hasattr(task, "strata"):
        raise ValueError(f"strata wants a task with the method strata, as text has it; {job.task} has none")


def measure(rig: Rig) -> Iterator[Row]:
    """A row for each partition, document and stratum that have targets; a document's number is the `turn`."""
    yield from score(rig.task, rig.answers(rig.trained, "test", rig.job.test_examples), reset=rig.job.reset)


def score(task: Any, answers: Iterable[tuple[np.ndarray, ...]], *, reset: bool = False) -> Iterator[Row]:
    """The rows of a model by its answers: ids_B, and nats, correctness and weights of every target of the test.

    With `reset` no document sees another: a repetition of an earlier one's bytes is none.
    """
    targets = {name: np.zeros((BLOCKS, len(strata)), int) for name, strata in STRATA.items()}
    nats = {name: np.zeros((BLOCKS, len(strata))) for name, strata in STRATA.items()}
    for ids_B, nats_BT, _, weights_BT in answers:
        strata, counts_BT = task.strata("test", ids_B, reset=reset), weights_BT > 0
        block_BT = strata.document_BT * BLOCKS // max(BLOCKS, strata.documents)
        for name, stratum_BT in strata.of_partition.items():
            at = block_BT[counts_BT], stratum_BT[counts_BT]
            np.add.at(targets[name], at, 1)
            np.add.at(nats[name], at, nats_BT[counts_BT].astype(np.float64))
    for name, strata in STRATA.items():
        for stratum, block in np.argwhere(targets[name].T):  # in the order of the strata, as a report shows them
            yield {
                "phase": "stratum",
                "partition": name,
                "stratum": [*strata][stratum],
                "turn": int(block),
                "targets": int(targets[name][block, stratum]),
                "nats": float(nats[name][block, stratum]),
                "outcome": "ok",
            }
