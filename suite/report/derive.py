"""What a step's seconds mean: MFU, bandwidth and the fraction of what the hardware allows, by its peaks."""

import dataclasses
import functools
import statistics
from collections import defaultdict
from collections.abc import Callable

from suite import hardware, parts
from suite.claims.parallelism import LADDER
from suite.sweep.store import Row

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
    """The step of one job: medians over fresh processes. What is not measured yet is not in `measured`."""

    row: Row  # any row of it, for the conditions
    rows: list[Row]  # all of them, whatever their outcome
    step_seconds: list[float]  # one a process
    measured: dict[str, float]

    @property
    def seconds(self) -> float:
        return statistics.median(self.step_seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.row["batch"] * self.row["length"] / self.seconds


def timings(rows: list[Row]) -> list[Timing]:
    """Every job that was timed, or whose timing failed; by arm, length and batch."""
    jobs: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["measure"].split(":")[0] == "step_time":
            jobs[row["run_id"]].append(row)
    found = [_timing(own) for own in jobs.values()]
    return sorted(found, key=lambda timing: (timing.row["length"], timing.row["batch"], timing.row["arm"]))


def _timing(rows: list[Row]) -> Timing:
    compiled = [row for row in rows if row.get("phase") == "compile"]
    # A first look, of three blocks, counts only where there is nothing better.
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
    """The rows of a place and what they say about its peaks and its models."""

    rows: list[Row]

    def peak(self, row: Row) -> Peak:
        """Of the device on which a row was taken; a CPU's is what was measured there. LookupError where unknown."""
        if row["platform"] != "cpu":
            found = hardware.peak(row["device_kind"])
            flops = hardware.flops_per_second(found, row["dtype"])
            return Peak(flops, found.bytes_per_second, found.source)
        own = self._own_peak(row)
        return Peak(own["flops_per_second"], own["bytes_per_second"], "measured here by the measure `peak`")

    def step_latency(self, row: Row) -> float:
        """Seconds of one dependent step there; LookupError where nobody has measured it."""
        if row["platform"] != "cpu":
            return hardware.step_seconds(row["device_kind"])
        return self._own_peak(row)["step_seconds"]

    def flops_per_token(self, row: Row) -> float:
        return self._model(row)["flops_per_token"]

    def sequential_steps(self, row: Row) -> int:
        """Steps that wait for the one before in the form that ran; none where its depth hardly grows with length."""
        here = self._model(row)
        others = [other for (shape, _), other in self._models.items() if shape == _shape(row) and other is not here]
        if not others:
            raise LookupError(
                f"no size rows of {row['arm']} at a second length, which tell whether it runs step by step"
            )
        other = min(others, key=lambda other: abs(other["length"] - row["length"]))
        growth = (other["sequential_depth_ran"] - here["sequential_depth_ran"]) / (other["length"] - row["length"])
        blocks = 1 if "+" in row["mixer"] else row["depth"]  # of a hybrid at least one is a recurrence
        return row["length"] * blocks if growth >= 1 else 0

    def mfu(self, timing: Timing) -> float:
        """Model FLOP/s over peak FLOP/s; ValueError above 1, which no honest count gives."""
        peak, row = self.peak(timing.row), timing.row
        flops_per_second = TRAINING * self.flops_per_token(row) * timing.tokens_per_second
        return _share(flops_per_second / (peak.flops_per_second * row["n_devices"]), "MFU")

    def bytes_per_second(self, timing: Timing) -> float:
        """Of one device, at least: each argument read once and each result written once."""
        if "argument_bytes" not in timing.measured:
            raise LookupError("no row of the compilation")
        return (timing.measured["argument_bytes"] + timing.measured["output_bytes"]) / timing.seconds

    def floor_seconds(self, timing: Timing) -> float:
        """No step can be shorter: its FLOPs at the peak, those bytes at full bandwidth, its chain of steps."""
        peak, row = self.peak(timing.row), timing.row
        flops = TRAINING * self.flops_per_token(row) * row["batch"] * row["length"]
        steps = self.sequential_steps(row)
        chain = BOTH_WAYS * steps * self.step_latency(row) if steps else 0.0
        bytes_moved = self.bytes_per_second(timing) * timing.seconds
        return max(flops / (peak.flops_per_second * row["n_devices"]), bytes_moved / peak.bytes_per_second, chain)

    def fraction_of_attainable(self, timing: Timing) -> float:
        return _share(self.floor_seconds(timing) / timing.seconds, "the fraction of attainable")

    def derived(self, timing: Timing) -> dict[str, Callable[[Timing], float]]:
        """The metrics of a timing that rest on more than its own rows; each raises where it cannot be known."""
        if not timing.step_seconds:
            return {}
        return {
            "mfu": self.mfu,
            "bandwidth_bytes_per_second": self.bytes_per_second,
            "fraction_of_attainable": self.fraction_of_attainable,
        }

    def _own_peak(self, row: Row) -> Row:
        at = row["place"], row["dtype"]
        if at not in self._own_peaks:
            raise LookupError(f"no peak of {at[0]} in {at[1]} was measured; run the measure `peak`")
        return self._own_peaks[at]

    @functools.cached_property
    def tasks(self) -> dict[str, str]:
        """The short spec of each task."""
        return {spec: parts.short("suite.tasks", spec) for spec in {row["task"] for row in self.rows}}

    @functools.cached_property
    def _own_peaks(self) -> dict[tuple[str, str], Row]:
        return {(row["place"], row["dtype"]): row for row in self.rows if row.get("phase") == "peak"}

    @functools.cached_property
    def _models(self) -> dict[tuple[tuple, int], Row]:
        return {(_shape(row), row["length"]): row for row in self.rows if row.get("phase") == "model"}

    def _model(self, row: Row) -> Row:
        """The size row of the model that a row was taken with; the batch does not matter to it."""
        at = _shape(row), row["length"]
        if at not in self._models:
            raise LookupError(f"no size rows of {row['arm']} at {row['length']:,} tokens; run the measure `size`")
        return self._models[at]


def _shape(row: Row) -> tuple:
    return tuple(row[name] for name in ("mixer", "task", "block", "short_conv", "width", "depth", "dtype"))


def _share(value: float, name: str) -> float:
    if value > 1:
        raise ValueError(f"{name} of {value:.2f} is above 1: the peak, the FLOPs or the clock is wrong")
    return value
