"""The plan of a study: what each program holds and takes, and steps and hours of each cell, between bounds."""

import dataclasses
import itertools
import json
from collections.abc import Iterable
from typing import Any

from suite import declarations, files, parts
from suite.job import Cell, Job
from suite.planning import bounds, most
from suite.planning.bounds import Speeds
from suite.planning.compilers import Compilers
from suite.sweep import provenance
from suite.sweep.record import Row
from suite.sweep.schedule import Schedule
from suite.training.programs import NOT_IN_A_PROGRAM

HOUR = 3600.0
PEAK_SIZE = 2048  # of the products by which a CPU's peak is measured


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is asked of the compilers for a plan, and what a plan makes of their records."""

    plan: Schedule
    named: Row  # what plan.json says of it: its study, scale, arms and claims
    compilers: Compilers
    data_dir: str
    effort: str  # of the compiler: least or full
    peak_size: int = PEAK_SIZE

    def speeds(self, dtype: str) -> Speeds:
        """The speeds of one device of the topology; those of a CPU are measured, once."""
        place = self.compilers.place
        if place["platform"] != "cpu":
            return bounds.of_accelerator(place["device_kind"], dtype)
        [measured] = self.compilers.records([{"kind": "peak", "dtype": dtype, "size": self.peak_size}])
        return bounds.of_host(measured, place["n_devices"], place["host_bytes"])

    def models(self, jobs: Iterable[Job]) -> dict[Job, Row]:
        """The model of each job, at its own width."""
        jobs = list(dict.fromkeys(jobs))
        return dict(zip(jobs, self.compilers.records(self._request("model", job) for job in jobs), strict=True))

    def programs(self, jobs: Iterable[Job]) -> dict[Job, Row]:
        """The record of each job's training step, with those of its model; jobs that share a program share a record."""
        models = self.models(jobs)
        solved = {job: Job.from_json(json.dumps(model["solved"])) for job, model in models.items() if "solved" in model}
        # The longest sequences first: none of the long compilations is left to run alone.
        order = sorted(solved, key=lambda job: -solved[job].length)
        records = self.compilers.records(self._request("program", solved[job], job.task) for job in order)
        of_job = dict(zip(order, records, strict=True))
        return models | {job: {**models[job], **record} for job, record in of_job.items()}

    def cells(self) -> tuple[list[Cell], int]:
        """All cells at their most, and how many depend on no result; kept, as finding them takes a minute or two."""
        asked = {"kind": "cells", "plan": repr(self.plan), "of": provenance.of_source({})["source"]}
        asked["rules"] = [parts.source("suite.claims", claim).read_text() for claim in self.named["claims"]]
        path = self.compilers.path(asked)
        try:
            kept = files.read_json(path, "cells", "first")
        except (FileNotFoundError, files.Damaged):
            cells, first = most.cells(self.plan, self.models)
            kept = {"cells": [cell.to_dict() for cell in cells], "first": first}
            files.write(path, json.dumps(kept) + "\n")
        return [Cell.from_dict(record) for record in kept["cells"]], kept["first"]

    def make(self, price: float) -> Row:
        """The content of plan.json. `price` is that of an hour of a chip; 0 where it was not given."""
        cells, first = self.cells()
        stepping = {cell.job: None for cell in cells if steps_are_timed(cell)}
        programs = self.programs(job.replace(**NOT_IN_A_PROGRAM) for job in stepping)
        rows: dict[str, Row] = {}  # by the job of the program
        of_job: dict[Job, str] = {}
        for job, record in programs.items():
            of_job[job] = key = json.dumps([record.get("solved", dataclasses.asdict(job)), record["vocab"]])
            if key not in rows:
                rows[key] = self.program_row(job, record)
        of_cells = []
        for cell in cells:
            row = {"label": cell.label, "measure": cell.measure, "run_id": cell.job.id, "repeat": cell.repeat}
            program = rows[of_job[cell.job.replace(**NOT_IN_A_PROGRAM)]] if cell.job in stepping else None
            of_cells.append({**row, **self._cost(cell, program)})
        chips = self.compilers.topology.chips
        return {
            "topology": self.compilers.topology.name,
            "chips": chips,
            "place": self.compilers.place,
            **self.named,
            "commit": provenance.of_source({})["commit"],
            "compiler": self.compilers.versions(),
            "effort": self.effort if self.compilers.topology.efforts else "full",
            "counted": most.SAID,
            "speeds": {dtype: self.speeds(dtype)._asdict() for dtype in {job.dtype for job in stepping}},
            "programs": list(rows.values()),
            "cells": of_cells,
            "totals": totals(of_cells, list(rows.values()), first, chips, price),
        }

    def program_row(self, job: Job, record: Row) -> Row:
        """A program with its bounds, and whether it fits."""
        named = {"arm": job.arm, "length": job.length, "batch": job.batch, "dtype": job.dtype}
        row: Row = {**named, "width": job.width, "depth": job.depth, "cells": 0, "steps": 0}
        row |= {name: value for name, value in record.items() if name not in ("kind", "job", "path")}
        if record["outcome"] != "ok":
            return {**row, "fits": False if record["outcome"] == "oom" else None}
        speeds = self.speeds(job.dtype)
        held, n_devices = bounds.held_bytes(record), self.compilers.place["n_devices"]
        step = bounds.of_step(record, record["flops_per_token"], n_devices, speeds)
        flops = bounds.TRAINING * record["flops_per_token"] * record["solved"]["batch"] * record["solved"]["length"]
        return {
            **row,
            "width": record["solved"]["width"],
            "held_bytes": held,
            "memory_bytes": speeds.memory_bytes,
            "fits": held <= speeds.memory_bytes,
            "model_flops": flops,
            "bounds": {**dataclasses.asdict(step), "low": step.low, "high": step.high, "longest": step.longest},
        }

    def _cost(self, cell: Cell, program: Row | None) -> Row:
        """Steps and seconds of a cell, the program's own count raised by them; no seconds where it does not run."""
        steps = cell.job.last_step if cell.measure == "learning" else 0
        if program is None:
            seconds = declarations.seconds(cell.measure, cell.job, step=0.0, compilation=0.0)
            return {"steps": 0, "seconds": [seconds, seconds]}
        program["cells"] += 1
        program["steps"] += steps
        if "bounds" not in program:
            return {"steps": steps, "outcome": program["outcome"]}
        between = (program["bounds"]["low"], program["bounds"]["high"])
        seconds = [declarations.seconds(cell.measure, cell.job, step=step, compilation=0.0) for step in between]
        return {"steps": steps, "seconds": seconds, **({} if program["fits"] else {"outcome": "oom"})}

    def _request(self, kind: str, job: Job, task: str = "") -> Row:
        fields = dataclasses.asdict(job.replace(**NOT_IN_A_PROGRAM))
        vocab = vocab_of(job.replace(task=task) if task else job, self.data_dir)
        request = {"kind": kind, "job": {**fields, "task": Job().task}, "vocab": vocab}
        return request | ({"options": self.compilers.topology.options(self.effort)} if kind == "program" else {})


def steps_are_timed(cell: Cell) -> bool:
    """Whether a measure's cost is told in training steps."""
    return "step" in str(parts.constant("suite.measures", cell.measure, "SECONDS"))


def vocab_of(job: Job, data_dir: str) -> int:
    """The values that a token of a job's task has; a task that says so by itself needs no data."""
    module, knobs = parts.load("suite.tasks", job.task)
    if "vocab" in knobs:
        return int(knobs["vocab"])
    if "vocab" in vars(module.Task) and isinstance(module.Task.vocab, int):
        return module.Task.vocab
    return provenance.make_task(job, data_dir).vocab


def totals(cells: list[Row], programs: list[Row], first: int, chips: int, price: float) -> Row:
    """Sums over all cells that run, and the seconds in which every program is compiled once."""
    ran = [cell for cell in cells if "seconds" in cell and "outcome" not in cell]
    compiling = sum(row["lower_seconds"] + row["compile_seconds"] for row in programs if "compile_seconds" in row)
    hours = [(sum(cell["seconds"][bound] for cell in ran) + compiling) / HOUR for bound in (0, 1)]
    sums: dict[str, Any] = {
        "cells": len(cells),
        "cells_that_depend": len(cells) - first,
        "cells_that_do_not_run": len(cells) - len(ran),
        "programs": len(programs),
        "compile_hours": compiling / HOUR,
        "steps": sum(cell["steps"] for cell in cells),
        "hours": hours,
        "chip_hours": [chips * bound for bound in hours],
    }
    return {**sums, "price": [price * bound for bound in sums["chip_hours"]]} if price else sums


def by_measure(cells: list[Row]) -> list[Row]:
    """Cells, steps and hours of each measure, the most hours first."""
    name = lambda cell: parts.split(cell["measure"])[0]  # noqa: E731
    rows = []
    for measure, group in itertools.groupby(sorted(cells, key=name), name):
        of_measure = list(group)
        ran = [cell for cell in of_measure if "seconds" in cell and "outcome" not in cell]
        hours = [sum(cell["seconds"][bound] for cell in ran) / HOUR for bound in (0, 1)]
        steps = sum(cell["steps"] for cell in of_measure)
        rows.append({"measure": measure, "cells": len(of_measure), "steps": steps, "hours": hours})
    return sorted(rows, key=lambda row: -row["hours"][1])
