"""The page of two directories side by side: headlines, verdicts and numbers, other conditions, losses on text."""

from collections.abc import Iterator

from etils import epath

from suite import claims, parts
from suite.report import page, verdicts, words
from suite.report.page import Block, Commands, Heading, Note, Page, Prose, Table, Terms
from suite.report.records import Comparison, Judged
from suite.report.trainings import Trainings, trainings

NOT_JUDGED = "not judged there"
COLUMNS = ("claim", "verdict A", "verdict B", "quantity", "measured A", "measured B", "B / A")


def write(first: Comparison, second: Comparison, out: epath.PathLike) -> epath.Path:
    """Writes two comparisons side by side; returns the path of diff.html in `out`."""
    folder = epath.Path(out)
    with parts.reading_records(), page.writing(folder):
        return page.write(compose(first, second), folder, "diff")


def compose(first: Comparison, second: Comparison) -> Page:
    """The page; the first is A, the second is B, and today's rules judge both."""
    headlines = [f"{comparison.out}: {verdicts.headline(comparison)}" for comparison in (first, second)]
    blocks = [
        Terms(tuple(zip("AB", headlines, strict=True))),
        *map(Prose, verdicts.MEANINGS),
        *verdicts.problems(first, f"A, {first.out}"),
        *verdicts.problems(second, f"B, {second.out}"),
        *_claims(first, second),
        *_changes(first, second),
        *_learning(first, second),
        Commands((words.command(["launch.report", "--diff", first.out, second.out]),)),
    ]
    return Page("Two comparisons side by side", _headline(first, second), tuple(blocks))


def _headline(first: Comparison, second: Comparison) -> str:
    one, other = _judged(first), _judged(second)
    common = [(one[name], other[name]) for name in one if name in other]
    if not common:
        return "A and B have no claim in common."
    differ = [(a, b) for a, b in common if a.finding.verdict != b.finding.verdict]
    if not differ:
        return f"A and B have the same verdict on {words.counted(len(common), 'claim')}."
    each = [f"{words.spelt(a.name)} ({a.finding.verdict} in A, {b.finding.verdict} in B)" for a, b in differ]
    number = f"{words.count(len(differ))} of {words.counted(len(common), 'verdict')}"
    return f"A and B differ in {number}: {', '.join(each)}."


def _judged(comparison: Comparison) -> dict[str, Judged]:
    return {judged.name: judged for judged in comparison.judged}


def _claims(first: Comparison, second: Comparison) -> Iterator[Block]:
    """A line for each number: the first two of a claim, and those that both have under one name."""
    one, other = _judged(first), _judged(second)
    reason = _other_corpus(first, second)
    lines = []
    for name in sorted(one | other, key=lambda name: [*claims.ORDER, *sorted(one | other)].index(name)):
        said = tuple(_verdict(judged[name]) if name in judged else NOT_JUDGED for judged in (one, other))
        if reason and _is_on_text(name):
            lines.append((words.spelt(name), *said, "not set side by side: two corpora", "", "", ""))
            continue
        a, b = (
            {number.name: number for number in judged[name].finding.numbers} if name in judged else {}
            for judged in (one, other)
        )
        shown = dict.fromkeys([*list(a)[:2], *list(b)[:2], *(quantity for quantity in a if quantity in b)])
        for place, quantity in enumerate(shown or [""]):
            measured = tuple(
                verdicts.measured_in(judged[name].finding, numbers[quantity]) if quantity in numbers else ""
                for judged, numbers in ((one, a), (other, b))
            )
            ratio = ""
            if quantity in a and quantity in b and a[quantity].value * b[quantity].value > 0:
                ratio = f"{words.number(b[quantity].value / a[quantity].value)}x"
            start = (words.spelt(name), *said) if place == 0 else ("", "", "")
            lines.append((*start, quantity, *measured, ratio))
    yield Heading("Claims")
    yield Table(COLUMNS, tuple(lines), cards=True)
    if reason:
        yield Note(reason)


def _is_on_text(claim: str) -> bool:
    """Whether the numbers of one of the suite's claims come from losses on text."""
    return claim in parts.names("suite.claims") and parts.constant("suite.claims", claim, "ON_TEXT")


def _verdict(judged: Judged) -> str:
    return f"{judged.finding.verdict}: {judged.finding.reason}"


def _changes(first: Comparison, second: Comparison) -> Iterator[Block]:
    """A line for each condition that differs."""
    one, other = _conditions(first), _conditions(second)
    lines = [
        (name, ", ".join(one.get(name, ["none"])), ", ".join(other.get(name, ["none"])))
        for name in one | other
        if one.get(name) != other.get(name)
    ]
    yield Heading("What differs between them")
    if lines:
        yield Table(("", "A", "B"), tuple(lines))
    else:
        yield Prose("Device, packages, commit, scale, corpus and flags are the same.")


def _conditions(comparison: Comparison) -> dict[str, list[str]]:
    """The conditions that may change a result, each with its values."""
    rows, env = comparison.rows, comparison.environment
    users = {f"{name} {hash}" for row in rows if "own_source" in row for name, hash in row["own_source"].items()}
    values = {
        "device": [comparison.where],
        "scale": [comparison.scale or "single jobs"],
        "arms": list(comparison.arms),
        "source of the rows": sorted({row["source"] for row in rows if "source" in row}),
        "users' files": sorted(users),
        "corpus, sha256": comparison.corpora,
    }
    if env:
        values |= {"commit": [env["commit"]], "Python": [env["python"]], "system": [env["platform"]]}
        values |= {name: [version] for name, version in env["packages"].items()}
        values |= {name: [value] for name, value in env["variables"].items()}
    for line in comparison.flags.splitlines():
        name, _, value = line.partition("=")
        if name not in ("--out", "--scale", "--arms"):
            values.setdefault(name, []).append(value)
    return values


def _learning(first: Comparison, second: Comparison) -> Iterator[Block]:
    """Losses at equal tokens of the trainings on text that both have, unless their corpora differ."""
    one, other = (
        {group.job: group for group in trainings(comparison) if group.on_text} for comparison in (first, second)
    )
    if not one or not other:
        return
    yield Heading("Learning on text")
    if reason := _other_corpus(first, second):
        yield Prose(reason)
        return
    lines = [line for job in one if job in other for line in _losses(one[job], other[job])]
    if lines:
        yield Table(("trained on", "arm", "tokens", "bits per byte A", "bits per byte B", "B / A"), tuple(lines))
    else:
        yield Prose("No training on text was run under the same conditions in both.")


def _losses(one: Trainings, other: Trainings) -> Iterator[tuple[str, ...]]:
    at, others = one.at_equal_tokens(), other.at_equal_tokens()
    conditions = f"{one.task}, {one.job.length:,} tokens, width {one.job.width}"
    for arm, (loss, _, tokens) in at.items():
        if arm in others and tokens == others[arm][2]:
            ratio = f"{words.number(others[arm][0] / loss)}x"
            yield conditions, arm, words.number(tokens), words.number(loss), words.number(others[arm][0]), ratio


def _other_corpus(first: Comparison, second: Comparison) -> str:
    """The reason why losses on text are not set side by side; empty where the corpora are the same."""
    if first.corpora == second.corpora:
        return ""
    one, other = (", ".join(sha[:12] for sha in comparison.corpora) or "none" for comparison in (first, second))
    return (
        "Losses on text are not set side by side, as rows of two corpora are never compared: "
        f"sha256 {one} in A, {other} in B."
    )
