"""Cells done and time left: a bar on a terminal, plain lines elsewhere."""

import collections
import dataclasses
import sys
from collections.abc import Callable, Iterable
from typing import Any

import rich.progress

from suite import parts
from suite.job import Cell

FEWEST = 5  # cells done before time left is told, and
LEAST = 0.1  # the share of all seconds that they took: the first cells compile, and their estimates are the poorest
WEIGHT = 10.0  # estimated seconds of a measure's cells at which its own pace counts as much as that of all


@dataclasses.dataclass
class Left:
    """A cell that is not done: its measure, the estimated seconds, and those that were spent on it."""

    measure: str
    cost: float
    spent: float = 0.0


class Forecast:
    """Seconds that cells will take, by what others of their measure took against the estimates of their costs.

    The seconds that go by are shared out among the cells under way, so those of cells that run side by side add up to
    what a clock shows. Those between cells, as when a process starts, are a part of the whole.
    """

    def __init__(self, cost: Callable[[Cell], float]):
        self.cost = cost
        self.left: dict[Cell, Left] = {}
        self.running: dict[Cell, Left] = {}
        self.now: float | None = None  # of the last event; none before the first cell has started
        self.between = 0.0
        self.n_done = 0
        self.done_cost: dict[str, float] = collections.defaultdict(float)  # by measure
        self.done_seconds: dict[str, float] = collections.defaultdict(float)

    def expect(self, cells: Iterable[Cell]) -> None:
        """These are left; nothing is under way."""
        self.left, self.running = {cell: self._new(cell) for cell in cells}, {}

    def follow(self, event: str, cell: Cell, now: float) -> None:
        """A cell was started, done or skipped at a moment of a clock that never goes back."""
        if self.now is not None:
            for one in self.running.values():
                one.spent += (now - self.now) / len(self.running)
            if not self.running:
                self.between += now - self.now
        if event == "started":
            self.now = now
            self.running[cell] = self.left.setdefault(cell, self._new(cell))
            return
        self.now = self.now and now
        self.running.pop(cell, None)
        over = self.left.pop(cell, None)
        if event == "done" and over is not None:
            self.n_done += 1
            self.done_cost[over.measure] += over.cost
            self.done_seconds[over.measure] += over.spent

    def seconds(self) -> float:
        """Until all are done that were asked for; LookupError where too little is done to tell."""
        spent, cost = sum(self.done_seconds.values()), sum(self.done_cost.values())
        if self.n_done < FEWEST or not spent:
            raise LookupError(f"{self.n_done} cells are done, wanted {FEWEST}")
        left = 0.0
        for one in self.left.values():
            pace = (self.done_seconds[one.measure] + WEIGHT * spent / cost) / (self.done_cost[one.measure] + WEIGHT)
            left += max(one.cost * pace - one.spent, 0.0)
        if spent < LEAST * (spent + left):
            raise LookupError(f"{spent:.0f} s of about {spent + left:.0f} s are done")
        return left * (1 + self.between / (spent + sum(one.spent for one in self.left.values())))

    def _new(self, cell: Cell) -> Left:
        return Left(parts.split(cell.measure)[0], self.cost(cell))


class Progress:
    """Tells of cells as they are started, skipped and done."""

    def __init__(self, cost: Callable[[Cell], float], clock: Callable[[], float]) -> None:
        self.clock = clock
        self.forecast = Forecast(cost)
        self.n_over = 0
        self.bar: rich.progress.Progress | None = None
        if sys.stdout.isatty():
            columns = ("[progress.description]{task.description}", rich.progress.BarColumn(), "{task.fields[cells]}")
            self.bar = rich.progress.Progress(*columns, "{task.fields[left]}", transient=True)
            self.task = self.bar.add_task("starting", total=None, cells="", left="")

    def __enter__(self) -> "Progress":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def expect(self, left: list[Cell]) -> None:
        self.forecast.expect(left)

    def follow(self, event: str, cell: Cell) -> None:
        """Shows that a cell was started, skipped or done."""
        self.forecast.follow(event, cell, self.clock())
        self.n_over += event != "started"
        share = f"{self.n_over}/{self.n_over + len(self.forecast.left)}"
        if event == "skipped":
            return
        if self.bar is not None:
            fields: dict[str, Any] = {"description": cell.label, "cells": f"{share} cells", "left": self._time_left()}
            total = self.n_over + len(self.forecast.left)
            self.bar.update(self.task, total=total, completed=self.n_over, **fields)
        elif event == "done":
            print(f"[{share}] {cell.label}{self._time_left()}", flush=True)

    def _time_left(self) -> str:
        """Of the cells that were asked for so far: when they are done claims may ask for more."""
        try:
            seconds = self.forecast.seconds()
        except LookupError:
            return ""
        if not self.forecast.left:
            return ""
        return f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"
