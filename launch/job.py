"""One job, one or more measures of it: what is started on every host.

    python -m launch.job --mixer=lstm --length=512 --measures=learning,size --out=out/mine

The same command again skips what is done and goes on with what is not. On several processes each runs this command;
coordinator and rank come from the flags or, on Cloud TPU, Slurm and Open MPI, from the environment.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags, logging
from etils import epath

import launch
from suite import files, parts
from suite import job as jobs
from suite.job import Cell
from suite.sweep import cells as states
from suite.sweep import exit_codes, fault_injection, leases, provenance, rendezvous, store

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from suite.training.rig import Rig

OUT = launch.define_directory("out", "out/job", "directory of the records; shared by all processes of a job")
MEASURES = flags.DEFINE_string("measures", "learning,size,step_time", "measures with knobs, separated by commas")
MESH = flags.DEFINE_string("mesh", "", "device mesh, as in data:8; empty for all devices")
DATA_DIR = flags.DEFINE_string("data_dir", "~/tensorflow_datasets", "where TFDS data sets lie: a path or gs://")
TRACE = flags.DEFINE_integer("trace", 0, "write a profiler trace of this many training steps instead", lower_bound=0)
REPEAT = flags.DEFINE_integer("repeat", 0, "number of the fresh process, for timings that are repeated", lower_bound=0)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    "",
    "host:port of process 0, the port free and this job's alone; empty: found in the environment",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", 0, "number of processes; 0: found in the environment", lower_bound=0
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", -1, "rank of this process; -1: found in the environment", lower_bound=-1
)
PATIENCE = launch.define_seconds(
    "patience",
    300.0,
    "seconds without a step after which it ends with 124; a compilation has ten times as long, and the processes of a "
    "job have so many to come together, at least 60",
    1.0,
)
SAVE_SECONDS = launch.define_seconds(
    "save_seconds", 300.0, "seconds between checkpoints, where validations are rarer", 0.1
)
LEASE_SECONDS = launch.define_seconds(
    "lease_seconds", 30.0, "a worker that was silent for so long has lost its cell to another", 1.0
)
FAULT = flags.DEFINE_string("fault", "", "kind@step:rank, for tests: what goes wrong on purpose")
WAIT_SECONDS = 1.0  # between two looks at cells that other workers have
CELLS = flags.DEFINE_string("cells", "", "file with the cells that launch.compare wants done here")
SECONDS = launch.define_seconds(
    "seconds", 0.0, "end after the cell under way when so many are over; 0: do all cells", 0.0
)
CHECK = flags.DEFINE_bool("check", False, "check that all can be done, say where it would run, and run nothing")
EVENTS = flags.DEFINE_integer("events", -1, "file descriptor on which launch.compare reads what happens")
jobs.define_flags()
MEETING_SECONDS = 60.0  # at least, whatever the patience, for the processes of a job to come
REFUSING_SECONDS = 10.0  # for them to hear that one of them is refused
SEEING_SECONDS = 5.0  # for a file to be seen from another host
# Variables of JAX that differ from process to process as they should.
OF_ONE_PROCESS = (
    *("JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "JAX_LOCAL_DEVICE_IDS", "JAX_PARTITION_INDEX", "JAX_SLICE_INDEX"),
    *("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS", "JAX_COORDINATOR_PORT", "JAX_COMPILATION_CACHE_DIR"),
)


def main() -> int:
    with launch.door():
        try:
            cells, asked = read_cells()
            for cell in cells:
                parts.knobs("suite.measures", cell.measure)
            fault = fault_injection.parse(FAULT.value) if FAULT.value else None
            store.check_writable(OUT.value)
        except Exception as error:
            refuse_together(error)
            raise
        member, name = find_member(), ""
        if member is not None:
            try:
                cells, name = meet(member, cells, asked)
            except rendezvous.Dismissed as dismissed:
                tell("dismissed", code=dismissed.code)
                return dismissed.code
    if all(cell.job.remat == "none" for cell in cells):  # who has blocks computed again wants memory, not time
        launch.keep_memory()
    with launch.door():
        start_jax(member, name)
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: notice(interrupted))
    launch.on_hangup(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    if EVENTS.value >= 0:
        threading.Thread(target=follow_parent, args=(EVENTS.value,), name="parent", daemon=True).start()
    from suite import mesh as meshes
    from suite.sweep import processes

    with launch.door():
        mesh = meshes.make(MESH.value)
        cells = with_needs(cells)
        processes.check_alike(check(cells, mesh))
        check_done(cells)
    worker = Worker(mesh, fault)
    if CHECK.value:
        processes.part()
        return exit_codes.DONE
    try:
        code = worker.trace(cells[0].job, TRACE.value) if TRACE.value else worker.run(cells)
    except exit_codes.Preempted:
        code = exit_codes.INTERRUPTED if interrupted.is_set() else exit_codes.PREEMPTED
        print("stopped, and saved; the same command goes on from here", file=sys.stderr)
    processes.part()
    return code


def check(cells: list[Cell], mesh: "Mesh") -> dict[str, str]:
    """Raises what would fail later: own parts that break their contract, jobs that do not fit, measures that cannot.

    With --check, of jobs of the suite's own parts one of each mixer is looked at: the process that runs them asks the
    rest. Returns what the tasks know of their data.
    """
    from suite import contract
    from suite.training import rig

    tasks: dict[jobs.Job, Any] = {}
    data: dict[str, str] = {}
    checked: set[tuple[jobs.Job | str, str]] = set()
    for cell in cells:
        store.check_run(OUT.value, cell.job)
        shape = cell.job.replace(**rig.NOT_IN_A_PROGRAM)
        if shape not in tasks:
            tasks[shape] = rig.open_task(cell.job, DATA_DIR.value)
            facts = provenance.of_data(tasks[shape])
            data |= {f"{name} of --task={cell.job.task}": str(value) for name, value in facts.items()}
            contract.check_job(cell.job, tasks[shape], OUT.value)
            if not CHECK.value or cell.own_files() or (cell.job.mixer, cell.job.match_to) not in checked:
                rig.check(cell.job, mesh, tasks[shape].vocab)
                checked.add((cell.job.mixer, cell.job.match_to))
        if (shape, cell.measure) not in checked:
            checked.add((shape, cell.measure))
            module, knobs = parts.load("suite.measures", cell.measure)
            with parts.own_lines("suite.measures", cell.measure):
                module.check(cell.job, tasks[shape], **knobs)
    return data


def check_done(cells: list[Cell]) -> None:
    """Refuses where cells of these jobs are done that rest on other own files, or on another corpus, than now."""
    runs = {store.run_path(OUT.value, cell.job): cell.job for cell in cells}
    rows = [row | {"task": job.task} for run, job in runs.items() if run.exists() for row in store.all_rows(run)]
    provenance.check_done(OUT.value, rows, cells, DATA_DIR.value)
    line = provenance.of_another_version(rows)
    if line and EVENTS.value < 0:  # launch.compare says so itself
        print(f"crossover: {line}", file=sys.stderr)


def notice(interrupted: threading.Event) -> None:
    """Makes a Ctrl-C a notice of preemption, upon which all processes save and end; a second one ends at once."""
    interrupted.set()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def follow_parent(events: int) -> None:
    """Takes the end of the launch.compare that reads the events for a notice of preemption."""
    poll = select.poll()
    poll.register(events, 0)  # of a pipe's end for writing, an error alone: nobody reads any more
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def read_cells() -> tuple[list[Cell], rendezvous.Facts]:
    """The cells of the flags, or those that launch.compare left in a file, with what it was asked for."""
    if CELLS.value:
        left = json.loads(pathlib.Path(CELLS.value).read_text())
        return [Cell.from_dict(record) for record in left["cells"]], left["asked"]
    job = jobs.from_flags(flags.FLAGS)
    specs = parts.split_list(MEASURES.value)
    if not specs:
        raise ValueError(f"--measures names none; known: {', '.join(parts.names('suite.measures'))}")
    cells = [Cell(job, parts.short("suite.measures", spec), REPEAT.value) for spec in specs]
    return cells, {f"--{name}": str(flags.FLAGS[name].value) for name in flags_of_job()}


def flags_of_job() -> list[str]:
    """The flags that say what one job computes."""
    return [*(field.name for field in dataclasses.fields(jobs.Job)), MEASURES.name, REPEAT.name, TRACE.name]


def find_member() -> rendezvous.Member | None:
    """Which process of its job this is: by the flags, then by the environment; None for the only one. Imports JAX."""
    from suite.sweep import processes

    launch.check_xla_flags()
    os.environ["XLA_FLAGS"] = launch.xla_flags()
    return processes.find(
        COORDINATOR.value or os.environ.get("JAX_COORDINATOR_ADDRESS", ""),
        NUM_PROCESSES.value or whole_number("JAX_NUM_PROCESSES", 0),
        PROCESS_ID.value if PROCESS_ID.value >= 0 else whole_number("JAX_PROCESS_ID", -1),
        os.environ,
    )


def whole_number(variable: str, default: int) -> int:
    """A number of the environment."""
    text = os.environ.get(variable, "")
    if text and not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{variable} wants a whole number, not {text!r}")
    return int(text) if text else default


def meet(member: rendezvous.Member, cells: list[Cell], asked: rendezvous.Facts) -> tuple[list[Cell], str]:
    """Meets the other processes of the job, alike in all that decides; the cells of process 0, and the job's name.

    What launch.compare wants done it has found out on each host by itself, at another moment: process 0's list counts.
    """
    followed, first = bool(CELLS.value), member.rank == 0
    taken = cells

    def accept(offer: Any) -> rendezvous.Facts:
        nonlocal taken
        if followed:
            taken = [Cell.from_dict(record) for record in offer["cells"]]
        if not first and not store.sees(OUT.value, offer["probe"], SEEING_SECONDS):
            raise ValueError(
                f"does not see rank 0's --out={offer['out']} as its own --out={OUT.value}: "
                "the processes of a job share one directory"
            )
        return {name: hash for cell in taken for name, hash in cell.own_files().items()}

    offer = {"cells": [cell.to_dict() for cell in cells] if followed else [], "out": OUT.value}
    seconds = max(PATIENCE.value, MEETING_SECONDS)
    with store.probe(OUT.value) if first else contextlib.nullcontext("") as probe:
        entry = rendezvous.Entry(facts_of(member, asked), offer | {"probe": probe}, accept)
        _, name = rendezvous.meet(member, entry, seconds, time.monotonic)
    return taken, name


def refuse_together(error: Exception) -> None:
    """Lets the other processes of the job know that this one is refused: they would wait for it."""
    with contextlib.suppress(exit_codes.NotMet, rendezvous.Dismissed, ValueError, LookupError, OSError):
        member = find_member()
        if member is not None:
            text = f"is refused: {error.args[0] if isinstance(error, LookupError) else error}"
            entry = rendezvous.Entry({}, None, lambda _: {}, refused=text)
            rendezvous.meet(member, entry, REFUSING_SECONDS, time.monotonic)


def facts_of(member: rendezvous.Member, asked: rendezvous.Facts) -> rendezvous.Facts:
    """What the numbers of a job rest on, and so must be the same in all of its processes."""
    facts = {"started by": "launch.compare" if CELLS.value else "launch.job"} | asked
    facts |= {f"--{flag.name}": str(flag.value) for flag in (MESH, SAVE_SECONDS, SECONDS)}
    facts |= {"--num_processes": str(member.processes)}
    variables = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    facts |= {name: value for name, value in sorted(variables.items()) if name not in OF_ONE_PROCESS}
    return facts | provenance.of_process() | store.sources()


def start_jax(member: rendezvous.Member | None, name: str) -> None:
    """Starts JAX with the persistent cache under --out, together with the processes that were met, if any."""
    import jax

    from suite.sweep import processes

    jax.config.update("jax_compilation_cache_dir", str(epath.Path(OUT.value) / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    processes.join(member, name, processes.local_devices(os.environ))
    processes.check_platform(alone=member is None)


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

    def __init__(self, mesh: "Mesh", fault: fault_injection.Fault | None):
        import jax

        from suite.sweep import processes
        from suite.sweep.watchdog import Watchdog
        from suite.training import rig

        self.mesh = mesh
        self.told = EVENTS.value >= 0  # to a launch.compare, and not to a person
        self.first = jax.process_index() == 0
        self.put_off: list[Cell] = []  # of the group under way: what is begun again, and what waits for it
        self.began_again: set[Cell] = set()
        self.leases = leases.Leases(OUT.value, LEASE_SECONDS.value, time.monotonic)
        mine = fault if fault is not None and fault.rank == jax.process_index() else None
        self.watchdog = Watchdog(PATIENCE.value, mine, self.leases.check)
        device = mesh.devices.flat[0]
        self.place = {
            "place": processes.agree(rig.place(mesh)),  # the hosts of a job need not have one kind of CPU
            "platform": device.platform,
            "device_kind": rig.device_kind(mesh),
            "n_devices": mesh.size,
            "n_processes": jax.process_count(),
        }
        self.environment = json.dumps(store.environment(), indent=1) + "\n"
        self.say("ready", **self.place, process=jax.process_index(), address=processes.address())

    def run(self, cells: list[Cell]) -> int:
        """Does the cells, those of a group in turns, until all are over, done by whom they may be, or time is up.

        Several workers share the cells of one --out: each is done by the one that claims it. Returns an exit code.
        """
        from suite.sweep import processes
        from suite.training.clock import Stopwatch

        if self.first:
            store.mark_schema(OUT.value)
            for job in {cell.job: None for cell in cells if self.path(cell).exists()}:
                store.open_run(OUT.value, job)  # which mends what is damaged
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
                if SECONDS.value and processes.agree(watch.spent > SECONDS.value):
                    break
        failed = [cell.label for cell in wanted if states.is_failed(self.path(cell), self.stem(cell))]
        if failed and not self.told:
            print(f"crossover: {states.told(failed, OUT.value)}", file=sys.stderr)
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
        run = store.open_run(OUT.value, cell.job)
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
        import jax

        from suite.sweep import processes
        from suite.training import checkpoint, rig

        stem = self.stem(cell)
        module, knobs = parts.load("suite.measures", cell.measure)
        if self.first:
            run = store.open_run(OUT.value, cell.job)
            self.mend(cell)
            if not module.RESUMES:
                store.keep(run, stem, lambda row: False)
            files.ensure(run / "env.json", self.environment)
        built = self.build(cell)
        conditions = of_cell(cell) | {"placed": module.PLACED, **built.facts, "own_source": cell.own_files()}
        try:
            for row in module.measure(built, **knobs):
                yield self.append(cell, row, conditions)
        except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
            refused = {"outcome": outcome_of(error), "error": str(error)[:500], **built.estimate()}
            yield self.append(cell, refused, conditions)
        except rig.Untrained as error:
            self.train_again(cell, str(error))
            return
        if self.watchdog.fault is not None:
            self.watchdog.fault.delay()
        processes.barrier(f"{cell.job.id} {stem}", PATIENCE.value)
        if self.first:
            self.leases.check()
            store.mark_done(self.path(cell), stem)
            states.release(self.leases, self.key(cell), exit_codes.DONE)
            if module.RESUMES:  # of what is done its final state is kept
                checkpoint.forget(self.path(cell) / "checkpoints")

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

    def build(self, cell: Cell) -> "Rig":
        from suite.training import rig

        run, options = self.path(cell), {"watchdog": self.watchdog, "save_seconds": SAVE_SECONDS.value}
        return rig.build(cell.job, self.mesh, run=run, data_dir=DATA_DIR.value, **options)

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
                launch.refuse(refused)
            raise

    def trace(self, job: jobs.Job, steps: int) -> int:
        """A profiler trace of `steps` training steps after a warm-up, for xprof or Perfetto."""
        import jax

        from suite.training import rig

        run = store.open_run(OUT.value, job)
        built = rig.build(job, self.mesh, run=run, data_dir=DATA_DIR.value)
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
        return store.run_path(OUT.value, cell.job)

    def stem(self, cell: Cell) -> str:
        return states.stem(cell, self.place["place"])

    def key(self, cell: Cell) -> str:
        return states.key(cell, self.stem(cell))

    def say(self, event: str, cell: Cell | None = None, **facts: Any) -> None:
        """Every process tells the launch.compare that started it; a user is told by the first alone."""
        if self.told:
            tell(event, cell, **facts)
        elif self.first:
            print(event, cell.label if cell else " ".join(f"{key}={value}" for key, value in facts.items()), flush=True)


def tell(event: str, cell: Cell | None = None, **facts: Any) -> None:
    """Writes a line for the launch.compare that started this process, if one did."""
    if EVENTS.value >= 0:
        line = json.dumps({"event": event, "cell": cell and cell.to_dict(), **facts}) + "\n"
        with contextlib.suppress(BrokenPipeError):  # nobody reads any more: follow_parent gives notice
            os.write(EVENTS.value, line.encode())


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


if __name__ == "__main__":
    launch.run(main)
