"""The page of the calibration: a table for each benchmark, its contenders as ratios to a baseline."""

import json
import math
import statistics as stdlib
from collections.abc import Iterator, Sequence
from typing import Any

from suite import hardware
from suite.judging import statistics
from suite.judging.statistics import Interval
from suite.report import words
from suite.report.document import Block, Commands, Document, Heading, Note, Prose, Table, Terms
from suite.sweep.store import Row

TITLE = "Our implementations against each other and against other libraries"
BASELINES = ("fla", "pytorch")  # the denominator of the ratios, where one of them took part
CLOSE = {"float32": 1e-3, "bfloat16": 5e-2}  # two sums of the same numbers lie no further apart
SIZES = ("flops", "argument_bytes", "output_bytes", "temp_bytes", "version")
NAMES = {
    "lstm_heads": "lstm with heads",
    "linear": "diagonal linear recurrence",
    "scalar": "matrix state, one decay a head",
    "vector": "matrix state, a decay of each channel",
    "delta": "gated delta rule",
    "low_rank": "diagonal plus low rank",
    "train_attention": "training step of a small GPT",
    "train_lstm": "training step of an LSTM language model",
}


def document(rows: Sequence[Row], environment: Row, command: str) -> Document:
    benchmarks = results(rows)
    blocks = [block for benchmark in benchmarks for block in _benchmark(benchmark)]
    where = words.place({**rows[0], "n_devices": 1}, environment) if rows else words.place({}, environment)
    about = Prose(
        "Each contender, one implementation of an operation, computes value and gradient, or a whole training step. "
        "Contenders take turns in a process and processes are fresh; a ratio is that of medians of the same process, "
        "with a 95 % interval over processes. Of attainable: the longest of three times that no program can undercut, "
        "over the measured one: products at the peak, arguments and results once through memory, and steps that wait "
        "for one another where their latency is known."
    )
    versions = {"jax": rows[0]["jax"], "commit": rows[0]["commit"]} if rows else {}
    versions |= {row["contender"]: row["version"] for row in rows if "version" in row}
    about_machine = Terms((("machine", where), *((name, str(value)) for name, value in versions.items())))
    return Document(TITLE, _headline(benchmarks), (about, about_machine, *blocks, Commands((command,))))


def text(rows: Sequence[Row]) -> str:
    """calibration.json: a list of benchmarks with their contenders."""
    return json.dumps(results(rows), indent=1) + "\n"


def results(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A record for each benchmark: its shape, its baseline and the numbers of each contender."""
    peaks = [row for row in rows if row["phase"] == "peak"]
    keys = ("family", "batch", "length", "width", "head_size", "dtype")
    benchmarks: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["phase"] == "benchmark":
            benchmarks.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [dict(zip(keys, key, strict=True)) | _result(timings, peaks) for key, timings in benchmarks.items()]


def _result(rows: Sequence[Row], peaks: Sequence[Row]) -> dict[str, Any]:
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["contender"] + (" with graphs" if row["graphs"] else ""), []).append(row)
    ran = [name for name, timings in by_name.items() if all(row["outcome"] == "ok" for row in timings)]
    chosen = rows[0]["chosen"]
    against = next((name for name in (*BASELINES, chosen, *ran) if name in ran), "")
    contenders = {}
    for name, timings in by_name.items():
        failed = [row for row in timings if row["outcome"] != "ok"]
        if failed:
            contenders[name] = {"outcome": failed[0]["outcome"], "error": failed[0]["error"]}
            continue
        first = timings[0]
        medians = [stdlib.median(row["seconds"]) for row in timings]
        # In a process with its own flags a contender is compared with the baseline that took turns with it there.
        base = {(row["process"], row["graphs"]): row for row in by_name[against]}
        base |= {(row["process"], row["graphs"]): row for row in by_name.get(f"{against} with graphs", [])}
        logs = [
            math.log(median / stdlib.median(base[row["process"], row["graphs"]]["seconds"]))
            for row, median in zip(timings, medians, strict=True)
            if (row["process"], row["graphs"]) in base
        ]
        value, other = first["value"], by_name[against][0]["value"]
        contenders[name] = {
            "outcome": "ok",
            "chosen": name == chosen,
            "seconds": stdlib.median(medians),
            "processes": len(timings),
            "ratio": statistics.ratio_interval(logs)._asdict() if len(logs) > 1 and name != against else None,
            "value": value,
            "last_value": first.get("last_value"),
            "off": abs(value - other) / max(abs(other), 1.0),
            **{name: first[name] for name in SIZES if name in first},
            **_attainable(timings, peaks),
        }
    return {"against": against, "chosen": chosen, "contenders": contenders}


def _attainable(timings: Sequence[Row], peaks: Sequence[Row]) -> dict[str, float]:
    """The floor over the measured time, by the peaks in the table of hardware or as each process measured them."""
    if "flops" not in timings[0]:
        return {}
    fractions = []
    for row in timings:
        measured = next(peak for peak in peaks if peak["process"] == row["process"])
        flops, bandwidth, latency = measured["flops_per_second"], measured["bytes_per_second"], 0.0
        if row["platform"] != "cpu":
            try:
                peak = hardware.peak(row["device_kind"])
                flops, bandwidth = hardware.flops_per_second(peak, row["dtype"]), peak.bytes_per_second
                latency = hardware.step_seconds(row["device_kind"])
            except LookupError:
                pass  # the table has no such device: the measured peak counts
        moved = timings[0]["argument_bytes"] + timings[0]["output_bytes"]
        floor = max(row["flops"] / flops, moved / bandwidth, 2 * row["dependent_steps"] * latency)
        fractions.append(floor / stdlib.median(row["seconds"]))
    return {"of_attainable": stdlib.median(fractions)}


def _headline(benchmarks: Sequence[dict[str, Any]]) -> str:
    """The time of our chosen implementations over that of the baselines."""
    ratios = []
    for benchmark in benchmarks:
        chosen = benchmark["contenders"].get(benchmark["chosen"], {})
        if benchmark["against"] in BASELINES and chosen.get("ratio"):
            ratios.append(chosen["ratio"]["value"])
    if not ratios:
        return "No other library took part; our implementations are compared with the chosen one."
    span = f"{words.number(min(ratios))} to {words.number(max(ratios))} times"
    benchmarks_timed = words.counted(len(ratios), "benchmark")
    return f"The chosen implementations take {span} the time of other libraries over {benchmarks_timed}."


def _benchmark(benchmark: dict[str, Any]) -> Iterator[Block]:
    family = benchmark["family"]
    shape = f"{benchmark['batch']} x {benchmark['length']:,} x {benchmark['width']:,}"
    yield Heading(f"{NAMES.get(family, family)}, {shape}, {benchmark['dtype']}")
    lines, notes = [], []
    for name, result in benchmark["contenders"].items():
        if result["outcome"] != "ok":
            notes.append(f"{name}: {result['outcome']}: {result['error']}")
            lines.append((name, f"{result['outcome']} [{len(notes)}]", *[""] * 5))
            continue
        lines.append(
            (
                f"{name} (chosen)" if result["chosen"] else name,
                words.seconds(result["seconds"]),
                "1" if name == benchmark["against"] else _interval(result["ratio"]),
                words.percent(result["of_attainable"]) if "of_attainable" in result else "",
                words.si(result["flops"], "FLOP") if "flops" in result else "",
                words.si(result["temp_bytes"], "B") if "temp_bytes" in result else "",
                _values(result, benchmark["dtype"]),
            )
        )
    ratio = f"ratio to {benchmark['against']}"
    columns = ("contender", "time", ratio, "of attainable", "FLOPs", "temporary memory", "value")
    yield Table(columns, tuple(lines), tuple(notes))
    if family not in ("lstm", "gru", "elman", "train_attention", "train_lstm"):
        yield Note(f"Heads of {benchmark['head_size']} channels.")


def _interval(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return "one process: no interval"
    interval = Interval(**ratio)
    return f"{words.number(interval.value)} ({words.number(interval.low)} to {words.number(interval.high)})"


def _values(result: dict[str, Any], dtype: str) -> str:
    """Whether it computed the same value; of a training also the loss at the end."""
    same = "the same" if result["off"] < CLOSE[dtype] else f"off by {words.percent(result['off'])}"
    last = result["last_value"]
    return same if last is None else f"{same}; loss {words.number(result['value'], 4)} to {words.number(last, 4)}"
