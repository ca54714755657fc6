"""State tracking, the claim that goes the other way: what has to be followed step by step, recurrence learns."""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable

from suite import learning_rates, parts
from suite.claims import ATTENTION, LSTM, Control, Figure, Finding, Number, Point, Table, likeness, variant
from suite.job import Cell, Job
from suite.judging import factors, trials
from suite.judging.statistics import fisher, holm, majority
from suite.judging.trials import Trials
from suite.scale import FEW, INSTALLATION, Changes, Scale
from suite.sweep.record import Row

QUESTION = "Does the LSTM follow a state through a sequence where attention does not?"
TEXTBOOK = (
    "Not in the textbook's answer: attention of fixed depth cannot follow the parity of a string or the products of a "
    "group that is not solvable through any length (Hahn 2020, Merrill et al. 2024); a recurrent network can."
)
CLAIMED = "not said; theory: recurrence only"
ON_TEXT = False
FACTORS = ("steps", "short_conv")
RULE = (
    "How many seeds learn parity, and the word problem of A5, at the final position (accuracy at least 0.9 on the "
    "test) at the trained length within a fixed budget of steps; the same parameters are then read at four times that "
    "length. Attention speaks by the best of its positions none, rope and alibi and the LSTM by the best of its "
    "starts, each the best on validation. Beyond, rope is read with positions as trained, interpolated, and scaled by "
    "NTK: what serves it best counts. Holds: on at least one of the tasks more LSTM seeds solve it at the trained "
    "length (Fisher's exact test, two-sided, Holm over the tasks, 5 %), and on none more attention seeds. Fails: on "
    "every task that any seed solves, more than half of attention's seeds solve it at the trained length and at four "
    "times it, by an exact binomial test at 5 %. An LSTM that is ahead only beyond the trained length is called "
    "extrapolation and leaves it undecided; a task that no seed of either solves says nothing. A probe of the rate (a "
    "third, three times) that solves what most seeds at the rate do not leaves its task out. The verdict must be the "
    "same with four times the steps, for which the variants are trained one after another until one solves the task in "
    "all seeds, and with a short convolution of four taps. Control: attention and the LSTM both solve parity at length "
    "4. The theory (Merrill et al. 2024) speaks of unbounded length, this finding of learning within a budget."
)

COMMAND = "python -m launch.compare --claims=state_tracking"
PARITY, WORDS = "parity", "word_problem:group=A5"
SHORT = 4  # tokens of the control
BEYOND = 4  # times the trained length
REMEDIES = ("interpolation", "ntk")  # of rope, each tried at that length; the best counts for attention


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the two tasks are trained with; without seeds, the word problem is left out."""

    parity: Changes
    word_problem: Changes  # of A5
    word_seeds: int  # of the judged pair there
    untested: str = ""


_QUICK = Sizes(
    parity={
        **{"width": 32, "length": 20, "batch": 32, "steps": 500, "validate_every": 500},
        **{"validation_examples": 512, "test_examples": 1024},
    },
    word_problem={
        **{"width": 32, "length": 5, "batch": 64, "steps": 500, "validate_every": 500},
        **{"validation_examples": 512, "test_examples": 1024},
    },
    word_seeds=0,
)
_GPU = Sizes(
    parity={
        **{"width": 128, "depth": 2, "length": 40, "batch": 128, "steps": 10_000},
        **{"validate_every": 1000, "test_examples": 4096},
    },
    word_problem={
        **{"width": 128, "depth": 2, "length": 20, "batch": 256, "steps": 50_000},
        **{"validate_every": 5000, "test_examples": 4096},
    },
    word_seeds=8,
)
SIZES = {
    "smoke": Sizes({**FEW, "length": 8}, {**FEW, "length": 4}, word_seeds=1, untested=INSTALLATION),
    "quick": _QUICK,
    "laptop": Sizes(
        parity={**_QUICK.parity, "length": 40},
        word_problem=_QUICK.word_problem,
        word_seeds=0,  # one seed decides nothing, and its rates would take 120 trainings; more seeds are for a GPU
    ),
    "gpu_hour": Sizes(
        parity={**_GPU.parity, "steps": 1000, "validate_every": 1000, "test_examples": 1024},
        word_problem=_GPU.word_problem,
        word_seeds=0,
    ),
    "gpu": _GPU,
    "pod": Sizes(
        parity={**_GPU.parity, "width": 256, "batch": 16, "steps": 5000},
        word_problem={**_GPU.word_problem, "width": 256, "batch": 16, "steps": 8000, "validate_every": 2000},
        word_seeds=_GPU.word_seeds,
    ),
}


@dataclasses.dataclass(frozen=True)
class TaskTrials:
    """One task: the trials of every arm at the trained length, and the same parameters' accuracy beyond it."""

    task: str
    length: int
    arms: dict[str, Trials]
    beyond: dict[str, tuple[float, ...]]  # accuracy at the final position, one a seed
    bar: float

    @property
    def pair(self) -> tuple[Trials, Trials]:
        """Attention and the LSTM, by the variants that speak for them."""
        attention, lstm = (trials.speaker(self.arms, mixer) for mixer in (ATTENTION, LSTM))
        return self.arms[attention or ATTENTION], self.arms[lstm or LSTM]

    @property
    def has_pair(self) -> bool:
        return all(trials.speaker(self.arms, mixer) for mixer in (ATTENTION, LSTM))

    @property
    def name(self) -> str:
        return f"{'parity' if self.task == PARITY else 'the word problem of A5'} of {self.length} tokens"

    def solved_beyond(self, arm: str) -> int:
        return sum(accuracy >= self.bar for accuracy in self.beyond.get(arm, ()))

    def is_solved_beyond(self, arm: str, alpha: float) -> bool:
        """Whether more than half of the seeds of an arm solve the task beyond the trained length, by a test."""
        return majority(self.solved_beyond(arm), self.arms[arm].seeds) < alpha

    def p_value(self, *, for_lstm: bool) -> float:
        """Two-sided: that more LSTM seeds solve it at the trained length, or more attention seeds."""
        one, other = self.pair[::-1] if for_lstm else self.pair
        return min(1.0, 2 * fisher(one.solved(), one.seeds, other.solved(), other.seeds))


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """Parity and the word problem by every arm, each with its accuracy at and beyond the trained length."""
    sizes = SIZES[scale.name]
    judged = (*trials.variants(ATTENTION), *trials.variants(LSTM))
    others = [arm for arm in scale.arms if arm not in judged]
    wanted = [
        Cell(scale.arm(mixer, sizes.parity, task=PARITY, length=SHORT, short_conv=0), "learning")
        for mixer in (ATTENTION, LSTM)
    ]
    for task, seeds in ((PARITY, scale.seeds), (WORDS, sizes.word_seeds)):
        if not seeds:
            continue
        for arm in (*judged, *others):
            count = seeds if arm in judged else min(seeds, trials.OTHERS)
            wanted += _read_beyond([_job(scale, arm, task).replace(seed=seed) for seed in range(count)])
        if not sizes.untested:
            wanted += _guards(scale, rows, task, seeds)
    return wanted


def _guards(scale: Scale, rows: list[Row], task: str, seeds: int) -> list[Cell]:
    """The probes of the rate of those that speak, and their trainings at the other levels of the factors."""
    steps = _job(scale, ATTENTION, task, longer=True).steps
    at_length = {of_task.task: of_task.arms for of_task in _tasks(rows)}
    longer = {of_task.task: of_task.arms for of_task in _tasks([row for row in rows if row["steps"] == steps])}
    if task not in at_length:
        return []
    wanted = []
    for mixer in (ATTENTION, LSTM):
        if guard := trials.to_guard(at_length[task], longer.get(task, {}), mixer, seeds):
            speaker, trained = guard
            wanted += trials.cells(_job(scale, speaker, task), 1, probes=True)
            changed = [_job(scale, arm, task, longer=True) for arm in trained]
            changed.append(_job(scale, speaker, task, short_conv=factors.TAPS))
            wanted += _read_beyond([job.replace(seed=seed) for job in changed for seed in range(seeds)])
    return wanted


def _job(scale: Scale, arm: str, task: str, *, short_conv: int = 0, longer: bool = False) -> Job:
    """The training of an arm on one of the two tasks."""
    sizes = SIZES[scale.name].parity if task == PARITY else SIZES[scale.name].word_problem
    sizes = factors.for_longer(sizes) if longer else sizes
    return scale.arm(arm, sizes, task=task, short_conv=short_conv)


def _read_beyond(jobs: list[Job]) -> list[Cell]:
    """Trainings, each then read beyond its length; rope with each of its remedies."""
    wanted = []
    for job in jobs:
        wanted.append(Cell(job, "learning"))
        for remedy in ("", *REMEDIES) if job.arm == ATTENTION else ("",):
            spec = f"length_accuracy:longest={BEYOND}" + (f",remedy={remedy}" if remedy else "")
            wanted.append(Cell(job, parts.short("suite.measures", spec)))
    return wanted


def trainings(rows: list[Row]) -> list[Row]:
    """The trainings that the verdict rests on, with what was read of them."""
    tasks = {parts.canonical("suite.tasks", task) for task in (PARITY, WORDS)}
    measures = ("learning", "length_accuracy")
    return [
        row
        for row in rows
        if row["task"] in tasks
        and parts.split(row["measure"])[0] in measures
        and row["seed"] not in learning_rates.SEEDS
    ]


def judge(rows: list[Row], *, solved: float = 0.9, alpha: float = 0.05) -> Finding:
    """The finding over both tasks at their longest trained length."""
    tasks = [task for task in _tasks(rows, solved) if task.has_pair]
    if not tasks:
        return Finding("untested", "measured", reason="the judged pair is not there")
    control = _control(rows, solved)
    ahead, behind = _ahead(tasks, alpha, for_lstm=True), _ahead(tasks, alpha, for_lstm=False)
    verdict, reason = _verdict(tasks, ahead, behind, control, alpha)
    return Finding(verdict, "measured", reason=reason, numbers=_numbers(tasks), controls=(control,))


def tell(rows: list[Row], judged: Finding, *, solved: float, alpha: float) -> Finding:
    """The finding with its sentence, of the task that splits the seeds, and every seed as a dot."""
    every = _tasks(rows, solved)
    finding = dataclasses.replace(judged, figures=_figures(every), tables=_tables(rows, every, solved))
    tasks = [task for task in every if task.has_pair]
    if not tasks:
        return dataclasses.replace(
            finding, sentence="parity and the word problem were not run with attention and the LSTM"
        )
    ahead, behind = _ahead(tasks, alpha, for_lstm=True), _ahead(tasks, alpha, for_lstm=False)
    task = next(iter(ahead or behind), tasks[0])
    attention, lstm = task.pair
    speaking = (attention.arm, lstm.arm)
    return dataclasses.replace(
        finding,
        sentence=(
            f"{_within(task)}{task.name} is solved by the LSTM{variant(lstm.arm)} in {lstm} seeds, by "
            f"attention{variant(attention.arm)} in {attention}"
        ),
        headline=f"{_within(task)}the LSTM tracked {task.name} in {lstm} seeds against {attention}",
        speaks_for="; ".join(map(_speaks_for, tasks)),
        arms=tuple(likeness(trials.shares(task.arms, speaking), speaking)),
    )


def _verdict(
    tasks: list[TaskTrials], ahead: list[TaskTrials], behind: list[TaskTrials], control: Control, alpha: float
) -> tuple[str, str]:
    if not control.met:
        return "undecided", f"the control failed: {control.measured}"
    turned = [task for task in tasks if any(arm.winning_probe for arm in task.pair)]
    sure = [task for task in ahead if task not in turned]
    if sure and not behind:
        return "holds", f"more LSTM seeds solve {_listed(sure)}, and attention is ahead on none"
    if ahead and behind:
        return "undecided", f"the LSTM is ahead on {_listed(ahead)}, attention on {_listed(behind)}"
    if ahead:
        return "undecided", f"it turns with the learning rate on {_listed(turned)}"
    solvable = [task for task in tasks if any(arm.solved() for arm in task.pair)]
    if not solvable:
        return "undecided", "no seed of either solves a task within this budget"
    solved = [task for task in solvable if majority(task.pair[0].solved(), task.pair[0].seeds) < alpha]
    if solved == solvable and all(task.is_solved_beyond(task.pair[0].arm, alpha) for task in solvable):
        return "fails", f"attention solves {_listed(solvable)}, and at {BEYOND} times the length too"
    beyond = [
        task
        for task in tasks
        if task.is_solved_beyond(task.pair[1].arm, alpha) and not task.is_solved_beyond(task.pair[0].arm, alpha)
    ]
    if beyond:
        return "undecided", f"extrapolation: on {_listed(beyond)} the LSTM is ahead beyond the trained length only"
    return "undecided", "no task splits the seeds at the trained length"


def _ahead(tasks: list[TaskTrials], alpha: float, *, for_lstm: bool) -> list[TaskTrials]:
    """The tasks that more seeds of one than of the other solve, Holm over all of them."""
    adjusted = holm([task.p_value(for_lstm=for_lstm) for task in tasks])
    return [task for task, p in zip(tasks, adjusted, strict=True) if p < alpha]


def _tasks(rows: list[Row], solved: float = trials.SOLVED) -> list[TaskTrials]:
    """Each task at the longest length that it was trained at."""
    tasks = []
    for task in (PARITY, WORDS):
        canonical = parts.canonical("suite.tasks", task)
        of_task = [row for row in trainings(rows) if row["task"] == canonical and row["length"] != SHORT]
        length = max((row["length"] for row in of_task if row["measure"] == "learning"), default=0)
        longest = [row for row in of_task if row["length"] == length]
        arms = trials.gather((row for row in longest if row["measure"] == "learning"), solved)
        if arms:
            tasks.append(TaskTrials(task, length, arms, _beyond(longest, arms), solved))
    return tasks


def _beyond(rows: Iterable[Row], arms: dict[str, Trials]) -> dict[str, tuple[float, ...]]:
    """Accuracies at the final position of sequences BEYOND times as long, of the trainings at the arm's rate."""
    by_arm: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        is_far = row.get("phase") == "length" and row.get("eval_length") == BEYOND * row["length"]
        if is_far and row["arm"] in arms and row["learning_rate"] == arms[row["arm"]].learning_rate:
            by_arm[row["arm"]][row["remedy"]][row["seed"]] = row["final_accuracy"]
    # One remedy for all seeds of an arm, the one with the highest mean.
    return {
        arm: max(
            (tuple(seeds[seed] for seed in sorted(seeds)) for _, seeds in sorted(remedies.items())),
            key=statistics.fmean,
        )
        for arm, remedies in by_arm.items()
    }


def _short(rows: list[Row], solved: float) -> dict[str, Trials]:
    """The trials of the control."""
    return trials.gather((row for row in trials.of_task(rows, PARITY) if row["length"] == SHORT), solved)


def _control(rows: list[Row], solved: float) -> Control:
    arms = _short(rows, solved)
    pair = {arm: arms[arm] for arm in (ATTENTION, LSTM) if arm in arms}
    met = len(pair) == 2 and all(of_arm.mostly_solved for of_arm in pair.values())
    medians = ", ".join(f"{arm} {of_arm.median:.2f}" for arm, of_arm in pair.items())
    name = f"attention and the LSTM solve parity at length {SHORT}"
    return Control(name, met, f"median accuracy {medians}" if pair else "not run yet")


def _numbers(tasks: list[TaskTrials]) -> tuple[Number, ...]:
    numbers = []
    for task in tasks:
        attention, lstm = task.pair
        if attention.tests and lstm.tests:
            value, *bounds = trials.solved_difference(lstm, attention)
            name = f"share of seeds that solve {task.name}, LSTM - attention"
            numbers.append(Number(name, value, "", lstm.seeds + attention.seeds, COMMAND, *bounds))
    return tuple(numbers)


def _tables(rows: list[Row], tasks: list[TaskTrials], solved: float) -> tuple[Table, ...]:
    lines = [
        (f"{arm}, {task.name}", *trials.table_cells(of_arm), f"{task.solved_beyond(arm)}/{of_arm.seeds}")
        for task in tasks
        for arm, of_arm in task.arms.items()
    ]
    short = _short(rows, solved).items()
    lines += [(f"{arm}, parity, length {SHORT}", *trials.table_cells(of_arm), "") for arm, of_arm in short]
    columns = ("arm", *trials.COLUMNS, f"solved at {BEYOND} times the length")
    return (Table("Seeds that solve the tasks", columns, tuple(lines)),) if lines else ()


def _figures(tasks: list[TaskTrials]) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            name=f"state_tracking_{parts.split(task.task)[0]}",
            title=f"{task.name}: at the trained length and beyond it, every seed a dot".capitalize(),
            x="length (tokens)",
            y="accuracy at the final position",
            points=tuple(
                Point(arm, length, accuracy)
                for arm, of_arm in task.arms.items()
                for length, accuracies in (
                    (task.length, of_arm.accuracies),
                    (BEYOND * task.length, task.beyond.get(arm, ())),
                )
                for accuracy in accuracies
            ),
            thresholds={"solved": task.bar},
            dots=True,
            log_y=False,
        )
        for task in tasks
    )


def _speaks_for(task: TaskTrials) -> str:
    attention, lstm = task.pair
    seeds = f"{lstm.seeds}" if attention.seeds == lstm.seeds else f"{attention.seeds} and {lstm.seeds}"
    tests = [row for of_arm in task.pair for row in of_arm.tests]
    budget = f"{_within(task)}of {tests[0]['batch']} sequences, " if tests else ""
    return f"{task.name}, {budget}{seeds} seed{'' if seeds == '1' else 's'}"


def _within(task: TaskTrials) -> str:
    tests = [row for of_arm in task.pair for row in of_arm.tests]
    return f"within {tests[0]['steps']:,} steps " if tests else ""


def _listed(tasks: list[TaskTrials]) -> str:
    return " and ".join(task.name for task in tasks)
