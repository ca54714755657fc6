"""Over devices: what each arm sends for a token, and how its speed holds as devices grow. Nothing of it is judged."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from suite import parts
from suite.claims import Figure, Point
from suite.judging.statistics import Interval, ratio_interval
from suite.report import figures, words
from suite.report.page import Block, Cells, Commands, Heading, Prose, Table
from suite.report.records import Comparison
from suite.sweep.record import Row

ALL = "all"  # as the measure `collectives` names the sum of its rows
MOST_OPERATIONS = 4  # of a cell in its line
SENT_COLUMNS = (
    *("arm", "devices", "mesh", "length", "tokens a device", "sent a step", "sent a token", "in loops", "over time"),
    "most of it",
)
SCALING_COLUMNS = ("arm", "devices", "mesh", "tokens/s a device", "of the fewest", "not its own step", "processes")


class Cell(NamedTuple):
    """The collectives of one training step on one mesh: a row for each kind of them, and that of their sum."""

    total: Row
    rows: list[Row]

    def bytes_in(self, loops: str) -> int:
        return sum(row["sent_bytes"] for row in self.rows if row["loops"] == loops)


class Scaled(NamedTuple):
    """The step of one job on so many devices: tokens a second a device in each round, and its share of the fewest's."""

    row: Row
    rates: list[float]
    spread: float  # the slowest process over the fastest
    logs: list[float]  # of the rate over that on the fewest devices: one a process, or of one process one a round


def over_devices(comparison: Comparison) -> Iterator[Block]:
    """The section: bytes sent and weak scaling, each a figure and a table; nothing where neither was measured."""
    cells = _cells(comparison)
    scaled = _scaled(comparison)
    if not cells and len({one.row["devices"] for one in scaled}) < 2:
        return
    yield Heading("Over devices (not judged)", name="over devices")
    if cells:
        yield from _sent(comparison, cells)
    if len({one.row["devices"] for one in scaled}) > 1:
        yield from _weak_scaling(comparison, scaled)
    rows = [*(cell.total for cell in cells), *(one.row for one in scaled)]
    yield Commands(tuple(comparison.commands(rows)), "each line by itself, on its own devices")


def _cells(comparison: Comparison) -> list[Cell]:
    """By arm, length, devices and mesh; of any place, as no clock is in them, and once, as a repeat is no different."""
    by_cell: dict[tuple, list[Row]] = defaultdict(list)
    for row in (row for row in comparison.over_devices if row["repeat"] == 0):
        by_cell[row["run_id"], row["place"]].append(row)
    cells = [
        Cell(total, [row for row in rows if row["operation"] != ALL])
        for rows in by_cell.values()
        for total in rows
        if total["operation"] == ALL
    ]

    def order(cell: Cell) -> tuple:
        row = cell.total
        return comparison.order(row["arm"]), row["length"], row["n_devices"], row["mesh"], row["batch"]

    return sorted(cells, key=order)


def _sent(comparison: Comparison, cells: list[Cell]) -> Iterator[Block]:
    yield Prose(
        "Bytes that one device sends in a training step, read from the compiled program: no clock is in them. A "
        "collective operation sends between devices by the cost of a ring: of n devices, an all-gather n - 1 times "
        "its operand, a reduce-scatter (n - 1) / n of it, an all-reduce both, a permute its operand. A token's are "
        "those over the device's share of the batch. What is sent in a loop over time waits at every turn."
    )
    names = _series(cells)
    points = [
        Point(name, cell.total["n_devices"], cell.total["sent_bytes_per_token"])
        for name, cell in zip(names, cells, strict=True)
        if cell.total["sent_bytes"]
    ]
    figure = Figure(
        name="over_devices_sent",
        title="Bytes that a device sends for each token that it trains on",
        x="devices",
        y="bytes sent a token",
        points=tuple(points),
        exact=True,
    )
    yield from figures.chart(figure, figures.styles_of(figure, comparison.arms))
    yield Table(SENT_COLUMNS, tuple(map(_line, cells)))


def _series(cells: list[Cell]) -> list[str]:
    """A name for the line of each cell: its arm, and of mesh, length and batch what keeps two of its points apart."""
    parts_of = [
        (cell.total["arm"], _axes(cell.total), f"{cell.total['length']:,} tokens", _batch(cell.total)) for cell in cells
    ]
    names = [arm for arm, *_ in parts_of]
    for index in (1, 2, 3):
        at = [(name, cell.total["n_devices"]) for name, cell in zip(names, cells, strict=True) if cell.rows]
        if len(set(at)) == len(at):
            break
        names = [f"{name}, {values[index]}" for name, values in zip(names, parts_of, strict=True)]
    return names


def _axes(row: Row) -> str:
    """The axes of a mesh without their sizes: data+fsdp."""
    return "+".join(axis.partition(":")[0] for axis in row["mesh"].split(","))


def _batch(row: Row) -> str:
    return f"{words.number(row['tokens'])} a device"


def _line(cell: Cell) -> Cells:
    """The cells of a training step under SENT_COLUMNS."""
    total = cell.total
    sent: Counter[str] = Counter()
    for row in cell.rows:
        sent[f"{row['operation']} over {row['axes']}"] += row["sent_bytes"]
    most = [f"{name} {words.percent(part / total['sent_bytes'])}" for name, part in sent.most_common(MOST_OPERATIONS)]
    return (
        total["arm"],
        str(total["n_devices"]),
        total["mesh"],
        words.number(total["length"]),
        words.number(total["tokens"]),
        words.si(total["sent_bytes"], "B"),
        words.si(total["sent_bytes_per_token"], "B"),
        words.si(cell.bytes_in("in_a_loop"), "B"),
        words.si(cell.bytes_in("in_time"), "B"),
        ", ".join(most),
    )


def _scaled(comparison: Comparison) -> list[Scaled]:
    """Each job of the measure `weak_scaling` on each number of devices, at the place of the report."""
    jobs: dict[str, list[Row]] = defaultdict(list)
    for row in comparison.rows:
        if parts.split(row["measure"])[0] == "weak_scaling" and row["outcome"] == "ok":
            jobs[row["run_id"]].append(row)
    ordered = sorted(jobs.values(), key=lambda rows: (comparison.order(rows[0]["arm"]), rows[0]["length"]))
    return [scaled for rows in ordered for scaled in _of_job(rows)]


def _of_job(rows: list[Row]) -> Iterator[Scaled]:
    fewest = min(row["devices"] for row in rows)
    base = {(row["repeat"], row["turn"]): _rate(row) for row in rows if row["devices"] == fewest}
    for devices in sorted({row["devices"] for row in rows}):
        here = [row for row in rows if row["devices"] == devices and (row["repeat"], row["turn"]) in base]
        paired: dict[int, list[float]] = defaultdict(list)
        for row in here:
            paired[row["repeat"]].append(math.log(_rate(row) / base[row["repeat"], row["turn"]]))
        processes = [statistics.median(logs) for logs in paired.values()]
        [logs, *others] = paired.values()
        spread = statistics.median(row["slowest_seconds"] / row["fastest_seconds"] for row in here)
        yield Scaled(here[0], [_rate(row) for row in here], spread, processes if others else logs)


def _rate(row: Row) -> float:
    """Tokens a second a device."""
    return row["tokens"] / row["burst_seconds"] / row["devices"]


def _kept(scaled: Scaled) -> Interval:
    """The rate over that on the fewest devices, in the same rounds; of one round alone without an interval."""
    if len(scaled.logs) > 1:
        return ratio_interval(scaled.logs)
    value = math.exp(scaled.logs[0])
    return Interval(value, value, value)


def _weak_scaling(comparison: Comparison, scaled: list[Scaled]) -> Iterator[Block]:
    cores = comparison.place["platform"] == "cpu"
    shared = (
        " The devices here share the cores of one CPU, so that most of what is lost is lost to that." if cores else ""
    )
    yield Prose(
        "Weak scaling: the training step on more and more devices with the same batch on each, in turns, so that each "
        "ratio is of one round. What a device does is the same; time that one device's step does not explain went "
        f"into communication, waiting and contention.{shared}"
    )
    lengths = {one.row["length"] for one in scaled}
    intervals = [_kept(one) for one in scaled]
    points = [
        Point(
            f"{one.row['arm']}, {one.row['length']:,} tokens" if len(lengths) > 1 else one.row["arm"],
            one.row["devices"],
            *kept,
        )
        for one, kept in zip(scaled, intervals, strict=True)
    ]
    figure = Figure(
        name="over_devices_scaling",
        title="Tokens a second a device, over those on the fewest devices",
        x="devices",
        y="fraction kept",
        points=tuple(points),
        log_y=False,
    )
    yield from figures.chart(figure, figures.styles_of(figure, comparison.arms), "95 % intervals of the paired ratio")
    lines = [_scaling_line(one, kept) for one, kept in zip(scaled, intervals, strict=True)]
    yield Table(SCALING_COLUMNS, tuple(lines))


def _scaling_line(one: Scaled, kept: Interval) -> Cells:
    """The cells of a job on so many devices under SCALING_COLUMNS."""
    lost = f"{words.percent(1 - kept.value)} ({words.percent(1 - kept.high)} to {words.percent(1 - kept.low)})"
    several = one.row["n_processes"] > 1
    return (
        one.row["arm"],
        str(one.row["devices"]),
        one.row["mesh_axes"],
        words.number(statistics.median(one.rates)),
        words.percent(kept.value),
        lost if kept.low < kept.high else "0 %",
        f"slowest {words.number(one.spread)}x the fastest" if several else "one",
    )
