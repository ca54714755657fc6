"""Widths found by timing: looks at one width after another until the step takes as long as the reference's."""

import dataclasses
from collections.abc import Callable

import pytest

from suite import pace
from suite.job import Cell, Job
from suite.scale import SCALES, Scale
from suite.store import Row

SCALE = dataclasses.replace(
    SCALES["quick"], arms=("lstm", "attention:heads=6"), match="step_time", job=Job(width=96, length=64), lengths=(64,)
)


def timed(cell: Cell, seconds: float) -> list[Row]:
    place = {"measure": cell.measure, "repeat": cell.repeat, "group": cell.group, "run_id": cell.job.id}
    compiled = {"phase": "compile", "compile_seconds": 1.0, **place}
    return [compiled, *({"phase": "block", "burst_seconds": 5 * seconds, "calls": 5, **place} for _ in range(3))]


def look(scale: Scale, seconds: Callable[[Job], float]) -> list[Row]:
    """Times what is asked for, round by round, until nothing is."""
    rows: list[Row] = []
    done: set[Cell] = set()
    while left := [cell for cell in pace.cells(scale, rows) if cell not in done]:
        assert not pace.is_settled(scale, rows)
        for cell in left:
            rows += timed(cell, seconds(cell.job))
            done.add(cell)
    return rows


def width(job: Job) -> int:
    return job.own_width or job.width


@pytest.mark.parametrize("power", [0.8, 1.3, 2.0])
@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_looks_come_to_the_width_that_takes_as_long(power: float, factor: float):
    rows = look(SCALE, lambda job: width(job) ** power * (factor if job.match_to else 1.0))
    assert pace.is_settled(SCALE, rows)
    [(arm, found)] = pace.own_widths(SCALE, rows).items()
    wanted = 96 * factor ** (-1 / power)
    assert arm == "attention:heads=6"
    assert found % 12 == 0, "six heads of even size"
    assert abs(found - wanted) <= 12, "as near as such widths lie"
    assert len({row["group"] for row in rows}) <= pace.LOOKS


def test_a_look_times_both_in_one_group():
    cells = pace.cells(SCALE, [])
    assert [cell.job.mixer.split(":")[0] for cell in cells] == ["lstm", "attention"]
    assert len({(cell.group, cell.repeat) for cell in cells}) == 1
    assert [width(cell.job) for cell in cells] == [96, 96]


def test_times_that_do_not_rise_with_the_width_end_it_too():
    rows = look(SCALE, lambda job: 3.0 if job.match_to else 1.0)
    assert pace.is_settled(SCALE, rows)
    assert len({row["group"] for row in rows}) <= pace.LOOKS


def test_an_arm_that_is_out_of_memory_is_tried_at_half_the_width():
    first = pace.cells(SCALE, [])
    rows = [row for cell in first[:1] for row in timed(cell, 1.0)]
    rows.append(timed(first[1], 1.0)[0] | {"phase": "", "outcome": "oom"})
    assert {width(cell.job) for cell in pace.cells(SCALE, rows) if cell.job.match_to} == {96, 48}


def test_an_arm_that_never_runs_ends_the_looks():
    scale, rows, tried = SCALE, [], set()
    while left := [cell for cell in pace.cells(scale, rows) if cell not in tried]:
        for cell in left:
            tried.add(cell)
            rows += timed(cell, 1.0)[: 1 if cell.job.match_to else 4]
    assert pace.is_settled(scale, rows)
