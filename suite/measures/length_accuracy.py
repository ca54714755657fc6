"""Accuracy at and beyond the trained length: of all answers, and by the distance of an answer from its question.

Exact match is the fraction of the examples of which all answers are correct.
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
SECONDS = "compilation"
CONDITIONS = {
    "eval_length": "tokens",
    "remedy": "knob",
    "low": "tokens",
    "high": "tokens",
    "examples": "n",
    "targets": "n",
}
QUANTITIES = {
    "length": {"accuracy": "fraction", "final_accuracy": "fraction", "exact_match": "fraction"},
    "distance": {"accuracy": "fraction as distance_accuracy_at_{low}_to_{high}"},
}
BOUNDS = {"longest": (1, 2**16), "growth": (2, 2**16)}


def check(job: Job, task: Any, *, longest: int, growth: int, remedy: str) -> None:
    """Refuses a task without distances, and a task or a model that cannot be lengthened with the remedy."""
    if not hasattr(task, "distances"):
        raise ValueError(f"length_accuracy wants a task with the method distances; {job.task} has none")
    for factor, changes in _factors(longest, growth, remedy):
        if factor > 1:
            rigs.check_at_length(job, task, factor * job.length, changes)


def measure(rig: Rig, *, longest: int = 4, growth: int = 4, remedy: str = "") -> Iterator[Row]:
    """For the trained length, and `growth` times it up to `longest`: a row of the whole and one for each distance.

    Beyond the trained length the knob `remedy` of the mixer, `interpolation` or `ntk` for attention with rope, is set
    to the multiple, without training.
    """
    for factor, changes in _factors(longest, growth, remedy):
        for row in _at(rig.at_length(factor * rig.job.length, changes), rig):
            yield {**row, "remedy": remedy}


def _factors(longest: int, growth: int, remedy: str) -> Iterator[tuple[int, dict[str, float]]]:
    """Multiples of the trained length, each with the knobs of the mixer at that length."""
    factor = 1
    while factor <= longest:
        yield factor, {remedy: float(factor)} if remedy and factor > 1 else {}
        factor *= growth


def _at(rig: Rig, trained: Rig) -> Iterator[Row]:
    """The rows of one length: those of the trained parameters in the rig of that length."""
    length = rig.job.length
    # Distances 0, 1, 2 and 3, 4 to 7, 8 to 15, ...
    edges_K = np.concatenate([[0], 2 ** np.arange(length.bit_length())])
    targets_K, correct_K = np.zeros(len(edges_K)), np.zeros(len(edges_K))
    examples = final_correct = exact = 0
    answers = rig.answers(rig.adopt(trained.trained), "test", trained.job.test_examples)
    for ids_B, _, correct_BT, weights_BT in answers:
        bucket_BT = np.searchsorted(edges_K, rig.task.distances("test", ids_B), side="right") - 1
        np.add.at(targets_K, bucket_BT, weights_BT)
        np.add.at(correct_K, bucket_BT, weights_BT * correct_BT)
        last_B = length - 1 - np.argmax(weights_BT[:, ::-1] > 0, axis=1)
        examples += len(ids_B)
        exact += np.all((correct_BT > 0) | (weights_BT == 0), axis=1).sum()
        final_correct += correct_BT[np.arange(len(ids_B)), last_B].sum()
    yield {
        "phase": "length",
        "eval_length": length,
        "examples": examples,
        "accuracy": float(correct_K.sum() / targets_K.sum()),
        "final_accuracy": float(final_correct / examples),
        "exact_match": float(exact / examples),
        "outcome": "ok",
    }
    for low, high, targets, correct in zip(edges_K, [*edges_K[1:], length], targets_K, correct_K, strict=True):
        if targets:
            yield {
                "phase": "distance",
                "eval_length": length,
                "low": int(low),
                "high": int(high) - 1,
                "targets": int(targets),
                "accuracy": float(correct / targets),
                "outcome": "ok",
            }
