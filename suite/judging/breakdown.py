"""What a measured step consists of: floors of its time, what was measured on top of it, and the rest.

The whole is a step by itself on a batch that has to be waited for: its seconds in a burst, in which steps on a resident
batch are launched ahead of the device, and two differences that were measured beside it. Dispatch is what a step takes
longer that is launched alone and waited for; input wait is what it takes longer on real batches. A loop that launches
ahead hides dispatch, so its step is the shorter by that.

A floor is a time that no such step on this device can undercut: its products at the peak of their dtype, its bytes at
full bandwidth, and waiting, its steps in time one after another: as many latencies of a dependent step or, where that
was timed in turns with the step, the mixers' own pass. A device may do all three at once, so floors lie over one
another, and of the burst no more than the longest of them is certain. They are laid over one another in that order,
and each adds what it is longer than those before it: together they are the longest, and what they leave of the burst is
the rest. The rest is slow kernels, copies or anything else that no floor knows: what it is was not measured.

So parts are never negative, and their sum is the whole. The dominant cause is the greatest of the longest floor, in
full, and dispatch, input wait and the rest. Where a floor is missing, the rest may be that floor and is no cause.
"""

import dataclasses
from collections.abc import Sequence

from suite.judging import statistics

PRODUCTS, BYTES, WAITING = FLOORS = ("products", "bytes", "waiting")
DISPATCH, INPUT_WAIT = "dispatch", "input wait"
REST = "the rest"
CAUSES = (*FLOORS, DISPATCH, INPUT_WAIT, REST)


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """The seconds of a step in a burst, its floors, what was measured on top, and why floors are missing."""

    burst: float
    floors: dict[str, float]
    added: dict[str, float]  # of DISPATCH and INPUT_WAIT those that were measured
    missing: dict[str, str] = dataclasses.field(default_factory=dict)  # by floor

    def __post_init__(self) -> None:
        for name, seconds in self.floors.items():
            if seconds > self.burst:
                raise ValueError(
                    f"{name} of {seconds:.3g} s at the least in a step of {self.burst:.3g} s: the peak, the count or "
                    "the clock is wrong"
                )

    @property
    def whole(self) -> float:
        return self.burst + sum(self.added.values())

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of each cause, in the order of CAUSES; their sum is the whole."""
        parts, covered = {}, 0.0
        for name in FLOORS:
            if name in self.floors:
                parts[name] = max(0.0, self.floors[name] - covered)
                covered = max(covered, self.floors[name])
        return {**parts, **self.added, REST: self.burst - covered}

    @property
    def longest_floor(self) -> tuple[str, float]:
        """The name and the seconds of the longest floor; LookupError where none is known."""
        if not self.floors:
            raise LookupError("; ".join(self.missing.values()))
        return max(self.floors.items(), key=lambda floor: floor[1])

    @property
    def dominant(self) -> tuple[str, float]:
        """The name and the seconds of the greatest cause; LookupError where a floor that is missing may be greater."""
        rest = {REST: self.parts[REST]}
        known = dict([self.longest_floor] if self.floors else []) | self.added
        name, seconds = max((known | rest).items(), key=lambda cause: cause[1])
        if name == REST and self.missing:
            raise LookupError("; ".join(self.missing.values()))
        return name, seconds


def beyond_doubt(differences: Sequence[float]) -> float:
    """The mean of measured differences, or 0 where their 95 % interval reaches zero: noise is no cause.

    One alone has no interval and counts as it is, if it is positive.
    """
    if len(differences) == 1:
        return max(0.0, differences[0])
    interval = statistics.t_interval(differences)
    return interval.value if interval.low > 0 else 0.0
