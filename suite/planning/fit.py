"""The largest batch, length or width of each arm of which a training step fits the devices, by bisection."""

import math
from collections.abc import Callable, Iterator

from suite import parts
from suite.job import Job
from suite.planning import table
from suite.planning.estimate import Estimate
from suite.scale import width_unit
from suite.sweep.record import Row

LANES = 128  # of lengths and widths, that a TPU's compiler does not fill up
STEPS = 16  # of the largest that fits: finer it is not looked for
MOST = 2**20  # of any size


def lines(asked: Estimate, field: str) -> Iterator[str]:
    """A table with the largest size of each arm, and the next one tried, which does not fit."""
    rows = []
    for mixer in asked.plan.scale.arms:
        job = asked.plan.scale.arm(mixer)
        unit = _unit(job, field, asked.compilers.place["devices_of_examples"])
        tried: dict[int, Row] = {}

        def fits(size: int, job: Job = job, tried: dict[int, Row] = tried) -> bool:
            smaller = job.replace(**{field: size})
            [record] = asked.programs([smaller]).values()
            tried[size] = asked.program_row(smaller, record)
            return bool(tried[size]["fits"])

        largest, beyond = largest_that_fits(fits, getattr(job, field), unit)
        holds = table.size(tried[largest]["held_bytes"]) if largest else ""
        why = tried[beyond]["error"] if beyond and "error" in tried[beyond] else ""
        rows.append((job.arm, f"{largest:,}" if largest else "none", holds, f"{beyond:,}" if beyond else "none", why))
    yield from table.table(("arm", f"largest {field} that fits", "a device holds", "does not fit", "why"), rows)


def largest_that_fits(fits: Callable[[int], bool], start: int, unit: int) -> tuple[int, int]:
    """The largest multiple of a unit that fits and the least one tried that does not; 0 where there is none.

    Doubled or halved from `start`, then bisected to a sixteenth of it.
    """
    size = max(unit, start // unit * unit)
    low = high = 0
    while (not low or not high) and unit <= size <= MOST:
        if fits(size):
            low, size = size, 2 * size
        else:
            high, size = size, size // 2 // unit * unit
    while low and high and high - low > (step := max(unit, low // STEPS // unit * unit)):
        size = low + max(step, (high - low) // 2 // step * step)
        if fits(size):
            low = size
        else:
            high = size
    return low, high


def _unit(job: Job, field: str, devices_of_examples: int) -> int:
    """What a size is a multiple of."""
    if field == "batch":
        return math.lcm(devices_of_examples, job.microbatch or 1)
    if field == "length":
        return LANES
    return math.lcm(LANES, *(width_unit(spec) for spec in (*parts.pattern(job.mixer), job.match_to or job.mixer)))
