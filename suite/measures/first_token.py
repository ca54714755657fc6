"""Seconds from a context to the first token after it, at contexts of several lengths, read in the fastest form."""

import math
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from suite import inference
from suite.inference import Reader
from suite.job import Job
from suite.model.backbone import Model
from suite.sweep.record import Row
from suite.training import clock, memory
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = 40
CONDITIONS = {
    "context": "tokens",
    "sequences": "sequences",
    "piece": "tokens",
    "chunk": "tokens",
    "form": "text",
    "held_from": "text",
}
QUANTITIES = {
    "trial": {"trial_seconds": "s as trial_seconds_in_chunks_of_{chunk}"},
    "memory": {"state_bytes": "bytes as first_token_state_bytes", "held_bytes": "bytes as first_token_held_bytes"},
    "first_token": {"first_token_seconds": "s as first_token_seconds"},
}
HOPELESS = 3  # times the best so far, beyond which a size of chunks is not tried again
BOUNDS = {
    "shortest": (1, 2**28),
    "longest": (1, 2**28),
    "batch": (1, 2**20),
    "tokens": (0, 2**40),
    "chunk": (0, 2**28),
    "piece": (1, 2**28),
    "blocks": (1, 10_000),
    "memory_bytes": (0, 2**50),
}


def check(job: Job, task: Any, *, shortest: int, longest: int, batch: int, **_: int) -> None:
    """Refuses an empty range of contexts, and a mixer without a state for the longest."""
    if shortest > longest:
        raise ValueError(f"first_token: no context from shortest {shortest} to longest {longest}")
    inference.check(job, task, "first_token", batch, inference.doubling(shortest, longest)[-1])


def measure(
    rig: Rig,
    *,
    shortest: int = 1024,
    longest: int = 16384,
    batch: int = 1,
    tokens: int = 0,
    chunk: int = 0,
    piece: int = 2048,
    blocks: int = 5,
    memory_bytes: int = 0,
) -> Iterator[Row]:
    """At each context, each twice the one before, a row for what it holds and one a turn of reading it; on one device.

    The empty state is made anew each time. With `chunk` 0 several sizes of chunks, and all of a context at once in
    parallel form, are tried on its first `piece` tokens, a row for each, and the fastest that fits the memory reads the
    context. `tokens` are those of all sequences together: as many sequences as they make, in the place of `batch`.
    Of the device, or of a CPU its host, `memory_bytes` count, 0 for all; the first context that does not fit is the
    last row.
    """
    built = inference.on_one_device(rig)
    rng = np.random.default_rng(rig.job.seed)
    tried: dict[tuple[int, int], dict[int, float]] = {}
    for context in inference.doubling(shortest, longest):
        sequences = max(1, tokens // context) if tokens else batch
        ids_BT = rng.integers(rig.task.vocab, size=(sequences, context), dtype=np.int32)
        of_piece = sequences, min(piece, context)
        if not chunk and of_piece not in tried:
            tried[of_piece] = {}
            for size in _sizes(of_piece[1]):
                rig.watchdog.feed(long=True)
                best = min(tried[of_piece].values(), default=math.inf)
                seconds, form = _try(built, ids_BT[:, : of_piece[1]], size, best)
                tried[of_piece][size] = seconds
                row = {"piece": of_piece[1], "sequences": sequences, "chunk": size, "form": form}
                yield {"phase": "trial", "context": context, **row, "trial_seconds": seconds, "outcome": "ok"}
        fastest = [chunk] if chunk else sorted(tried[of_piece], key=lambda size: tried[of_piece][size])
        sizes = [context if size == of_piece[1] and not chunk else size for size in fastest]
        rig.watchdog.feed(long=True)
        outcome = yield from _at(built, ids_BT, sizes, blocks, memory_bytes)
        if outcome != "ok":
            return


def _sizes(piece: int) -> list[int]:
    """The chunks that are tried on a piece: those of the ladder below it, and all of it."""
    return [*(size for size in inference.CHUNKS if size < piece), piece]


def _try(built: Model, ids_BT: np.ndarray, chunk: int, best: float) -> tuple[float, str]:
    """The least of the times that chunks of this size take for a piece, and the name of their form.

    Three are taken where the first one comes near the best so far.
    """
    sequences, piece = ids_BT.shape
    reader = Reader(built, sequences, piece, piece, chunk)
    pieces = reader.cut(ids_BT)
    seconds = clock.time_calls(reader, pieces, warmup=0, repeats=1)
    if seconds[0] < HOPELESS * best:
        seconds += clock.time_calls(reader, pieces, warmup=0, repeats=2)
    return min(seconds), _form(reader)


def _form(reader: Reader) -> str:
    return "parallel" if reader.is_whole else "chunks"


def _at(
    built: Model, ids_BT: np.ndarray, sizes: list[int], blocks: int, memory_bytes: int
) -> Generator[Row, None, str]:
    """The rows of a context, read in the first of these chunks that fits; returns their outcome."""
    sequences, context = ids_BT.shape
    row: Row = {"context": context, "sequences": sequences}
    limit, least = memory.limit_bytes(inference.device_of(built), memory_bytes), math.inf
    for size in sizes:
        reader = Reader(built, sequences, context, context, size)
        if reader.held_bytes <= limit:
            break
        least = min(least, reader.held_bytes)
    else:
        estimate = {"estimate_bytes": int(least), "estimated_from": "the compiled programs of reading"}
        yield {"phase": "first_token", **row, "outcome": "oom", "error": f"{limit:,} bytes are there", **estimate}
        return "oom"
    pieces = reader.cut(ids_BT)
    _, state = reader(pieces)
    row |= {"chunk": reader.chunk, "form": _form(reader), "outcome": "ok"}
    held = memory.in_use(reader.device, reader.held_bytes)
    yield {"phase": "memory", **row, "state_bytes": inference.state_bytes(state), **held}
    del state
    for turn in range(blocks):
        [seconds] = clock.time_calls(reader, pieces, warmup=0, repeats=1)
        yield {"phase": "first_token", **row, "turn": turn, "first_token_seconds": seconds}
    return "ok"
