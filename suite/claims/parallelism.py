"""Parallel training: does attention train faster because nothing in it waits for the token before?"""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from suite.claims import ATTENTION, LSTM, Control, Figure, Finding, Number, Point, held_equal, likeness
from suite.job import Cell
from suite.judging.crossing import crossings
from suite.judging.statistics import Interval, ratio_interval, slope, t_interval
from suite.scale import INSTALLATION, Scale
from suite.sweep.record import Row
from suite.sweep.store import of_cell

QUESTION = "Does attention train faster than recurrence, and is parallelism over time the cause?"
TEXTBOOK = (
    "A recurrent network over 1,024 tokens needs 1,024 products one after another, a transformer one batched product: "
    "10 to 100 times faster on GPUs and TPUs."
)
CLAIMED = "10x to 100x on GPUs and TPUs"
ON_TEXT = False
RULE = (
    "R is the ratio of training tokens a second, attention to LSTM, at 1,024 tokens, parameters matched, best forms, "
    "once at equal batch and, where several batch sizes are tried, once at each arm's best under one memory limit. S "
    "is the ratio of the parallel to the sequential form of one mixer (minGRU) with the same weights. Each is a "
    "geometric mean over fresh processes with a 95 % t-interval. Holds: every interval of R lies at or above the "
    "threshold and that of S above 1. Fails: every interval of R lies below the threshold. Otherwise undecided. "
    "Untested on CPUs, below 1,024 tokens, and at a scale that is not evidence."
)

PARALLEL, SEQUENTIAL = "mingru:implementation=parallel", "mingru:implementation=sequential"
COMMAND = "python -m launch.compare --claims=parallelism"
RATIO = "attention / LSTM"
LADDER, BEST, CONTROL = "batch ladder", "best batch", "causal control"


ON_A_CPU = "the textbook speaks of GPUs and TPUs; on a CPU the ratio is printed"
REFUSED = ("oom", "did_not_compile", "crashed")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is timed at the longest length, and how often."""

    batches: tuple[int, ...]  # tried there, of one device
    memory_bytes: float  # what one arm may use on a device at its best batch
    turns: int  # of each arm in a process
    untested: str = ""


SIZES = {
    "smoke": Sizes(batches=(4,), memory_bytes=1e9, turns=3, untested=INSTALLATION),
    "quick": Sizes(batches=(2,), memory_bytes=2e9, turns=10, untested=ON_A_CPU),
    "laptop": Sizes(batches=(2,), memory_bytes=4e9, turns=10, untested=ON_A_CPU),
    "gpu": Sizes(batches=(8, 16, 32, 64), memory_bytes=6.4e10, turns=20),
    "gpu_hour": Sizes(batches=(16, 64), memory_bytes=6.4e10, turns=10),
    "pod": Sizes(batches=(2, 4, 8, 16), memory_bytes=1.4e10, turns=20),
}


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """First a short timing of each batch size; when all are done, the timings that are judged, in fresh processes."""
    sizes = SIZES[scale.name]
    longest = scale.lengths[-1]
    batches = scale.batches(sizes.batches)
    if set(batches) == {scale.job.batch}:  # the best is the equal one, and that is timed already
        batches = ()
    ladders = {
        mixer: [
            Cell(scale.arm(mixer, length=longest, batch=batch), "step_time:blocks=3", interleave_with=LADDER)
            for batch in batches
        ]
        for mixer in scale.arms
    }
    first = [Cell(scale.arm(mixer, length=length), "size") for mixer in scale.arms for length in scale.lengths]
    first += [cell for ladder in ladders.values() for cell in ladder]
    if any(not of_cell(rows, cell) for ladder in ladders.values() for cell in ladder):
        return first
    best = {mixer: _best_batch(rows, ladder, sizes.memory_bytes) for mixer, ladder in ladders.items()}
    timing = f"step_time:blocks={sizes.turns}"
    judged = []
    for repeat in range(scale.processes):
        for length in scale.lengths:
            judged += [Cell(scale.arm(mixer, length=length), timing, repeat, _group(length)) for mixer in scale.arms]
        judged += [
            Cell(scale.arm(mixer, length=longest, batch=batch), timing, repeat, BEST)
            for mixer, batch in best.items()
            if batch is not None
        ]
        # Taken as they are: one mixer, one set of weights, two forms.
        judged += [
            Cell(scale.job.replace(mixer=mixer, length=longest), timing, repeat, CONTROL)
            for mixer in (PARALLEL, SEQUENTIAL)
        ]
    return [*first, *judged]


class Sweep(NamedTuple):
    """The timings over lengths, the arms that speak for attention and the LSTM, and their ratios at each length."""

    turns: list[Row]
    pair: tuple[str, str]
    by_length: dict[int, list[float]]  # log of tokens a second, attention over LSTM, one a process

    @property
    def reached(self) -> list[int]:
        return [at for at, logs in self.by_length.items() if logs]

    def judged_at(self, length: int) -> int:
        """The length that is judged: the one that is asked for, or the longest that both arms have."""
        return length if length in self.reached else self.reached[-1]


def judge(rows: list[Row], *, threshold: float = 10.0, length: int = 1024) -> Finding:
    """The finding at `length` tokens, or, where that was not reached, at the longest length that both arms have."""
    sweep = _sweep(rows)
    if not sweep.reached:
        return Finding("untested", "measured", reason="the judged pair is not there")
    turns = _turns(rows)
    at = sweep.judged_at(length)
    logs = {"equal batch": sweep.by_length[at]}
    if _several(turns):
        logs["best batch each"] = ratios(turns, BEST, *sweep.pair)
    logs["control"] = ratios(turns, CONTROL, PARALLEL, SEQUENTIAL)
    names = {
        "equal batch": f"tokens/s, attention / LSTM, T={at}, equal batch",
        "best batch each": f"tokens/s, attention / LSTM, T={max(sweep.reached)}, best batch each{_tried(turns)}",
        "control": f"tokens/s, minGRU parallel / sequential form, T={max(sweep.reached)}",
    }
    verdict, reason = _verdict(sweep.turns, logs, threshold, at, length)
    return Finding(
        verdict,
        "measured",
        reason=reason,
        numbers=(*(_ratio_number(names[key], of_key) for key, of_key in logs.items() if of_key), *_exponents(sweep)),
        controls=(_control(logs["control"]),),
    )


def tell(rows: list[Row], judged: Finding, *, threshold: float, length: int) -> Finding:
    """The finding with its sentence and headline, the ratio over lengths and the seconds of every arm."""
    sweep, failed = _sweep(rows), _failed(rows)
    figures = [_time_figure(sweep.turns, failed)] if sweep.turns else []
    if not sweep.reached:
        timed = ", ".join(sorted({row["arm"] for row in sweep.turns})) or "none"
        sentence = f"attention and the LSTM were not timed together (arms that were: {timed})"
        return dataclasses.replace(judged, sentence=sentence, figures=tuple(figures))
    at, equal = sweep.judged_at(length), held_equal(sweep.turns)
    failed_of_pair = {length for arm, length in failed if arm in sweep.pair}
    seconds = {arm: _seconds(sweep.turns, arm, at) for arm in sorted({row["arm"] for row in sweep.turns})}
    logs = {arm: math.log(statistics.median(values)) for arm, values in seconds.items() if values}
    return dataclasses.replace(
        judged,
        sentence=f"{_sentence(sweep.by_length[at], at, equal)}; {_faster(sweep.by_length)}",
        figures=(_ratio_figure(sweep.by_length, threshold, failed_of_pair, equal), *figures),
        headline=_headline(sweep.by_length),
        speaks_for=_speaks_for(sweep),
        arms=tuple(likeness(logs, sweep.pair)),
    )


def _turns(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.get("phase") == "block" and row["outcome"] == "ok"]


def _sweep(rows: list[Row]) -> Sweep:
    turns = [row for row in _turns(rows) if row["interleave_with"] == _group(row["length"])]
    pair = _arm_of(turns, ATTENTION), _arm_of(turns, LSTM)
    lengths = sorted({row["length"] for row in turns})
    return Sweep(turns, pair, {at: ratios(turns, _group(at), *pair) for at in lengths})


def _several(turns: Iterable[Row]) -> bool:
    """Whether more was tried than the batch at which both are timed: else the best batch is no finding of its own."""
    tried = {row["batch"] for row in turns if row["interleave_with"] in (LADDER, BEST)}
    return bool(tried - {row["batch"] for row in turns if row["interleave_with"] == _group(row["length"])})


def _tried(turns: Iterable[Row]) -> str:
    """The batch sizes among which the best was looked for."""
    sizes = sorted({row["batch"] for row in turns if row["interleave_with"] == LADDER})
    return f" (tried: {', '.join(map(str, sizes))})" if sizes else ""


def ratios(turns: Iterable[Row], group: str, above: str, below: str) -> list[float]:
    """Log of tokens a second, `above` over `below`: of each process the median over turns taken side by side."""
    pairs: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    for row in turns:
        if row["interleave_with"] == group and row["arm"] in (above, below):
            pairs[row["repeat"], row["turn"]][row["arm"]] = math.log(row["tokens"] / row["burst_seconds"])
    processes: dict[int, list[float]] = defaultdict(list)
    for (repeat, _), speeds in pairs.items():
        if len(speeds) == 2:
            processes[repeat].append(speeds[above] - speeds[below])
    return [statistics.median(logs) for _, logs in sorted(processes.items())]


def _verdict(
    swept: list[Row], ratios_of: dict[str, list[float]], threshold: float, at: int, length: int
) -> tuple[str, str]:
    short = [name for name, logs in ratios_of.items() if len(logs) < 2]
    if short:
        return "untested", f"fewer than two processes give no interval ({', '.join(short)})"
    *judged, control = (ratio_interval(logs) for logs in ratios_of.values())
    if all(interval.low > 1 for interval in judged):
        direction = "attention is the faster one"
    elif all(interval.high < 1 for interval in judged):
        direction = "the direction is reversed"
    else:
        direction = "neither is faster beyond doubt"
    if any(row["platform"] == "cpu" for row in swept):
        return "untested", f"the textbook speaks of GPUs and TPUs, and this is a CPU; here {direction}"
    if at < length:
        return "untested", f"{length:,} tokens were not reached; at {at:,} {direction}"
    if all(interval.low >= threshold for interval in judged):
        if control.low > 1:
            return "holds", f"all intervals lie at or above {threshold:g}"
        return "undecided", f"all intervals lie at or above {threshold:g}, but the control failed"
    if all(interval.high < threshold for interval in judged):
        return "fails", f"all intervals lie below {threshold:g}; {direction}"
    return "undecided", f"an interval straddles {threshold:g}; {direction}"


def _control(logs: list[float]) -> Control:
    name = "S > 1: the parallel form of one and the same mixer is faster than its sequential form"
    if len(logs) < 2:
        return Control(name, False, "not measured in two processes yet")
    interval = ratio_interval(logs)
    return Control(name, interval.low > 1, f"S = {_text(logs)}")


def _ratio_number(name: str, logs: list[float]) -> Number:
    value = math.exp(statistics.fmean(logs))
    bounds = ratio_interval(logs)[1:] if len(logs) > 1 else (None, None)
    return Number(name, value, "x", len(logs), COMMAND, *bounds)


def _best_batch(rows: list[Row], ladder: list[Cell], memory_bytes: float) -> int | None:
    """The batch of most tokens a second among those that fit; None where none did."""
    speeds = {}
    for cell in ladder:
        timed = of_cell(rows, cell)
        turns = _turns(timed)
        compiled = [row for row in timed if row.get("phase") == "compile"]
        if turns and compiled and _used_bytes(compiled[0]) <= memory_bytes:
            speeds[cell.job.batch] = statistics.median(row["tokens"] / row["burst_seconds"] for row in turns)
    return max(speeds, key=lambda batch: speeds[batch]) if speeds else None


def _used_bytes(row: Row) -> int:
    return row["argument_bytes"] + row["output_bytes"] - row["alias_bytes"] + row["temp_bytes"]


def _arm_of(swept: list[Row], name: str) -> str:
    """The arm that speaks for a mixer: its plainest spelling among the arms that were timed."""
    arms = {row["arm"] for row in swept if row["arm"].split(":")[0] == name}
    return min(sorted(arms), key=len, default=name)


def _seconds(swept: list[Row], arm: str, length: int) -> list[float]:
    """Seconds of a step, the median of each process."""
    processes: dict[int, list[float]] = defaultdict(list)
    for row in swept:
        if row["arm"] == arm and row["length"] == length:
            processes[row["repeat"]].append(row["burst_seconds"] / row["calls"])
    return [statistics.median(values) for _, values in sorted(processes.items())]


def _exponents(sweep: Sweep) -> list[Number]:
    swept, numbers = sweep.turns, []
    for arm in sorted({row["arm"] for row in swept}):
        lengths = sorted({row["length"] for row in swept if row["arm"] == arm})
        if len(lengths) > 1:
            exponent = slope(lengths, [statistics.median(_seconds(swept, arm, at)) for at in lengths])
            numbers.append(Number(f"exponent of step time in T, {arm}", exponent, "", len(lengths), COMMAND))
    return numbers


def _failed(rows: list[Row]) -> list[tuple[str, int]]:
    """Arms and lengths of the sweep that this machine refused."""
    refused = [row for row in rows if row["outcome"] in REFUSED]
    return sorted({(row["arm"], row["length"]) for row in refused if row["interleave_with"] == _group(row["length"])})


def _ratio_figure(by_length: dict[int, list[float]], threshold: float, failed: set[int], equal: str) -> Figure:
    points = []
    for at, logs in by_length.items():
        if logs:
            bounds = ratio_interval(logs)[1:] if len(logs) > 1 else ()
            points.append(Point(RATIO, at, math.exp(statistics.fmean(logs)), *bounds))
    return Figure(
        name="training_speed_ratio",
        title=f"Training tokens a second, attention / LSTM, {equal} and batch",
        x="length (tokens)",
        y="ratio; above 1 attention is faster",
        points=tuple(points),
        thresholds={"equal speed": 1.0, "textbook": threshold},
        failed=tuple((RATIO, at) for at in sorted(failed)),
        cost="step time",
        inverted=True,
    )


def _time_figure(swept: list[Row], failed: list[tuple[str, int]]) -> Figure:
    points = []
    for arm, at in sorted({(row["arm"], row["length"]) for row in swept}):
        seconds = _seconds(swept, arm, at)
        spread = t_interval([math.log(value) for value in seconds]) if len(seconds) > 1 else None
        bounds = (math.exp(spread.low), math.exp(spread.high)) if spread else ()
        points.append(Point(arm, at, statistics.median(seconds), *bounds))
    return Figure(
        name="step_time",
        title="Seconds of a training step",
        x="length (tokens)",
        y="seconds",
        points=tuple(points),
        failed=tuple(failed),
    )


def _sentence(logs: list[float], at: int, equal: str) -> str:
    if statistics.fmean(logs) >= 0:
        faster = f"attention trained on {_text(logs)} as many tokens a second as the LSTM"
    else:
        faster = f"the LSTM trained on {_text([-log for log in logs])} as many tokens a second as attention"
    return f"at {at:,} tokens {faster}, at {equal} and batch"


def _headline(by_length: dict[int, list[float]]) -> str:
    means, crossed = _means(by_length), _crossed(by_length)
    longest = max(means)
    at_the_longest = ", ".join(_spelt(by_length[longest]))
    if not crossed and len({log > 0 for log in means.values()}) == 1:
        where = (
            f"at every length up to {longest:,} tokens" if means[longest] > 0 else f"nowhere up to {longest:,} tokens"
        )
    elif not crossed:
        where = "at some lengths, from where on is not known"
        at_the_longest += f", at {longest:,}"
    elif means[longest] > 0:
        where = f"from {_range(crossed[-1])}"
    else:
        where = f"only below {_range(crossed[-1])}"
        at_the_longest += f", at {longest:,}"
    return f"attention trained faster than the LSTM {where} ({at_the_longest})"


def _faster(by_length: dict[int, list[float]]) -> str:
    """Which of the two is faster, and from what length on."""
    means, crossed = _means(by_length), _crossed(by_length)
    ahead, behind = ("attention", "the LSTM") if means[max(means)] > 0 else ("the LSTM", "attention")
    if crossed:
        return f"{ahead} is faster from {_range(crossed[-1])}, {behind} below"
    if len({log > 0 for log in means.values()}) == 1:
        return f"{ahead} is faster from {min(means):,} to {max(means):,} tokens"
    return f"{ahead} is faster at {max(means):,} tokens, and from what length on is not beyond doubt"


def _crossed(by_length: dict[int, list[float]]) -> list[Interval]:
    """The lengths at which one comes to be faster than the other, each with its 95 % interval."""
    logs = {at: t_interval(of_length) for at, of_length in sorted(by_length.items()) if len(of_length) > 1}
    return crossings(list(logs), list(logs.values()))


def _range(length: Interval) -> str:
    return f"{length.value:,.0f} tokens (95 % {length.low:,.0f} to {length.high:,.0f})"


def _means(by_length: dict[int, list[float]]) -> dict[int, float]:
    """Log of the ratio of speeds at each length, in their order."""
    return {at: statistics.fmean(logs) for at, logs in sorted(by_length.items()) if logs}


def _speaks_for(sweep: Sweep) -> str:
    processes = len({row["repeat"] for row in sweep.turns})
    return f"{sweep.reached[0]:,} to {sweep.reached[-1]:,} tokens, {processes} processes"


def _text(logs: list[float]) -> str:
    value, bounds = _spelt(logs)
    return f"{value} ({bounds})"


def _spelt(logs: list[float]) -> tuple[str, str]:
    """The ratio and its interval, in words."""
    value = f"{math.exp(statistics.fmean(logs)):.3g}x"
    if len(logs) < 2:
        return value, "one process, no interval"
    _, low, high = ratio_interval(logs)
    return value, f"95 % {low:.3g} to {high:.3g}"


def _group(length: int) -> str:
    return f"length {length}"
