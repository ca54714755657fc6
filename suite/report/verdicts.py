"""The verdicts: the headline, the table of claims, the one chart and a section for each claim."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from suite import claims
from suite.claims import LIKE_ATTENTION, LIKE_LSTM, NEITHER, Figure, Finding, Number, Point
from suite.judging import statistics
from suite.judging.statistics import Interval
from suite.report import figures, words
from suite.report.figures import DASHED, DOTTED, SOLID, Style
from suite.report.page import Banner, Block, Commands, Heading, Note, Prose, Table, Terms
from suite.report.records import NO_SCALE, Comparison, Judged

# A verdict in a sentence, of one claim and of more.
PREDICATES = {
    "holds": ("holds", "hold"),
    "fails": ("fails", "fail"),
    "undecided": ("is undecided", "are undecided"),
    "untested": ("cannot be tested at this scale", "cannot be tested at this scale"),
}
COLUMNS = (
    *("claim", "question and the textbook's answer", "measured here", "verdict", "scope", "crossover", "other arms"),
)
MOST_PROBLEMS = 20
UNCONTROLLED = "a control failed"


# The words of this project that a report cannot do without.
MEANINGS = (
    "The models compared here are one network and differ only in its mixer, the layer that carries information from "
    "token to token: attention, or a recurrence such as the LSTM. A model with its mixer is an arm; training it again "
    "with other random numbers is another seed.",
    "A claim is a statement of the textbook on attention and recurrence. A rule, written before any data, judges it "
    "for attention and the LSTM, the judged pair: it holds, fails, is undecided, or is untested where these runs "
    "cannot decide it. Other arms are like the one, like the other, or neither.",
)


def headline(comparison: Comparison) -> str:
    """A sentence on this machine: the claims' clauses in their order, and the number of each verdict."""
    if not comparison.rows:
        return "Nothing has been measured yet."
    findings = [judged.finding for judged in comparison.judged]
    controlled = [finding for finding in findings if finding.is_controlled]
    measured = [finding.sentence for finding in controlled if finding.numbers]
    clauses = [finding.headline for finding in controlled if finding.headline]
    first, *more = clauses or measured or [finding.sentence for finding in controlled][:1] or [""]
    # A clause may go on from the one before it, of attention.
    clauses = [re.sub("^it ", "attention ", first), *more, _counts([finding.verdict for finding in findings])]
    if comparison.scale and not comparison.evidence:
        clauses.append(f"scale {comparison.scale} is a test of the installation and not evidence")
    return f"On {comparison.where}, {comparison.dtypes}, {'; '.join(filter(None, clauses))}."


def _counts(verdicts: list[str]) -> str:
    """two claims hold, one fails and four cannot be tested at this scale"""
    counts = []
    for verdict, (of_one, of_more) in PREDICATES.items():
        if number := verdicts.count(verdict):
            claims = words.count(number) if counts else words.counted(number, "claim")
            counts.append(f"{claims} {of_one if number == 1 else of_more}")
    return words.listed(counts) if counts else ""


def warnings(comparison: Comparison) -> Iterator[Block]:
    """Banners: other thresholds than the rules', a scale that is no evidence, records that are left out."""
    changed = [judged for judged in comparison.judged if judged.changed]
    if changed:
        marks = "; ".join(f"{words.spelt(judged.name)}, {judged.marked}" for judged in changed)
        yield Banner(f"Judged again: {marks}. The rules' own verdicts stand in {comparison.out}/report.html.")
        flags = [f"--threshold={judged.name}.{one.name}={one.value}" for judged in changed for one in judged.changed]
        yield Commands((words.command(["launch.report", f"--out={comparison.out}", *flags]),))
    if comparison.scale and not comparison.evidence:
        test = f"Scale {comparison.scale} is a test of the installation and not evidence"
        yield Banner(f"{test}: its sizes are too small for any verdict.")
    if comparison.rows and not comparison.scale:
        yield Banner(f"No claim can be decided here: {NO_SCALE}.")
    yield from problems(comparison, comparison.out)


def problems(comparison: Comparison, name: str) -> Iterator[Block]:
    """The records of `name` that are left out or cannot be relied upon."""
    if comparison.problems:
        things = words.counted(len(comparison.problems), "thing")
        yield Banner(f"Left out of {name} or not to be relied upon: {things}.")
        rows = [(problem.where, problem.why) for problem in comparison.problems[:MOST_PROBLEMS]]
        more = len(comparison.problems) - MOST_PROBLEMS
        yield Table(("what", "why"), (*rows, *([(f"{more:,} more", "report.json lists them")] if more > 0 else [])))


def introduction(comparison: Comparison) -> Iterator[Block]:
    """The words that a stranger needs for the headline and the table of claims."""
    models, claims = MEANINGS
    yield Prose(models)
    scale = f" The scale, how much is run, is {comparison.scale}: {comparison.about}." if comparison.scale else ""
    yield Prose(claims + scale)


def claims_table(comparison: Comparison) -> Iterator[Block]:
    """A line for each claim, and p-values that are corrected over all claims."""
    rows = []
    for judged in comparison.judged:
        finding = judged.finding
        measured = "\n".join(f"{number.name}: {measured_in(finding, number)}" for number in finding.numbers[:2])
        verdict = ", ".join(filter(None, (f"{finding.verdict}: {finding.reason}", judged.marked)))
        question = f"{judged.question}\nTextbook: {judged.claimed}."
        row = (words.spelt(judged.name), question, measured or sentence_of(finding), verdict, finding.scope)
        rows.append((*row, finding.crossover, resemblance(finding)))
    yield Heading("Claims")
    yield Table(COLUMNS, tuple(rows), cards=True)
    tested = {judged.name: judged.finding.p_value for judged in comparison.judged if judged.finding.p_value is not None}
    if tested:
        members = len({*claims.ORDER, *(judged.name for judged in comparison.judged)})
        adjusted = statistics.holm([*tested.values(), *[1.0] * (members - len(tested))])
        values = [
            f"{words.spelt(name)} {_p(value)} ({_p(after)} after Holm)"
            for (name, value), after in zip(tested.items(), adjusted, strict=False)
        ]
        corrected = f"that corrected over {words.count(members)} claims; within a claim its rule corrects by itself"
        yield Note(f"The least p-value of a claim's own tests, and {corrected}: {'; '.join(values)}.")
    if comparison.command:
        yield Commands((comparison.command,))


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 0.001 else "p < 0.001"


def claim(comparison: Comparison, judged: Judged) -> Iterator[Block]:
    """The section of a claim: its rule, its finding, its numbers, controls, tables and figures."""
    finding = judged.finding
    yield Heading(f"Claim: {words.spelt(judged.name)}")
    verdict = f"{finding.verdict}: {finding.reason} (basis: {finding.basis})"
    untested = f"cannot decide it: {comparison.untested[judged.name]}" if judged.name in comparison.untested else ""
    pairs = [
        ("Question", judged.question),
        ("Textbook", judged.textbook),
        ("Rule", f"{judged.rule} (The hash of the rule: {judged.rule_hash}.)"),
        ("Result", f"{sentence_of(finding)[:1].upper()}{sentence_of(finding)[1:]}."),
        ("Verdict", ", ".join(filter(None, (verdict, judged.marked)))),
        ("This scale", untested),
        ("Scope", finding.scope),
        ("Crossover", finding.crossover),
        ("Other arms", resemblance(finding)),
        ("Verdict extends", extent(finding)),
    ]
    yield Terms(tuple((term, text) for term, text in pairs if text))
    if finding.numbers:
        rows = [(number.name, measured_in(finding, number), str(number.n)) for number in finding.numbers]
        yield Table(("quantity", "value, 95 % interval", "measurements"), tuple(rows))
        by_hand = tuple(dict.fromkeys(number.command for number in finding.numbers))
        yield Commands((comparison.command,) if comparison.command else by_hand)
    if finding.controls:
        rows = [(control.name, "yes" if control.met else "no", control.found) for control in finding.controls]
        yield Table(("control", "met?", "measured"), tuple(rows))
    for table in finding.tables:
        yield Heading(table.title if finding.is_controlled else f"{table.title} ({UNCONTROLLED})", 3)
        yield Table(table.columns, table.rows)
    for figure in finding.figures:
        yield from figures.chart(figure, figures.styles_of(figure, comparison.arms))


def measured_in(finding: Finding, number: Number) -> str:
    """A number of a finding with its unit and interval, and with the word where a control failed."""
    return words.measured(number) if finding.is_controlled else f"{words.measured(number)}, {UNCONTROLLED}"


def sentence_of(finding: Finding) -> str:
    return finding.sentence if finding.is_controlled else f"{finding.sentence} ({UNCONTROLLED})"


def resemblance(finding: Finding) -> str:
    """like the LSTM: gru, elman; like attention: mingru"""
    return "; ".join(f"{behaviour}: {', '.join(arms)}" for behaviour, arms in _by_behaviour(finding).items())


def extent(finding: Finding) -> str:
    """The other arms for which a verdict holds too; empty without a verdict or without other arms."""
    if finding.verdict not in ("holds", "fails") or not finding.arms:
        return ""
    arms = {behaviour: words.listed(names) for behaviour, names in _by_behaviour(finding).items()}
    clauses = [f"to {arms[LIKE_LSTM]}" if LIKE_LSTM in arms else "to no other arm"]
    clauses += [f"not to {arms[LIKE_ATTENTION]}"] if LIKE_ATTENTION in arms else []
    clauses += [f"open for {arms[NEITHER]}"] if NEITHER in arms else []
    return "; ".join(clauses)


def _by_behaviour(finding: Finding) -> dict[str, list[str]]:
    names: dict[str, list[str]] = defaultdict(list)
    for arm, behaviour in finding.arms:
        names[behaviour].append(arm)
    return {behaviour: names[behaviour] for behaviour in (LIKE_LSTM, LIKE_ATTENTION, NEITHER) if behaviour in names}


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A line of the one chart, from a claim's figure of a ratio. A ratio of speeds is inverted: above 1 is dearer."""

    name: str
    figure: str
    speeds: bool
    exact: bool  # by construction: its points need no interval
    style: Style


# Colours that are no arm's and stay apart for colour-blind readers, on white and on black.
QUANTITIES = (
    Quantity("step time", "training_speed_ratio", True, False, ("#5E5EED", SOLID)),
    Quantity("decode latency", "decode_latency_ratio", False, False, ("#CC3370", DASHED)),
    Quantity("state bytes", "state_bytes_ratio", False, True, ("#A18412", DOTTED)),
)
STYLES = {quantity.name: quantity.style for quantity in QUANTITIES}


def one_chart(comparison: Comparison) -> Iterator[Block]:
    """The costs of attention over those of the LSTM against length: the first thing to look at."""
    figure = ratios(judged.finding for judged in comparison.judged)
    crossed = crossings(figure)
    notes = ["No line crosses 1 beyond doubt."] if figure.points else []
    if crossed:
        places = words.listed([f"{name} at about {_range(at)}" for name, at in crossed])
        notes = [f"Large dots: where a line crosses 1 ({places})."]
    marks = [Point(name, at.value, 1.0) for name, at in crossed]
    yield from figures.chart(figure, STYLES, marks=marks, notes=notes, ratios=True)


def _range(at: Interval) -> str:
    bounds = f" (95 % {words.number(at.low)} to {words.number(at.high)})" if at.low < at.high else ""
    return f"{words.number(at.value)} tokens{bounds}"


def ratios(findings: Iterable[Finding]) -> Figure:
    """The three ratios, attention / LSTM, where the findings have them."""
    drawn = {figure.name: figure for finding in findings for figure in finding.figures}
    points: list[Point] = []
    failed: list[tuple[str, float]] = []
    for quantity in QUANTITIES:
        if quantity.figure in drawn:
            measured, failures = _plainest(drawn[quantity.figure])
            points += [_point(quantity, point) for point in measured]
            failed += [(quantity.name, at) for at in failures]
    return Figure(
        name="crossover",
        title="Attention / LSTM against length: time of a training step, decode latency, bytes of state",
        x="length (tokens)",
        y="ratio; above 1 attention costs more",
        points=tuple(points),
        thresholds={"equal": 1.0},
        failed=tuple(failed),
    )


def crossings(figure: Figure) -> list[tuple[str, Interval]]:
    """Where each line crosses 1, with the range that intervals allow, as the chart is drawn: on logarithmic axes.

    A point without an interval is left out, unless its line is exact.
    """
    crossed = []
    for quantity in QUANTITIES:
        line = {}
        for point in figure.points:
            bounds = (point.y, point.y, point.y) if quantity.exact else (point.y, point.low, point.high)
            if point.series == quantity.name and None not in bounds:
                line[point.x] = Interval(*(math.log(bound) for bound in bounds if bound is not None))
        crossed += [(quantity.name, at) for at in statistics.crossings(list(line), list(line.values()))]
    return crossed


def _plainest(figure: Figure) -> tuple[list[Point], list[float]]:
    """The points and the failures of the series with the shortest name."""
    name = min(figures.series(figure), key=len, default="")
    points = [point for point in figure.points if point.series == name and point.x > 0 and point.y > 0]
    return points, [at for series, at in figure.failed if series == name]


def _point(quantity: Quantity, point: Point) -> Point:
    if not quantity.speeds:
        return dataclasses.replace(point, series=quantity.name)
    bounds = {} if point.low is None or point.high is None else {"low": 1 / point.high, "high": 1 / point.low}
    return Point(quantity.name, point.x, 1 / point.y, **bounds)
