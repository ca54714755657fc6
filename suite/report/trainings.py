"""The trainings: each arm's results on each task; curves on text at equal tokens and at equal seconds."""

import dataclasses
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator

from suite import learning_rates, parts
from suite.claims import ATTENTION, LSTM, Figure, Point
from suite.job import Job
from suite.judging import alike, trials
from suite.report import figures, words
from suite.report.page import Block, Commands, Heading, Note, Prose, Table
from suite.report.records import Comparison
from suite.sweep.record import Row

AXES = {"tokens": "tokens trained on", "seconds": "seconds of training"}
# The fields in which two trainings on one task and length may differ and still stand in one table.
DISTINGUISHING = (
    *("width", "depth", "block", "short_conv", "hidden", "head_size", "batch", "steps", "optimizer", "decay", "dtype"),
    *("state_dtype", "budget_seconds", "lengths", "state_passing"),
)
TESTS = ("accuracy", "examples", "tokens trained on", "seconds of training")


@dataclasses.dataclass(frozen=True)
class Trainings:
    """Trainings under the same conditions: they differ only in the arm, its rate and the seed."""

    job: Job  # the fields that they share
    rows: list[Row]
    probes: list[Row]  # at other rates than the arm's

    @property
    def on_text(self) -> bool:
        return words.in_bits(self.rows[0])

    @property
    def validations(self) -> int:
        """The number of steps with a validation: a line needs two."""
        return len({row["step"] for row in self.of("validation")})

    @property
    def task(self) -> str:
        return parts.short("suite.tasks", self.job.task)

    @property
    def unit(self) -> str:
        return "bits per byte" if self.on_text else "nats a token"

    @property
    def rates(self) -> str:
        """The one learning rate of all arms, or the rate of each."""
        rates = {row["arm"]: f"{row['learning_rate']:g}" for row in sorted(self.rows, key=lambda row: row["arm"])}
        if len(set(rates.values())) == 1:
            return f"rate {rates[self.arms[0]]}"
        return f"rates of {words.listed([f'{learning_rate} ({arm})' for arm, learning_rate in rates.items()])}"

    @property
    def conditions(self) -> str:
        job = self.job
        return (
            f"{words.lengths(job)}, {job.batch} examples a step, {learning_rates.duration(job)}, "
            f"{job.optimizer} at {self.rates}, {job.dtype}"
            f"{'' if job.state_dtype == 'float32' else f', states kept in {job.state_dtype}'}"
        )

    @property
    def arms(self) -> list[str]:
        return sorted({row["arm"] for row in self.rows})

    def of(self, phase: str) -> list[Row]:
        return [row for row in self.rows if row.get("phase") == phase and row["outcome"] == "ok"]

    def loss(self, row: Row) -> float:
        return row["loss"] / math.log(2) if words.in_bits(row) else row["loss"]

    def score(self, row: Row) -> float:
        """On text the loss; else the accuracy where the answer is due at the end, or over all answers."""
        if self.on_text:
            return self.loss(row)
        return row["final_accuracy" if "final_accuracy" in row else "accuracy"]

    def figure(self, name: str, against: str) -> Figure:
        """Validation loss against tokens or seconds: the median and range over seeds; a cross where one diverged."""
        at: dict[tuple[str, int], dict[str, Row]] = defaultdict(dict)
        for row in self.of("validation"):
            at[row["arm"], self._stage(row)][row["run_id"]] = row
        points = []
        for (arm, _), by_run in sorted(at.items()):
            rows = list(by_run.values())
            losses = [self.loss(row) for row in rows]
            bounds = (min(losses), max(losses)) if len(losses) > 1 else ()
            reached = statistics.median(row[against] for row in rows)
            points.append(Point(arm, reached, statistics.median(losses), *bounds))
        return Figure(
            name=name,
            title=f"Validation loss on {self.task} against {AXES[against]}",
            x=AXES[against],
            y=self.unit,
            points=tuple(points),
            failed=tuple((row["arm"], row[against]) for row in self.rows if row["outcome"] == "diverged"),
            log_x=False,
            log_y=False,
        )

    def _stage(self, row: Row) -> int:
        """With which validations of other seeds one stands: those at as many tokens, or tenths of the budget."""
        budget = self.job.budget_seconds
        return round(10 * row["seconds"] / budget) if budget else row["tokens"]

    def at_equal_tokens(self) -> dict[str, tuple[float, int, int]]:
        """Each arm's mean loss over seeds, their number and the tokens: at the test or the last common validation."""
        for phase in ("test", "validation"):
            losses: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            for row in self.of(phase):
                losses[row["tokens"]][row["arm"]].append(self.loss(row))
            common = [tokens for tokens, arms in losses.items() if len(arms) == len(self.arms)]
            if common:
                tokens = max(common)
                return {arm: (statistics.fmean(seeds), len(seeds), tokens) for arm, seeds in losses[tokens].items()}
        return {}

    def at_equal_seconds(self) -> tuple[float, dict[str, float]]:
        """The seconds that every training reached, and each arm's mean loss at the last validations before them."""
        ends = defaultdict(float)
        for row in self.of("validation"):
            ends[row["run_id"]] = max(ends[row["run_id"]], row["seconds"])
        limit = min(ends.values(), default=0.0)
        last = {row["run_id"]: row for row in self.of("validation") if row["seconds"] <= limit}
        losses: dict[str, list[float]] = defaultdict(list)
        for row in last.values():
            losses[row["arm"]].append(self.loss(row))
        return limit, {arm: statistics.fmean(seeds) for arm, seeds in losses.items()}

    def comparison_at_equal_tokens(self) -> str:
        """A clause on the losses of the judged pair, or of all arms, at equal tokens; empty without two arms."""
        reached = self.at_equal_tokens()
        pair = {ATTENTION: reached[ATTENTION], LSTM: reached[LSTM]} if {ATTENTION, LSTM} <= set(reached) else reached
        if len(pair) < 2:
            return ""
        ordered = sorted(pair.items(), key=lambda entry: entry[1])
        (best, (_, seeds, tokens)), *_ = ordered
        losses = {arm: words.number(loss) for arm, (loss, _, _) in ordered}
        stood = [f"{words.arm(arm)} {'stood ' if arm == best else ''}at {loss}" for arm, loss in losses.items()]
        diverged = len({row["run_id"] for row in self.rows if row["outcome"] == "diverged"})
        remarks = [words.counted(seeds, "seed"), *([f"{diverged} diverged"] if diverged else []), "not judged"]
        after = f"after {words.millions(tokens)} tokens of {self.task}"
        return f"{after} {words.listed(stood)} {self.unit} ({', '.join(remarks)})"


def trainings(comparison: Comparison) -> list[Trainings]:
    """The trainings under each conditions: text first, then those with the most arms, then the most validations."""
    shared = {run: alike.without_arm(job) for run, job in comparison.jobs.items()}
    by_job: dict[Job, list[Row]] = defaultdict(list)
    for row in comparison.rows:
        if row["measure"].split(":")[0] == "learning":
            by_job[shared[row["run_id"]]].append(row)
    groups = []
    for job, rows in by_job.items():
        arms = {row["arm"] for row in rows}
        rates = {arm: trials.rate_of_most_seeds([row for row in rows if row["arm"] == arm]) for arm in arms}
        at_rate = [row for row in rows if row["learning_rate"] == rates[row["arm"]]]
        groups.append(Trainings(job, at_rate, [row for row in rows if row["learning_rate"] != rates[row["arm"]]]))
    return sorted(groups, key=lambda group: (not group.on_text, -len(group.arms), -group.validations, group.job.id))


def every_arm(comparison: Comparison, groups: list[Trainings]) -> Iterator[Block]:
    """A line for each arm: the results of its trainings, and the judged arm it resembles under each claim."""
    groups = [group for group in groups if len(group.arms) > 2 and (group.validations > 1 or not group.on_text)]
    groups.sort(key=lambda group: (group.on_text, _in_numbers(group.task), group.job.length))
    arms = sorted({arm for group in groups for arm in group.arms}, key=comparison.order)
    judged = [one for one in comparison.judged if one.finding.arms]
    if not arms and not judged:
        return
    yield Heading("Every arm")
    if arms:
        columns = ("arm", *(_conditions(group, groups) for group in groups))
        yield Table(columns, tuple((arm, *(_result(group, arm) for group in groups)) for arm in arms))
        yield Note(
            "Median accuracy over seeds at the final position, and the seeds that reach 0.9; on text the test loss."
        )
        specs = sorted({parts.split(group.task)[0] for group in groups if not parts.is_own("suite.tasks", group.task)})
        yield Note(" ".join(f"{spec}: {parts.about('suite.tasks', spec)}" for spec in specs))
    if judged:
        behaviours = [dict(one.finding.arms) for one in judged]
        others = sorted({arm for of_claim in behaviours for arm in of_claim}, key=comparison.order)
        lines = [(arm, *(of_claim.get(arm, "not judged") for of_claim in behaviours)) for arm in others]
        yield Table(("arm", *(words.spelt(one.name) for one in judged)), tuple(lines))
        yield Note("A verdict on the judged pair extends to the arms that are like the LSTM under its claim.")


def _result(group: Trainings, arm: str) -> str:
    """The median accuracy of an arm with its solved seeds; on text its test loss and its failures."""
    if arm not in group.arms:
        return ""
    by_arm = trials.gather([row for row in group.rows if row["arm"] == arm])
    if arm not in by_arm:
        return "not measured yet"
    seeds = by_arm[arm]
    if not group.on_text:
        return f"{seeds.median:.2f} ({seeds})"
    losses = [group.loss(row) for row in seeds.tests]
    loss = [f"{words.number(statistics.fmean(losses))} {group.unit}"] if losses else []
    return ", ".join([*loss, *(words.outcome(row["outcome"]) for row in seeds.failed)])


def learning(comparison: Comparison, groups: list[Trainings]) -> Iterator[Block]:
    """Curves of the trainings on text, or of the first group where none is on text; of single jobs also the others."""
    drawn = [group for group in groups if group.on_text and group.validations > 1 and len(group.arms) > 1]
    drawn = drawn or groups[:1]
    for number, group in enumerate(drawn, 1):
        yield from _curves(comparison, group, number)
    if not comparison.scale:  # the claims of a comparison show its other trainings, each in its own table
        yield from _others(comparison, [group for group in groups if group not in drawn])


def _curves(comparison: Comparison, group: Trainings, number: int) -> Iterator[Block]:
    """Loss at equal tokens and at equal seconds are two questions, so there are two charts."""
    yield Heading(f"Learning on {group.task} (not judged)", name=f"learning {number}")
    yield Prose(" ".join(_sentences(comparison, group)))
    for against in AXES:
        figure = group.figure(f"learning_{number}_{against}", against)
        if figure.points:
            styles = figures.styles_of(figure, comparison.arms)
            yield from figures.chart(figure, styles, "from the least to the greatest seed")
    tests = sorted(group.of("test"), key=lambda row: (comparison.order(row["arm"]), row["seed"]))
    if tests:
        lines = [
            (
                row["arm"],
                str(row["seed"]),
                f"{row['learning_rate']:g}",
                words.number(group.loss(row)),
                words.percent(row["accuracy"]),
                words.number(row["examples"]),
                words.number(row["tokens"]),
                words.number(float(row["seconds"])),
            )
            for row in tests
        ]
        yield Table(("arm", "seed", "learning rate", f"test loss ({group.unit})", *TESTS), tuple(lines))
    for row in group.rows:
        if row["outcome"] != "ok":
            at_step = f" at step {row['step']:,}" if "step" in row else ""
            yield Prose(f"{row['arm']}, seed {row['seed']}: {words.outcome(row['outcome'])}{at_step}.")
    yield Commands(tuple(comparison.commands(group.rows)))


def _sentences(comparison: Comparison, group: Trainings) -> Iterator[str]:
    yield f"{group.conditions}."
    if reached := group.comparison_at_equal_tokens():
        yield f"{reached[:1].upper()}{reached[1:]}."
    yield "Seconds leave out compilation, evaluation and checkpoints."
    if any(row["seed"] != group.rows[0]["seed"] for row in group.rows):
        yield "A line is the median over seeds."
    limit, losses = group.at_equal_seconds()
    if len(losses) > 1:
        at_limit = words.listed([f"{words.arm(arm)} at {words.number(loss)}" for arm, loss in losses.items()])
        yield f"At equal seconds: by {words.seconds(limit)} the last validation had {at_limit} {group.unit}."
    elsewhere = sorted({row["place"] for row in group.rows} - {comparison.place["place"]})
    if elsewhere:
        yield f"Trained, and the seconds taken, on other devices: {words.listed(elsewhere)}."


def _others(comparison: Comparison, groups: list[Trainings]) -> Iterator[Block]:
    """A line for each arm and rate of a training, with the score or the outcome of each seed in their order."""
    lines = []
    for group in sorted(groups, key=lambda group: (group.on_text, _in_numbers(group.task), group.job.length)):
        runs: dict[tuple[str, float], dict[int, Row]] = defaultdict(dict)
        for row in [*group.rows, *group.probes]:
            if row["outcome"] != "ok" or row.get("phase") == "test":
                runs[row["arm"], row["learning_rate"]][row["seed"]] = row
        for (arm, rate), seeds in sorted(runs.items(), key=lambda run: (comparison.order(run[0][0]), run[0][1])):
            rows = [row for _, row in sorted(seeds.items())]
            scores = [group.score(row) for row in rows if row["outcome"] == "ok"]
            left = iter(scores)
            each = [f"{next(left):.3f}" if row["outcome"] == "ok" else words.outcome(row["outcome"]) for row in rows]
            middle = f"{statistics.median(scores):.3f}" if len(scores) > 1 else ""
            lines.append((_conditions(group, groups), arm, f"{rate:g}", ", ".join(each), middle))
    if lines:
        yield Heading("Other trainings (not judged)")
        yield Table(("trained on", "arm", "learning rate", "score of each seed on the test", "median"), tuple(lines))
        yield Note("Accuracy at the final position, or over all answers; on text the loss in bits per byte.")
        every = [row for group in groups for row in [*group.rows, *group.probes]]
        yield Commands(tuple(comparison.commands(every)), "each training by itself")


def _in_numbers(text: str) -> list[tuple[bool, int, str]]:
    """A sort key: distance=8 comes before distance=64."""
    return [(word.isdigit(), int(word) if word.isdigit() else 0, word) for word in re.split(r"(\d+)", text)]


def _conditions(group: Trainings, groups: list[Trainings]) -> str:
    """The task, the length and the fields that tell a training apart from the others on the same."""
    alike = [other for other in groups if (other.task, other.job.length) == (group.task, group.job.length)]
    apart = [name for name in DISTINGUISHING if len({getattr(other.job, name) for other in alike}) > 1]
    return ", ".join(
        [group.task, f"{group.job.length:,} tokens", *(f"{name} {getattr(group.job, name)}" for name in apart)]
    )
