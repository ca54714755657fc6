"""Memory at inference: a recurrent state of fixed size against a cache that grows, and what decoding makes of it."""

import dataclasses
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from suite import parts
from suite.claims import (
    ATTENTION,
    LIKE_ATTENTION,
    LIKE_LSTM,
    LSTM,
    Control,
    Figure,
    Finding,
    Number,
    Point,
    Table,
    held_equal,
)
from suite.job import Cell
from suite.judging.crossing import crossings
from suite.judging.statistics import t_interval
from suite.scale import Scale
from suite.sweep.record import Row

QUESTION = "Is a recurrent state of one size while attention's cache grows with the context?"
TEXTBOOK = (
    "A recurrent network decodes with a hidden state of fixed size; a transformer keeps the keys and values of every "
    "token, a cache that grows with the context."
)
CLAIMED = "fixed against growing"
ON_TEXT = False
RULE = (
    "By construction, from the bytes of one sequence's state at contexts of 1,024 to 16,384 tokens. Holds: between all "
    "neighbouring contexts the LSTM's state grows by 0 bytes a token and attention's by exactly 2 x layers x key heads "
    "x head size x bytes of a number. Fails: otherwise. Untested where the pair or the range is not there. Control: "
    "the arrays that decoding carries along are of the bytes computed, all sequences together, but for one counter a "
    "layer that the sequences of a cache share. Measured beside it and not judged: the contexts at which state bytes "
    "and seconds a decoded token cross, for each batch and type of cache; ratios of turns taken side by side, the "
    "median of each fresh process, a 95 % t-interval over processes. A cache is made for its context; the context is "
    "read whole once, and in part elsewhere, since a step works against the whole cache however full it is."
)

SHARED = "attention:kv_heads=1"  # one key head for all queries
READ_IN_PART = 128  # tokens read into a cache where its context is not read whole
COUNTER = 4  # bytes of a cache's count of tokens
ITEMSIZE = {"float32": 4, "bfloat16": 2}
REFUSED = ("oom", "did_not_compile", "crashed")
COMMAND = "python -m launch.compare --claims=inference_memory"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The contexts and the numbers of sequences at which decoding is timed."""

    contexts: tuple[int, int] = (64, 256)  # tokens read before decoding is timed: the least and the most
    batches: tuple[int, ...] = (1,)  # sequences decoded at once
    untested: str = ""


SIZES = {
    "smoke": Sizes(),
    "quick": Sizes(),
    "laptop": Sizes(contexts=(64, 4096), batches=(1, 8)),
    "gpu_hour": Sizes(contexts=(1024, 16384), batches=(1, 16)),
    "gpu": Sizes(contexts=(1024, 65536), batches=(1, 16, 128)),
    "pod": Sizes(contexts=(1024, 65536), batches=(1, 8, 32)),
}


class Sized(NamedTuple):
    """Bytes of one sequence's state by context, and the row that says of what model."""

    row: Row
    at: dict[int, int]

    @property
    def ordered(self) -> list[tuple[int, int]]:
        return sorted(self.at.items())

    def grows(self, low: int, high: int) -> float:
        """Bytes a token, from one context to another."""
        return (self.at[high] - self.at[low]) / (high - low)

    def line(self, context: float) -> float:
        """Bytes at any context of a state that grows evenly."""
        low, high = min(self.at), max(self.at)
        return self.at[low] + (context - low) * self.grows(low, high)


Turns = dict[tuple[int, int], float]  # logarithm of seconds a decoded token, by process and turn
Timings = dict[tuple[str, int], dict[int, Turns]]  # by arm and number of sequences, then by context


class Memory(NamedTuple):
    """The bytes of every arm, the timings of decoding of the same models, and the arms that are caches."""

    sized: dict[str, Sized]
    decoding: list[Row]
    timings: Timings
    caches: list[str]

    @property
    def attention(self) -> str:
        """The plainest of the caches."""
        return min(self.caches, key=len)

    @property
    def has_pair(self) -> bool:
        return bool(self.caches) and LSTM in self.sized


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """Sizes of the arms and of a cache of shared keys, and their decoding, all arms in turns."""
    del rows
    sizes = SIZES[scale.name]
    arms = list(dict.fromkeys([*scale.arms, SHARED]))
    wanted = [
        Cell(scale.arm(mixer), "size", interleave_with="" if mixer in scale.arms else "cache types") for mixer in arms
    ]
    shortest, longest = sizes.contexts
    for repeat in range(scale.processes):
        for batch in sizes.batches:
            for mixer in arms:
                whole = repeat == 0 and batch == sizes.batches[0] and mixer in scale.arms
                read = 0 if whole else READ_IN_PART
                spec = f"decode:longest={longest},shortest={shortest},batch={batch},read={read}"
                measure = parts.short("suite.measures", spec)
                wanted.append(Cell(scale.arm(mixer), measure, repeat, f"decode B={batch}"))
    return wanted


def judge(rows: list[Row], *, lowest: int = 1024, highest: int = 16384) -> Finding:
    """The finding from `lowest` to `highest` tokens of context."""
    memory = _memory(rows)
    if not memory.has_pair:
        return Finding("untested", "construction", reason="the judged pair is not there")
    sized = memory.sized
    control = _control(memory.decoding, {arm: sized[arm] for arm in (*memory.caches, LSTM)})
    verdict, reason = _verdict((sized[memory.attention], sized[LSTM]), lowest, highest)
    if verdict != "untested" and not control.met:
        verdict, reason = "undecided", f"{reason}; but the control failed: {control.measured}"
    return Finding(verdict, "construction", reason=reason, numbers=tuple(_numbers(memory)), controls=(control,))


def tell(rows: list[Row], judged: Finding, *, lowest: int, highest: int) -> Finding:
    """The finding with its sentence, the contexts where bytes and seconds cross, and both over the context."""
    memory = _memory(rows)
    sized = memory.sized
    finding = dataclasses.replace(judged, figures=_figures(memory, held_equal(rows)))
    if not memory.has_pair:
        return dataclasses.replace(finding, sentence=f"bytes of state are known of {', '.join(sized) or 'no arm'}")
    contexts = _crossings(memory)
    return dataclasses.replace(
        finding,
        sentence=_sentence(sized[memory.attention], sized[LSTM]),
        speaks_for=_speaks_for(memory.timings, lowest, highest),
        arms=tuple(_likeness(sized, (memory.attention, LSTM), lowest, highest)),
        tables=_tables(contexts),
    )


def _memory(rows: list[Row]) -> Memory:
    decoding = [row for row in rows if parts.split(row["measure"])[0] == "decode"]
    sized = _sizes(rows, {row["run_id"] for row in decoding})
    runs = {state.row["run_id"] for state in sized.values()}
    decoding = [row for row in decoding if row["run_id"] in runs]
    caches = [arm for arm, state in sized.items() if _is_cache(state.row)]
    return Memory(sized, decoding, _timings(decoding), caches)


def _verdict(pair: tuple[Sized, Sized], lowest: int, highest: int) -> tuple[str, str]:
    attention, lstm = pair
    missing = sorted({lowest, highest} - (attention.at.keys() & lstm.at.keys()))
    if missing:
        return "untested", f"no bytes of both at {' and '.join(f'{context:,}' for context in missing)} tokens"
    wanted = _bytes_a_token(attention.row)
    wrong = [
        f"{name}'s state grows by {state.grows(low, high):g} bytes a token from {low:,} to {high:,} tokens, not {right}"
        for name, state, right in (("attention", attention, wanted), ("the LSTM", lstm, 0))
        for low, high in itertools.pairwise(sorted(at for at in state.at if lowest <= at <= highest))
        if state.at[high] - state.at[low] != right * (high - low)
    ]
    if wrong:
        return "fails", "; ".join(wrong)
    return "holds", f"the LSTM's state grows by 0 bytes a token, attention's by exactly {wanted:,}"


def _bytes_a_token(row: Row) -> int:
    """A key and a value of every key head in every layer."""
    knobs = parts.knobs("suite.mixers", row["mixer"])
    heads = int(knobs["heads"])
    head_size = row["width"] // heads
    return 2 * row["depth"] * (int(knobs["kv_heads"]) or heads) * head_size * ITEMSIZE[row["dtype"]]


def _is_cache(row: Row) -> bool:
    """Whether the arm is attention to the whole past and nothing else."""
    if "+" in row["mixer"] or parts.split(row["mixer"])[0] != ATTENTION:
        return False
    return not parts.knobs("suite.mixers", row["mixer"])["window"]


def _sizes(rows: list[Row], decoded: set[str]) -> dict[str, Sized]:
    """State bytes of each arm: of the run that was decoded with, otherwise of the first."""
    runs: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.get("phase") == "state" and row["outcome"] == "ok":
            runs[row["arm"]][row["run_id"]].append(row)
    sized = {}
    for arm, of_arm in sorted(runs.items()):
        run = of_arm[min(of_arm, key=lambda run: (run not in decoded, run))]
        sized[arm] = Sized(run[0], {row["context"]: row["state_bytes"] for row in run})
    return {arm: state for arm, state in sized.items() if len(state.at) > 1}  # one context shows no growth


def _timings(decoding: list[Row]) -> Timings:
    timings: Timings = defaultdict(dict)
    for row in decoding:
        if row.get("phase") == "decode" and row["outcome"] == "ok":
            turns = timings[row["arm"], row["sequences"]].setdefault(row["context"], {})
            turns[row["repeat"], row["turn"]] = math.log(row["decode_seconds"] / row["decoded"])
    return {key: dict(sorted(timings[key].items())) for key in sorted(timings)}


def _medians(turns: Turns) -> list[float]:
    """The median over turns of each process."""
    processes: dict[int, list[float]] = defaultdict(list)
    for (repeat, _), log in sorted(turns.items()):
        processes[repeat].append(log)
    return [statistics.median(logs) for logs in processes.values()]


def _ratios(timings: Timings, arm: str, batch: int) -> dict[int, list[float]]:
    """Log of seconds a token, arm over LSTM, of each process by turns taken side by side; by context."""
    above, below = timings.get((arm, batch), {}), timings.get((LSTM, batch), {})
    medians = {
        at: _medians({turn: turns[turn] - below[at][turn] for turn in turns if turn in below[at]})
        for at, turns in above.items()
        if at in below
    }
    return {at: logs for at, logs in medians.items() if logs}


def _crossings(memory: Memory) -> dict[tuple[str, int], tuple[str, str]]:
    """Of each type of cache and batch the contexts from which on it is the larger, and the slower, of the two."""
    sized, timings = memory.sized, memory.timings
    return {
        (arm, batch): (_crossing_of_bytes(sized[arm], sized[LSTM]), _crossing_of_latency(_ratios(timings, arm, batch)))
        for arm in memory.caches
        for batch in sorted({batch for _, batch in timings})
    }


def _crossing_of_bytes(cache: Sized, lstm: Sized) -> str:
    """Where the two lines meet; a fraction of a token where the first one outweighs the whole recurrent state."""
    slopes = [state.grows(min(state.at), max(state.at)) for state in (cache, lstm)]
    if slopes[0] <= slopes[1]:
        return "nowhere"
    context = (lstm.line(0) - cache.line(0)) / (slopes[0] - slopes[1])
    return f"{context:,.0f}" if context >= 100 else f"{context:.3g}"


def _crossing_of_latency(ratios: dict[int, list[float]]) -> str:
    """The context from which on the cache is slower, in words where there is none; by intervals over processes."""
    if not ratios:
        return "not measured"
    if min(map(len, ratios.values())) < 2:
        return "not known: one process"
    logs = {context: t_interval(of_context) for context, of_context in ratios.items()}
    if min(interval.low for interval in logs.values()) > 0:
        return f"below {min(logs):,}"
    if max(interval.high for interval in logs.values()) < 0:
        return f"beyond {max(logs):,}"
    crossed = crossings(list(logs), list(logs.values()))
    if len(crossed) == 1 and logs[max(logs)].value > 0:
        return f"{crossed[0].value:,.0f} (95 % {crossed[0].low:,.0f} to {crossed[0].high:,.0f})"
    return "not known: one is slower beyond doubt on neither side, on one alone, or in turns"


def _control(decoding: list[Row], sized: dict[str, Sized]) -> Control:
    name = "the live state of decoding is of the bytes computed"
    live = [row for row in decoding if row.get("phase") == "memory" and row["arm"] in sized]
    wrong = []
    for row in live:
        sequences = row["sequences"]
        computed = sequences * sized[row["arm"]].line(row["capacity"])
        if not 0 <= computed - row["state_bytes"] <= (sequences - 1) * COUNTER * row["depth"]:
            wrong.append(
                f"{row['arm']} at {row['context']:,}: {row['state_bytes']:,} bytes live, {computed:,.0f} computed"
            )
    lacking = sorted(sized.keys() - {row["arm"] for row in live})
    if lacking:
        return Control(name, False, f"not measured for {', '.join(lacking)}")
    return Control(name, not wrong, "; ".join(wrong) or f"all {len(live)} states")


def _likeness(sized: dict[str, Sized], pair: tuple[str, str], lowest: int, highest: int) -> Iterable[tuple[str, str]]:
    for arm, state in sized.items():
        if arm not in pair and {lowest, highest} <= state.at.keys():
            yield arm, LIKE_ATTENTION if state.grows(lowest, highest) > 0 else LIKE_LSTM


def _sentence(attention: Sized, lstm: Sized) -> str:
    at = max(attention.at)
    growth = [f"{state.grows(min(state.at), max(state.at)):,.0f}" for state in (attention, lstm)]
    return (
        f"with each token of context attention's state grows by {growth[0]} bytes a sequence and the LSTM's by "
        f"{growth[1]}; at {at:,} tokens they hold {attention.at[at]:,} and {lstm.line(at):,.0f} bytes"
    )


def _speaks_for(timings: Timings, lowest: int, highest: int) -> str:
    processes = {repeat for by_context in timings.values() for turns in by_context.values() for repeat, _ in turns}
    batches = " and ".join(map(_counted, sorted({batch for _, batch in timings}))) or "nothing"
    decoded = f"{batches} decoded at once, {len(processes)} processes"
    return f"contexts of {lowest:,} to {highest:,} tokens; {decoded}"


def _numbers(memory: Memory) -> Iterable[Number]:
    sized, timings, caches = memory.sized, memory.timings, memory.caches
    for arm in (*caches, LSTM):
        low, high = min(sized[arm].at), max(sized[arm].at)
        name = f"state bytes a token of context, {arm}"
        yield Number(name, sized[arm].grows(low, high), "B", len(sized[arm].at), COMMAND, exact=True)
    for arm, batch in timings:
        for context, logs in _ratios(timings, arm, batch).items() if arm in caches else ():
            name = f"seconds a decoded token, {arm} / LSTM, {context:,} tokens of context, {_counted(batch)}"
            value, *bounds = _bounded(logs)
            yield Number(name, value, "x", len(logs), COMMAND, *bounds)


def _tables(crossed: dict[tuple[str, int], tuple[str, str]]) -> tuple[Table, ...]:
    columns = ("cache", "sequences", "larger from", "slower from")
    lines = tuple((arm, str(batch), *contexts) for (arm, batch), contexts in crossed.items())
    title = "Context (tokens) from which a cache is larger than the LSTM's state, and decodes more slowly"
    return (Table(title, columns, lines),) if lines else ()


def _failed(decoding: list[Row]) -> dict[int, list[tuple[str, int]]]:
    """Arms and contexts that this machine refused, by the number of sequences."""
    failed: dict[int, set[tuple[str, int]]] = defaultdict(set)
    for refused in (row for row in decoding if row["outcome"] in REFUSED):
        interleaved = [row for row in decoding if row["interleave_with"] == refused["interleave_with"]]
        timed = {(row["arm"], row["context"]) for row in interleaved if row.get("phase") == "decode"}
        batch = int(parts.knobs("suite.measures", refused["measure"])["batch"])
        failed[batch] |= {(refused["arm"], context) for _, context in timed} - timed
    return {batch: sorted(cells) for batch, cells in failed.items()}


def _figures(memory: Memory, matched: str) -> tuple[Figure, ...]:
    sized, timings, caches = memory.sized, memory.timings, memory.caches
    failed = _failed(memory.decoding)
    x, above = "context (tokens)", "ratio; above 1 attention's is greater"
    batches = sorted({batch for _, batch in timings})
    pairs = [(arm, batch) for arm in caches for batch in batches]
    lost = [(_series(arm, batch), at) for batch, cells in failed.items() for arm, at in cells if arm in caches]
    slower = [Point(_series(*key), at, *_bounded(logs)) for key in pairs for at, logs in _ratios(timings, *key).items()]
    lstm = sized[LSTM].at if LSTM in sized else {}
    larger = [Point(arm, at, size / lstm[at]) for arm in caches for at, size in sized[arm].ordered if at in lstm]
    title, equal = f"attention / LSTM, {matched}", {"equal": 1.0}
    bytes_of_state, seconds = f"Bytes of one sequence's state, {title}", f"Seconds a token, {title}"
    larger, slower = tuple(larger), tuple(slower)
    figures = [
        Figure("state_bytes_ratio", bytes_of_state, x, above, larger, equal, cost="state bytes", exact=True),
        Figure("decode_latency_ratio", seconds, x, above, slower, equal, tuple(lost), cost="decode latency"),
    ]
    for batch in batches:
        points = tuple(
            Point(arm, at, *_bounded(_medians(turns)))
            for (arm, of_batch), by_context in timings.items()
            if of_batch == batch
            for at, turns in by_context.items()
        )
        name = "decode_latency" + (f"_{batch}" if batch > batches[0] else "")
        title = f"Seconds a decoded token, {_counted(batch)} at once"
        figures.append(Figure(name, title, x, "seconds", points, failed=tuple(failed.get(batch, ()))))
    points = tuple(Point(arm, at, size) for arm, state in sized.items() for at, size in state.ordered)
    figures.append(Figure("state_bytes", "Bytes of one sequence's state", x, "bytes", points))
    return tuple(figure for figure in figures if figure.points)


def _bounded(logs: list[float]) -> tuple[float, ...]:
    """Geometric mean of processes and, where there are several, its interval."""
    if len(logs) < 2:
        return (math.exp(statistics.fmean(logs)),)
    return tuple(math.exp(bound) for bound in t_interval(logs))


def _series(arm: str, batch: int) -> str:
    return f"{arm.partition(':')[2] or arm}, B={batch}"


def _counted(sequences: int) -> str:
    return f"{sequences} sequence{'s' if sequences > 1 else ''}"
