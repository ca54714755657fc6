"""One job, one or more measures of it: what is started on every host.

    python -m launch.job --mixer=lstm --length=512 --measures=learning,size --out=out/mine

The same command again skips what is done and goes on with what is not. On several processes each runs this command;
coordinator and rank come from the flags or, on Cloud TPU, Slurm and Open MPI, from the environment.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags
from etils import epath

import launch
from suite import job as jobs
from suite import parts, store
from suite.job import Cell

if TYPE_CHECKING:
    from jax.sharding import Mesh

OUT = flags.DEFINE_string("out", "out/job", "directory of the records; shared by all processes of a job")
MEASURES = flags.DEFINE_string("measures", "learning,size,step_time", "measures with knobs, separated by commas")
MESH = flags.DEFINE_string("mesh", "", "device mesh, as in data:8; empty for all devices")
DATA_DIR = flags.DEFINE_string("data_dir", "~/tensorflow_datasets", "where TFDS data sets lie: a path or gs://")
TRACE = flags.DEFINE_integer("trace", 0, "write a profiler trace of this many training steps instead", lower_bound=0)
REPEAT = flags.DEFINE_integer("repeat", 0, "number of the fresh process, for timings that are repeated", lower_bound=0)
COORDINATOR = flags.DEFINE_string("coordinator_address", "", "host:port of process 0; empty: found in the environment")
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", 0, "number of processes; 0: found in the environment", lower_bound=0
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", -1, "rank of this process; -1: found in the environment", lower_bound=-1
)
CELLS = flags.DEFINE_string("cells", "", "file with the cells that launch.compare wants done here")
SECONDS = flags.DEFINE_float("seconds", 0.0, "end after the cell under way when so many are over; 0: do all cells")
EVENTS = flags.DEFINE_integer("events", -1, "file descriptor on which launch.compare reads what happens")
jobs.define_flags()


def main() -> int:
    with launch.door():
        cells = read_cells()
        for cell in cells:
            parts.knobs("suite.measures", cell.measure)
        store.check_writable(OUT.value)
    start_jax()
    from suite import mesh as meshes
    from suite import rig

    with launch.door():
        mesh = meshes.make(MESH.value)
        cells = with_needs(cells)
        checked = set()
        for cell in cells:
            store.check_run(OUT.value, cell.job)
            shape = cell.job.replace(**rig.NOT_IN_A_PROGRAM)
            if shape not in checked:
                rig.check(cell.job, mesh, rig.open_task(cell.job, DATA_DIR.value).vocab)
                checked.add(shape)
    with os.fdopen(EVENTS.value, "w") if EVENTS.value >= 0 else contextlib.nullcontext() as pipe:
        worker = Worker(mesh, pipe)
        if TRACE.value:
            worker.trace(cells[0].job, TRACE.value)
        else:
            worker.run(cells)
    return 0


def read_cells() -> list[Cell]:
    """The cells of the flags, or those that launch.compare left in a file."""
    if CELLS.value:
        return [Cell.from_dict(record) for record in json.loads(pathlib.Path(CELLS.value).read_text())]
    job = jobs.from_flags(flags.FLAGS)
    return [Cell(job, parts.short("suite.measures", spec), REPEAT.value) for spec in parts.split_list(MEASURES.value)]


def start_jax() -> None:
    """Imports JAX with the persistent cache under --out, and joins the other processes where there are any."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(epath.Path(OUT.value).expanduser() / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if COORDINATOR.value:
        jax.distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:  # how JAX says that it found no cluster: this process is alone
        if "coordinator_address" not in str(error):
            raise


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

    def __init__(self, mesh: "Mesh", pipe: Any):
        import jax

        from suite import rig

        self.mesh = mesh
        self.pipe = pipe
        self.first = jax.process_index() == 0
        self.place = rig.place(mesh)
        device = mesh.devices.flat[0]
        self.say(
            "ready",
            place=self.place,
            platform=device.platform,
            device_kind=rig.device_kind(mesh),
            n_devices=mesh.size,
            n_processes=jax.process_count(),
            process=jax.process_index(),
        )

    def run(self, cells: list[Cell]) -> None:
        """Does the cells that are not done, group by group; those of a group take turns. Ends early when time is up."""
        from suite.clock import Stopwatch

        done = self.agree([store.is_done(self.path(cell), self.kind(cell)) for cell in cells])
        for cell, is_done in zip(cells, done, strict=True):
            if is_done:
                self.say("skipped", cell)
        left = [cell for cell, is_done in zip(cells, done, strict=True) if not is_done]
        watch = Stopwatch()
        for group in grouped(left):
            self.run_group(group)
            if SECONDS.value and self.agree([watch.spent > SECONDS.value])[0]:
                return

    def run_group(self, group: list[Cell]) -> None:
        turns = [(cell, self.measure(cell)) for cell in group]
        for cell in group:
            self.say("started", cell, kind=self.kind(cell))
        while turns:
            for turn in list(turns):
                cell, rows = turn
                launch.check_interrupt()
                if next(rows, None) is None:
                    turns.remove(turn)
                    self.say("done", cell)

    def measure(self, cell: Cell) -> Iterator[store.Row]:
        """Appends the rows of a cell one by one; what the hardware refuses is a row with its outcome."""
        import jax

        from suite import rig

        run = store.open_run(OUT.value, cell.job) if self.first else self.path(cell)
        kind = self.kind(cell)
        module, knobs = parts.load("suite.measures", cell.measure)
        if self.first and not module.RESUMES:
            store.keep(run, kind, lambda row: False)
        built = rig.build(cell.job, self.mesh, run=run, data_dir=DATA_DIR.value)
        if self.first:
            store.write(run / "env.json", json.dumps(store.environment(), indent=1) + "\n")
        conditions = {"measure": cell.measure, "repeat": cell.repeat, "group": cell.group}
        conditions |= {"placed": module.PLACED, **built.facts}
        try:
            for row in module.measure(built, **knobs):
                yield self.append(run, kind, row, conditions)
        except jax.errors.JaxRuntimeError as error:
            refused = {"outcome": outcome_of(error), "error": str(error)[:500]}
            yield self.append(run, kind, refused, conditions)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"{cell.job.id} {kind}")
        if self.first:
            store.mark_done(run, kind)

    def trace(self, job: jobs.Job, steps: int) -> None:
        """A profiler trace of `steps` training steps after a warm-up, for xprof or Perfetto."""
        import jax

        from suite import rig

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

    def append(self, run: epath.Path, kind: str, row: store.Row, conditions: store.Row) -> store.Row:
        if self.first:
            store.append(run, kind, row | conditions)
        if self.first and self.pipe is None:
            shown = (
                f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()
            )
            print(" ", *shown, flush=True)
        return row

    def agree(self, done: list[bool]) -> list[bool]:
        """What process 0 sees: the others may look at another file system."""
        import jax

        if jax.process_count() == 1:
            return done
        import numpy as np
        from jax.experimental import multihost_utils

        return [bool(flag) for flag in multihost_utils.broadcast_one_to_all(np.asarray(done))]

    def path(self, cell: Cell) -> epath.Path:
        return store.run_path(OUT.value, cell.job)

    def kind(self, cell: Cell) -> str:
        module, _ = parts.load("suite.measures", cell.measure)
        return store.kind(cell.measure, self.place if module.PLACED else "", cell.repeat, cell.group)

    def say(self, event: str, cell: Cell | None = None, **facts: Any) -> None:
        """Every process tells the launch.compare that started it; a user is told by the first alone."""
        if self.pipe is not None:
            self.pipe.write(json.dumps({"event": event, "cell": cell and cell.to_dict(), **facts}) + "\n")
            self.pipe.flush()
        elif self.first:
            print(event, cell.label if cell else " ".join(f"{key}={value}" for key, value in facts.items()), flush=True)


def grouped(cells: list[Cell]) -> list[list[Cell]]:
    """Cells of one group and repeat together, in the order of the first of them; the others each alone."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.group, cell.repeat) if cell.group else cell, []).append(cell)
    return list(groups.values())


def outcome_of(error: Exception) -> str:
    """What a refusal of the runtime is called in a row; what it is not known to be is raised."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return "oom"
    if "UNIMPLEMENTED" in text or "ompilation" in text:
        return "did_not_compile"
    raise error


if __name__ == "__main__":
    launch.run(main)
