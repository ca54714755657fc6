"""A program of a plan: the training step of a job, compiled for a topology; what it holds, sends, reads and waits for.

`serve` is the child of suite/planning/compilers.py: it reads one request a line and answers each with one record.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import jax
from etils import epath
from jax.sharding import Mesh

from suite import files, machine, parts
from suite import mesh as meshes
from suite.counting import collectives, traffic
from suite.job import Job
from suite.measures import peak
from suite.model import backbone, matching
from suite.ops import implementations
from suite.sweep import worker
from suite.sweep.record import Row
from suite.training import clock, conditions, programs, rig
from suite.training.programs import Programs

# Kernels have their loop over time within, which no HLO shows: a turn a token, forward and backward.
LOOPS_WITHIN = ("persistent", "pallas", "cudnn")
FORWARD_AND_BACKWARD = 2
ERROR_LETTERS = 400
REFUSED = "refused"  # by a mixer, a mesh or the matching, before anything is compiled


def solve(job: Job, vocab: int) -> Row:
    """The model of a job: its own width, parameters, and forward FLOPs of products a token."""
    solved = matching.solve(job, vocab)
    built = backbone.shapes(solved, vocab)
    return {
        "solved": json.loads(solved.replace(**programs.NOT_IN_A_PROGRAM).to_json()),
        "params": backbone.count_parameters(built),
        "flops_per_token": matching.flops_per_token(built, solved),
    }


def compile_step(solved: Job, mesh: Mesh, vocab: int, options: Mapping[str, Any]) -> Row:
    """The training step of a job at its own width: bytes that a device holds, sends and moves, and its turns."""
    watch = clock.Stopwatch()
    of_job = Programs(solved, mesh, vocab)
    lowered = of_job.lowered_step
    lower_seconds = watch.spent
    step, compile_seconds, _ = clock.time_compile(lowered, options)
    return {**of_compiled(of_job, step), "lower_seconds": lower_seconds, "compile_seconds": compile_seconds}


def of_compiled(of_job: Programs, step: jax.stages.Compiled) -> Row:
    """What a device holds, sends, moves and waits for in a compiled training step."""
    memory = step.memory_analysis()
    assert memory is not None, "the backend gives no memory of a compiled program"
    sent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for one in collectives.of_program(step, of_job.mesh):
        sent[one.operation] += one.sent * (one.calls or 1)
        calls[one.operation] += one.calls or 1
    moved = traffic.of_program(step)
    implementation = conditions.implementation(of_job.job, of_job.mesh)
    parameter_bytes = sum(meshes.bytes_a_device(of_job.like.params, of_job.mesh))
    return {
        "implementation": implementation,
        "parameter_bytes": parameter_bytes,
        "optimizer_bytes": sum(meshes.bytes_a_device(of_job.like, of_job.mesh)) - parameter_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "sent_bytes": dict(sent),
        "calls": dict(calls),
        "accessed_bytes": moved.accessed_bytes,
        "turns": moved.turns + _turns_within(of_job.job, implementation),
    }


def _turns_within(solved: Job, implementation: str) -> int:
    """Turns of the loops that kernels have within."""
    specs = parts.pattern(solved.mixer)
    blocks = [specs[index % len(specs)] for index in range(solved.depth)]
    ran = dict(zip(specs, implementation.split("+"), strict=True))
    waiting = sum(ran[spec] in LOOPS_WITHIN and _waits(spec, ran[spec]) for spec in blocks)
    return FORWARD_AND_BACKWARD * waiting * solved.length


def _waits(spec: str, implementation: str) -> bool:
    """Whether a kernel's chain of dependent steps is that of a loop over tokens."""
    same = implementations.family(str(parts.constant("suite.mixers", spec, "FAMILY"))).SAME_CHAIN
    return implementation in same and same[implementation] in ("scan", "sequential")


def answer(request: Row, mesh: Mesh) -> Row:
    """The record of one request: of a `model`, a `program` or the `peak` of a CPU in a dtype.

    A job that does not fit the mesh, what the compiler refuses and what a device cannot hold are records with their
    reason; other errors are raised.
    """
    if request["kind"] == "peak":
        return {"outcome": "ok", "device_kind": machine.cpu(), **peak.peaks(request["dtype"], request["size"])}
    job = Job(**request["job"])
    try:
        if request["kind"] == "model":
            return {"outcome": "ok", **solve(job, request["vocab"])}
        rig.check(job, mesh, request["vocab"])
    except (ValueError, LookupError) as error:
        return {"outcome": REFUSED, "error": _line(error.args[0])}
    try:
        return {"outcome": "ok", **compile_step(job, mesh, request["vocab"], request["options"])}
    except (RuntimeError, NotImplementedError) as error:
        return {"outcome": worker.outcome_of(error), "error": _line(error)}
    finally:
        jax.clear_caches()


def _line(error: object) -> str:
    return " ".join(str(error).split())[:ERROR_LETTERS]


def describe(mesh: Mesh) -> Row:
    """Where a plan's programs would run."""
    return {
        "device_kind": conditions.device_kind(mesh),
        "place": conditions.place(mesh),
        "platform": mesh.devices.flat[0].platform,
        "n_devices": mesh.size,
        "mesh": meshes.words(mesh),
        "devices_of_examples": meshes.devices_of_examples(mesh),
        "host_bytes": machine.describe()["memory_bytes"],
    }


def serve(mesh: Mesh, requests: Iterable[str], answers: TextIO) -> None:
    """Writes the record of each request, a line of JSON, to its path, and then the path as a line."""
    print(json.dumps(describe(mesh)), file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        record = answer(request, mesh)
        files.write(epath.Path(request["path"]), json.dumps(request | record, indent=1) + "\n")
        print(json.dumps(request["path"]), file=answers, flush=True)


def quiet_answers() -> TextIO:
    """Standard output for answers alone: whatever else a compiler prints there goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return answers
