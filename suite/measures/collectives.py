"""Bytes that a device sends in a training step, by operation, mesh axes and loops: from the compiled program."""

import collections
from collections.abc import Iterator

from suite.counting import collectives as counting
from suite.counting.collectives import Collective
from suite.sweep.record import Row
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = "compilation"
CONDITIONS = {"operation": "name", "axes": "names", "loops": "name", "tokens": "tokens"}
QUANTITIES = {
    "collectives": {
        "calls": "1 as {operation}_{axes}_{loops}_calls",
        "sent_bytes": "bytes as {operation}_{axes}_{loops}_sent_bytes",
        "sent_bytes_per_token": "bytes/token as {operation}_{axes}_{loops}_sent_bytes_per_token",
    }
}
ALL = "all"
OUTSIDE, IN_A_LOOP, IN_TIME = "outside", "in_a_loop", "in_time"


def measure(rig: Rig) -> Iterator[Row]:
    """One row for each operation, its mesh axes and whether it runs in a loop over time, then one for all of them.

    Of a loop, `in_time` goes over tokens or chunks of them, and `in_a_loop` over blocks, microbatches or devices. Bytes
    are those that one device sends in a step; `tokens` are its share of the batch. On one device the row of all is the
    only one, and zero. ValueError where a loop with a collective has a length that the program does not state.
    """
    sums: dict[tuple[str, str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    sums[ALL, ALL, ALL].update(calls=0, sent_bytes=0)
    for one in counting.of_program(rig.step, rig.mesh):
        calls = _calls(one)
        for at in ((one.operation, "+".join(one.axes), _loops(one)), (ALL, ALL, ALL)):
            sums[at].update(calls=calls, sent_bytes=calls * one.sent)
    tokens = rig.job.tokens_a_step / rig.mesh.size
    for (operation, axes, loops), total in sorted(sums.items(), key=lambda entry: (ALL in entry[0], entry[0])):
        yield {
            "phase": "collectives",
            **{"operation": operation, "axes": axes, "loops": loops, "tokens": tokens},
            **total,
            "sent_bytes_per_token": total["sent_bytes"] / tokens,
            "outcome": "ok",
        }


def _calls(one: Collective) -> int:
    if one.calls is None:
        loops = ", ".join(loop.name for loop in one.loops if loop.trips is None)
        raise ValueError(f"the program does not state how often these loops around a {one.operation} run: {loops}")
    return one.calls


def _loops(one: Collective) -> str:
    if one.in_time:
        return IN_TIME
    return IN_A_LOOP if one.loops else OUTSIDE
