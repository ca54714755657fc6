"""Contexts: the accuracy of trained models by length, distance and depth, and the context that is effective.

Nothing of it is judged. The table has the shape of RULER's (Hsieh et al. 2024).
"""

import statistics
from collections.abc import Iterator, Sequence

from suite.claims import Figure, Point
from suite.report import figures, heat_map, remedies, words
from suite.report.page import Block, Cells, Chart, Commands, Heading, Prose, Table
from suite.report.readings import Reading, Scores, readings_of, without_remedies
from suite.report.records import Comparison
from suite.report.trainings import Trainings, trainings

THRESHOLD, MORE_THRESHOLDS = 0.9, (0.5, 0.99)  # of accuracy


def contexts(comparison: Comparison, groups: list[Trainings]) -> Iterator[Block]:
    """A section for each task whose trainings were read at three lengths or more."""
    merged = without_remedies(groups)
    read = [(group, readings) for group in merged if (readings := readings_of(comparison, group))]
    for number, (group, readings) in enumerate(read, 1):
        yield from _section(comparison, group, readings, number)


def clauses(comparison: Comparison) -> Iterator[str]:
    """What launch.contexts found, for the headline."""
    for group in without_remedies(trainings(comparison)) if comparison.reading else ():
        if readings := readings_of(comparison, group):
            yield f"on {group.task}, {_reached(readings)}"


def effective(scores: Scores, threshold: float) -> list[int]:
    """Of each seed the longest length at which its score is at least the threshold; 0 where there is none."""
    return [max((length for length, score in at.items() if score >= threshold), default=0) for at in scores.values()]


def weighted(scores: Sequence[float], weights: Sequence[float]) -> float:
    """The mean of scores with these weights."""
    return sum(score * weight for score, weight in zip(scores, weights, strict=True)) / sum(weights)


def _section(comparison: Comparison, group: Trainings, readings: list[Reading], number: int) -> Iterator[Block]:
    yield Heading(f"Context on {group.task} (not judged)", name=f"contexts {number}")
    yield Prose(" ".join(_sentences(group, readings)))
    yield from remedies.remedies(comparison, readings)
    drawn = remedies.told(readings)
    styled = figures.styles_of(_by_length(drawn, number), comparison.arms)
    yield from figures.chart(_by_length(drawn, number), styled, "from the least to the greatest seed")
    yield Table(_columns(readings), tuple(line for reading in readings for line in _lines(reading, readings)))
    yield from _heat_map(readings, number)
    longest = max(reading.lengths[-1] for reading in readings)
    for name, length in {"trained": group.job.length, "longest": longest}.items():
        figure = _by_distance(drawn, length, f"contexts_{number}_distance_{name}")
        yield from figures.chart(figure, styled, "from the least to the greatest seed")
    rows = [row for reading in readings for row in reading.rows]
    if comparison.reading:
        yield Commands((words.command(["launch.contexts", *comparison.reading["command"]]),))
    yield Commands(tuple(comparison.commands(rows)), "each training by itself")


def _sentences(group: Trainings, readings: list[Reading]) -> Iterator[str]:
    yield f"{group.conditions}."
    reached = _reached(readings)
    yield f"{reached[:1].upper()}{reached[1:]}."
    yield (
        "That is the effective context: the longest length at which at least "
        f"{THRESHOLD:g} of the answers are correct, without more training at that length; the median over seeds, and "
        "from the least to the greatest of them. A seed that comes to less at the trained length has not learned the "
        "task, and tells nothing of how far back it could read."
    )
    counts = sorted({len(reading.scores("accuracy")) for reading in readings} - {1})
    if counts:
        held = [f"{words.percent(1 - 2 ** (1 - count))} of {words.count(count)}" for count in counts]
        yield f"Such a range holds the median of all seeds with a probability of {words.listed(held)}."
    yield (
        "Accuracies in the table are means over seeds; the averages over lengths have equal weights, weights that rise "
        "by one from length to length (inc.), and weights that fall (dec.)."
    )


def _reached(readings: list[Reading]) -> str:
    """The effective contexts in a sentence: trained at 64 tokens, attention reads 64 (64 to 128) in three seeds."""
    each = []
    for reading in remedies.told(readings):
        scores = reading.scores("accuracy")
        seeds = words.counted(len(scores), "seed")
        if (learned := _learned(reading, scores)) < len(scores):
            seeds += f", of which {words.count(learned) if learned else 'none'} learned the task"
        each.append(f"{reading.in_words} reads {_effective(reading, scores, THRESHOLD)} in {seeds}")
    return f"trained at {readings[0].trained:,} tokens, {words.listed(each)}"


def _learned(reading: Reading, scores: Scores) -> int:
    """How many seeds come to the threshold at the trained length, or at the longest one that is not beyond it."""
    at = max((length for length in reading.lengths if length <= reading.trained), default=reading.lengths[0])
    return sum(of_seed[at] >= THRESHOLD for of_seed in scores.values())


def _effective(reading: Reading, scores: Scores, threshold: float) -> str:
    """The median of the effective contexts of the seeds with their range: 64 (32 to 128)."""
    lengths = effective(scores, threshold)
    median, low, high = statistics.median_low(lengths), min(lengths), max(lengths)
    text = _of_read(median, reading)
    return text if low == high else f"{text} ({_of_read(low, reading)} to {_of_read(high, reading)})"


def _of_read(length: int, reading: Reading) -> str:
    """An effective context, which may lie outside of the lengths that were read."""
    if not length:
        return f"less than {reading.lengths[0]:,}"
    return f"{length:,} or more" if length == reading.lengths[-1] else f"{length:,}"


def _columns(readings: list[Reading]) -> Cells:
    thresholds = [f"effective at {threshold:g}" for threshold in MORE_THRESHOLDS]
    lengths = [f"{length:,}" for length in _lengths(readings)]
    return ("arm", "seeds", "that learned", "trained", "effective", *thresholds, *lengths, "average", "inc.", "dec.")


def _lengths(readings: list[Reading]) -> list[int]:
    return sorted({length for reading in readings for length in reading.lengths})


def _lines(reading: Reading, readings: list[Reading]) -> Iterator[Cells]:
    """The line of an arm; where it differs, one for the examples of which all answers are correct."""
    scores, exact = reading.scores("accuracy"), reading.scores("exact_match")
    yield _line(reading, readings, reading.name, scores)
    if exact != scores:
        yield _line(reading, readings, f"{reading.name}, exact match", exact)


def _line(reading: Reading, readings: list[Reading], name: str, scores: Scores) -> Cells:
    means = {length: statistics.fmean(at[length] for at in scores.values()) for length in reading.lengths}
    rising = range(1, len(means) + 1)
    averages = [weighted(list(means.values()), weights) for weights in ([1] * len(means), rising, rising[::-1])]
    return (
        name,
        ", ".join([str(len(scores)), *reading.missing]),
        str(_learned(reading, scores)),
        f"{reading.trained:,}",
        *(_effective(reading, scores, threshold) for threshold in (THRESHOLD, *MORE_THRESHOLDS)),
        *(words.percent(means[length]) if length in means else "" for length in _lengths(readings)),
        *map(words.percent, averages),
    )


def _by_length(readings: list[Reading], number: int) -> Figure:
    points = [
        _point(reading.name, length, [at[length] for at in reading.scores("accuracy").values()])
        for reading in readings
        for length in reading.lengths
    ]
    return Figure(
        name=f"contexts_{number}_length",
        title=f"Accuracy by length, of models that were trained at {readings[0].trained:,} tokens",
        x="length (tokens)",
        y="accuracy",
        points=tuple(points),
        thresholds={"effective": THRESHOLD},
        log_y=False,
    )


def _by_distance(readings: list[Reading], length: int, name: str) -> Figure:
    points = [
        _point(reading.name, low, accuracies)
        for reading in readings
        for (at_length, low), accuracies in reading.accuracy("distance", "low").items()
        if at_length == length and low
    ]
    return Figure(
        name=name,
        title=f"Accuracy by the distance of an answer from what it needs, at {length:,} tokens",
        x="distance (tokens, from here to twice as far)",
        y="accuracy",
        points=tuple(points),
        log_y=False,
    )


def _point(series: str, x: int, accuracies: list[float]) -> Point:
    """The median, and the range where there are several."""
    bounds = (min(accuracies), max(accuracies)) if len(accuracies) > 1 else ()
    return Point(series, x, statistics.median(accuracies), *bounds)


def _heat_map(readings: list[Reading], number: int) -> Iterator[Chart]:
    """Depth against length, a panel for each arm; nothing where the depth was not measured."""
    maps = {reading.name: _by_depth(reading) for reading in readings}
    maps = {name: cells for name, cells in maps.items() if cells}
    if not maps:
        return
    weakest = [f"{name} {_weakest(cells)}" for name, cells in maps.items()]
    yield Chart(
        f"contexts_{number}_depth",
        "Accuracy by depth, from the beginning of the example (top) to the question (bottom), and by length",
        heat_map.draw(maps, readings[0].trained),
        f"Least accuracy: {'; '.join(weakest)}.",
        "Means over seeds. The trained length stands in bold.",
    )


def _by_depth(reading: Reading) -> dict[tuple[int, int], float]:
    return {at: statistics.fmean(seeds) for at, seeds in reading.accuracy("depth", "at_depth").items()}


def _weakest(cells: dict[tuple[int, int], float]) -> str:
    (length, depth), accuracy = min(cells.items(), key=lambda cell: cell[1])
    return f"{words.percent(accuracy)} at {length:,} tokens from {depth} % of them"
