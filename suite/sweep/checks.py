"""Checks before any cell runs: jobs fit, parts hold their contract, own files and data are unchanged."""

import sys
from typing import Any

from jax.sharding import Mesh

from suite import contract, parts
from suite.job import Cell, Job
from suite.sweep import provenance, store
from suite.sweep.options import Options
from suite.training import programs, rig


def check(options: Options, cells: list[Cell], mesh: Mesh) -> dict[str, str]:
    """Raises where a part breaks its contract, a job does not fit or a measure cannot take it.

    With --check one job of each mixer of the suite is checked: the process that runs the cells checks the rest. Returns
    the fields that describe the data of the tasks.
    """

    tasks: dict[Job, Any] = {}
    data: dict[str, str] = {}
    checked: set[tuple[Job | str, str]] = set()
    for cell in cells:
        store.check_run(options.out, cell.job)
        shape = cell.job.replace(**programs.NOT_IN_A_PROGRAM | {"lengths": cell.job.lengths})
        if shape not in tasks:
            tasks[shape] = rig.open_task(cell.job, options.data_dir)
            described = provenance.of_data(tasks[shape])
            data |= {f"{name} of --task={cell.job.task}": str(value) for name, value in described.items()}
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
    """ValueError where done cells of these jobs rest on other own files, or on another corpus, than now."""
    runs = {store.run_path(options.out, cell.job): cell.job for cell in cells}
    rows = [row | {"task": job.task} for run, job in runs.items() if run.exists() for row in store.all_rows(run)]
    provenance.check_done(options.out, rows, cells, options.data_dir)
    line = provenance.of_another_version(rows)
    if line and not options.is_child:  # launch.compare says so itself
        print(f"crossover: {line}", file=sys.stderr)
