"""Made-up rows in the shapes that measures write, for every cell that claims ask for, and what claims find in them."""

import copy
import dataclasses
import math
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from suite import claims, learning_rates, parts
from suite.claims import ATTENTION, LSTM, Finding
from suite.job import Cell, Job
from suite.sweep.record import Row

GPU = {"platform": "gpu", "place": "some-gpu", "device_kind": "Some GPU", "n_devices": 1, "commit": "abc", "jax": "0"}
PARAMS = 30  # times the width squared
BEST = 3e-3  # of the learning rates
SHORT = 16  # tokens over which every arm learns everything
LENGTHS = (16, 64, 256, 1024, 2048)  # of truncated contexts
OUTCOMES = ("oom", "diverged", "did_not_compile", "crashed")


def finding(claim: ModuleType, rows: list[Row], **thresholds: Any) -> Finding:
    """What a claim finds, by its own thresholds but those that are given."""
    name = claim.__name__.rpartition(".")[2]
    return claims.judge(claim, rows, parts.knobs("suite.claims", name) | thresholds)


def failed(cell: Cell, outcome: str) -> Row:
    """The row of a cell that came to no number."""
    return (
        _shared(cell) | {"outcome": outcome, "error": "planted"} | ({"phase": "train"} if outcome == "diverged" else {})
    )


def rows_of(cell: Cell, ahead: str) -> list[Row]:
    """The rows of a cell in a world in which one of the judged pair is the better at all that is hard.

    It trains and decodes faster, remembers further, keeps its gradient and its gains from compute; what is easy, both
    do. The other arms are as the LSTM is, and attention is a cache of all tokens where it is ahead in speed or not.
    """
    name, knobs = parts.split(cell.measure)
    if name not in SHAPES:
        raise LookupError(f"no planted rows of the measure {name}; add its shape to SHAPES in tests/planted.py")
    family = ATTENTION if _mixer(cell.job) == ATTENTION else LSTM
    better = family == ahead
    return [copy.copy(_shared(cell) | row) for row in SHAPES[name](cell.job, better, ahead, knobs)]


def _shared(cell: Cell) -> Row:
    job = cell.job
    conditions = {"run_id": job.id, "arm": job.arm, "measure": cell.measure, "repeat": cell.repeat, "outcome": "ok"}
    conditions |= {"interleave_with": cell.interleave_with, "placed": False, "reference_width": job.width}
    return dataclasses.asdict(job) | GPU | conditions


def _size(job: Job, better: bool, ahead: str, knobs: dict[str, str]) -> Iterable[Row]:
    params = PARAMS * job.width**2
    yield {"phase": "model", "params": params, "flops_per_token": 2.0 * params}
    if ahead == LSTM:  # a cache that does not grow
        state = {context: 64 for context in (256, 1024, 4096, 16384)}
    else:
        state = {context: _bytes_a_token(job) * context + 8 for context in (256, 1024, 4096, 16384)}
    for context, size in state.items():
        yield {"phase": "state", "context": context, "state_bytes": size}


def _mixer(job: Job) -> str:
    """The name of the first mixer of a pattern."""
    return parts.split(parts.pattern(job.mixer)[0])[0]


def _bytes_a_token(job: Job) -> int:
    if _mixer(job) != ATTENTION:
        return 0
    heads = parts.knobs("suite.mixers", job.mixer)
    kv_heads = int(heads["kv_heads"]) or int(heads["heads"])
    return 2 * job.depth * kv_heads * (job.width // int(heads["heads"])) * (2 if job.dtype == "bfloat16" else 4)


def _path(job: Job, better: bool, ahead: str, knobs: dict[str, str]) -> Iterable[Row]:
    for distance in (1, 8, job.length - 1):
        yield {"phase": "path", "distance": distance, "reachable": True, "path": 20 + (0 if better else 2 * distance)}


def _learning(job: Job, better: bool, ahead: str, knobs: dict[str, str]) -> Iterable[Row]:
    tokens = job.steps * job.batch * job.length
    params = PARAMS * job.width**2
    for step in range(0, job.steps + 1, max(1, min(job.validate_every, job.steps // 10 or 1))):
        loss = 1.5 + 4 / (1 + (8 if better else 1) * step / job.steps)
        yield {
            "phase": "validation",
            "step": step,
            "tokens": step * job.batch * job.length,
            "seconds": 1.0 * step,
            "loss": loss + abs(math.log10(job.learning_rate / BEST)) if job.seed in learning_rates.SEEDS else loss,
            "final_accuracy": 1.0 if better or _is_easy(job) else 0.05,
        }
    compute = math.log(6.0 * params * tokens / 1e10)
    levels_off = 0.0 if better else 1.2e-3 * compute * abs(compute)
    loss = 2 * math.exp(-0.05 * compute + levels_off) * (1 + 3e-3 * (job.seed % 3))
    # The best size grows with compute, at the top budget of scale gpu beyond the widths that it begins with.
    loss *= 1 + 0.02 * math.log(params / (PARAMS * 256**2) / math.exp(0.3 * (compute - math.log(1e15 / 1e10)))) ** 2
    accuracy = 1.0 if better or _is_easy(job) else 0.05
    measured = {"final_accuracy": accuracy, "accuracy": accuracy, "loss": loss, "examples": job.test_examples}
    yield {"phase": "test", "step": job.steps, "tokens": tokens, "seconds": 9.0, "params": params, **measured}


def _is_easy(job: Job) -> bool:
    return job.length <= SHORT


def _step_time(job: Job, better: bool, ahead: str, knobs: dict[str, str]) -> Iterable[Row]:
    yield {"phase": "compile", "argument_bytes": 8, "output_bytes": 8, "alias_bytes": 0, "temp_bytes": 64}
    sequential = "sequential" in job.mixer
    for turn in range(3):
        seconds = (1.0 if better else 40.0) * (3.0 if sequential else 1.0) * (1 + 0.01 * turn)
        yield {"phase": "block", "turn": turn, "tokens": job.batch * job.length, "burst_seconds": seconds, "calls": 1}


def _decode(job: Job, better: bool, ahead: str, knobs: dict[str, str]) -> Iterable[Row]:
    sequences = int(knobs.get("batch", 1))
    for context in (1024, 4096):
        size = sequences * (64 if ahead == LSTM else _bytes_a_token(job) * context + 8)
        yield {"phase": "memory", "context": context, "capacity": context, "sequences": sequences, "state_bytes": size}
        for turn in range(3):
            timed = {"turn": turn, "decoded": 16, "decode_seconds": (1.0 if better else 2.0) * (1 + 0.01 * turn)}
            yield {"phase": "decode", "context": context, "sequences": sequences, **timed}


def _truncated_context(job: Job, better: bool, ahead: str, knobs: dict[str, str]) -> Iterable[Row]:
    reach = job.length if better else 256
    for turn in range(4):
        for context in (*(at for at in LENGTHS if at < job.length), job.length):
            nats = 2 + 0.1 * turn + 0.2 * max(0.0, math.log(reach / context))
            yield {"phase": "context", "context": context, "turn": turn, "windows": 4, "nats": nats}


def _length_accuracy(job: Job, better: bool, ahead: str, knobs: dict[str, str]) -> Iterable[Row]:
    for times in (1, 2, 4):
        accuracy = 1.0 if better else 0.5
        far = {"eval_length": times * job.length, "remedy": knobs.get("remedy", ""), "examples": 64}
        yield {"phase": "length", "accuracy": accuracy, "final_accuracy": accuracy, **far}


def _gradient_reach(job: Job, better: bool, ahead: str, knobs: dict[str, str]) -> Iterable[Row]:
    yield from _norms(job, "reach", job.length - 1, better)


def _trained_gradient_reach(job: Job, better: bool, ahead: str, knobs: dict[str, str]) -> Iterable[Row]:
    yield from _norms(job, "trained_reach", int(parts.knobs("suite.tasks", job.task)["distance"]) - 1, better)


def _norms(job: Job, phase: str, last: int, better: bool) -> Iterable[Row]:
    decay = 0.1 if better else 20.0
    for distance in (*range(9), last):
        norm = 0.5 * (1 + 0.01 * job.seed) * (1.0 if distance <= 8 else 10.0**-decay)
        yield {"phase": phase, "distance": distance, "norm": norm}


SHAPES = {
    "size": _size,
    "path": _path,
    "learning": _learning,
    "step_time": _step_time,
    "decode": _decode,
    "truncated_context": _truncated_context,
    "length_accuracy": _length_accuracy,
    "gradient_reach": _gradient_reach,
    "trained_gradient_reach": _trained_gradient_reach,
}
