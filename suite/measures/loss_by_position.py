"""Loss of the test by the position in the window: what more context is worth to the trained model.

A position is how many tokens the prediction sees. They are binned evenly in the logarithm: 1, 2 and 3, 4 to 7, ...
"""

from collections.abc import Iterator

import numpy as np

from suite.sweep.record import Row
from suite.training.rig import Rig

NEEDS = ("learning",)
PLACED = False
RESUMES = False
SECONDS = "compilation"
CONDITIONS = {"low": "tokens", "high": "tokens", "targets": "n"}
QUANTITIES = {"position": {"loss": "nats/token as loss_nats_at_position_{low}_to_{high}"}}


def measure(rig: Rig) -> Iterator[Row]:
    """A row for each bin that has targets: their mean loss, weighted as the task weights them, and their number."""
    edges_K = 2 ** np.arange(rig.job.length.bit_length())
    bin_T = np.searchsorted(edges_K, np.arange(1, rig.job.length + 1), side="right") - 1
    targets_K, weights_K, nats_K = np.zeros((3, len(edges_K)))
    for _, nats_BT, _, weights_BT in rig.answers(rig.trained, "test", rig.job.test_examples):
        np.add.at(targets_K, bin_T, np.sum(weights_BT > 0, axis=0))
        np.add.at(weights_K, bin_T, np.sum(weights_BT, axis=0))
        np.add.at(nats_K, bin_T, np.sum(weights_BT * nats_BT, axis=0))
    for bin_, low in enumerate(edges_K):
        if targets_K[bin_]:
            yield {
                "phase": "position",
                "low": int(low),
                "high": min(2 * int(low) - 1, rig.job.length),
                "targets": int(targets_K[bin_]),
                "loss": float(nats_K[bin_] / weights_K[bin_]),
                "outcome": "ok",
            }
