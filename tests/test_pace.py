"""Widths found by timing: looks at one width after another until the step takes as long as the reference's."""

import dataclasses
from collections.abc import Callable

import pytest

from suite.job import Cell, Job
from suite.judging import pace
from suite.scale import SCALES, Scale
from suite.sweep.record import Row

ARMS = ("attention:heads=6",)
SCALE = dataclasses.replace(
    SCALES["quick"], arms=("lstm", *ARMS), match="step_time", job=Job(width=96, length=64), lengths=(64,)
)


def timed(cell: Cell, seconds: float) -> list[Row]:
    place = {
        "measure": cell.measure,
        "repeat": cell.repeat,
        "interleave_with": cell.interleave_with,
        "run_id": cell.job.id,
    }
    place["match_to"] = cell.job.match_to
    compiled = {"phase": "compile", "compile_seconds": 1.0, **place}
    return [compiled, *({"phase": "block", "burst_seconds": 5 * seconds, "calls": 5, **place} for _ in range(3))]


def refused(cell: Cell) -> list[Row]:
    return [timed(cell, 1.0)[0] | {"outcome": "oom"}]


def width_of(row: Row) -> int:
    return int(row["interleave_with"].split()[-1])


def look(scale: Scale, seconds: Callable[[Job], float]) -> list[Row]:
    """Times what is asked for, round by round, until nothing is."""
    rows: list[Row] = []
    done: set[Cell] = set()
    while left := [cell for cell in pace.cells(scale, ARMS, rows) if cell not in done]:
        assert not pace.is_settled(scale, ARMS, rows)
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
    assert pace.is_settled(SCALE, ARMS, rows)
    [(arm, found)] = pace.own_widths(SCALE, ARMS, rows).items()
    wanted = min(pace.WIDEST * 96, 96 * factor ** (-1 / power))
    assert arm == "attention:heads=6"
    assert found % 12 == 0, "six heads of even size"
    assert abs(found - wanted) <= 12, "as near as such widths lie"
    assert len({row["interleave_with"] for row in rows}) <= pace.LOOKS


def test_a_look_times_both_in_one_group():
    cells = pace.cells(SCALE, ARMS, [])
    assert [cell.job.mixer.split(":")[0] for cell in cells] == ["lstm", "attention"]
    assert len({(cell.interleave_with, cell.repeat) for cell in cells}) == 1
    assert [width(cell.job) for cell in cells] == [96, 96]


@pytest.mark.parametrize("seconds", [3.0, 0.3])
def test_times_that_do_not_change_with_the_width_end_it_too(seconds: float):
    rows = look(SCALE, lambda job: seconds if job.match_to else 1.0)
    assert pace.is_settled(SCALE, ARMS, rows)
    assert len({row["interleave_with"] for row in rows}) <= pace.LOOKS
    assert max(width_of(row) for row in rows) <= pace.WIDEST * 96


def test_a_time_that_is_mostly_overhead_is_followed_to_its_crossing():
    rows = look(SCALE, lambda job: 0.6 + width(job) / 480 if job.match_to else 1.0)
    assert abs(pace.own_widths(SCALE, ARMS, rows)[ARMS[0]] - 192) <= 12


def test_an_arm_that_is_out_of_memory_is_tried_at_half_the_width():
    first = pace.cells(SCALE, ARMS, [])
    rows = [row for cell in first[:1] for row in timed(cell, 1.0)]
    rows += refused(first[1])
    assert {width(cell.job) for cell in pace.cells(SCALE, ARMS, rows) if cell.job.match_to} == {96, 48}


def test_a_width_that_did_not_run_is_approached_by_halves():
    rows: list[Row] = []
    tried: dict[Cell, None] = {}
    while left := [cell for cell in pace.cells(SCALE, ARMS, rows) if cell not in tried]:
        for cell in left:
            tried[cell] = None
            fits = width(cell.job) <= 150
            rows += timed(cell, width(cell.job) / 960 if cell.job.match_to else 1.0) if fits else refused(cell)
    widths = list(dict.fromkeys(width(cell.job) for cell in tried if cell.job.match_to))
    assert max(widths) <= pace.WIDEST * 96
    assert 120 <= pace.own_widths(SCALE, ARMS, rows)[ARMS[0]] <= 150


@pytest.mark.parametrize("runs", ["the arm", "the reference", "neither"])
def test_a_pair_that_never_runs_ends_the_looks(runs: str):
    rows, tried = [], set()
    while left := [cell for cell in pace.cells(SCALE, ARMS, rows) if cell not in tried]:
        for cell in left:
            tried.add(cell)
            does = runs == ("the arm" if cell.job.match_to else "the reference")
            rows += timed(cell, 1.0) if does else refused(cell)
    assert pace.is_settled(SCALE, ARMS, rows)
    assert pace.own_widths(SCALE, ARMS, rows)
    labelled = [row | {"arm": ARMS[0] if row["match_to"] else "lstm"} for row in rows]
    with pytest.raises(LookupError, match="attention:heads=6 was not timed beside the reference"):
        pace.mismatch(labelled, ARMS[0])
