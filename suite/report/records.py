"""What a report is made from: the comparison, its rows at one place, and the findings of the claims."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from etils import epath

from suite import claims, parts, store
from suite.claims import Finding
from suite.job import Cell, Job
from suite.report import words
from suite.store import Row


@dataclasses.dataclass(frozen=True)
class Changed:
    """A threshold of the reader's own in the place of the rule's."""

    name: str
    value: parts.Value
    rule: parts.Value


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim as it is judged: its code, and its thresholds beside those of the rule."""

    name: str
    module: ModuleType
    thresholds: dict[str, parts.Value]
    by_rule: dict[str, parts.Value]
    rule_hash: str


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim and what came of it."""

    name: str
    question: str
    textbook: str
    said: str
    rule: str
    rule_hash: str
    finding: Finding
    changed: tuple[Changed, ...] = ()


@dataclasses.dataclass(frozen=True)
class Gathered:
    """All that a report says comes from here. `scale` is empty without a comparison, `place` before the first row."""

    out: str
    scale: str
    about: str
    evidence: bool
    untested: dict[str, str]  # claims that the scale cannot decide, and why
    arms: tuple[str, ...]
    command: str  # makes everything again; empty where single jobs were run
    place: dict[str, Any]
    jobs: dict[str, Job]
    rows: list[Row]  # under the first of the matchings
    more: dict[str, list[Row]]  # under each of the others
    judged: tuple[Judged, ...]
    problems: tuple[str, ...]  # what was left out of the report or cannot be relied upon, each in a line
    environment: Row  # of the newest run here; empty before it
    flags: str  # all of them, defaults too: of the comparison, or of the newest run

    @property
    def every_row(self) -> list[Row]:
        """Of all matchings; a row of the reference is in each, and here once."""
        rows = [*self.rows, *(row for own in self.more.values() for row in own)]
        return list({id(row): row for row in rows}.values())

    def under(self, match: str) -> "Gathered":
        """The same with the rows of another matching."""
        return dataclasses.replace(self, rows=self.more[match])

    @property
    def where(self) -> str:
        return words.place(self.place, self.environment)

    def order(self, arm: str) -> tuple[int, str]:
        """For sorting: the arms as they were asked for, then by name any that a claim has added."""
        return self.arms.index(arm) if arm in self.arms else len(self.arms), arm

    def commands(self, rows: list[Row]) -> list[str]:
        """One command for each cell that wrote these rows."""
        cells = dict.fromkeys(Cell(self.jobs[row["run_id"]], row["measure"]) for row in rows)
        return [cell.command(self.out) for cell in cells]


NOT_GIVEN = "it is no file of suite/claims; --claims=FILE judges it by a file that you trust"
PLACE = ("place", "platform", "device_kind", "n_devices")


def gather(root: epath.PathLike, thresholds: Sequence[str] = (), more_claims: Sequence[str] = ()) -> Gathered:
    """Reads a directory at any moment: while rows are written, before the first one, after single jobs.

    `thresholds`, each `claim.name=value`, stand in the place of the rules' own; ValueError lists those that there are.
    Records are a stranger's: claims are loaded from suite/claims and from `more_claims`, which the reader trusts, and
    nothing else that a record names is opened or run.
    """
    out = epath.Path(root)
    if not (out / "compare.json").exists() and not (out / "runs").exists():
        raise ValueError(f"no records in {out}; wanted the --out of a launch.compare or a launch.job")
    stored = out / "compare.json"
    comparison = json.loads(stored.read_text()) if stored.exists() else {}
    names, unknown = _claims(comparison, more_claims)
    chosen = [_load(spec) for spec in _under(thresholds, names)]
    with parts.reading_records():
        return _gather(out, comparison, chosen, unknown)


def _gather(out: epath.Path, comparison: dict[str, Any], chosen: list[Claim], unknown: list[str]) -> Gathered:
    every = store.load(out)
    place = (comparison["place"] if comparison else {}) or _newest_place(out)
    rows = store.of_place(every, place["place"]) if place else every
    environment = _environment(out, place)
    flags = out / "compare.flags"
    no_evidence = _no_evidence(comparison)
    first, *others = claims.matches(rows)
    return Gathered(
        out=os.fspath(out),
        scale=comparison["scale"] if comparison else "",
        about=comparison["about"] if comparison else "",
        evidence=not no_evidence,
        untested={"untested": {}, **comparison}["untested"],
        arms=_arms(comparison["arms"] if comparison else [], rows),
        command=words.command(["launch.compare", *comparison["command"]]) if comparison else "",
        place=place,
        jobs={run.name: job for job, run in store.all_runs(out)},
        rows=claims.of_match(rows, first),
        more={match: claims.of_match(rows, match) for match in others},
        judged=tuple(_judge(claim, rows, no_evidence) for claim in chosen),
        problems=tuple(f"the claim {name} is not judged: {NOT_GIVEN}" for name in unknown),
        environment=environment,
        flags=flags.read_text() if flags.exists() else {"flags": "", **environment}["flags"],
    )


def _claims(comparison: dict[str, Any], own: Sequence[str]) -> tuple[list[str], list[str]]:
    """The claims to judge, and those that the comparison has judged by files that nobody has given here."""
    known = parts.names("suite.claims")
    stored = comparison["claims"] if comparison else known
    files = {pathlib.PurePath(name).name for name in own}
    names = dict.fromkeys([*(name for name in stored if name in known), *own])
    unknown = [name for name in stored if name not in known and pathlib.PurePath(name).name not in files]
    return sorted(names, key=_in_order), unknown


def _no_evidence(comparison: dict[str, Any]) -> str:
    """Why no verdict may rest on the rows, or nothing."""
    if not comparison:
        return "no compare.json says at which scale the rows were taken"
    return "" if comparison["evidence"] else "the scale is not evidence"


def _in_order(claim: str) -> tuple[int, str]:
    """The textbook's claims in its order, then any others by name."""
    return claims.ORDER.index(claim) if claim in claims.ORDER else len(claims.ORDER), claim


def _under(thresholds: Sequence[str], names: list[str]) -> list[str]:
    """The claims as specs that carry the reader's thresholds."""
    known = {(name, knob): value for name in names for knob, value in parts.knobs("suite.claims", name).items()}
    given: dict[str, list[str]] = {name: [] for name in names}
    for text in thresholds:
        where, _, value = text.partition("=")
        name, _, knob = where.rpartition(".")
        if (name, knob) not in known or not _is_number(value):
            listed = ", ".join(f"{name}.{knob}={value}" for (name, knob), value in known.items())
            raise ValueError(f"cannot use the threshold {text!r}; wanted claim.name=number, one of: {listed or 'none'}")
        given[name].append(f"{knob}={value}")
    return [f"{name}:{','.join(own)}" if own else name for name, own in given.items()]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _load(spec: str) -> Claim:
    module, thresholds = parts.load("suite.claims", spec)
    name, _ = parts.split(spec)
    by_rule = parts.knobs("suite.claims", name)
    return Claim(name, module, thresholds, by_rule, claims.rule_hash(str(parts.source("suite.claims", name))))


def _judge(claim: Claim, rows: list[Row], no_evidence: str) -> Judged:
    finding = claims.judge(claim.module, rows, claim.thresholds)
    if no_evidence and finding.verdict != "untested":
        finding = dataclasses.replace(finding, verdict="untested", reason=f"{no_evidence}; {finding.reason}")
    return Judged(
        name=claim.name,
        question=claim.module.QUESTION,
        textbook=claim.module.TEXTBOOK,
        said=claim.module.SAID,
        rule=claim.module.RULE,
        rule_hash=claim.rule_hash,
        finding=finding,
        changed=tuple(
            Changed(knob, value, claim.by_rule[knob])
            for knob, value in claim.thresholds.items()
            if value != claim.by_rule[knob]
        ),
    )


def _arms(wanted: list[str], rows: list[Row]) -> tuple[str, ...]:
    """The arms in the order in which they were asked for, then those of single jobs; what a claim adds has a group."""
    others = {row["arm"] for row in rows if not (wanted and row["group"])}
    return tuple(dict.fromkeys([*wanted, *sorted(others)]))


def _newest_place(out: epath.Path) -> dict[str, Any]:
    """Where rows that depend on the place were last written, or any rows where none do."""
    files = [
        ("@" in path.name, path.stat().mtime, run, path)
        for _, run in store.all_runs(out)
        for path in run.iterdir()
        if ".jsonl" in path.name and not path.name.startswith(".")
    ]
    for _, _, run, path in sorted(files, key=lambda file: file[:2], reverse=True):
        rows = store.rows(run, path.name.split(".jsonl")[0])
        if rows:
            return {key: rows[-1][key] for key in PLACE}
    return {}


def _environment(out: epath.Path, place: dict[str, Any]) -> Row:
    """env.json of the run that was written last, at this place where one was."""
    found = []
    for _, run in store.all_runs(out):
        if (run / "env.json").exists():
            here = bool(place) and any(f"@{place['place']}." in path.name for path in run.iterdir())
            found.append((here, (run / "env.json").stat().mtime, run))
    return json.loads((max(found, key=lambda entry: entry[:2])[2] / "env.json").read_text()) if found else {}
