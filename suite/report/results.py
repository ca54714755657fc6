"""results.csv: every measured number in one tidy table, one metric a row, units in the metric's name."""

import math
from collections.abc import Iterator

from suite import spreadsheets
from suite.job import Job
from suite.report import words
from suite.report.utilisation import Machine, Timing, timings
from suite.sweep.store import Row

COLUMNS = (
    *(
        "run_id",
        "arm",
        "task",
        "block",
        "short_conv",
        "match",
        "seed",
        "learning_rate",
        "params",
        "flops_per_token",
        "tokens",
    ),
    *(
        "train_length",
        "eval_length",
        "batch",
        "n_devices",
        "device_kind",
        "dtype",
        "implementation",
        "metric",
        "value",
        "n",
    ),
    "outcome",
)

# Fields of a row that are numbers and whose names say neither what was measured nor its unit.
NAMES = {
    ("train", "loss"): "train_loss_nats",
    ("train", "seconds"): "train_seconds",
    ("train", "gradient_norm"): "train_gradient_norm",
    ("validation", "loss"): "validation_loss_nats",
    ("validation", "seconds"): "train_seconds",
    ("test", "loss"): "test_loss_nats",
    ("test", "seconds"): "train_seconds",
    ("model", "params_mismatch"): "params_mismatch_fraction",
    ("model", "mismatch"): "mismatch_fraction",
    ("model", "flops_per_token"): "flops_per_token",
    ("model", "flops_per_token_square"): "flops_per_token_square",
    ("model", "elementwise_per_token"): "elementwise_flops_per_token",
    ("model", "sequential_depth"): "sequential_depth",
    ("model", "sequential_depth_ran"): "sequential_depth_ran",
    ("state", "state_bytes"): "state_bytes",
    ("reach", "norm"): "jacobian_norm",
    ("path", "path"): "shortest_path",
    ("prefill", "prefill_seconds"): "prefill_seconds_per_token",
    ("decode", "decode_seconds"): "decode_seconds_per_token",
    ("memory", "state_bytes"): "decode_state_bytes",
    ("context", "nats"): "context_nats",
}
# Over how many tokens these were taken.
PER_TOKEN = {"prefill_seconds": "read", "decode_seconds": "decoded"}
# What a row says of itself rather than what it found.
CONDITIONS = {
    *(
        "arm",
        "commit",
        "context",
        "corpus_sha256",
        "error",
        "examples",
        "fingerprint",
        "implementation",
        "interleave_with",
        "jax",
        "measure",
    ),
    *(
        "outcome",
        "params",
        "params_mismatch",
        "mismatch",
        "solved",
        "phase",
        "place",
        "placed",
        "platform",
        "repeat",
        "run_id",
        "source",
        "own_source",
    ),
    *("step", "tokens", "turn", "n_devices", "n_processes", "device_kind", "calls"),
    *("distance", "sequences", "decoded", "windows", "eval_length", "low", "high", "targets", "remedy"),
    *("read", "chunk", "capacity", "reference_width"),
    *Job.__dataclass_fields__,
}


def table(rows: list[Row]) -> list[Row]:
    """The tidy table. A cell without a number stands there with its outcome and an empty value."""
    machine = Machine(rows)
    found: list[Row] = []
    for row in rows:
        if row["outcome"] != "ok":
            found.append(_line(machine, row, row["measure"].split(":")[0], None, 0, row["outcome"]))
        elif row["measure"].split(":")[0] != "step_time":
            found += _plain(machine, row)
    for timing in timings(rows):
        found += _timed(machine, timing)
    return found


def text(rows: list[Row]) -> str:
    return spreadsheets.text(COLUMNS, ([line[name] for name in COLUMNS] for line in table(rows)))


def _plain(machine: Machine, row: Row) -> Iterator[Row]:
    """One line for each number that a row holds."""
    phase = row.get("phase", row["measure"])
    n = next((row[name] for name in ("examples", "targets", "windows") if name in row), 1)
    for field, value in row.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or (field in CONDITIONS and (phase, field) not in NAMES):
            continue
        name = {(phase, field): f"{phase}_{field}", **NAMES}[phase, field] + _distance(row)
        if field in PER_TOKEN:
            value /= row[PER_TOKEN[field]]
        yield _line(machine, row, name, value, n, "ok")
        if field == "loss" and words.in_bits(row):
            yield _line(machine, row, f"{phase}_bits_per_byte", value / math.log(2), n, "ok")


def _distance(row: Row) -> str:
    """How far back, for a metric that has no other column for it."""
    if "low" in row and "high" in row:
        return f"_at_{row['low']}_to_{row['high']}"
    return f"_at_{row['distance']}" if "distance" in row else ""


def _timed(machine: Machine, timing: Timing) -> Iterator[Row]:
    n = len(timing.step_seconds)
    for name, value in timing.measured.items():
        yield _line(machine, timing.row, name, value, max(n, 1), "ok")
    if timing.step_seconds:
        yield _line(machine, timing.row, "step_seconds", timing.seconds, n, "ok")
        yield _line(machine, timing.row, "tokens_per_second", timing.tokens_per_second, n, "ok")
    for name, derive in machine.derived(timing).items():
        try:
            yield _line(machine, timing.row, name, derive(timing), n, "ok")
        except (LookupError, ValueError) as error:
            yield _line(machine, timing.row, name, None, n, f"not derived: {error.args[0]}")


def _line(machine: Machine, row: Row, metric: str, value: float | None, n: int, outcome: str) -> Row:
    try:
        flops: float | str = machine.flops_per_token(row)
    except LookupError:
        flops = ""
    made = {
        "task": machine.tasks[row["task"]],
        "flops_per_token": flops,
        "train_length": row["length"],
        "eval_length": next((row[name] for name in ("eval_length", "context") if name in row), row["length"]),
        "batch": row["sequences"] if "sequences" in row else row["batch"],
        "metric": metric,
        "value": "" if value is None else value,
        "n": n,
        "outcome": outcome,
    }
    known = {**dict.fromkeys(COLUMNS, ""), **row, **made}  # a cell whose process died did not get as far as its form
    return {name: known[name] for name in COLUMNS}
