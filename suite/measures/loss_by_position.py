"""Loss of the test by the position in the window, and beyond the trained one: what more context is worth to the model.

A position is how many tokens the prediction sees, with --reset those of its document. They are binned evenly in the
logarithm, and a bin ends with the trained length: 1, 2, 3 and 4, 5 to 8, ...
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from suite.job import Job
from suite.sweep.record import Row
from suite.training import rig as rigs
from suite.training.rig import Rig

NEEDS = ("learning",)
PLACED = False
RESUMES = False
SECONDS = "compilation + longest * test_examples / batch * step / 2"
CONDITIONS = {"remedy": "knob", "low": "tokens", "high": "tokens", "targets": "n"}
QUANTITIES = {"position": {"loss": "nats/token as loss_nats_at_position_{low}_to_{high}"}}
BOUNDS = {"longest": (1, 2**16)}
GROUP = 8  # windows whose mean is a row: what a bootstrap draws again, windows and never tokens


def check(job: Job, task: Any, *, longest: int, remedy: str) -> None:
    """Refuses a task or a model that cannot be lengthened with the remedy."""
    if longest > 1:
        rigs.check_at_length(job, task, longest * job.length, rigs.knobs_at(longest, remedy))


def measure(rig: Rig, *, longest: int = 1, remedy: str = "") -> Iterator[Row]:
    """A row for each group of windows and bin that has targets: their mean loss by the task's weights, their number.

    Windows are `longest` times the trained length. In the whole of a longer window the knob `remedy` of the mixer,
    `interpolation` or `ntk` for attention with rope, is set to the multiple, without training.
    """
    length = longest * rig.job.length
    far = rig.at_length(length, rigs.knobs_at(longest, remedy))
    highs_K = np.asarray(bins(rig.job.length, length))
    groups = -(-rig.job.test_examples // rig.job.batch) * rig.job.batch // GROUP + 1
    targets_GK, weights_GK, nats_GK = np.zeros((3, groups, len(highs_K)))
    for ids_B, nats_BT, _, weights_BT in far.answers(far.adopt(rig.trained), "test", rig.job.test_examples):
        at = ids_B[:, None] // GROUP, np.searchsorted(highs_K, far.seen("test", ids_B))
        np.add.at(targets_GK, at, weights_BT > 0)
        np.add.at(weights_GK, at, weights_BT)
        np.add.at(nats_GK, at, weights_BT * nats_BT.astype(np.float64))
    for group, bin_ in np.argwhere(targets_GK):
        yield {
            "phase": "position",
            "remedy": remedy,
            "low": int(highs_K[bin_ - 1]) + 1 if bin_ else 1,
            "high": int(highs_K[bin_]),
            "turn": int(group),
            "targets": int(targets_GK[group, bin_]),
            "loss": float(nats_GK[group, bin_] / weights_GK[group, bin_]),
            "outcome": "ok",
        }


def bins(trained: int, length: int) -> list[int]:
    """The last position of each bin: powers of two, the trained length and the whole one."""
    powers = (1 << power for power in range(length.bit_length()))
    return sorted({*(high for high in powers if high < length), trained, length})
