"""The verdicts: the headline, the tables of findings, the one chart and a section for each claim."""

import dataclasses
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from suite.claims import LIKE_ATTENTION, LIKE_LSTM, NEITHER, Condition, Figure, Finding, Number, Point
from suite.judging import crossing
from suite.judging.statistics import Interval
from suite.report import contexts, crossovers, figures, inference, recall, words
from suite.report.figures import DASHED, DOTTED, SOLID, Style
from suite.report.page import Banner, Block, Cells, Chart, Commands, Heading, Link, Prose, Table, Terms
from suite.report.records import NO_SCALE, Comparison, Judged

# A verdict in a sentence, of one claim and of more.
PREDICATES = {"holds": ("holds", "hold"), "fails": ("fails", "fail"), "undecided": ("is undecided", "are undecided")}
COLUMNS = ("claim", "what was found", "verdict", "what it speaks for", "what would turn it")
UNTESTED_COLUMNS = ("claims", "why not", "measured here all the same")
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
    """A sentence on this machine: what was measured, the verdicts on it by their number, and those by construction."""
    if not comparison.rows:
        return "Nothing has been measured yet."
    sections = (crossovers, inference, contexts, recall)
    crossed = [clause for section in sections for clause in section.clauses(comparison)]
    if crossed and not comparison.scale:  # where no claim has asked for anything, none is worth a word
        return f"On {comparison.where}, {comparison.dtypes}, {'; '.join(crossed)}."
    measured = [judged.finding for judged in comparison.judged if judged.finding.basis == "measured"]
    built = [judged for judged in comparison.judged if judged.finding.basis == "construction"]
    controlled = [finding for finding in measured if finding.is_controlled]
    sentences = [finding.sentence for finding in controlled if finding.numbers]
    clauses = [finding.headline for finding in controlled if finding.headline]
    first, *more = clauses or sentences or [finding.sentence for finding in controlled][:1] or [""]
    # A clause may go on from the one before it, of attention.
    clauses = [
        *crossed,
        re.sub("^it ", "attention ", first),
        *more,
        _counts([finding.verdict for finding in measured]),
    ]
    clauses += [_by_construction(judged) for judged in built if judged.finding.verdict in PREDICATES]
    if comparison.scale and not comparison.evidence:
        clauses.append(f"scale {comparison.scale} is a test of the installation and not evidence")
    return f"On {comparison.where}, {comparison.dtypes}, {'; '.join(filter(None, clauses))}."


def _counts(verdicts: Sequence[str]) -> str:
    """two claims hold, one fails and one is undecided; those that are untested are not counted"""
    counts = []
    for verdict, (of_one, of_more) in PREDICATES.items():
        if number := verdicts.count(verdict):
            claims = words.count(number) if counts else words.counted(number, "claim")
            counts.append(f"{claims} {of_one if number == 1 else of_more}")
    return words.listed(counts) if counts else "no claim is decided by measurement"


def _by_construction(judged: Judged) -> str:
    """by construction, inference memory holds"""
    of_one, _ = PREDICATES[judged.finding.verdict]
    return f"by construction, {words.spelt(judged.name)} {of_one}"


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
    asked = (comparison.scale, comparison.searches, comparison.serving, comparison.reading, comparison.recalling)
    if comparison.rows and not any(asked):
        yield Banner(f"No claim can be decided here: {NO_SCALE}.")
    left_out = {judged.name: judged.finding.left_out for judged in comparison.judged if judged.finding.left_out}
    if left_out:
        sections = words.listed([words.spelt(name) for name in left_out])
        groups = words.counted(sum(map(len, left_out.values())), "group")
        yield Banner(f"Left out of verdicts: {groups} of trainings unlike those that were judged; see {sections}.")
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


def findings(comparison: Comparison) -> Iterator[Block]:
    """A line for each claim that is decided or undecided: those that were measured, then those by construction."""
    tested = [judged for judged in comparison.judged if judged.finding.verdict != "untested"]
    measured = [judged for judged in tested if judged.finding.basis == "measured"]
    yield Heading("Findings")
    yield _table(measured, COLUMNS) if measured else Prose("No claim is decided by measurement.")
    if built := [judged for judged in tested if judged.finding.basis == "construction"]:
        yield Heading("By construction")
        yield Prose("These follow from how the models are built; the measurement checks that they are built so.")
        yield _table(built, COLUMNS[:-1])
    yield from _cannot_say(comparison)
    if comparison.command:
        yield Commands((comparison.command,))


def _table(claims: Sequence[Judged], columns: Cells) -> Table:
    rows = []
    for judged in claims:
        finding = judged.finding
        told = (_sentence(finding), _verdict(judged), finding.speaks_for, turning(finding))
        rows.append((words.spelt(judged.name), *told)[: len(columns)])
    return Table(columns, tuple(rows), cards=True, links=tuple(map(_links, claims)))


def _links(judged: Judged) -> tuple[Link, ...]:
    """To the section of a claim, and to the first of its figures."""
    first = [Link("figure", Chart.anchor_of(figure.name)) for figure in judged.finding.figures[:1]]
    return Link(words.spelt(judged.name), _heading(judged).anchor), *first


def _sentence(finding: Finding) -> str:
    """What was found, with the word where a control failed."""
    failed = "" if finding.is_controlled else f" ({UNCONTROLLED})"
    return f"{finding.sentence[:1].upper()}{finding.sentence[1:]}{failed}."


def measured_in(finding: Finding, number: Number) -> str:
    """A number of a finding with its unit and interval, and with the word where a control failed."""
    return words.measured(number) if finding.is_controlled else f"{words.measured(number)}, {UNCONTROLLED}"


def _verdict(judged: Judged) -> str:
    """The verdict; where it is undecided for another reason than that a condition turns it, with the reason."""
    finding = judged.finding
    reason = finding.reason if finding.verdict == "undecided" and not _turned(finding) else ""
    return ", ".join(filter(None, (f"{finding.verdict}: {reason}" if reason else finding.verdict, judged.marked)))


def _turned(finding: Finding) -> list[Condition]:
    """The conditions under which a verdict is another one."""
    if not finding.conditions or finding.conditions[0].verdict not in ("holds", "fails"):
        return []
    return [at for at in finding.conditions if at.verdict not in (finding.conditions[0].verdict, "untested")]


def turning(finding: Finding) -> str:
    """What turns a verdict, what was tried and does not turn it, and what was not tried."""
    same = [at.name for at in finding.conditions[1:] if at.verdict == finding.conditions[0].verdict]
    turned = [f"{at.verdict} {at.name}" for at in (*finding.conditions[:1], *_turned(finding))]
    clauses = [
        f"it turns: {', '.join(turned)}" if len(turned) > 1 else "",
        f"the same {words.listed(same)}" if same else "",
    ]
    clauses += [f"not tried: {words.listed(finding.untried)}" if finding.untried else ""]
    return "; ".join(filter(None, clauses))


def _cannot_say(comparison: Comparison) -> Iterator[Block]:
    """Each reason why claims are untested, once, with the claims and the results that were measured all the same."""
    reasons: dict[str, list[Judged]] = defaultdict(list)
    for judged in comparison.judged:
        if judged.finding.verdict == "untested":
            reasons[{judged.name: judged.finding.reason, **comparison.untested}[judged.name]].append(judged)
    if not reasons:
        return
    rows, links = [], []
    for reason, claims in reasons.items():
        measured = [_sentence(judged.finding) for judged in claims if judged.finding.numbers]
        rows.append((", ".join(words.spelt(judged.name) for judged in claims), reason, "\n".join(measured)))
        links.append(tuple(link for judged in claims for link in _links(judged)))
    yield Heading("What this scale cannot say" if comparison.scale else "What these runs cannot say")
    yield Table(UNTESTED_COLUMNS, tuple(rows), cards=True, links=tuple(links))


def _heading(judged: Judged) -> Heading:
    return Heading(f"Claim: {words.spelt(judged.name)}", name=f"claim {judged.name}")


def claim(comparison: Comparison, judged: Judged) -> Iterator[Block]:
    """The section of a claim: its rule, its finding, its numbers, controls, tables and figures."""
    finding = judged.finding
    yield _heading(judged)
    # The reason why it is untested stands above the contents, once.
    verdict = finding.verdict if finding.verdict == "untested" else f"{finding.verdict}: {finding.reason}"
    pairs = [
        ("Question", judged.question),
        ("Textbook", judged.textbook),
        ("Rule", f"{judged.rule} (The hash of the rule: {judged.rule_hash}.)"),
        ("Result", _sentence(finding)),
        ("Verdict", ", ".join(filter(None, (f"{verdict} (basis: {finding.basis})", judged.marked)))),
        ("Speaks for", finding.speaks_for),
        (COLUMNS[-1].capitalize(), turning(finding)),
        ("Verdict extends", extent(finding)),
    ]
    yield Terms(tuple((term, text) for term, text in pairs if text))
    if finding.numbers:
        rows = [(number.name, measured_in(finding, number), str(number.n)) for number in finding.numbers]
        yield Table(("quantity", "value, 95 % interval", "measurements"), tuple(rows))
        by_hand = tuple(dict.fromkeys(number.command for number in finding.numbers))
        yield Commands((comparison.command,) if comparison.command else by_hand)
    if finding.controls:
        rows = [(control.name, "yes" if control.met else "no", control.measured) for control in finding.controls]
        yield Table(("control", "met?", "measured"), tuple(rows))
    if len(finding.conditions) > 1:
        yield Heading("What the verdict must not turn with", 3)
        yield Table(("condition", "verdict", "reason"), finding.conditions)
    if finding.left_out:
        yield Heading("Left out: trainings that are like none of those that were judged", 3)
        yield Table(("trainings",), tuple((trainings,) for trainings in finding.left_out))
    for table in finding.tables:
        yield Heading(table.title if finding.is_controlled else f"{table.title} ({UNCONTROLLED})", 3)
        yield Table(table.columns, table.rows)
    for figure in finding.figures:
        yield from figures.chart(figure, figures.styles_of(figure, comparison.arms))


def extent(finding: Finding) -> str:
    """The other arms for which a verdict holds too; empty without a verdict or without other arms."""
    if finding.verdict not in ("holds", "fails") or not finding.arms:
        return ""
    names: dict[str, list[str]] = defaultdict(list)
    for arm, behaviour in finding.arms:
        names[behaviour].append(arm)
    arms = {behaviour: words.listed(of_behaviour) for behaviour, of_behaviour in names.items()}
    clauses = [f"to {arms[LIKE_LSTM]}" if LIKE_LSTM in arms else "to no other arm"]
    clauses += [f"not to {arms[LIKE_ATTENTION]}"] if LIKE_ATTENTION in arms else []
    clauses += [f"open for {arms[NEITHER]}"] if NEITHER in arms else []
    return "; ".join(clauses)


# Colours that are no arm's and stay apart for colour-blind readers, on white and on black.
STYLES: tuple[Style, ...] = (("#5E5EED", SOLID), ("#CC3370", DASHED), ("#A18412", DOTTED))


def one_chart(comparison: Comparison) -> Iterator[Block]:
    """The costs of attention over those of the LSTM against length: the first thing to look at."""
    costs = ratios(judged.finding for judged in comparison.judged)
    figure = Figure(
        name="crossover",
        title=f"Attention / LSTM against length: {words.listed([cost.cost for cost in costs])}",
        x="length (tokens)",
        y="ratio; above 1 attention costs more",
        points=tuple(point for cost in costs for point in cost.points),
        thresholds={"equal": 1.0},
        failed=tuple(failure for cost in costs for failure in cost.failed),
    )
    crossed = [(cost.cost, at) for cost in costs for at in crossings(cost)]
    notes = ["No line crosses 1 beyond doubt."] if figure.points else []
    if crossed:
        places = words.listed([f"{name} at about {_range(at)}" for name, at in crossed])
        notes = [f"Large dots: where a line crosses 1 ({places})."]
    styles = dict(zip(figures.series(figure), itertools.cycle(STYLES), strict=False))
    marks = [Point(name, at.value, 1.0) for name, at in crossed]
    yield from figures.chart(figure, styles, marks=marks, notes=notes, ratios=True)


def _range(at: Interval) -> str:
    bounds = f" (95 % {words.number(at.low)} to {words.number(at.high)})" if at.low < at.high else ""
    return f"{words.number(at.value)} tokens{bounds}"


def ratios(findings: Iterable[Finding]) -> list[Figure]:
    """The figures that name a cost, each as one line: attention / LSTM by the series with the shortest name."""
    return [_ratio(figure) for finding in findings for figure in finding.figures if figure.cost]


def _ratio(figure: Figure) -> Figure:
    name = min(figures.series(figure), key=len, default="")
    points = [point for point in figure.points if point.series == name and point.x > 0 and point.y > 0]
    failed = [(figure.cost, at) for series, at in figure.failed if series == name]
    return dataclasses.replace(figure, points=tuple(_point(figure, point) for point in points), failed=tuple(failed))


def _point(figure: Figure, point: Point) -> Point:
    """The point as a ratio of costs: one of speeds is inverted."""
    if not figure.inverted:
        return dataclasses.replace(point, series=figure.cost)
    bounds = {} if point.low is None or point.high is None else {"low": 1 / point.high, "high": 1 / point.low}
    return Point(figure.cost, point.x, 1 / point.y, **bounds)


def crossings(figure: Figure) -> list[Interval]:
    """Where a line crosses 1, with the range that intervals allow, as the chart is drawn: on logarithmic axes.

    A point without an interval is left out, unless the figure is exact.
    """
    line = {}
    for point in figure.points:
        bounds = (point.y, point.y, point.y) if figure.exact else (point.y, point.low, point.high)
        if None not in bounds:
            line[point.x] = Interval(*(math.log(bound) for bound in bounds if bound is not None))
    return crossing.crossings(list(line), list(line.values()))
