"""Warm up, fence, time: the only file that reads a clock around device work."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

# A host-platform CPU client aborts in an all-reduce when many steps are dispatched unfenced; two keep a device busy.
IN_FLIGHT = 2


class Stopwatch:
    """Seconds that can be stopped and go on: `spent` is what ran, evaluation and checkpoints apart."""

    def __init__(self, spent: float = 0.0):
        self._before = spent
        self._began = time.perf_counter()
        self._running = True

    @property
    def spent(self) -> float:
        return self._before + (time.perf_counter() - self._began if self._running else 0.0)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self._before, self._running = self.spent, False
        try:
            yield
        finally:
            self._began, self._running = time.perf_counter(), True


class Every:
    """At which steps so many seconds are over, in every process alike: by the clock of process 0.

    To ask it costs a message, so it is asked at steps that double, and then where its pace says that they are over.
    """

    def __init__(self, seconds: float, step: int, agree: Callable[[Any], Any]):
        self._seconds = seconds
        self._agree = agree
        self.restart(step)

    def is_over(self, step: int) -> bool:
        if step < self._ask:
            return False
        spent, taken = time.perf_counter() - self._began, step - self._since
        left = math.ceil((self._seconds - spent) * taken / spent)
        over, self._ask = self._agree([spent >= self._seconds, step + max(1, min(taken, left))])
        return over

    def restart(self, step: int) -> None:
        self._began, self._since, self._ask = time.perf_counter(), step, step + 1


def time_calls(fn: Callable[..., Any], *args: Any, warmup: int, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, each fenced on its result, after `warmup` calls that are not counted."""
    for _ in range(warmup):
        jax.block_until_ready(fn(*args))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(fn(*args))
        seconds.append(time.perf_counter() - began)
    return seconds


def time_turns(calls: Mapping[str, Callable[[], Any]], *, warmup: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of calls that take turns, round by round: a machine whose speed drifts drifts for all of them.

    A turn begins with a call that is not counted: the one before has left its own data in the caches, and another
    library's threads may still be waiting for work in a loop.
    """
    for fn in calls.values():
        time_calls(fn, warmup=warmup, repeats=0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, fn in calls.items():
            seconds[name] += time_calls(fn, warmup=1, repeats=1)
    return seconds


def time_burst(fn: Callable[[], Any], calls: int) -> float:
    """Seconds of `calls` calls dispatched one after another and waited for once; at most IN_FLIGHT are under way."""
    pending: list[Any] = []
    began = time.perf_counter()
    for _ in range(calls):
        pending.append(fn())
        if len(pending) > IN_FLIGHT:
            jax.block_until_ready(pending.pop(0))
    jax.block_until_ready(pending)
    return time.perf_counter() - began


def time_compile(
    lowered: jax.stages.Lowered, options: Mapping[str, Any] | None = None
) -> tuple[jax.stages.Compiled, float, bool]:
    """Compiles, with the compiler's options if given; the program, its seconds, and whether it was in the cache."""
    hits = []
    jax.monitoring.register_event_listener(
        listener := lambda event, **_: hits.append(event) if "cache_hits" in event else None
    )
    try:
        began = time.perf_counter()
        compiled = lowered.compile(dict(options) if options else None)
        return compiled, time.perf_counter() - began, bool(hits)
    finally:
        jax.monitoring.unregister_event_listener(listener)
