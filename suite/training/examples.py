"""The examples of a job: those of its task, of one length or of several, each padded to the longest.

Padding keeps one shape and so one program, and an example stays a function of its id: in buckets of equal lengths the
step of an example would follow from the lengths of all before it, and each bucket would be a program of its own. The
cost is that padding is computed, though nothing is learned from it: its weights are 0, and no mixer lets a token see
what comes after it.
"""

import bisect
import dataclasses
import functools
from typing import Any

import numpy as np

from suite import parts
from suite.job import Job
from suite.tasks import Batch, CounterGenerator

APART = 1 << 32  # added to the seed, beyond all seeds of jobs: lengths are drawn apart from what examples hold
BLOCK = 1 << 16  # examples, of which the tokens are added up at once


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a job by their split and ids. `task` is that of the job's length.

    In training and in validation their lengths are those of `job.lengths`; in the test all have `job.length` tokens. A
    mixture is drawn anew for each example. In a curriculum the training goes from length to length as its ids rise, and
    of its validation each length has as many examples as any other.
    """

    task: Any
    job: Job

    def batch(self, split: str, ids: np.ndarray) -> Batch:
        """Beyond an example's own length tokens, targets and weights are 0."""
        if split == "test" or not self.job.lengths:
            return self.task.batch(split, ids)
        shape = (len(ids), self.job.length)
        batch = Batch(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32))
        length_B = self.lengths(split, ids)
        for length in np.unique(length_B):
            of_length_B = length_B == length
            for whole, part in zip(batch, self._tasks[length].batch(split, ids[of_length_B]), strict=True):
                whole[of_length_B, :length] = part
        return batch

    def lengths(self, split: str, ids: np.ndarray) -> np.ndarray:
        """The examples' own lengths, (B,)."""
        mixture = self.job.mixture
        if split == "test":
            return np.full(len(ids), self.job.length)
        if split == "train" and mixture.grows:
            # Who trains on after the last step stays at the longest.
            of_training = self.job.steps * self.job.batch
            return mixture.at(np.minimum(np.asarray(ids, np.int64) * mixture.total // of_training, mixture.total - 1))
        return mixture.at(CounterGenerator(self.job.seed + APART, split, ids).integers(mixture.total, 1)[:, 0])

    def tokens(self, examples: int) -> int:
        """Tokens of the first so many examples of the training, without padding."""
        if not self.job.lengths:
            return examples * self.job.length
        blocks, _ = divmod(examples, BLOCK)
        rest = self.lengths("train", np.arange(blocks * BLOCK, examples)).sum()
        return sum(_tokens_of_block(self.job, block) for block in range(blocks)) + int(rest)

    def check(self) -> None:
        """ValueError where the task has no examples of one of the lengths."""
        assert self._tasks

    @functools.cached_property
    def _tasks(self) -> dict[int, Any]:
        """The task at each of the lengths."""
        with parts.own_lines("suite.tasks", self.job.task):
            tasks = {length: self._at(length) for length in self.job.mixture.lengths}
        for length, task in tasks.items():
            if task.vocab != self.task.vocab:
                raise ValueError(
                    f"{self.job.task} has a vocabulary of {task.vocab} at {length} tokens and of {self.task.vocab} at "
                    f"{self.job.length}; wanted one for all lengths of a training"
                )
        return tasks

    def _at(self, length: int) -> Any:
        try:
            return at_length(self.task, length)
        except ValueError as error:
            task = parts.short("suite.tasks", self.job.task)
            raise ValueError(
                f"--lengths={self.job.lengths}: {task} has no examples of {length} tokens ({error}); "
                f"the shortest have {self._shortest()}"
            ) from error

    def _shortest(self) -> int:
        """The least length of which the task has examples, taken to have them of every one from there."""
        return 1 + bisect.bisect_left(range(1, self.job.length), True, key=self._has)

    def _has(self, length: int) -> bool:
        try:
            at_length(self.task, length)
        except ValueError:
            return False
        return True


def at_length(task: Any, length: int) -> Any:
    """The task with the same knobs at another length; ValueError where it has no such examples."""
    knobs = {field.name: getattr(task, field.name) for field in dataclasses.fields(task) if field.init}
    return type(task)(**{**knobs, "length": length})


@functools.cache
def _tokens_of_block(job: Job, block: int) -> int:
    ids = np.arange(block * BLOCK, (block + 1) * BLOCK)
    return int(Examples(None, job).lengths("train", ids).sum())
