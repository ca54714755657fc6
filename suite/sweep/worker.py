"""Does cells on the devices of the processes of a job; several workers share an --out."""

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.sharding import Mesh

from suite import contract, declarations, files, parts
from suite import job as jobs
from suite import mesh as meshes
from suite.job import Cell
from suite.sweep import cells as states
from suite.sweep import events, exit_codes, fault_injection, leases, processes, provenance, startup, store
from suite.sweep.options import Options
from suite.sweep.watchdog import Watchdog
from suite.training import checkpoint, programs, rig
from suite.training.clock import Stopwatch
from suite.training.conditions import device_kind, place
from suite.training.rig import Rig

WAIT_SECONDS = 1.0  # between two looks at cells that other workers have


def work(options: Options, cells: list[Cell], clock: Callable[[], float]) -> int:
    """Does the cells in this process, which has joined the others of its job; an exit code."""
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: notice(interrupted))
    startup.on_hangup(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    if options.is_child:
        threading.Thread(target=events.follow_reader, args=(options.events,), name="parent", daemon=True).start()
    with exit_codes.door():
        mesh = meshes.make(options.mesh)
        cells = with_needs(cells)
        processes.check_alike(check(options, cells, mesh))
        check_done(options, cells)
    worker = Worker(options, mesh, clock)
    if options.check:
        processes.part()
        return exit_codes.DONE
    try:
        code = worker.trace(cells[0].job, options.trace) if options.trace else worker.run(cells)
    except exit_codes.Preempted:
        code = exit_codes.INTERRUPTED if interrupted.is_set() else exit_codes.PREEMPTED
        print("stopped, and saved; the same command goes on from here", file=sys.stderr)
    processes.part()
    return code


def check(options: Options, cells: list[Cell], mesh: Mesh) -> dict[str, str]:
    """Raises what would fail later: own parts that break their contract, jobs that do not fit, measures that cannot.

    With --check, of jobs of the suite's own parts one of each mixer is looked at: the process that runs them asks the
    rest. Returns what the tasks know of their data.
    """

    tasks: dict[jobs.Job, Any] = {}
    data: dict[str, str] = {}
    checked: set[tuple[jobs.Job | str, str]] = set()
    for cell in cells:
        store.check_run(options.out, cell.job)
        shape = cell.job.replace(**programs.NOT_IN_A_PROGRAM)
        if shape not in tasks:
            tasks[shape] = rig.open_task(cell.job, options.data_dir)
            facts = provenance.of_data(tasks[shape])
            data |= {f"{name} of --task={cell.job.task}": str(value) for name, value in facts.items()}
            contract.check_job(cell.job, tasks[shape], options.out)
            if not options.check or cell.own_files() or (cell.job.mixer, cell.job.match_to) not in checked:
                rig.check(cell.job, mesh, tasks[shape].vocab)
                checked.add((cell.job.mixer, cell.job.match_to))
        if (shape, cell.measure) not in checked:
            checked.add((shape, cell.measure))
            module, knobs = parts.load("suite.measures", cell.measure)
            if "check" in vars(module):
                with parts.own_lines("suite.measures", cell.measure):
                    module.check(cell.job, tasks[shape], **knobs)
    return data


def check_done(options: Options, cells: list[Cell]) -> None:
    """Refuses where cells of these jobs are done that rest on other own files, or on another corpus, than now."""
    runs = {store.run_path(options.out, cell.job): cell.job for cell in cells}
    rows = [row | {"task": job.task} for run, job in runs.items() if run.exists() for row in store.all_rows(run)]
    provenance.check_done(options.out, rows, cells, options.data_dir)
    line = provenance.of_another_version(rows)
    if line and not options.is_child:  # launch.compare says so itself
        print(f"crossover: {line}", file=sys.stderr)


def notice(interrupted: threading.Event) -> None:
    """Makes a Ctrl-C a notice of preemption, upon which all processes save and end; a second one ends at once."""
    interrupted.set()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def with_needs(cells: list[Cell]) -> list[Cell]:
    """The cells with, before each, the measures that it needs done."""
    wanted: dict[Cell, None] = {}
    for cell in cells:
        module, _ = parts.load("suite.measures", cell.measure)
        for need in module.NEEDS:
            wanted[Cell(cell.job, need)] = None
        wanted[cell] = None
    return list(wanted)


class Worker:
    """Runs cells on a mesh and says what happens: on a pipe to launch.compare, or in plain lines."""

    def __init__(self, options: Options, mesh: Mesh, clock: Callable[[], float]):
        self.options = options

        self.mesh = mesh
        self.told = options.is_child  # to a launch.compare, and not to a person
        self.first = jax.process_index() == 0
        self.put_off: list[Cell] = []  # of the group under way: what is begun again, and what waits for it
        self.began_again: set[Cell] = set()
        self.leases = leases.Leases(self.options.out, self.options.lease_seconds, clock)
        fault = fault_injection.parse(options.fault) if options.fault else None
        mine = fault if fault is not None and fault.rank == jax.process_index() else None
        self.watchdog = Watchdog(self.options.patience, mine, self.leases.check)
        device = mesh.devices.flat[0]
        self.place = {
            "place": processes.agree(place(mesh)),  # the hosts of a job need not have one kind of CPU
            "platform": device.platform,
            "device_kind": device_kind(mesh),
            "n_devices": mesh.size,
            "n_processes": jax.process_count(),
        }
        self.environment = json.dumps(store.environment(), indent=1) + "\n"
        self.say("ready", **self.place, process=jax.process_index(), address=processes.address())

    def run(self, cells: list[Cell]) -> int:
        """Does the cells, those of a group in turns, until all are over, done by whom they may be, or time is up.

        Several workers share the cells of one --out: each is done by the one that claims it. Returns an exit code.
        """

        if self.first:
            store.mark_schema(self.options.out)
            for job in {cell.job: None for cell in cells if self.path(cell).exists()}:
                store.open_run(self.options.out, job)  # which mends what is damaged
        wanted, watch = cells, Stopwatch()
        with self.leases.renewed(), self.releasing():
            while cells:
                over, chosen = processes.agree(self.choose(cells) if self.first else None)
                for index in over:
                    self.say("skipped", cells[index])
                group = {cells[index]: owner for index, owner in chosen}
                cells = [cell for index, cell in enumerate(cells) if index not in over and cell not in group]
                if group:
                    self.put_off = []
                    self.run_group(group)
                    cells = list(dict.fromkeys([*self.put_off, *cells]))
                elif cells:  # what is left is with other workers
                    self.watchdog.beat(long=True)
                    time.sleep(WAIT_SECONDS)
                if self.options.seconds and processes.agree(watch.spent > self.options.seconds):
                    break
        failed = [cell.label for cell in wanted if states.is_failed(self.path(cell), self.stem(cell))]
        if failed and not self.told:
            print(f"crossover: {states.told(failed, self.options.out)}", file=sys.stderr)
            return exit_codes.REFUSED
        return exit_codes.DONE

    def choose(self, cells: list[Cell]) -> tuple[list[int], list[tuple[int, str]]]:
        """By place, the cells that are over and those, of one group, that this worker now owns, and under what name."""
        places = {cell: place for place, cell in enumerate(cells)}
        over: list[int] = []
        for group in grouped(cells):
            left = [cell for cell in group if not self.is_over(cell)]
            over += [places[cell] for cell in group if cell not in left]
            if left and all(self.is_ready(cell) for cell in left):
                claimed = self.claim(left)
                if claimed:
                    owners = [self.leases.held[self.key(cell)].record["owner"] for cell in claimed]
                    return over, [(places[cell], owner) for cell, owner in zip(claimed, owners, strict=True)]
        return over, []

    def is_over(self, cell: Cell) -> bool:
        return states.is_over(self.path(cell), self.stem(cell))

    def is_ready(self, cell: Cell) -> bool:
        """Whether the measures that a cell needs are over."""
        module, _ = parts.load("suite.measures", cell.measure)
        return all(self.is_over(Cell(cell.job, need)) for need in module.NEEDS)

    def claim(self, group: list[Cell]) -> list[Cell]:
        """Takes all cells of a group or none, and returns those that are to be run."""
        for cell in sorted(group, key=self.key):  # in one order for every worker, so that one of them gets all
            record = states.claim(self.leases, self.key(cell), self.progress(cell), self.place["n_processes"])
            if not record:
                for key in list(self.leases.held):
                    states.withdraw(self.leases, key)
                return []
        for cell in [cell for cell in group if self.is_over(cell)]:  # done while it was looked at
            states.withdraw(self.leases, self.key(cell))
        return [cell for cell in group if self.key(cell) in self.leases.held and not self.set_aside(cell)]

    def set_aside(self, cell: Cell) -> bool:
        """Gives a claimed cell its outcome without running it, where it was tried in vain."""
        record = self.leases.held[self.key(cell)].record
        module, _ = parts.load("suite.measures", cell.measure)
        lost = [need for need in module.NEEDS if states.is_failed(self.path(cell), self.stem(Cell(cell.job, need)))]
        outcome = "crashed" if lost else states.verdict(record)
        if not outcome:
            return False
        tries = len(record["attempts"]) - 1
        row = {"outcome": outcome, "error": f"no {lost[0]}" if lost else f"{tries} tries: {states.last_end(record)}"}
        if outcome == "oom":
            row |= self.build(cell).estimate()
        facts = {key: self.place[key] for key in ("place", "platform", "device_kind", "n_devices")}
        facts |= {"run_id": cell.job.id, "arm": cell.job.arm, "placed": module.PLACED}
        run = store.open_run(self.options.out, cell.job)
        store.append(run, self.stem(cell), row | of_cell(cell) | facts)
        mark = store.mark_done if outcome == "oom" else states.mark_failed
        mark(run, self.stem(cell))
        states.release(self.leases, self.key(cell), exit_codes.DONE)
        return True

    def run_group(self, group: dict[Cell, str]) -> None:
        turns = [(cell, self.measure(cell)) for cell in group]
        for cell, owner in group.items():
            self.say("started", cell, key=self.key(cell), owner=owner)
        while turns:
            for turn in list(turns):
                cell, rows = turn
                if parts.constant("suite.measures", cell.measure, "RESUMES"):
                    self.watchdog.expect(long=True)  # it beats by itself, where it can save
                else:
                    self.watchdog.beat(long=True)
                if next(rows, None) is None:
                    turns.remove(turn)
                    if cell not in self.put_off:
                        self.say("done", cell)

    def measure(self, cell: Cell) -> Iterator[store.Row]:
        """Appends the rows of a cell one by one; what the hardware refuses is a row with its outcome."""

        stem = self.stem(cell)
        module, knobs = parts.load("suite.measures", cell.measure)
        if self.first:
            run = store.open_run(self.options.out, cell.job)
            self.mend(cell)
            if not module.RESUMES:
                store.keep(run, stem, lambda row: False)
            files.ensure(run / "env.json", self.environment)
        built = self.build(cell)
        columns = declarations.columns(cell.measure)
        conditions = of_cell(cell) | {"placed": module.PLACED, **built.conditions, "own_source": cell.own_files()}
        if parts.is_own("suite.measures", cell.measure):
            conditions["columns"] = declarations.literals(cell.measure)
        outcome = self.outcome_of_needs(cell)
        rows = module.measure(built, **knobs) if outcome == "ok" else [{"phase": columns.first, "outcome": outcome}]
        try:
            for row in rows:
                columns.check(row)
                yield self.append(cell, row, conditions)
        except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
            refused = {"outcome": outcome_of(error), "error": str(error)[:500], **built.estimate()}
            yield self.append(cell, refused, conditions)
        except rig.Untrained as error:
            self.train_again(cell, str(error))
            return
        if self.watchdog.fault is not None:
            self.watchdog.fault.delay()
        processes.barrier(f"{cell.job.id} {stem}", self.options.patience)
        if self.first:
            self.leases.check()
            store.mark_done(self.path(cell), stem)
            states.release(self.leases, self.key(cell), exit_codes.DONE)
            if module.RESUMES:  # of what is done its final state is kept
                checkpoint.forget(self.path(cell) / "checkpoints")

    def outcome_of_needs(self, cell: Cell) -> str:
        """How the measures ended that a cell needs: "ok", or the outcome of the first that gave no number."""
        module, _ = parts.load("suite.measures", cell.measure)
        needs = [Cell(cell.job, need) for need in module.NEEDS]
        outcomes = [store.rows(self.path(need), self.stem(need))[-1]["outcome"] for need in needs]
        return next((outcome for outcome in outcomes if outcome != "ok"), "ok")

    def mend(self, cell: Cell) -> None:
        """Puts the rows of a cell aside that was marked done with others: it was claimed because they do not fit."""
        run, stem = self.path(cell), self.stem(cell)
        if (run / f"{stem}.done").exists():
            store.put_aside(run, stem, store.damage(run, stem))

    def train_again(self, cell: Cell, why: str) -> None:
        """Begins again what a cell needs, whose parameters are lost, and puts the cell off until that is done."""
        module, _ = parts.load("suite.measures", cell.measure)
        needs = [Cell(cell.job, need) for need in module.NEEDS]
        if cell in self.began_again:
            raise OSError(errno.EIO, f"{why}, which have just been made again", os.fspath(self.path(cell)))
        self.began_again.add(cell)
        if self.first:
            for need in needs:
                if store.is_done(self.path(need), self.stem(need)):  # or else another worker is at it already
                    store.put_aside(self.path(need), self.stem(need), why)
            states.withdraw(self.leases, self.key(cell))
        self.put_off += [*needs, cell]

    def build(self, cell: Cell) -> Rig:

        run, options = self.path(cell), {"watchdog": self.watchdog, "save_seconds": self.options.save_seconds}
        return rig.build(cell.job, self.mesh, run=run, data_dir=self.options.data_dir, **options)

    @contextlib.contextmanager
    def releasing(self) -> Iterator[None]:
        """Frees what is held when something goes wrong; whatever came of a lost lease, that it was lost is said."""
        try:
            yield
        except Exception as error:
            # No cell is to blame for a full disk or for another user's files.
            refused = str(error) if exit_codes.is_disk_full(error) else exit_codes.refused_by_files(error)
            lost = isinstance(error, exit_codes.LeaseLost)
            for key in list(self.leases.held):
                try:
                    states.release(self.leases, key, exit_codes.PREEMPTED if refused else exit_codes.code_of(error))
                except exit_codes.LeaseLost:
                    lost = True
                except (ValueError, OSError) as unwritten:  # the disk, again: the lease lapses
                    logging.debug("not released", exc_info=unwritten)
            if lost:
                self.say("lost")
                raise exit_codes.LeaseLost("another worker has taken the cell") from error
            if refused:
                self.say("refused", why=refused)
                exit_codes.refuse(refused)
            raise

    def trace(self, job: jobs.Job, steps: int) -> int:
        """A profiler trace of `steps` training steps after a warm-up, for xprof or Perfetto."""

        run = store.open_run(self.options.out, job)
        built = rig.build(job, self.mesh, run=run, data_dir=self.options.data_dir)
        loop = built.train(built.state, 0, steps + 3)
        for _ in range(3):
            _, state, _ = next(loop)
        jax.block_until_ready(state)
        with jax.profiler.trace(str(run / "trace")):
            for _ in range(steps):
                _, state, _ = next(loop)
            jax.block_until_ready(state)
        print(f"trace of {steps} steps in {run / 'trace'}")
        return exit_codes.DONE

    def append(self, cell: Cell, row: store.Row, conditions: store.Row) -> store.Row:
        if self.first:
            self.leases.check()
            store.append(self.path(cell), self.stem(cell), row | conditions)
        if self.first and not self.told:
            shown = (
                f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()
            )
            print(" ", *shown, flush=True)
        return row

    def progress(self, cell: Cell) -> str:
        """How far a cell has come: what another attempt at it would go on from."""
        folder = self.path(cell) / "checkpoints"
        if not parts.constant("suite.measures", cell.measure, "RESUMES") or not folder.exists():
            return ""
        return max((path.name.zfill(20) for path in folder.iterdir() if path.suffix == ".manifest"), default="")

    def path(self, cell: Cell) -> epath.Path:
        return store.run_path(self.options.out, cell.job)

    def stem(self, cell: Cell) -> str:
        return states.stem(cell, self.place["place"])

    def key(self, cell: Cell) -> str:
        return states.key(cell, self.stem(cell))

    def say(self, event: str, cell: Cell | None = None, **facts: Any) -> None:
        """Every process tells the launch.compare that started it; a user is told by the first alone."""
        if self.told:
            events.tell(self.options.events, event, cell, **facts)
        elif self.first:
            print(event, cell.label if cell else " ".join(f"{key}={value}" for key, value in facts.items()), flush=True)


def of_cell(cell: Cell) -> store.Row:
    """What every row of a cell says of it."""
    return {"measure": cell.measure, "repeat": cell.repeat, "interleave_with": cell.interleave_with}


def grouped(cells: list[Cell]) -> list[list[Cell]]:
    """Cells of one group and repeat together, in the order of the first of them; the others each alone."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.interleave_with, cell.repeat) if cell.interleave_with else cell, []).append(cell)
    return list(groups.values())


def outcome_of(error: Exception) -> str:
    """What a refusal of the runtime is called in a row; what it is not known to be is raised."""
    text = str(error)
    if isinstance(error, NotImplementedError):
        if "translation rule" in text:  # of a primitive that the platform has none for
            return "did_not_compile"
        raise error
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return "oom"
    if any(word in text for word in ("UNIMPLEMENTED", "NOT_FOUND", "ompilation")):
        return "did_not_compile"
    raise error
