"""The report of a directory: its sections in their order, and the files that hold them. Needs no JAX."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from suite import files, parts
from suite.report import (
    causes,
    contexts,
    crossovers,
    energy,
    equal_seconds,
    fairness,
    inference,
    over_devices,
    page,
    planned,
    positions,
    recall,
    results,
    strata,
    utilisation,
    verdicts,
)
from suite.report import trainings as trained
from suite.report.page import Block, Page
from suite.report.records import Comparison, Problem, read

CONTEXT = "context_length"  # the claim that reads text, beside which stands what was read of questions
TITLE = "Where attention beats recurrence, by how much, and why"


def compose(comparison: Comparison) -> Page:
    """All sections of the report."""
    groups = trained.trainings(comparison)
    read_at_lengths = list(contexts.contexts(comparison, groups))
    in_claim = not comparison.reading and any(judged.name == CONTEXT for judged in comparison.judged)
    first = [
        *verdicts.warnings(comparison),
        *verdicts.introduction(comparison),
        *verdicts.findings(comparison),
        *verdicts.one_chart(comparison),
        *crossovers.crossovers(comparison),
        *inference.inference(comparison),
        *(read_at_lengths if comparison.reading else ()),
        *recall.recall(comparison),
    ]
    more = [
        *trained.every_arm(comparison, groups),
        *_claims(comparison, read_at_lengths if in_claim else []),
        *results.failures(comparison),
        *trained.learning(comparison, [group for group in groups if not group.job.budget_seconds]),
        *equal_seconds.equal_seconds(comparison, groups),
        *(() if comparison.reading or in_claim else read_at_lengths),
        *strata.strata(comparison),
        *positions.positions(comparison),
        *utilisation.utilisation(comparison),
        *causes.causes(comparison),
        *energy.energy(comparison),
        *planned.planned(comparison),
        *over_devices.over_devices(comparison),
        *results.plain_tables(comparison),
        *fairness.fairness(comparison, groups),
        *utilisation.environment(comparison),
    ]
    return Page(TITLE, verdicts.headline(comparison), (*first, page.contents(more), *more))


def _claims(comparison: Comparison, read_at_lengths: list[Block]) -> Iterator[Block]:
    """The section of each claim; after that on effective context what was read of questions, which decides nothing."""
    for judged in comparison.judged:
        yield from verdicts.claim(comparison, judged)
        if judged.name == CONTEXT:
            yield from read_at_lengths


def write(
    out: epath.PathLike,
    thresholds: Sequence[str] = (),
    more_claims: Sequence[str] = (),
    to: epath.PathLike | None = None,
) -> epath.Path:
    """Writes the report of a directory, in `out` or in `to`; returns the path of report.html.

    Under the reader's own thresholds, each `claim.name=value`, it writes into `rejudged`: the ruled report stays.
    It judges claims outside suite/claims where `more_claims` names them: no record's word runs a file.
    """
    folder = epath.Path(to or out) / "rejudged" if thresholds else epath.Path(to or out)
    comparison = read(out, thresholds, more_claims)
    with parts.reading_records(), page.writing(folder):
        report = compose(comparison)
        files.write(folder / "results.csv", results.text(comparison.every_row))
        files.write(folder / "report.json", as_json(comparison, report.headline))
        return page.write(report, folder, "report")


def as_json(comparison: Comparison, headline: str) -> str:
    """report.json, for programs: strict JSON, null for a number that is not finite."""
    content = {
        "headline": headline,
        "scale": comparison.scale,
        "evidence": comparison.evidence,
        "problems": [dataclasses.asdict(problem) for problem in comparison.problems],
        "arms": comparison.arms,
        "command": comparison.command,
        "place": comparison.place,
        "claims": [_flat(dataclasses.asdict(judged)) for judged in comparison.judged],
        "crossovers": crossovers.as_json(comparison),
        "environment": comparison.environment,
    }
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _flat(judged: dict[str, Any]) -> dict[str, Any]:
    return judged | judged.pop("finding")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def headline(folder: epath.PathLike) -> str:
    """The sentence at the top of the report in a folder."""
    return json.loads((epath.Path(folder) / "report.json").read_text())["headline"]


def problems(folder: epath.PathLike) -> list[Problem]:
    """The records that the report in a folder has left out, or that cannot be relied upon."""
    return [Problem(**problem) for problem in json.loads((epath.Path(folder) / "report.json").read_text())["problems"]]
