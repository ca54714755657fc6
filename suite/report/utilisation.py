"""The machine: how well a training step uses it (MFU, bandwidth, fraction of attainable), and its environment."""

import dataclasses
import functools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator

from suite import hardware, mixtures, parts
from suite.claims.parallelism import LADDER
from suite.judging import alike, pace
from suite.report import words
from suite.report.page import Block, Commands, Heading, Prose, Table, Terms
from suite.report.records import Comparison
from suite.sweep.record import Row

TRAINING = 3  # a training step does the forward pass and twice as much again backward
BOTH_WAYS = 2  # the backward pass waits for its own chain, as long as the forward one


@dataclasses.dataclass(frozen=True)
class Peak:
    """One device of the place: FLOP/s in the dtype of the products, bytes/s, and who says so."""

    flops_per_second: float
    bytes_per_second: float
    source: str


@dataclasses.dataclass(frozen=True)
class Timing:
    """The training step of one job: medians over fresh processes. `measured` lacks what was not measured."""

    row: Row  # any row of it, for the conditions
    rows: list[Row]  # of every outcome
    step_seconds: list[float]  # one a process
    measured: dict[str, float]

    @property
    def seconds(self) -> float:
        return statistics.median(self.step_seconds)

    @property
    def tokens_per_second(self) -> float:
        """Tokens that training learns from: of a mixture of lengths the padding is none of them."""
        mixture = mixtures.of({"lengths": "", **self.row}["lengths"], self.row["length"])
        return self.row["batch"] * mixture.mean / self.seconds


def timings(rows: list[Row]) -> list[Timing]:
    """The timing of each job, failed ones too; by length, batch and arm."""
    jobs: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["measure"].split(":")[0] == "step_time":
            jobs[row["run_id"]].append(row)
    every = map(_timing, jobs.values())
    return sorted(every, key=lambda timing: (timing.row["length"], timing.row["batch"], timing.row["arm"]))


def _timing(rows: list[Row]) -> Timing:
    compiled = [row for row in rows if row.get("phase") == "compile"]
    # The short timings of the batch ladder count only where there are no others.
    rows = [row for row in rows if row["interleave_with"] != LADDER] or rows
    processes: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.get("phase") == "block":
            processes[row["repeat"]].append(row["burst_seconds"] / row["calls"])
    measured = {}
    if compiled:
        fresh = [row["compile_seconds"] for row in compiled if not row["cached"]]
        name = "compile_seconds" if fresh else "cached_compile_seconds"
        measured[name] = max(fresh or (row["compile_seconds"] for row in compiled))
        names = {"argument_bytes": "argument_bytes", "output_bytes": "output_bytes", "peak_temp_bytes": "temp_bytes"}
        measured |= {name: compiled[-1][field] for name, field in names.items()}
    fed = [row for row in rows if row.get("phase") == "fed"]
    if fed:
        measured["fed_step_seconds"] = statistics.median(row["fed_seconds"] / row["calls"] for row in fed)
        waits = [1 - row["burst_seconds"] / row["fed_seconds"] for row in fed]
        measured["input_wait_fraction"] = statistics.median(waits)
    of_timing = next((row for row in rows if row["outcome"] == "ok"), rows[0])
    return Timing(of_timing, rows, [statistics.median(values) for values in processes.values()], measured)


@dataclasses.dataclass(frozen=True)
class Machine:
    """The rows of a place: the peaks of its devices and the sizes of its models."""

    rows: list[Row]

    def peak(self, row: Row) -> Peak:
        """The peak of the device of a row, of a CPU as it was measured there; LookupError where it is unknown."""
        if row["platform"] != "cpu":
            peak = hardware.peak(row["device_kind"])
            return Peak(hardware.flops_per_second(peak, row["dtype"]), peak.bytes_per_second, peak.source)
        measured = self._measured_peak(row)
        return Peak(measured["flops_per_second"], measured["bytes_per_second"], "measured here by the measure `peak`")

    def step_latency(self, row: Row) -> float:
        """Seconds of one dependent step on the device of a row; LookupError where nobody has measured it."""
        if row["platform"] != "cpu":
            return hardware.step_seconds(row["device_kind"])
        return self._measured_peak(row)["step_seconds"]

    def flops_per_token(self, row: Row) -> float:
        return self._model(row)["flops_per_token"]

    def sequential_steps(self, row: Row) -> int:
        """Steps of the form that ran that wait for the step before; 0 where its depth hardly grows with length."""
        here = self._model(row)
        others = [
            other
            for (shape, _), other in self._models.items()
            if shape == alike.of_row(row, alike.MODEL) and other is not here
        ]
        if not others:
            raise LookupError(
                f"no size rows of {row['arm']} at a second length, which tell whether it runs step by step"
            )
        other = min(others, key=lambda other: abs(other["length"] - row["length"]))
        growth = (other["sequential_depth_ran"] - here["sequential_depth_ran"]) / (other["length"] - row["length"])
        blocks = 1 if "+" in row["mixer"] else row["depth"]  # of a hybrid at least one is a recurrence
        return row["length"] * blocks if growth >= 1 else 0

    def mfu(self, timing: Timing) -> float:
        """Model FLOP/s over peak FLOP/s; ValueError above 1, which no honest count gives.

        They are of the batch that was timed, whose examples all have the job's length.
        """
        peak, row = self.peak(timing.row), timing.row
        flops_per_second = TRAINING * self.flops_per_token(row) * row["batch"] * row["length"] / timing.seconds
        return _share(flops_per_second / (peak.flops_per_second * row["n_devices"]), "MFU")

    def bytes_per_second(self, timing: Timing) -> float:
        """The least traffic of one device: each argument is read once and each result is written once."""
        if "argument_bytes" not in timing.measured:
            raise LookupError("no row of the compilation")
        return (timing.measured["argument_bytes"] + timing.measured["output_bytes"]) / timing.seconds

    def products_seconds(self, timing: Timing) -> float:
        """The least time of a step's products: its FLOPs at the peak of all devices."""
        peak, row = self.peak(timing.row), timing.row
        flops = TRAINING * self.flops_per_token(row) * row["batch"] * row["length"]
        return flops / (peak.flops_per_second * row["n_devices"])

    def bytes_seconds(self, timing: Timing) -> float:
        """The least time of its traffic: the bytes that one device moves at least, at full bandwidth."""
        return self.bytes_per_second(timing) * timing.seconds / self.peak(timing.row).bytes_per_second

    def chain_seconds(self, timing: Timing) -> float:
        """The least time of its steps that wait for one another; 0 where none do."""
        steps = self.sequential_steps(timing.row)
        return BOTH_WAYS * steps * self.step_latency(timing.row) if steps else 0.0

    def floor_seconds(self, timing: Timing) -> float:
        """The least time of a step: its FLOPs at the peak, its bytes at full bandwidth or its chain of steps."""
        return max(self.products_seconds(timing), self.bytes_seconds(timing), self.chain_seconds(timing))

    def fraction_of_attainable(self, timing: Timing) -> float:
        return _share(self.floor_seconds(timing) / timing.seconds, "the fraction of attainable")

    def derived(self, timing: Timing) -> dict[str, Callable[[Timing], float]]:
        """The metrics of a timing that need other rows or peaks; each raises where these are missing."""
        if not timing.step_seconds:
            return {}
        return {
            "mfu": self.mfu,
            "bandwidth_bytes_per_second": self.bytes_per_second,
            "fraction_of_attainable": self.fraction_of_attainable,
        }

    def _measured_peak(self, row: Row) -> Row:
        at = row["place"], row["dtype"]
        if at not in self._measured_peaks:
            raise LookupError(f"no peak of {at[0]} in {at[1]} was measured; run the measure `peak`")
        return self._measured_peaks[at]

    @functools.cached_property
    def tasks(self) -> dict[str, str]:
        """The short spec of each task."""
        return {spec: parts.short("suite.tasks", spec) for spec in {row["task"] for row in self.rows}}

    @functools.cached_property
    def _measured_peaks(self) -> dict[tuple[str, str], Row]:
        return {(row["place"], row["dtype"]): row for row in self.rows if row.get("phase") == "peak"}

    @functools.cached_property
    def _models(self) -> dict[tuple[tuple, int], Row]:
        return {
            (alike.of_row(row, alike.MODEL), row["length"]): row for row in self.rows if row.get("phase") == "model"
        }

    def _model(self, row: Row) -> Row:
        """The size row of the model of a row, at any batch."""
        at = alike.of_row(row, alike.MODEL), row["length"]
        if at not in self._models:
            raise LookupError(f"no size rows of {row['arm']} at {row['length']:,} tokens; run the measure `size`")
        return self._models[at]


COLUMNS = (
    *("arm", "length", "batch", "step", "tokens/s", "MFU", "bandwidth, at least", "of attainable", "compile"),
    "input wait",
)


def utilisation(comparison: Comparison) -> Iterator[Block]:
    """A line for each timed job; a quantity that cannot be derived has its reason beneath."""
    timed = [timing for timing in timings(comparison.rows) if timing.row["arm"] in comparison.arms]
    timed = [timing for timing in timed if not pace.is_look(timing.row)]
    if not timed:
        return
    machine = Machine(comparison.rows)
    notes: dict[str, int] = {}
    lines = tuple(_line(machine, timing, notes) for timing in timed)
    yield Heading("Utilisation of a training step")
    yield Prose(
        "Medians over fresh processes. MFU, model FLOPs utilisation, is the model's causal FLOPs a second, of three "
        "forward passes a step, over the peak of the devices. Bandwidth counts each argument and result of a step "
        "once, so it is a lower bound. Attainable is the longest of three times that no step can undercut: its FLOPs "
        "at the peak, those bytes at full bandwidth, and its steps that wait for one another; the column has it over "
        "the measured time. Input wait is what real batches add to resident ones."
    )
    yield Table(COLUMNS, lines, tuple(notes))
    if comparison.command:
        yield Commands((comparison.command,))
    cells = comparison.commands([row for timing in timed for row in timing.rows])
    yield Commands(tuple(cells), "each line by itself")


def _line(machine: Machine, timing: Timing, notes: dict[str, int]) -> tuple[str, ...]:
    """The cells of a timing under COLUMNS; the reason of each that is unknown is numbered in `notes`."""

    def derived(name: str, show: Callable[[float], str]) -> str:
        try:
            return show(derivations[name](timing))
        except (LookupError, ValueError) as error:
            return f"unknown\N{NO-BREAK SPACE}[{notes.setdefault(str(error.args[0]), len(notes) + 1)}]"

    row, measured, derivations = timing.row, timing.measured, machine.derived(timing)
    failed = sorted({words.outcome(row["outcome"]) for row in timing.rows} - {"ok"})
    start = (row["arm"], words.number(row["length"]), str(row["batch"]))
    if not timing.step_seconds:
        return *start, ", ".join(failed) or "not timed yet", *[""] * 6
    return (
        *start,
        ", ".join([words.seconds(timing.seconds), *failed]),
        words.number(timing.tokens_per_second),
        derived("mfu", words.percent),
        derived("bandwidth_bytes_per_second", lambda value: words.si(value, "B/s")),
        derived("fraction_of_attainable", words.percent),
        words.seconds(measured["compile_seconds"]) if "compile_seconds" in measured else "from cache",
        words.percent(max(0.0, measured["input_wait_fraction"])) if "input_wait_fraction" in measured else "",
    )


def environment(comparison: Comparison) -> Iterator[Block]:
    """The devices, the packages, the peaks, the corpora and the flags."""
    pairs = [("Device", comparison.where)]
    if comparison.place:
        pairs.append(("Place of the rows", comparison.place["place"]))
    if env := comparison.environment:
        memory = words.si(float(env["memory_bytes"]), "B")
        variables = ", ".join(f"{name}={value}" for name, value in sorted(env["variables"].items()))
        pairs += [
            ("Processor", f"{env['cpu']}, {env['cores']} cores, {memory} of memory"),
            ("System", f"{env['platform']}, Python {env['python']}"),
            ("Packages", ", ".join(f"{name} {version}" for name, version in env["packages"].items())),
            ("Commit", f"{env['commit']}, sources {env['source']}"),
            ("Variables", variables or "none set"),
        ]
    pairs += [("Peak", text) for text in _peaks(comparison)]
    pairs += [("Corpus, sha256", text) for text in comparison.corpora]
    yield Heading("Environment")
    yield Terms(tuple(pairs))
    if comparison.flags:
        yield Commands(tuple(comparison.flags.splitlines()), "all flags, as for --flagfile")


def _peaks(comparison: Comparison) -> Iterator[str]:
    machine = Machine(comparison.rows)
    placed = [row for row in comparison.rows if row["placed"] and "implementation" in row]
    for (name, dtype), row in sorted({(row["device_kind"], row["dtype"]): row for row in placed}.items()):
        try:
            peak = machine.peak(row)
        except LookupError as error:
            yield str(error.args[0])
            continue
        speeds = f"{words.si(peak.flops_per_second, 'FLOP/s')} in {dtype}, {words.si(peak.bytes_per_second, 'B/s')}"
        yield f"{name}: {speeds} a device ({peak.source})"


def _share(value: float, name: str) -> float:
    if value > 1:
        raise ValueError(f"{name} of {value:.2f} is above 1: the peak, the FLOPs or the clock is wrong")
    return value
