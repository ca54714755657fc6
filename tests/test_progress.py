"""What a comparison says of the time that is left, held against the time that it then took."""

import pathlib

import numpy as np
import pytest

from suite import parts
from suite.job import Cell, Job
from suite.scale import SCALES, curve_cells
from suite.sweep.comparison import Comparison
from suite.sweep.options import Options
from suite.sweep.progress import FEWEST, Forecast
from suite.sweep.schedule import Plan, estimate_seconds, shares

# Of every measure: how far the estimates of its cells are off, in one direction for all of them.
OFF = {"learning": 0.7, "gradient_reach": 2.0, "step_time": 1.5, "size": 0.3, "decode": 1.4, "length_accuracy": 0.5}


def quick() -> list[Cell]:
    """The first cells of a comparison at scale quick, in the order in which they are done."""
    scale = SCALES["quick"]
    claims = [parts.load("suite.claims", claim)[0].cells(scale, []) for claim in parts.names("suite.claims")]
    cells = dict.fromkeys([*curve_cells(scale), *(cell for cells in claims for cell in cells)])
    return sorted(cells, key=lambda cell: cell.repeat)


def durations(cells: list[Cell], speed: float, rng: np.random.Generator) -> list[float]:
    """Made up: estimates that are off, a compilation before the first cell of a program, and chance."""
    compiled, seconds = set(), []
    for cell in cells:
        program = cell.job.replace(seed=0, learning_rate=1.0), cell.measure
        compilation = 0 if program in compiled else 6
        compiled.add(program)
        off = OFF.get(cell.measure.partition(":")[0], 1.0) * rng.lognormal(0, 0.3)
        seconds.append((compilation + off * estimate_seconds(cell)) / speed)
    return seconds


def said_and_true(cells: list[Cell], seconds: list[float], children: int, start: float) -> list[tuple[float, float]]:
    """What is said whenever a cell is done, and how long it then takes to the end.

    Children take the next cell as they are done with one, and each begins with `start` seconds, again every 240 s.
    """
    forecast = Forecast(estimate_seconds)
    forecast.expect(cells)
    waiting = list(zip(cells, seconds, strict=True))
    free = [start] * children
    born = [0.0] * children
    events: list[tuple[float, str, Cell]] = []
    while waiting:
        child = free.index(min(free))
        if free[child] - born[child] > 240:
            born[child], free[child] = free[child], free[child] + start
            continue
        cell, taken = waiting.pop(0)
        events += [(free[child], "started", cell), (free[child] + taken, "done", cell)]
        free[child] += taken
    pairs = []
    for now, event, cell in sorted(events, key=lambda event: event[0]):
        forecast.follow(event, cell, 1000 + now)
        if event == "done":
            try:
                pairs.append((forecast.seconds(), max(free) - now))
            except LookupError:
                assert now < 0.5 * max(free), "by half of the time something is said"
    return pairs


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return quick()


@pytest.mark.parametrize(("speed", "children"), [(0.3, 2), (1.0, 1), (1.0, 2), (4.0, 1)])
def test_time_left_is_within_twice_and_half_of_what_it_takes(speed: float, children: int, cells: list[Cell]):
    for seed in range(2):
        seconds = durations(cells, speed, np.random.default_rng(seed))
        pairs = said_and_true(cells, seconds, children, start=10 / speed)
        assert len(pairs) > len(cells) / 2
        for said, true in pairs:  # the last half minute apart, in which a few cells make the difference
            assert true / 2 - 30 / speed < said < 2 * true + 30 / speed, (seed, said, true)


def test_nothing_is_said_before_enough_is_done():
    cells = [Cell(Job(seed=seed), "size") for seed in range(100)]
    forecast = Forecast(lambda cell: 2.0)
    forecast.expect(cells)
    with pytest.raises(LookupError):
        forecast.seconds()
    for number, cell in enumerate(cells[:20]):
        forecast.follow("started", cell, 100.0 + number)
        forecast.follow("done", cell, 101.0 + number)
        if number + 1 < max(FEWEST, 10):
            with pytest.raises(LookupError):
                forecast.seconds()
    assert forecast.seconds() == pytest.approx(80.0)


def test_seconds_before_the_first_cell_and_cells_that_others_did_do_not_count():
    cells = [Cell(Job(seed=seed), "size") for seed in range(20)]
    forecast = Forecast(lambda cell: 1.0)
    forecast.expect(cells)
    for cell in cells[:8]:
        forecast.follow("skipped", cell, 600.0)
    for number, cell in enumerate(cells[8:14]):
        forecast.follow("started", cell, 600.0 + 3 * number)
        forecast.follow("done", cell, 603.0 + 3 * number)
    assert forecast.seconds() == pytest.approx(18.0)


def test_a_cell_that_was_under_way_when_its_process_ended_is_not_under_way():
    cells = [Cell(Job(seed=seed), "size") for seed in range(20)]
    forecast = Forecast(lambda cell: 1.0)
    forecast.expect(cells)
    forecast.follow("started", cells[0], 0.0)
    forecast.expect(cells)
    for number, cell in enumerate(cells[:10]):
        forecast.follow("started", cell, 5.0 + 2 * number)
        forecast.follow("done", cell, 7.0 + 2 * number)
    # Five seconds of twenty-five passed between cells.
    assert forecast.seconds() == pytest.approx(20.0 * 25 / 20)


@pytest.mark.parametrize("children", [1, 2])
def test_fresh_processes_of_a_timing_are_spread_over_the_comparison(children: int) -> None:
    left, over, before = quick(), set(), {}
    untimed = [cell for cell in left if not parts.constant("suite.measures", cell.measure, "PLACED")]
    while left:
        now = dict.fromkeys(cell for share in shares(left, over, set(), children) for cell in share)
        for cell in now:
            if cell.interleave_with and cell.repeat not in before:
                done = sum(estimate_seconds(cell) for cell in untimed if cell in over)
                before[cell.repeat] = done / sum(map(estimate_seconds, untimed))
        over |= now.keys()
        left = [cell for cell in left if cell not in now]
    assert before == pytest.approx({0: 0.0, 1: 0.5, 2: 1.0}, abs=0.2)


def test_children_take_the_cells_of_the_others_from_their_ends() -> None:
    """From their beginnings both would compile the same programs."""
    jobs = [Job(width=width, seed=seed) for width in (8, 16, 24, 32) for seed in (0, 1)]
    first, second = shares([Cell(job, "learning") for job in jobs], set(), set(), 2)
    own = len(first) // 2
    assert {*first[:own]}.isdisjoint(second[:own])
    assert first[own:] == second[:own][::-1]
    assert second[own:] == first[:own][::-1]


def test_children_end_soon_at_first_and_every_hour_in_the_end(tmp_path: pathlib.Path) -> None:
    now = [0.0]
    plan, options = Plan(SCALES["quick"], ()), Options(out=str(tmp_path))
    running = Comparison(plan, options, 0, True, {}, [], lambda comparison, done: None, lambda: now[0])
    told = [running.child_seconds]
    running.over.add(Cell(Job(), "size"))
    for now[0] in (60.0, 2000.0, 1e6):
        told.append(running.child_seconds)
    assert told == [80, 240, 500, 3600]
