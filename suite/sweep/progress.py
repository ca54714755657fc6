"""Cells done and time left, a line for each cell that is done."""

import collections
from collections.abc import Callable, Iterable

from suite import parts
from suite.job import Cell

FEWEST = 5  # cells done before time left is told, and
LEAST = 0.1  # the share of all seconds that they took: the first cells compile, and their estimates are the poorest
WEIGHT = 10.0  # estimated seconds of a measure's cells at which its own pace counts as much as that of all


class Forecast:
    """Seconds that cells will take, by what others of their measure took against the estimates of their costs.

    The seconds that go by are shared out among the cells under way, so those of cells that run side by side add up to
    what a clock shows. Those between cells, as when a process starts, are a part of the whole.
    """

    def __init__(self, cost: Callable[[Cell], float]):
        self.cost = cost
        self.left: dict[Cell, float] = {}  # cells that are not done, and the seconds that were spent on each
        self.running: set[Cell] = set()
        self.now: float | None = None  # of the last event; none before the first cell has started
        self.between = 0.0
        self.n_done = 0
        self.done_cost: dict[str, float] = collections.defaultdict(float)  # by measure
        self.done_seconds: dict[str, float] = collections.defaultdict(float)

    def expect(self, cells: Iterable[Cell]) -> None:
        """Makes these the cells that are left; none of them is under way."""
        self.left, self.running = dict.fromkeys(cells, 0.0), set()

    def follow(self, event: str, cell: Cell, now: float) -> None:
        """Takes note that a cell was started, done or skipped at a moment of a clock that never goes back."""
        if self.now is not None:
            for other in self.running:
                self.left[other] += (now - self.now) / len(self.running)
            if not self.running:
                self.between += now - self.now
        if event == "started":
            self.now = now
            self.running.add(cell)
            self.left.setdefault(cell, 0.0)
            return
        self.now = self.now and now
        self.running.discard(cell)
        spent = self.left.pop(cell, None)
        if event == "done" and spent is not None:
            self.n_done += 1
            self.done_cost[_name(cell)] += self.cost(cell)
            self.done_seconds[_name(cell)] += spent

    def seconds(self) -> float:
        """The seconds until all cells that were asked for are done; LookupError where too little is done to tell."""
        spent, cost = sum(self.done_seconds.values()), sum(self.done_cost.values())
        if self.n_done < FEWEST or not spent:
            raise LookupError(f"{self.n_done} cells are done, wanted {FEWEST}")
        left = 0.0
        for cell, already in self.left.items():
            measure = _name(cell)
            pace = (self.done_seconds[measure] + WEIGHT * spent / cost) / (self.done_cost[measure] + WEIGHT)
            left += max(self.cost(cell) * pace - already, 0.0)
        if spent < LEAST * (spent + left):
            raise LookupError(f"{spent:.0f} s of about {spent + left:.0f} s are done")
        return left * (1 + self.between / (spent + sum(self.left.values())))


class Progress:
    """Prints of each cell that is done how many are, and how long the others may take."""

    def __init__(self, cost: Callable[[Cell], float], clock: Callable[[], float]):
        self.clock = clock
        self.forecast = Forecast(cost)
        self.n_over = 0

    def follow(self, event: str, cell: Cell) -> None:
        """Takes note that a cell was started, skipped or done."""
        self.forecast.follow(event, cell, self.clock())
        self.n_over += event != "started"
        if event == "done":
            share = f"{self.n_over}/{self.n_over + len(self.forecast.left)}"
            print(f"[{share}] {cell.label}{self._time_left()}", flush=True)

    def _time_left(self) -> str:
        """The time left, of the cells that were asked for so far: when they are done claims may ask for more."""
        try:
            seconds = self.forecast.seconds()
        except LookupError:
            return ""
        if not self.forecast.left:
            return ""
        return f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"


def _name(cell: Cell) -> str:
    return parts.split(cell.measure)[0]
