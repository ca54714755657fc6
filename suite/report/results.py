"""results.csv, one metric of one row a line; and plain tables of measures that no claim asks for."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator

from suite import declarations, parts, spreadsheets
from suite.declarations import Columns, Number
from suite.report import inference, readings, words
from suite.report.page import Block, Commands, Heading, Note, Prose, Table
from suite.report.records import Comparison
from suite.report.utilisation import Machine, Timing, timings
from suite.sweep.record import Row

COLUMNS = (
    *("run_id", "arm", "task", "block", "short_conv", "match", "seed", "learning_rate", "params", "flops_per_token"),
    *("tokens", "train_length", "eval_length", "batch", "n_devices", "device_kind", "dtype", "implementation"),
    *("metric", "value", "n", "outcome"),
)
# By sections of the report; others by the claims that ask for them.
SHOWN = (
    *("learning", "size", "peak", "chain", "energy", "step_time", "collectives", "weak_scaling"),
    *inference.MEASURES,
    *("strata", "loss_by_position", readings.MEASURE),
)
MOST = 200  # lines of a plain table
FAILURE_COLUMNS = ("measure", "arm", "length", "batch", "seed", "outcome", "a training step holds", "reason")
LONGEST_REASON = 160  # characters: the first lines of a runtime's message name the cause


def table(rows: list[Row]) -> list[Row]:
    """The tidy table. A cell without a number stands there with its outcome and an empty value."""
    machine = Machine(rows)
    lines: list[Row] = []
    for row in rows:
        if row["outcome"] != "ok":
            lines.append(_line(machine, row, row["measure"].split(":")[0], None, 0, row["outcome"]))
        elif row["measure"].split(":")[0] != "step_time":
            lines += _plain(machine, row)
    for timing in timings(rows):
        lines += _timed(machine, timing)
    return lines


def text(rows: list[Row]) -> str:
    return spreadsheets.text(COLUMNS, ([line[name] for name in COLUMNS] for line in table(rows)))


def plain_tables(comparison: Comparison) -> Iterator[Block]:
    """For each measure that no claim asks for a table of each phase: medians over rows that share their conditions."""
    shown = {*SHOWN, *(measure for judged in comparison.judged for measure in judged.measures)}
    measures: dict[str, list[Row]] = defaultdict(list)
    for row in comparison.rows:
        if row["outcome"] == "ok" and parts.split(row["measure"])[0] not in shown:
            measures[row["measure"]].append(row)
    for measure, rows in sorted(measures.items()):
        yield Heading(f"{measure} (not judged)")
        columns = declarations.columns_of(rows[0])
        for phase in columns.quantities:
            yield from _plain_table(comparison, columns, phase, [row for row in rows if row["phase"] == phase])
        yield Commands(tuple(comparison.commands(rows)))


def _plain_table(comparison: Comparison, columns: Columns, phase: str, rows: list[Row]) -> Iterator[Block]:
    """A line for each arm and set of conditions."""
    quantities = columns.quantities[phase]
    names = [name for name, unit in columns.conditions.items() if unit != "n" and any(name in row for row in rows)]
    groups: dict[tuple[str, ...], list[dict[str, Number]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: comparison.order(row["arm"])):
        at = (row["arm"], row["length"], row["batch"], *({name: "", **row}[name] for name in names))
        groups[tuple(_text(value) for value in at)].append(declarations.columns_of(row).numbers(row))
    lines = [
        (*at, *(_median(numbers, name) for name in quantities), str(len(numbers))) for at, numbers in groups.items()
    ]
    if lines:
        heads = [_head(name, columns.conditions[name]) for name in names]
        heads += [_head(name, f"{one.unit} / {one.per}" if one.per else one.unit) for name, one in quantities.items()]
        yield Table(("arm", "length", "batch", *heads, "rows"), tuple(lines[:MOST]))
    if len(lines) > MOST:
        yield Note(f"{len(lines) - MOST:,} more lines are in results.csv.")


def _head(name: str, unit: str) -> str:
    return f"{name} ({unit})"


def _text(value: object) -> str:
    return words.number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _median(numbers: list[dict[str, Number]], name: str) -> str:
    values = [row[name].value for row in numbers if name in row]
    return words.number(statistics.median(values)) if values else ""


def _plain(machine: Machine, row: Row) -> Iterator[Row]:
    """One line for each number that a row holds."""
    columns = declarations.columns_of(row)
    n = next((row[name] for name, unit in columns.conditions.items() if unit == "n" and name in row), 1)
    same = _line(machine, row, "", None, n, "ok")
    for column, number in columns.numbers(row).items():
        yield same | {"metric": number.metric, "value": number.value}
        if column == "loss" and words.in_bits(row):
            yield same | {"metric": f"{row['phase']}_bits_per_byte", "value": number.value / math.log(2)}


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
    # A cell whose process died has no implementation.
    line = {**dict.fromkeys(COLUMNS, ""), **row, **made}
    return {name: line[name] for name in COLUMNS}


def failures(comparison: Comparison) -> Iterator[Block]:
    """A line for each cell that ended without a number: its outcome, the estimate of its memory and the reason."""
    failed = [row for row in comparison.rows if row["outcome"] != "ok"]
    if not failed:
        return
    yield Heading("Cells without a number")
    yield Prose(
        "A cell is one measure of one model. These are results too: this machine could not hold, compile or train them."
    )
    yield Table(FAILURE_COLUMNS, tuple(map(_failure, failed)))
    yield Commands(tuple(comparison.commands(failed)), "each cell by itself")


def _failure(row: Row) -> tuple[str, ...]:
    cell = (row["measure"], row["arm"], str(row["length"]), str(row["batch"]), str(row["seed"]))
    estimate = f"{words.si(row['estimate_bytes'], 'B')} ({row['estimated_from']})" if "estimate_bytes" in row else ""
    at_step = f"at step {row['step']}" if "step" in row else ""
    reason = " ".join(row.get("error", at_step).split())[:LONGEST_REASON]
    return *cell, words.outcome(row["outcome"]), estimate, reason
