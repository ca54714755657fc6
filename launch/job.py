"""One job, one or more measures of it: what is started on every host.

    python -m launch.job --mixer=lstm --length=512 --measures=learning,size --out=out/mine

The same command again skips what is done and goes on with what is not. On several processes each runs this command;
coordinator and rank come from the flags or, on Cloud TPU, Slurm and Open MPI, from the environment.
"""

import dataclasses
import json
import pathlib
import time
from typing import Any

from absl import flags

import launch
from suite import declarations, parts
from suite import job as jobs
from suite.job import Cell
from suite.sweep import exit_codes, fault_injection, rendezvous, startup
from suite.sweep.options import Options

DEFAULT = Options()
OUT = launch.define_directory("out", DEFAULT.out, "directory of the records; shared by all processes of a job")
MEASURES = flags.DEFINE_string("measures", "learning,size,step_time", "measures with knobs, separated by commas")
MESH = flags.DEFINE_string("mesh", DEFAULT.mesh, "device mesh, as in data:8; empty for all devices")
DATA_DIR = flags.DEFINE_string("data_dir", DEFAULT.data_dir, "where TFDS data sets lie: a path or gs://")
TRACE = flags.DEFINE_integer(
    "trace", DEFAULT.trace, "write a profiler trace of this many training steps instead", lower_bound=0
)
REPEAT = flags.DEFINE_integer("repeat", 0, "number of the fresh process, for timings that are repeated", lower_bound=0)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    DEFAULT.coordinator_address,
    "host:port of process 0, the port free and this job's alone; empty: found in the environment",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", DEFAULT.num_processes, "number of processes; 0: found in the environment", lower_bound=0
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", DEFAULT.process_id, "rank of this process; -1: found in the environment", lower_bound=-1
)
PATIENCE = launch.define_seconds(
    "patience",
    DEFAULT.patience,
    "seconds without a step after which it ends with 124; a compilation has ten times as long, and the processes of a "
    "job have so many to come together, at least 60",
    1.0,
)
SAVE_SECONDS = launch.define_seconds(
    "save_seconds", DEFAULT.save_seconds, "seconds between checkpoints, where validations are rarer", 0.1
)
LEASE_SECONDS = launch.define_seconds(
    "lease_seconds", DEFAULT.lease_seconds, "a worker that was silent for so long has lost its cell to another", 1.0
)
FAULT = flags.DEFINE_string("fault", DEFAULT.fault, "kind@step:rank, for tests: what goes wrong on purpose")
CELLS = flags.DEFINE_string("cells", DEFAULT.cells, "file with the cells that launch.compare wants done here")
SECONDS = launch.define_seconds(
    "seconds", DEFAULT.seconds, "end after the cell under way when so many are over; 0: do all cells", 0.0
)
CHECK = flags.DEFINE_bool("check", DEFAULT.check, "check that all can be done, say where it would run, and run nothing")
EVENTS = flags.DEFINE_integer("events", DEFAULT.events, "file descriptor on which launch.compare reads what happens")
jobs.define_flags()


def main() -> int:
    with exit_codes.door():
        startup.tell_xla()
    from suite.sweep import joining, worker  # JAX, which reads what was told

    chosen = options()
    try:
        with exit_codes.door():
            cells = joining.join(chosen, read_cells, time.monotonic)
    except rendezvous.Dismissed as dismissed:
        return dismissed.code
    return worker.work(chosen, cells, time.monotonic)


def options() -> Options:
    values: dict[str, Any] = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Options)}
    return Options(**values)


def read_cells() -> tuple[list[Cell], rendezvous.Settings]:
    """The cells of the flags, or those that launch.compare left in a file, with what it was asked for."""
    if CELLS.value:
        left = json.loads(pathlib.Path(CELLS.value).read_text())
        cells, asked = [Cell.from_dict(record) for record in left["cells"]], left["asked"]
    else:
        job = jobs.from_flags(flags.FLAGS)
        specs = parts.split_list(MEASURES.value)
        if not specs:
            raise ValueError(f"--measures names none; known: {', '.join(parts.names('suite.measures'))}")
        cells = [Cell(job, parts.short("suite.measures", spec), REPEAT.value) for spec in specs]
        asked = {f"--{name}": str(flags.FLAGS[name].value) for name in flags_of_job()}
    for cell in cells:
        declarations.check(cell.measure)
    if FAULT.value:
        fault_injection.parse(FAULT.value)
    return cells, asked


def flags_of_job() -> list[str]:
    """The flags that say what one job computes."""
    return [*(field.name for field in dataclasses.fields(jobs.Job)), MEASURES.name, REPEAT.name, TRACE.name]


if __name__ == "__main__":
    launch.run(main)
