"""Energy: joules a token of training and of decoding, with what they count, or why none were counted."""

import statistics
from collections import defaultdict
from collections.abc import Iterator

from suite import parts
from suite.report import words
from suite.report.page import Block, Cells, Commands, Heading, Prose, Table
from suite.report.records import Comparison
from suite.sweep.record import Row

COLUMNS = ("arm", "of", "tokens", "sequences", "joules a token", "watts", "counter", "blocks")
TRAINING = "training_energy"
ABOUT = (
    "Joules that the counters of the devices have moved by over blocks of work, for each token. They are those of "
    "whole devices: a CPU's packages and memory, a GPU's board, with what else runs on them and what they take when "
    "idle, and without the rest of the machine. Of a training step a token is one of the batch; compilation and the "
    "making of batches are not in it. Of decoding it is one generated token of any of the sequences, at a context of "
    "so many tokens; the reading of the context, prefill, is not in it. Medians over blocks."
)


def energy(comparison: Comparison) -> Iterator[Block]:
    """The section; nothing where the measure was not run."""
    rows = [row for row in comparison.rows if _is_of_energy(row)]
    if not rows:
        return
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["phase"] != TRAINING, comparison.order(row["arm"]))):
        groups[row["phase"], row["run_id"], row["measure"], row["counter"]].append(row)
    notes: dict[str, int] = {}
    lines = tuple(_line(of_group, notes) for of_group in groups.values())
    yield Heading("Energy (not judged)", name="energy")
    yield Prose(ABOUT)
    yield Table(COLUMNS, lines, tuple(notes))
    yield Commands(tuple(comparison.commands(rows)), "each line by itself")


def _is_of_energy(row: Row) -> bool:
    return parts.split(row["measure"])[0] == "energy" and row["outcome"] == "ok"


def _line(rows: list[Row], notes: dict[str, int]) -> Cells:
    """The cells of the blocks of one arm under COLUMNS; the reason of an absent counter is numbered in `notes`."""
    first, phase = rows[0], rows[0]["phase"]
    knobs = parts.knobs("suite.measures", first["measure"])
    sizes = (first["length"], first["batch"]) if phase == TRAINING else (knobs["context"], knobs["batch"])
    start = (
        first["arm"],
        "a training step" if phase == TRAINING else "decoding",
        *(words.number(int(size)) for size in sizes),
    )
    if "absent" in first:
        number = notes.setdefault(first["absent"], len(notes) + 1)
        return *start, f"absent\N{NO-BREAK SPACE}[{number}]", "", "none", ""
    joules = statistics.median(row["joules"] / row["tokens"] for row in rows)
    watts = statistics.median(row["joules"] / row["seconds"] for row in rows)
    counter = f"{first['counter']}: {first['covers']}"
    return *start, words.si(joules, "J"), words.si(watts, "W"), counter, str(len(rows))
