"""What was equal between the arms and what was not, and what it all ran on."""

import collections
from collections.abc import Callable, Iterator

from suite import learning_rates
from suite.claims import MATCHES
from suite.job import Job
from suite.judging import pace
from suite.report import words
from suite.report.curves import Curves
from suite.report.derive import Machine
from suite.report.document import Block, Commands, Facts, Heading, Prose, Table
from suite.report.records import Gathered
from suite.sweep.store import Row

LARGEST_MISMATCH = 0.05
FLAG = " (above 5 %)"
CONTEXTS = (1024, 16384)


def fairness(found: Gathered, trained: list[Curves], equal: str = "") -> Iterator[Block]:
    """One column an arm, to be compared line by line; `equal` says what is, under another than the first matching."""
    sizes = [row for row in found.rows if row.get("phase") == "model" and row["arm"] in found.arms]
    learnt = trained[0].rows if trained else []
    sizes = [row for row in sizes if trained and _alike(found.jobs[row["run_id"]], trained[0].job)] or sizes
    if not sizes:
        return
    at = max(row["length"] for row in sizes)
    models = {row["arm"]: row for row in sizes if row["length"] == at}
    timed = [row for row in found.rows if row.get("phase") == "block" and not pace.is_look(row)]
    processes = collections.Counter(arm for arm, _ in {(row["arm"], row["repeat"]) for row in timed})

    def of_models(name: str, say: Callable[[Row], str]) -> tuple[str, ...]:
        return name, *(say(row) for row in models.values())

    def of_rows(name: str, rows: list[Row], say: Callable[[Row], str]) -> tuple[str, ...]:
        """What the rows of each arm say, each thing once."""
        said = [dict.fromkeys(say(row) for row in rows if row["arm"] == arm) for arm in models]
        return name, *(", ".join(texts) or "not there yet" for texts in said)

    ends = {row["arm"]: row for row in learnt if "fingerprint" in row}
    lines = [
        of_models("width", lambda row: words.number(row["width"])),
        of_models("parameters", lambda row: words.number(row["params"])),
        of_models("off the reference", lambda row: _mismatch(row["params_mismatch"])),
        *(
            of_models(f"off the reference in {MATCHES[match]}", lambda row, match=match: _said_off(found, row, match))
            for match in sorted({row["match"] for row in models.values() if row["match_to"]} - {"params", "none"})
        ),
        *([of_models("mixer as it was solved", lambda row: row["solved"])] if _any_solved(models) else []),
        of_models(f"FLOPs a token, forward, T={at:,}", lambda row: words.si(row["flops_per_token"], "FLOP")),
        of_models("the same, full square", lambda row: words.si(row["flops_per_token_square"], "FLOP")),
        *(
            of_models(f"state at {context:,} tokens", lambda row, at=context: _state(found, row, at))
            for context in CONTEXTS
        ),
        of_models(f"sequential depth, reference form, T={at:,}", lambda row: words.number(row["sequential_depth"])),
        of_models(f"sequential depth, form that ran, T={at:,}", lambda row: words.number(row["sequential_depth_ran"])),
        of_rows("form that ran", sizes, lambda row: row["implementation"]),
        of_rows("tokens seen in training", list(ends.values()), lambda row: words.number(row["tokens"])),
        of_rows("fingerprint of the data", list(ends.values()), lambda row: f"{row['fingerprint']:08x}"),
        of_rows("optimiser", learnt, lambda row: row["optimizer"]),
        of_rows("learning_rate", learnt, lambda row: f"{row['learning_rate']:g}"),
        of_rows("how the rate was chosen", learnt, _provenance),
        of_rows("seeds of the learning curves", learnt, lambda row: str(row["seed"])),
        of_models("fresh processes of the timings", lambda row: str(processes[row["arm"]])),
        of_rows("precision of the products", sizes, lambda row: row["dtype"]),
        of_rows("devices", [*sizes, *timed], lambda row: f"{row['n_devices']} x {row['device_kind']}"),
    ]
    yield Heading(f"Fairness with equal {equal}" if equal else "Fairness")
    yield Prose(" ".join(_sentences(found, models, ends, learnt)))
    yield Table(("", *models), tuple(lines))
    yield Commands(tuple(found.commands(list(models.values()))))


def environment(found: Gathered) -> Iterator[Block]:
    """What it ran on, with what, and by which peaks it was divided."""
    yield Heading("Environment")
    pairs = [("Device", found.where)]
    if found.place:
        pairs.append(("Place", found.place["place"]))
    env = found.environment
    if env:
        packages = ", ".join(f"{name} {version}" for name, version in env["packages"].items())
        pairs += [
            ("Processor", f"{env['cpu']}, {env['cores']} cores, {words.si(float(env['memory_bytes']), 'B')} of memory"),
            ("System", f"{env['platform']}, Python {env['python']}"),
            ("Packages", packages),
            ("Commit", f"{env['commit']}, sources {env['source']}"),
            (
                "variables",
                ", ".join(f"{name}={value}" for name, value in sorted(env["variables"].items())) or "none set",
            ),
        ]
    pairs += [("Peak", text) for text in _peaks(found)]
    corpora = sorted({row["corpus_sha256"] for row in found.rows if "corpus_sha256" in row})
    pairs += [("Corpus, sha256", text) for text in corpora]
    yield Facts(tuple(pairs))
    if found.flags:
        yield Commands(tuple(found.flags.splitlines()), "all flags, as for --flagfile")


def _sentences(found: Gathered, models: dict[str, Row], ends: dict[str, Row], learnt: list[Row]) -> Iterator[str]:
    matched = {row["match"] for row in models.values() if row["match_to"]} or {"params"}
    for match in sorted(matched - {"none"}):
        off = [arm for arm, row in models.items() if FLAG in _said_off(found, row, match)]
        if off:
            far = f"by more than {words.percent(LARGEST_MISMATCH)}"
            yield f"Not matched: {words.listed(off)} differ{'s' if len(off) == 1 else ''} {far} in {MATCHES[match]}."
    if len(ends) > 1:
        same = len({(row["tokens"], row["fingerprint"]) for row in ends.values()}) == 1
        equal_tokens = len({row["tokens"] for row in ends.values()}) == 1
        if same:
            yield "The fingerprints are equal: every arm was trained on the same data in the same order of batches."
        elif equal_tokens:
            yield "The fingerprints differ: the arms were not trained on the same data."
        else:
            yield "The arms have not seen equally many tokens yet, so their fingerprints cannot be compared."
    rates = {row["learning_rate"] for row in learnt}
    if len(rates) == 1:
        yield "One rate for all arms."
    elif rates:
        yield "The arms have rates of their own."


def _alike(job: Job, trained: Job) -> bool:
    """Whether a model is the one that was trained, but for its length."""
    return all(
        getattr(job, name) == getattr(trained, name) for name in ("task", "block", "short_conv", "width", "depth")
    )


def _off(found: Gathered, row: Row, match: str) -> float:
    """How far a model is from its reference in this; the reference itself is not off."""
    if match == "params":
        return row["params_mismatch"]
    if not row["match_to"] or row["match"] != match:
        return 0.0
    return pace.mismatch(found.rows, row["arm"]) if match == "step_time" else row["mismatch"]


def _said_off(found: Gathered, row: Row, match: str) -> str:
    try:
        return _mismatch(_off(found, row, match))
    except LookupError as error:
        return str(error.args[0])


def _any_solved(models: dict[str, Row]) -> bool:
    """Whether an arm has been given a knob of its own by the matching."""
    return any(row["solved"] != arm for arm, row in models.items())


def _mismatch(value: float) -> str:
    if value == 0:
        return "0 %"
    return f"{words.percent(value)}{FLAG if abs(value) > LARGEST_MISMATCH else ''}"


def _state(found: Gathered, model: Row, context: int) -> str:
    rows = [row for row in found.rows if row.get("phase") == "state" and row["run_id"] == model["run_id"]]
    held = [row["state_bytes"] for row in rows if row["context"] == context]
    return words.si(held[0], "B") if held else "not there yet"


def _peaks(found: Gathered) -> Iterator[str]:
    machine = Machine(found.rows)
    taken = {(row["device_kind"], row["dtype"]): row for row in found.rows if row["placed"] and "implementation" in row}
    for (kind, dtype), row in sorted(taken.items()):
        try:
            peak = machine.peak(row)
        except LookupError as error:
            yield str(error.args[0])
            continue
        speeds = f"{words.si(peak.flops_per_second, 'FLOP/s')} in {dtype}, {words.si(peak.bytes_per_second, 'B/s')}"
        yield f"{kind}: {speeds} a device ({peak.source})"


def _provenance(row: Row) -> str:
    return learning_rates.provenance(
        *(row[name] for name in ("arm", "task", "length", "steps", "short_conv", "block", "learning_rate"))
    )
