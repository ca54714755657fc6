"""Why a step takes as long as it does: every timed cell taken apart, its dominant cause named, and a roofline."""

import dataclasses
import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from suite import parts
from suite.job import Cell
from suite.judging import alike, breakdown, pace
from suite.judging.breakdown import BYTES, CAUSES, DISPATCH, INPUT_WAIT, PRODUCTS, REST, WAITING, Breakdown
from suite.report import cause_figures, figures, words
from suite.report.cause_figures import Bar, Dot
from suite.report.page import Block, Cells, Commands, Heading, Note, Prose, Table
from suite.report.records import Comparison
from suite.report.utilisation import BOTH_WAYS, Machine, Timing, timings
from suite.sweep.record import Row

NOISE = 1.5  # so much longer than the step the mixers' own pass may be on a busy machine; more is an error
MOST_BARS = 60
WIDER = "bfloat16"  # whose products most accelerators take at a higher rate

COLUMNS = ("arm", "length", "batch", "step", *CAUSES, "in a sentence")
ABOUT = (
    "A step by itself on real batches, taken apart: its seconds in a burst of steps that are launched ahead, and what "
    "was measured on top of them. Floors are times that the step cannot undercut: products, its FLOPs at the peak of "
    "their dtype; bytes, its arguments and results once at full bandwidth; waiting, its steps in time one after "
    "another, their number times the latency of one dependent step. Where the mixers' own pass was timed in turns with "
    "the step and is longer, less all products at the peak, waiting is that: all of a chain, whatever each of its "
    "steps does with its time. A device may do all three at once, so floors lie over one another: each column has what "
    "its floor adds to those before it, and together they are the longest of them. Dispatch is what a step takes "
    "longer that is launched alone and waited for, and input wait what it takes longer on real batches, where their 95 "
    "% intervals leave zero. What no floor and no difference explains is the rest: slow kernels, copies or anything "
    "else; what it is was not measured. The dominant cause is the greatest of the longest floor, in full, and "
    "dispatch, input wait and the rest. Decoding is not taken apart: no row says whether its parameters and state come "
    "from memory or from a cache."
)
SENTENCES = {
    PRODUCTS: "multiplies: {share} of it is its products at the peak of {dtype}",
    BYTES: "moves bytes: {share} of it is its arguments and results at full bandwidth",
    WAITING: "waits: {share} of it is its chain of {steps} steps, forward and back",
    DISPATCH: "is dispatched: {share} of it is launching it and waiting for its end",
    INPUT_WAIT: "starves: {share} of it is waiting for its batch",
    REST: "has {share} that no floor explains",
}
OF_FLOOR = {PRODUCTS: "products at the peak", BYTES: "bytes at full bandwidth", WAITING: "its chain of steps"}


@dataclasses.dataclass(frozen=True)
class Cause:
    """A timed cell taken apart."""

    timing: Timing
    breakdown: Breakdown
    steps: int  # that wait for one another, forward and back; 0 where none do, or where that is unknown
    in_bfloat16: float | None  # seconds of its products at that peak, where it is the higher one

    @property
    def row(self) -> Row:
        return self.timing.row

    @property
    def sentence(self) -> str:
        """The dominant cause in a sentence; where a missing floor may be it, that."""
        row, whole = self.row, self.breakdown.whole
        step = f"{words.arm(row['arm'])}'s step at {row['length']:,} tokens, batch {row['batch']},"
        try:
            name, seconds = self.breakdown.dominant
        except LookupError:
            rest = words.percent(self.breakdown.parts[REST] / whole)
            return f"of {step} {rest} are unknown: {words.listed(list(self.breakdown.missing))} may be in it"
        facts = {"share": words.percent(seconds / whole), "dtype": row["dtype"], "steps": f"{self.steps:,}"}
        sentence = f"{step} {SENTENCES[name].format(**facts)}"
        if name == REST:
            floor, least = self.breakdown.longest_floor
            sentence += f"; its longest floor is {OF_FLOOR[floor]}, {words.percent(least / whole)}"
        return f"{sentence}{self._narrower()}"

    def _narrower(self) -> str:
        """What its products would take in a narrower dtype."""
        if self.in_bfloat16 is None:
            return ""
        now, then = (words.seconds(value) for value in (self.breakdown.floors[PRODUCTS], self.in_bfloat16))
        return f"; its products take {now} at {self.row['dtype']}'s peak and would take {then} at {WIDER}'s"


@dataclasses.dataclass(frozen=True)
class Causes:
    """The causes of the timed cells of a place, from its rows."""

    machine: Machine

    def of(self, timing: Timing) -> Cause:
        """A timed cell taken apart; ValueError where a floor is longer than the step."""
        row, machine = timing.row, self.machine
        by_name = {PRODUCTS: machine.products_seconds, BYTES: machine.bytes_seconds, WAITING: self.waiting_seconds}
        floors, missing = {}, {}
        for name, floor in by_name.items():
            try:
                floors[name] = floor(timing)
            except LookupError as error:
                missing[name] = str(error.args[0])
        return Cause(
            timing,
            Breakdown(timing.seconds, floors, added(timing), missing),
            BOTH_WAYS * machine.sequential_steps(row) if WAITING in floors else 0,
            self._in_bfloat16(row, floors[PRODUCTS]) if PRODUCTS in floors else None,
        )

    def waiting_seconds(self, timing: Timing) -> float:
        """The longer floor of its chain: steps times latency, or the mixers' own pass less all products at the peak."""
        row, machine = timing.row, self.machine
        if not machine.sequential_steps(row):
            return 0.0
        if not self.has_chain(row):
            return machine.chain_seconds(timing)
        fraction = self._chains[_key(row)]
        own_pass = timing.seconds * (min(fraction, 1.0) if fraction <= NOISE else fraction)
        measured = max(0.0, own_pass - machine.products_seconds(timing))
        try:
            return max(measured, machine.chain_seconds(timing))
        except LookupError:  # no latency of this device is known
            return measured

    def has_chain(self, row: Row) -> bool:
        """Whether the mixers' own pass was timed beside the step of a row: of one mixer, on one device."""
        return row["n_devices"] == 1 and len(parts.pattern(row["mixer"])) == 1 and _key(row) in self._chains

    def _in_bfloat16(self, row: Row, products: float) -> float | None:
        """Seconds of the products at the peak of bfloat16; None where that is not known, or is no higher."""
        try:
            there, here = self.machine.peak({**row, "dtype": WIDER}), self.machine.peak(row)
        except LookupError:
            return None
        faster = there.flops_per_second > here.flops_per_second
        return products * here.flops_per_second / there.flops_per_second if faster else None

    @functools.cached_property
    def _chains(self) -> dict[tuple, float]:
        """The mixers' own pass over the step that it took turns with, the best of each: a busy machine slows both."""
        turns: dict[tuple, list[Row]] = defaultdict(list)
        for row in self.machine.rows:
            if row.get("phase") == "chain" and row["outcome"] == "ok":
                turns[_key(row)].append(row)
        return {key: _least(rows, "chain_seconds") / _least(rows, "step_seconds") for key, rows in turns.items()}


def _least(rows: list[Row], column: str) -> float:
    return min(row[column] for row in rows)


def _key(row: Row) -> tuple:
    return alike.of_row(row, (*alike.MODEL, *alike.PROGRAM)), row["place"]


def added(timing: Timing) -> dict[str, float]:
    """Seconds of a step that were measured on top of its burst, where they were. A burst of one step is no burst."""
    blocks = [row for row in timing.rows if row.get("phase") == "block" and row["calls"] > 1]
    alone = [row["fenced_seconds"] - row["burst_seconds"] / row["calls"] for row in blocks]
    fed = [
        (row["fed_seconds"] - row["burst_seconds"]) / row["calls"] for row in timing.rows if row.get("phase") == "fed"
    ]
    differences = {DISPATCH: alone, INPUT_WAIT: fed}
    return {name: breakdown.beyond_doubt(values) for name, values in differences.items() if values}


def causes(comparison: Comparison) -> Iterator[Block]:
    """The section: a bar and a sentence for each timed cell, the roofline, and the commands of what is missing."""
    timed = [timing for timing in timings(comparison.rows) if timing.row["arm"] in comparison.arms]
    timed = [timing for timing in timed if timing.step_seconds and not pace.is_look(timing.row)]
    if not timed:
        return
    of_machine = Causes(Machine(comparison.rows))
    notes: dict[str, int] = {}
    lines, apart = [], []
    for timing in timed:
        try:
            cause = of_machine.of(timing)
        except ValueError as error:
            number = notes.setdefault(str(error.args[0]), len(notes) + 1)
            lines.append((*_start(timing), *[""] * len(CAUSES), f"not taken apart [{number}]"))
            continue
        apart.append(cause)
        lines.append(_line(cause, notes))
    yield Heading("Why a step takes as long as it does (not judged)", name="causes")
    yield Prose(ABOUT)
    yield from cause_figures.shares([_bar(cause) for cause in apart[:MOST_BARS]])
    yield Table(COLUMNS, tuple(lines), tuple(notes))
    yield from _roofline(comparison, of_machine.machine, timed)
    if comparison.command:
        yield Commands((comparison.command,))
    yield Commands(tuple(comparison.commands([row for timing in timed for row in timing.rows])), "each line by itself")
    if wanted := dict.fromkeys(cell for timing in timed for cell in _wanted(comparison, of_machine, timing)):
        commands = tuple(cell.command(comparison.out) for cell in wanted)
        yield Commands(commands, "what is unknown, and longer floors of waiting: these commands measure them")


def _wanted(comparison: Comparison, of_machine: Causes, timing: Timing) -> Iterator[Cell]:
    """The cells whose rows would tell a floor of this one that is missing, or a longer one of its chain."""
    row, machine = timing.row, of_machine.machine
    job = comparison.jobs[row["run_id"]]
    if row["platform"] == "cpu" and not _is_known(machine.peak, row):
        yield Cell(job, "peak")
    if not _is_known(machine.flops_per_token, row):
        yield Cell(job, "size")
    if not _is_known(machine.sequential_steps, row):
        yield Cell(job.replace(length=2 * job.length, lengths=""), "size")
    elif machine.sequential_steps(row) and row["n_devices"] == 1 and not of_machine.has_chain(row):
        # What the measure refuses is not asked of it.
        yield from [] if job.microbatch or job.reset else [Cell(job, "chain")]
    if not _is_known(machine.bytes_per_second, timing):
        yield Cell(job, row["measure"])


def _is_known(look_up: Callable[..., object], of: Row | Timing) -> bool:
    try:
        look_up(of)
    except LookupError:
        return False
    return True


def _start(timing: Timing) -> Cells:
    row = timing.row
    return row["arm"], words.number(row["length"]), str(row["batch"]), words.seconds(timing.seconds)


def _line(cause: Cause, notes: dict[str, int]) -> Cells:
    """The cells of a timed cell under COLUMNS: shares of the whole, and why one is unknown in the notes."""
    taken, shares = cause.breakdown, []
    for name in CAUSES:
        if name in taken.missing:
            shares.append(f"unknown\N{NO-BREAK SPACE}[{notes.setdefault(taken.missing[name], len(notes) + 1)}]")
        else:
            shares.append(words.percent(taken.parts[name] / taken.whole) if name in taken.parts else "")
    start = _start(cause.timing)
    return *start[:-1], words.seconds(taken.whole), *shares, cause.sentence


def _bar(cause: Cause) -> Bar:
    row, taken = cause.row, cause.breakdown
    name = f"{row['length']:,} tokens, batch {row['batch']}: {row['arm']}"
    shares = {part: seconds / taken.whole for part, seconds in taken.parts.items()}
    return Bar(name, shares, cause.sentence)


def _roofline(comparison: Comparison, machine: Machine, timed: list[Timing]) -> Iterator[Block]:
    """Intensity against attained FLOP/s a device, for the dtype of most cells; nothing without its peaks."""
    [(dtype, _), *others] = Counter(timing.row["dtype"] for timing in timed).most_common()
    dots, peak = [], None
    for timing in (timing for timing in timed if timing.row["dtype"] == dtype):
        row = timing.row
        try:
            peak = machine.peak(row)
            attained = machine.mfu(timing) * peak.flops_per_second
            intensity = attained / machine.bytes_per_second(timing)
        except (LookupError, ValueError):  # the table says why
            continue
        dots.append(Dot(row["arm"], row["length"], row["batch"], intensity, attained))
    if peak is None or not dots:
        return
    roof = cause_figures.Roof(peak.flops_per_second, peak.bytes_per_second, dtype, peak.source)
    yield from cause_figures.roofline(dots, roof, figures.styles(list(comparison.arms)))
    if others:
        names = words.listed([f"{count} in {name}" for name, count in others])
        yield Note(f"Of other dtypes there are steps that are not drawn: {names}.")
