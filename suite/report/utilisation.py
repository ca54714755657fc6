"""What the steps of training made of the hardware: MFU, bandwidth, the fraction of what can be attained."""

from collections.abc import Callable, Iterator

from suite.judging import pace
from suite.report import words
from suite.report.blocks import again
from suite.report.derive import Machine, Timing, timings
from suite.report.document import Block, Commands, Heading, Prose, Table
from suite.report.records import Gathered


def utilisation(found: Gathered) -> Iterator[Block]:
    """One line a job that was timed; what cannot be derived has its reason beneath."""
    timed = [timing for timing in timings(found.rows) if timing.row["arm"] in found.arms]
    timed = [timing for timing in timed if not pace.is_look(timing.row)]
    if not timed:
        return
    machine = Machine(found.rows)
    notes: dict[str, int] = {}

    def known(derive: Callable[[Timing], float], show: Callable[[float], str], timing: Timing) -> str:
        try:
            return show(derive(timing))
        except (LookupError, ValueError) as error:
            return f"unknown\N{NO-BREAK SPACE}[{notes.setdefault(str(error.args[0]), len(notes) + 1)}]"

    rows = []
    for timing in timed:
        row, facts = timing.row, timing.measured
        failed = sorted({words.outcome(own["outcome"]) for own in timing.rows} - {"ok"})
        start = (row["arm"], words.number(row["length"]), str(row["batch"]))
        if not timing.step_seconds:
            rows.append((*start, ", ".join(failed) or "not timed yet", *[""] * 6))
            continue
        derived = machine.derived(timing)
        rows.append(
            (
                *start,
                ", ".join([words.seconds(timing.seconds), *failed]),
                words.number(timing.tokens_per_second),
                known(derived["mfu"], words.percent, timing),
                known(derived["bandwidth_bytes_per_second"], lambda value: words.si(value, "B/s"), timing),
                known(derived["fraction_of_attainable"], words.percent, timing),
                words.seconds(facts["compile_seconds"]) if "compile_seconds" in facts else "from cache",
                words.percent(max(0.0, facts["input_wait_fraction"])) if "input_wait_fraction" in facts else "",
            )
        )
    yield Heading("Utilisation of a training step")
    yield Prose(
        "Medians over fresh processes. MFU counts the model's causal FLOPs, three forward passes a step. Bandwidth "
        "counts each argument and result of a step once, so it is a lower bound. Attainable is the longest of three "
        "times that no step can undercut: its FLOPs at the peak, those bytes at full bandwidth, and its steps that "
        "wait for one another. Input wait is what real batches add to resident ones."
    )
    derived_columns = ("MFU", "bandwidth, at least", "of attainable")
    columns = ("arm", "length", "batch", "step", "tokens/s", *derived_columns, "compile", "input wait")
    yield Table(columns, tuple(rows), tuple(notes))
    yield from again(found)
    cells = found.commands([row for timing in timed for row in timing.rows])
    yield Commands(tuple(cells), "each line by itself")
