"""State tracking, the claim that goes the other way: what has to be followed step by step, recurrence learns."""

import dataclasses
import statistics
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

QUESTION = "Does the LSTM follow a state through a sequence where attention does not?"
TEXTBOOK = (
    "Not in the textbook's answer: attention of fixed depth cannot follow the parity of a string or the products of a "
    "group that is not solvable through any length (Hahn 2020, Merrill et al. 2024); a recurrent network can."
)
SAID = "not said; theory: recurrence only"
RULE = (
    "Judged: how many seeds solve parity, and the word problem of A5, at the final position (accuracy at least 0.9 on "
    "the test) at the trained length; the same parameters are then read at four times that length. Attention speaks "
    "by the best of its positions none, rope and alibi: the one that most seeds solve with, at the trained length, "
    "then beyond, then by accuracy. Beyond, rope is read with positions as trained, interpolated, and scaled by NTK: "
    "what serves it best counts. Holds: on at least one of the tasks more LSTM seeds solve it at the trained length "
    "(Fisher's exact test, one-sided, Holm over the tasks, 5 %), and on none more attention seeds. Fails: on every "
    "task that any seed solves most attention seeds solve it at the trained length and at four times it. An LSTM that "
    "is ahead only beyond the trained length is called extrapolation and leaves it undecided; a task that no seed of "
    "either solves says nothing. A probe of the rate (a third, three times) that solves what most seeds at the rate "
    "do not leaves its task out. Control: attention and the LSTM both solve parity at length 4."
)

COMMAND = "python -m launch.compare --claims=state_tracking"
PARITY, WORDS = "parity", "word_problem:group=A5"
POSITIONS = ("attention", "attention:positions=none", "attention:positions=alibi")
SHORT = 4  # tokens of the control
BEYOND = 4  # times the trained length
REMEDIES = ("interpolation", "ntk")  # of rope, each tried at that length; the best counts for attention
CONV = 4  # the other level of the factor, shown and not judged


@dataclasses.dataclass(frozen=True)
class Contest:
    """One task: the trials of every arm at the trained length, and the same parameters' accuracy beyond it."""

    task: str
    length: int
    arms: dict[str, Trials]
    beyond: dict[str, tuple[float, ...]]  # accuracy at the final position, one a seed
    bar: float

    @property
    def best(self) -> str:
        """Attention with the positions that serve it best."""
        there = [arm for arm in POSITIONS if arm in self.arms]
        return max(there, key=lambda arm: (self.arms[arm].solved(), self.solved_beyond(arm), self.arms[arm].median))

    @property
    def pair(self) -> tuple[Trials, Trials]:
        return self.arms[self.best], self.arms[LSTM]

    def solved_beyond(self, arm: str) -> int:
        return sum(accuracy >= self.bar for accuracy in self.beyond.get(arm, ()))

    def p_value(self, *, for_lstm: bool) -> float:
        """One-sided: that more LSTM seeds solve it at the trained length, or more attention seeds."""
        one, other = self.pair[::-1] if for_lstm else self.pair
        return fisher(one.solved(), one.seeds, other.solved(), other.seeds)


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """Parity and the word problem by every arm, each with its accuracy at and beyond the trained length."""
    del rows
    others = [arm for arm in scale.arms if arm not in (*POSITIONS, LSTM)]
    found = []
    for task, sizes, seeds in ((PARITY, scale.parity, scale.seeds), (WORDS, scale.word_problem, scale.word_seeds)):
        if not seeds:
            continue
        judged = (*POSITIONS, LSTM) if seeds > 1 or task == PARITY else (ATTENTION, LSTM)
        for mixer in (*judged, *others):
            job = scale.arm(mixer, **{**sizes, "task": task, "short_conv": 0})
            number = seeds if mixer in judged else 1
            found += trials.cells(job, number, probes=mixer in (ATTENTION, LSTM) and seeds > 1)
            for remedy in ("", *REMEDIES) if mixer == ATTENTION else ("",):
                spec = f"length_accuracy:longest={BEYOND}" + (f",remedy={remedy}" if remedy else "")
                beyond = parts.short("suite.measures", spec)
                found += [Cell(job.replace(seed=seed), beyond) for seed in range(number)]
    for mixer in (ATTENTION, LSTM):
        short = {**scale.parity, "task": PARITY, "length": SHORT, "short_conv": 0}
        found.append(Cell(scale.arm(mixer, **short), "learning"))
        found.append(Cell(scale.arm(mixer, **{**scale.parity, "task": PARITY, "short_conv": CONV}), "learning"))
    return found


def judge(rows: list[Row], *, solved: float = 0.9, alpha: float = 0.05) -> Finding:
    """The finding over both tasks at their longest trained length."""
    contests = _contests(rows, solved)
    shared = {"basis": "measured", "figures": _figures(contests), "tables": _tables(rows, contests, solved)}
    judged = [found for found in contests if LSTM in found.arms and any(arm in found.arms for arm in POSITIONS)]
    if not judged:
        sentence = "parity and the word problem were not run with attention and the LSTM"
        return Finding("untested", sentence=sentence, reason="the judged pair is not there", **shared)
    control = _control(rows, solved)
    ahead = _significant(judged, alpha, for_lstm=True)
    behind = _significant(judged, alpha, for_lstm=False)
    verdict, reason = _verdict(judged, ahead, behind, control)
    told = next(iter(ahead or behind), judged[0])
    attention, lstm = told.pair
    return Finding(
        verdict=verdict,
        reason=reason,
        sentence=f"{lstm} LSTM seeds and {attention} attention seeds ({told.best}) solve {_name(told)}",
        headline=f"the LSTM tracked {_name(told)} in {lstm} seeds against {attention}",
        numbers=_numbers(judged),
        controls=(control,),
        scope="; ".join(map(_scope, judged)),
        crossover=_crossover(ahead),
        arms=tuple(_likeness(told)),
        p_value=min(found.p_value(for_lstm=bool(ahead) or not behind) for found in judged),
        **shared,
    )


def _verdict(judged: list[Contest], ahead: list[Contest], behind: list[Contest], control: Control) -> tuple[str, str]:
    if not control.met:
        return "undecided", f"the control failed: {control.found}"
    turned = [found for found in judged if any(own.winning_probe for own in found.pair)]
    sure = [found for found in ahead if found not in turned]
    if sure and not behind:
        return "holds", f"more LSTM seeds solve {_listed(sure)}, and attention is ahead on none"
    if ahead and behind:
        return "undecided", f"the LSTM is ahead on {_listed(ahead)}, attention on {_listed(behind)}"
    if ahead:
        return "undecided", f"it turns with the learning rate on {_listed(turned)}"
    told = [found for found in judged if any(own.solved() for own in found.pair)]
    if not told:
        return "undecided", "no seed of either solves a task within this budget"
    if all(found.pair[0].mostly_solved and _mostly(found, found.best) for found in told):
        return "fails", f"attention solves {_listed(told)}, and at {BEYOND} times the length too"
    beyond = [found for found in judged if _mostly(found, LSTM) and not _mostly(found, found.best)]
    if beyond:
        return "undecided", f"extrapolation: on {_listed(beyond)} the LSTM is ahead beyond the trained length only"
    return "undecided", "no task splits the seeds at the trained length"


def _significant(judged: list[Contest], alpha: float, *, for_lstm: bool) -> list[Contest]:
    adjusted = holm([found.p_value(for_lstm=for_lstm) for found in judged])
    return [found for found, p in zip(judged, adjusted, strict=True) if p < alpha]


def _mostly(found: Contest, arm: str) -> bool:
    """Whether most seeds of an arm solve the task beyond the trained length."""
    return 2 * found.solved_beyond(arm) > found.arms[arm].seeds


def _contests(rows: list[Row], solved: float) -> list[Contest]:
    found = []
    for task in (PARITY, WORDS):
        canonical = parts.canonical("suite.tasks", task)
        own = [row for row in rows if row["task"] == canonical and row["short_conv"] == 0 and row["length"] != SHORT]
        length = max((row["length"] for row in own if row["measure"] == "learning"), default=0)
        own = [row for row in own if row["length"] == length]
        arms = trials.gather((row for row in own if row["measure"] == "learning"), solved)
        if arms:
            found.append(Contest(task, length, arms, _beyond(own, arms), solved))
    return found


def _beyond(rows: Iterable[Row], arms: dict[str, Trials]) -> dict[str, tuple[float, ...]]:
    """Accuracies at the final position of sequences BEYOND times as long, of the trainings at the arm's own rate."""
    by_arm: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        is_far = row.get("phase") == "length" and row.get("eval_length") == BEYOND * row["length"]
        if is_far and row["arm"] in arms and row["learning_rate"] == arms[row["arm"]].learning_rate:
            by_arm[row["arm"]][row["remedy"]][row["seed"]] = row["final_accuracy"]
    # One remedy for all seeds of an arm, the one with the highest mean.
    return {
        arm: tuple(max((tuple(seeds.values()) for seeds in remedies.values()), key=statistics.fmean))
        for arm, remedies in by_arm.items()
    }


def _short(rows: list[Row], solved: float) -> dict[str, Trials]:
    own = [row for row in trials.of_task(rows, PARITY) if row["length"] == SHORT and row["short_conv"] == 0]
    return trials.gather(own, solved)


def _control(rows: list[Row], solved: float) -> Control:
    arms = _short(rows, solved)
    name = f"attention and the LSTM solve parity at length {SHORT}"
    there = {arm: arms[arm] for arm in (ATTENTION, LSTM) if arm in arms}
    met = len(there) == 2 and all(found.mostly_solved for found in there.values())
    said = ", ".join(f"{arm} {found.median:.2f}" for arm, found in there.items())
    return Control(name, met, f"median accuracy {said}" if said else "not run yet")


def _numbers(judged: list[Contest]) -> tuple[Number, ...]:
    found = []
    for contest in judged:
        attention, lstm = contest.pair
        if attention.tests and lstm.tests:
            value, low, high = trials.accuracy_difference(lstm.tests, attention.tests)
            name = f"accuracy on {_name(contest)}, LSTM - attention"
            found.append(Number(name, value, "", lstm.seeds + attention.seeds, COMMAND, low, high))
    return tuple(found)


def _tables(rows: list[Row], contests: list[Contest], solved: float) -> tuple[Table, ...]:
    with_conv = trials.gather((row for row in trials.of_task(rows, PARITY) if row["short_conv"] == CONV), solved)
    lines = [
        (f"{arm}, {_name(found)}", *own.cells, f"{found.solved_beyond(arm)}/{own.seeds}")
        for found in contests
        for arm, own in sorted(found.arms.items())
    ]
    lines += [(f"{arm}, parity, length {SHORT}", *own.cells, "") for arm, own in _short(rows, solved).items()]
    lines += [(f"{arm}, parity, conv {CONV}", *own.cells, "") for arm, own in with_conv.items()]
    columns = ("arm", *trials.COLUMNS, f"solved at {BEYOND} times the length")
    return (Table("Seeds that solve the tasks", columns, tuple(lines)),) if lines else ()


def _figures(contests: list[Contest]) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            name=f"state_tracking_{parts.split(found.task)[0]}",
            title=f"{_name(found)}: at the trained length and beyond it, every seed a dot".capitalize(),
            x="length (tokens)",
            y="accuracy at the final position",
            points=tuple(
                Point(arm, length, accuracy)
                for arm, own in found.arms.items()
                for length, accuracies in (
                    (found.length, own.accuracies),
                    (BEYOND * found.length, found.beyond.get(arm, ())),
                )
                for accuracy in accuracies
            ),
            thresholds={"solved": found.bar},
            dots=True,
            log_y=False,
        )
        for found in contests
    )


def _likeness(told: Contest) -> Iterable[tuple[str, str]]:
    attention, lstm = (found.mostly_solved for found in told.pair)
    for arm, found in told.arms.items():
        if arm not in (*POSITIONS, LSTM):
            if attention == lstm:
                yield arm, NEITHER
            else:
                yield arm, LIKE_ATTENTION if found.mostly_solved == attention else LIKE_LSTM


def _crossover(ahead: list[Contest]) -> str:
    return f"the LSTM is ahead on {_listed(ahead)}" if ahead else "none found"


def _name(found: Contest) -> str:
    what = "parity" if found.task == PARITY else "the word problem of A5"
    return f"{what} of {found.length} tokens"


def _scope(found: Contest) -> str:
    attention, lstm = found.pair
    seeds = f"{lstm.seeds}" if attention.seeds == lstm.seeds else f"{attention.seeds} and {lstm.seeds}"
    tests = [row for own in found.pair for row in own.tests]
    budget = f", {tests[0]['steps']:,} steps of {tests[0]['batch']}" if tests else ""
    return f"{_name(found)}, {seeds} seed{'' if seeds == '1' else 's'}{budget}"


def _listed(found: list[Contest]) -> str:
    return " and ".join(map(_name, found))
