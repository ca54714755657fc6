"""Bounds of training steps on this CPU beside what the steps took, for every arm at three shapes.

    python tests/planned_steps.py --rows=out/planned_steps.jsonl >> docs/measured/plan.md

What was timed is kept in --rows, and the same command again times the rest.
"""

import argparse
import json
import os
import pathlib
import statistics

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from suite import machine, parts
from suite import mesh as meshes
from suite.job import Job
from suite.measures import peak
from suite.planning import bounds, program, table
from suite.report import words
from suite.sweep import provenance, startup
from suite.training import clock, rig

SHAPES = ((8, 128, 64), (4, 512, 128), (2, 2048, 128))  # batch, length, width
CALLS = 8  # of each step; its time is the median
COLUMNS = (
    "arm",
    "batch x length x width",
    "compute",
    "memory",
    "chain",
    "bounds of a step",
    "measured",
    "of the upper",
)


def timed(job: Job) -> dict:
    """A step's record and the seconds it takes."""
    mesh = meshes.make(devices=jax.devices()[:1])
    built = rig.build(job, mesh)
    record = program.of_compiled(built.programs, built.step)
    state, batch = built.state, built.resident_batch()

    def call() -> object:
        nonlocal state
        state, metrics = built.step(state, batch)
        return metrics

    seconds = clock.time_calls(call, warmup=3, repeats=CALLS)
    model = program.solve(job, built.task.vocab)
    jax.clear_caches()
    return {**record, **model, "arm": job.arm, "seconds": statistics.median(seconds)}


def lines(every: list[dict], measured: dict) -> list[str]:
    """The page's section."""
    speeds = bounds.of_host(measured, 1, 0)
    rows, inside = [], 0
    for row in every:
        step = bounds.of_step(row, row["flops_per_token"], 1, speeds)
        inside += step.low <= row["seconds"] <= step.high
        memory = f"{words.seconds(step.memory_least)} to {words.seconds(step.memory_most)}"
        shape = "x".join(str(row["solved"][name]) for name in ("batch", "length", "width"))
        of_parts = (words.seconds(step.compute), memory, words.seconds(step.chain))
        between = f"{words.seconds(step.low)} to {words.seconds(step.high)}"
        share = f"{row['seconds'] / step.high:.2f}"
        rows.append((row["arm"], shape, *of_parts, between, words.seconds(row["seconds"]), share))
    speeds_told = f"{words.si(speeds.flops_per_second, 'FLOP/s')}, {words.si(speeds.bytes_per_second, 'B/s')}"
    about = [
        "## Bounds of cpu:1 beside measured steps",
        "",
        f"On {machine.cores()} cores of {machine.cpu()}, float32, recall, depth 2, none matched; peaks as measured "
        f"beside the steps: {speeds_told}, {words.seconds(speeds.step_seconds)} a dependent step. A step's time is the "
        f"median of {CALLS}. Made by `python tests/planned_steps.py` at commit "
        f"{provenance.of_source({})['commit']}. **Of {len(rows)} measured steps {inside} lie inside their bounds.**",
        "",
    ]
    return [*about, *table.table(COLUMNS, rows)]


def main(path: pathlib.Path) -> None:
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for batch, length, width in SHAPES:
        for name in parts.names("suite.mixers"):
            job = Job(mixer=name, task="recall", batch=batch, length=length, width=width, depth=2)
            if not any((row["arm"], row["solved"]["length"]) == (name, length) for row in kept):
                kept.append(timed(job))
                with path.open("a") as file:
                    file.write(json.dumps(kept[-1]) + "\n")
    print("\n".join(lines(kept, peak.peaks("float32"))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=pathlib.Path, default=pathlib.Path("out/planned_steps.jsonl"))
    flags = parser.parse_args()
    startup.keep_memory()
    startup.tell_xla()
    flags.rows.parent.mkdir(parents=True, exist_ok=True)
    main(flags.rows)
