"""Accuracy at, below and beyond the trained length: of all answers, by distance from the question, and by depth.

Exact match is the fraction of the examples of which all answers are correct. The depth of an answer is where the first
token that it needs lies before the question: 0 % is the first token of the example, 100 % right before the question.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from suite import inference, parts
from suite.job import Job
from suite.sweep.record import Row
from suite.training import rig as rigs
from suite.training.rig import Rig

NEEDS = ("learning",)
PLACED = False
RESUMES = False
SECONDS = (
    "compilation * max(1, longest / growth / 2) + longest * growth / (growth - 1) * test_examples / batch * step / 3"
)
CONDITIONS = {
    "eval_length": "tokens",
    "remedy": "knob",
    "chunk": "tokens",
    "low": "tokens",
    "high": "tokens",
    "at_depth": "percent",
    "examples": "n",
    "targets": "n",
}
QUANTITIES = {
    "length": {"accuracy": "fraction", "final_accuracy": "fraction", "exact_match": "fraction"},
    "distance": {"accuracy": "fraction as distance_accuracy_at_{low}_to_{high}"},
    "depth": {"accuracy": "fraction as depth_accuracy_at_{at_depth}_percent"},
}
BOUNDS = {"longest": (1, 2**16), "growth": (2, 2**16), "shortest": (0, 2**16), "depths": (0, 100), "chunk": (0, 2**28)}


def check(
    job: Job, task: Any, *, longest: int, growth: int, remedy: str, shortest: int, depths: int, chunk: int
) -> None:
    """Refuses a task without distances, and a task or a model that cannot be lengthened with the remedy.

    Where the state is carried along, also a mixer without one.
    """
    del shortest, depths
    if not hasattr(task, "distances"):
        raise ValueError(f"length_accuracy wants a task with the method distances; {job.task} has none")
    for factor, changes in _factors(longest, growth, remedy):
        if factor > 1:
            rigs.check_at_length(job, task, factor * job.length, changes)
        if _chunk(job, chunk):
            changed = job.replace(mixer=rigs.with_changes(job, changes).mixer)
            inference.check(changed, task, "length_accuracy in chunks", job.batch, factor * job.length)


def measure(
    rig: Rig,
    *,
    longest: int = 4,
    growth: int = 4,
    remedy: str = "",
    shortest: int = 0,
    depths: int = 0,
    chunk: int = 0,
) -> Iterator[Row]:
    """For each length a row of the whole, one for each distance, and one for each of so many parts of the depth.

    The lengths are the trained one, `growth` times it up to `longest` times, and an n-th of it down to the shortest
    that the task has examples of, or to `shortest` tokens; 0 for none. Beyond the trained length the knob `remedy` of
    the mixer, `interpolation` or `ntk` for attention with rope, is set to the multiple, without training.

    With `chunk` so many tokens are read at a time, on one device, and what is carried between them is kept in the job's
    state_dtype; 0 for all at once in parallel form, or where that dtype rounds the state token by token.
    """
    chunk = _chunk(rig.job, chunk)
    longer = (rig.at_length(factor * rig.job.length, changes) for factor, changes in _factors(longest, growth, remedy))
    for at_length in (*reversed(list(_shorter(rig, growth, shortest))), *longer):
        for row in _at(at_length, rig, depths, chunk):
            yield {**row, "remedy": remedy, "chunk": chunk}


def _chunk(job: Job, chunk: int) -> int:
    """The tokens that are read at a time; 0 for all at once in parallel form, which carries no state along."""
    return chunk or int(job.state_dtype != "float32")


def _factors(longest: int, growth: int, remedy: str) -> Iterator[tuple[int, dict[str, parts.Value]]]:
    """Multiples of the trained length, each with the knobs of the mixer at that length."""
    factor = 1
    while factor <= longest:
        yield factor, rigs.knobs_at(factor, remedy)
        factor *= growth


def _shorter(rig: Rig, growth: int, shortest: int) -> Iterator[Rig]:
    """The rigs of shorter and shorter lengths, as far as the task has examples of them."""
    length = rig.job.length // growth
    while 0 < shortest <= length:
        try:
            yield rig.at_length(length)
        except ValueError:  # the task refuses it
            return
        length //= growth


@dataclasses.dataclass
class Tally:
    """How many answers were due in each bin, and how many of them were correct."""

    targets_K: np.ndarray
    correct_K: np.ndarray

    @classmethod
    def of(cls, bins: int) -> "Tally":
        return cls(np.zeros(bins), np.zeros(bins))

    def add(self, bin_BT: np.ndarray, correct_BT: np.ndarray, weights_BT: np.ndarray) -> None:
        np.add.at(self.targets_K, bin_BT, weights_BT)
        np.add.at(self.correct_K, bin_BT, weights_BT * correct_BT)

    def rows(self, conditions: list[Row]) -> Iterator[Row]:
        """A row for each bin in which answers were due."""
        for at_bin, targets, correct in zip(conditions, self.targets_K, self.correct_K, strict=True):
            if targets:
                yield {**at_bin, "targets": int(targets), "accuracy": float(correct / targets), "outcome": "ok"}


def _at(rig: Rig, trained: Rig, depths: int, chunk: int) -> Iterator[Row]:
    """The rows of one length: those of the trained parameters in the rig of that length."""
    length = rig.job.length
    # Distances 0, 1, 2 and 3, 4 to 7, 8 to 15, ...
    edges_K = np.concatenate([[0], 2 ** np.arange(length.bit_length())])
    by_distance, by_depth = Tally.of(len(edges_K)), Tally.of(depths)
    examples = final_correct = exact = 0
    params, examples_wanted = rig.adopt(trained.trained), trained.job.test_examples
    if chunk:
        answers = inference.answers_in_chunks(rig, params, "test", examples_wanted, chunk)
    else:
        answers = rig.answers(params, "test", examples_wanted)
    for ids_B, _, correct_BT, weights_BT in answers:
        seen_BT = rig.seen("test", ids_B)
        distances_BT = np.minimum(rig.task.distances("test", ids_B), seen_BT - 1)
        by_distance.add(np.searchsorted(edges_K, distances_BT, side="right") - 1, correct_BT, weights_BT)
        if depths:
            by_depth.add(depths * (seen_BT - 1 - distances_BT) // seen_BT, correct_BT, weights_BT)
        last_B = length - 1 - np.argmax(weights_BT[:, ::-1] > 0, axis=1)
        examples += len(ids_B)
        exact += np.all((correct_BT > 0) | (weights_BT == 0), axis=1).sum()
        final_correct += correct_BT[np.arange(len(ids_B)), last_B].sum()
    yield {
        "phase": "length",
        "eval_length": length,
        "examples": examples,
        "accuracy": float(by_distance.correct_K.sum() / by_distance.targets_K.sum()),
        "final_accuracy": float(final_correct / examples),
        "exact_match": float(exact / examples),
        "outcome": "ok",
    }
    edges = zip(edges_K, [*edges_K[1:], length], strict=True)
    yield from by_distance.rows(
        [{"phase": "distance", "eval_length": length, "low": int(low), "high": int(high) - 1} for low, high in edges]
    )
    yield from by_depth.rows(
        [{"phase": "depth", "eval_length": length, "at_depth": 100 * bin // depths} for bin in range(depths)]
    )
