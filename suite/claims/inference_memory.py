"""Memory at inference: a recurrent state of fixed size against a cache that grows, and what decoding makes of it."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
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
from suite.judging.statistics import ratio_interval, t_interval
from suite.scale import Scale
from suite.sweep.store import Row

QUESTION = "Is a recurrent state of one size while attention's cache grows with the context?"
TEXTBOOK = (
    "A recurrent network decodes with a hidden state of fixed size; a transformer keeps the keys and values of every "
    "token, a cache that grows with the context."
)
SAID = "fixed against growing"
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
PART = 128  # tokens read into a cache where its context is not read whole
COUNTER = 4  # bytes of a cache's count of tokens
ITEMSIZE = {"float32": 4, "bfloat16": 2}
REFUSED = ("oom", "did_not_compile", "crashed")
COMMAND = "python -m launch.compare --claims=inference_memory"


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


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """Sizes of the arms and of a cache of shared keys, and their decoding, all arms in turns."""
    del rows
    arms = list(dict.fromkeys([*scale.arms, SHARED]))
    sizes = [
        Cell(scale.arm(mixer), "size", interleave_with="" if mixer in scale.arms else "cache types") for mixer in arms
    ]
    timings = []
    for repeat in range(scale.processes):
        for batch in scale.decode_batches:
            for mixer in arms:
                whole = repeat == 0 and batch == scale.decode_batches[0] and mixer in scale.arms
                range_ = f"longest={scale.contexts[-1]},shortest={scale.contexts[0]}"
                spec = f"decode:{range_},batch={batch},read={0 if whole else PART}"
                measure = parts.short("suite.measures", spec)
                timings.append(Cell(scale.arm(mixer), measure, repeat, f"decode B={batch}"))
    return [*sizes, *timings]


def judge(rows: list[Row], *, lowest: int = 1024, highest: int = 16384) -> Finding:
    """The finding from `lowest` to `highest` tokens of context."""
    decoding = [row for row in rows if parts.split(row["measure"])[0] == "decode"]
    sized = _sizes(rows, {row["run_id"] for row in decoding})
    runs = {found.row["run_id"] for found in sized.values()}
    decoding = [row for row in decoding if row["run_id"] in runs]
    timings = _timings(decoding)
    caches = [arm for arm, found in sized.items() if _is_cache(found.row)]
    figures = _figures(sized, timings, caches, _failed(decoding), held_equal(rows))
    if not caches or LSTM not in sized:
        sentence = f"bytes of state are there for {', '.join(sized) or 'no arm'}"
        return Finding("untested", "construction", sentence, "the judged pair is not there", figures=figures)
    attention = min(caches, key=len)  # the plainest
    pair = sized[attention], sized[LSTM]
    control = _control(decoding, {arm: sized[arm] for arm in (*caches, LSTM)})
    verdict, reason = _verdict(pair, lowest, highest)
    if verdict != "untested" and not control.met:
        verdict, reason = "undecided", f"{reason}; but the control failed: {control.found}"
    crossings = _crossings(sized, timings, caches)
    return Finding(
        verdict=verdict,
        basis="construction",
        sentence=_sentence(*pair),
        reason=reason,
        numbers=tuple(_numbers(sized, timings, caches)),
        controls=(control,),
        figures=figures,
        scope=_scope(timings, lowest, highest),
        crossover=_crossover(crossings, attention),
        arms=tuple(_likeness(sized, (attention, LSTM), lowest, highest)),
        tables=_tables(crossings),
    )


def _verdict(pair: tuple[Sized, Sized], lowest: int, highest: int) -> tuple[str, str]:
    attention, lstm = pair
    missing = sorted({lowest, highest} - (attention.at.keys() & lstm.at.keys()))
    if missing:
        return "untested", f"no bytes of both at {' and '.join(f'{context:,}' for context in missing)} tokens"
    wanted = _bytes_a_token(attention.row)
    wrong = [
        f"{name}'s state grows by {found.grows(low, high):g} bytes a token from {low:,} to {high:,} tokens, not {right}"
        for name, found, right in (("attention", attention, wanted), ("the LSTM", lstm, 0))
        for low, high in itertools.pairwise(sorted(at for at in found.at if lowest <= at <= highest))
        if found.at[high] - found.at[low] != right * (high - low)
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
    found = {}
    for arm, own in sorted(runs.items()):
        run = min(own, key=lambda run: (run not in decoded, run))
        found[arm] = Sized(own[run][0], {row["context"]: row["state_bytes"] for row in own[run]})
    return {arm: sized for arm, sized in found.items() if len(sized.at) > 1}  # one context shows no growth


def _timings(decoding: list[Row]) -> Timings:
    found: Timings = defaultdict(dict)
    for row in decoding:
        if row.get("phase") == "decode" and row["outcome"] == "ok":
            turns = found[row["arm"], row["sequences"]].setdefault(row["context"], {})
            turns[row["repeat"], row["turn"]] = math.log(row["decode_seconds"] / row["decoded"])
    return {key: dict(sorted(found[key].items())) for key in sorted(found)}


def _medians(turns: Turns) -> list[float]:
    """The median over turns of each process."""
    processes: dict[int, list[float]] = defaultdict(list)
    for (repeat, _), log in sorted(turns.items()):
        processes[repeat].append(log)
    return [statistics.median(logs) for logs in processes.values()]


def _ratios(timings: Timings, arm: str, batch: int) -> dict[int, list[float]]:
    """Log of seconds a token, arm over LSTM, of each process by turns taken side by side; by context."""
    above, below = timings.get((arm, batch), {}), timings.get((LSTM, batch), {})
    found = {
        at: _medians({turn: turns[turn] - below[at][turn] for turn in turns if turn in below[at]})
        for at, turns in above.items()
        if at in below
    }
    return {at: logs for at, logs in found.items() if logs}


def _crossings(sized: dict[str, Sized], timings: Timings, caches: list[str]) -> dict[tuple[str, int], tuple[str, str]]:
    """Of each type of cache and batch the contexts from which on it is the larger, and the slower, of the two."""
    batches = sorted({batch for _, batch in timings})
    return {
        (arm, batch): (_crossing_of_bytes(sized[arm], sized[LSTM]), _crossing_of_latency(_ratios(timings, arm, batch)))
        for arm in caches
        for batch in batches
    }


def _crossing_of_bytes(cache: Sized, lstm: Sized) -> str:
    """Where the two lines meet; a fraction of a token where the first one outweighs the whole recurrent state."""
    slopes = [found.grows(min(found.at), max(found.at)) for found in (cache, lstm)]
    return f"{(lstm.line(0) - cache.line(0)) / (slopes[0] - slopes[1]):.3g}" if slopes[0] > slopes[1] else "nowhere"


def _crossing_of_latency(ratios: dict[int, list[float]]) -> str:
    if not ratios:
        return "not measured"
    contexts = list(ratios)
    at = crossing(contexts, [statistics.fmean(ratios[context]) for context in contexts])
    if isinstance(at, str):
        return at
    processes = min(len(logs) for logs in ratios.values())
    each = [crossing(contexts, [ratios[context][index] for context in contexts]) for index in range(processes)]
    inside = [math.log(found) for found in each if not isinstance(found, str)]
    if len(inside) < max(2, processes):
        return f"{at:,.0f}"
    _, low, high = ratio_interval(inside)
    return f"{at:,.0f} (95 % {low:,.0f} to {high:,.0f})"


def crossing(contexts: Sequence[int], logs: Sequence[float]) -> float | str:
    """The context at which a ratio rises through 1, on a log-log line between two; or where it is not, in words."""
    if min(logs) > 0:
        return f"below {contexts[0]:,}"
    if max(logs) < 0:
        return f"beyond {contexts[-1]:,}"
    points = list(zip(map(math.log, contexts), logs, strict=True))
    turns = [(left, right) for left, right in itertools.pairwise(points) if (left[1] <= 0) != (right[1] <= 0)]
    if len(turns) != 1 or turns[0][0][1] > 0:
        return "not at one context"
    (x, y), (x_right, y_right) = turns[0]
    return math.exp(x - y * (x_right - x) / (y_right - y))


def _control(decoding: list[Row], sized: dict[str, Sized]) -> Control:
    name = "the live state of decoding is of the bytes computed"
    live = [row for row in decoding if row.get("phase") == "memory" and row["arm"] in sized]
    wrong = []
    for row in live:
        found, sequences = sized[row["arm"]], row["sequences"]
        missing = sequences * found.line(row["capacity"]) - row["state_bytes"]
        if not 0 <= missing <= (sequences - 1) * COUNTER * row["depth"]:
            computed = f"{sequences * found.line(row['capacity']):,.0f} computed"
            wrong.append(f"{row['arm']} at {row['context']:,}: {row['state_bytes']:,} bytes live, {computed}")
    lacking = sorted(sized.keys() - {row["arm"] for row in live})
    if lacking:
        return Control(name, False, f"not measured for {', '.join(lacking)}")
    return Control(name, not wrong, "; ".join(wrong) or f"all {len(live)} states")


def _likeness(sized: dict[str, Sized], pair: tuple[str, str], lowest: int, highest: int) -> Iterable[tuple[str, str]]:
    for arm, found in sized.items():
        if arm not in pair and {lowest, highest} <= found.at.keys():
            yield arm, LIKE_ATTENTION if found.grows(lowest, highest) > 0 else LIKE_LSTM


def _sentence(attention: Sized, lstm: Sized) -> str:
    at = max(attention.at)
    return f"at {at:,} tokens attention carries {attention.at[at]:,} bytes a sequence and the LSTM {lstm.line(at):,.0f}"


def _crossover(crossings: dict[tuple[str, int], tuple[str, str]], attention: str) -> str:
    own = {batch: found for (arm, batch), found in crossings.items() if arm == attention}
    if not own:
        return ""
    in_bytes = next(iter(own.values()))[0]
    latencies = ", ".join(f"{latency} ({_counted(batch)})" for batch, (_, latency) in own.items())
    return f"state bytes at {in_bytes} tokens; seconds a decoded token, in tokens: {latencies}"


def _scope(timings: Timings, lowest: int, highest: int) -> str:
    processes = {repeat for found in timings.values() for turns in found.values() for repeat, _ in turns}
    batches = " and ".join(map(_counted, sorted({batch for _, batch in timings}))) or "nothing"
    decoded = f"{batches} decoded at once, {len(processes)} processes"
    return f"contexts of {lowest:,} to {highest:,} tokens; {decoded}"


def _numbers(sized: dict[str, Sized], timings: Timings, caches: list[str]) -> Iterable[Number]:
    for arm in (*caches, LSTM):
        low, high = min(sized[arm].at), max(sized[arm].at)
        name = f"state bytes a token of context, {arm}"
        yield Number(name, sized[arm].grows(low, high), "B", len(sized[arm].at), COMMAND)
    for arm, batch in timings:
        for context, logs in _ratios(timings, arm, batch).items() if arm in caches else ():
            name = f"seconds a decoded token, {arm} / LSTM, {context:,} tokens of context, {_counted(batch)}"
            value, *bounds = _bounded(logs)
            yield Number(name, value, "x", len(logs), COMMAND, *bounds)


def _tables(crossings: dict[tuple[str, int], tuple[str, str]]) -> tuple[Table, ...]:
    columns = ("cache", "sequences", "larger from", "slower from")
    lines = tuple((arm, str(batch), *found) for (arm, batch), found in crossings.items())
    title = "Context (tokens) from which a cache is larger than the LSTM's state, and decodes more slowly"
    return (Table(title, columns, lines),) if lines else ()


def _failed(decoding: list[Row]) -> dict[int, list[tuple[str, int]]]:
    """Arms and contexts that this machine refused, by the number of sequences."""
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for refused in decoding:
        if refused["outcome"] in REFUSED:
            together = [
                row
                for row in decoding
                if row["interleave_with"] == refused["interleave_with"] and row.get("phase") == "decode"
            ]
            own = {row["context"] for row in together if row["arm"] == refused["arm"]}
            batch = int(parts.knobs("suite.measures", refused["measure"])["batch"])
            found[batch] += [(refused["arm"], at) for at in sorted({row["context"] for row in together} - own)]
    return {batch: sorted(set(own)) for batch, own in found.items()}


def _figures(
    sized: dict[str, Sized],
    timings: Timings,
    caches: list[str],
    failed: dict[int, list[tuple[str, int]]],
    matched: str,
) -> tuple[Figure, ...]:
    x, above = "context (tokens)", "ratio; above 1 attention's is greater"
    batches = sorted({batch for _, batch in timings})
    pairs = [(arm, batch) for arm in caches for batch in batches]
    lost = [(_series(arm, batch), at) for batch, own in failed.items() for arm, at in own if arm in caches]
    slower = [Point(_series(*key), at, *_bounded(logs)) for key in pairs for at, logs in _ratios(timings, *key).items()]
    lstm = sized[LSTM].at if LSTM in sized else {}
    larger = [Point(arm, at, size / lstm[at]) for arm in caches for at, size in sized[arm].ordered if at in lstm]
    title, equal = f"attention / LSTM, {matched}", {"equal": 1.0}
    found = [
        Figure("decode_latency_ratio", f"Seconds a token, {title}", x, above, tuple(slower), equal, tuple(lost)),
        Figure("state_bytes_ratio", f"Bytes of one sequence's state, {title}", x, above, tuple(larger), equal),
    ]
    for batch in batches:
        own = [(arm, at, turns) for (arm, of), by in timings.items() if of == batch for at, turns in by.items()]
        points = tuple(Point(arm, at, *_bounded(_medians(turns))) for arm, at, turns in own)
        name = "decode_latency" + (f"_{batch}" if batch > batches[0] else "")
        title = f"Seconds a decoded token, {_counted(batch)} at once"
        found.append(Figure(name, title, x, "seconds", points, failed=tuple(failed.get(batch, ()))))
    points = tuple(Point(arm, at, size) for arm, own in sized.items() for at, size in own.ordered)
    found.append(Figure("state_bytes", "Bytes of one sequence's state", x, "bytes", points))
    return tuple(figure for figure in found if figure.points)


def _bounded(logs: list[float]) -> tuple[float, ...]:
    """Geometric mean of processes and, where there are several, its interval."""
    if len(logs) < 2:
        return (math.exp(statistics.fmean(logs)),)
    return tuple(math.exp(bound) for bound in t_interval(logs))


def _series(arm: str, batch: int) -> str:
    return f"{arm.partition(':')[2] or arm}, B={batch}"


def _counted(sequences: int) -> str:
    return f"{sequences} sequence{'s' if sequences > 1 else ''}"
