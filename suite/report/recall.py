"""Recall against state: what share of the values arms recall, by the bytes of their state and by decode latency.

Nothing of it is judged. The figures are those of Zoology (Arora et al. 2023) and of Based (Arora et al. 2024).
"""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from suite import learning_rates, parts
from suite.claims import Figure, Point
from suite.job import Job
from suite.judging import alike, trials
from suite.report import figures, words
from suite.report.page import Block, Cells, Commands, Heading, Prose, Table
from suite.report.records import Comparison
from suite.sweep.recalling import WIDTH, WINDOW
from suite.sweep.record import Row

MEASURES = ("learning", "size", "decode")
RECALLED = 0.9  # of the values
COLUMNS = ("arm", "size", "parameters", "state", "a decoded token", "learning rate", "recalled", "each seed")
RANGE = "from the least to the greatest seed"
WINDOW_OF_ALL = (WINDOW, 0)


@dataclasses.dataclass(frozen=True)
class Size:
    """One size of an arm, with the rows of its trainings, of its bytes and of its decoding."""

    arm: str
    turned: str  # a knob of the mixer, or the width
    value: int
    rows: list[Row]

    @property
    def name(self) -> str:
        """As d_state=16."""
        of_all = ", all tokens" if (self.turned, self.value) == WINDOW_OF_ALL else ""
        return f"{self.turned}={self.value}{of_all}"

    @property
    def accuracies(self) -> list[float]:
        """The share of all answers of the test that are right, of each seed that came to its end."""
        return [row["accuracy"] for row in self.ends if row["outcome"] == "ok"]

    @property
    def ends(self) -> list[Row]:
        """The end of each seed's training: its test, or the row that says why it has none."""
        rows = [row for row in self._of("learning") if row["outcome"] != "ok" or row["phase"] == "test"]
        rate = trials.rate_of_most_seeds(rows) if rows else 0.0
        return sorted((row for row in rows if row["learning_rate"] == rate), key=lambda row: row["seed"])

    @property
    def params(self) -> list[str]:
        """The number of parameters; none before it is known."""
        return [words.number(row["params"]) for row in self.rows if "params" in row][:1]

    @property
    def state_bytes(self) -> list[int]:
        """The bytes of the state of one example of the trained length; none before they were counted."""
        rows = [row for row in self._of("size") if row["outcome"] == "ok" and row["phase"] == "state"]
        return [row["state_bytes"] for row in rows if row["context"] == row["length"]][:1]

    @property
    def token_seconds(self) -> list[float]:
        """The median over blocks of the seconds of a decoded token; none before they were measured."""
        rows = [row for row in self._of("decode") if row["outcome"] == "ok" and row["phase"] == "decode"]
        return [statistics.median(row["decode_seconds"] / row["decoded"] for row in rows)] if rows else []

    def missing(self, measure: str) -> str:
        """Why a measure has no number."""
        outcomes = [words.outcome(row["outcome"]) for row in self._of(measure) if row["outcome"] != "ok"]
        return (outcomes or ["not measured yet"])[0]

    def _of(self, measure: str) -> list[Row]:
        return [row for row in self.rows if parts.split(row["measure"])[0] == measure]


@dataclasses.dataclass(frozen=True)
class Group:
    """The sizes of all arms under the same conditions."""

    job: Job  # the fields that they share, beside the width
    sizes: list[Size]

    @property
    def rows(self) -> list[Row]:
        return [row for size in self.sizes for row in size.rows]

    @property
    def arms(self) -> dict[str, list[Size]]:
        """The sizes of each arm whose bytes and accuracy are known, the least state first."""
        arms: dict[str, list[Size]] = defaultdict(list)
        for size in self.sizes:
            if size.accuracies and size.state_bytes:
                arms[size.arm].append(size)
        return {arm: sorted(sizes, key=lambda size: size.state_bytes) for arm, sizes in arms.items()}


def recall(comparison: Comparison) -> Iterator[Block]:
    """A section for each conditions under which launch.recall has trained."""
    for number, group in enumerate(_groups(comparison), 1):
        yield from _section(comparison, group, number)


def clauses(comparison: Comparison) -> Iterator[str]:
    """What launch.recall found, for the headline."""
    for group in _groups(comparison):
        yield from (f"on {parts.short('suite.tasks', group.job.task)}, {clause}" for clause in _within(group))


def _groups(comparison: Comparison) -> list[Group]:
    """The rows of the sizes that were asked for, by the conditions of their jobs."""
    if not comparison.recalling:
        return []
    by_job: dict[Job, dict[tuple[str, int], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in comparison.rows:
        if parts.split(row["measure"])[0] in MEASURES and row["seed"] not in learning_rates.SEEDS:
            job = comparison.jobs[row["run_id"]]
            by_job[alike.without_arm(job).replace(width=1)][row["arm"], job.width].append(row)
    groups = []
    for job, rows in sorted(by_job.items(), key=lambda item: item[0].id):
        sizes = [
            Size(one["arm"], one["turned"], one["value"], rows[one["mixer"], one["width"]])
            for one in comparison.recalling["sizes"]
        ]
        if any(size.accuracies for size in sizes):
            groups.append(Group(job, sizes))
    return groups


def _section(comparison: Comparison, group: Group, number: int) -> Iterator[Block]:
    yield Heading("Recall against state (not judged)", name=f"recall {number}")
    yield Prose(" ".join(_sentences(comparison, group)))
    by_bytes = _figure(
        group,
        f"recall_{number}_state",
        "Share of the values that is recalled, by the state of one sequence",
        "state (bytes)",
        lambda size: size.state_bytes,
    )
    by_latency = _figure(
        group,
        f"recall_{number}_latency",
        "Share of the values that is recalled, by the time of a decoded token",
        "microseconds of a decoded token",
        lambda size: [1e6 * seconds for seconds in size.token_seconds],
    )
    for figure in (by_bytes, by_latency):
        styles = figures.styles_of(figure, comparison.arms)
        yield from figures.chart(figure, styles, RANGE, notes=["Means over seeds. A line joins the sizes of an arm."])
    yield Table(COLUMNS, tuple(map(_line, group.sizes)))
    yield Commands((words.command(["launch.recall", *comparison.recalling["command"]]),))
    yield Commands(tuple(comparison.commands(group.rows)), "each size by itself")


def _figure(group: Group, name: str, title: str, x: str, value: Callable[[Size], Sequence[float]]) -> Figure:
    points, failed = [], []
    for size in group.sizes:
        for at in value(size):
            accuracies = size.accuracies
            if accuracies:
                bounds = (min(accuracies), max(accuracies)) if len(accuracies) > 1 else ()
                points.append(Point(size.arm, at, statistics.fmean(accuracies), *bounds))
            elif size.ends:
                failed.append((size.arm, at))
    return Figure(
        name=name,
        title=title,
        x=x,
        y="accuracy",
        points=tuple(points),
        thresholds={"recalled": RECALLED},
        failed=tuple(failed),
        log_y=False,
    )


def _sentences(comparison: Comparison, group: Group) -> Iterator[str]:
    job = group.job
    task = parts.short("suite.tasks", job.task)
    about = [] if parts.is_own("suite.tasks", job.task) else [parts.about("suite.tasks", job.task)]
    yield " ".join([f"The task is {task}.", *about])
    duration = learning_rates.duration(job)
    yield f"Trained on {words.lengths(job)}, {job.batch} examples a step, {duration}, {job.optimizer}, {job.dtype}."
    yield (
        "The state is what a model carries from token to token: attention's cache, or the numbers of a recurrence; its "
        "bytes are those of one sequence of that length, in all blocks."
    )
    turned = {size.arm: size.turned for size in group.sizes}
    yield f"Its size is turned by the {words.listed([f'{knob} ({arm})' for arm, knob in turned.items()])}."
    if WIDTH in turned.values():
        yield "An arm whose width is turned has more parameters with more state: it may recall more by either."
    yield "All sizes of an arm have one learning rate."
    for clause in (*_within(group), *_enough(group)):
        yield f"{clause[:1].upper()}{clause[1:]}."


def _within(group: Group) -> Iterator[str]:
    """What each arm recalls within the least state in which every arm fits, the best first."""
    arms = group.arms
    if not arms:
        return
    budget = max(sizes[0].state_bytes for sizes in arms.values())
    largest = [max(sizes, key=lambda size: (size.state_bytes <= budget, size.state_bytes)) for sizes in arms.values()]
    largest.sort(key=lambda size: -statistics.fmean(size.accuracies))
    each = [f"{words.arm(size.arm)} {'recalls ' if size is largest[0] else ''}{_share(size)}" for size in largest]
    yield f"within {words.si(budget[0], 'B')} of state {words.listed(each)}"


def _enough(group: Group) -> Iterator[str]:
    """The least state with which each arm recalls nearly all values."""
    reaching = {
        arm: [size for size in sizes if statistics.fmean(size.accuracies) >= RECALLED]
        for arm, sizes in group.arms.items()
    }
    least = {arm: sizes[0].state_bytes[0] for arm, sizes in reaching.items() if sizes}
    each = [f"{words.arm(arm)} with {words.si(size, 'B')}" for arm, size in least.items()]
    fewer = [words.arm(arm) for arm in reaching if arm not in least]
    most = words.percent(RECALLED)
    if not reaching:
        return
    if not each:
        yield f"no arm recalls {most} of the values at any size"
        return
    clauses = [f"{most} and more are recalled by {words.listed(each)}"]
    if fewer:
        clauses.append(f"{words.listed(fewer)} {'recalls' if len(fewer) == 1 else 'recall'} less at every size")
    yield "; ".join(clauses)


def _share(size: Size) -> str:
    """90 % (88 % to 92 % in three seeds, width=64, 101,328 parameters)"""
    accuracies = size.accuracies
    seeds = words.counted(len(accuracies), "seed")
    if len(accuracies) > 1:
        seeds = f"{words.percent(min(accuracies))} to {words.percent(max(accuracies))} in {seeds}"
    about = [seeds, size.name, *(f"{params} parameters" for params in size.params)]
    return f"{words.percent(statistics.fmean(accuracies))} ({', '.join(about)})"


def _line(size: Size) -> Cells:
    ends = size.ends
    each = [words.percent(row["accuracy"]) if row["outcome"] == "ok" else words.outcome(row["outcome"]) for row in ends]
    return (
        size.arm,
        size.name,
        *(size.params or [""]),
        *([words.si(value, "B") for value in size.state_bytes] or [size.missing("size")]),
        *([words.seconds(value) for value in size.token_seconds] or [size.missing("decode")]),
        f"{ends[0]['learning_rate']:g}" if ends else "",
        words.percent(statistics.fmean(size.accuracies)) if size.accuracies else "",
        ", ".join(each) or "not trained yet",
    )
