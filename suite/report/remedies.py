"""What remedies gain beyond the trained length and what they cost: of each arm, and of attention against recurrence."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from suite.job import Job
from suite.report import words
from suite.report.page import Block, Cells, Note, Prose, Table
from suite.report.readings import Reading
from suite.report.records import Comparison
from suite.sweep.record import Row

SIDES = {"attention": "attention", "recurrence": "the recurrences"}  # and their names in a sentence
FORWARD, TRAINING = 1, 3  # FLOPs of a pass over a token, in those of a forward pass
Beyond = dict[int, float]  # of each seed the mean accuracy over the lengths beyond the trained one


def remedies(comparison: Comparison, readings: Sequence[Reading]) -> Iterator[Block]:
    """A paragraph on the best remedy of each side, and a table of gains and costs."""
    if not any(reading.remedy for reading in readings):
        if comparison.reading:
            yield Prose("No remedy for lengths beyond the trained one was tried; --remedies tries those of both sides.")
        return
    if lengths := _beyond(readings):
        yield Prose(" ".join(_sentences(readings, lengths)))
    yield Table(COLUMNS, tuple(_line(comparison, reading, lengths) for reading in readings))
    yield Note(
        "Interpolation and NTK change rope where a trained model is read beyond its length; ALiBi and no positions are "
        "trainings of their own, and so is state passing, in whose added steps a recurrence reads each window from its "
        "state at the end of another. All have the learning rate that was chosen without a remedy. A step that passes "
        "states counts a forward pass more. Seconds are the median over seeds."
    )


def told(readings: Sequence[Reading]) -> list[Reading]:
    """Those that a headline and a figure have room for: without remedies, and the best of each side where it is one."""
    lengths = _beyond(readings)
    plain = [reading for reading in readings if not reading.remedy]
    best = [_best(of_side, lengths) for of_side in _by_side(readings).values()] if lengths else []
    remedied = [reading for reading in best if reading is not None and reading.remedy]
    return [*plain, *remedied] if plain else list(readings)


def chosen(candidates: Sequence[Mapping[int, float]]) -> Beyond:
    """The score of each seed by the candidate that is best in the other seeds; a single seed chooses for itself."""
    seeds = sorted(set.intersection(*(set(scores) for scores in candidates)))
    scores = {}
    for seed in seeds:
        others = [other for other in seeds if other != seed] or [seed]
        best = max(candidates, key=lambda candidate: sum(candidate[other] for other in others))
        scores[seed] = best[seed]
    return scores


def ahead(one: Beyond, other: Beyond) -> int:
    """1 where the one has more in every seed that both have, -1 where the other has; otherwise 0."""
    signs = {(one[seed] > other[seed]) - (one[seed] < other[seed]) for seed in one.keys() & other.keys()}
    return signs.pop() if len(signs) == 1 else 0


def _sentences(readings: Sequence[Reading], lengths: Sequence[int]) -> Iterator[str]:
    plain, best, clauses = {}, {}, []
    for side, of_side in _by_side(readings).items():
        without = [_scores(reading, lengths) for reading in of_side if not reading.remedy]
        with_any = [_scores(reading, lengths) for reading in of_side]
        if not without or not chosen(with_any):
            continue
        plain[side], best[side] = chosen(without), chosen(with_any)
        clauses.append(_most(of_side, lengths))
    if not clauses:
        return
    at = words.listed([f"{length:,}" for length in lengths])
    over = f"on average over {at}" if len(lengths) > 1 else f"at {at}"
    yield f"Beyond the trained {readings[0].trained:,} tokens, {over}, {'; '.join(clauses)}."
    yield "Ranges are from the least to the greatest seed."
    if all(len(scores) > 1 for scores in best.values()):
        each = [f"{SIDES[side]} {_mean(plain[side])} without and {_mean(best[side])} with" for side in best]
        yield (
            "These are the best of several, counted where they were chosen; with arm and remedy of each seed chosen "
            f"by the other seeds, {words.listed(each)}."
        )
    else:
        yield "With one seed the best is chosen where it is counted, so part of its gain may be luck."
    if len(best) == len(SIDES):
        yield verdict(ahead(*plain.values()), ahead(*best.values()), len(best["attention"].keys() & best["recurrence"]))
    if any(not reading.side for reading in readings):
        yield "Hybrids, which are of neither side, stand in the table alone."


def _most(of_side: Sequence[Reading], lengths: Sequence[int]) -> str:
    """of the recurrences the GRU answers most, 41 % (38 % to 44 %) without a remedy, and the LSTM with ... 62 %"""
    plain, best = _best([one for one in of_side if not one.remedy], lengths), _best(of_side, lengths)
    assert plain is not None
    assert best is not None
    who = f"{plain.in_words} answers"
    if len({one.arm for one in of_side}) > 1:
        who = f"of {SIDES[plain.side]} {who} most,"
    first = f"{who} {_range(_scores(plain, lengths))} correctly without a remedy"
    if not best.remedy:
        return f"{first}, and no remedy does better"
    return f"{first}, and {best.in_words} {_range(_scores(best, lengths))}"


def verdict(plain: int, best: int, n_seeds: int) -> str:
    """What the signs of `ahead` say of attention against recurrence, without remedies and with the best."""
    first = {1: "attention is", -1: "the recurrences are", 0: "neither side is"}
    seeds = "the one seed" if n_seeds == 1 else f"each of {words.count(n_seeds)} seeds"
    if plain == best:
        return f"Without remedies and with the best of both sides {first[best]} ahead in {seeds}."
    lost = ": the order without remedies does not survive them" if plain else ""
    return f"Without remedies {first[plain]} ahead in {seeds}, with the best of both sides {first[best]}{lost}."


COLUMNS = ("arm", "remedy", "beyond the trained length", "steps", "FLOPs of training", "seconds of training")


def _line(comparison: Comparison, reading: Reading, lengths: Sequence[int]) -> Cells:
    runs = {row["run_id"] for row in reading.rows}
    rows = [row for row in comparison.rows if row["run_id"] in runs and row["outcome"] == "ok"]
    tests = [row for row in rows if row["measure"] == "learning" and row["phase"] == "test"]
    counts = [row["flops_per_token"] for row in rows if row["measure"] == "size" and row["phase"] == "model"]
    job, scores = reading.job, _scores(reading, lengths)
    added = job.last_step - job.steps
    return (
        reading.arm,
        reading.remedy or "none",
        _range(scores) if scores else "not read",
        f"{job.last_step:,} ({added:,} added)" if added else f"{job.steps:,}",
        words.si(_flops(job, tests[0], counts[0]), "FLOP") if counts and tests else "not counted",
        words.seconds(statistics.median(row["seconds"] for row in tests)) if tests else "not measured yet",
    )


def _flops(job: Job, test: Row, flops_per_token: float) -> float:
    """Model FLOPs of a training, with the forward passes of the windows that states are passed from."""
    passed = (job.last_step - job.steps) * job.tokens_a_step
    return flops_per_token * (TRAINING * test["tokens"] + FORWARD * passed)


def _by_side(readings: Sequence[Reading]) -> dict[str, list[Reading]]:
    of_sides = {side: [reading for reading in readings if reading.side == side] for side in SIDES}
    return {side: of_side for side, of_side in of_sides.items() if of_side}


def _beyond(readings: Sequence[Reading]) -> list[int]:
    """The lengths beyond the trained one at which all were read."""
    common = set.intersection(*(set(reading.lengths) for reading in readings))
    return sorted(length for length in common if length > readings[0].trained)


def _scores(reading: Reading, lengths: Sequence[int]) -> Beyond:
    if not lengths:
        return {}
    return {seed: statistics.fmean(at[length] for length in lengths) for seed, at in reading.scores("accuracy").items()}


def _best(readings: Sequence[Reading], lengths: Sequence[int]) -> Reading | None:
    """That with the greatest mean over seeds; None where a seed is missing of one."""
    means = [_scores(reading, lengths) for reading in readings]
    seeds = set.intersection(*(set(scores) for scores in means))
    if not seeds:
        return None
    return max(zip(readings, means, strict=True), key=lambda pair: sum(pair[1][seed] for seed in seeds))[0]


def _mean(scores: Beyond) -> str:
    return words.percent(statistics.fmean(scores.values()))


def _range(scores: Beyond) -> str:
    mean, low, high = statistics.fmean(scores.values()), min(scores.values()), max(scores.values())
    text = words.percent(mean)
    return text if low == high else f"{text} ({words.percent(low)} to {words.percent(high)})"
