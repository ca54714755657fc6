"""Crossovers: from which length on one arm has more of a quantity than another, with the interval of that length."""

import math
from collections.abc import Iterator, Sequence

from suite.claims import Figure, Point
from suite.judging import crossover
from suite.judging.crossing import ABOVE, BELOW, EITHER, Region
from suite.judging.crossover import ERROR, Answer, Question
from suite.judging.statistics import Interval
from suite.report import figures, words
from suite.report.page import Block, Cells, Commands, Heading, Prose, Table
from suite.report.records import Comparison, Search

COLUMNS = ("arms", "crossing (tokens)", "its interval", "the first arm has", "how it was found", "repeats")
Answered = tuple[Question, Answer]


def answered(comparison: Comparison, search: Search) -> list[Answered]:
    """The questions of a search with what the rows of the report's place say."""
    rows = comparison.every_row
    return [(question, crossover.replay(question, rows)) for question in search.questions]


def crossovers(comparison: Comparison) -> Iterator[Block]:
    """The section: for each search a table and a figure; nothing where none was asked for."""
    if not comparison.searches:
        return
    yield Heading("Crossovers")
    yield Prose(
        "Two arms were measured side by side at a few lengths, then between those where one comes to have more than "
        "the other. A crossing is read on straight lines between lengths, on logarithmic axes; its interval are the "
        "lengths at which the two are not told apart. Lengths are looked at again as repeats come in: "
        f"each interval of a length is so wide that at least {1 - ERROR:.0%} of searches have the crossing in theirs."
    )
    for search in comparison.searches:
        questions = answered(comparison, search)
        read = questions[0][0].read
        yield Heading(f"{read.ABOUT[:1].upper()}{read.ABOUT[1:]}", 3)
        yield Table(COLUMNS, tuple(line for pair in questions for line in lines(*pair)), cards=True)
        figure = _figure(search.name, questions)
        styles = figures.styles_of(figure, comparison.arms)
        marks = [
            Point(question.arms[1], at.value, _equal(question), at.low, at.high)
            for question, answer in questions
            for at in answer.crossings
        ]
        notes = ["Large dots: the crossings, each with its interval."] if marks else []
        bands = f"{words.percent(questions[0][0].confidence)} intervals"
        yield from figures.chart(figure, styles, bands, marks=marks, notes=notes, ratios=True)
        yield Commands((words.command(["launch.crossover", *search.command]),))


def clauses(comparison: Comparison) -> Iterator[str]:
    """What each question came to, for the headline."""
    for search in comparison.searches:
        for question, answer in answered(comparison, search):
            first, second = question.arms
            if not answer.crossings:
                yield f"{question.read.ABOUT}, {first} against {second}: {_none(answer)}"
            for at in answer.crossings:
                more = "more" if _after(answer, at) == ABOVE else "less"
                where = f"from {_tokens(at.value)} tokens on{_bounds(at)}"
                yield f"{question.read.ABOUT}: {first} has {more} than {second} {where}"


def text(comparison: Comparison, name: str) -> list[str]:
    """The table of a search as lines for a terminal."""
    [search] = [search for search in comparison.searches if search.name == name]
    rows = [COLUMNS, *(line for pair in answered(comparison, search) for line in lines(*pair))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def lines(question: Question, answer: Answer) -> list[Cells]:
    """A line for each crossing; one that says so where there is none, and one for an extrapolation."""
    arms, spent = " / ".join(question.arms), str(answer.spent)
    told = [
        (arms, _tokens(at.value), _spelt(at), _sides(answer.regions), _how(question, answer, at), spent)
        for at in answer.crossings
    ]
    if not told:
        told = [(arms, _none(answer), "", _sides(answer.regions), _how(question, answer), spent)]
    if answer.beyond:
        how = (
            f"an extrapolation: the line through the last two lengths, followed beyond {_tokens(max(answer.intervals))}"
        )
        told.append((arms, _tokens(answer.beyond.value), _spelt(answer.beyond), "", how, ""))
    return told


def as_json(comparison: Comparison) -> list[dict]:
    """The answers, for programs."""
    return [
        {
            "quantity": question.quantity,
            "arms": list(question.arms),
            "shortest": question.shortest,
            "longest": question.longest,
            "measured_to": max(answer.intervals, default=None),
            "crossings": [at._asdict() for at in answer.crossings],
            "regions": [region._asdict() for region in answer.regions],
            "extrapolated": answer.beyond._asdict() if answer.beyond else None,
            "failed": [[arm, length, outcome] for (arm, length), outcome in answer.failed.items()],
            "repeats": answer.spent,
            "is_over": answer.is_over,
            "command": words.command(["launch.crossover", *search.command]),
        }
        for search in comparison.searches
        for question, answer in answered(comparison, search)
    ]


def _none(answer: Answer) -> str:
    if not answer.intervals:
        return "not measured yet"
    doubt = " beyond doubt" if any(region.side == EITHER for region in answer.regions) else ""
    return f"none{doubt} up to {_tokens(max(answer.intervals))}"


def _how(question: Question, answer: Answer, at: Interval | None = None) -> str:
    """By which lengths it was found, and how far the search has come."""
    clauses = (
        [f"measured at {words.listed([_tokens(length) for length in answer.intervals])}"] if answer.intervals else []
    )
    if not answer.is_over:
        clauses.append("the search is not over")
    elif at is not None and not question.read.EXACT:
        reached = max(at.high / at.value, at.value / at.low) - 1
        wanted = words.percent(question.tolerance)
        within = crossover.is_within(at, question.tolerance)
        spent = f"its {question.repeats} repeats are spent, or no length lies between: {words.percent(reached)} reached"
        clauses.append(f"within {wanted}" if within else spent)
    elif at is None and any(region.side == EITHER for region in answer.regions):
        clauses.append(f"where it is in doubt all {question.repeats} repeats are spent")
    elif at is not None:
        clauses.append("without noise, between neighbouring lengths")
    outcomes = [f"{arm} at {_tokens(length)}: {words.outcome(why)}" for (arm, length), why in answer.failed.items()]
    return "; ".join([*clauses, *outcomes])


def _sides(regions: Sequence[Region]) -> str:
    """On which side of equal the first arm is: less up to 760, more from 840."""
    told = {ABOVE: "more", BELOW: "less", EITHER: "neither beyond doubt"}
    return ", ".join(
        f"{told[region.side]} from {_tokens(region.low)} to {_tokens(region.high)}"
        for region in regions
        if region.side != EITHER or region in (regions[0], regions[-1])
    )


def _after(answer: Answer, at: Interval) -> int:
    """The side of equal on which the first arm is after a crossing."""
    return next(region.side for region in answer.regions if region.side != EITHER and region.low >= at.value)


def _figure(name: str, questions: Sequence[Answered]) -> Figure:
    read, first = questions[0][0].read, questions[0][0].arms[0]
    is_ratio = read.COMPARED == "ratio"
    points = []
    for question, answer in questions:
        for length, log in answer.intervals.items():
            value, *bounds = (math.exp(bound) for bound in log) if is_ratio else log
            points.append(Point(question.arms[1], length, value, *(() if read.EXACT else bounds)))
    compared = f"{first} / the arm" if is_ratio else f"{first} less the arm"
    return Figure(
        name=f"crossover_{name}",
        title=f"{read.ABOUT[:1].upper()}{read.ABOUT[1:]}: {compared}, against {read.AXIS}",
        x=f"{read.AXIS} (tokens)",
        y=f"{read.COMPARED}; above {_equal(questions[0][0]):g} {first} has more",
        points=tuple(points),
        thresholds={"equal": _equal(questions[0][0])},
        failed=tuple((question.arms[1], length) for question, answer in questions for _, length in answer.failed),
        log_y=is_ratio,
        exact=read.EXACT,
    )


def _equal(question: Question) -> float:
    return 1.0 if question.read.COMPARED == "ratio" else 0.0


def _tokens(length: float) -> str:
    return words.number(float(round(length, 1 if length < 100 else 0)))


def _spelt(at: Interval) -> str:
    return f"{_tokens(at.low)} to {_tokens(at.high)}"


def _bounds(at: Interval) -> str:
    return f" ({_spelt(at)})" if at.low < at.high else ""
