"""The watchdog of a long computation, which between two pieces of work feeds it and asks whether to stop."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable

import jax
from jax.experimental import multihost_utils

from suite.sweep import exit_codes
from suite.sweep.fault_injection import Fault

LONG = 10  # how many times the patience for a step a compilation has
TICKS = 10  # looks of the watchdog within its patience
PARTING = 0.5  # of its patience that a process stays after it was found stuck, so that those of its job show theirs


class Watchdog:
    """Fed once for every piece of work, in every process of a job alike. Without patience nothing is watched."""

    def __init__(self, patience: float = 0.0, fault: Fault | None = None, guard: Callable[[], None] = lambda: None):
        self.patience = patience
        self.fault = fault
        self._label = f"rank {jax.process_index()}: " if jax.process_count() > 1 else ""
        self._guard = guard  # raises where this process may write no more
        self._fed = 0
        self._limit = LONG * TICKS  # in ticks of the watchdog; until the first step all may be compilation
        if patience:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def feed(self, *, long: bool = False) -> None:
        """A piece of work is over; what comes next is a step, or may be `long`, as a compilation is.

        Raises Preempted where a notice has reached any process of the job: in all of them at the same feeding.
        """
        self._guard()
        self._fed += 1
        self.expect(long=long)
        if multihost_utils.reached_preemption_sync_point(self._fed):
            raise exit_codes.Preempted

    def expect(self, *, long: bool) -> None:
        """Says how long the next piece may take: a save, too, may wait for a slow disk."""
        self._limit = LONG * TICKS if long else TICKS

    def _watch(self) -> None:
        """Dumps every stack and ends the process when it was not fed: a thread, since a stuck process raises nothing.

        Processes of a job wait for the one that is stuck, and are found stuck with it; the end of one ends the others,
        and that of rank 0 at once, as it holds the coordination service. So they stay a little, and rank 0 leaves last.
        The next belt is faulthandler's own thread, which needs no interpreter: where that is never let go of.
        """
        stays = 0 if jax.process_count() == 1 else 2 if jax.process_index() == 0 else 1
        seen, still = -1, 0
        while True:
            faulthandler.dump_traceback_later(LONG * self.patience * 2, exit=True)
            time.sleep(self.patience / TICKS)
            still = still + 1 if self._fed == seen else 0
            seen = self._fed
            if still > self._limit:
                os.write(2, f"{self._label}crossover: no progress for {self.patience * still / TICKS:.0f} s\n".encode())
                faulthandler.dump_traceback(all_threads=True)
                time.sleep(stays * PARTING * self.patience)
                os._exit(exit_codes.STUCK)
