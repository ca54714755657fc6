"""The main job: claims ask for cells, each is run, a report is drawn.

    python -m launch.compare --scale=quick --out=out/quick
    python -m launch.compare --arms=./mine.py --arms=attention --claims=parallelism

The same command again skips what is done. On several hosts start it on each, with a shared --out. Started several
times, or with --workers, the cells are shared: each is done by the worker that claims it.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import flags
from etils import epath

import launch
from launch import job as worker
from suite import job as jobs
from suite import learning_rates, machine, parts
from suite.job import Cell
from suite.judging import pace
from suite.scale import PAIR, SCALES, Scale, curve_cells
from suite.sweep import cells as states
from suite.sweep import exit_codes, leases, provenance, rendezvous, store
from suite.sweep.progress import Progress

SCALE = flags.DEFINE_enum("scale", "quick", list(SCALES), "how much is run; smoke is a test and not evidence")
ARMS = flags.DEFINE_multi_string(
    "arms", [], "mixers with knobs or your own files, separated by commas or the flag repeated; all for every mixer"
)
CLAIMS = flags.DEFINE_string("claims", "", "claims to judge, separated by commas; empty for all")
CHOOSE_RATES = flags.DEFINE_bool(
    "choose_learning_rates", False, "find the learning rates of the arms on validation instead, and write OUT/rates.csv"
)
WORKERS = flags.DEFINE_integer(
    "workers", 0, "processes that share the cells; 0: two for what is not timed on a CPU, or else one", lower_bound=0
)
STATUS = flags.DEFINE_bool("status", False, "print the table of the cells under --out, and run nothing")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the cells and the estimated minutes, and run nothing")
# What a child is given as it was given here.
PASSED = (
    *("out", "mesh", "data_dir", "coordinator_address", "num_processes", "process_id"),
    *("patience", "save_seconds", "lease_seconds", "fault"),
)
for name in PASSED:
    flags.declare_key_flag(name)
# Flags of launch.job that would be read and do nothing here.
NOT_OURS = ("mixer", "own_width", "measures", "repeat", "trace")
for field in dataclasses.fields(jobs.Job):
    if field.name not in NOT_OURS:
        flags.declare_key_flag(field.name)
flags.set_default(worker.OUT, "out/compare")

LONELY_ENDS = 3  # of children one after another, outside any cell, before it is given up
DISMISSING_SECONDS = 60  # for the comparisons on other hosts to hear of the end
FAILING_SECONDS = 10  # for those that have not ended already, where it could not go on
CHILD_SECONDS = 240  # after which a child ends, for a report to be drawn
REPORT_SECONDS = 300  # between two reports of what there is so far
# At once, of what is not timed, on a CPU: a small model's step is no faster on two cores than on one.
CHILDREN = 2
# What XLA sizes its thread pool by: two pools of two threads on two cores are a tenth slower.
ONE_THREAD = {"NPROC": "1"}
# Flags that say, with those of a job, what a comparison is.
ASKED = ("scale", "arms", "claims", "choose_learning_rates", "workers")
# Jobs that differ in other fields share their compiled programs: they go to one child.
OF_A_PROGRAM = (
    "mixer",
    "task",
    "block",
    "short_conv",
    "width",
    "depth",
    "length",
    "batch",
    "microbatch",
    "remat",
    "optimizer",
    "dtype",
)


def main() -> int:
    if STATUS.value:
        return print_status(epath.Path(worker.OUT.value))
    with launch.door():
        scale = chosen_scale()
        claims = parts.split_list(CLAIMS.value) if CLAIMS.value else parts.names("suite.claims")
        if not claims:
            raise ValueError(f"--claims names none; known: {', '.join(parts.names('suite.claims'))}")
        for claim in claims:
            parts.source("suite.claims", claim)
        if not DRY_RUN.value:
            store.check_writable(worker.OUT.value)
        wanted = wanted_cells(scale, claims, [])
    if DRY_RUN.value:
        print_plan(scale, claims, wanted)
        return 0
    out = epath.Path(worker.OUT.value)
    given = [flags.FLAGS[name].serialize() for name in flags.FLAGS if flags.FLAGS[name].present]
    store.write(out / "compare.flags", "\n".join(given) + "\n")
    return Comparison(scale, claims, out).run()


def print_status(out: epath.Path) -> int:
    """The table of cells, and how many are in each state."""
    with launch.door():
        store.check_schema(out)
        if not out.exists():
            raise ValueError(f"no records in {out}; wanted the --out of a launch.compare or a launch.job")
    lines = list(states.table(out))
    for line in [states.COLUMNS, *lines]:
        print("{:<8}{:>6}  {:<12}{:<24}{}".format(*line))
    counts = collections.Counter(state for state, *_ in lines)
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no cells")
    return 0


def chosen_scale() -> Scale:
    """The scale with the arms and the job flags of the command line in the place of its own."""
    for name in NOT_OURS:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} is for launch.job; a comparison takes --arms and --claims")
    scale = SCALES[SCALE.value]
    arms = chosen_arms() if ARMS.present else scale.arms
    if not arms:
        raise ValueError(f"--arms names none; known: all, {', '.join(parts.names('suite.mixers'))}")
    job = jobs.from_flags(flags.FLAGS, scale.job)
    given = {field.name for field in dataclasses.fields(jobs.Job) if flags.FLAGS[field.name].present}
    changes: dict[str, Any] = {"arms": arms, "job": job.replace(match=scale.job.match, match_to="")}
    if "match" in given:
        changes["matches"] = (job.match,)
        if CHOOSE_RATES.value and job.match == "step_time":
            raise ValueError(
                "--choose_learning_rates wants widths that follow from shapes, and --match=step_time is measured"
            )
    if "match_to" in given:
        changes["reference"] = parts.short("suite.mixers", job.match_to)
    if "length" in given:
        changes["lengths"] = (job.length,)
    if "batch" in given:
        changes["batches"] = (job.batch,)
    return dataclasses.replace(scale.without(given), **changes)


def chosen_arms() -> tuple[str, ...]:
    """The arms of the command line, each once."""
    every = {"all": [*PAIR, *(name for name in parts.names("suite.mixers") if name not in PAIR)]}
    specs = [spec for value in ARMS.value for item in parts.split_list(value) for spec in every.get(item, [item])]
    return tuple(dict.fromkeys(parts.short("suite.mixers", spec) for spec in specs))


def wanted_cells(scale: Scale, claims: list[str], rows: list[store.Row]) -> list[Cell]:
    """The cells of the learning curves and of all claims, each once, or those that choose their trainings' rates."""
    wanted: dict[Cell, None] = {}
    for matched in matched_scales(scale, claims, rows):
        if matched.match == "step_time":
            arms = arms_of(matched, claims)
            wanted.update(dict.fromkeys(pace.cells(matched, arms, rows)))
            if not pace.is_settled(matched, arms, rows):
                continue
        if not CHOOSE_RATES.value:
            wanted.update(dict.fromkeys(curve_cells(matched)))
        for claim in claims:
            module, _ = parts.load("suite.claims", claim)
            wanted.update(dict.fromkeys(module.cells(matched, rows)))
    if CHOOSE_RATES.value:
        sizes = [cell for cell in wanted if cell.measure == "size"]
        trainings = learning_rates.to_tune(cell.job for cell in wanted if cell.measure == "learning")
        return [*sizes, *learning_rates.cells(trainings, rows)]
    return list(wanted)


def matched_scales(scale: Scale, claims: list[str], rows: list[store.Row]) -> list[Scale]:
    """The scale once for each quantity that arms hold equal; rates are chosen under the first."""
    matches = scale.matches[:1] if CHOOSE_RATES.value else scale.matches
    scales = [dataclasses.replace(scale, match=match) for match in matches]
    return [
        dataclasses.replace(matched, own_widths=pace.own_widths(matched, arms_of(matched, claims), rows))
        if matched.match == "step_time"
        else matched
        for matched in scales
    ]


def arms_of(scale: Scale, claims: list[str]) -> list[str]:
    """The arms that are matched: those of the scale and those that a claim adds."""
    by_shape = dataclasses.replace(scale, match="params", matches=("params",))
    cells = [cell for claim in claims for cell in parts.load("suite.claims", claim)[0].cells(by_shape, [])]
    return [arm for arm in dict.fromkeys([*scale.arms, *(cell.job.arm for cell in cells)]) if arm != scale.against]


@dataclasses.dataclass
class Comparison:
    """Rounds of cells until the claims ask for nothing new; every process of a round is a child of this one."""

    scale: Scale
    claims: list[str]
    out: epath.Path

    def __post_init__(self) -> None:
        self.place: dict[str, Any] = {}  # what a child says of where it runs
        local = pathlib.Path(tempfile.gettempdir()) if "://" in os.fspath(self.out) else pathlib.Path(self.out)
        self.log = local / "log.txt"  # all that the children print
        self.passed_on = self.log.stat().st_size if self.log.exists() else 0  # bytes of it that the user has seen
        self.over: set[Cell] = set()
        self.wanted: dict[str, None] = {}  # the files of all cells that were asked for
        self.address = ""  # of process 0, where several processes do each job
        self.dismissed: int | None = None  # the exit code of the comparison beside process 0, which has ended
        self.lonely = 0  # children that ended outside any cell since one was done
        self.leases = leases.Leases(self.out, worker.LEASE_SECONDS.value, time.monotonic)
        self.progress = Progress(estimate_seconds, time.monotonic)
        self.children: set[subprocess.Popen] = set()
        self.lock = threading.Lock()
        self.report_due = 0.0

    def describe(self) -> None:
        """What a report must know of the comparison beside its rows."""
        facts = {"scale": self.scale.name, "about": self.scale.about, "evidence": self.scale.evidence}
        facts |= {"arms": list(self.scale.arms), "claims": self.claims, "command": sys.argv[1:], "place": self.place}
        facts["untested"] = self.scale.untested
        store.write(self.out / "compare.json", json.dumps(facts, indent=1) + "\n")

    def run(self) -> int:
        try:
            with self.progress:
                code = self.run_rounds()
        except launch.Stopped:
            self.stop_children()
            raise
        if not self.first:
            return code
        if code:
            if code not in (exit_codes.PREEMPTED, exit_codes.INTERRUPTED):  # these all processes of a job have heard of
                self.dismiss(code, FAILING_SECONDS)
            return code
        failed = sorted(cell.label for cell in self.over if states.is_failed(self.path(cell), self.stem(cell)))
        code = exit_codes.REFUSED if failed else exit_codes.DONE
        self.dismiss(code, DISMISSING_SECONDS)
        if CHOOSE_RATES.value:
            print(f"rates: {self.write_rates()}")
        else:
            print(f"report: {self.report()}")
            self.print_findings()
        if failed:
            print(f"crossover: {states.told(failed, self.out)}", file=sys.stderr)
        return code

    def run_rounds(self) -> int:
        """Runs what the claims ask for until they ask for nothing new; an exit code that ends the comparison, or 0."""
        while not self.place and self.dismissed is None:  # a child says where it runs, on which sizes and rows depend
            code = self.run_child(wanted_cells(self.scale, self.claims, []), check=True)
            if code:
                return code
        if WORKERS.value > 1 and self.place and self.place["n_processes"] > 1:
            launch.refuse(
                f"--workers={WORKERS.value} is for jobs of one process; each of these has several: leave it out"
            )
        if not self.first:
            return self.follow_first()
        if not flags.FLAGS["batch"].present:
            self.scale = self.scale.on(self.place["n_devices"])
        while left := self.left():
            self.progress.expect(left)
            code = self.run_children(self.shares(left))
            if code:
                return code
            if not CHOOSE_RATES.value and time.monotonic() > self.report_due:
                print(f"report so far: {self.report()}", flush=True)
                self.report_due = time.monotonic() + REPORT_SECONDS
        return 0

    def follow_first(self) -> int:
        """On another host than process 0: its children do what the one beside process 0 wants done, until that ends."""
        while self.dismissed is None:
            code = self.run_child([])
            if code:
                return code
        return self.dismissed

    def dismiss(self, code: int, seconds: float) -> None:
        """Ends the comparisons on the other hosts, whose children wait for one of this host."""
        if self.place and self.place["n_processes"] > 1:
            member = rendezvous.Member(self.address, self.place["n_processes"], 0)
            rendezvous.dismiss(member, code, seconds, time.monotonic)

    def write_rates(self) -> epath.Path:
        from suite import report

        curves = [curve for curve in learning_rates.gather(self.rows()) if curve.scores]
        return report.write_rates(curves, shlex.join(["python", "-m", "launch.compare", *sys.argv[1:]]), self.out)

    def left(self) -> list[Cell]:
        """What the claims ask for and is not over, whoever did it."""
        rows = self.rows()
        wanted = wanted_cells(self.scale, self.claims, rows)
        with launch.door():
            provenance.check_done(self.out, rows, wanted, worker.DATA_DIR.value)
        if not self.wanted and (line := provenance.of_another_version(rows)):
            print(f"crossover: {line}", file=sys.stderr)
        known = len(self.wanted)
        self.wanted |= {f"{cell.job.id}/{self.stem(cell)}": None for cell in wanted}
        if len(self.wanted) > known:
            store.write(self.out / states.WANTED, "\n".join(self.wanted) + "\n")
        left = [cell for cell in wanted if cell not in self.over]
        self.over |= {cell for cell in left if states.is_over(self.path(cell), self.stem(cell))}
        return [cell for cell in left if cell not in self.over]

    def rows(self) -> list[store.Row]:
        """The rows that were measured here, or that do not depend on the place."""
        return store.of_place(store.load(self.out), self.place["place"])

    def shares(self, left: list[Cell]) -> list[list[Cell]]:
        """What is done next, a list for each child: what is timed has the machine for itself.

        A child's own share comes first in its list, then those of the others, for when it is done with its own.
        """
        first = min(cell.repeat for cell in left)
        now = [cell for cell in left if cell.repeat == first]
        # The report shows them at equal seconds.
        with_seconds = {
            cell for matched in matched_scales(self.scale, self.claims, self.rows()) for cell in curve_cells(matched)
        }
        timed = [
            cell for cell in now if cell in with_seconds or parts.constant("suite.measures", cell.measure, "PLACED")
        ]
        alone = self.place["platform"] != "cpu" or self.place["n_processes"] > 1 or machine.share() < CHILDREN
        children = WORKERS.value or (1 if alone else CHILDREN)
        if timed or children == 1 or not self.over:  # the first child prepares the data set
            return [timed or now]
        programs: dict[tuple, list[Cell]] = collections.defaultdict(list)
        for cell in now:
            programs[tuple(getattr(cell.job, name) for name in OF_A_PROGRAM)].append(cell)
        shares: list[list[Cell]] = [[] for _ in range(children)]
        seconds = [0.0] * children
        cost = {key: sum(map(estimate_seconds, cells)) for key, cells in programs.items()}
        for key in sorted(programs, key=lambda key: -cost[key]):  # the longest first: none is left to run alone
            least = seconds.index(min(seconds))
            shares[least] += programs[key]
            seconds[least] += cost[key]
        return [[*itertools.chain(*shares[child:], *shares[:child])] for child in range(children)]

    def run_children(self, shares: list[list[Cell]]) -> int:
        """Runs each share in a child of its own, all at once; the first exit code that is not 0."""
        if len(shares) == 1:
            return self.run_child(shares[0])
        with concurrent.futures.ThreadPoolExecutor(len(shares), thread_name_prefix="child") as threads:
            try:
                run = functools.partial(self.run_child, shared=True)
                return next(filter(None, threads.map(run, shares)), 0)
            except launch.Stopped:
                self.stop_children()
                raise

    def run_child(self, cells: list[Cell], *, shared: bool = False, check: bool = False) -> int:
        """Runs cells in a fresh process; returns an exit code that ends the comparison, or 0 to go on.

        `shared`: others run beside it. `check`: whether they can be run is all that is asked. Where several processes
        do a job it is the list of process 0 that is run.
        """
        running: dict[Cell, tuple[str, str]] = {}  # where the record of each is, and whose attempt it was
        said: dict[str, Any] = {}
        kills = states.oom_kills()
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "cells.json"
            file.write_text(json.dumps({"cells": [cell.to_dict() for cell in cells], "asked": asked()}))
            with child(file, self.log, ONE_THREAD if shared else {}, check=check) as (process, events):
                self.children.add(process)
                for event in events:
                    with self.lock:
                        said |= self.follow(event, running)
                code = exit_codes.code_of_child(process.wait())
                self.children.remove(process)
        if self.dismissed is not None:
            return code
        if (code == exit_codes.REFUSED and not running) or "refused" in said:
            print(said.get("refused") or self.said()[-1], file=sys.stderr)
            return exit_codes.REFUSED
        with self.lock:
            self.pass_on()
        if code in (exit_codes.DONE, exit_codes.INTERRUPTED):
            return code
        outside = code == exit_codes.KILLED and kills >= 0 and states.oom_kills() == kills
        for key, owner in running.values():
            states.note_end(self.leases, key, owner, self.place["process"], code, outside=outside)
        if code == exit_codes.PREEMPTED:
            return 0 if "lost" in said else code
        with self.lock:
            return self.after_crash(code, lonely=not running)

    def stop_children(self) -> None:
        """Gives the children notice, and waits until they have saved."""
        for process in list(self.children):
            process.send_signal(signal.SIGTERM)
        for process in list(self.children):
            process.wait()

    def follow(self, event: dict[str, Any], running: dict[Cell, tuple[str, str]]) -> dict[str, Any]:
        """Takes one event of a child to account; what it says of its own end is returned."""
        if event["event"] == "ready":
            self.place = {key: event[key] for key in event if key not in ("event", "cell", "address")}
            self.address = event["address"]
            if self.first:
                self.describe()
            return {}
        if event["event"] == "dismissed":
            self.dismissed = event["code"]
            return {}
        if event["event"] in ("lost", "refused"):
            return {event["event"]: event.get("why", "")}
        cell = Cell.from_dict(event["cell"])
        match event["event"]:
            case "started":
                running[cell] = (event["key"], event["owner"])
            case "done":
                del running[cell]
                self.lonely = 0
        told = event["event"] == "skipped" and cell in self.over  # by another child
        if self.first and not told:  # on another host there is no telling how many are left
            self.progress.follow(event["event"], cell)
        if event["event"] != "started":
            self.over.add(cell)
        return {}

    def after_crash(self, code: int, *, lonely: bool) -> int:
        """An exit code where a child has crashed outside any cell once too often; what was under way is tried again."""
        self.lonely += lonely
        if self.lonely < LONELY_ENDS:
            return 0
        print("\n".join(self.said()[-15:]), file=sys.stderr)
        print(f"crossover: a child ended with {code} outside any cell; see {self.log}", file=sys.stderr)
        return code

    def pass_on(self) -> None:
        """Prints what children have told the user since the last time: what was put aside, and what begins again."""
        with open(self.log, "rb") as log:
            log.seek(self.passed_on)
            printed = log.read()
        printed = printed[: printed.rfind(b"\n") + 1]  # of a line that is being printed the rest comes later
        self.passed_on += len(printed)
        for line in dict.fromkeys(printed.decode(errors="replace").splitlines()):
            if line.startswith("crossover: "):
                print(line, file=sys.stderr, flush=True)

    def said(self) -> list[str]:
        """The lines that children have printed."""
        return self.log.read_text().strip().splitlines()

    def path(self, cell: Cell) -> epath.Path:
        return store.run_path(self.out, cell.job)

    def stem(self, cell: Cell) -> str:
        return states.stem(cell, self.place["place"])

    @property
    def first(self) -> bool:
        """Whether this is the comparison that writes: on several hosts, the one beside process 0."""
        return bool(self.place) and self.place["process"] == 0

    def report(self) -> epath.Path:
        from suite import report  # here, not above: Altair takes a second

        return report.write(self.out, more_claims=self.claims)

    def print_findings(self) -> None:
        from suite import report

        for problem in report.problems(self.out):
            print(f"crossover: {problem}", file=sys.stderr)
        print(report.headline(self.out))


@contextlib.contextmanager
def child(
    cells: pathlib.Path, log: pathlib.Path, variables: dict[str, str], *, check: bool
) -> Iterator[tuple[subprocess.Popen, Iterator[dict[str, Any]]]]:
    """A fresh process that runs cells, and the events that it reports; what it prints goes to the log."""
    read, write = os.pipe()
    passed = {name: flags.FLAGS[name].value for name in PASSED}
    argv = [sys.executable, "-m", "launch.job", *(f"--{name}={value}" for name, value in passed.items())]
    with open(log, "ab") as output, os.fdopen(read) as pipe:
        process = subprocess.Popen(
            [*argv, f"--cells={cells}", f"--seconds={CHILD_SECONDS}", f"--events={write}", f"--check={check}"],
            pass_fds=(write,),
            stdout=output,
            stderr=output,
            env=os.environ | variables,
        )
        os.close(write)
        yield process, map(json.loads, pipe)


def asked() -> rendezvous.Facts:
    """What this comparison is, to be the same on every host that takes part in it."""
    names = [*ASKED, *(field.name for field in dataclasses.fields(jobs.Job) if field.name not in NOT_OURS)]
    return {f"--{name}": str(flags.FLAGS[name].value) for name in names}


def estimate_seconds(cell: Cell) -> float:
    """A rough cost of a cell on two CPU cores, for the time that is left: FLOPs at 15 GFLOP/s and a compilation."""
    job = cell.job
    parameters = job.depth * 12 * job.width**2 + 256 * job.width
    tokens = job.batch * job.length
    step = 6 * tokens * (parameters + job.depth * job.width * job.length) / 15e9
    name, knobs = parts.split(cell.measure)
    compilation = 6 if job.seed in (0, learning_rates.SEEDS[0]) and cell.repeat == 0 else 1
    match name:
        case "learning":
            return compilation + job.steps * max(step, 0.004)
        case "step_time":
            turns = int(knobs.get("blocks", 10))
            return compilation + 7 * step + turns * (step + max(step, 0.15)) + 5 * step
        case "decode":
            return 8
        case "truncated_context":
            return 15
        case "length_accuracy" | "gradient_reach":
            return compilation
    return 2


def print_plan(scale: Scale, claims: list[str], cells: list[Cell]) -> None:
    """The cells known so far: what a claim asks for after a first look is not among them yet."""
    print(f"scale {scale.name}: {scale.about}")
    for claim in claims:
        if claim in scale.untested:
            print(f"  {claim} cannot be decided at this scale: {scale.untested[claim]}")
    for cell in cells:
        print(f"  {estimate_seconds(cell):6.0f} s  {cell.label}")
    minutes = sum(map(estimate_seconds, cells)) / 60
    about = f"about {minutes:.1f} minutes on two CPU cores"
    print(f"{len(cells)} cells in the first round, {about}; claims ask for more after it")


if __name__ == "__main__":
    launch.run(main)
