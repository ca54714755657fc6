"""What stands in a report, in its order: headline, claims, the one chart, all arms, each claim, and the rest."""

import re
from collections.abc import Iterator

from suite import claims
from suite.claims import MATCHES
from suite.judging.statistics import holm
from suite.report import charts, overview, words
from suite.report.blocks import again, chart, dtypes, own_thresholds, problems, spelt
from suite.report.curves import curves
from suite.report.document import Banner, Block, Commands, Document, Facts, Heading, Note, Table
from suite.report.fairness import environment, fairness
from suite.report.field import extent, field, resemblance
from suite.report.learning import learning
from suite.report.outcomes import outcomes
from suite.report.records import NO_SCALE, Gathered, Judged
from suite.report.utilisation import utilisation

# A verdict in a sentence, of one claim and of more.
SAID = {
    "holds": ("holds", "hold"),
    "fails": ("fails", "fail"),
    "undecided": ("is undecided", "are undecided"),
    "untested": ("cannot be tested at this scale", "cannot be tested at this scale"),
}
TITLE = "Where attention beats recurrence, by how much, and why"


def document(found: Gathered) -> Document:
    """The whole report."""
    trained = curves(found.rows, found.jobs)
    blocks = [
        *_warnings(found),
        *_claims_table(found),
        *_overview(found),
        *field(found, trained),
        *(block for judged in found.judged for block in _claim(found, judged)),
        *outcomes(found),
        *learning(found, trained),
        *utilisation(found),
        *fairness(found, trained),
        *(block for match in found.more for block in _fairness_under(found.under(match), match)),
        *environment(found),
    ]
    return Document(TITLE, headline(found), tuple(blocks))


def _fairness_under(found: Gathered, match: str) -> Iterator[Block]:
    return fairness(found, curves(found.rows, found.jobs), MATCHES[match])


def headline(found: Gathered) -> str:
    """One sentence with this machine's numbers: the claims' clauses in their order, and how the verdicts fell."""
    if not found.rows:
        return "Nothing has been measured yet."
    findings = [judged.finding for judged in found.judged]
    measured = [finding.sentence for finding in findings if finding.numbers]
    clauses = [finding.headline for finding in findings if finding.headline]
    first, *more = clauses or measured or [finding.sentence for finding in findings][:1] or [""]
    # A clause may go on from the one before it, of attention.
    said = [re.sub("^it ", "attention ", first), *more, _verdicts([finding.verdict for finding in findings])]
    if found.scale and not found.evidence:
        said.append(f"scale {found.scale} is a test of the installation and not evidence")
    return f"On {found.where}, {dtypes(found)}, {'; '.join(filter(None, said))}."


def _verdicts(verdicts: list[str]) -> str:
    """two claims hold, one fails and four cannot be tested at this scale"""
    parts = []
    for verdict, (of_one, of_more) in SAID.items():
        number = verdicts.count(verdict)
        if number:
            who = words.count(number) if parts else words.counted(number, "claim")
            parts.append(f"{who} {of_one if number == 1 else of_more}")
    return words.listed(parts) if parts else ""


def _warnings(found: Gathered) -> Iterator[Block]:
    changed = [f"{spelt(judged.name)}, {own_thresholds(judged.changed)}" for judged in found.judged if judged.changed]
    if changed:
        yield Banner(f"Judged again: {'; '.join(changed)}. The rules' own verdicts stand in {found.out}/report.html.")
        given = [
            f"--threshold={judged.name}.{one.name}={one.value}" for judged in found.judged for one in judged.changed
        ]
        yield Commands((words.command(["launch.report", f"--out={found.out}", *given]),))
    if found.scale and not found.evidence:
        test = f"Scale {found.scale} is a test of the installation and not evidence"
        yield Banner(f"{test}: its sizes are too small for any verdict.")
    if found.rows and not found.scale:
        yield Banner(f"No claim can be decided here: {NO_SCALE}.")
    yield from problems(found, found.out)


def _claims_table(found: Gathered) -> Iterator[Block]:
    columns = ("reason", "textbook", "measured here", "verdict", "scope", "crossover", "other arms")
    rows = []
    for judged in found.judged:
        finding = judged.finding
        measured = "\n".join(f"{number.name}: {words.measured(number)}" for number in finding.numbers[:2])
        verdict = ", ".join(filter(None, (f"{finding.verdict}: {finding.reason}", own_thresholds(judged.changed))))
        row = (spelt(judged.name), judged.said, measured or finding.sentence, verdict, finding.scope)
        rows.append((*row, finding.crossover, resemblance(finding)))
    yield Heading("Claims")
    yield Table(columns, tuple(rows), cards=True)
    tested = {judged.name: judged.finding.p_value for judged in found.judged if judged.finding.p_value is not None}
    if tested:
        members = len({*claims.ORDER, *(judged.name for judged in found.judged)})
        adjusted = holm([*tested.values(), *[1.0] * (members - len(tested))])
        said = [
            f"{spelt(name)} {_p(value)} ({_p(after)} after Holm)"
            for (name, value), after in zip(tested.items(), adjusted, strict=False)
        ]
        corrected = f"that corrected over {words.count(members)} claims; within a claim its rule corrects by itself"
        yield Note(f"The least p-value of a claim's own tests, and {corrected}: {'; '.join(said)}.")
    yield from again(found)


def _out_of_reach(found: Gathered, claim: str) -> str:
    return f"cannot decide it: {found.untested[claim]}" if claim in found.untested else ""


def _overview(found: Gathered) -> Iterator[Block]:
    """Attention over LSTM, everything there is of it: the first thing to look at."""
    figure = overview.figure(judged.finding for judged in found.judged)
    crossings = overview.crossings(figure)
    said = [f"{crossing.series} at about {words.number(crossing.x)} tokens" for crossing in crossings]
    notes = [f"Large dots: where a line crosses 1 ({words.listed(said)})."] if said else []
    if figure.points and not said:
        notes.append("No line crosses 1.")
    yield from chart(figure, overview.LOOKS, marks=crossings, notes=notes, ratios=True)


def _claim(found: Gathered, judged: Judged) -> Iterator[Block]:
    finding = judged.finding
    yield Heading(f"Claim: {spelt(judged.name)}")
    verdict = f"{finding.verdict}: {finding.reason} (basis: {finding.basis})"
    pairs = [
        ("Question", judged.question),
        ("Textbook", judged.textbook),
        ("Rule", f"{judged.rule} (hash {judged.rule_hash})"),
        ("Found", f"{finding.sentence[:1].upper()}{finding.sentence[1:]}."),
        ("Verdict", ", ".join(filter(None, (verdict, own_thresholds(judged.changed))))),
        ("This scale", _out_of_reach(found, judged.name)),
        ("Scope", finding.scope),
        ("Crossover", finding.crossover),
        ("Other arms", resemblance(finding)),
        ("Extends", extent(finding)),
    ]
    yield Facts(tuple((term, said) for term, said in pairs if said))
    if finding.numbers:
        rows = [(number.name, words.measured(number), str(number.n)) for number in finding.numbers]
        yield Table(("quantity", "value, 95 % interval", "n"), tuple(rows))
        yield from again(found, tuple(dict.fromkeys(number.command for number in finding.numbers)))
    if finding.controls:
        rows = [(control.name, "yes" if control.met else "no", control.found) for control in finding.controls]
        yield Table(("control", "met?", "found"), tuple(rows))
    for table in finding.tables:
        yield Heading(table.title, 3)
        yield Table(table.columns, table.rows)
    for figure in finding.figures:
        yield from chart(figure, charts.looks_of(figure, found.arms))


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 0.001 else "p < 0.001"
