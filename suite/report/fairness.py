"""Fairness: the quantities in which the arms agree, and those in which they differ."""

import collections
from collections.abc import Callable, Iterable, Iterator

from suite import learning_rates, parts
from suite.claims import MATCHES
from suite.job import Job
from suite.judging import alike, pace
from suite.report import words
from suite.report.page import Block, Commands, Heading, Prose, Table
from suite.report.records import Comparison
from suite.report.trainings import Trainings, trainings
from suite.sweep import store
from suite.sweep.record import Row

LARGEST_MISMATCH = 0.05
FLAG = " (above 5 %)"
CONTEXTS = (1024, 16384)


def fairness(comparison: Comparison, groups: list[Trainings]) -> Iterator[Block]:
    """A table for each matching, with a column for each arm."""
    yield from _fairness(comparison, groups, "Fairness")
    for match in comparison.more:
        matched = comparison.under(match)
        yield from _fairness(matched, trainings(matched), f"Fairness with equal {MATCHES[match]}")


def _fairness(comparison: Comparison, groups: list[Trainings], title: str) -> Iterator[Block]:
    sizes = [row for row in comparison.rows if row.get("phase") == "model" and row["arm"] in comparison.arms]
    learnt = groups[0].rows if groups else []
    sizes = [row for row in sizes if groups and _is_alike(row, groups[0].job)] or sizes
    if not sizes:
        return
    longest = max(row["length"] for row in sizes)
    models = {row["arm"]: row for row in sizes if row["length"] == longest}
    timed = [row for row in comparison.rows if row.get("phase") == "block" and not pace.is_look(row)]
    processes = collections.Counter(arm for arm, _ in {(row["arm"], row["repeat"]) for row in timed})

    def of_models(name: str, show: Callable[[Row], str]) -> tuple[str, ...]:
        return name, *(show(row) for row in models.values())

    def of_rows(name: str, rows: list[Row], show: Callable[[Row], str]) -> tuple[str, ...]:
        """The values of each arm's rows, each value once."""
        values = [dict.fromkeys(show(row) for row in rows if row["arm"] == arm) for arm in models]
        return name, *(", ".join(texts) or "not measured yet" for texts in values)

    ends = {row["arm"]: row for row in learnt if "fingerprint" in row}
    choices = learning_rates.choices(comparison.rows)
    matched = {row["match"] for row in models.values() if row["match_to"]} or {"params"}
    solved = any(row["solved"] != arm for arm, row in models.items())  # for some arm, by a knob of its mixer
    lines = [
        of_models("width", lambda row: words.number(row["width"])),
        of_models("parameters", lambda row: words.number(row["params"])),
        of_models("parameters off the reference", lambda row: _mismatch(row["params_mismatch"])),
        *(
            of_models(f"off the reference in {MATCHES[match]}", lambda row, m=match: _mismatch_in(comparison, row, m))
            for match in sorted(matched - {"params", "none"})
        ),
        *([of_models("mixer, with the knob that the matching chose", lambda row: row["solved"])] if solved else []),
        of_models(f"FLOPs a token, forward, {longest:,} tokens", lambda row: words.si(row["flops_per_token"], "FLOP")),
        of_models("the same over the full square", lambda row: words.si(row["flops_per_token_square"], "FLOP")),
        *(
            of_models(f"state at {context:,} tokens", lambda row, at=context: _state(comparison, row, at))
            for context in CONTEXTS
        ),
        of_models(
            f"sequential depth, reference implementation, {longest:,} tokens",
            lambda row: words.number(row["sequential_depth"]),
        ),
        of_models(
            f"sequential depth, as it ran, {longest:,} tokens", lambda row: words.number(row["sequential_depth_ran"])
        ),
        of_rows("implementation that ran", sizes, lambda row: row["implementation"]),
        of_rows("tokens seen in training", list(ends.values()), lambda row: words.number(row["tokens"])),
        of_rows("fingerprint of the data", list(ends.values()), lambda row: f"{row['fingerprint']:08x}"),
        of_rows("mesh", learnt, lambda row: row.get("mesh", "data:1")),
        of_rows("optimiser", learnt, lambda row: row["optimizer"]),
        of_rows("learning rate", learnt, lambda row: f"{row['learning_rate']:g}"),
        of_rows("how the rate was chosen", learnt, lambda row: learning_rates.provenance(store.job_of(row), choices)),
        of_rows("window of good rates", learnt, lambda row: _window(store.job_of(row), choices)),
        of_rows("seeds of the learning curves", learnt, lambda row: str(row["seed"])),
        of_models("processes that timed it", lambda row: str(processes[row["arm"]])),
        of_rows("precision of the products", sizes, lambda row: row["dtype"]),
        of_rows("devices", [*sizes, *timed], lambda row: f"{row['n_devices']} x {row['device_kind']}"),
    ]
    yield Heading(title)
    yield Prose(" ".join(_sentences(comparison, models, matched, ends, learnt)))
    yield Table(("", *models), tuple(lines))
    yield Commands(tuple(comparison.commands(list(models.values()))))


def _sentences(
    comparison: Comparison, models: dict[str, Row], matched: set[str], ends: dict[str, Row], learnt: list[Row]
) -> Iterator[str]:
    references = sorted({parts.short("suite.mixers", row["match_to"]) for row in models.values() if row["match_to"]})
    if references:
        yield f"The reference is {words.listed(references)}, to which the other arms are matched."
    for match in sorted(matched - {"none"}):
        off = [arm for arm, row in models.items() if FLAG in _mismatch_in(comparison, row, match)]
        if off:
            far = f"by more than {words.percent(LARGEST_MISMATCH)}"
            yield f"Not matched: {words.listed(off)} differ{'s' if len(off) == 1 else ''} {far} in {MATCHES[match]}."
    if len(ends) > 1:
        if len({(row["tokens"], row["fingerprint"]) for row in ends.values()}) == 1:
            yield "The fingerprints are equal: every arm was trained on the same data in the same order of batches."
        elif len({row["tokens"] for row in ends.values()}) == 1:
            yield "The fingerprints differ: the arms were not trained on the same data."
        else:
            yield "The arms have not seen equally many tokens yet, so their fingerprints cannot be compared."
    if learnt:
        task, length = parts.short("suite.tasks", learnt[0]["task"]), learnt[0]["length"]
        yield (
            f"Tokens, fingerprints, learning rates and seeds are those of the training on {task}, {length:,} tokens; "
            "the table says how the rate of each arm was chosen, by itself."
        )


def _window(job: Job, choices: Iterable[learning_rates.Choice]) -> str:
    """The octaves over which rates that were tried for this training come near the best one."""
    choice = learning_rates.covering(job, choices)
    return f"{choice.window:.1f} octaves" if choice else "no rate was tuned for this training"


def _is_alike(row: Row, trained: Job) -> bool:
    """Whether a model is the one that was trained, but for its length."""
    return alike.of_row(row, alike.BACKBONE) == alike.of_job(trained, alike.BACKBONE)


def _mismatch_in(comparison: Comparison, row: Row, match: str) -> str:
    """The distance of a model from its reference in the matched quantity; the reference has none."""
    if match == "params":
        return _mismatch(row["params_mismatch"])
    if not row["match_to"] or row["match"] != match:
        return _mismatch(0.0)
    try:
        return _mismatch(pace.mismatch(comparison.rows, row["arm"]) if match == "step_time" else row["mismatch"])
    except LookupError as error:
        return str(error.args[0])


def _mismatch(value: float) -> str:
    if value == 0:
        return "0 %"
    return f"{words.percent(value)}{FLAG if abs(value) > LARGEST_MISMATCH else ''}"


def _state(comparison: Comparison, model: Row, context: int) -> str:
    rows = [row for row in comparison.rows if row.get("phase") == "state" and row["run_id"] == model["run_id"]]
    sizes = [row["state_bytes"] for row in rows if row["context"] == context]
    return f"{words.number(sizes[0])} B" if sizes else "not measured yet"
