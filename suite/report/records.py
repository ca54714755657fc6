"""The records that a report is made from: the comparison, its rows at one place and the findings of the claims."""

import collections
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from etils import epath

from suite import claims, declarations, files, machine, parts
from suite.claims import Finding
from suite.job import Cell, Job, slug
from suite.judging import crossover
from suite.judging.crossover import Question
from suite.judging.rule import rule_hash
from suite.report import words
from suite.scale import SCALES
from suite.sweep import reading, recalling, serving, store
from suite.sweep.record import Row, stem_of

NOT_JUDGED = Finding("untested", "measured")


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold that the reader has given in the place of the rule's."""

    name: str
    value: parts.Value
    rule: parts.Value


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim and what came of it."""

    name: str
    question: str
    textbook: str
    claimed: str
    rule: str
    rule_hash: str
    measures: tuple[str, ...]  # that it asks for first
    changed: tuple[Threshold, ...] = ()
    finding: Finding = NOT_JUDGED

    @property
    def marked(self) -> str:
        """A clause that names the reader's thresholds; empty where the rule's stand."""
        if not self.changed:
            return ""
        given = [f"{one.name}={words.value(one.value)} (the rule says {words.value(one.rule)})" for one in self.changed]
        return f"under your own {'threshold' if len(given) == 1 else 'thresholds'} {words.listed(given)}"


Claim = tuple[ModuleType, dict[str, parts.Value], Judged]  # its code, its thresholds, and it before it is judged


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is left out of a report, or makes it less than it seems: a path under the directory or a thing, and why."""

    where: str
    why: str

    def __str__(self) -> str:
        """In a line for a terminal."""
        return words.printable(f"{self.where}: {self.why}")


class Search(NamedTuple):
    """A search for crossovers: what was asked, and the arguments that ask it again."""

    name: str
    questions: tuple[Question, ...]
    command: list[str]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The records of a directory. `scale` is empty where single jobs were run, `place` before the first row."""

    out: str
    scale: str
    about: str
    evidence: bool
    untested: dict[str, str]  # claims that the scale cannot decide, and why
    arms: tuple[str, ...]
    command: str  # runs the comparison again; empty where single jobs were run
    place: Row
    jobs: dict[str, Job]
    rows: list[Row]  # under the first of the matchings
    more: dict[str, list[Row]]  # under each other matching
    over_devices: list[Row]  # of the measure `collectives`, from every place: no clock is in them
    judged: tuple[Judged, ...]
    problems: tuple[Problem, ...]
    environment: Row  # of the newest run here; empty before it
    flags: str  # all of them, defaults too: of the comparison, or of the newest run
    plan: Row  # of launch.plan; empty where there is none
    searches: tuple[Search, ...]  # of launch.crossover
    serving: Row  # of launch.inference: its arms and arguments; empty where there is none
    reading: Row  # of launch.contexts, likewise
    recalling: Row  # of launch.recall, likewise, and the sizes of its arms

    @property
    def every_row(self) -> list[Row]:
        """The rows of all matchings; a row of the reference is in each, and here once."""
        rows = [*self.rows, *(row for rows in self.more.values() for row in rows)]
        return list({id(row): row for row in rows}.values())

    def under(self, match: str) -> "Comparison":
        """The comparison with the rows of another matching."""
        return dataclasses.replace(self, rows=self.more[match])

    @property
    def where(self) -> str:
        return words.place(self.place, self.environment)

    @property
    def dtypes(self) -> str:
        return words.listed(sorted({row["dtype"] for row in self.rows}))

    @property
    def corpora(self) -> list[str]:
        """The SHA-256 of each corpus that was trained on."""
        return sorted({row["corpus_sha256"] for row in self.rows if "corpus_sha256" in row})

    def order(self, arm: str) -> tuple[int, str]:
        """A sort key: arms in the order of the command line, then by name those that a claim has added."""
        return self.arms.index(arm) if arm in self.arms else len(self.arms), arm

    def commands(self, rows: list[Row]) -> list[str]:
        """One command for each cell that wrote these rows."""
        cells = dict.fromkeys(Cell(self.jobs[row["run_id"]], row["measure"]) for row in rows)
        return [cell.command(self.out) for cell in cells]


NO_SCALE = "no compare.json says at which scale the rows were taken"
NOT_GIVEN = "not judged, as it is no file of suite/claims; --claims=FILE judges it by a file that you trust"
COMPARISON = {
    **{"scale": str, "about": str, "evidence": bool, "untested": dict, "arms": list, "claims": list, "command": list},
    "place": dict,
}
NO_COMPARISON: Row = {name: empty() for name, empty in COMPARISON.items()}
PLAN = {"place": dict, "programs": list}
SEARCH = {"questions": list, "command": list}
ASKED = {"arms": list, "command": list}
SIZE = {
    "arm": str,
    "turned": str,
    "value": int,
    "mixer": str,
    "width": int,
}  # of those that launch.recall was asked for
QUESTION = {
    **{"quantity": str, "arms": list, "jobs": list, "shortest": int, "longest": int, "tolerance": (int, float)},
    **{"repeats": int, "own_rates": bool, "rates": str},
}
ENVIRONMENT = {
    **{"python": str, "platform": str, "cpu": str, "cores": (int, str), "memory_bytes": int, "packages": dict},
    **{"variables": dict, "commit": str, "source": str},
}
PLACE = ("place", "platform", "device_kind", "n_devices")


def read(root: epath.PathLike, thresholds: Sequence[str] = (), more_claims: Sequence[str] = ()) -> Comparison:
    """Reads a directory at any moment: before the first row, while rows are written, after single jobs.

    `thresholds`, each `claim.name=value`, replace those of the rules; ValueError lists the thresholds of all rules.
    Records are a stranger's: claims are loaded from suite/claims and from `more_claims`, which the reader trusts, and
    no other file that a record names is opened or run.
    """
    out = _directory(root)
    settings, problems = _settings(out)
    # Of launch.inference, launch.contexts and launch.recall no claim has asked for anything.
    is_asked = any((out / name).exists() for name in (serving.FILE, reading.FILE, recalling.FILE))
    by_default = () if is_asked else parts.names("suite.claims")
    names, unknown = _claims(settings, by_default, more_claims)
    problems += [Problem(f"claim {name}", NOT_GIVEN) for name in unknown]
    scale = settings["scale"] if settings["scale"] in SCALES else "quick"
    loaded = [_load(spec, scale) for spec in _under(thresholds, names)]
    with parts.reading_records():
        return _read_rows(out, settings, loaded, problems, _place)


def read_unjudged(root: epath.PathLike, place: str = "") -> Comparison:
    """Reads a directory as `read` does, and judges nothing: at a place by its name, or at that of this machine.

    ValueError lists the places where none of several is this machine's.
    """
    out = _directory(root)
    settings, problems = _settings(out)
    with parts.reading_records():
        return _read_rows(out, settings, [], problems, functools.partial(_place_here, wanted=place))


def _directory(root: epath.PathLike) -> epath.Path:
    out = epath.Path(root)
    if not (out / store.COMPARISON).exists() and not (out / "runs").exists():
        raise ValueError(f"no records in {out}; wanted the --out of a launch.compare or a launch.job")
    return out


Choice = Callable[[Row, store.Survey, list[Row]], Row]  # of a place, by settings, survey and rows


def _read_rows(
    out: epath.Path, settings: Row, loaded: list[Claim], problems: list[Problem], choose: Choice
) -> Comparison:
    survey = store.survey(out)
    jobs, every, unreadable = _readable(survey)
    place = choose(settings, survey, every)
    rows = store.of_place(every, place["place"]) if place else every
    environment, damaged = _environment(survey, place)
    flags = out / "compare.flags"
    no_evidence = _no_evidence(settings)
    first, *others = claims.matches(rows)
    plan, unplanned = _plan(out)
    searches, unasked = read_searches(out)
    served, unserved = _asked(out / serving.FILE)
    read_alike, unread = _asked(out / reading.FILE)
    recalled, unrecalled = _asked(out / recalling.FILE, sizes=list)
    problems = [
        *problems,
        *unplanned,
        *unasked,
        *(_problem(out, path, why) for path, why in (*unserved, *unread, *unrecalled)),
        *(_problem(out, path, why) for path, why in (*survey.problems, *damaged, *unreadable)),
        *_mixed(rows),
    ]
    return Comparison(
        out=os.fspath(out),
        scale=settings["scale"],
        about=settings["about"],
        evidence=not no_evidence,
        untested=settings["untested"],
        arms=_arms([arm for asked in (settings, served, read_alike, recalled) if asked for arm in asked["arms"]], rows),
        command=words.command(["launch.compare", *settings["command"]]) if settings["scale"] else "",
        place=place,
        jobs=jobs,
        rows=claims.of_match(rows, first),
        more={match: claims.of_match(rows, match) for match in others},
        over_devices=[row for row in claims.of_match(every, first) if _is_of(row, "collectives")],
        # Timings of a crossover are pairs of their own, which no claim has asked for.
        judged=tuple(_judge(claim, [row for row in rows if not crossover.is_of(row)], no_evidence) for claim in loaded),
        problems=tuple(problems),
        environment=environment,
        flags=flags.read_bytes().decode(errors="replace") if flags.is_file() else {"flags": "", **environment}["flags"],
        plan=plan,
        searches=tuple(searches),
        serving=served,
        reading=read_alike,
        recalling=recalled,
    )


def _is_of(row: Row, measure: str) -> bool:
    """Whether a row holds numbers of a measure, at any values of its knobs."""
    return parts.split(row["measure"])[0] == measure and row["outcome"] == "ok"


def _settings(out: epath.Path) -> tuple[Row, list[Problem]]:
    """The settings in compare.json; empty ones where it is missing or damaged."""
    path = out / store.COMPARISON
    if not path.exists():
        return NO_COMPARISON, []
    try:
        settings = _read_json(path, COMPARISON)
        if not all(isinstance(text, str) for name in ("arms", "claims", "command") for text in settings[name]):
            raise files.Damaged(path, "its lists are not of texts")
        if settings["place"] and not settings["place"].keys() >= set(PLACE):
            raise files.Damaged(path, f"its place has not all of {', '.join(PLACE)}")
    except files.Damaged as damaged:
        return NO_COMPARISON, [_problem(out, damaged.path, damaged.why)]
    return settings, []


def _plan(out: epath.Path) -> tuple[Row, list[Problem]]:
    """The plan in plan.json; empty where it is missing or damaged."""
    path = out / "plan.json"
    if not path.exists():
        return {}, []
    try:
        plan = _read_json(path, PLAN)
        if not all(_is_planned(program) for program in plan["programs"]) or "place" not in plan["place"]:
            raise files.Damaged(path, "its programs or its place are not what was written")
    except files.Damaged as damaged:
        return {}, [_problem(out, damaged.path, damaged.why)]
    return plan, []


def read_searches(out: epath.Path) -> tuple[list[Search], list[Problem]]:
    """The searches for crossovers, and the files of them that are damaged."""
    searches, problems = [], []
    for path in sorted((out / store.CROSSOVERS).glob("*.json")):
        try:
            stored = _read_json(path, SEARCH)
            if not (stored["questions"] and all(map(_is_question, stored["questions"]))):
                raise files.Damaged(path, "its questions are not what was written")
            if not all(isinstance(text, str) for text in stored["command"]):
                raise files.Damaged(path, "its command is not of texts")
            questions = tuple(map(Question.from_dict, stored["questions"]))
            searches.append(Search(path.name.removesuffix(".json"), questions, stored["command"]))
        except files.Damaged as damaged:
            problems.append(_problem(out, damaged.path, damaged.why))
        except (LookupError, TypeError, ValueError) as error:
            problems.append(_problem(out, path, f"its questions cannot be read: {error}"))
    return searches, problems


def _asked(path: epath.Path, **more: type) -> tuple[Row, list[tuple[epath.Path, str]]]:
    """What was asked of a program; empty where it was not asked, or its file is damaged."""
    if not path.exists():
        return {}, []
    try:
        asked = _read_json(path, {**ASKED, **more})
        if not all(isinstance(text, str) for text in (*asked["arms"], *asked["command"])):
            raise files.Damaged(path, "its lists are not of texts")
        if not all(_is_size(size) for size in {"sizes": [], **asked}["sizes"]):
            raise files.Damaged(path, "its sizes are not what was written")
    except files.Damaged as damaged:
        return {}, [(damaged.path, damaged.why)]
    return asked, []


def _is_size(stored: Any) -> bool:
    """Whether a size of an arm has the fields, and these the types, that were written."""
    if not isinstance(stored, dict) or stored.keys() != SIZE.keys():
        return False
    return all(isinstance(stored[name], wanted) for name, wanted in SIZE.items())


def _is_question(stored: Any) -> bool:
    """Whether a question has the fields, and these the types, that were written."""
    if not isinstance(stored, dict) or stored.keys() != QUESTION.keys():
        return False
    right = all(isinstance(stored[name], wanted) for name, wanted in QUESTION.items())
    return right and [*map(type, stored["arms"]), *map(type, stored["jobs"])] == [str, str, dict, dict]


def _is_planned(program: Any) -> bool:
    """Whether a program of a plan says what a report reads of it."""
    match program:
        case {"solved": {"mixer": str()}, "bounds": {"low": float(), "high": float(), "longest": str()}}:
            return Job.__dataclass_fields__.keys() <= program["solved"].keys()
        case dict():
            return "bounds" not in program
    return False


def _read_json(path: epath.Path, types: Mapping[str, type | tuple[type, ...]]) -> Row:
    """The fields of a small file of JSON; Damaged where one is missing or of another type than was written."""
    fields = files.read_json(path, *types)
    for name, wanted in types.items():
        if not isinstance(fields[name], wanted):
            raise files.Damaged(path, f"{name} is a {type(fields[name]).__name__}, not what was written")
    return fields


def _readable(survey: store.Survey) -> tuple[dict[str, Job], list[Row], list[tuple[epath.Path, str]]]:
    """The jobs, by the name of their run, and the rows whose specs this version can read; why others are left out."""
    jobs, problems = {}, []
    for job, run in survey.runs:
        mixers = [("suite.mixers", spec) for spec in (job.mixer, job.match_to) if spec]
        if why := _refusal(parts.canonical, *mixers, ("suite.tasks", job.task)):
            problems.append((run, f"{why}; left out"))
        else:
            jobs[run.name] = job
    rows = [row for row in survey.rows if row["run_id"] in jobs]
    odd = {
        spec: _refusal(parts.canonical, ("suite.measures", spec)) for spec in sorted({row["measure"] for row in rows})
    }
    for row in rows:
        if row["outcome"] == "ok" and not odd[row["measure"]]:
            odd[row["measure"]] = _refusal(lambda row: declarations.columns_of(row).numbers(row), (row,))
    problems += [(epath.Path(f"rows of {spec}"), f"{why}; left out") for spec, why in odd.items() if why]
    return jobs, [row for row in rows if not odd[row["measure"]]], problems


def _refusal(read: Callable[..., Any], *given: tuple) -> str:
    """The reason why one of several things cannot be read; empty where all can."""
    try:
        for arguments in given:
            read(*arguments)
    except (LookupError, ValueError) as error:
        return str(error.args[0])
    return ""


def _mixed(rows: list[Row]) -> list[Problem]:
    """Rows that were taken with several versions of one program."""
    versions: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        for field, name in (("source", "the source"), ("jax", "JAX")):
            versions[name] |= {row[field]} if field in row else set()
        for name, version in {"own_source": {}, **row}["own_source"].items():
            versions[name].add(version)
    return [
        Problem("rows", f"taken with {len(several)} versions of {name}; a fresh --out has one")
        for name, several in sorted(versions.items())
        if len(several) > 1
    ]


def _problem(out: epath.Path, path: epath.Path, why: str) -> Problem:
    """The problem of a path under the directory."""
    return Problem(os.fspath(path).removeprefix(f"{os.fspath(out)}/"), why)


def _claims(settings: Row, by_default: Sequence[str], more_claims: Sequence[str]) -> tuple[list[str], list[str]]:
    """The claims to judge, and those that the comparison has judged by files that `more_claims` does not name."""
    ours = parts.names("suite.claims")
    stored = settings["claims"] if settings["scale"] else by_default
    files = {pathlib.PurePath(name).name for name in more_claims}
    names = dict.fromkeys([*(name for name in stored if name in ours), *more_claims])
    unknown = [name for name in stored if name not in ours and pathlib.PurePath(name).name not in files]
    return sorted(names, key=_in_order), unknown


def _no_evidence(settings: Row) -> str:
    """The reason why no verdict may rest on the rows; empty where verdicts may."""
    if not settings["scale"]:
        return NO_SCALE
    return "" if settings["evidence"] else "the scale is not evidence"


def _in_order(claim: str) -> tuple[int, str]:
    """A sort key: the textbook's claims in its order, then others by name."""
    return claims.ORDER.index(claim) if claim in claims.ORDER else len(claims.ORDER), claim


def _under(thresholds: Sequence[str], names: list[str]) -> list[str]:
    """The specs of the claims under the reader's thresholds."""
    rules = {(name, knob): value for name in names for knob, value in parts.knobs("suite.claims", name).items()}
    given: dict[str, list[str]] = {name: [] for name in names}
    for text in thresholds:
        where, _, value = text.partition("=")
        name, _, knob = where.rpartition(".")
        if (name, knob) not in rules or not _is_number(value):
            listed = ", ".join(f"{name}.{knob}={value}" for (name, knob), value in rules.items())
            raise ValueError(f"cannot use the threshold {text!r}; wanted claim.name=number, one of: {listed or 'none'}")
        given[name].append(f"{knob}={value}")
    return [f"{name}:{','.join(values)}" if values else name for name, values in given.items()]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _load(spec: str, scale: str) -> Claim:
    module, thresholds = parts.load("suite.claims", spec)
    name, _ = parts.split(spec)
    by_rule = parts.knobs("suite.claims", name)
    changed = [Threshold(knob, value, by_rule[knob]) for knob, value in thresholds.items() if value != by_rule[knob]]
    cells = module.cells(SCALES[scale], []) if scale in module.SIZES else []
    claim = Judged(
        name=name,
        question=module.QUESTION,
        textbook=module.TEXTBOOK,
        claimed=module.CLAIMED,
        rule=module.RULE,
        rule_hash=rule_hash(parts.source("suite.claims", name)),
        measures=tuple(sorted({parts.split(cell.measure)[0] for cell in cells})),
        changed=tuple(changed),
    )
    return module, thresholds, claim


def _judge(loaded: Claim, rows: list[Row], no_evidence: str) -> Judged:
    module, thresholds, claim = loaded
    finding = claims.judge(module, rows, thresholds)
    if no_evidence and finding.verdict != "untested":
        finding = dataclasses.replace(finding, verdict="untested", reason=f"{no_evidence}; {finding.reason}")
    return dataclasses.replace(claim, finding=finding)


def _arms(wanted: list[str], rows: list[Row]) -> tuple[str, ...]:
    """The arms in the order of the command line, then those of single jobs; cells that a claim adds have a group."""
    others = {row["arm"] for row in rows if not (wanted and row["interleave_with"])}
    return tuple(dict.fromkeys([*wanted, *sorted(others)]))


def _place(settings: Row, survey: store.Survey, rows: list[Row]) -> Row:
    """The place of the newest comparison, or that of the newest rows."""
    return settings["place"] or _newest_place(survey, rows)


def _place_here(settings: Row, survey: store.Survey, rows: list[Row], wanted: str) -> Row:
    """The place of a name; without one the only place there is, or that of this machine's processor."""
    places = {
        row["place"]: {key: row[key] for key in PLACE} for row in rows if row["placed"] and row.keys() >= {*PLACE}
    }
    if not wanted and len(places) < 2:
        return next(iter(places.values())) if places else _place(settings, survey, rows)
    processor = slug(f"{machine.cpu()} {machine.cores()} cores")
    named = [name for name in places if name == wanted or (not wanted and name.startswith(f"{processor}-"))]
    if len(named) != 1:
        sought = f"no rows were taken at {wanted}" if wanted else "rows were taken at several places"
        raise ValueError(f"{sought}; wanted --place=NAME, one of: {', '.join(sorted(places)) or 'none'}")
    return places[named[0]]


def _newest_place(survey: store.Survey, rows: list[Row]) -> Row:
    """The place at which rows that depend on it were last written, or any rows where none do."""
    last = {(row["run_id"], stem_of(row)): row for row in rows if row.keys() >= set(PLACE)}
    dated = []
    for _, run in survey.runs:
        for path in run.iterdir():
            row = last.get((run.name, path.name.split(".jsonl")[0])) if ".jsonl" in path.name else None
            if row is not None:
                dated.append((row["placed"], path.stat().mtime, row))
    newest = max(dated, key=lambda entry: entry[:2], default=None)
    return {key: newest[2][key] for key in PLACE} if newest else {}


def _environment(survey: store.Survey, place: Row) -> tuple[Row, list[tuple[epath.Path, str]]]:
    """The newest env.json, of a run at this place where there is one, and the damaged files that are newer."""
    dated, problems = [], []
    for _, run in survey.runs:
        names = files.names(run)
        if "env.json" in names and (run / "env.json").exists():
            here = bool(place) and any(f"@{place['place']}." in name for name in names)
            dated.append((here, (run / "env.json").stat().mtime, run / "env.json"))
    for _, _, path in sorted(dated, key=lambda entry: entry[:2], reverse=True):
        try:
            return _read_json(path, ENVIRONMENT), problems
        except files.Damaged as damaged:
            problems.append((damaged.path, f"{damaged.why}; left out"))
    return {}, problems
