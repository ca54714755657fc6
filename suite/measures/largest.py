"""The longest context and the most sequences that fit the memory, for training and for decoding."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from suite import inference
from suite import mesh as meshes
from suite.job import Job
from suite.model.backbone import Model
from suite.sweep.record import Row
from suite.sweep.watchdog import Watchdog
from suite.training import clock, memory, programs
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = 120
CONDITIONS = {
    "context": "tokens",
    "sequences": "sequences",
    "memory_limit": "bytes",
    "grid": "tokens or sequences",
    "looked_to": "tokens or sequences",
    "beyond": "tokens or sequences",
    "beyond_bytes": "bytes",
}
QUANTITIES = {
    "train_context": {
        "largest": "tokens as {phase}_longest",
        "held_bytes": "bytes as {phase}_held_bytes",
        "ran_seconds": "s as {phase}_ran_seconds",
    },
    "train_sequences": {
        "largest": "sequences as {phase}_most",
        "held_bytes": "bytes as {phase}_held_bytes",
        "ran_seconds": "s as {phase}_ran_seconds",
    },
    "decode_context": {
        "largest": "tokens as {phase}_longest",
        "held_bytes": "bytes as {phase}_held_bytes",
        "ran_seconds": "s as {phase}_ran_seconds",
    },
    "decode_sequences": {
        "largest": "sequences as {phase}_most",
        "held_bytes": "bytes as {phase}_held_bytes",
        "ran_seconds": "s as {phase}_ran_seconds",
    },
}
BOUNDS = {
    "context": (1, 2**28),
    "most_tokens": (1, 2**28),
    "most_sequences": (1, 2**20),
    "memory_bytes": (0, 2**50),
}
UNIT = 128  # tokens that a context is a multiple of, where it has so many


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program of one size, and what makes its arguments."""

    compiled: jax.stages.Compiled
    arguments: Callable[[], tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Search:
    """A search for the largest size, a multiple of a unit: where it begins, and beyond what it does not look."""

    make: Callable[[int], Program]
    start: int
    unit: int
    most: int

    def run(self, limit: int, watchdog: Watchdog) -> Row:
        """The columns of the largest; out of memory where the least does not fit, or the largest does not run."""
        held: dict[int, int] = {}
        fitting: list[Program] = []  # the largest last

        def fits(size: int) -> bool:
            watchdog.feed(long=True)
            try:
                program = self.make(size)
            except jax.errors.JaxRuntimeError as error:  # of an accelerator's compiler, which knows its memory
                if not memory.is_out(error):
                    raise
                return False
            held[size] = memory.held_bytes(program.compiled)
            if held[size] <= limit:
                fitting.append(program)
            return held[size] <= limit

        low, high = memory.largest_that_fits(fits, min(self.start, self.most), self.unit, self.most)
        row: Row = {"grid": memory.grid(low, self.unit), "looked_to": self.most}
        row |= {"beyond": high} if high else {}
        row |= {"beyond_bytes": held[high]} if high in held else {}
        if not low:
            estimate = {"estimate_bytes": held[high], "estimated_from": "the compiled program"} if high in held else {}
            return {**row, "outcome": "oom", "error": f"the least, {high:,}, does not fit {limit:,} bytes", **estimate}
        watchdog.feed(long=True)
        try:
            [seconds] = clock.time_calls(fitting[-1].compiled, *fitting[-1].arguments(), warmup=0, repeats=1)
        except jax.errors.JaxRuntimeError as error:
            if not memory.is_out(error):
                raise
            return {**row, "outcome": "oom", "error": f"{low:,} fits by its program and does not run: {error}"[:500]}
        return {**row, "largest": low, "held_bytes": held[low], "ran_seconds": seconds, "outcome": "ok"}


def check(job: Job, task: Any, *, context: int, most_tokens: int, **_: int) -> None:
    """Refuses a mixer without a state for the longest context that is looked for."""
    inference.check(job, task, "largest", 1, max(context, most_tokens))


def measure(
    rig: Rig,
    *,
    context: int = 1024,
    most_tokens: int = 131072,
    most_sequences: int = 4096,
    memory_bytes: int = 0,
) -> Iterator[Row]:
    """A row for each of four sizes: found by what the compiled programs hold, doubled and then bisected, and run once.

    Training is a step over the mesh: its context at the job's batch, its sequences at the job's length. Decoding is a
    token on one device, with a state for the context: of one sequence, and of as many as fit at `context`. Beyond
    `most_tokens` and `most_sequences` nothing is looked for; then no size is named that does not fit. Of a device, or
    of a CPU its host, `memory_bytes` count, 0 for all.
    """
    limit = memory.limit_bytes(rig.mesh.local_devices[0], memory_bytes)
    built = inference.on_one_device(rig)
    examples = math.lcm(meshes.devices_of_examples(rig.mesh), rig.job.microbatch or 1)
    batch, length = rig.job.batch, rig.job.length
    unit = min(UNIT, most_tokens)
    most_examples = max(examples, most_sequences)
    searches = {
        "train_context": Search(lambda tokens: training(rig, tokens, batch), length, unit, most_tokens),
        "train_sequences": Search(lambda count: training(rig, length, count), batch, examples, most_examples),
        "decode_context": Search(lambda tokens: decoding(built, 1, tokens), context, unit, most_tokens),
        "decode_sequences": Search(lambda count: decoding(built, count, context), 1, 1, most_sequences),
    }
    held_fixed = ({"sequences": batch}, {"context": length}, {"sequences": 1}, {"context": context})
    for (phase, search), fixed in zip(searches.items(), held_fixed, strict=True):
        yield {"phase": phase, "memory_limit": limit, **fixed, **search.run(limit, rig.watchdog)}


def training(rig: Rig, length: int, batch: int) -> Program:
    """A training step on so many examples of so many tokens."""
    changes = {"length": length, "batch": batch}
    of_size = programs.Programs(rig.programs.job.replace(**changes), rig.mesh, rig.programs.vocab)
    sized = dataclasses.replace(rig, job=rig.job.replace(**changes), programs=of_size)
    return Program(of_size.step, lambda: (sized.state, sized.resident_batch()))


def decoding(built: Model, sequences: int, context: int) -> Program:
    """A token of so many sequences with a state for so many tokens."""
    step = inference.compile_step(built, sequences, context)

    def arguments() -> tuple[Any, ...]:
        with jax.default_device(inference.device_of(built)):
            token_B, state = jnp.zeros(sequences, jnp.int32), inference.make_start(built, sequences, context)()
        return eqx.filter(built, eqx.is_array), token_B, state

    return Program(step, arguments)
