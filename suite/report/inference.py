"""Inference: the first token, each token after it, tokens a second, what fits, and steps at constant tokens."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from suite import parts
from suite.claims import Figure, Point
from suite.judging import crossover
from suite.judging.statistics import t_interval
from suite.report import figures, words
from suite.report.page import Block, Cells, Commands, Heading, Prose, Table
from suite.report.records import Comparison
from suite.sweep.record import Row
from suite.sweep.serving import GROUP

MEASURES = ("first_token", "token_latency", "throughput", "largest")
SEARCHES = {
    "train_context": "longest trained",
    "train_sequences": "most sequences trained",
    "decode_context": "longest decoded",
    "decode_sequences": "most sequences decoded",
}
READ_COLUMNS = ("arm", "context", "sequences", "first token", "read in", "state", "held")
LARGEST_COLUMNS = ("arm", "memory", *SEARCHES.values())
STEP_COLUMNS = ("arm", "length", "batch", "a step", "tokens/s")

Key = tuple[str, int]  # an arm, and a context, a length or a number of sequences
Processes = dict[int, list[float]]  # values of each process


class Timed(NamedTuple):
    """The median over processes of a quantity, its interval where there are several, and one of the rows."""

    value: float
    low: float | None
    high: float | None
    row: Row


def inference(comparison: Comparison) -> Iterator[Block]:
    """The section: a figure for each quantity, and tables of what fits; nothing where none of it was measured."""
    rows = [row for measure in MEASURES for row in _of(comparison.rows, measure)]
    if not rows:
        return
    yield Heading("Inference (not judged)", name="inference")
    yield Prose(
        "Untrained models on one device. The first token is that after a context, which is read in chunks of the size "
        "that was the fastest on a piece of it, or all at once. A token's latency is that of one call with its result "
        "waited for; tokens a second are of bursts, which no dispatch delays. What is held are the bytes of the "
        "compiled program with its arguments, or where a device counts its bytes the most that were in use."
    )
    yield from _first_token(comparison, [row for row in _of(rows, "first_token") if not _held_constant(row)])
    yield from _latency(comparison, _of(rows, "token_latency"))
    yield from _throughput(comparison, _of(rows, "throughput"))
    yield from _largest(comparison, _of(rows, "largest"))
    steps = [row for row in _of(comparison.rows, "step_time") if row["interleave_with"].startswith(f"{GROUP} ")]
    yield from _constant_tokens(comparison, steps, [row for row in _of(rows, "first_token") if _held_constant(row)])
    if comparison.serving:
        yield Commands((words.command(["launch.inference", *comparison.serving["command"]]),))
    yield Commands(tuple(comparison.commands([*rows, *steps])), "each arm by itself")


def clauses(comparison: Comparison) -> Iterator[str]:
    """What launch.inference found at the longest context, for the headline."""
    if not comparison.serving:
        return
    reads = [row for row in _of(comparison.rows, "first_token") if not _held_constant(row)]
    first = _timed(_ok(reads, "first_token"), "context", _first_seconds)
    yield from _between("the first token after {context:,} tokens comes after", first)
    latency = _ok(_of(comparison.rows, "token_latency"), "latency")
    medians = _timed(latency, "context", lambda row: row["median_seconds"])
    yield from _between("each one after it, at {context:,} tokens, takes", medians)


def _between(clause: str, timed: dict[Key, Timed]) -> Iterator[str]:
    """The clause with the fastest and the slowest arm at the longest context; nothing where none was timed."""
    if not timed:
        return
    context = max(at for _, at in timed)
    seconds = {arm: one.value for (arm, at), one in timed.items() if at == context}
    ends = dict.fromkeys([min(seconds, key=lambda arm: seconds[arm]), max(seconds, key=lambda arm: seconds[arm])])
    told = [f"{words.seconds(seconds[arm])} ({arm})" for arm in ends]
    yield f"{clause.format(context=context)} {' to '.join(told)}"


def _of(rows: Sequence[Row], measure: str) -> list[Row]:
    """The rows of a measure, but for those of a search for a crossing, which has a section of its own."""
    return [row for row in rows if parts.split(row["measure"])[0] == measure and not crossover.is_of(row)]


def _held_constant(row: Row) -> bool:
    """Whether sequences shrink as contexts grow."""
    return int(parts.knobs("suite.measures", row["measure"])["tokens"]) > 0


def _timed(rows: Sequence[Row], x: str, value: Callable[[Row], float]) -> dict[Key, Timed]:
    """By arm and x: the median of each process, and over processes their geometric mean and its interval."""
    processes: dict[Key, Processes] = defaultdict(lambda: defaultdict(list))
    last: dict[Key, Row] = {}
    for row in rows:
        key = row["arm"], row[x]
        processes[key][row["repeat"]].append(value(row))
        last[key] = row
    timed = {}
    for key, of_key in processes.items():
        logs = [math.log(statistics.median(values)) for values in of_key.values()]
        low = high = None
        if len(logs) > 1:
            interval = t_interval(logs)
            low, high = math.exp(interval.low), math.exp(interval.high)
        timed[key] = Timed(math.exp(statistics.fmean(logs)), low, high, last[key])
    return timed


def _points(comparison: Comparison, timed: dict[Key, Timed]) -> tuple[Point, ...]:
    keys = sorted(timed, key=lambda key: (comparison.order(key[0]), key[1]))
    return tuple(Point(arm, x, timed[arm, x].value, timed[arm, x].low, timed[arm, x].high) for arm, x in keys)


def _ok(rows: Sequence[Row], phase: str) -> list[Row]:
    return [row for row in rows if row["outcome"] == "ok" and row["phase"] == phase]


def _refused(rows: Sequence[Row], x: str) -> tuple[tuple[str, float], ...]:
    """Arms and the x at which they ended without a number."""
    return tuple(dict.fromkeys((row["arm"], float(row[x])) for row in rows if row["outcome"] != "ok" and x in row))


def _first_token(comparison: Comparison, rows: Sequence[Row]) -> Iterator[Block]:
    if not rows:
        return
    timed = _timed(_ok(rows, "first_token"), "context", _first_seconds)
    figure = Figure(
        name="inference_first_token",
        title="Seconds to the first token after a context, read in the fastest form that was tried",
        x="context (tokens)",
        y="seconds",
        points=_points(comparison, timed),
        failed=_refused(rows, "context"),
    )
    yield from figures.chart(figure, figures.styles_of(figure, comparison.arms))
    held = {(row["arm"], row["context"]): row for row in _ok(rows, "memory")}
    lines = [
        (
            arm,
            words.number(context),
            str(timed[arm, context].row["sequences"]),
            words.seconds(timed[arm, context].value),
            _form(timed[arm, context].row),
            words.si(held[arm, context]["state_bytes"], "B"),
            words.si(held[arm, context]["held_bytes"], "B"),
        )
        for arm, context in sorted(timed, key=lambda key: (comparison.order(key[0]), key[1]))
    ]
    yield Table(READ_COLUMNS, tuple(lines))


def _form(row: Row) -> str:
    return "parallel form" if row["form"] == "parallel" else f"chunks of {row['chunk']:,}"


def _latency(comparison: Comparison, rows: Sequence[Row]) -> Iterator[Block]:
    if not rows:
        return
    latency = _ok(rows, "latency")
    medians = _timed(latency, "context", lambda row: row["median_seconds"])
    highest = _timed(latency, "context", lambda row: row["p95_seconds"])
    keys = sorted(medians, key=lambda key: (comparison.order(key[0]), key[1]))
    points = [
        Point(*key, medians[key].value, medians[key].value, max(medians[key].value, highest[key].value)) for key in keys
    ]
    figure = Figure(
        name="inference_latency",
        title="Seconds of a decoded token, each waited for: median, and up to the 95th percentile",
        x="context (tokens)",
        y="seconds",
        points=tuple(points),
        failed=_refused(rows, "context"),
    )
    bands = "from the median to the 95th percentile of a process's tokens, means over processes"
    yield from figures.chart(figure, figures.styles_of(figure, comparison.arms), bands)


def _throughput(comparison: Comparison, rows: Sequence[Row]) -> Iterator[Block]:
    for context in sorted({row["context"] for row in rows if "context" in row}):
        here = [row for row in rows if row.get("context") == context]
        rate = _timed(_ok(here, "throughput"), "sequences", lambda row: row["decoded"] / row["decode_seconds"])
        figure = Figure(
            name=f"inference_throughput_{context}",
            title=f"Tokens a second of decoding after {context:,} tokens, all sequences together",
            x="sequences",
            y="tokens/s",
            points=_points(comparison, rate),
            failed=_refused(here, "sequences"),
        )
        yield from figures.chart(figure, figures.styles_of(figure, comparison.arms))


def _largest(comparison: Comparison, rows: Sequence[Row]) -> Iterator[Block]:
    """A line for each arm: the largest sizes by what compiled programs hold, each of which ran once."""
    if not rows:
        return
    yield Prose(
        "The largest that fit: found by what the compiled program of a training step, or of a decoded token with its "
        "state, holds, doubled and then bisected to a sixteenth, and run once at the size that was found. In brackets "
        "the least that was tried and does not fit; where nothing larger was looked for, the size stands with 'at "
        "least'."
    )
    by_arm: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_arm[row["arm"]][row.get("phase", "")] = row
    lines = []
    for arm in sorted(by_arm, key=comparison.order):
        of_arm = by_arm[arm]
        limit = next((words.si(row["memory_limit"], "B") for row in of_arm.values() if "memory_limit" in row), "")
        cells = (_found(of_arm[phase]) if phase in of_arm else "" for phase in SEARCHES)
        lines.append((arm, limit, *cells))
    yield Table(LARGEST_COLUMNS, tuple(lines))


def _found(row: Row) -> str:
    if row["outcome"] != "ok":
        return words.outcome(row["outcome"])
    at = f"{row['sequences']:,} at once" if "sequences" in row else f"{row['context']:,} tokens each"
    size = f"{row['largest']:,} ({row['beyond']:,} not)" if "beyond" in row else f"at least {row['largest']:,}"
    return f"{size}, {at}"


def _constant_tokens(comparison: Comparison, steps: Sequence[Row], reads: Sequence[Row]) -> Iterator[Block]:
    """A training step, and reading a context, of one number of tokens: fewer sequences, which are longer."""
    blocks = _ok(steps, "block")
    if blocks:
        tokens = max(row["length"] * row["batch"] for row in blocks if row["length"] == max(map(_length, blocks)))
        constant = [row for row in blocks if row["length"] * row["batch"] == tokens]
        timed = _timed(constant, "length", _step_seconds)
        figure = Figure(
            name="inference_step_time",
            title=f"Seconds of a training step of {tokens:,} tokens: fewer examples, which are longer",
            x="length (tokens)",
            y="seconds",
            points=_points(comparison, timed),
            failed=_refused([row for row in steps if row["length"] * row["batch"] == tokens], "length"),
        )
        yield from figures.chart(figure, figures.styles_of(figure, comparison.arms))
    if reads:
        tokens = max(int(parts.knobs("suite.measures", row["measure"])["tokens"]) for row in reads)
        timed = _timed(_ok(reads, "first_token"), "context", _first_seconds)
        figure = Figure(
            name="inference_prefill",
            title=f"Seconds to read {tokens:,} tokens: fewer sequences, whose contexts are longer",
            x="context (tokens)",
            y="seconds",
            points=_points(comparison, timed),
            failed=_refused(reads, "context"),
        )
        yield from figures.chart(figure, figures.styles_of(figure, comparison.arms))
    if blocks:
        yield Table(STEP_COLUMNS, tuple(_step_lines(comparison, blocks)))


def _first_seconds(row: Row) -> float:
    return row["first_token_seconds"]


def _length(row: Row) -> int:
    return row["length"]


def _step_seconds(row: Row) -> float:
    return row["burst_seconds"] / row["calls"]


def _step_lines(comparison: Comparison, blocks: Sequence[Row]) -> Iterator[Cells]:
    """A line for each arm, length and batch: at a constant number of tokens, and at a constant batch."""
    for batch, length in sorted({(row["batch"], row["length"]) for row in blocks}):
        here = [row for row in blocks if (row["batch"], row["length"]) == (batch, length)]
        timed = {arm: one for (arm, _), one in _timed(here, "length", _step_seconds).items()}
        for arm in sorted(timed, key=comparison.order):
            one = timed[arm]
            tokens_per_second = words.number(batch * length / one.value)
            yield arm, words.number(length), str(batch), words.seconds(one.value), tokens_per_second
