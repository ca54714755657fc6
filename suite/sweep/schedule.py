"""The schedule of a comparison: the cells that it asks for, their costs, and the child that runs each."""

import collections
import dataclasses
import itertools
import json
import typing
from collections.abc import Iterable, Mapping

from suite import declarations, learning_rates, parts
from suite.job import Cell, Job
from suite.judging import alike, pace
from suite.scale import Scale, claim_cells, curve_cells, untested
from suite.sweep import store
from suite.sweep.record import Row

# At once, of what is not timed, on a CPU: a small model's step is no faster on two cores than on one.
CHILDREN = 2


@typing.runtime_checkable
class Schedule(typing.Protocol):
    """What suite/sweep/comparison.py runs until it asks for no more: a Plan, Search, Serving, Reading or Recalling."""

    def cells(self, rows: list[Row]) -> list[Cell]:
        """All cells that it has asked for, given the rows."""
        ...

    def first_cells(self) -> list[Cell]:
        """Those that are known before anything is measured, which a child checks."""
        ...

    def on(self, devices: int) -> "Schedule":
        """The same with its batches for so many devices over which examples are split."""
        ...

    def with_seconds(self, rows: list[Row]) -> set[Cell]:
        """The cells that need the machine for themselves beside those that depend on the place."""
        ...

    def describe(self, place: Row, command: list[str]) -> tuple[str, str]:
        """The name of a file under --out, and its content, from which a report knows what was asked."""
        ...


@dataclasses.dataclass(frozen=True)
class Plan:
    """The question of a comparison: claims at a scale, and how the learning rates of their trainings are chosen."""

    scale: Scale
    claims: tuple[str, ...]
    rates: str = "tuned"  # of learning_rates.RATES

    def cells(self, rows: list[Row]) -> list[Cell]:
        """The cells that choose learning rates, until these are known; then those of the curves and of all claims."""
        wanted: dict[Cell, None] = {}
        for matched in self.scales(rows):
            if matched.match == "step_time":
                arms = arms_of(matched, self.claims)
                wanted.update(dict.fromkeys(pace.cells(matched, arms, rows)))
                if not pace.is_settled(matched, arms, rows):
                    continue
            cells_of = {claim: self.cells_of(claim, matched, rows) for claim in self.claims}
            if untuned := self.untuned(cells_of, rows):
                wanted.update(dict.fromkeys(learning_rates.cells(untuned, rows)))
                break
            wanted.update(dict.fromkeys(curve_cells(matched)))
            wanted.update(dict.fromkeys(itertools.chain(*cells_of.values())))
        return list(wanted)

    def first_cells(self) -> list[Cell]:
        """Those that are known before anything is measured, with the learning rates of the table."""
        return dataclasses.replace(self, rates="table").cells([])

    def on(self, devices: int) -> "Plan":
        """The plan with its batches for so many devices over which examples are split."""
        return dataclasses.replace(self, scale=self.scale.on(devices))

    def with_seconds(self, rows: list[Row]) -> set[Cell]:
        """The cells that need the machine for themselves beside those that depend on the place.

        The report shows learning curves at equal seconds.
        """
        return {cell for matched in self.scales(rows) for cell in curve_cells(matched)}

    def describe(self, place: Row, command: list[str]) -> tuple[str, str]:
        """The file, and its content, from which a report knows the comparison."""
        settings = {"scale": self.scale.name, "about": self.scale.about, "evidence": self.scale.evidence}
        settings |= {"arms": list(self.scale.arms), "claims": list(self.claims), "command": command, "place": place}
        settings["untested"] = self.untested
        return store.COMPARISON, json.dumps(settings, indent=1) + "\n"

    def cells_of(self, claim: str, scale: Scale, rows: list[Row]) -> list[Cell]:
        return claim_cells(parts.load("suite.claims", claim)[0], scale, rows)

    def untuned(self, cells_of: Mapping[str, list[Cell]], rows: list[Row]) -> list[Job]:
        """The trainings, one for several alike, on which a verdict rests and whose learning rate is to be chosen."""
        if not self.scale.tuned:
            return []
        resting = [claim for claim in self.claims if learns(claim) and claim not in self.untested]
        jobs = {cell.job for claim in resting for cell in cells_of[claim] if cell.measure == "learning"}
        return learning_rates.untuned(jobs, self.rates, rows)

    @property
    def untested(self) -> dict[str, str]:
        """The claims that cannot be decided at this scale, and why."""
        reasons = {claim: untested(parts.load("suite.claims", claim)[0], self.scale.name) for claim in self.claims}
        return {claim: reason for claim, reason in reasons.items() if reason}

    def scales(self, rows: list[Row]) -> list[Scale]:
        """The scale with the rates that were chosen, once for each quantity that arms hold equal."""
        choices = learning_rates.choices(rows)
        scales = [dataclasses.replace(self.scale, match=match, choices=choices) for match in self.scale.matches]
        return [
            dataclasses.replace(matched, own_widths=pace.own_widths(matched, arms_of(matched, self.claims), rows))
            if matched.match == "step_time"
            else matched
            for matched in scales
        ]


def learns(claim: str) -> bool:
    """Whether a claim's verdict rests on trainings whose conditions it names."""
    return hasattr(parts.load("suite.claims", claim)[0], "trainings")


def arms_of(scale: Scale, claims: Iterable[str]) -> list[str]:
    """The arms that are matched: those of the scale and those that a claim adds."""
    by_shape = dataclasses.replace(scale, match="params", matches=("params",))
    modules = [parts.load("suite.claims", claim)[0] for claim in claims]
    cells = [cell for module in modules for cell in claim_cells(module, by_shape, [])]
    return [arm for arm in dict.fromkeys([*scale.arms, *(cell.job.arm for cell in cells)]) if arm != scale.against]


def shares(left: list[Cell], over: Iterable[Cell], with_seconds: set[Cell], children: int) -> list[list[Cell]]:
    """The cells that are run next, a list for each child; cells that are timed have the machine for themselves.

    Repeats of a timing are spread over the whole comparison, the first before all else and the last after it: between
    processes that run one after another a machine that drifts would look as if it stood still. A child's own share
    comes first in its list, then those of the others from their ends, for when it is done with its own: from their
    beginnings it would compile what they have compiled.
    """
    timed, now = _parted(left, with_seconds)
    if timed:
        first = min(cell.repeat for cell in timed)
        over_timed, over_now = _parted(over, with_seconds)
        last = max(cell.repeat for cell in (*timed, *over_timed))
        done = sum(map(estimate_seconds, over_now))
        due = first / max(1, last) * (done + sum(map(estimate_seconds, now)))
        if not now or done >= due:
            return [[cell for cell in timed if cell.repeat == first]]
        now = _first_seconds(now, due - done)
    if children == 1:
        return [now]
    programs = _by_program(now)
    shares: list[list[Cell]] = [[] for _ in range(children)]
    seconds = [0.0] * children
    cost = {key: sum(map(estimate_seconds, cells)) for key, cells in programs.items()}
    for key in sorted(programs, key=lambda key: -cost[key]):  # the longest first: none is left to run alone
        least = seconds.index(min(seconds))
        shares[least] += programs[key]
        seconds[least] += cost[key]
    ends = [share[::-1] for share in shares]
    return [[*share, *itertools.chain(*ends[child + 1 :], *ends[:child])] for child, share in enumerate(shares)]


def _parted(cells: Iterable[Cell], with_seconds: set[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The cells that are timed, and the others."""
    timed, others = [], []
    for cell in cells:
        (timed if cell in with_seconds or cell.placed else others).append(cell)
    return timed, others


def _by_program(cells: Iterable[Cell]) -> dict[tuple, list[Cell]]:
    programs: dict[tuple, list[Cell]] = collections.defaultdict(list)
    for cell in cells:
        programs[alike.of_job(cell.job, alike.PROGRAM)].append(cell)
    return programs


def _first_seconds(cells: list[Cell], seconds: float) -> list[Cell]:
    """The first cells, of whole programs, that take as long."""
    first: list[Cell] = []
    for of_program in _by_program(cells).values():
        if sum(map(estimate_seconds, first)) >= seconds:
            break
        first += of_program
    return first


def estimate_seconds(cell: Cell) -> float:
    """A rough cost of a cell on two CPU cores, by its measure's SECONDS: FLOPs at 15 GFLOP/s and a compilation."""
    job = cell.job
    parameters = job.depth * 12 * job.width**2 + 256 * job.width
    tokens = job.batch * job.length
    step = 6 * tokens * (parameters + job.depth * job.width * job.length) / 15e9
    compilation = 6 if job.seed in (0, learning_rates.SEEDS[0]) and cell.repeat == 0 else 1
    return declarations.seconds(cell.measure, job, step=step, compilation=compilation)
