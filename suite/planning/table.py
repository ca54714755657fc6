"""A plan as tables of Markdown, for the screen and for a page."""

from collections.abc import Iterator, Sequence

from suite.planning import estimate
from suite.report import words
from suite.sweep.record import Row

COLUMNS = (
    *("arm", "width", "length", "batch", "fits", "a device holds", "parameters", "optimiser", "temporaries"),
    *("arguments", "sent a step", "model FLOPs", "bounds of a step", "longest", "compiled in", "cells"),
)
OPERATIONS = 3  # of a program's collectives in its line


def lines(plan: Row) -> Iterator[str]:
    """The programs, the sums by measure, and the whole."""
    place, sums = plan["place"], plan["totals"]
    yield f"{place['n_devices']} x {place['device_kind']} ({plan['topology']}), mesh {place['mesh']}, none of them used"
    yield ""
    yield from table(COLUMNS, [program_line(row) for row in plan["programs"]])
    yield ""
    yield (
        "Bounds: no step is shorter than the longest of compute, memory, network and waiting chain; their sum is what "
        "it takes when none of them overlap and each is at its peak. Neither is a forecast."
    )
    for missing in dict.fromkeys(reason for speeds in plan["speeds"].values() for reason in speeds["missing"]):
        yield f"Left out of the bounds, for want of a source: {missing}."
    yield ""
    columns = ("measure", "cells", "training steps", "hours")
    by_measure = [
        (row["measure"], f"{row['cells']:,}", f"{row['steps']:,}", between(row["hours"]))
        for row in estimate.by_measure(plan["cells"])
    ]
    yield from table(columns, by_measure)
    yield ""
    yield (
        f"{sums['cells']:,} cells of {sums['programs']:,} programs, {sums['steps']:,} training steps: "
        f"{between(sums['hours'])} hours, {between(sums['chip_hours'])} chip-hours"
        + (f", {between(sums['price'])} in money" if "price" in sums else "")
        + f"; {words.number(sums['compile_hours'])} of the hours compile each program once, as long as here with "
        f"--effort={plan['effort']}."
    )
    if sums["cells_that_depend"]:
        yield f"{sums['cells_that_depend']:,} of the cells depend on results. {plan['counted']}"
    if sums["cells_that_do_not_run"]:
        yield f"{sums['cells_that_do_not_run']:,} cells do not run, and no hours of theirs are counted."


def program_line(row: Row) -> tuple[str, ...]:
    """A program's cells under COLUMNS."""
    start = (row["arm"], str(row["width"]), f"{row['length']:,}", f"{row['batch']:,}")
    if "bounds" not in row:
        why = words.outcome(row["outcome"])
        return (*start, f"{why}: {row['error']}".replace("|", "/"), *[""] * 10, str(row["cells"]))
    free = row["memory_bytes"] - row["held_bytes"]
    fits = f"yes, {size(free)} free" if row["fits"] else f"no, by {size(-free)}"
    return (
        *start,
        fits,
        *(size(row[name]) for name in ("held_bytes", "parameter_bytes", "optimizer_bytes", "temp_bytes")),
        size(row["argument_bytes"]),
        sent(row),
        words.si(row["model_flops"], "FLOP"),
        f"{words.seconds(row['bounds']['low'])} to {words.seconds(row['bounds']['high'])}",
        row["bounds"]["longest"],
        words.seconds(row["compile_seconds"]),
        str(row["cells"]),
    )


def sent(row: Row) -> str:
    """The bytes that a device sends in a step, and the operations that send most of them."""
    by_operation = sorted(row["sent_bytes"].items(), key=lambda entry: -entry[1])
    if not by_operation:
        return "nothing"
    named = ", ".join(f"{name} {size(count)}" for name, count in by_operation[:OPERATIONS])
    return f"{size(sum(row['sent_bytes'].values()))} ({named})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of Markdown whose columns are as wide as their widest cell."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    for row in (columns, ["-" * width for width in widths], *rows):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"


def between(bounds: Sequence[float]) -> str:
    low, high = (words.number(float(f"{bound:.2g}")) for bound in bounds)
    return low if low == high else f"{low} to {high}"


def size(n_bytes: float) -> str:
    return words.si(float(n_bytes), "B")
