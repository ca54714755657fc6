"""Advice from the rows of a machine: which arm is the cheapest at a context, which fits, which remembers.

Pure: rows and a question in, answers out. What was not measured is said, with the nearest that was and the command that
would measure it.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from suite import parts
from suite.job import Cell, Job
from suite.judging.statistics import Interval
from suite.report import costs, words
from suite.report.costs import QUANTITIES, Conditions, Point, Quantity, Question, Ratio, Sample, measure_of
from suite.report.reach import REACHES, Longest, Reach, Try, longest
from suite.report.records import Comparison
from suite.sweep.record import Row

OTHERS = 3  # conditions beside the first of which the answer is told in a line
REFUSED = ("oom", "did_not_compile")
UNTUNED = "; the commands train at the rates of other trainings, which were not tuned for this"

Wanted = tuple[Job, tuple[str, ...]]  # a job and the measures of it that nobody has run


@dataclasses.dataclass(frozen=True)
class Statement:
    """A sentence, the rows that it rests on, and what would tell that which was not measured: cells, or commands."""

    text: str
    rows: tuple[Row, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    commands: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What there is to say to one part of the question."""

    title: str
    statements: tuple[Statement, ...]


def advise(comparison: Comparison, asked: Question) -> list[Answer]:
    """An answer for each quantity, for what fits, and for each way to remember."""
    rows = comparison.every_row
    return [
        *(Answer(one.title, tuple(_cheapest(comparison, rows, asked, one))) for one in QUANTITIES),
        *(Answer(one.title, tuple(_fits(comparison, rows, asked, one))) for one in FITS),
        *(Answer(one.title, tuple(_remembers(comparison, rows, asked, one))) for one in REACHES),
    ]


def text(comparison: Comparison, asked: Question) -> Iterator[str]:
    """The answers in lines; a number in brackets is that of a command at their end."""
    read = f"{words.counted(asked.context, 'token')} of context, {asked.generate:,} generated, batch {asked.batch:,}"
    yield f"{read}; on {comparison.where}"
    if comparison.scale and not comparison.evidence:
        yield f"Scale {comparison.scale} is not evidence: {comparison.about}."
    answers = advise(comparison, asked)
    wanted: dict[Job, dict[str, None]] = defaultdict(dict)
    for job, measures in (one for answer in answers for said in answer.statements for one in said.wanted):
        wanted[job] |= dict.fromkeys(measures)
    numbers: dict[str, int] = {}
    for answer in answers:
        yield ""
        yield answer.title
        for said in answer.statements:
            again = [_again(comparison, row) for row in said.rows]
            new = [Cell(job, ",".join(wanted[job])).command(comparison.out) for job, _ in said.wanted]
            noted = [
                f"[{numbers.setdefault(command, len(numbers) + 1)}]"
                for command in dict.fromkeys([*again, *new, *said.commands])
            ]
            yield " ".join([f"  {said.text}", *noted])
    yield ""
    yield "Commands that make the rows again, or for the first time"
    yield from (f"  [{number}] {command}" for command, number in numbers.items())


def _again(comparison: Comparison, row: Row) -> str:
    return Cell(comparison.jobs[row["run_id"]], row["measure"], row["repeat"]).command(comparison.out)


def _arms(comparison: Comparison) -> dict[str, Job]:
    """A job of each arm, for what no row tells of: of its trainings and timings that on the longest examples."""
    longest = sorted(comparison.jobs.items(), key=lambda run: (run[1].length, run[0]))
    jobs = {job.arm: job for _, job in longest}
    return {arm: jobs[arm] for arm in comparison.arms if arm in jobs}


def _cheapest(comparison: Comparison, rows: list[Row], asked: Question, quantity: Quantity) -> Iterator[Statement]:
    """The arms at the nearest point, the cheapest first, where that turns, and the cheapest under other conditions."""
    at_asked = Point(asked.context, asked.batch if quantity.by_batch else 0)
    tables = {
        conditions: costs.samples(entries)
        for conditions, entries in costs.tables(quantity.costs(rows, asked), quantity.alike).items()
    }
    ranked = sorted(tables.items(), key=lambda table: _rank(table[1], asked))

    def wanted(job: Job) -> Wanted:
        ended = job.replace(budget_seconds=job.budget_seconds or quantity.budget_seconds)
        return _at(ended, asked), (quantity.spec(asked),)

    if not ranked:
        yield _not_measured(at_asked, {arm: wanted(job) for arm, job in _arms(comparison).items()})
        return
    (conditions, table), *others = ranked
    nearest = _nearest(table, asked)
    lacking = {
        arm: wanted(comparison.jobs[sample.row["run_id"]])
        for arm, sample in {arm: sample for arms in table.values() for arm, sample in arms.items()}.items()
        if at_asked not in table or arm not in table[at_asked]
    }
    if lacking:
        yield _not_measured(at_asked, lacking, nearest)
    arms = sorted(table[nearest].items(), key=lambda arm: arm[1].log)
    (best, cheapest), *dearer = arms
    yield Statement(f"{best}: {_value(quantity, cheapest, nearest)}", (cheapest.row,))
    for arm, sample in dearer:
        ratio = _ratio(quantity, sample.over(cheapest, exact=quantity.exact))
        yield Statement(f"{arm} {ratio}: {_value(quantity, sample, nearest)}", (sample.row,))
    yield Statement(f"({nearest}; {conditions})")
    yield from _turns(quantity, table, nearest, best)
    yield from _crossover(comparison, quantity, conditions, table, nearest, asked)
    yield from _elsewhere(quantity, others, asked)


def _rank(table: Mapping[Point, Mapping[str, Sample]], asked: Question) -> tuple[float, int, int]:
    """The order of tables: by the nearest point, then the number of arms there, then that of numbers."""
    nearest = _nearest(table, asked)
    arms = table[nearest]
    return nearest.distance(asked), -len(arms), -sum(len(sample.costs) for sample in arms.values())


def _nearest(table: Mapping[Point, Mapping[str, Sample]], asked: Question) -> Point:
    """The nearest point at which there are two arms, or any."""
    return min(table, key=lambda at: (len(table[at]) < 2, at.distance(asked)))


def _at(job: Job, asked: Question) -> Job:
    """The job at the length and batch that are asked for."""
    whole = job.microbatch and asked.batch % job.microbatch
    return job.replace(length=asked.context, batch=asked.batch, microbatch=0 if whole else job.microbatch)


def _not_measured(at: Point, lacking: Mapping[str, Wanted], nearest: Point | None = None, note: str = "") -> Statement:
    beside = f"; the nearest that was: {nearest}" if nearest is not None and nearest != at else ""
    arms = words.listed(list(lacking)) or "no arm is known"
    return Statement(f"Not measured at {at} ({arms}){beside}{note}.", (), tuple(lacking.values()))


def _value(quantity: Quantity, sample: Sample, at: Point) -> str:
    shown = quantity.show(math.exp(sample.log), at)
    if quantity.exact:
        return shown
    logs = sample.processes
    apart = f", {words.percent(math.expm1(max(logs) - min(logs)))} apart" if len(logs) > 1 else ""
    nouns = ("seed", "seeds") if sample.costs[0].is_trained else ("process", "processes")
    return f"{shown} ({words.counted(len(logs), *nouns)}{apart})"


def _ratio(quantity: Quantity, ratio: Ratio) -> str:
    more = quantity.more.format(ratio)
    if not ratio.has_interval:
        return f"{more} (no interval)"
    return more if ratio.is_above or quantity.exact else f"{more}, not beyond doubt"


def _turns(
    quantity: Quantity, table: Mapping[Point, Mapping[str, Sample]], nearest: Point, best: str
) -> Iterator[Statement]:
    """Against which arms, and at what context, the cheapest comes to be the cheaper one or ceases to be."""
    by_context = {at.context: arms for at, arms in table.items() if at.batch == nearest.batch and best in arms}
    never: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for arm in table[nearest]:
        both = {context: arms for context, arms in sorted(by_context.items()) if arm in arms}
        if arm == best or len(both) < 2:
            continue
        ratios = {context: arms[arm].over(arms[best], exact=quantity.exact) for context, arms in both.items()}
        crossed = costs.turns(ratios)
        for at in crossed:
            below, above = max(one for one in both if one <= at.value), min(one for one in both if one >= at.value)
            ahead, behind = (best, arm) if ratios[below].log.value > 0 else (arm, best)
            around = [both[context][name].row for context in (below, above) for name in (best, arm)]
            turn = f"{ahead} is ahead of {behind} below {_tokens(at)}, behind above"
            yield Statement(f"It turns: {turn}.", tuple(around))
        if not crossed:
            doubtful = [context for context, ratio in ratios.items() if not (ratio.is_above or quantity.exact)]
            signs = {ratio.log.value >= 0 for ratio in ratios.values()}
            if beyond := costs.turn_beyond(ratios):
                rows = tuple(both[context][name].row for context in list(both)[-2:] for name in (best, arm))
                yield Statement(f"By extrapolation alone, {best} and {arm} cross at {_tokens(beyond)}.", rows)
            if len(signs) == 1:
                never[min(both), max(both), *doubtful].append(arm)
            else:
                ends = [both[context][name].row for context in (min(both), max(both)) for name in (best, arm)]
                where = f"between {min(both):,} and {max(both):,} tokens"
                yield Statement(f"It turns against {arm} {where}, where is not beyond doubt.", tuple(ends))
    for (low, high, *doubtful), arms in never.items():
        ends = [by_context[context][arm].row for context in (low, high) for arm in (best, *arms)]
        doubt = f", not beyond doubt at {words.listed([f'{context:,}' for context in doubtful])}" if doubtful else ""
        yield Statement(f"No turn against {words.listed(arms)} from {low:,} to {high:,} tokens{doubt}.", tuple(ends))


def _tokens(at: Interval) -> str:
    bounds = f" (95 % {at.low:,.0f} to {at.high:,.0f})" if at.low < at.high else ""
    return f"{at.value:,.0f} tokens{bounds}"


def _crossover(
    comparison: Comparison,
    quantity: Quantity,
    conditions: Conditions,
    table: Mapping[Point, Mapping[str, Sample]],
    nearest: Point,
    asked: Question,
) -> Iterator[Statement]:
    """What finds where arms cross, where the context that is asked for lies outside those that were measured."""
    contexts = [at.context for at in table if at.batch == nearest.batch]
    shortest, longest = min(*contexts, asked.context), max(*contexts, asked.context)
    measured = (shortest, longest) == (min(contexts), max(contexts))
    if measured or not quantity.crossover or len(table[nearest]) < 2 or conditions.match not in ("params", "none"):
        return
    jobs = [comparison.jobs[sample.row["run_id"]] for sample in table[nearest].values()]
    first, *others = sorted(jobs, key=lambda job: (bool(job.match_to), job.arm))  # the one that others are matched to
    usual = Job(**parts.constant("suite.quantities", quantity.crossover, "DEFAULTS"))
    wanted = {name: getattr(first, name) for name in conditions.fields} | {"batch": asked.batch}
    given = [f"--{name}={value}" for name, value in wanted.items() if value != getattr(usual, name)]
    sizes = [f"--quantity={quantity.crossover}", f"--from={shortest}", f"--to={longest}"]
    match = [f"--match={conditions.match}"] if conditions.match != "params" else []
    arms = [f"--arms={job.arm}" for job in (first, *others)]
    argv = ["launch.crossover", *arms, *sizes, *given, *match, f"--out={comparison.out}-crossover"]
    where = f"from {shortest:,} to {longest:,} tokens"
    yield Statement(f"Where {first.arm} and the others cross {where} is found by", (), (), (words.command(argv),))


def _elsewhere(
    quantity: Quantity,
    others: Iterable[tuple[Conditions, dict[Point, dict[str, Sample]]]],
    asked: Question,
) -> Iterator[Statement]:
    """The cheapest arm under other conditions, which are never pooled with the first."""
    told = [(conditions, table) for conditions, table in others if len(table[_nearest(table, asked)]) > 1]
    for conditions, table in told[:OTHERS]:
        at = _nearest(table, asked)
        arms = sorted(table[at].items(), key=lambda arm: arm[1].log)
        (best, cheapest), (second, next_one) = arms[:2]
        ratio = _ratio(quantity, next_one.over(cheapest, exact=quantity.exact))
        said = f"{best}: {_value(quantity, cheapest, at)}; {second} {ratio}"
        yield Statement(f"Under other conditions ({at}; {conditions}): {said}.", (cheapest.row, next_one.row))
    if told[OTHERS:]:
        yield Statement(f"Measured under {len(told) - OTHERS} more conditions, which the report lists.")


class Ran(NamedTuple):
    """An arm that ran at a point, and the bytes that it took, or did not: out of memory or not compiled."""

    at: Point
    row: Row
    size: int
    outcome: str = "ok"

    def holds(self, at: Point) -> bool:
        """Whether a point is no larger."""
        return at.context <= self.at.context and at.batch <= self.at.batch


class Fit(NamedTuple):
    """A kind of program that fits into memory or not: what ran, in what it must agree, and what would tell."""

    title: str
    ran: Callable[[Iterable[Row]], Iterator[Ran]]
    alike: tuple[str, ...]
    spec: Callable[[Question], str]
    generates: bool  # whether what is generated must fit too


def trained(rows: Iterable[Row]) -> Iterator[Ran]:
    """Training steps that were compiled and run, or refused."""
    rows = list(rows)
    refused = {row["run_id"] for row in rows if measure_of(row) == "step_time" and row["outcome"] in REFUSED}
    for row in rows:
        if measure_of(row) == "step_time":
            at = Point(row["length"], row["batch"])
            if row["outcome"] in REFUSED:
                yield Ran(at, row, 0, row["outcome"])
            elif row.get("phase") == "compile" and row["outcome"] == "ok" and row["run_id"] not in refused:
                held = row["argument_bytes"] + row["output_bytes"] - row["alias_bytes"] + row["temp_bytes"]
                yield Ran(at, row, held)
    yield from _largest(rows, "train")


def decoded(rows: Iterable[Row]) -> Iterator[Ran]:
    """States that were decoded with, by the tokens that they hold, or refused."""
    rows = list(rows)
    last: dict[tuple, int] = defaultdict(int)
    for row in rows:
        name = measure_of(row)
        cell = row["run_id"], row["measure"], row["repeat"], row["interleave_with"]
        if name in DECODING and row.get("phase") == "memory" and row["outcome"] == "ok":
            last[cell] = row["context"]
            yield Ran(Point(row["capacity"], row["sequences"]), row, row["state_bytes"])
        elif name in DECODING and row["outcome"] in REFUSED and not _is_limited(row):
            if "capacity" in row:
                yield Ran(Point(row["capacity"], row["sequences"]), row, 0, row["outcome"])
            elif name == "decode":  # which says no context: it is the one after the last that ran
                knobs = parts.knobs("suite.measures", row["measure"])
                context = 4 * last[cell] or int(knobs["shortest"])
                yield Ran(Point(context + int(knobs["tokens"]), int(knobs["batch"])), row, 0, row["outcome"])
    yield from _largest(rows, "decode")


DECODING = ("decode", "token_latency", "throughput")


def _largest(rows: Iterable[Row], program: str) -> Iterator[Ran]:
    """The largest contexts and numbers of sequences that were looked for, and the next ones, which did not fit."""
    for row in rows:
        if measure_of(row) != "largest" or row.get("phase") not in (f"{program}_context", f"{program}_sequences"):
            continue
        size, fixed = ("context", "batch") if row["phase"].endswith("_context") else ("batch", "context")
        held_equal = {fixed: row["context" if fixed == "context" else "sequences"]}
        if row["outcome"] == "ok":
            yield Ran(Point(**{size: row["largest"], **held_equal}), row, row["held_bytes"])
        if "beyond" in row and not _is_limited(row):
            yield Ran(Point(**{size: row["beyond"], **held_equal}), row, 0, "oom")


def _is_limited(row: Row) -> bool:
    """Whether a measure was given less memory than there is."""
    return bool({"memory_bytes": 0, **parts.knobs("suite.measures", row["measure"])}["memory_bytes"])


FITS = (
    Fit("Fits: a training step (bytes as it was compiled)", trained, costs.PROGRAM, lambda _: "step_time", False),
    Fit("Fits: decoding (bytes of the state)", decoded, costs.MODEL, costs.decode_spec, True),
)


def _fits(comparison: Comparison, rows: list[Row], asked: Question, fit: Fit) -> Iterator[Statement]:
    """Which arms ran at what is asked or at more, which were refused there or at less, and how far the others came."""
    at_asked = Point(asked.context + (asked.generate if fit.generates else 0), asked.batch)
    tables = costs.tables(fit.ran(rows), fit.alike, by_measure=False)
    if not tables:
        measures = (fit.spec(asked),)
        yield _not_measured(at_asked, {arm: (_at(job, asked), measures) for arm, job in _arms(comparison).items()})
        return

    def rank(conditions: Conditions) -> tuple[float, int]:
        entries = tables[conditions]
        return min(one.at.distance(asked) for one in entries), -len({one.row["arm"] for one in entries})

    conditions = min(tables, key=rank)
    by_arm: dict[str, list[Ran]] = defaultdict(list)
    for one in tables[conditions]:
        by_arm[one.row["arm"]].append(one)
    known: dict[str, list[tuple[str, Ran]]] = defaultdict(list)
    lacking: dict[str, Wanted] = {}
    for arm, entries in by_arm.items():
        larger = [one for one in entries if one.outcome == "ok" and one.holds(at_asked)]
        smaller = [one for one in entries if one.outcome != "ok" and Ran(at_asked, one.row, 0).holds(one.at)]
        most = max(entries, key=lambda one: (one.outcome == "ok", one.at.context * one.at.batch))
        if larger:
            known[f"Fits at {at_asked}, as this ran"].append((arm, min(larger, key=lambda one: one.at)))
        elif smaller:
            known[f"Does not fit at {at_asked}, as this did not run"].append(
                (arm, min(smaller, key=lambda one: one.at))
            )
        else:
            known[f"Not measured at {at_asked}; the most that ran"].append((arm, most))
            lacking[arm] = _at(comparison.jobs[most.row["run_id"]], asked), (fit.spec(asked),)
    for said, arms in known.items():
        wanted = tuple(lacking[arm] for arm, _ in arms if arm in lacking)
        listed = "; ".join(f"{arm} {_held(one)}" for arm, one in arms)
        yield Statement(f"{said}: {listed}", tuple(one.row for _, one in arms), wanted)
    yield Statement(f"({conditions})")


def _held(one: Ran) -> str:
    """2,048 tokens and batch 2 (56 MB)"""
    held = words.si(float(one.size), "B") if one.outcome == "ok" else words.outcome(one.outcome)
    return f"{one.at} ({held})"


def _remembers(comparison: Comparison, rows: list[Row], asked: Question, reach: Reach) -> Iterator[Statement]:
    """The tokens over which each arm remembers, and the longest that was tried where that is less than is asked."""
    tables: dict[Conditions, list[Try]] = costs.tables(reach.tries(rows), reach.alike)
    ranked = sorted(tables, key=lambda conditions: _reach_rank(tables[conditions]))
    if not ranked:
        wanted = {arm: reach.asked(job, asked) for arm, job in _arms(comparison).items()}
        yield _not_measured(Point(asked.context, 0), wanted, note=UNTUNED)
        return
    tried = max(one.at for entries in tables.values() for one in entries)
    reached = {conditions: longest(tables[conditions]) for conditions in ranked[: 1 + OTHERS]}
    first = reached[ranked[0]]
    if tried < asked.context - 1:
        wanted = {arm: reach.asked(comparison.jobs[of_arm.row["run_id"]], asked) for arm, of_arm in first.items()}
        yield _not_measured(Point(asked.context, 0), wanted, Point(tried, 0), UNTUNED)
    for conditions, arms in reached.items():
        said = ", ".join(f"{arm} {of_arm}" for arm, of_arm in arms.items())
        shown: list[Longest] = list(arms.values()) if conditions == ranked[0] else list(arms.values())[:1]
        yield Statement(f"{said} ({conditions})", tuple(of_arm.row for of_arm in shown))
    if ranked[1 + OTHERS :]:
        yield Statement(f"Measured under {len(ranked) - 1 - OTHERS} more conditions, which the report lists.")


def _reach_rank(tries: list[Try]) -> tuple[int, int, int]:
    """The order of tables: by the number of arms, then the longest that was tried, then the number of trainings."""
    return -len({one.row["arm"] for one in tries}), -max(one.at for one in tries), -len(tries)
