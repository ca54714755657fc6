"""Two directories side by side: headlines, what was changed between them, verdicts and numbers."""

from collections.abc import Iterator

from suite import claims
from suite.report import words
from suite.report.blocks import problems, spelt
from suite.report.curves import Curves, curves
from suite.report.document import Block, Commands, Document, Facts, Heading, Note, Prose, Table
from suite.report.records import Gathered, Judged
from suite.report.sections import headline

TITLE = "Two comparisons side by side"
# Claims whose numbers come from losses on text: of two corpora they are not compared.
ON_TEXT = ("context_length", "compute_scaling")
NOT_JUDGED = "not judged there"


def document(first: Gathered, second: Gathered) -> Document:
    """A is the first, B the second; both are judged by the rules as they are now."""
    blocks = [
        Facts((("A", f"{first.out}: {headline(first)}"), ("B", f"{second.out}: {headline(second)}"))),
        *problems(first, f"A, {first.out}"),
        *problems(second, f"B, {second.out}"),
        *_claims(first, second),
        *_changes(first, second),
        *_learning(first, second),
        Commands((words.command(["launch.report", "--diff", first.out, second.out]),)),
    ]
    return Document(TITLE, _headline(first, second), tuple(blocks))


def _headline(first: Gathered, second: Gathered) -> str:
    both = list(_in_both(first, second))
    if not both:
        return "A and B have no claim in common."
    differ = [(one, other) for one, other in both if one.finding.verdict != other.finding.verdict]
    if not differ:
        return f"A and B have the same verdict on {words.counted(len(both), 'claim')}."
    said = [f"{spelt(one.name)} ({one.finding.verdict} in A, {other.finding.verdict} in B)" for one, other in differ]
    return f"A and B differ in {words.count(len(differ))} of {words.counted(len(both), 'verdict')}: {', '.join(said)}."


def _in_both(first: Gathered, second: Gathered) -> Iterator[tuple[Judged, Judged]]:
    others = {judged.name: judged for judged in second.judged}
    yield from ((judged, others[judged.name]) for judged in first.judged if judged.name in others)


def _claims(first: Gathered, second: Gathered) -> Iterator[Block]:
    """One line a number: the first two of each claim, and all that both have under one name."""
    one, other = ({judged.name: judged for judged in found.judged} for found in (first, second))
    reason = _other_corpus(first, second)
    lines = []
    for name in sorted(one | other, key=lambda name: [*claims.ORDER, *sorted(one | other)].index(name)):
        verdicts = tuple(_verdict(judged[name]) if name in judged else NOT_JUDGED for judged in (one, other))
        if reason and name in ON_TEXT:
            lines.append((spelt(name), *verdicts, "not set side by side: two corpora", "", "", ""))
            continue
        found = [
            {number.name: number for number in judged[name].finding.numbers} if name in judged else {}
            for judged in (one, other)
        ]
        shown = dict.fromkeys([*list(found[0])[:2], *list(found[1])[:2], *(key for key in found[0] if key in found[1])])
        for place, key in enumerate(shown or [""]):
            values = tuple(words.measured(numbers[key]) if key in numbers else "" for numbers in found)
            ratio = ""
            if all(key in numbers for numbers in found) and found[0][key].value * found[1][key].value > 0:
                ratio = f"{words.number(found[1][key].value / found[0][key].value)}x"
            start = (spelt(name), *verdicts) if place == 0 else ("", "", "")
            lines.append((*start, key, *values, ratio))
    yield Heading("Claims")
    yield Table(
        ("reason", "verdict A", "verdict B", "quantity", "measured A", "measured B", "B / A"), tuple(lines), cards=True
    )
    if reason:
        yield Note(reason)


def _verdict(judged: Judged) -> str:
    return f"{judged.finding.verdict}: {judged.finding.reason}"


def _changes(first: Gathered, second: Gathered) -> Iterator[Block]:
    """What they ran on, with and under, line by line where it differs."""
    one, other = _conditions(first), _conditions(second)
    lines = [
        (name, ", ".join(one.get(name, ["not there"])), ", ".join(other.get(name, ["not there"])))
        for name in one | other
        if one.get(name) != other.get(name)
    ]
    yield Heading("What differs between them")
    if lines:
        yield Table(("", "A", "B"), tuple(lines))
    else:
        yield Prose("Device, packages, commit, scale, corpus and flags are the same.")


def _conditions(found: Gathered) -> dict[str, list[str]]:
    """Whatever may change a result, each with its values."""
    facts = {"device": [found.where], "scale": [found.scale or "single jobs"], "arms": list(found.arms)}
    facts |= {"source of the rows": sorted({row["source"] for row in found.rows if "source" in row})}
    own = {f"{name} {hash}" for row in found.rows if "own_source" in row for name, hash in row["own_source"].items()}
    facts |= {"own files": sorted(own), "corpus, sha256": _corpora(found)}
    env = found.environment
    if env:
        facts |= {"commit": [env["commit"]], "Python": [env["python"]], "system": [env["platform"]]}
        facts |= {name: [version] for name, version in env["packages"].items()}
        facts |= {name: [value] for name, value in env["variables"].items()}
    for line in found.flags.splitlines():
        name, _, value = line.partition("=")
        if name not in ("--out", "--scale", "--arms"):
            facts.setdefault(name, []).append(value)
    return facts


def _learning(first: Gathered, second: Gathered) -> Iterator[Block]:
    """Loss at equal tokens of the trainings on text that both have, unless their corpora differ."""
    reason = _other_corpus(first, second)
    one, other = (
        {group.job: group for group in curves(found.rows, found.jobs) if group.on_text} for found in (first, second)
    )
    if not one or not other:
        return
    yield Heading("Learning on text")
    if reason:
        yield Prose(reason)
        return
    lines = [line for job in one if job in other for line in _losses(one[job], other[job])]
    if lines:
        yield Table(("trained on", "arm", "tokens", "bits per byte A", "bits per byte B", "B / A"), tuple(lines))
    else:
        yield Prose("No training on text was run under the same conditions in both.")


def _losses(one: Curves, other: Curves) -> Iterator[tuple[str, ...]]:
    found, others = one.at_equal_tokens(), other.at_equal_tokens()
    for arm in found:
        if arm in others and found[arm][2] == others[arm][2]:
            losses = found[arm][0], others[arm][0]
            told = f"{one.task}, {one.job.length:,} tokens, width {one.job.width}"
            said = (words.number(loss) for loss in losses)
            yield told, arm, words.number(found[arm][2]), *said, f"{words.number(losses[1] / losses[0])}x"


def _corpora(found: Gathered) -> list[str]:
    return sorted({row["corpus_sha256"] for row in found.rows if "corpus_sha256" in row})


def _other_corpus(first: Gathered, second: Gathered) -> str:
    """Why losses on text are not set side by side; empty where they may be."""
    one, other = _corpora(first), _corpora(second)
    if one == other:
        return ""
    short = [", ".join(sha[:12] for sha in known) or "none" for known in (one, other)]
    return (
        "Losses on text are not set side by side, as rows of two corpora are never compared: "
        f"sha256 {short[0]} in A, {short[1]} in B."
    )
