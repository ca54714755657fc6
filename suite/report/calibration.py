"""How good our implementations are: a table a benchmark, each contender as a ratio to a baseline or the chosen one."""

import json
import math
import statistics as stdlib
from collections.abc import Iterator, Sequence
from typing import Any

from suite import hardware
from suite.judging import statistics
from suite.judging.statistics import Interval
from suite.report import words
from suite.report.document import Block, Commands, Document, Facts, Heading, Note, Prose, Table
from suite.sweep.store import Row

TITLE = "Our forms against each other and against other libraries"
BASELINES = ("fla", "pytorch")  # what a benchmark is measured against, where one of them took part
CLOSE = {"float32": 1e-3, "bfloat16": 5e-2}  # as far as two sums of the same numbers may lie apart
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
        "Value and gradient, or a whole training step. Contenders take turns in a process and processes are fresh; a "
        "ratio is that of medians of the same process, with a 95 % interval over processes. Of attainable: the longest "
        "of three times that no program can undercut, over the measured one: products at the peak, arguments and "
        "results once through memory, and steps that wait for one another where their latency is known."
    )
    versions = {"jax": rows[0]["jax"], "commit": rows[0]["commit"]} if rows else {}
    versions |= {row["contender"]: row["version"] for row in rows if "version" in row}
    facts = Facts((("machine", where), *((name, str(value)) for name, value in versions.items())))
    return Document(TITLE, _headline(benchmarks), (about, facts, *blocks, Commands((command,))))


def text(rows: Sequence[Row]) -> str:
    """The same as JSON: a list of benchmarks with their contenders."""
    return json.dumps(results(rows), indent=1) + "\n"


def results(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One record a benchmark: what it was, what it is measured against, and of each contender what came of it."""
    peaks = [row for row in rows if row["phase"] == "peak"]
    keys = ("family", "batch", "length", "width", "head_size", "dtype")
    benchmarks: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["phase"] == "benchmark":
            benchmarks.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [dict(zip(keys, key, strict=True)) | _result(own, peaks) for key, own in benchmarks.items()]


def _result(rows: Sequence[Row], peaks: Sequence[Row]) -> dict[str, Any]:
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["contender"] + (" with graphs" if row["graphs"] else ""), []).append(row)
    ran = [name for name, own in by_name.items() if all(row["outcome"] == "ok" for row in own)]
    chosen = rows[0]["chosen"]
    against = next((name for name in (*BASELINES, chosen, *ran) if name in ran), "")
    contenders = {}
    for name, own in by_name.items():
        failed = [row for row in own if row["outcome"] != "ok"]
        if failed:
            contenders[name] = {"outcome": failed[0]["outcome"], "error": failed[0]["error"]}
            continue
        medians = [stdlib.median(row["seconds"]) for row in own]
        # In a process of its own flags a form is set against the baseline that took turns with it there.
        base = {(row["process"], row["graphs"]): row for row in by_name[against]}
        base |= {(row["process"], row["graphs"]): row for row in by_name.get(f"{against} with graphs", [])}
        pairs = [(row, base[row["process"], row["graphs"]]) for row in own if (row["process"], row["graphs"]) in base]
        logs = [math.log(stdlib.median(row["seconds"]) / stdlib.median(other["seconds"])) for row, other in pairs]
        value, other = own[0]["value"], by_name[against][0]["value"]
        contenders[name] = {
            "outcome": "ok",
            "chosen": name == chosen,
            "seconds": stdlib.median(medians),
            "processes": len(own),
            "ratio": statistics.ratio_interval(logs)._asdict() if len(logs) > 1 and name != against else None,
            "value": value,
            "last_value": own[0].get("last_value"),
            "off": abs(value - other) / max(abs(other), 1.0),
            **{
                key: own[0][key]
                for key in ("flops", "argument_bytes", "output_bytes", "temp_bytes", "version")
                if key in own[0]
            },
            **_attainable(own, peaks),
        }
    return {"against": against, "chosen": chosen, "contenders": contenders}


def _attainable(rows: Sequence[Row], peaks: Sequence[Row]) -> dict[str, float]:
    """Floor over measured, at the machine's peaks as each process found them or as the table of hardware has them."""
    row = rows[0]
    if "flops" not in row:
        return {}
    moved = row["argument_bytes"] + row["output_bytes"]
    fractions = []
    for own in rows:
        found = next(peak for peak in peaks if peak["process"] == own["process"])
        flops, bandwidth, latency = found["flops_per_second"], found["bytes_per_second"], 0.0
        if own["platform"] != "cpu":
            try:
                known = hardware.peak(own["device_kind"])
                flops, bandwidth = hardware.flops_per_second(known, own["dtype"]), known.bytes_per_second
                latency = hardware.step_seconds(own["device_kind"])
            except LookupError:
                pass  # nobody has put it into the table: what was measured here counts
        floor = max(own["flops"] / flops, moved / bandwidth, 2 * own["dependent_steps"] * latency)
        fractions.append(floor / stdlib.median(own["seconds"]))
    return {"of_attainable": stdlib.median(fractions)}


def _headline(benchmarks: Sequence[dict[str, Any]]) -> str:
    """Where a baseline took part: what our chosen form takes of its time."""
    said = []
    for benchmark in benchmarks:
        own = benchmark["contenders"].get(benchmark["chosen"], {})
        if benchmark["against"] in BASELINES and own.get("ratio"):
            said.append(own["ratio"]["value"])
    if not said:
        return "No other library took part; our forms are set against the one that is chosen."
    return (
        f"The chosen forms take {words.number(min(said))} to {words.number(max(said))} times the time of other "
        f"libraries over {words.counted(len(said), 'benchmark')}."
    )


def _benchmark(benchmark: dict[str, Any]) -> Iterator[Block]:
    family = benchmark["family"]
    shape = f"{benchmark['batch']} x {benchmark['length']:,} x {benchmark['width']:,}"
    yield Heading(f"{NAMES.get(family, family)}, {shape}, {benchmark['dtype']}")
    lines, notes = [], []
    for name, found in benchmark["contenders"].items():
        if found["outcome"] != "ok":
            notes.append(f"{name}: {found['outcome']}: {found['error']}")
            lines.append((name, f"{found['outcome']} [{len(notes)}]", *[""] * 5))
            continue
        ratio = "1" if name == benchmark["against"] else _interval(found["ratio"])
        lines.append(
            (
                f"{name} (chosen)" if found["chosen"] else name,
                words.seconds(found["seconds"]),
                ratio,
                words.percent(found["of_attainable"]) if "of_attainable" in found else "",
                words.si(found["flops"], "FLOP") if "flops" in found else "",
                words.si(found["temp_bytes"], "B") if "temp_bytes" in found else "",
                _values(found, benchmark["dtype"]),
            )
        )
    columns = ("contender", "time", f"ratio to {benchmark['against']}", "of attainable", "products", "kept", "value")
    yield Table(columns, tuple(lines), tuple(notes))
    if family not in ("lstm", "gru", "elman", "train_attention", "train_lstm"):
        yield Note(f"Heads of {benchmark['head_size']} channels.")


def _interval(found: dict[str, float] | None) -> str:
    if found is None:
        return "one process: no interval"
    ratio = Interval(**found)
    return f"{words.number(ratio.value)} ({words.number(ratio.low)} to {words.number(ratio.high)})"


def _values(found: dict[str, Any], dtype: str) -> str:
    """Whether it computed the same; of a training also the loss at the end."""
    shown = "the same" if found["off"] < CLOSE[dtype] else f"off by {words.percent(found['off'])}"
    last = found["last_value"]
    return shown if last is None else f"{shown}; loss {words.number(found['value'], 4)} to {words.number(last, 4)}"
