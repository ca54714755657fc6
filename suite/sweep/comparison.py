"""A comparison: rounds of cells, run in child processes, until its plan asks for no more."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from suite import files, machine
from suite.job import Cell
from suite.sweep import attempts, exit_codes, leases, provenance, rendezvous, schedule, startup, status, store
from suite.sweep.links import Member
from suite.sweep.options import Options
from suite.sweep.progress import Progress
from suite.sweep.record import Record, Row
from suite.sweep.schedule import Schedule

LONELY_ENDS = 3  # of children one after another, outside any cell, before it is given up
DISMISSING_SECONDS = 60  # for the comparisons on other hosts to hear of the end
FAILING_SECONDS = 10  # for those that have not ended already, where it could not go on
# After which children end, for the claims to be asked anew and for a report of what there is so far: soon at first, and
# then after a share of the time gone by, since compiled programs end with them and all wait for the last.
FIRST_SECONDS = 80
CHILD_SECONDS = 240
SHARE = 1 / 4
LONGEST_SECONDS = 3600  # of a comparison of days there is a report every hour
# What XLA sizes its thread pool by: two pools of two threads on two cores are a tenth slower.
ONE_THREAD = {"NPROC": "1"}


@dataclasses.dataclass
class Comparison:
    """Runs rounds of cells in child processes until its plan, for claims or for crossovers, asks for no more."""

    plan: Schedule
    options: Options  # of the children
    workers: int  # children that share the cells; 0 for as many as suit the machine
    any_batch: bool  # whether batches are sized for all devices
    asked: rendezvous.Settings  # the flags that define the comparison: the same on every host
    command: list[str]  # arguments, for the report
    report: Callable[["Comparison", bool], None]  # draws the report; True when it is the last
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.out = epath.Path(self.options.out)
        self.place: dict[str, Any] = {}  # what a child says of where it runs
        local = pathlib.Path(tempfile.gettempdir()) if "://" in os.fspath(self.out) else pathlib.Path(self.out)
        self.log = local / "log.txt"  # all that the children print
        self.passed_on = self.log.stat().st_size if self.log.exists() else 0  # bytes of it that the user has seen
        self.over: set[Cell] = set()
        self.wanted: dict[str, None] = {}  # the files of all cells that were asked for
        self.address = ""  # of process 0, where several processes do each job
        self.dismissed: int | None = None  # the exit code of the comparison beside process 0, which has ended
        self.lonely = 0  # children that ended outside any cell since one was done
        self.leases = leases.Leases(self.out, self.options.lease_seconds, self.clock)
        self.progress = Progress(schedule.estimate_seconds, self.clock)
        self.children: set[subprocess.Popen] = set()
        self.lock = threading.Lock()
        self.began = self.clock()
        self.report_due = 0.0

    def describe(self) -> None:
        """Writes the file from which a report knows what was asked."""
        name, content = self.plan.describe(self.place, self.command)
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(self.out / name, content)

    def run(self) -> int:
        try:
            code = self.run_rounds()
        except exit_codes.Stopped:
            self.stop_children()
            raise
        if not self.first:
            return code
        if code:
            if code not in (exit_codes.PREEMPTED, exit_codes.INTERRUPTED):  # these all processes of a job have heard of
                self.dismiss(code, FAILING_SECONDS)
            return code
        failed = sorted(cell.label for cell in self.over if self.record(cell).is_failed)
        code = exit_codes.REFUSED if failed else exit_codes.DONE
        self.dismiss(code, DISMISSING_SECONDS)
        self.report(self, True)
        if failed:
            print(f"crossover: {status.set_aside(failed, self.out)}", file=sys.stderr)
        return code

    def run_rounds(self) -> int:
        """Runs the cells of the plan until it asks for no more; an exit code that ends the comparison, or 0."""
        while not self.place and self.dismissed is None:  # a child says where it runs, on which sizes and rows depend
            code = self.run_child(self.plan.first_cells(), check=True)
            if code:
                return code
        if self.workers > 1 and self.place and self.place["n_processes"] > 1:
            exit_codes.refuse(
                f"--workers={self.workers} is for jobs of one process; each of these has several: leave it out"
            )
        if not self.first:
            return self.follow_first()
        if self.any_batch:
            self.plan = self.plan.on(self.place["devices_of_examples"])
            self.describe()
        while left := self.left(rows := self.rows()):
            self.progress.forecast.expect(left)
            code = self.run_children(self.shares(left, rows))
            if code:
                return code
            if self.clock() > self.report_due:
                self.report(self, False)
                self.report_due = self.clock() + self.child_seconds
        return 0

    def follow_first(self) -> int:
        """Beside another process than 0: children run the cells of process 0, until the comparison beside it ends."""
        while self.dismissed is None:
            code = self.run_child([])
            if code:
                return code
        return self.dismissed

    def dismiss(self, code: int, seconds: float) -> None:
        """Ends the comparisons on the other hosts, whose children wait for one of this host."""
        if self.place and self.place["n_processes"] > 1:
            member = Member(self.address, self.place["n_processes"], 0)
            rendezvous.dismiss(member, code, seconds, self.clock)

    @property
    def child_seconds(self) -> float:
        """The seconds after which a child that is started now ends."""
        share = min(LONGEST_SECONDS, SHARE * (self.clock() - self.began))
        return max(CHILD_SECONDS if self.over else FIRST_SECONDS, share)

    def left(self, rows: list[Row]) -> list[Cell]:
        """The cells that the plan asks for, of what the rows tell, and that are not over."""
        wanted = self.plan.cells(rows)
        with exit_codes.door():
            provenance.check_done(self.out, rows, wanted, self.options.data_dir)
        if not self.wanted and (line := provenance.of_another_version(rows)):
            print(f"crossover: {line}", file=sys.stderr)
        n_before = len(self.wanted)
        self.wanted |= {self.record(cell).name: None for cell in wanted}
        if len(self.wanted) > n_before:
            files.write(self.out / status.WANTED, "\n".join(self.wanted) + "\n")
        left = [cell for cell in wanted if cell not in self.over]
        self.over |= {cell for cell in left if self.record(cell).is_over}
        return [cell for cell in left if cell not in self.over]

    def rows(self) -> list[Row]:
        """The rows that were measured here, or that do not depend on the place."""
        return store.of_place(store.load(self.out), self.place["place"])

    def shares(self, left: list[Cell], rows: list[Row]) -> list[list[Cell]]:
        """The cells that are run next, a list for each child."""
        alone = self.place["platform"] != "cpu" or self.place["n_processes"] > 1 or machine.share() < schedule.CHILDREN
        children = self.workers or (1 if alone else schedule.CHILDREN)
        return schedule.shares(
            left, self.over, self.plan.with_seconds(rows), children if self.over else 1
        )  # the first prepares the data set

    def run_children(self, shares: list[list[Cell]]) -> int:
        """Runs each share in a child of its own, all at once; the first exit code that is not 0."""
        if len(shares) == 1:
            return self.run_child(shares[0])
        with concurrent.futures.ThreadPoolExecutor(len(shares), thread_name_prefix="child") as threads:
            try:
                run = functools.partial(self.run_child, shared=True)
                return next(filter(None, threads.map(run, shares)), 0)
            except exit_codes.Stopped:
                self.stop_children()
                raise

    def run_child(self, cells: list[Cell], *, shared: bool = False, check: bool = False) -> int:
        """Runs cells in a fresh process; returns an exit code that ends the comparison, or 0 to go on.

        `shared`: others run beside it. `check`: whether they can be run is all that is asked. Where several processes
        do a job it is the list of process 0 that is run.
        """
        running: dict[Cell, tuple[str, str]] = {}  # where the record of each is, and whose attempt it was
        ending: dict[str, str] = {}
        kills = attempts.oom_kills()
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "cells.json"
            file.write_text(json.dumps({"cells": [cell.to_dict() for cell in cells], "asked": self.asked}))
            options = dataclasses.replace(self.options, cells=str(file), seconds=self.child_seconds, check=check)
            with child(options, self.log, ONE_THREAD if shared else {}) as (process, events):
                self.children.add(process)
                for event in events:
                    with self.lock:
                        ending |= self.follow(event, running)
                code = exit_codes.code_of_child(process.wait())
                self.children.remove(process)
        if self.dismissed is not None:
            return code
        if (code == exit_codes.REFUSED and not running) or "refused" in ending:
            print(ending.get("refused") or self.printed()[-1], file=sys.stderr)
            return exit_codes.REFUSED
        with self.lock:
            self.pass_on()
        if code in (exit_codes.DONE, exit_codes.INTERRUPTED):
            return code
        outside = code == exit_codes.KILLED and kills >= 0 and attempts.oom_kills() == kills
        for key, owner in running.values():
            attempts.note_end(self.leases, key, owner, self.place["process"], code, outside=outside)
        if code == exit_codes.PREEMPTED:
            return 0 if "lost" in ending else code
        with self.lock:
            return self.after_crash(code, lonely=not running)

    def stop_children(self) -> None:
        """Gives the children notice, and waits until they have saved."""
        for process in list(self.children):
            process.send_signal(signal.SIGTERM)
        for process in list(self.children):
            process.wait()

    def follow(self, event: dict[str, Any], running: dict[Cell, tuple[str, str]]) -> dict[str, str]:
        """Follows one event of a child; returns why the child ends, where the event tells it."""
        if event["event"] == "ready":
            if not self.place and event["n_processes"] > 1:
                startup.label_lines(event["process"])
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
        is_known = event["event"] == "skipped" and cell in self.over  # by another child
        if self.first and not is_known:  # on another host there is no telling how many are left
            self.progress.follow(event["event"], cell)
        if event["event"] != "started":
            self.over.add(cell)
        return {}

    def after_crash(self, code: int, *, lonely: bool) -> int:
        """The exit code of a child that has crashed outside any cell once too often; otherwise 0, to go on."""
        self.lonely += lonely
        if self.lonely < LONELY_ENDS:
            return 0
        print("\n".join(self.printed()[-15:]), file=sys.stderr)
        print(f"crossover: a child ended with {code} outside any cell; see {self.log}", file=sys.stderr)
        return code

    def pass_on(self) -> None:
        """Prints the new lines of the children that are for the user: cells that are put aside or begun again."""
        with open(self.log, "rb") as log:
            log.seek(self.passed_on)
            printed = log.read()
        printed = printed[: printed.rfind(b"\n") + 1]  # of a line that is being printed the rest comes later
        self.passed_on += len(printed)
        for line in dict.fromkeys(printed.decode(errors="replace").splitlines()):
            if startup.unlabelled(line).startswith("crossover: "):
                print(self.labelled_once(line), file=sys.stderr, flush=True)

    def printed(self) -> list[str]:
        """The lines that children have printed."""
        return [self.labelled_once(line) for line in self.log.read_text().strip().splitlines()]

    def labelled_once(self, line: str) -> str:
        """A line of a child: its rank is that of this process, which begins its own lines with it once it knows it."""
        return startup.unlabelled(line) if self.place and self.place["n_processes"] > 1 else line

    def record(self, cell: Cell) -> Record:
        return Record.at(self.out, cell, self.place["place"])

    @property
    def first(self) -> bool:
        """Whether this is the comparison that writes: on several hosts, the one beside process 0."""
        return bool(self.place) and self.place["process"] == 0


@contextlib.contextmanager
def child(
    options: Options, log: pathlib.Path, variables: dict[str, str]
) -> Iterator[tuple[subprocess.Popen, Iterator[dict[str, Any]]]]:
    """A fresh process that runs cells, and its events; its output goes to the log."""
    read, write = os.pipe()
    with open(log, "ab") as output, os.fdopen(read) as pipe:
        process = subprocess.Popen(
            dataclasses.replace(options, events=write).command(),
            pass_fds=(write,),
            stdout=output,
            stderr=output,
            env=os.environ | variables,
        )
        os.close(write)
        yield process, map(json.loads, pipe)
