"""What a report is made from: the comparison, its rows at one place, and the findings of the claims."""

import dataclasses
import json
from typing import Any

from etils import epath

from suite import claims, parts, store
from suite.claims import Finding
from suite.job import Cell, Job
from suite.report import words
from suite.store import Row


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim and what came of it."""

    name: str
    question: str
    textbook: str
    rule: str
    rule_hash: str
    finding: Finding


@dataclasses.dataclass(frozen=True)
class Gathered:
    """All that a report says comes from here. `scale` is empty without a comparison, `place` before the first row."""

    out: str
    scale: str
    about: str
    evidence: bool
    arms: tuple[str, ...]
    command: str  # makes everything again; empty where single jobs were run
    place: dict[str, Any]
    jobs: dict[str, Job]
    rows: list[Row]
    judged: tuple[Judged, ...]
    environment: Row  # of the newest run here; empty before it
    flags: str  # all of them, defaults too: of the comparison, or of the newest run

    @property
    def where(self) -> str:
        return words.place(self.place, self.environment)

    def commands(self, rows: list[Row]) -> list[str]:
        """One command for each cell that wrote these rows."""
        cells = dict.fromkeys(Cell(self.jobs[row["run_id"]], row["measure"]) for row in rows)
        return [cell.command(self.out) for cell in cells]


PLACE = ("place", "platform", "device_kind", "n_devices")


def gather(root: epath.PathLike) -> Gathered:
    """Reads a directory at any moment: while rows are written, before the first one, after single jobs."""
    out = epath.Path(root)
    stored = out / "compare.json"
    comparison = json.loads(stored.read_text()) if stored.exists() else {}
    every = store.load(out)
    place = (comparison["place"] if comparison else {}) or _newest_place(out)
    rows = store.of_place(every, place["place"]) if place else every
    environment = _environment(out, place)
    flags = out / "compare.flags"
    evidence = comparison["evidence"] if comparison else True
    names = comparison["claims"] if comparison else parts.names("suite.claims")
    return Gathered(
        out=str(root),
        scale=comparison["scale"] if comparison else "",
        about=comparison["about"] if comparison else "",
        evidence=evidence,
        arms=_arms(comparison["arms"] if comparison else [], rows),
        command=words.command(["launch.compare", *comparison["command"]]) if comparison else "",
        place=place,
        jobs={run.name: job for job, run in store.all_runs(out)},
        rows=rows,
        judged=tuple(_judge(name, rows, evidence) for name in names),
        environment=environment,
        flags=flags.read_text() if flags.exists() else {"flags": "", **environment}["flags"],
    )


def _judge(name: str, rows: list[Row], evidence: bool) -> Judged:
    module, thresholds = parts.load("suite.claims", name)
    finding = module.judge(rows, **thresholds)
    if not evidence and finding.verdict != "untested":
        finding = dataclasses.replace(
            finding, verdict="untested", reason=f"the scale is not evidence; {finding.reason}"
        )
    rule_hash = claims.rule_hash(str(parts.source("suite.claims", parts.split(name)[0])))
    return Judged(parts.split(name)[0], module.QUESTION, module.TEXTBOOK, module.RULE, rule_hash, finding)


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
