"""The cells of a study of which none has run: as many as it may come to ask for.

Claims ask for more cells once they have rows. Here they get rows in which every choice asks for the most: the best
learning rate lies at the edge of its grid until that ends, no training solves its task, so that all variants are
trained for longer, the largest batch is the fastest, every look at a step time leads to another. One choice has no
end: where the best of the widths at fixed compute lies at the edge, one more is trained; one beyond each edge counts.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator

from suite import learning_rates, parts
from suite.job import Cell, Job
from suite.sweep.record import Row
from suite.sweep.schedule import Schedule

Models = Callable[[list[Job]], dict[Job, Row]]  # of each job its model's `params` and `flops_per_token`
SAID = (
    "Counted at their most: learning rates up to the ends of their grids, longer trainings of all variants, the "
    "largest batch of each ladder, and at fixed compute one width beyond the edge. A comparison asks for fewer."
)
SLOW = 1.5  # times the reference's, the step time of an arm that is matched by it


def cells(plan: Schedule, models: Models) -> tuple[list[Cell], int]:
    """All cells, and how many of them depend on no result."""
    rows: list[Row] = []
    asked: dict[Cell, None] = {}
    widest: dict[str, int] = {}  # of a task's trainings when they are first asked for
    first = 0
    while new := [cell for cell in plan.cells(rows) if cell not in asked]:
        asked.update(dict.fromkeys(new))
        first = first or len(asked)
        known = models([cell.job for cell in new if cell.measure == "size"])
        for task in {cell.job.task for cell in new if _is_training(cell)} - widest.keys():
            widest[task] = max(cell.job.width for cell in new if _is_training(cell) and cell.job.task == task)
        rows += [_row(cell) | row for cell in new for row in _rows(cell, known, widest)]
    return list(asked), first


def _is_training(cell: Cell) -> bool:
    return cell.measure == "learning" and cell.job.seed not in learning_rates.SEEDS


def _row(cell: Cell) -> Row:
    """The fields that rows of a cell have from its job."""
    job = cell.job
    names = {"run_id": job.id, "arm": job.arm, "measure": cell.measure, "repeat": cell.repeat}
    names |= {"interleave_with": cell.interleave_with, "outcome": "ok", "placed": False, "place": ""}
    made = {"commit": "", "jax": "", "device_kind": "", "platform": "", "params": 1}
    return dataclasses.asdict(job) | names | made | {"reference_width": job.width}


def _rows(cell: Cell, models: dict[Job, Row], widest: dict[str, int]) -> Iterator[Row]:
    job = cell.job
    match parts.split(cell.measure)[0]:
        case "size":
            model = models[job]
            if model["outcome"] == "ok":
                yield {"phase": "model", "flops_per_token": model["flops_per_token"], "params": model["params"]}
        case "learning":
            loss = 3.0 + abs(math.log(job.width / widest.get(job.task, job.width)))
            # Of rates the largest is the best; of trainings whose rate is chosen the widest.
            loss -= 1e-2 * math.log10(job.learning_rate or 1.0)
            scores = {"loss": loss, "final_accuracy": 0.0, "accuracy": 0.0, "step": job.steps}
            scores["tokens"] = job.steps * job.batch * job.length
            yield {"phase": "validation", **scores}
            yield {"phase": "test", **scores}
        case "step_time":
            seconds = SLOW if job.match_to else 1.0
            yield {"phase": "compile", "argument_bytes": 0, "output_bytes": 0, "alias_bytes": 0, "temp_bytes": 0}
            tokens = job.batch**2 * job.length  # the larger the batch, the more tokens a second
            yield {"phase": "block", "turn": 0, "tokens": tokens, "burst_seconds": seconds, "calls": 1}
        case _:
            return


def trained(cells: Iterable[Cell]) -> list[Job]:
    """The jobs of the cells, each once."""
    return list(dict.fromkeys(cell.job for cell in cells))
