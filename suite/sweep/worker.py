"""A worker: the processes of a job run cells on their devices; several workers share an --out."""

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
from jax.sharding import Mesh

from suite import declarations, files, parts
from suite import job as jobs
from suite import mesh as meshes
from suite.job import Cell
from suite.sweep import (
    attempts,
    checks,
    events,
    exit_codes,
    fault_injection,
    leases,
    processes,
    provenance,
    startup,
    status,
    store,
)
from suite.sweep.options import Options
from suite.sweep.record import TRAINING, Record, Row
from suite.sweep.watchdog import Watchdog
from suite.training import checkpoint, memory, rig
from suite.training.clock import Stopwatch
from suite.training.conditions import device_kind, place
from suite.training.rig import Rig

WAIT_SECONDS = 1.0  # between two looks at cells that other workers have


def work(options: Options, cells: list[Cell], clock: Callable[[], float]) -> int:
    """Runs the cells in this process, which has joined the others of its job; an exit code."""
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: notice(interrupted))
    startup.on_hangup(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    if options.is_child:
        threading.Thread(target=events.follow_reader, args=(options.events,), name="parent", daemon=True).start()
    with exit_codes.door():
        mesh = meshes.make(options.mesh)
        cells = with_needs(cells)
        processes.check_alike(checks.check(options, cells, mesh))
        checks.check_done(options, cells)
    worker = Worker(options, mesh, clock)
    if options.check:
        processes.leave()
        return exit_codes.DONE
    try:
        code = trace(options, mesh, cells[0].job) if options.trace else worker.run(cells)
    except exit_codes.Preempted:
        code = exit_codes.INTERRUPTED if interrupted.is_set() else exit_codes.PREEMPTED
        print("stopped, and saved; the same command goes on from here", file=sys.stderr)
    processes.leave()
    return code


def notice(interrupted: threading.Event) -> None:
    """Makes a Ctrl-C a notice of preemption, upon which all processes save and end; a second one ends at once."""
    interrupted.set()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def with_needs(cells: list[Cell]) -> list[Cell]:
    """The cells, each once, and before each what it needs."""
    return list(dict.fromkeys(one for cell in cells for one in (*needs_of(cell), cell)))


def needs_of(cell: Cell) -> list[Cell]:
    """The cells that must be over before a cell: of the same job, the measures that its own names in NEEDS."""
    module, _ = parts.load("suite.measures", cell.measure)
    return [Cell(cell.job, need) for need in module.NEEDS]


class Worker:
    """Runs cells on a mesh and tells what happens: launch.compare on a pipe, or a person in plain lines."""

    def __init__(self, options: Options, mesh: Mesh, clock: Callable[[], float]):
        self.options = options
        self.mesh = mesh
        self.is_first = jax.process_index() == 0  # which alone writes
        self.put_off: list[Cell] = []  # of the group under way: what is begun again, and what waits for it
        self.began_again: set[Cell] = set()
        self.leases = leases.Leases(options.out, options.lease_seconds, clock)
        self.watchdog = Watchdog(options.patience, fault_of(options), self.leases.check)
        self.place = {
            "place": processes.agree(place(mesh)),  # the hosts of a job need not have one kind of CPU
            "platform": mesh.devices.flat[0].platform,
            "device_kind": device_kind(mesh),
            "n_devices": mesh.size,
            "n_processes": jax.process_count(),
            "devices_of_examples": meshes.devices_of_examples(mesh),
        }
        self.environment = json.dumps(provenance.environment(), indent=1) + "\n"
        self.tell("ready", **self.place, process=jax.process_index(), address=processes.address())

    def run(self, cells: list[Cell]) -> int:
        """Runs the cells until each is over, by this worker or another, or until --seconds have passed; an exit code.

        Cells of one group take turns. Of several workers of one --out each cell has the one that claims it.
        """
        if self.is_first:
            store.mark_schema(self.options.out)
            for job in {cell.job: None for cell in cells if self.record(cell).folder.exists()}:
                store.open_run(self.options.out, job)  # which mends what is damaged
        with self.leases.renewed(), self.releasing():
            self.run_groups(cells)
        failed = [cell.label for cell in cells if self.record(cell).is_failed]
        if failed and not self.options.is_child:
            print(f"crossover: {status.set_aside(failed, self.options.out)}", file=sys.stderr)
            return exit_codes.REFUSED
        return exit_codes.DONE

    def run_groups(self, left: list[Cell]) -> None:
        watch = Stopwatch()
        while left:
            over, chosen = processes.agree(self.choose(left) if self.is_first else None)
            for index in over:
                self.tell("skipped", left[index])
            group = {left[index]: owner for index, owner in chosen}
            left = [cell for index, cell in enumerate(left) if index not in over and cell not in group]
            if group:
                self.put_off = []
                self.run_group(group)
                left = list(dict.fromkeys([*self.put_off, *left]))
            elif left:  # which are with other workers
                self.watchdog.feed(long=True)
                time.sleep(WAIT_SECONDS)
            if self.options.seconds and processes.agree(watch.spent > self.options.seconds):
                return

    def choose(self, cells: list[Cell]) -> tuple[list[int], list[tuple[int, str]]]:
        """By index, the cells that are over, and those of one group that this worker has claimed, with their owner."""
        indices = {cell: index for index, cell in enumerate(cells)}
        over: list[int] = []
        for group in grouped(cells):
            left = [cell for cell in group if not self.record(cell).is_over]
            over += [indices[cell] for cell in group if cell not in left]
            if left and all(need.is_over for cell in left for need in self.needs(cell)):
                claimed = self.claim(left)
                if claimed:
                    return over, [(indices[cell], self.ownership(cell)["owner"]) for cell in claimed]
        return over, []

    def claim(self, group: list[Cell]) -> list[Cell]:
        """Takes all cells of a group or none, and returns those that are to be run."""
        records = {cell: self.record(cell) for cell in group}
        for cell in sorted(group, key=lambda cell: records[cell].key):  # in one order: one of several workers gets all
            progress = self.progress(cell)
            if not attempts.claim(self.leases, records[cell].key, progress, self.place["n_processes"]):
                for key in list(self.leases.held):
                    attempts.withdraw(self.leases, key)
                return []
        for record in records.values():
            if record.is_over:  # since it was looked at
                attempts.withdraw(self.leases, record.key)
        return [cell for cell in group if records[cell].key in self.leases.held and not self.set_aside(cell)]

    def set_aside(self, cell: Cell) -> bool:
        """Gives a claimed cell its outcome without running it, where that was tried in vain."""
        ownership = self.ownership(cell)
        lost = [need.stem for need in self.needs(cell) if need.is_failed]
        outcome = "crashed" if lost else attempts.verdict(ownership)
        if not outcome:
            return False
        tries = f"{len(ownership['attempts']) - 1} tries: {attempts.last_end(ownership)}"
        row = {"outcome": outcome, "error": f"no {lost[0]}" if lost else tries}
        if outcome == "oom":
            row |= self.build(cell).estimate()
        row |= of_cell(cell) | {key: self.place[key] for key in ("place", "platform", "device_kind", "n_devices")}
        store.open_run(self.options.out, cell.job)
        record = self.record(cell)
        record.append(row | {"run_id": cell.job.id, "arm": cell.job.arm})
        if outcome == "oom":
            record.mark_done()
        else:
            record.mark_failed()
        attempts.release(self.leases, record.key, exit_codes.DONE)
        return True

    def run_group(self, group: dict[Cell, str]) -> None:
        """Measures cells in turns, a row of each; by cell, the owner that has claimed it."""
        turns = {cell: self.measure(cell) for cell in group}
        for cell, owner in group.items():
            self.tell("started", cell, key=self.record(cell).key, owner=owner)
        while turns:
            for cell, rows in list(turns.items()):
                if parts.constant("suite.measures", cell.measure, "RESUMES"):
                    self.watchdog.expect(long=True)  # it is fed by the measure, where it can save
                else:
                    self.watchdog.feed(long=True)
                if next(rows, None) is None:
                    del turns[cell]
                    if cell not in self.put_off:
                        self.tell("done", cell)

    def measure(self, cell: Cell) -> Iterator[Row]:
        """Appends the rows of a cell one by one; what the hardware refuses is a row with its outcome."""
        module, knobs = parts.load("suite.measures", cell.measure)
        if self.is_first:
            self.begin(cell)
        built = self.build(cell)
        columns = declarations.columns(cell.measure)
        conditions = of_cell(cell) | built.conditions | {"own_source": cell.own_files()}
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
        processes.barrier(self.record(cell).name, self.options.patience)
        if self.is_first:
            self.finish(cell)

    def outcome_of_needs(self, cell: Cell) -> str:
        """The outcome of the first measure that a cell needs and that gave no number; "ok" where there is none."""
        outcomes = [need.rows()[-1]["outcome"] for need in self.needs(cell)]
        return next((outcome for outcome in outcomes if outcome != "ok"), "ok")

    def begin(self, cell: Cell) -> None:
        """Makes the directory ready: what is left of an attempt that cannot be resumed goes."""
        run, record = store.open_run(self.options.out, cell.job), self.record(cell)
        if record.is_marked_done:  # and was claimed all the same
            record.put_aside(record.damage)
        if not parts.constant("suite.measures", cell.measure, "RESUMES"):
            record.keep(lambda row: False)
        files.ensure(run / "env.json", self.environment)

    def append(self, cell: Cell, row: Row, conditions: Row) -> Row:
        if self.is_first:
            self.leases.check()
            self.record(cell).append(row | conditions)
            if not self.options.is_child:
                values = {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}
                print(" ", *(f"{name}={value}" for name, value in values.items()), flush=True)
        return row

    def finish(self, cell: Cell) -> None:
        self.leases.check()
        record = self.record(cell)
        record.mark_done()
        attempts.release(self.leases, record.key, exit_codes.DONE)
        if parts.constant("suite.measures", cell.measure, "RESUMES"):  # of what is done its final state is kept
            checkpoint.forget(record.checkpoints)

    def train_again(self, cell: Cell, why: str) -> None:
        """Begins again what a cell needs, whose parameters are lost, and puts the cell off until that is done."""
        if cell in self.began_again:
            path = os.fspath(self.record(cell).folder)
            raise OSError(errno.EIO, f"{why}, which have just been made again", path)
        self.began_again.add(cell)
        if self.is_first:
            for need in self.needs(cell):
                if need.is_done:  # or else another worker is at it already
                    need.put_aside(why)
            attempts.withdraw(self.leases, self.record(cell).key)
        self.put_off += [*needs_of(cell), cell]

    def build(self, cell: Cell) -> Rig:
        training = self.record(Cell(cell.job, TRAINING))
        options = {"watchdog": self.watchdog, "save_seconds": self.options.save_seconds, "training": training.stem}
        return rig.build(cell.job, self.mesh, run=training.folder, data_dir=self.options.data_dir, **options)

    @contextlib.contextmanager
    def releasing(self) -> Iterator[None]:
        """Frees the cells that are held when something goes wrong; a lost lease is told before what came of it."""
        try:
            yield
        except Exception as error:
            # No cell is to blame for a full disk or for another user's files.
            refused = str(error) if exit_codes.is_disk_full(error) else exit_codes.refused_by_files(error)
            lost = isinstance(error, exit_codes.LeaseLost)
            for key in list(self.leases.held):
                try:
                    attempts.release(self.leases, key, exit_codes.PREEMPTED if refused else exit_codes.code_of(error))
                except exit_codes.LeaseLost:
                    lost = True
                except (ValueError, OSError) as unwritten:  # the disk, again: the lease lapses
                    logging.debug("not released", exc_info=unwritten)
            if lost:
                self.tell("lost")
                raise exit_codes.LeaseLost("another worker has taken the cell") from error
            if refused:
                self.tell("refused", why=refused)
                exit_codes.refuse(refused)
            raise

    def progress(self, cell: Cell) -> str:
        """The newest checkpoint of a cell, from which another attempt would go on."""
        folder = self.record(cell).checkpoints
        if not parts.constant("suite.measures", cell.measure, "RESUMES") or not folder.exists():
            return ""
        return max((path.name.zfill(20) for path in folder.iterdir() if path.suffix == ".manifest"), default="")

    def record(self, cell: Cell) -> Record:
        return Record.at(self.options.out, cell, self.place["place"])

    def needs(self, cell: Cell) -> list[Record]:
        """The records of what must be over before a cell."""
        return [self.record(need) for need in needs_of(cell)]

    def ownership(self, cell: Cell) -> leases.Ownership:
        """Owner and attempts of a cell that this worker holds."""
        return self.leases.held[self.record(cell).key].ownership

    def tell(self, event: str, cell: Cell | None = None, **details: Any) -> None:
        """Tells the launch.compare that started this process; a person is told by the first process alone."""
        if self.options.is_child:
            events.tell(self.options.events, event, cell, **details)
        elif self.is_first:
            print(
                event, cell.label if cell else " ".join(f"{key}={value}" for key, value in details.items()), flush=True
            )


def fault_of(options: Options) -> fault_injection.Fault | None:
    """The fault that this process is to suffer, if any."""
    fault = fault_injection.parse(options.fault) if options.fault else None
    return fault if fault is not None and fault.rank == jax.process_index() else None


def trace(options: Options, mesh: Mesh, job: jobs.Job) -> int:
    """Writes a profiler trace of training steps after a warm-up, for xprof or Perfetto."""
    run = store.open_run(options.out, job)
    built = rig.build(job, mesh, run=run, data_dir=options.data_dir)
    loop = built.train(built.state, 0, options.trace + 3)
    for _ in range(3):
        _, state, _ = next(loop)
    jax.block_until_ready(state)
    with jax.profiler.trace(str(run / "trace")):
        for _ in range(options.trace):
            _, state, _ = next(loop)
        jax.block_until_ready(state)
    print(f"trace of {options.trace} steps in {run / 'trace'}")
    return exit_codes.DONE


def of_cell(cell: Cell) -> Row:
    """The fields by which every row of a cell names it."""
    names = {"measure": cell.measure, "repeat": cell.repeat, "interleave_with": cell.interleave_with}
    return names | {"placed": cell.placed}


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
    if memory.is_out(error):
        return "oom"
    if any(word in text for word in ("UNIMPLEMENTED", "NOT_FOUND", "ompilation")):
        return "did_not_compile"
    raise error
