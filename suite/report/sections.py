"""What stands in a report, in its order: headline, claims, figure, each claim in full, learning, utilisation."""

from collections.abc import Callable, Iterator

from suite import claims
from suite.claims import Figure
from suite.report import charts, words
from suite.report.curves import AXES, Curves, curves, sentence
from suite.report.derive import Machine, Timing, timings
from suite.report.document import Banner, Block, Chart, Commands, Document, Facts, Heading, Prose, Table
from suite.report.fairness import environment, fairness
from suite.report.records import Gathered, Judged

SAID = {
    "holds": ("holds", "hold"),
    "fails": ("fails", "fail"),
    "undecided": ("is undecided", "are undecided"),
    "untested": ("is untested here", "are untested here"),
}
TITLE = "Where attention beats recurrence, by how much, and why"


def document(found: Gathered) -> Document:
    """The whole report."""
    trained = curves(found.rows, found.jobs)
    blocks = [
        *_warnings(found),
        *_claims_table(found),
        *_overview(found),
        *(block for judged in found.judged for block in _claim(found, judged)),
        *_learning(found, trained),
        *_utilisation(found),
        *fairness(found, trained),
        *environment(found),
    ]
    return Document(TITLE, headline(found, trained), tuple(blocks))


def headline(found: Gathered, trained: list[Curves]) -> str:
    """One sentence with this machine's numbers."""
    if not found.rows:
        return "Nothing has been measured yet."
    measured = [judged.finding.sentence for judged in found.judged if judged.finding.numbers]
    unsaid = [] if measured else [judged.finding.sentence for judged in found.judged][:1]
    verdicts = [judged.finding.verdict for judged in found.judged]
    said = [*measured, *unsaid, sentence(trained)]
    for verdict, (of_one, of_more) in SAID.items():
        count = verdicts.count(verdict)
        if count:
            said.append(f"{words.counted(count, 'claim')} {of_one if count == 1 else of_more}")
    if found.scale and not found.evidence:
        said.append(f"scale {found.scale} is a test of the installation and not evidence")
    return f"On {found.where}, {_dtypes(found)}, {'; '.join(filter(None, said))}."


def _warnings(found: Gathered) -> Iterator[Block]:
    if found.scale and not found.evidence:
        test = f"Scale {found.scale} is a test of the installation and not evidence"
        yield Banner(f"{test}: its sizes are too small for any verdict.")
    sources = sorted({row["source"] for row in found.rows if "source" in row})
    if len(sources) > 1:
        yield Banner(f"The rows were taken with {len(sources)} versions of the source; a fresh --out has one.")


def _claims_table(found: Gathered) -> Iterator[Block]:
    columns = ("claim", "the textbook says", "measured here", "verdict", "basis", "scope")
    scope = f"{found.where}, {_dtypes(found)}" if found.rows else "nothing measured yet"
    rows = []
    for judged in found.judged:
        finding = judged.finding
        measured = ";\n".join(f"{number.name}: {words.measured(number)}" for number in finding.numbers[:2])
        verdict = f"{finding.verdict}: {finding.reason}"
        rows.append((_spelt(judged.name), judged.textbook, measured or finding.sentence, verdict, finding.basis, scope))
    yield Heading("Claims")
    yield Table(columns, tuple(rows))
    yield from _again(found)


def _overview(found: Gathered) -> Iterator[Block]:
    """Attention over LSTM, everything there is of it: the first thing to look at."""
    for judged in found.judged:
        for figure in judged.finding.figures:
            if _is_ratio(figure):
                yield from _chart(found, figure)


def _claim(found: Gathered, judged: Judged) -> Iterator[Block]:
    finding = judged.finding
    yield Heading(f"Claim: {_spelt(judged.name)}")
    yield Facts(
        (
            ("Question", judged.question),
            ("Textbook", judged.textbook),
            ("Rule", f"{judged.rule} (hash {judged.rule_hash})"),
            ("Found", f"{finding.sentence[:1].upper()}{finding.sentence[1:]}."),
            ("Verdict", f"{finding.verdict}: {finding.reason} (basis: {finding.basis})"),
        )
    )
    if finding.numbers:
        rows = [(number.name, words.measured(number), str(number.n)) for number in finding.numbers]
        yield Table(("quantity", "value, 95 % interval", "n"), tuple(rows))
        yield from _again(found, tuple(dict.fromkeys(number.command for number in finding.numbers)))
    if finding.controls:
        rows = [(control.name, "yes" if control.met else "no", control.found) for control in finding.controls]
        yield Table(("control", "met?", "found"), tuple(rows))
    for figure in finding.figures:
        if not _is_ratio(figure):
            yield from _chart(found, figure)


def _learning(found: Gathered, trained: list[Curves]) -> Iterator[Block]:
    """Loss at equal tokens and at equal seconds are two questions, so there are two charts."""
    for number, group in enumerate(trained, 1):
        yield Heading(f"Learning on {group.task} (not judged)")
        yield Prose(" ".join(_of_training(found, group)))
        for against in AXES:
            figure = group.figure(f"learning_{number}_{against}", against)
            if figure.points:
                yield from _chart(found, figure, "from the least to the greatest seed", logarithmic=False)
        tests = sorted(group.of("test"), key=lambda row: (found.arms.index(row["arm"]), row["seed"]))
        if tests:
            loss = f"test loss ({group.unit})"
            columns = ("arm", "seed", loss, "accuracy", "examples", "tokens trained on", "seconds of training")
            rows = [
                (
                    row["arm"],
                    str(row["seed"]),
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


def _utilisation(found: Gathered) -> Iterator[Block]:
    """One line a job that was timed; what cannot be derived has its reason beneath."""
    timed = [timing for timing in timings(found.rows) if timing.row["arm"] in found.arms]
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
    yield from _again(found)
    cells = found.commands([row for timing in timed for row in timing.rows])
    yield Commands(tuple(cells), "each line by itself")


def _chart(
    found: Gathered, figure: Figure, bands: str = "95 % intervals over fresh processes", *, logarithmic: bool = True
) -> Iterator[Block]:
    if figure.points or figure.failed:
        spec = charts.draw(figure, found.arms, logarithmic=logarithmic)
        ends = {point.series: point for point in figure.points}
        said = [f"{point.series}: {words.number(point.y)} at {words.number(point.x)}" for point in ends.values()]
        notes = []
        if any(point.low is not None for point in figure.points):
            notes.append(f"Bands: {bands}.")
        if figure.failed:
            notes.append("Crosses: no number (out of memory, did not compile, crashed or diverged).")
        seen = f"{figure.y} against {figure.x}. {'; '.join(said)}."
        yield Chart(figure.name, figure.title, spec, seen, " ".join(notes))


def _again(found: Gathered, otherwise: tuple[str, ...] = ()) -> Iterator[Block]:
    """The command that makes what stands above again."""
    if found.command or otherwise:
        yield Commands((found.command,) if found.command else otherwise)


def _is_ratio(figure: Figure) -> bool:
    return figure.name.endswith("_ratio")


def _spelt(name: str) -> str:
    return name.replace("_", " ")


def _at_step(row: claims.Row) -> str:
    return f" at step {row['step']:,}" if "step" in row else ""


def _dtypes(found: Gathered) -> str:
    return words.listed(sorted({row["dtype"] for row in found.rows}))
