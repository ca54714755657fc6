"""The largest batch, length or width of each arm of which a training step fits the devices, by bisection."""

import math
from collections.abc import Iterable, Iterator

from suite import parts
from suite.job import Job
from suite.planning import table
from suite.planning.estimate import Estimate
from suite.scale import width_unit
from suite.sweep.record import Row
from suite.training.memory import largest_that_fits

LANES = 128  # of lengths and widths, that a TPU's compiler does not fill up
MOST = 2**20  # of any size


def lines(asked: Estimate, jobs: Iterable[Job], field: str) -> Iterator[str]:
    """A table with the largest size of each arm, by its job, and the next one tried, which does not fit."""
    rows = []
    for job in jobs:
        unit = _unit(job, field, asked.compilers.place["devices_of_examples"])
        tried: dict[int, Row] = {}

        def fits(size: int, job: Job = job, tried: dict[int, Row] = tried) -> bool:
            smaller = job.replace(**{field: size})
            [record] = asked.programs([smaller]).values()
            tried[size] = asked.program_row(smaller, record)
            return bool(tried[size]["fits"])

        largest, beyond = largest_that_fits(fits, getattr(job, field), unit, MOST)
        holds = table.size(tried[largest]["held_bytes"]) if largest else ""
        why = tried[beyond]["error"] if beyond and "error" in tried[beyond] else ""
        rows.append((job.arm, f"{largest:,}" if largest else "none", holds, f"{beyond:,}" if beyond else "none", why))
    yield from table.table(("arm", f"largest {field} that fits", "a device holds", "does not fit", "why"), rows)


def _unit(job: Job, field: str, devices_of_examples: int) -> int:
    """What a size is a multiple of."""
    if field == "batch":
        return math.lcm(devices_of_examples, job.microbatch or 1)
    if field == "length":
        return LANES
    return math.lcm(LANES, *(width_unit(spec) for spec in (*parts.pattern(job.mixer), job.match_to or job.mixer)))
