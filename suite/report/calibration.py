"""Pages of the choices before a comparison: implementations by their time, learning rates by their validation.

Of implementations a table for each benchmark, with the contenders as ratios to a baseline; of learning rates the scores
of each task, arm by arm.
"""

import json
import math
import statistics as stdlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from suite import files, hardware, learning_rates, parts
from suite.claims import Figure, Point
from suite.job import slug
from suite.judging import alike, statistics
from suite.judging.statistics import Interval
from suite.learning_rates import Curve
from suite.report import figures, page, words
from suite.report.page import Block, Commands, Heading, Note, Page, Prose, Table, Terms
from suite.sweep.record import Row

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


def write(rows: Sequence[Row], environment: Row, command: str, out: epath.PathLike) -> epath.Path:
    """Writes our implementations beside each other and beside baselines; returns the path of calibration.html."""
    benchmarks = results(rows)
    files.write(epath.Path(out) / "calibration.json", json.dumps(benchmarks, indent=1) + "\n")
    machine = words.place({**rows[0], "n_devices": 1} if rows else {}, environment)
    versions = {"jax": rows[0]["jax"], "commit": rows[0]["commit"]} if rows else {}
    versions |= {row["contender"]: str(row["version"]) for row in rows if "version" in row}
    blocks = [
        Prose(
            "Each contender, one implementation of an operation, computes value and gradient, or a whole training "
            "step. Contenders take turns in a process and processes are fresh; a ratio is that of medians of the same "
            "process, with a 95 % interval over processes. Of attainable: the longest of three times that no program "
            "can undercut, over the measured one: products at the peak, arguments and results once through memory, "
            "and steps that wait for one another where their latency is known."
        ),
        Terms((("machine", machine), *versions.items())),
        *(block for benchmark in benchmarks for block in _benchmark(benchmark)),
        Commands((command,)),
    ]
    title = "Our implementations against each other and against other libraries"
    return page.write(Page(title, _headline(benchmarks), tuple(blocks)), out, "calibration")


def results(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A record for each benchmark: its shape, its baseline and the numbers of each contender."""
    peaks = [row for row in rows if row["phase"] == "peak"]
    keys = ("family", "batch", "length", "width", "head_size", "dtype")
    benchmarks: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        if row["phase"] == "benchmark":
            benchmarks[tuple(row[key] for key in keys)].append(row)
    return [dict(zip(keys, key, strict=True)) | _result(timings, peaks) for key, timings in benchmarks.items()]


def _result(rows: Sequence[Row], peaks: Sequence[Row]) -> dict[str, Any]:
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_name[row["contender"] + (" with graphs" if row["graphs"] else "")].append(row)
    failed = {name: row for name, timings in by_name.items() for row in timings if row["outcome"] != "ok"}
    ran = {name: timings for name, timings in by_name.items() if name not in failed}
    chosen = rows[0]["chosen"]
    against = next((name for name in (*BASELINES, chosen, *ran) if name in ran), "")
    # In a process with its own flags a contender is compared with the baseline that took turns with it there.
    beside = {_turns(row): row for name in (against, f"{against} with graphs") for row in by_name.get(name, [])}
    contenders: dict[str, dict[str, Any]] = {}
    for name, timings in by_name.items():
        if name in failed:
            contenders[name] = {"outcome": failed[name]["outcome"], "error": failed[name]["error"]}
            continue
        pairs = [(row, beside[_turns(row)]) for row in timings if _turns(row) in beside]
        logs = [math.log(_seconds(row) / _seconds(baseline)) for row, baseline in pairs]
        first, value = timings[0], ran[against][0]["value"]
        contenders[name] = {
            "outcome": "ok",
            "chosen": name == chosen,
            "seconds": stdlib.median(map(_seconds, timings)),
            "processes": len(timings),
            "ratio": statistics.ratio_interval(logs)._asdict() if len(logs) > 1 and name != against else None,
            "value": first["value"],
            "last_value": first.get("last_value"),
            "off": abs(first["value"] - value) / max(abs(value), 1.0),
            **{name: first[name] for name in SIZES if name in first},
            **_attainable(timings, peaks),
        }
    return {"against": against, "chosen": chosen, "contenders": contenders}


def _turns(row: Row) -> tuple[int, bool]:
    """The process in which contenders took turns, and its flags."""
    return row["process"], row["graphs"]


def _seconds(row: Row) -> float:
    return stdlib.median(row["seconds"])


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
        fractions.append(floor / _seconds(row))
    return {"of_attainable": stdlib.median(fractions)}


def _headline(benchmarks: Sequence[dict[str, Any]]) -> str:
    """The time of our chosen implementations over that of the baselines."""
    chosen = [one["contenders"].get(one["chosen"], {}) for one in benchmarks if one["against"] in BASELINES]
    ratios = [result["ratio"]["value"] for result in chosen if result.get("ratio")]
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
    if _has_heads(family):
        yield Note(f"Heads of {benchmark['head_size']} channels.")


def _has_heads(family: str) -> bool:
    """Whether a benchmark is of heads: operations are; trainings and mixers with a nonlinear state are not."""
    if family in parts.names("suite.mixers"):
        return parts.constant("suite.mixers", family, "STATE") != "nonlinear"
    return not family.startswith("train_")


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


def write_rates(curves: Sequence[Curve], command: str, out: epath.PathLike) -> epath.Path:
    """Writes the choice of the learning rates as a page and as a table; returns the path of the table, rates.csv."""
    settings: dict[tuple, list[Curve]] = defaultdict(list)
    for curve in curves:
        settings[alike.of_job(curve.job, alike.SETTING)].append(curve)
    arms = sorted({curve.job.arm for curve in curves})
    blocks = [block for _, alikes in sorted(settings.items()) for block in _setting(alikes, arms)]
    trainings = sum(len(curve.rows) + len(curve.failed) for curve in curves)
    chosen = f"{words.counted(trainings, 'training')} chose {words.counted(len(curves), 'learning rate')}"
    headline = f"{chosen}, each on seeds that no comparison uses."
    near = learning_rates.NEAR
    window = Prose(
        "The window is the octaves over which the rates that were tried come near the best without a gap: within "
        f"{near['final_accuracy']:g} of its accuracy, or {near['loss']:g} nats of its loss."
    )
    blocks = (window, *blocks, Commands((command,)))
    page.write(Page("Learning rates, chosen on validation", headline, blocks), out, "rates")
    choices = sorted(
        (curve.choice() for curve in curves),
        key=lambda choice: (choice.task, choice.length, choice.short_conv, choice.hidden, choice.arm),
    )
    files.write(epath.Path(out) / "rates.csv", learning_rates.text(choices))
    return epath.Path(out) / "rates.csv"


def _setting(curves: Sequence[Curve], arms: Sequence[str]) -> Iterator[Block]:
    job, row = curves[0].job, curves[0].rows[0]
    task = parts.short("suite.tasks", job.task)
    score = "validation loss" if _by_loss(curves[0]) else "accuracy at the final position, then by loss"
    conv = f", conv {job.short_conv}" if job.short_conv else ""
    hidden = f", hidden {job.hidden}" if job.hidden else ""
    length = f"lengths {job.lengths}" if job.lengths else f"{job.length:,} tokens"
    where = f"{task}, {length}{conv}{hidden}, {learning_rates.duration(job)}"
    yield Heading(where, name=f"{where}, width {job.width}, {job.batch}, {job.block}")
    yield Prose(
        f"Width {job.width}, depth {job.depth}, {learning_rates.duration(job)} in batches of {job.batch}, "
        f"{job.block} block; scored by {score}, median over seeds. "
        f"{row['device_kind']}, jax {row['jax']}, commit {row['commit']}."
    )
    sizes = f"t{job.length}-d{job.width}-b{job.batch}-n{job.steps}-conv{job.short_conv}"
    sizes += f"-hidden{job.hidden}" if job.hidden else ""
    sizes += f"-lengths-{job.lengths}" if job.lengths else ""
    sizes += f"-seconds{job.budget_seconds:g}" if job.budget_seconds else ""
    figure = _scores_figure(curves, f"rates_{slug(f'{task}-{sizes}-{job.block}')}")
    yield from figures.chart(figure, figures.styles_of(figure, arms), "from the least to the greatest seed")
    lines = []
    for curve in curves:
        choice = curve.choice()
        each = [f"{rate:g}: {_score(curve, rate):.3g}" for rate in curve.scores]
        each += [f"{row['learning_rate']:g}: {words.outcome(row['outcome'])}" for row in curve.failed]
        edge = "yes" if choice.edge else ""
        chosen = (f"{choice.learning_rate:g}", f"{choice.score:.3g}", f"{choice.window:.1f}")
        lines.append((choice.arm, *chosen, ", ".join(each), edge))
    columns = ("arm", "learning rate", "its score", "window (octaves)", "median score at each rate")
    yield Table((*columns, "at an edge of the grid"), tuple(lines))


def _by_loss(curve: Curve) -> bool:
    return curve.scored_by == "loss"


def _score(curve: Curve, rate: float) -> float:
    accuracy, minus_loss = curve.scores[rate]
    return -minus_loss if _by_loss(curve) else accuracy


def _scores_figure(curves: Sequence[Curve], name: str) -> Figure:
    points = []
    for curve in curves:
        for rate in curve.scores:
            seeds = [row[curve.scored_by] for row in curve.rows if row["learning_rate"] == rate]
            points.append(Point(curve.job.arm, rate, _score(curve, rate), min(seeds), max(seeds)))
    return Figure(
        name=name,
        title="Validation over learning rates",
        x="learning rate",
        y="loss (nats a token)" if _by_loss(curves[0]) else "accuracy at the final position",
        points=tuple(points),
        failed=tuple((curve.job.arm, row["learning_rate"]) for curve in curves for row in curve.failed),
        log_y=False,
    )
