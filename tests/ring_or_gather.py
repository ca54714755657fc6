"""Attention over the mesh axis context: is it faster in a ring or with all keys and values gathered? On this machine.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python tests/ring_or_gather.py

Training steps of both in turns, in one process; a ratio is that of two steps in one turn, with a 95 % interval.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import jax

from suite import machine
from suite import mesh as meshes
from suite.job import Job
from suite.judging.statistics import ratio_interval
from suite.sweep import provenance
from suite.training import rig

JOB = Job(task="text", width=256, depth=2, batch=1, steps=100)
MESH = "context:8"
CASES = ((4096, ""), (16_384, ""), (4096, "window=256"))  # tokens, and knobs of both


def stepper(mixer: str, length: int) -> Callable[[], float]:
    """Trains for one step more, and returns the seconds that it took."""
    built = rig.build(JOB.replace(mixer=mixer, length=length), meshes.make(MESH))
    state, step = built.state, 0

    def seconds() -> float:
        nonlocal state, step
        began = time.perf_counter()
        [(_, state, _)] = built.train(state, step, step + 1)
        jax.block_until_ready(state)
        step += 1
        return time.perf_counter() - began

    return seconds


def line(length: int, knobs: str, turns: int) -> str:
    """A line of the table, of so many turns after a first, in which both are compiled."""
    specs = [f"attention:implementation={name}{',' if knobs else ''}{knobs}" for name in ("ring", "blocked")]
    steppers = [stepper(spec, length) for spec in specs]
    [_, *taken] = [[seconds() for seconds in steppers] for _ in range(turns + 1)]
    ratio = ratio_interval([math.log(ring / gathered) for ring, gathered in taken])
    medians = " | ".join(f"{statistics.median(of_one):.2f} s" for of_one in zip(*taken, strict=True))
    return f"| {length:,} | {knobs or 'all'} | {medians} | {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8)
    flags = parser.parse_args()
    print(f"commit {provenance.of_source({})['commit']}, jax {jax.__version__}, {machine.cores()} of {machine.cpu()}")
    print("| tokens | keys | a step, ring | a step, gathered | ring over gathered |\n|---|---|---|---|---|")
    for length, knobs in CASES:
        print(line(length, knobs, flags.turns), flush=True)
