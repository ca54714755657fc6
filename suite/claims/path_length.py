"""Short paths: is what lies far back learned by attention and not by recurrence, because the path to it is short?"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable

from suite import parts
from suite.claims import ATTENTION, LSTM, Control, Figure, Finding, Number, Point, Table, likeness
from suite.job import Cell, Job
from suite.judging import trials
from suite.judging.statistics import fisher, holm
from suite.judging.trials import Trials
from suite.scale import FEW, INSTALLATION, Changes, Scale
from suite.sweep.record import Row

QUESTION = "Does attention learn what lies far back where the LSTM does not, and is the shorter path there?"
TEXTBOOK = (
    "Between tokens 1,000 apart a recurrent network takes 999 multiplicative steps, a transformer of N layers at most "
    "2N sub-layers; the length of the path decides what can be learned."
)
CLAIMED = "999 steps against 2N"
ON_TEXT = False
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

Pair = tuple[Trials, Trials]  # of attention and of the LSTM


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What recall is trained with, and how far back paths are followed."""

    recall: Changes
    distances: tuple[int, ...]  # tokens from the pair to its query; the shortest is the easy one
    reach: int = 1000  # tokens
    untested: str = ""


_QUICK = Sizes(
    recall={
        **{"width": 32, "batch": 16, "steps": 200, "validate_every": 200},
        **{"validation_examples": 512, "test_examples": 1024},
    },
    distances=(4, 48),
)
_GPU = Sizes(
    recall={"width": 128, "depth": 2, "batch": 64, "steps": 10_000, "validate_every": 1000, "test_examples": 3072},
    distances=(8, 64, 256, 999),
)
SIZES = {
    "smoke": Sizes(FEW, distances=(4,), reach=64, untested=INSTALLATION),
    "quick": _QUICK,
    "laptop": Sizes({**_QUICK.recall, "steps": 300, "validate_every": 300}, distances=(8, 32, 128)),
    "gpu": _GPU,
    "pod": Sizes(
        {**_GPU.recall, "width": 256, "batch": 16, "steps": 20_000, "validate_every": 2000, "test_examples": 4096},
        distances=_GPU.distances,
    ),
}


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """The path of every arm, and recall of one pair at each distance."""
    del rows
    sizes = SIZES[scale.name]
    wanted = [Cell(scale.arm(mixer, length=sizes.reach), "path") for mixer in scale.arms]
    for distance in sizes.distances:
        for mixer in scale.arms:
            judged = mixer in (ATTENTION, LSTM)
            wanted += trials.cells(job(scale, mixer, distance), scale.seeds if judged else 1, probes=judged)
    for mixer in (ATTENTION, LSTM):
        wanted += trials.cells(job(scale, mixer, sizes.distances[-1], short_conv=CONV), 1, probes=False)
    return wanted


def job(scale: Scale, mixer: str, distance: int, *, short_conv: int = 0) -> Job:
    """The training of an arm on recall of one pair at a distance."""
    task = f"{TASK}:pairs=1,vocab=32,distance={distance}"
    return scale.arm(mixer, SIZES[scale.name].recall, task=task, length=distance + 4, short_conv=short_conv)


def judge(rows: list[Row], *, solved: float = 0.9, alpha: float = 0.05) -> Finding:
    """The finding over all distances that were run."""
    pairs = _pairs(_by_distance(rows, solved))
    if not pairs:
        return Finding("untested", "measured", reason="the judged pair is not there")
    controls = _controls(pairs[min(pairs)])
    verdict, reason = _verdict(pairs, alpha, controls)
    return Finding(
        verdict,
        "measured",
        reason=reason,
        numbers=(*_path_numbers(_paths(rows)), *_numbers(pairs)),
        controls=controls,
        p_value=_least_p(pairs, alpha),
    )


def tell(rows: list[Row], judged: Finding, *, solved: float, alpha: float) -> Finding:
    """The finding with its sentence, of the farthest distance that splits the seeds, and every seed as a dot."""
    by_distance = _by_distance(rows, solved)
    pairs = _pairs(by_distance)
    finding = dataclasses.replace(
        judged,
        figures=_figures(by_distance, _paths(rows), solved),
        tables=_tables(by_distance, _by_distance(rows, solved, CONV)),
    )
    if not pairs:
        return dataclasses.replace(finding, sentence="recall was not run with attention and the LSTM")
    for_attention, for_lstm = _significant(pairs, 0, 1, alpha), _significant(pairs, 1, 0, alpha)
    farthest = max(for_attention or for_lstm or pairs)
    attention, lstm = pairs[farthest]
    return dataclasses.replace(
        finding,
        sentence=(f"{attention} attention seeds and {lstm} LSTM seeds solve recall of one pair at distance {farthest}"),
        headline=f"attention solved recall at distance {farthest} in {attention} seeds against {lstm}",
        scope=f"one pair, distances {_listed(pairs)}; {_budget(pairs)}",
        crossover=_crossover(for_attention, for_lstm),
        arms=tuple(likeness({arm: float(of_arm.mostly_solved) for arm, of_arm in by_distance[farthest].items()})),
    )


def _pairs(by_distance: dict[int, dict[str, Trials]]) -> dict[int, Pair]:
    return {k: (arms[ATTENTION], arms[LSTM]) for k, arms in by_distance.items() if {ATTENTION, LSTM} <= arms.keys()}


def _verdict(pairs: dict[int, Pair], alpha: float, controls: tuple[Control, ...]) -> tuple[str, str]:
    broken = [control.name for control in controls if not control.met]
    if broken:
        return "undecided", f"a control failed: {'; '.join(broken)}"
    turned = {k for k, pair in pairs.items() if any(arm.winning_probe for arm in pair)}
    for_attention, for_lstm = _significant(pairs, 0, 1, alpha), _significant(pairs, 1, 0, alpha)
    sure, reverse = [k for k in for_attention if k not in turned], [k for k in for_lstm if k not in turned]
    if sure and not for_lstm:
        return "holds", f"more attention seeds solve it at distance {_listed(sure)}, and at no distance fewer"
    if reverse and not for_attention:
        return "fails", f"more LSTM seeds solve it at distance {_listed(reverse)}"
    if for_attention and for_lstm:
        return "undecided", "attention is ahead at some distances and the LSTM at others"
    if for_attention or for_lstm:
        return "undecided", f"it turns with the learning rate at distance {_listed(turned)}"
    if FAR in pairs and all(arm.all_solved for arm in pairs[FAR]):
        return "fails", f"all seeds of both solve it at distance {FAR}"
    if FAR not in pairs:
        return "untested", f"distance {FAR} was not run, and no distance up to {max(pairs)} split them"
    return "undecided", "no distance split them, and not all seeds solve the farthest"


def _significant(pairs: dict[int, Pair], more: int, fewer: int, alpha: float) -> list[int]:
    """The distances at which more seeds of one than of the other solve it, Holm over all of them."""
    adjusted = holm(_p_values(pairs, more, fewer))
    return [k for k, p in zip(sorted(pairs), adjusted, strict=True) if p < alpha]


def _p_values(pairs: dict[int, Pair], more: int, fewer: int) -> list[float]:
    return [
        fisher(pairs[k][more].solved(), pairs[k][more].seeds, pairs[k][fewer].solved(), pairs[k][fewer].seeds)
        for k in sorted(pairs)
    ]


def _least_p(pairs: dict[int, Pair], alpha: float) -> float:
    """Of the direction that was found, attention's where none was; not corrected."""
    reverse = _significant(pairs, 1, 0, alpha) and not _significant(pairs, 0, 1, alpha)
    return min(_p_values(pairs, *((1, 0) if reverse else (0, 1))))


def _controls(pair: Pair) -> tuple[Control, ...]:
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


def _by_distance(rows: list[Row], solved: float, short_conv: int = 0) -> dict[int, dict[str, Trials]]:
    """The trials of every arm on recall of one pair, by its distance."""
    trainings: dict[int, list[Row]] = defaultdict(list)
    for row in trials.of_task(rows, TASK):
        knobs = parts.knobs("suite.tasks", row["task"])
        if knobs["pairs"] == 1 and knobs["distance"] and row["short_conv"] == short_conv:
            trainings[int(knobs["distance"])].append(row)
    return {k: trials.gather(of_distance, solved) for k, of_distance in sorted(trainings.items())}


def _paths(rows: list[Row]) -> dict[str, list[Row]]:
    """The paths of each arm, by their distance."""
    paths: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("phase") == "path" and row["reachable"]:
            paths[row["arm"]].append(row)
    return {arm: sorted(of_arm, key=lambda row: row["distance"]) for arm, of_arm in sorted(paths.items())}


def _path_numbers(paths: dict[str, list[Row]]) -> list[Number]:
    return [
        Number(
            f"path over {of_arm[-1]['distance']} tokens, {arm}",
            of_arm[-1]["path"],
            "operations",
            len(of_arm),
            COMMAND,
            exact=True,
        )
        for arm, of_arm in paths.items()
        if arm in (ATTENTION, LSTM)
    ]


def _numbers(pairs: dict[int, Pair]) -> list[Number]:
    """The difference in seeds that solve each distance, the farthest first."""
    numbers = []
    for k, (attention, lstm) in sorted(pairs.items(), reverse=True):
        if attention.tests and lstm.tests:
            value, *bounds = trials.solved_difference(attention, lstm)
            name = f"share of seeds that solve distance {k}, attention - LSTM"
            numbers.append(Number(name, value, "", attention.seeds + lstm.seeds, COMMAND, *bounds))
    return numbers


def _tables(without: dict[int, dict[str, Trials]], with_conv: dict[int, dict[str, Trials]]) -> tuple[Table, ...]:
    rows = tuple(
        (f"{arm}, distance {k}, conv {short_conv}", *trials.table_cells(of_arm))
        for short_conv, by_distance in ((0, without), (CONV, with_conv))
        for k, arms in by_distance.items()
        for arm, of_arm in sorted(arms.items())
    )
    return (Table("Recall of one pair", ("arm", *trials.COLUMNS), rows),) if rows else ()


def _figures(
    by_distance: dict[int, dict[str, Trials]], paths: dict[str, list[Row]], solved: float
) -> tuple[Figure, ...]:
    seeds = [
        Point(arm, k, accuracy)
        for k, arms in by_distance.items()
        for arm, of_arm in arms.items()
        for accuracy in of_arm.accuracies
    ]
    recall = Figure(
        name="recall_by_distance",
        title="Recall of one pair, every seed a dot",
        x="distance (tokens)",
        y="accuracy at the final position",
        points=tuple(seeds),
        thresholds={"solved": solved},
        dots=True,
        log_y=False,
    )
    path = Figure(
        name="path_length",
        title="Shortest path from a token to a later output, stepwise form",
        x="distance (tokens)",
        y="operations on the path",
        points=tuple(Point(arm, row["distance"], row["path"]) for arm, of_arm in paths.items() for row in of_arm),
    )
    return tuple(figure for figure in (recall, path) if figure.points)


def _crossover(for_attention: list[int], for_lstm: list[int]) -> str:
    if for_attention:
        return f"attention is ahead from distance {min(for_attention)}"
    return f"the LSTM is ahead from distance {min(for_lstm)}" if for_lstm else "none found"


def _budget(pairs: dict[int, Pair]) -> str:
    tests = [row for pair in pairs.values() for arm in pair for row in arm.tests]
    if not tests:
        return "no training came to its test"
    row = tests[0]
    return f"width {row['reference_width']}, {row['steps']:,} steps of {row['batch']}"


def _listed(distances: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(distances)))
