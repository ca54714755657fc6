"""Effective context: from how many tokens back a trained model still predicts better."""

import dataclasses
import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from suite import parts
from suite.claims import (
    ATTENTION,
    LIKE_ATTENTION,
    LIKE_LSTM,
    LSTM,
    NEITHER,
    Control,
    Figure,
    Finding,
    Number,
    Point,
    Table,
)
from suite.job import Cell
from suite.judging import alike, factors, trials
from suite.judging.statistics import Interval, bootstrap, percentile_interval
from suite.scale import INSTALLATION, Scale
from suite.sweep.record import Row

QUESTION = "Does attention use a longer context than an LSTM that was trained as long?"
TEXTBOOK = (
    "Recurrent networks are practically capped near 1,000 tokens of context, since what was read fades from their "
    "state; transformers read 128,000 tokens and more."
)
CLAIMED = "capped near 1k tokens against 128k"
ON_TEXT = True
FACTORS = ("steps",)
RULE = (
    "Effective context is the smallest c with loss(c) - loss(T) of at most 0.01 nats a token, both on the same targets "
    "of test windows at random offsets: the last few of each window, read with c = 16, 32, ... tokens before them (16 "
    "stands for fewer too) or with the whole window, which counts as T. It is judged at the longest T that attention "
    "and the LSTM were trained at on text; intervals are percentiles of a bootstrap over seeds, then groups of "
    "windows. Holds: the LSTM's interval lies at or below 2,048 and that of the ratio attention / LSTM at or above 2. "
    "Fails: the LSTM's lies above 2,048 or that of the ratio at or below 1. Otherwise undecided, as it is where 0.003 "
    "or 0.03 nats give another answer. Untested below 4,096 tokens, where the ordering is shown, and with fewer than "
    "two seeds of either. Seeds that diverged or are missing are left out and named. Controls: both read the test "
    "better than byte frequencies do (below 4 bits a byte), and attention's loss on the targets is lower with the "
    "whole window than with the shortest context."
)

COMMAND = "python -m launch.compare --claims=context_length"
STRICTER, LOOSER = 0.3, 3.0  # of the tolerance: 0.003 and 0.03
BITS_A_BYTE = 4.0  # byte frequencies alone take 4.8 on the shipped corpus


@dataclasses.dataclass(frozen=True)
class Curve:
    """Loss of an arm by context, longest last: of each seed an array of (groups of windows, contexts)."""

    arm: str
    contexts: np.ndarray
    members: dict[int, np.ndarray]

    @property
    def loss(self) -> np.ndarray:
        return np.mean([member.mean(axis=0) for member in self.members.values()], axis=0)

    @property
    def length(self) -> int:
        return int(self.contexts[-1])

    @functools.cached_property
    def resampled(self) -> np.ndarray:
        return bootstrap(list(self.members.values()))

    def effective(self, tolerance: float) -> Interval:
        value = _effective(self.loss[None], self.contexts, tolerance)[0]
        return percentile_interval(float(value), _effective(self.resampled, self.contexts, tolerance))


def _effective(loss_RC: np.ndarray, contexts_C: np.ndarray, tolerance: float) -> np.ndarray:
    """Of each resample the smallest context whose loss is within the tolerance of the longest one's."""
    return contexts_C[np.argmax(loss_RC - loss_RC[:, -1:] <= tolerance, axis=1)]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How often every arm is trained on the text of the learning curves."""

    seeds: int = 1
    untested: str = ""


SIZES = {
    "smoke": Sizes(untested=INSTALLATION),
    "quick": Sizes(untested="windows of 256 tokens; the rule wants 4,096"),
    "laptop": Sizes(untested="windows of 512 tokens; the rule wants 4,096"),
    "gpu_hour": Sizes(untested="windows of 512 tokens; the rule wants 4,096"),
    "gpu": Sizes(seeds=2),
    "pod": Sizes(seeds=2),
}


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """Every arm trained on text by several seeds, then read with less and less context; the pair for longer too."""
    del rows
    sizes = SIZES[scale.name]
    jobs = [scale.arm(mixer, scale.curves, seed=seed) for mixer in scale.arms for seed in range(sizes.seeds)]
    if not sizes.untested:
        curves = factors.for_longer(scale.curves)
        jobs += [scale.arm(mixer, curves, seed=seed) for mixer in (ATTENTION, LSTM) for seed in range(sizes.seeds)]
    return [cell for job in jobs for cell in (Cell(job, "learning"), Cell(job, "truncated_context"))]


def trainings(rows: list[Row]) -> list[Row]:
    """The trainings that the verdict rests on, with what was read of them."""
    read = {row["run_id"] for row in rows if row["measure"] == "truncated_context"}
    return [row for row in rows if row["run_id"] in read and row["measure"] in ("learning", "truncated_context")]


def judge(
    rows: list[Row], *, tolerance: float = 0.01, shortest: int = 4096, cap: int = 2048, factor: float = 2.0
) -> Finding:
    """The finding at the longest length that both of the pair were trained at."""
    trained = _longest(rows)
    curves = _curves(trained)
    left_out = _left_out(trained, curves)
    if not {ATTENTION, LSTM} <= curves.keys():
        return Finding("untested", "measured", reason=_with_left_out("the judged pair is not there", left_out))
    attention, lstm = curves[ATTENTION], curves[LSTM]
    tolerances = _tolerances(tolerance)
    verdicts = {nats: _at(attention, lstm, nats, cap, factor) for nats in tolerances}
    controls = (_learnt(trained, attention, lstm), _helps(attention))
    verdict, reason = _verdict(attention, lstm, verdicts, controls, shortest)
    numbers = tuple(_numbers(attention, lstm, tolerances))
    return Finding(verdict, "measured", reason=_with_left_out(reason, left_out), numbers=numbers, controls=controls)


def tell(rows: list[Row], judged: Finding, *, tolerance: float, shortest: int, cap: int, factor: float) -> Finding:
    """The finding with its sentence and the loss of every arm over the context."""
    del shortest, cap
    curves, tolerances = _curves(_longest(rows)), _tolerances(tolerance)
    finding = dataclasses.replace(judged, figures=_figures(curves, tolerances), tables=_tables(curves, tolerances))
    if not {ATTENTION, LSTM} <= curves.keys():
        return dataclasses.replace(finding, sentence=f"contexts were cut for {', '.join(curves) or 'no arm'}")
    attention, lstm = curves[ATTENTION], curves[LSTM]
    return dataclasses.replace(
        finding,
        sentence=_sentence(attention, lstm, tolerance),
        speaks_for=_speaks_for(_longest(rows)[0], attention, lstm),
        arms=tuple(_likeness(curves, tolerance, factor)),
    )


def _tolerances(tolerance: float) -> tuple[float, ...]:
    return tolerance, STRICTER * tolerance, LOOSER * tolerance


def _verdict(
    attention: Curve,
    lstm: Curve,
    verdicts: dict[float, tuple[str, str]],
    controls: tuple[Control, ...],
    shortest: int,
) -> tuple[str, str]:
    (tolerance, (verdict, reason)), *_ = verdicts.items()
    if attention.length < shortest:
        ordering = f"at {attention.length:,} {_ordering(attention, lstm, tolerance)}"
        return "untested", f"{shortest:,} tokens were not reached; {ordering}"
    few = [curve.arm for curve in (attention, lstm) if len(curve.members) < 2]
    if few:
        return "untested", f"fewer than two seeds give no interval ({', '.join(few)})"
    broken = [control.name for control in controls if not control.met]
    if broken:
        return "undecided", f"{reason}; but a control failed: {'; '.join(broken)}"
    if len({at_nats for at_nats, _ in verdicts.values()}) > 1:
        each = ", ".join(f"{at_nats} at {nats:g}" for nats, (at_nats, _) in sorted(verdicts.items()))
        return "undecided", f"it turns with the tolerance in nats: {each}"
    return verdict, reason


def _at(attention: Curve, lstm: Curve, tolerance: float, cap: int, factor: float) -> tuple[str, str]:
    """The verdict at one tolerance."""
    context, ratio = lstm.effective(tolerance), _ratio(attention, lstm, tolerance)
    if context.low > cap:
        return "fails", f"the LSTM's effective context lies above {cap:,} tokens"
    if ratio.high <= 1:
        return "fails", "attention's effective context is not longer than the LSTM's"
    if context.high <= cap and ratio.low >= factor:
        return "holds", f"the LSTM's effective context is at most {cap:,} tokens, attention's {factor:g}x that or more"
    if context.high > cap:
        return "undecided", f"the LSTM's interval straddles {cap:,} tokens"
    return "undecided", f"the interval of attention / LSTM does not clear 1 or {factor:g}"


def _ratio(attention: Curve, lstm: Curve, tolerance: float) -> Interval:
    drawn = [_effective(curve.resampled, curve.contexts, tolerance) for curve in (attention, lstm)]
    value = attention.effective(tolerance).value / lstm.effective(tolerance).value
    return percentile_interval(value, drawn[0] / drawn[1])


def _ordering(attention: Curve, lstm: Curve, tolerance: float) -> str:
    above, below = attention.effective(tolerance).value, lstm.effective(tolerance).value
    if above == below:
        return f"both use {above:,.0f} tokens"
    further = "attention" if above > below else "the LSTM"
    return f"{further} looks further back ({max(above, below):,.0f} tokens against {min(above, below):,.0f})"


def _learnt(trained: list[Row], attention: Curve, lstm: Curve) -> Control:
    tests = {
        arm: [row["loss"] / math.log(2) for row in trained if row.get("phase") == "test" and row["arm"] == arm]
        for arm in (attention.arm, lstm.arm)
    }
    name = f"both are below {BITS_A_BYTE:g} bits a byte on the test, where byte frequencies alone are not"
    if not all(tests.values()):
        return Control(name, False, "not tested yet")
    worst = {arm: max(bits) for arm, bits in tests.items()}
    listed = ", ".join(f"{arm} {bits:.3g}" for arm, bits in worst.items())
    return Control(name, max(worst.values()) < BITS_A_BYTE, listed)


def _helps(attention: Curve) -> Control:
    name = "more context helps attention at all"
    gained = attention.resampled[:, 0] - attention.resampled[:, -1]
    value, low, high = percentile_interval(float(attention.loss[0] - attention.loss[-1]), gained)
    contexts = f"{attention.contexts[0]} tokens to {attention.length:,}"
    return Control(name, low > 0, f"{value:.3g} nats from {contexts} (95 % {low:.3g} to {high:.3g})")


def _longest(rows: list[Row]) -> list[Row]:
    """The rows of trainings on text, and of their contexts, at the greatest length, of the pair where it is there."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        if parts.split(row["task"])[0] == "text" and row["measure"] in ("learning", "truncated_context"):
            groups[alike.of_row(row, alike.CONDITIONS)].append(row)

    def rank(group: list[Row]) -> tuple[bool, int, int]:
        cut = {row["arm"] for row in group if row.get("phase") == "context"}
        return {ATTENTION, LSTM} <= cut, group[0]["length"], len(group)

    return max(groups.values(), key=rank, default=[])


def _curves(trained: list[Row]) -> dict[str, Curve]:
    """Of every arm the seeds whose contexts were all cut."""
    losses: dict[tuple[str, int], dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in trained:
        if row.get("phase") == "context" and row["outcome"] == "ok":
            losses[row["arm"], row["seed"]][row["turn"]][row["context"]] = row["nats"]
    contexts = sorted({context for groups in losses.values() for group in groups.values() for context in group})
    members: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for (arm, seed), groups in sorted(losses.items()):
        whole = [[group[at] for at in contexts] for _, group in sorted(groups.items()) if len(group) == len(contexts)]
        if whole:
            members[arm][seed] = np.asarray(whole)
    counted = np.asarray([*contexts[:-1], *(trained[0]["length"] for _ in contexts[-1:])])
    return {arm: Curve(arm, counted, of_arm) for arm, of_arm in members.items()}


def _left_out(trained: list[Row], curves: dict[str, Curve]) -> list[str]:
    """Seeds of the pair that any arm has and that are not in its curve, each with the reason."""
    left_out = []
    for arm, seed in itertools.product((ATTENTION, LSTM), sorted({row["seed"] for row in trained})):
        if arm not in curves or seed not in curves[arm].members:
            outcomes = {row["outcome"] for row in trained if (row["arm"], row["seed"]) == (arm, seed)} - {"ok"}
            left_out.append(f"{arm} seed {seed} ({', '.join(sorted(outcomes)) or 'missing'})")
    return left_out


def _with_left_out(reason: str, left_out: list[str]) -> str:
    return f"{reason}; left out: {', '.join(left_out)}" if left_out else reason


def _likeness(curves: dict[str, Curve], tolerance: float, factor: float) -> Iterator[tuple[str, str]]:
    lstm = curves[LSTM].effective(tolerance).value
    for arm, curve in curves.items():
        if arm not in (ATTENTION, LSTM) and len(curve.members) >= trials.OTHERS:
            context = curve.effective(tolerance).value
            yield arm, LIKE_ATTENTION if context >= factor * lstm else LIKE_LSTM if context <= lstm else NEITHER


def _sentence(attention: Curve, lstm: Curve, tolerance: float) -> str:
    reach = [f"{curve.effective(tolerance).value:,.0f}" for curve in (attention, lstm)]
    return (
        f"trained on windows of {attention.length:,} tokens of text, attention comes within {tolerance:g} nats a token "
        f"of its least loss with {reach[0]} tokens of context and the LSTM with {reach[1]}"
    )


def _speaks_for(row: Row, attention: Curve, lstm: Curve) -> str:
    budget = f"{row['steps']:,} steps of {row['batch']}"
    seeds = f"{_seeds(attention)} of attention, {_seeds(lstm)} of the LSTM"
    return f"windows of {attention.length:,} tokens of text, within {budget}; {seeds}"


def _numbers(attention: Curve, lstm: Curve, tolerances: Iterable[float]) -> Iterator[Number]:
    for nats in tolerances:
        for curve in (attention, lstm):
            name = f"effective context at {nats:g} nats, {curve.arm}"
            value, *bounds = _bounded(curve.effective(nats), (curve,))
            yield Number(name, value, "tokens", len(curve.members), COMMAND, *bounds)
        value, *bounds = _bounded(_ratio(attention, lstm, nats), (attention, lstm))
        seeds = len(attention.members) + len(lstm.members)
        yield Number(f"effective context at {nats:g} nats, attention / LSTM", value, "x", seeds, COMMAND, *bounds)


def _tables(curves: dict[str, Curve], tolerances: Iterable[float]) -> tuple[Table, ...]:
    ordered = sorted(tolerances)
    columns = ("arm", "seeds", *(f"within {nats:g} nats" for nats in ordered))
    lines = tuple(
        (arm, str(len(curve.members)), *(_text(*_bounded(curve.effective(nats), (curve,))) for nats in ordered))
        for arm, curve in curves.items()
    )
    return (Table("Effective context in tokens", columns, lines),) if lines else ()


def _figures(curves: dict[str, Curve], tolerances: tuple[float, ...]) -> tuple[Figure, ...]:
    points = []
    for arm, curve in curves.items():
        gaps, resampled = curve.loss - curve.loss[-1], curve.resampled - curve.resampled[:, -1:]
        for index, context in enumerate(curve.contexts):
            gap = percentile_interval(float(gaps[index]), resampled[:, index])
            points.append(Point(arm, int(context), *(gap if len(curve.members) > 1 else gap[:1])))
    figure = Figure(
        name="truncated_context",
        title="Loss with a part of the context above that with all of it, same targets",
        x="context (tokens)",
        y="nats a token",
        points=tuple(points),
        thresholds=dict(zip(("tolerance", "stricter", "looser"), tolerances, strict=True)),
        log_y=False,
    )
    return (figure,) if points else ()


def _seeds(curve: Curve) -> str:
    count = len(curve.members)
    return f"{count} seed{'s' if count > 1 else ''}"


def _bounded(interval: Interval, curves: Iterable[Curve]) -> tuple[float, ...]:
    """The value, and its bounds where seeds were repeated and their resamples do not all come to one context."""
    is_interval = interval.low < interval.high and all(len(curve.members) > 1 for curve in curves)
    return tuple(interval) if is_interval else (interval.value,)


def _text(value: float, low: float | None = None, high: float | None = None) -> str:
    return f"{value:,.0f}" if low is None else f"{value:,.0f} (95 % {low:,.0f} to {high:,.0f})"
