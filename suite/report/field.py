"""Every arm on one line: what its trainings came to, and whom it resembles under each claim."""

import statistics
from collections import defaultdict
from collections.abc import Iterator

from suite.claims import LIKE_ATTENTION, LIKE_LSTM, NEITHER, Finding
from suite.judging import trials
from suite.report import words
from suite.report.blocks import spelt
from suite.report.curves import Curves
from suite.report.document import Block, Heading, Note, Table
from suite.report.learning import conditions, in_numbers
from suite.report.records import Gathered

BEHAVIOURS = (LIKE_LSTM, LIKE_ATTENTION, NEITHER)


def field(found: Gathered, trained: list[Curves]) -> Iterator[Block]:
    """Two tables of all arms, where there are more than a pair."""
    groups = [group for group in trained if len(group.arms) > 2 and (group.validations > 1 or not group.on_text)]
    groups.sort(key=lambda group: (group.on_text, in_numbers(group.task), group.job.length))
    arms = sorted({arm for group in groups for arm in group.arms}, key=found.order)
    judged = [one for one in found.judged if one.finding.arms]
    if not arms and not judged:
        return
    yield Heading("Every arm")
    if arms:
        columns = ("arm", *(conditions(group, groups) for group in groups))
        yield Table(columns, tuple((arm, *(_came_to(group, arm) for group in groups)) for arm in arms))
        yield Note("Median accuracy over seeds at the final position and how many reach 0.9; on text the test loss.")
    if judged:
        behaviours = [dict(one.finding.arms) for one in judged]
        others = sorted({arm for found_arms in behaviours for arm in found_arms}, key=found.order)
        lines = [(arm, *(like.get(arm, "not judged") for like in behaviours)) for arm in others]
        yield Table(("arm", *(spelt(one.name) for one in judged)), tuple(lines))
        yield Note("A verdict on the judged pair extends to the arms that are like the LSTM under its claim.")


def resemblance(finding: Finding) -> str:
    """like the LSTM: gru, elman; like attention: mingru"""
    return "; ".join(f"{behaviour}: {', '.join(arms)}" for behaviour, arms in _by_behaviour(finding).items())


def extent(finding: Finding) -> str:
    """For which of the other arms a verdict holds too; empty without a verdict or without other arms."""
    if finding.verdict not in ("holds", "fails") or not finding.arms:
        return ""
    arms = {behaviour: words.listed(names) for behaviour, names in _by_behaviour(finding).items()}
    said = [f"to {arms[LIKE_LSTM]}" if LIKE_LSTM in arms else "to no other arm"]
    said += [f"not to {arms[LIKE_ATTENTION]}"] if LIKE_ATTENTION in arms else []
    said += [f"open for {arms[NEITHER]}"] if NEITHER in arms else []
    return "; ".join(said)


def _by_behaviour(finding: Finding) -> dict[str, list[str]]:
    names: dict[str, list[str]] = defaultdict(list)
    for arm, behaviour in finding.arms:
        names[behaviour].append(arm)
    return {behaviour: names[behaviour] for behaviour in BEHAVIOURS if behaviour in names}


def _came_to(group: Curves, arm: str) -> str:
    if arm not in group.arms:
        return ""
    rows = [row for row in group.rows if row["arm"] == arm]
    own = trials.gather(rows)
    if arm not in own:
        return "not there yet"
    if not group.on_text:
        return f"{own[arm].median:.2f} ({own[arm]})"
    losses = [group.loss(row) for row in own[arm].tests]
    failed = [words.outcome(row["outcome"]) for row in own[arm].failed]
    said = [f"{words.number(statistics.fmean(losses))} {group.unit}"] if losses else []
    return ", ".join([*said, *failed])
