"""The course of a training: how many steps it has. Those that a budget in seconds buys follow from its pace.

They are settled before the first step, from a few steps of a state that is thrown away, and again at shares of the
budget, from the pace since the time before. The schedule of the learning rate runs over the steps that are settled, so
that warmup and decay follow the share of the budget that is spent. At a pace that never changes the number never does,
and the training is bit by bit that of a job with so many steps.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from suite.job import Job

SHARES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)  # of the budget, where steps are settled again
SPENT = 1.05  # times the seconds spent: a share nearer than that counts as reached


@dataclasses.dataclass(frozen=True)
class Course:
    """The steps of a training, and the step at which they are settled again; without a budget its last."""

    steps: int
    stop: int
    settled: int = 0  # the step at which they were settled
    spent: float = 0.0  # seconds until then

    def validates(self, number: int, every: int) -> bool:
        """Whether a validation is due after so many steps, of which every so many have one."""
        return number % every == 0 or number == self.stop

    def is_to_settle(self, number: int) -> bool:
        return number == self.stop < self.steps

    def settle(self, job: Job, number: int, spent: float) -> "Course":
        """The course from a step on, until which so many seconds were spent."""
        return _settled(job, number, spent, (spent - self.spent) / (number - self.settled))


def begin(job: Job, pace: float) -> Course:
    """The course before the first step of a job with a budget; `pace` is in seconds a step."""
    return _settled(job, 0, 0.0, pace)


def saved(job: Job, origin: Mapping[str, Any]) -> Course:
    """The course that a checkpoint was saved on; without a budget it is known from the job."""
    return Course(**{"course": {"steps": job.last_step, "stop": job.last_step}, **origin}["course"])


def _settled(job: Job, number: int, spent: float, pace: float) -> Course:
    def reached(seconds: float) -> int:
        """The step at which so many seconds are spent, at least one step from here."""
        return max(number + 1, round(number + (seconds - spent) / pace))

    last = min(job.steps, reached(job.budget_seconds))
    ahead = (reached(share * job.budget_seconds) for share in SHARES if share * job.budget_seconds > SPENT * spent)
    return Course(last, min(last, next(ahead, last)), number, spent)
