"""Widths at which arms take as long for a training step as the reference: found by timing, one look after another.

Every look times the reference and the arm in turns, in one process. The next width follows from a power law through the
looks so far; the nearest look is taken.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable

from suite.job import Cell, Job
from suite.scale import Scale, width_unit
from suite.sweep.record import Row
from suite.sweep.store import of_cell

CLOSE = 0.05  # a step time so near to the reference's is good enough
LOOKS = 6
WIDEST = 4  # times the reference's width
TIMING = "step_time:blocks=5"
GROUP = "pace"  # of timings that take turns, with the arm and the width


def cells(scale: Scale, arms: Iterable[str], rows: list[Row]) -> list[Cell]:
    """The looks there are and, for arms that are not settled, the next one; pure, called until none is new."""
    wanted = []
    for mixer in arms:
        looks = _looks(scale, mixer, rows)
        for width in (*looks, *_next(scale, mixer, looks)):
            wanted += _cells(scale, mixer, width)
    return wanted


def own_widths(scale: Scale, arms: Iterable[str], rows: list[Row]) -> dict[str, int]:
    """The nearest width so far of every arm that was looked at, beside a reference of `scale.job.width`."""
    looks = {mixer: _looks(scale, mixer, rows) for mixer in arms}
    return {mixer: _nearest(of_mixer) for mixer, of_mixer in looks.items() if of_mixer}


def is_settled(scale: Scale, arms: Iterable[str], rows: list[Row]) -> bool:
    """Whether no arm wants another look."""
    return not any(_next(scale, mixer, _looks(scale, mixer, rows)) for mixer in arms)


def is_look(row: Row) -> bool:
    """Whether a row is of a timing that was made to find a width."""
    return row["interleave_with"].startswith(f"{GROUP} ")


def mismatch(rows: Iterable[Row], arm: str) -> float:
    """Step time over the reference's at the nearest width that was looked at, less one; LookupError where none ran."""
    by_group: dict[str, list[Row]] = defaultdict(list)
    for row in filter(is_look, rows):
        by_group[row["interleave_with"]].append(row)
    ratios = [
        _ratio([row for row in timed if not row["match_to"]], [row for row in timed if row["match_to"]])
        for timed in by_group.values()
        if any(row["arm"] == arm for row in timed)
    ]
    ran = [ratio for ratio in ratios if math.isfinite(ratio)]
    if not ran:
        raise LookupError(f"{arm} was not timed beside the reference")
    return min(ran, key=lambda ratio: abs(math.log(ratio))) - 1


def _cells(scale: Scale, mixer: str, width: int) -> list[Cell]:
    pair = [_job(scale, scale.against), _job(scale, mixer).replace(own_width=width)]
    return [Cell(job, TIMING, interleave_with=f"{GROUP} {mixer} {width}") for job in pair]


def _job(scale: Scale, mixer: str) -> Job:
    matched = {"match": "step_time", "match_to": scale.against} if mixer != scale.against else {}
    return scale.job.replace(mixer=mixer, length=scale.lengths[-1], **matched)


def _looks(scale: Scale, mixer: str, rows: list[Row]) -> dict[int, float]:
    """Step time over the reference's at each width that was tried, in that order; inf where either did not run."""
    looks: dict[int, float] = {}
    while new := _next(scale, mixer, looks):
        reference, arm = (of_cell(rows, cell) for cell in _cells(scale, mixer, new[0]))
        if not reference or not arm:
            break
        looks[new[0]] = _ratio(reference, arm)
    return looks


def _ratio(reference: Iterable[Row], arm: Iterable[Row]) -> float:
    """Of the medians of a step; inf where either was refused, out of memory or not compiled."""
    medians = []
    for rows in (reference, arm):
        steps = [row["burst_seconds"] / row["calls"] for row in rows if row.get("phase") == "block"]
        if not steps:
            return math.inf
        medians.append(statistics.median(steps))
    return medians[1] / medians[0]


def _next(scale: Scale, mixer: str, looks: dict[int, float]) -> list[int]:
    """The width to try now, or nothing: near enough, no new width, or looks enough."""
    if not looks:
        return [scale.job.width]
    ran = {width: ratio for width, ratio in looks.items() if math.isfinite(ratio)}
    if len(looks) >= LOOKS or (ran and abs(math.log(ran[_nearest(ran)])) <= CLOSE):
        return []
    refused = min((width for width in looks if width not in ran), default=WIDEST * scale.job.width + 1)
    wanted = _crossing(ran) if ran else 0.0
    if not ran or wanted >= refused:  # halfway to what did not run, or is too wide
        wanted = (max((width for width in ran if width < refused), default=0) + refused) / 2
    width = _on_grid(scale, mixer, min(wanted, WIDEST * scale.job.width))
    return [] if width in looks else [width]


def _crossing(looks: dict[int, float]) -> float:
    """The width of ratio 1 by a power law through the nearest look and the one next to it."""
    nearest = _nearest(looks)
    others = sorted((width for width in looks if width != nearest), key=lambda width: abs(math.log(looks[width])))
    exponent = 1.0
    if others:
        rise = math.log(looks[nearest] / looks[others[0]]) / math.log(nearest / others[0])
        exponent = min(3.0, max(0.3, rise))
    return nearest * looks[nearest] ** (-1 / exponent)


def _on_grid(scale: Scale, mixer: str, width: float) -> int:
    """The nearest width that the mixer takes, in steps of about a 32nd of the reference's, a power of two."""
    unit = math.lcm(width_unit(mixer), 1 << max(0, (scale.job.width // 32).bit_length() - 1))
    return unit * max(1, round(width / unit))


def _nearest(looks: dict[int, float]) -> int:
    """The width whose step time is nearest to the reference's; one that did not run only where none did."""
    return min(looks, key=lambda width: abs(math.log(looks[width])))
