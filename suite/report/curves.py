"""Learning curves: arms that were trained under the same conditions, at equal tokens and at equal seconds."""

import dataclasses
import math
import statistics
from collections import defaultdict

from suite import parts
from suite.claims import Figure, Point
from suite.job import Job
from suite.judging import trials
from suite.report import words
from suite.report.results import in_bits
from suite.sweep.store import Row

JUDGED = ("attention", "lstm")


@dataclasses.dataclass(frozen=True)
class Curves:
    """Trainings that differ in the arm, its rate and the seed only; `job` holds what they share."""

    job: Job
    rows: list[Row]
    probes: list[Row]  # at other rates than the arm's own

    @property
    def on_text(self) -> bool:
        return in_bits(self.rows[0])

    @property
    def validations(self) -> int:
        """On how many steps it was validated: a line needs two."""
        return len({row["step"] for row in self.of("validation")})

    @property
    def task(self) -> str:
        return parts.short("suite.tasks", self.job.task)

    @property
    def unit(self) -> str:
        return "bits per byte" if self.on_text else "nats a token"

    @property
    def rates(self) -> str:
        """The one rate of all arms, or each arm's own."""
        rates = {row["arm"]: f"{row['learning_rate']:g}" for row in sorted(self.rows, key=lambda row: row["arm"])}
        if len(set(rates.values())) == 1:
            return f"rate {rates[self.arms[0]]}"
        return f"rates of {words.listed([f'{learning_rate} ({arm})' for arm, learning_rate in rates.items()])}"

    @property
    def conditions(self) -> str:
        job = self.job
        return (
            f"{job.length:,} tokens an example, {job.batch} examples a step, {job.steps:,} steps, "
            f"{job.optimizer} at {self.rates}, {job.dtype}"
        )

    @property
    def arms(self) -> list[str]:
        return sorted({row["arm"] for row in self.rows})

    def of(self, phase: str) -> list[Row]:
        return [row for row in self.rows if row.get("phase") == phase and row["outcome"] == "ok"]

    def loss(self, row: Row) -> float:
        return row["loss"] / math.log(2) if in_bits(row) else row["loss"]

    def figure(self, name: str, against: str) -> Figure:
        """Validation loss against tokens or seconds: median over seeds and their range; diverged, a cross."""
        at: dict[tuple[str, int], list[Row]] = defaultdict(list)
        for row in self.of("validation"):
            at[row["arm"], row["tokens"]].append(row)
        points = []
        for (arm, _), rows in sorted(at.items()):
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

    def at_equal_tokens(self) -> dict[str, tuple[float, int, int]]:
        """Of each arm the mean loss over seeds, how many, and the tokens: at the test, or at a validation before."""
        for phase in ("test", "validation"):
            losses: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            for row in self.of(phase):
                losses[row["tokens"]][row["arm"]].append(self.loss(row))
            common = [tokens for tokens, arms in losses.items() if len(arms) == len(self.arms)]
            if common:
                tokens = max(common)
                return {arm: (statistics.fmean(found), len(found), tokens) for arm, found in losses[tokens].items()}
        return {}

    def at_equal_seconds(self) -> tuple[float, dict[str, float]]:
        """The seconds that every training reached, and of each arm the mean of the last validations before them."""
        ends = defaultdict(float)
        for row in self.of("validation"):
            ends[row["run_id"]] = max(ends[row["run_id"]], row["seconds"])
        limit = min(ends.values(), default=0.0)
        last = {row["run_id"]: row for row in self.of("validation") if row["seconds"] <= limit}
        losses: dict[str, list[float]] = defaultdict(list)
        for row in last.values():
            losses[row["arm"]].append(self.loss(row))
        return limit, {arm: statistics.fmean(found) for arm, found in losses.items()}


AXES = {"tokens": "tokens trained on", "seconds": "seconds of training"}


def curves(rows: list[Row], jobs: dict[str, Job]) -> list[Curves]:
    """The trainings, grouped by everything but arm, rate and seed.

    Text first, then those with the most arms, then those that were validated most often.
    """
    groups: dict[Job, list[Row]] = defaultdict(list)
    for row in rows:
        if row["measure"].split(":")[0] == "learning":
            shared = {
                "mixer": "attention",
                "match": "params",
                "match_to": "",
                "own_width": 0,
                "seed": 0,
                "learning_rate": 0.0,
            }
            groups[jobs[row["run_id"]].replace(**shared)].append(row)
    found = []
    for job, own in groups.items():
        rates = {arm: trials.own_rate([row for row in own if row["arm"] == arm]) for arm in {row["arm"] for row in own}}
        at_own = [row for row in own if row["learning_rate"] == rates[row["arm"]]]
        found.append(Curves(job, at_own, [row for row in own if row["learning_rate"] != rates[row["arm"]]]))
    return sorted(found, key=lambda group: (not group.on_text, -len(group.arms), -group.validations, group.job.id))


def sentence(group: Curves) -> str:
    """What is said of the judged pair, or of all arms, at equal tokens; empty where there is no pair."""
    reached = group.at_equal_tokens()
    pair = {arm: reached[arm] for arm in JUDGED if arm in reached} if set(JUDGED) <= set(reached) else reached
    if len(pair) < 2:
        return ""
    ordered = sorted(pair.items(), key=lambda entry: entry[1])
    (best, (_, seeds, tokens)), *_ = ordered
    losses = {arm: words.number(loss) for arm, (loss, _, _) in ordered}
    said = [f"{words.arm(arm)} {'stood ' if arm == best else ''}at {loss}" for arm, loss in losses.items()]
    after = f"after {words.millions(tokens)} tokens of {group.task}"
    diverged = len({row["run_id"] for row in group.rows if row["outcome"] == "diverged"})
    seen = [words.counted(seeds, "seed"), *([f"{diverged} diverged"] if diverged else []), "not judged"]
    return f"{after} {words.listed(said)} {group.unit} ({', '.join(seen)})"
