"""Short paths: is what lies far back learned by attention and not by recurrence, because the path to it is short?"""

from collections import defaultdict
from collections.abc import Iterable

from suite import parts
from suite.claims import (
    ATTENTION,
    LIKE_ATTENTION,
    LIKE_LSTM,
    LSTM,
    NEITHER,
    Control,
    Figure,
    Finding,
    Number,
    Point,
    Table,
)
from suite.job import Cell
from suite.judging import trials
from suite.judging.statistics import fisher, holm
from suite.judging.trials import Trials
from suite.scale import Scale
from suite.sweep.store import Row

QUESTION = "Does attention learn what lies far back where the LSTM does not, and is the shorter path there?"
TEXTBOOK = (
    "Between tokens 1,000 apart a recurrent network takes 999 multiplicative steps, a transformer of N layers at most "
    "2N sub-layers; the length of the path decides what can be learned."
)
SAID = "999 steps against 2N"
RULE = (
    "Construction: the shortest path, in operations, from a token to the output 999 tokens later in the stepwise form. "
    "Judged: how many seeds solve recall of one pair (accuracy at the final position at least 0.9 on the test) at "
    "distance k, at a fixed load and a fixed budget of steps, without short convolution. Holds: at some k up to 999 "
    "more attention seeds than LSTM seeds solve it (Fisher's exact test, one-sided, Holm over k, 5 %), and at none the "
    "reverse. Fails: all seeds of both solve it at k = 999, or the reverse is found. Untested: 999 was not run and no "
    "k split them. Otherwise undecided. A k at which a probe of the rate (a third, three times) solves what most seeds "
    "at the rate do not is left out, and the verdict is undecided if it rested on it. Controls at the shortest k: "
    "attention's median accuracy is at least 0.95, and most LSTM seeds solve it."
)

COMMAND = "python -m launch.compare --claims=path_length"
TASK = "recall"
CONV = 4  # the other level of the factor, shown and not judged
FAR = 999
EASY = 0.95


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """The path of every arm, and recall of one pair at each distance."""
    del rows
    found = [Cell(scale.arm(mixer, length=scale.reach), "path") for mixer in scale.arms]
    for distance in scale.distances:
        for mixer in scale.arms:
            judged = mixer in (ATTENTION, LSTM)
            found += trials.cells(_job(scale, mixer, distance, 0), scale.seeds if judged else 1, probes=judged)
    for mixer in (ATTENTION, LSTM):
        found += trials.cells(_job(scale, mixer, scale.distances[-1], CONV), 1, probes=False)
    return found


def _job(scale: Scale, mixer: str, distance: int, short_conv: int):
    task = f"{TASK}:pairs=1,vocab=32,distance={distance}"
    length = {"length": distance + 4, **scale.recall}["length"]
    return scale.arm(mixer, **{**scale.recall, "task": task, "length": length, "short_conv": short_conv})


def judge(rows: list[Row], *, solved: float = 0.9, alpha: float = 0.05) -> Finding:
    """The finding over all distances that were run."""
    by_k = {
        k: trials.gather(own, solved)
        for k, own in _by_distance(row for row in trials.of_task(rows, TASK) if row["short_conv"] == 0).items()
    }
    pairs = {k: (arms[ATTENTION], arms[LSTM]) for k, arms in by_k.items() if {ATTENTION, LSTM} <= arms.keys()}
    paths = _paths(rows)
    tables = _tables(by_k, _by_distance(row for row in trials.of_task(rows, TASK) if row["short_conv"] == CONV))
    shared = {"basis": "measured", "figures": _figures(by_k, paths, solved), "tables": tables}
    if not pairs:
        return Finding("untested", sentence="recall was not run with attention and the LSTM", reason=_NO_PAIR, **shared)
    turned = {k for k, pair in pairs.items() if any(found.winning_probe for found in pair)}
    for_attention = _significant(pairs, 0, 1, alpha)
    for_lstm = _significant(pairs, 1, 0, alpha)
    controls = _controls(pairs[min(pairs)])
    verdict, reason = _verdict(pairs, for_attention, for_lstm, turned, controls)
    told = max(for_attention or for_lstm or pairs)
    return Finding(
        verdict=verdict,
        reason=reason,
        sentence=_sentence(pairs, told),
        headline=f"attention solved recall at distance {told} in {pairs[told][0]} seeds against {pairs[told][1]}",
        numbers=(*_path_numbers(paths), *_numbers(pairs)),
        controls=controls,
        scope=f"one pair, distances {', '.join(map(str, sorted(pairs)))}; {_sizes(pairs)}",
        crossover=_crossover(for_attention, for_lstm),
        arms=tuple(_likeness(by_k[told])),
        p_value=_least_p(pairs, alpha),
        **shared,
    )


_NO_PAIR = "the judged pair is not there"


def _verdict(
    pairs: dict[int, tuple[Trials, Trials]],
    for_attention: list[int],
    for_lstm: list[int],
    turned: set[int],
    controls: tuple[Control, ...],
) -> tuple[str, str]:
    broken = [control.name for control in controls if not control.met]
    if broken:
        return "undecided", f"a control failed: {'; '.join(broken)}"
    sure, reverse = [k for k in for_attention if k not in turned], [k for k in for_lstm if k not in turned]
    if sure and not for_lstm:
        return "holds", f"more attention seeds solve it at distance {_listed(sure)}, and at no distance fewer"
    if reverse and not for_attention:
        return "fails", f"more LSTM seeds solve it at distance {_listed(reverse)}"
    if for_attention and for_lstm:
        return "undecided", "attention is ahead at some distances and the LSTM at others"
    if for_attention or for_lstm:
        return "undecided", f"it turns with the learning rate at distance {_listed(turned)}"
    if FAR in pairs and all(found.all_solved for found in pairs[FAR]):
        return "fails", f"all seeds of both solve it at distance {FAR}"
    if FAR not in pairs:
        return "untested", f"distance {FAR} was not run, and no distance up to {max(pairs)} split them"
    return "undecided", "no distance split them, and not all seeds solve the farthest"


def _significant(pairs: dict[int, tuple[Trials, Trials]], more: int, fewer: int, alpha: float) -> list[int]:
    """The distances at which more seeds of one than of the other solve it, Holm over all of them."""
    adjusted = holm(_p_values(pairs, more, fewer))
    return [k for k, p in zip(sorted(pairs), adjusted, strict=True) if p < alpha]


def _p_values(pairs: dict[int, tuple[Trials, Trials]], more: int, fewer: int) -> list[float]:
    return [
        fisher(pairs[k][more].solved(), pairs[k][more].seeds, pairs[k][fewer].solved(), pairs[k][fewer].seeds)
        for k in sorted(pairs)
    ]


def _least_p(pairs: dict[int, tuple[Trials, Trials]], alpha: float) -> float:
    """Of the direction that was found, attention's where none was; not corrected."""
    reverse = _significant(pairs, 1, 0, alpha) and not _significant(pairs, 0, 1, alpha)
    return min(_p_values(pairs, *((1, 0) if reverse else (0, 1))))


def _controls(pair: tuple[Trials, Trials]) -> tuple[Control, ...]:
    attention, lstm = pair
    return (
        Control(
            "attention reaches 0.95 at the shortest distance",
            attention.median >= EASY,
            f"median {attention.median:.3g}, solved by {attention}",
        ),
        Control(
            "the LSTM solves the shortest distance",
            2 * lstm.solved() > lstm.seeds,
            f"median {lstm.median:.3g}, solved by {lstm}",
        ),
    )


def _by_distance(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """The rows of one-pair recall, by its distance."""
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        knobs = parts.knobs("suite.tasks", row["task"])
        if knobs["pairs"] == 1 and knobs["distance"]:
            found[int(knobs["distance"])].append(row)
    return dict(found)


def _paths(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("phase") == "path" and row["reachable"]:
            found[row["arm"]].append(row)
    return {arm: sorted(own, key=lambda row: row["distance"]) for arm, own in found.items()}


def _path_numbers(paths: dict[str, list[Row]]) -> list[Number]:
    return [
        Number(f"path over {own[-1]['distance']} tokens, {arm}", own[-1]["path"], "operations", len(own), COMMAND)
        for arm, own in paths.items()
        if arm in (ATTENTION, LSTM)
    ]


def _numbers(pairs: dict[int, tuple[Trials, Trials]]) -> list[Number]:
    """The difference in accuracy at each distance, the farthest first."""
    found = []
    for k in sorted(pairs, reverse=True):
        attention, lstm = pairs[k]
        if attention.tests and lstm.tests:
            value, low, high = trials.accuracy_difference(attention.tests, lstm.tests)
            name = f"accuracy at distance {k}, attention - LSTM"
            found.append(Number(name, value, "", attention.seeds + lstm.seeds, COMMAND, low, high))
    return found


def _tables(by_k: dict[int, dict[str, Trials]], with_conv: dict[int, list[Row]]) -> tuple[Table, ...]:
    levels = [(0, by_k), (CONV, {k: trials.gather(own) for k, own in with_conv.items()})]
    rows = [
        (f"{arm}, distance {k}, conv {short_conv}", *found.cells)
        for short_conv, of_level in levels
        for k, arms in sorted(of_level.items())
        for arm, found in sorted(arms.items())
    ]
    return (Table("Recall of one pair", ("arm", *trials.COLUMNS), tuple(rows)),) if rows else ()


def _figures(by_k: dict[int, dict[str, Trials]], paths: dict[str, list[Row]], solved: float) -> tuple[Figure, ...]:
    points = [
        Point(arm, k, accuracy)
        for k, arms in sorted(by_k.items())
        for arm, found in arms.items()
        for accuracy in found.accuracies
    ]
    steps = [Point(arm, row["distance"], row["path"]) for arm, own in paths.items() for row in own]
    figures = []
    if points:
        figures.append(
            Figure(
                name="recall_by_distance",
                title="Recall of one pair, every seed a dot",
                x="distance (tokens)",
                y="accuracy at the final position",
                points=tuple(points),
                thresholds={"solved": solved},
                dots=True,
                log_y=False,
            )
        )
    if steps:
        figures.append(
            Figure(
                name="path_length",
                title="Shortest path from a token to a later output, stepwise form",
                x="distance (tokens)",
                y="operations on the path",
                points=tuple(steps),
            )
        )
    return tuple(figures)


def _likeness(arms: dict[str, Trials]) -> Iterable[tuple[str, str]]:
    """By whether most seeds solve it, at a distance where attention and the LSTM differ in that."""
    attention, lstm = arms[ATTENTION].mostly_solved, arms[LSTM].mostly_solved
    for arm, found in arms.items():
        if arm not in (ATTENTION, LSTM):
            like = LIKE_ATTENTION if found.mostly_solved == attention else LIKE_LSTM
            yield arm, NEITHER if attention == lstm else like


def _crossover(for_attention: list[int], for_lstm: list[int]) -> str:
    if for_attention:
        return f"attention is ahead from distance {min(for_attention)}"
    return f"the LSTM is ahead from distance {min(for_lstm)}" if for_lstm else "none found"


def _sentence(pairs: dict[int, tuple[Trials, Trials]], told: int) -> str:
    attention, lstm = pairs[told]
    return f"{attention} attention seeds and {lstm} LSTM seeds solve recall of one pair at distance {told}"


def _sizes(pairs: dict[int, tuple[Trials, Trials]]) -> str:
    tests = [row for pair in pairs.values() for found in pair for row in found.tests]
    if not tests:
        return "no training came to its test"
    row = tests[0]
    return f"width {row['reference_width']}, {row['steps']:,} steps of {row['batch']}"


def _listed(distances: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(distances)))
