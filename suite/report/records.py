"""What a report is made from: the comparison, its rows at one place, and the findings of the claims."""

import collections
import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType

from etils import epath

from suite import claims, files, parts
from suite.claims import Finding
from suite.job import Cell, Job
from suite.report import words
from suite.sweep import store
from suite.sweep.store import Row


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
class Problem:
    """What is left out of a report, or makes it less than it seems: a path under the directory or a thing, and why."""

    where: str
    why: str

    def __str__(self) -> str:
        """In a line for a terminal, which a record's text shall not command."""
        return "".join(
            letter if letter.isprintable() else ascii(letter)[1:-1] for letter in f"{self.where}: {self.why}"
        )


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
    place: Row
    jobs: dict[str, Job]
    rows: list[Row]  # under the first of the matchings
    more: dict[str, list[Row]]  # under each of the others
    judged: tuple[Judged, ...]
    problems: tuple[Problem, ...]
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


NO_SCALE = "no compare.json says at which scale the rows were taken"
NOT_GIVEN = "not judged, as it is no file of suite/claims; --claims=FILE judges it by a file that you trust"
COMPARISON = {
    **{"scale": str, "about": str, "evidence": bool, "arms": list, "claims": list, "command": list, "place": dict},
}
ENVIRONMENT = {
    **{"python": str, "platform": str, "cpu": str, "cores": (int, str), "memory_bytes": int, "packages": dict},
    **{"variables": dict, "commit": str, "source": str},
}
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
    comparison, problems = _comparison(out)
    names, unknown = _claims(comparison, more_claims)
    problems += [Problem(f"claim {name}", NOT_GIVEN) for name in unknown]
    chosen = [_load(spec) for spec in _under(thresholds, names)]
    with parts.reading_records():
        return _gather(out, comparison, chosen, problems)


def _gather(out: epath.Path, comparison: Row, chosen: list[Claim], problems: list[Problem]) -> Gathered:
    survey = store.survey(out)
    jobs, every, unreadable = _readable(survey)
    place = (comparison["place"] if comparison else {}) or _newest_place(survey, every)
    rows = store.of_place(every, place["place"]) if place else every
    environment, unread = _environment(survey, place)
    flags = out / "compare.flags"
    no_evidence = _no_evidence(comparison)
    first, *others = claims.matches(rows)
    problems = [
        *problems,
        *(_problem(out, *found) for found in (*survey.problems, *unread, *unreadable)),
        *_mixed(rows),
    ]
    return Gathered(
        out=os.fspath(out),
        scale=comparison["scale"] if comparison else "",
        about=comparison["about"] if comparison else "",
        evidence=not no_evidence,
        untested=comparison["untested"] if comparison else {},
        arms=_arms(comparison["arms"] if comparison else [], rows),
        command=words.command(["launch.compare", *comparison["command"]]) if comparison else "",
        place=place,
        jobs=jobs,
        rows=claims.of_match(rows, first),
        more={match: claims.of_match(rows, match) for match in others},
        judged=tuple(_judge(claim, rows, no_evidence) for claim in chosen),
        problems=tuple(problems),
        environment=environment,
        flags=flags.read_bytes().decode(errors="replace") if flags.is_file() else {"flags": "", **environment}["flags"],
    )


def _comparison(out: epath.Path) -> tuple[Row, list[Problem]]:
    """What compare.json says, empty where there is none or it is damaged."""
    path = out / "compare.json"
    if not path.exists():
        return {}, []
    try:
        found = {"untested": {}} | _read(path, COMPARISON)  # an older version had none
        if not all(isinstance(text, str) for name in ("arms", "claims", "command") for text in found[name]):
            raise store.Damaged(path, "its lists are not of texts")
        if found["place"] and not found["place"].keys() >= set(PLACE):
            raise store.Damaged(path, f"its place has not all of {', '.join(PLACE)}")
    except store.Damaged as damaged:
        return {}, [_problem(out, damaged.path, damaged.why)]
    return found, []


def _read(path: epath.Path, kinds: Mapping[str, type | tuple[type, ...]]) -> Row:
    """A small file of JSON; Damaged where a value is missing or of another kind than was written."""
    found = store.read_json(path, *kinds)
    for name, kind in kinds.items():
        if not isinstance(found[name], kind):
            raise store.Damaged(path, f"{name} is a {type(found[name]).__name__}, not what was written")
    return found


def _readable(survey: store.Survey) -> tuple[dict[str, Job], list[Row], list[tuple[epath.Path, str]]]:
    """The jobs and rows whose specs this version can read, by the name of the run, and why others are left out."""
    jobs, problems = {}, []
    for job, run in survey.runs:
        mixers = [("suite.mixers", spec) for spec in (job.mixer, job.match_to) if spec]
        if why := _unreadable([*mixers, ("suite.tasks", job.task)]):
            problems.append((run, f"{why}; left out"))
        else:
            jobs[run.name] = job
    rows = [row for row in survey.rows if row["run_id"] in jobs]
    odd = {spec: _unreadable([("suite.measures", spec)]) for spec in sorted({row["measure"] for row in rows})}
    problems += [(epath.Path(f"rows of {spec}"), f"{why}; left out") for spec, why in odd.items() if why]
    return jobs, [row for row in rows if not odd[row["measure"]]], problems


def _unreadable(specs: list[tuple[str, str]]) -> str:
    """Why parts cannot be read, or nothing."""
    try:
        for folder, spec in specs:
            parts.canonical(folder, spec)
    except (LookupError, ValueError) as error:
        return str(error.args[0])
    return ""


def _mixed(rows: list[Row]) -> list[Problem]:
    """Versions of which the rows of one report should have one."""
    versions: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        for field, name in (("source", "the source"), ("jax", "JAX")):
            versions[name] |= {row[field]} if field in row else set()
        for name, version in {"own_source": {}, **row}["own_source"].items():
            versions[name].add(version)
    return [
        Problem("rows", f"taken with {len(found)} versions of {name}; a fresh --out has one")
        for name, found in sorted(versions.items())
        if len(found) > 1
    ]


def _problem(out: epath.Path, path: epath.Path, why: str) -> Problem:
    """By its path under the directory."""
    return Problem(os.fspath(path).removeprefix(f"{os.fspath(out)}/"), why)


def _claims(comparison: Row, own: Sequence[str]) -> tuple[list[str], list[str]]:
    """The claims to judge, and those that the comparison has judged by files that nobody has given here."""
    known = parts.names("suite.claims")
    stored = comparison["claims"] if comparison else known
    files = {pathlib.PurePath(name).name for name in own}
    names = dict.fromkeys([*(name for name in stored if name in known), *own])
    unknown = [name for name in stored if name not in known and pathlib.PurePath(name).name not in files]
    return sorted(names, key=_in_order), unknown


def _no_evidence(comparison: Row) -> str:
    """Why no verdict may rest on the rows, or nothing."""
    if not comparison:
        return NO_SCALE
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
    others = {row["arm"] for row in rows if not (wanted and row["interleave_with"])}
    return tuple(dict.fromkeys([*wanted, *sorted(others)]))


def _newest_place(survey: store.Survey, rows: list[Row]) -> Row:
    """Where rows that depend on the place were last written, or any rows where none do."""
    last = {(row["run_id"], store.kind_of(row)): row for row in rows if row.keys() >= set(PLACE)}
    found = []
    for _, run in survey.runs:
        for path in run.iterdir():
            row = last.get((run.name, path.name.split(".jsonl")[0])) if ".jsonl" in path.name else None
            if row is not None:
                found.append((row["placed"], path.stat().mtime, row))
    newest = max(found, key=lambda entry: entry[:2], default=None)
    return {key: newest[2][key] for key in PLACE} if newest else {}


def _environment(survey: store.Survey, place: Row) -> tuple[Row, list[tuple[epath.Path, str]]]:
    """env.json of the run that was written last, at this place where one was, and those that are damaged."""
    found, problems = [], []
    for _, run in survey.runs:
        names = files.names(run)
        if "env.json" in names and (run / "env.json").exists():
            here = bool(place) and any(f"@{place['place']}." in name for name in names)
            found.append((here, (run / "env.json").stat().mtime, run / "env.json"))
    for _, _, path in sorted(found, key=lambda entry: entry[:2], reverse=True):
        try:
            return _read(path, ENVIRONMENT), problems
        except store.Damaged as damaged:
            problems.append((damaged.path, f"{damaged.why}; left out"))
    return {}, problems
