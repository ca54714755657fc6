"""Trains one model and measures it.

    python -m launch.job --mixer=lstm --length=512 --measures=learning,size --out=out/mine

A job is one training; a measure is something that is recorded of it. The same command again skips the measures that
are done and resumes the others. In a job of several processes each process runs this command; coordinator and rank come
from the flags or, on Cloud TPU, Slurm and Open MPI, from the environment.
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
OUT = launch.define_directory("out", DEFAULT.out, "directory of the records, which all processes of a job share")
MEASURES = flags.DEFINE_string(
    "measures",
    "learning,size,step_time",
    "measures, as learning or step_time:blocks=3, separated by commas",
)
MESH = flags.DEFINE_string("mesh", DEFAULT.mesh, "device mesh, as in data:8; empty: all devices share the batch")
DATA_DIR = flags.DEFINE_string("data_dir", DEFAULT.data_dir, "directory of the TensorFlow Datasets: a path or gs://")
TRACE = flags.DEFINE_integer(
    "trace", DEFAULT.trace, "write a profiler trace of this many training steps, and measure nothing", lower_bound=0
)
REPEAT = flags.DEFINE_integer("repeat", 0, "number of this process among those that repeat a timing", lower_bound=0)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    DEFAULT.coordinator_address,
    "host:port of process 0, a free port that no other job uses; empty: taken from the environment",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    DEFAULT.num_processes,
    "number of processes; 0: taken from the environment",
    lower_bound=0,
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", DEFAULT.process_id, "rank of this process in the job; -1: taken from the environment", lower_bound=-1
)
PATIENCE = launch.define_seconds(
    "patience",
    DEFAULT.patience,
    "seconds without a training step after which the process ends with exit code 124; a compilation may take ten times "
    "as long; the processes of a job wait so long for each other, and at least 60 seconds",
    1.0,
)
SAVE_SECONDS = launch.define_seconds(
    "save_seconds", DEFAULT.save_seconds, "seconds between checkpoints; a validation saves one too", 0.1
)
LEASE_SECONDS = launch.define_seconds(
    "lease_seconds",
    DEFAULT.lease_seconds,
    "seconds of silence after which another worker takes over",
    1.0,
)
FAULT = flags.DEFINE_string("fault", DEFAULT.fault, "for tests: a fault to cause, as kind@step:rank")
CELLS = flags.DEFINE_string("cells", DEFAULT.cells, "for launch.compare: file with the cells to run")
SECONDS = launch.define_seconds(
    "seconds", DEFAULT.seconds, "seconds after which no further cell is begun; 0: run all cells", 0.0
)
CHECK = flags.DEFINE_bool("check", DEFAULT.check, "check that the job can run, print where it would, and run nothing")
EVENTS = flags.DEFINE_integer("events", DEFAULT.events, "for launch.compare: file descriptor of its pipe")
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
    """The cells that the flags describe, or those of the file of launch.compare; and the flags that describe them."""
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
