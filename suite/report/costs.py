"""What arms cost at a context: numbers from rows, the lower the better, and the ratio of two arms.

Arms are compared under the same conditions alone: the rows of a Table agree in every field that the cost rests on.
A ratio is taken of turns side by side where arms took turns in one process, else of processes; its interval is over
processes.
"""

import dataclasses
import functools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from suite import learning_rates, parts
from suite.claims import MATCHES
from suite.claims.parallelism import LADDER
from suite.job import Job
from suite.judging import alike, crossing, factors, pace, trials
from suite.judging.statistics import Estimate, Interval, difference
from suite.report import words
from suite.sweep.record import Row

MODEL = (*alike.BACKBONE, "dtype", "state_dtype")
PROGRAM = tuple(name for name in alike.PROGRAM if name not in ("mixer", "length", "batch"))
# Of Student's t, between which 95 % lie, by degrees of freedom: to import scipy.stats for them takes half a second.
T_QUANTILES: dict[float, float] = {
    1: 12.706204736174694,
    2: 4.302652729749462,
    3: 3.1824463052837078,
    4: 2.7764451051977934,
    5: 2.5705818356363146,
    6: 2.4469118511449786,
    7: 2.364624251592784,
    8: 2.306004135204166,
    9: 2.262157162798205,
}
SHOWN = ("width", "depth", "batch", "steps")  # of the conditions; others where they are not at their default


class Question(NamedTuple):
    """What advice is asked for: tokens that are read or trained on, tokens generated after them, sequences at once."""

    context: int
    generate: int
    batch: int


class Point(NamedTuple):
    """Tokens and sequences at which something was measured; 0 sequences where it is of one by itself."""

    context: int
    batch: int

    def distance(self, asked: Question) -> float:
        """How far it is from what is asked, in factors of two of context and of sequences."""
        batch = abs(math.log2(self.batch / asked.batch)) if self.batch else 0.0
        return abs(math.log2(self.context / asked.context)) + batch

    def __str__(self) -> str:
        batch = f" and batch {self.batch:,}" if self.batch else ""
        return f"{words.counted(self.context, 'token')}{batch}"


class Cost(NamedTuple):
    """One number of an arm: of a turn of a process where it was timed, of a seed where the arm was trained."""

    value: float
    at: Point
    row: Row
    turn: int = 0
    is_trained: bool = False

    @property
    def group(self) -> str:
        """What it is paired in: cells that took turns, or seeds, which are the same data; empty where it is alone."""
        return "seeds" if self.is_trained else self.row["interleave_with"]

    @property
    def member(self) -> int:
        """The process of the group, or the seed."""
        return self.row["seed"] if self.is_trained else self.row["repeat"]


class Quantity(NamedTuple):
    """A cost of which the arms are compared.

    `costs` are all that rows tell of it, `spec` is the measure that would tell it at the question, and `alike` are the
    fields of a job in which the arms that are compared agree.
    """

    title: str  # "Trains fastest"
    costs: Callable[[Iterable[Row], Question], Iterator[Cost]]
    spec: Callable[[Question], str]
    alike: tuple[str, ...]
    show: Callable[[float, Point], str]
    more: str  # "takes {} as long", of a number of times
    exact: bool = False  # by construction: one number is enough
    by_batch: bool = True  # whether it turns with the number of sequences
    budget_seconds: float = 0.0  # of the training that would tell it; 0 where none has to end by seconds
    crossover: str = ""  # the file of suite/quantities by which launch.crossover seeks where it turns


def training(rows: Iterable[Row], asked: Question) -> Iterator[Cost]:
    """Seconds of training on a token."""
    del asked
    for row in _of(rows, "step_time", "block"):
        if not pace.is_look(row):
            yield Cost(row["burst_seconds"] / row["tokens"], Point(row["length"], row["batch"]), row, row["turn"])


def learning(rows: Iterable[Row], asked: Question) -> Iterator[Cost]:
    """Loss of the test after trainings that ended by their seconds, of each arm at its own learning rate."""
    del asked
    by_arm: dict[tuple, list[Row]] = defaultdict(list)
    for row in _of(rows, "learning", "test"):
        if row["budget_seconds"] and row["seed"] not in learning_rates.SEEDS:
            by_arm[alike.of_row(row, (*alike.ARM, *factors.FIELDS))].append(row)
    for of_arm in by_arm.values():
        learning_rate = trials.rate_of_most_seeds(of_arm)
        for row in of_arm:
            if row["learning_rate"] == learning_rate:
                yield Cost(row["loss"], Point(row["length"], row["batch"]), row, is_trained=True)


def reading(rows: Iterable[Row], asked: Question) -> Iterator[Cost]:
    """Seconds until a context is read: in the fastest form, or in chunks of one size where it was read whole."""
    del asked
    for row in _of(rows, "first_token", "first_token"):
        yield Cost(row["first_token_seconds"], Point(row["context"], row["sequences"]), row, row["turn"])
    for row in _of(rows, "decode", "prefill"):
        if row["read"] == row["context"]:
            yield Cost(row["prefill_seconds"], Point(row["context"], row["sequences"]), row)


def decoding(rows: Iterable[Row], asked: Question) -> Iterator[Cost]:
    """Seconds a token that is decoded after a context, one of each sequence: in bursts, or until who waits has it."""
    del asked
    for row in _of(rows, "token_latency", "latency"):
        yield Cost(row["median_seconds"], Point(row["context"], row["sequences"]), row, row["turn"])
    for row in _of(rows, "decode", "decode"):
        yield Cost(row["decode_seconds"] / row["decoded"], Point(row["context"], row["sequences"]), row, row["turn"])
    for row in _of(rows, "throughput", "throughput"):  # whose `decoded` are of all sequences
        seconds = row["decode_seconds"] * row["sequences"] / row["decoded"]
        yield Cost(seconds, Point(row["context"], row["sequences"]), row, row["turn"])


def answering(rows: Iterable[Row], asked: Question) -> Iterator[Cost]:
    """Seconds of reading a context and decoding the tokens asked for, each at the cost of one right after the context.

    A token's cost is the median of the same process: as who waits has it where that was timed too, else in bursts.
    """
    rows = list(rows)
    tokens: dict[tuple, list[float]] = defaultdict(list)
    for cost in decoding(rows, asked):
        tokens[measure_of(cost.row), *_process(cost)].append(cost.value)
    for cost in reading(rows, asked):
        name = measure_of(cost.row)
        for of_token in ("token_latency", "decode") if name == "first_token" else (name,):
            if timed := tokens[of_token, *_process(cost)]:
                yield cost._replace(value=cost.value + asked.generate * statistics.median(timed))
                break


def state(rows: Iterable[Row], asked: Question) -> Iterator[Cost]:
    """Bytes of one sequence's state after a context."""
    del asked
    for row in _of(rows, "size", "state"):
        yield Cost(row["state_bytes"], Point(row["context"], 0), row)


def _of(rows: Iterable[Row], measure: str, phase: str) -> Iterator[Row]:
    """The rows of a measure, at any values of its knobs, that hold numbers of a phase."""
    for row in rows:
        if row["outcome"] == "ok" and row.get("phase") == phase and measure_of(row) == measure:
            yield row


def _process(cost: Cost) -> tuple:
    return cost.row["run_id"], cost.row["repeat"], cost.at


def decode_spec(asked: Question) -> str:
    """Reads the context whole, then decodes as many tokens as are asked for, again and again."""
    spec = f"decode:batch={asked.batch},longest={asked.context},shortest={asked.context},tokens={asked.generate}"
    return parts.short("suite.measures", spec)


def measure_of(row: Row) -> str:
    """The name of the measure of a row, without its knobs."""
    return row["measure"].partition(":")[0]


def _a_token(seconds: float, at: Point) -> str:
    together = f", {words.number(at.batch / seconds)} tokens/s of all sequences" if at.batch > 1 else ""
    return f"{words.seconds(seconds)} a token{together}"


QUANTITIES = (
    Quantity(
        title="Trains fastest",
        costs=training,
        spec=lambda _: "step_time",
        alike=PROGRAM,
        show=lambda seconds, _: f"{words.number(1 / seconds)} tokens/s",
        more="takes {} as long",
        crossover="step_time",
    ),
    Quantity(
        title="Learns most in equal seconds of training",
        costs=learning,
        spec=lambda _: "learning",
        alike=tuple(name for name in factors.FIELDS if name not in ("length", "batch")),
        show=lambda loss, _: f"{words.number(loss)} nats a token",
        more="has {} the loss",
        budget_seconds=60.0,
        crossover="loss_at_equal_seconds",
    ),
    Quantity(
        title="Reads fastest",
        costs=reading,
        spec=decode_spec,
        alike=MODEL,
        show=lambda seconds, at: f"{words.seconds(seconds)} for {at.context:,} tokens",
        more="takes {} as long",
        crossover="prefill",
    ),
    Quantity(
        title="Decodes fastest",
        costs=decoding,
        spec=decode_spec,
        alike=MODEL,
        show=_a_token,
        more="takes {} as long",
        crossover="decode",
    ),
    Quantity(
        title="Answers fastest, from the first token read to the last one generated",
        costs=answering,
        spec=decode_spec,
        alike=MODEL,
        show=lambda seconds, _: words.seconds(seconds),
        more="takes {} as long",
    ),
    Quantity(
        title="Holds the smallest state of a sequence",
        costs=state,
        spec=lambda _: "size",
        alike=MODEL,
        show=lambda size, _: words.si(float(size), "B"),
        more="holds {} as much",
        exact=True,
        by_batch=False,
        crossover="state_bytes",
    ),
)


class Ratio(NamedTuple):
    """The logarithm of a ratio of costs, with the bounds of its interval where it has one."""

    log: Interval
    has_interval: bool

    @property
    def is_above(self) -> bool:
        """Whether the ratio is above 1 beyond doubt."""
        return self.has_interval and self.log.low > 0

    def __str__(self) -> str:
        value, low, high = (words.number(math.exp(bound)) for bound in self.log)
        return f"{value} times (95 % {low} to {high})" if self.has_interval and low != high else f"{value} times"


@runtime_checkable
class HasRow(Protocol):
    """What can be sorted by the conditions of its row."""

    @property
    def row(self) -> Row: ...


Entry = TypeVar("Entry", bound=HasRow)


class Conditions(NamedTuple):
    """What the arms of a table share: a measure, values of fields of their jobs, and the quantity they hold equal."""

    measure: str  # empty where it does not matter which
    fields: tuple[str, ...]
    values: tuple
    match: str
    match_to: str

    def __str__(self) -> str:
        """In words: on text, width 64, depth 2, float32, at equal parameters, by step_time."""
        default = Job()
        clauses = []
        for name, value in zip(self.fields, self.values, strict=True):
            if name == "task":
                clauses.append(f"on {parts.short('suite.tasks', value)}")
            elif name == "dtype":
                clauses.append(value)
            elif name in SHOWN or value != getattr(default, name):
                clauses.append(f"{words.spelt(name)} {value}")
        equal = MATCHES[self.match] if self.match in MATCHES and self.match_to else "width"
        return ", ".join([*clauses, f"at equal {equal}", *([f"by {self.measure}"] if self.measure else [])])


def tables(
    entries: Iterable[Entry], fields: tuple[str, ...], *, by_measure: bool = True
) -> dict[Conditions, list[Entry]]:
    """Entries by the conditions of their arms; an arm that others are matched to stands beside them."""
    by_values: dict[tuple[str, tuple], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_values[measure_of(entry.row) if by_measure else "", alike.of_row(entry.row, fields)].append(entry)
    split: dict[Conditions, list[Entry]] = {}
    for (measure, values), same in by_values.items():
        unmatched = [entry for entry in same if not entry.row["match_to"]]
        matched = dict.fromkeys((entry.row["match"], entry.row["match_to"]) for entry in same if entry.row["match_to"])
        for match, match_to in matched:
            beside = [entry for entry in unmatched if entry.row["mixer"] == match_to]
            of_match = [entry for entry in same if (entry.row["match"], entry.row["match_to"]) == (match, match_to)]
            split[Conditions(measure, fields, values, match, match_to)] = [*beside, *of_match]
        if {entry.row["mixer"] for entry in unmatched} - {match_to for _, match_to in matched}:
            split[Conditions(measure, fields, values, "none", "")] = unmatched
    return split


@dataclasses.dataclass(frozen=True)
class Sample:
    """The costs of an arm at a point, of one run and in one group of cells."""

    costs: tuple[Cost, ...]

    @property
    def row(self) -> Row:
        return self.costs[0].row

    @property
    def group(self) -> str:
        return self.costs[0].group

    @functools.cached_property
    def logs(self) -> dict[int, dict[int, float]]:
        """Logarithms of the costs by process, or seed, and turn."""
        processes: dict[int, dict[int, float]] = defaultdict(dict)
        for cost in self.costs:
            processes[cost.member][cost.turn] = math.log(cost.value)
        return processes

    @property
    def processes(self) -> list[float]:
        """The median over the turns of each process, or what each seed came to."""
        return [statistics.median(turns.values()) for turns in self.logs.values()]

    @property
    def log(self) -> float:
        return statistics.fmean(self.processes)

    def over(self, other: "Sample", *, exact: bool) -> Ratio:
        """The ratio to another arm's costs at the same point."""
        if exact:
            return Ratio(_alone(self.log - other.log), True)
        turns = [
            [log - other.logs[process][turn] for turn, log in of_process.items() if turn in other.logs[process]]
            for process, of_process in self.logs.items()
            if self.group and self.group == other.group and process in other.logs
        ]
        paired = [statistics.median(logs) for logs in turns if logs]
        log = _mean(paired) if paired else difference(_mean(self.processes), _mean(other.processes))
        return Ratio(_interval(log), True) if log.dof else Ratio(_alone(log.value), False)


def _mean(logs: list[float]) -> Estimate:
    """The mean over processes; of one process its variance is not known, which leaves no interval."""
    if len(logs) < 2:
        return Estimate(*logs, variance=1.0, dof=0.0)
    return Estimate(statistics.fmean(logs), statistics.variance(logs) / len(logs), len(logs) - 1)


def _interval(log: Estimate) -> Interval:
    """Student's t interval, as Estimate.interval has it, without importing scipy.stats where few processes ran."""
    if log.dof not in T_QUANTILES:
        return log.interval()
    half = T_QUANTILES[log.dof] * math.sqrt(log.variance)
    return Interval(log.value, log.value - half, log.value + half)


def _alone(value: float) -> Interval:
    return Interval(value, value, value)


def samples(costs: Iterable[Cost]) -> dict[Point, dict[str, Sample]]:
    """The sample of each arm at each point: of the group in which it was measured beside the most arms and processes.

    What only looked for the best batch counts where there is nothing else.
    """
    by_point: dict[Point, dict[str, dict[tuple[str, str], list[Cost]]]] = {}
    for cost in costs:
        runs = by_point.setdefault(cost.at, {}).setdefault(cost.row["arm"], {})
        runs.setdefault((cost.group, "" if cost.is_trained else cost.row["run_id"]), []).append(cost)
    chosen: dict[Point, dict[str, Sample]] = {}
    for at, arms in sorted(by_point.items()):
        beside = Counter(group for runs in arms.values() for group in {group for group, _ in runs} if group)

        def rank(run: tuple[tuple[str, str], list[Cost]], beside: Counter = beside) -> tuple[bool, int, int, str]:
            (group, name), costs = run
            return group != LADDER, beside[group], len({cost.member for cost in costs}), name

        chosen[at] = {arm: Sample(tuple(max(runs.items(), key=rank)[1])) for arm, runs in arms.items()}
    return chosen


def turns(ratios: Mapping[int, Ratio]) -> list[Interval]:
    """The contexts at which a ratio passes through 1, each with its interval, by ratios that have intervals."""
    return crossing.crossings(*_known(ratios))


def turn_beyond(ratios: Mapping[int, Ratio]) -> Interval | None:
    """The context beyond the longest at which a ratio would pass through 1: an extrapolation."""
    return crossing.beyond(*_known(ratios))


def _known(ratios: Mapping[int, Ratio]) -> tuple[list[int], list[Interval]]:
    logs = {context: ratio.log for context, ratio in ratios.items() if ratio.has_interval}
    return list(logs), list(logs.values())
