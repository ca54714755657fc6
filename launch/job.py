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

MEASURES = flags.DEFINE_string(
    "measures",
    "learning,size,step_time",
    "measures, as learning or step_time:blocks=3, separated by commas",
)
REPEAT = flags.DEFINE_integer("repeat", 0, "number of this process among those that repeat a timing", lower_bound=0)
OUT = launch.define_directory("out", Options.out, Options.__dataclass_fields__["out"].metadata["help"])
jobs.define_flags(Options, leave_out=("out",))
jobs.define_flags()


def main() -> int:
    with exit_codes.door():
        options = from_flags()
        startup.tell_xla()
    from suite.sweep import joining, worker  # JAX, which reads what was told

    try:
        with exit_codes.door():
            cells = joining.join(options, lambda: read_cells(options), time.monotonic, time.time)
    except rendezvous.Dismissed as dismissed:
        return dismissed.code
    return worker.work(options, cells, time.monotonic)


def from_flags() -> Options:
    """The options that the parsed flags describe."""
    values: dict[str, Any] = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Options)}
    return Options(**values)


def read_cells(options: Options) -> tuple[list[Cell], rendezvous.Settings]:
    """The cells that the flags describe, or those of the file of launch.compare; and the flags that describe them."""
    if options.cells:
        left = json.loads(pathlib.Path(options.cells).read_text())
        cells, asked = [Cell.from_dict(record) for record in left["cells"]], left["asked"]
    else:
        job = jobs.from_flags(flags.FLAGS)
        specs = parts.split_list(MEASURES.value)
        if not specs:
            raise ValueError(f"--measures names none; known: {', '.join(parts.names('suite.measures'))}")
        cells = [Cell(job, parts.short("suite.measures", spec), REPEAT.value) for spec in specs]
        names = [*(field.name for field in dataclasses.fields(jobs.Job)), MEASURES.name, REPEAT.name, "trace"]
        asked = {f"--{name}": str(flags.FLAGS[name].value) for name in names}
    for cell in cells:
        declarations.check(cell.measure)
    if options.fault:
        fault_injection.parse(options.fault)
    return cells, asked


if __name__ == "__main__":
    launch.run(main)
