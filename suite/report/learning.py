"""What was trained: curves on text at equal tokens and at equal seconds, and of everything else each seed's answer."""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator

from suite.report import charts, words
from suite.report.blocks import chart
from suite.report.curves import AXES, Curves, sentence
from suite.report.document import Block, Commands, Heading, Prose, Table
from suite.report.records import Gathered
from suite.sweep.store import Row

SOLVED = (0.5, 0.9, 0.99)
ANSWERS = ("final accuracy of each seed", "min / median / max", *(f"at least {at:g}" for at in SOLVED))
LOSSES = ("test loss of each seed (nats a token)", "min / median / max")
# In which two trainings on one task and length may differ and still stand in one table.
TOLD_APART = ("width", "depth", "block", "short_conv", "batch", "steps", "optimizer", "decay", "dtype")


def learning(found: Gathered, trained: list[Curves]) -> Iterator[Block]:
    """Curves of the trainings on text, or of the first one where none is on text; a line for each other one."""
    drawn = [group for group in trained if group.on_text and group.validations > 1 and len(group.arms) > 1]
    drawn = drawn or trained[:1]
    for number, group in enumerate(drawn, 1):
        yield from _curves(found, group, number)
    # In a comparison these are for a claim, which shows them in its own way.
    on_text = [group for group in trained if group not in drawn and group.on_text and not found.scale]
    others = [group for group in trained if group not in drawn and not group.on_text]
    others.sort(key=lambda group: (in_numbers(group.task), group.job.length))
    yield from _table(found, "Answers after training (judged in their claims)", others, ANSWERS, _answers)
    yield from _table(found, "Other trainings on text", on_text, LOSSES, _losses)


def _curves(found: Gathered, group: Curves, number: int) -> Iterator[Block]:
    """Loss at equal tokens and at equal seconds are two questions, so there are two charts."""
    yield Heading(f"Learning on {group.task} (not judged)")
    yield Prose(" ".join(_of_training(found, group)))
    for against in AXES:
        figure = group.figure(f"learning_{number}_{against}", against)
        if figure.points:
            yield from chart(figure, charts.looks_of(figure, found.arms), "from the least to the greatest seed")
    tests = sorted(group.of("test"), key=lambda row: (found.order(row["arm"]), row["seed"]))
    if tests:
        loss = f"test loss ({group.unit})"
        columns = (
            "arm",
            "seed",
            "learning_rate",
            loss,
            "accuracy",
            "examples",
            "tokens trained on",
            "seconds of training",
        )
        rows = [
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
        yield Table(columns, tuple(rows))
    failed = [row for row in group.rows if row["outcome"] != "ok"]
    for row in failed:
        yield Prose(f"{row['arm']}, seed {row['seed']}: {words.outcome(row['outcome'])}{_at_step(row)}.")
    yield Commands(tuple(found.commands(group.rows)))


def _of_training(found: Gathered, group: Curves) -> Iterator[str]:
    yield f"{group.conditions}."
    reached = sentence(group)
    if reached:
        yield f"{reached[:1].upper()}{reached[1:]}."
    yield "Seconds leave out compilation, evaluation and checkpoints."
    if any(row["seed"] != group.rows[0]["seed"] for row in group.rows):
        yield "A line is the median over seeds."
    limit, losses = group.at_equal_seconds()
    if len(losses) > 1:
        said = words.listed([f"{words.arm(arm)} at {words.number(loss)}" for arm, loss in losses.items()])
        yield f"At equal seconds: by {words.seconds(limit)} the last validation had {said} {group.unit}."
    elsewhere = sorted({row["place"] for row in group.rows} - {found.place["place"]})
    if elsewhere:
        yield f"Trained, and the seconds taken, at another place: {words.listed(elsewhere)}."


def _table(
    found: Gathered,
    title: str,
    groups: list[Curves],
    columns: tuple[str, ...],
    tell: Callable[[list[Row]], tuple[str, ...]],
) -> Iterator[Block]:
    """One line for each training, arm and rate; `tell` says in the columns what the seeds came to."""
    lines = []
    for group in groups:
        runs: dict[tuple[str, float], dict[int, Row]] = defaultdict(dict)
        for row in [*group.rows, *group.probes]:
            if row["outcome"] != "ok" or row.get("phase") == "test":
                runs[row["arm"], row["learning_rate"]][row["seed"]] = row
        for (arm, learning_rate), seeds in sorted(runs.items(), key=lambda run: (found.order(run[0][0]), run[0][1])):
            rows = [row for _, row in sorted(seeds.items())]
            lines.append((conditions(group, groups), arm, f"{learning_rate:g}", str(len(rows)), *tell(rows)))
    if lines:
        yield Heading(title)
        yield Table(("trained on", "arm", "learning_rate", "seeds", *columns), tuple(lines))
        every = [row for group in groups for row in [*group.rows, *group.probes]]
        yield Commands(tuple(found.commands(every)), "each training by itself")


def _answers(rows: list[Row]) -> tuple[str, ...]:
    """Accuracy where the answer is due at the end, or else over all answers; a seed that diverged solved nothing."""
    found = [{"final_accuracy": row["accuracy"], **row}["final_accuracy"] for row in rows if row["outcome"] == "ok"]
    solved = [f"{sum(value >= at for value in found)}/{len(rows)}" for at in SOLVED]
    return _each(rows, found), _spread(found), *solved


def _losses(rows: list[Row]) -> tuple[str, ...]:
    found = [row["loss"] for row in rows if row["outcome"] == "ok"]
    return _each(rows, found), _spread(found)


def _each(rows: list[Row], found: list[float]) -> str:
    """In the order of the seeds."""
    values = iter(found)
    said = [f"{next(values):.3f}" if row["outcome"] == "ok" else words.outcome(row["outcome"]) for row in rows]
    return ", ".join(said)


def _spread(found: list[float]) -> str:
    if len(found) < 2:
        return ""
    return " / ".join(f"{value:.3f}" for value in (min(found), statistics.median(found), max(found)))


def in_numbers(text: str) -> list[tuple[bool, int, str]]:
    """For sorting: distance=8 comes before distance=64."""
    return [(word.isdigit(), int(word) if word.isdigit() else 0, word) for word in re.split(r"(\d+)", text)]


def conditions(group: Curves, groups: list[Curves]) -> str:
    """Task and length, and what tells a training apart from the others on the same."""
    alike = [other for other in groups if (other.task, other.job.length) == (group.task, group.job.length)]
    apart = [name for name in TOLD_APART if len({getattr(other.job, name) for other in alike}) > 1]
    own = [f"{name} {getattr(group.job, name)}" for name in apart]
    return ", ".join([group.task, f"{group.job.length:,} tokens", *own])


def _at_step(row: Row) -> str:
    return f" at step {row['step']:,}" if "step" in row else ""
