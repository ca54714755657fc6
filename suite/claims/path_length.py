"""Short paths: is what lies far back learned by attention and not by recurrence, because the path to it is short?"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping

from suite import parts
from suite.claims import ATTENTION, LSTM, Control, Figure, Finding, Number, Point, Table, likeness, variant
from suite.job import Cell, Job
from suite.judging import factors, trials
from suite.judging.statistics import at_least, fisher, holm, majority
from suite.judging.trials import Trials
from suite.scale import FEW, INSTALLATION, Changes, Scale
from suite.sweep.record import Row

QUESTION = "Does the length of the path decide whether what lies far back can be learned?"
TEXTBOOK = (
    "Between tokens 1,000 apart a recurrent network takes 999 multiplicative steps, a transformer of N layers at most "
    "2N sub-layers; the length of the path decides what can be learned."
)
CLAIMED = "999 steps against 2N"
ON_TEXT = False
FACTORS = ("steps", "short_conv")
RULE = (
    "Construction: the shortest path, in operations, from a token to the output 999 tokens later in the stepwise "
    "form. Judged: how many seeds solve recall of one pair (accuracy at the final position at least 0.9 on the test) "
    "at the farthest distance k that was run, within a fixed budget of steps. Attention, LSTM and GRU speak by the "
    "best of their variants on validation. The arms whose path is at least half the LSTM's, the LSTM's own variants "
    "among them, are the controls of the cause. Fails at k: so many of them solve it as often as attention, in as "
    "many seeds, that chance does not explain it, were each to solve it in half of its seeds (binomial test, 5 %: "
    "with five seeds two of eight arms, with ten seeds one); or more LSTM seeds than attention seeds do (Fisher's "
    "exact test, 5 %). Holds: k is at least 999, most attention seeds solve it, and of each of these arms fewer do "
    "(Fisher's exact test, one-sided, Holm over the arms, 5 %). Untested: k is shorter and no such arm solves it as "
    "often. Otherwise undecided, and so where a probe of the rate (a third, three times) solves what most seeds of an "
    "arm that speaks do not. The verdict must be the same with four times the steps, for which the variants are "
    "trained one after another until one solves it in all seeds, and with a short convolution of four taps. Where k is "
    "at least 999 and the LSTM with four times the steps still does not solve it as often as attention, the other arms "
    "with a long path have these steps too. Controls at the shortest k: attention's median accuracy is at least 0.95, "
    "and most LSTM seeds solve it."
)

COMMAND = "python -m launch.compare --claims=path_length"
TASK = "recall"
FAR = 999
EASY = 0.95
LONG = (LSTM, "gru", "slstm", "mingru")  # mixers whose path is long, each in all its variants
SHOWN = 3  # seeds of an intervention
DILATIONS = (4, 16)  # of every other LSTM, which make the path about as many times shorter

Arms = dict[str, Trials]
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
    "laptop": Sizes({**_QUICK.recall, "steps": 300, "validate_every": 300}, distances=(8, 32, 96)),
    "gpu_hour": Sizes({**_GPU.recall, "steps": 400, "validate_every": 400}, distances=(8, 128)),
    "gpu": _GPU,
    "pod": Sizes(
        {**_GPU.recall, "width": 256, "batch": 16, "steps": 4000, "validate_every": 1000, "test_examples": 4096},
        distances=_GPU.distances,
    ),
}


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """The path of every arm, and recall of one pair at each distance; at the farthest all that a verdict rests on."""
    sizes = SIZES[scale.name]
    far = sizes.distances[-1]
    long = [arm for mixer in LONG for arm in trials.variants(mixer)]
    shown = _interventions(far, job(scale, ATTENTION, far).depth)
    others = [arm for arm in scale.arms if arm not in (ATTENTION, *long)]
    wanted = [
        Cell(scale.arm(mixer, length=sizes.reach), "path") for mixer in dict.fromkeys((ATTENTION, *LONG, *others))
    ]
    for distance in sizes.distances:
        for mixer in (ATTENTION, LSTM):
            wanted += trials.cells(job(scale, mixer, distance), scale.seeds, probes=False)
    counts = dict.fromkeys((*trials.variants(ATTENTION), *long), scale.seeds)
    counts |= dict.fromkeys(others, trials.OTHERS) | dict.fromkeys(shown, SHOWN)
    if sizes.untested:
        counts = {}
    for arm, seeds in counts.items():
        wanted += trials.cells(job(scale, arm, far), seeds, probes=False)
    if counts:
        wanted += [Cell(scale.arm(arm, length=sizes.reach), "path") for arm in shown]
        wanted += _guards(scale, rows, far)
    return wanted


def _guards(scale: Scale, rows: list[Row], far: int) -> list[Cell]:
    """The probes of the rate of those that speak, and their trainings at the other levels of the factors."""
    arms = _by_distance(rows).get(far, {})
    steps = job(scale, ATTENTION, far, longer=True).steps
    longer = _by_distance([row for row in rows if row["steps"] == steps]).get(far, {})
    wanted = []
    for mixer in (ATTENTION, LSTM):
        if guard := trials.to_guard(arms, longer, mixer, scale.seeds):
            speaker, trained = guard
            wanted += trials.cells(job(scale, speaker, far), 1, probes=True)
            wanted += trials.cells(job(scale, speaker, far, short_conv=factors.TAPS), scale.seeds, probes=False)
            for arm in trained:
                wanted += trials.cells(job(scale, arm, far, longer=True), scale.seeds, probes=False)
    others = [arm for mixer in LONG if mixer != LSTM for arm in trials.variants(mixer)]
    is_behind = _are_behind(arms, others, scale.seeds) and _are_behind(longer, trials.variants(LSTM), scale.seeds)
    if far >= FAR and is_behind:
        for arm in others:
            wanted += trials.cells(job(scale, arm, far, longer=True), scale.seeds, probes=False)
    return wanted


def _are_behind(arms: Arms, names: Iterable[str], seeds: int) -> bool:
    """Whether all seeds of these arms have ended, and none of the arms solves it as often as attention beside them."""
    attention = trials.speaker(arms, ATTENTION)
    return attention is not None and all(
        arm in arms and arms[arm].seeds >= seeds and not _as_often(arms[arm], arms[attention]) for arm in names
    )


def job(scale: Scale, mixer: str, distance: int, *, short_conv: int = 0, longer: bool = False) -> Job:
    """The training of an arm on recall of one pair at a distance."""
    sizes = SIZES[scale.name].recall
    task = f"{TASK}:pairs=1,vocab=32,distance={distance}"
    sizes = factors.for_longer(sizes) if longer else sizes
    return scale.arm(mixer, sizes, task=task, length=distance + 4, short_conv=short_conv)


def _interventions(distance: int, depth: int) -> tuple[str, ...]:
    """Attention whose windows just reach so far back through all layers and do not; the LSTM with shorter paths."""
    reaching = -(-distance // depth) + 1
    return (
        f"{ATTENTION}:window={reaching}",
        f"{ATTENTION}:window={max(2, reaching // 2)}",
        *(f"{LSTM}+{LSTM}:dilation={dilation}" for dilation in DILATIONS),
    )


def trainings(rows: list[Row]) -> list[Row]:
    """The trainings that the verdict rests on."""
    of_recall = trials.of_task(rows, TASK)
    return [row for row in of_recall if _distance(row["task"])]


def judge(rows: list[Row], *, solved: float = 0.9, alpha: float = 0.05) -> Finding:
    """The finding at the farthest distance at which the judged pair was trained."""
    by_distance = _by_distance(rows, solved)
    pairs = _pairs(by_distance)
    if not pairs:
        return Finding("untested", "measured", reason="the judged pair is not there")
    far, paths = max(pairs), _paths(rows)
    controls = _controls(min(pairs), *pairs[min(pairs)])
    verdict, reason = _verdict(far, by_distance[far], pairs[far], paths, alpha, controls)
    return Finding(
        verdict,
        "measured",
        reason=reason,
        numbers=(*_path_numbers(paths), *_numbers(pairs)),
        controls=controls,
    )


def _verdict(
    far: int,
    arms: Arms,
    pair: Pair,
    paths: Mapping[str, list[Row]],
    alpha: float,
    controls: tuple[Control, ...],
) -> tuple[str, str]:
    broken = [control.name for control in controls if not control.met]
    if broken:
        return "undecided", f"a control failed: {'; '.join(broken)}"
    (attention, lstm), long = pair, _long(arms, paths)
    if turned := [of_arm.arm for of_arm in (attention, lstm) if of_arm.winning_probe]:
        return "undecided", f"it turns with the learning rate of {' and '.join(turned)}"
    if fisher(lstm.solved(), lstm.seeds, attention.solved(), attention.seeds) < alpha:
        return "fails", f"at distance {far} more LSTM seeds solve it ({lstm}) than attention seeds ({attention})"
    tested = [arm for arm in long if arms[arm].seeds >= attention.seeds]
    as_often = [arm for arm in tested if _as_often(arms[arm], attention)]
    by_chance = majority(attention.solved(), attention.seeds)  # that an arm does, which solves it in half of its seeds
    if as_often and at_least(len(as_often), len(tested), by_chance) < alpha:
        each = ", ".join(f"{arm} in {arms[arm]} seeds" for arm in as_often)
        return "fails", (
            f"at distance {far} the path does not decide: {each} solve it as attention does in {attention}, though "
            f"their paths are long ({_operations(paths, as_often[0])} operations over {FAR} tokens against "
            f"{_operations(paths, ATTENTION)})"
        )
    adjusted = holm(
        [fisher(attention.solved(), attention.seeds, arms[arm].solved(), arms[arm].seeds) for arm in tested]
    )
    behind = [arm for arm, p in zip(tested, adjusted, strict=True) if p < alpha]
    finding = f"at distance {far} {attention} attention seeds solve it, and of {_listed(tested, arms)}"
    if as_often:
        return "undecided", f"of {len(tested)} arms with a long path {len(as_often)} might do so by chance: {finding}"
    if far < FAR:
        return "untested", f"distance {FAR} was not run; {finding}"
    if tested and attention.mostly_solved and behind == tested:
        return "holds", finding
    return "undecided", f"not every arm with a long path is behind: {finding}"


def _as_often(one: Trials, attention: Trials) -> bool:
    """Whether an arm solves it in as large a share of its seeds as attention, which solves it in most."""
    return attention.mostly_solved and one.solved() * attention.seeds >= attention.solved() * one.seeds


def _pairs(by_distance: dict[int, Arms]) -> dict[int, Pair]:
    """Attention and the LSTM at each distance, by the variants that speak for them."""
    speakers = {k: (trials.speaker(arms, ATTENTION), trials.speaker(arms, LSTM)) for k, arms in by_distance.items()}
    return {k: (by_distance[k][one], by_distance[k][two]) for k, (one, two) in speakers.items() if one and two}


def _long(arms: Arms, paths: Mapping[str, list[Row]]) -> list[str]:
    """The arms whose path is at least half the LSTM's; a variant's path is that of its mixer."""
    bound = _operations(paths, LSTM)
    of_mixer = {arm: mixer for mixer in LONG for arm in trials.variants(mixer)}
    lengths = {arm: _operations(paths, arm) or _operations(paths, of_mixer.get(arm, "")) for arm in arms}
    return [arm for arm, length in lengths.items() if bound and 2 * length >= bound]


def _operations(paths: Mapping[str, list[Row]], arm: str) -> int:
    """Operations on the longest path of an arm that was followed; 0 where none was."""
    return paths[arm][-1]["path"] if arm in paths else 0


def _controls(distance: int, attention: Trials, lstm: Trials) -> tuple[Control, ...]:
    return (
        Control(
            f"attention reaches {EASY} at distance {distance}",
            attention.median >= EASY,
            f"median accuracy {attention.median:.2f}",
        ),
        Control(f"the LSTM solves distance {distance}", lstm.mostly_solved, f"{lstm} seeds"),
    )


def tell(rows: list[Row], judged: Finding, *, solved: float, alpha: float) -> Finding:
    """The finding with its sentence, of the farthest distance, and every seed as a dot."""
    del alpha
    by_distance = _by_distance(rows, solved)
    finding = dataclasses.replace(
        judged, figures=_figures(by_distance, _paths(rows), solved), tables=_tables(by_distance)
    )
    pairs = _pairs(by_distance)
    if not pairs:
        return dataclasses.replace(finding, sentence="recall was not run with attention and the LSTM")
    far = max(pairs)
    arms, (attention, lstm) = by_distance[far], pairs[far]
    speaking = (attention.arm, lstm.arm)
    long = [arm for arm in _long(arms, _paths(rows)) if arms[arm].seeds >= trials.OTHERS]
    best = max(long, key=lambda arm: (arms[arm].solved() / arms[arm].seeds, arm), default=LSTM)
    beside = "" if best not in arms or best == lstm.arm else f", and by {best}, whose path is as long, in {arms[best]}"
    return dataclasses.replace(
        finding,
        sentence=(
            f"{_within(arms)}a pair {far} tokens back is recalled by attention{variant(attention.arm)} in {attention} "
            f"seeds, by the LSTM{variant(lstm.arm)} in {lstm}{beside}"
        ),
        headline=(
            f"{_within(arms)}a pair {far} tokens back is recalled by attention in {attention} seeds, "
            f"by the LSTM in {lstm}"
        ),
        speaks_for=_speaks_for(far, arms),
        arms=tuple(likeness(trials.shares(arms, speaking), speaking)),
    )


def _by_distance(rows: list[Row], solved: float = trials.SOLVED) -> dict[int, Arms]:
    """The trials of every arm on recall of one pair, by its distance."""
    by_distance: dict[int, list[Row]] = defaultdict(list)
    for row in trainings(rows):
        by_distance[_distance(row["task"])].append(row)
    return {k: trials.gather(of_distance, solved) for k, of_distance in sorted(by_distance.items())}


@functools.cache
def _distance(task: str) -> int:
    """The distance of a task with one pair; 0 of any other."""
    knobs = parts.knobs("suite.tasks", task)
    return int(knobs["distance"]) if knobs["pairs"] == 1 else 0


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


def _tables(by_distance: dict[int, Arms]) -> tuple[Table, ...]:
    rows = tuple(
        (f"{arm}, distance {k}", *trials.table_cells(of_arm))
        for k, arms in by_distance.items()
        for arm, of_arm in sorted(arms.items())
    )
    return (Table("Recall of one pair", ("arm", *trials.COLUMNS), rows),) if rows else ()


def _figures(by_distance: dict[int, Arms], paths: dict[str, list[Row]], solved: float) -> tuple[Figure, ...]:
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


def _within(arms: Arms) -> str:
    tests = [row for of_arm in arms.values() for row in of_arm.tests]
    return f"within {tests[0]['steps']:,} steps " if tests else ""


def _speaks_for(far: int, arms: Arms) -> str:
    tests = [row for of_arm in arms.values() for row in of_arm.tests]
    if not tests:
        return "no training came to its test"
    row = tests[0]
    budget = f"{row['steps']:,} steps of {row['batch']} sequences"
    return f"one pair, distances up to {far}, within {budget}, width {row['reference_width']}"


def _listed(names: Iterable[str], arms: Arms) -> str:
    return ", ".join(f"{name} {arms[name]}" for name in names) or "no arm with a long path as many"
