"""Gradient flow: does the gradient vanish or explode over a long recurrence, and are residuals the cure?"""

import dataclasses
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from suite import parts
from suite.claims import ATTENTION, LSTM, Control, Figure, Finding, Number, Point, Table, likeness, path_length
from suite.job import Cell
from suite.judging import alike, trials
from suite.judging.statistics import Interval, t_interval
from suite.scale import INSTALLATION, Scale
from suite.sweep.record import Row

QUESTION = "Does the gradient vanish or explode over a thousand recurrent steps, and is it stable in attention?"
TEXTBOOK = (
    "Through time the gradient is a product of 999 Jacobians, which vanishes or explodes; a transformer's gradient has "
    "additive residual paths and is stable."
)
CLAIMED = "999 Jacobians vanish or explode; residuals are stable"
ON_TEXT = False
RULE = (
    "J_k is the norm of d h_T / d x_(T-k), from random probes in float64, and D the decimal logarithm of the mean of "
    "J_1 to J_8 over J_999; parameters matched, a 95 % t-interval over seeds; judged before training, in the residual "
    "block. Holds: |D| of the LSTM and of the Elman network lies above 2.4, a factor of 256, where a term drops out of "
    "a bfloat16 sum, at every start that the mixer's file names, and attention's below 1. Fails: one of these, at any "
    "start, lies wholly on the other side, by an interval that is corrected for testing all of them (Bonferroni). "
    "Otherwise undecided, and so where a judged cell failed, where one of J_1 to "
    "J_8 is no positive number, and where training turns it: the test is done again after training on recall of one "
    "pair, at the farthest distance of path_length, with D from the answer's position to the value that it needs. "
    "There D has a sign, since a gradient that is larger at this value than near by has reached it. Untested below "
    "1,000 tokens, without two seeds of each of these, and at a scale that is not evidence. Residuals are the cause if "
    "attention's interval lies wholly above 1 in the plain block."
)

ELMAN = "elman"
JUDGED = (ATTENTION, LSTM, ELMAN)  # the recurrences at every start
RESIDUAL, PLAIN = "residual", "plain"
NEAR = range(1, 9)
LEAST = sys.float_info.min  # XLA takes what is smaller, 2.2e-308, for zero
MEASURE, TRAINED = "gradient_reach", "trained_gradient_reach"
COMMAND = "python -m launch.compare --claims=gradient_flow"
FIELDS = tuple(name for name in alike.CONDITIONS if name != "block")  # in which cells agree that are compared
STARTS = {
    "one": "as usually started",
    "spread": "whose gates start slow (spread)",
    "chrono": "whose gates start slow (chrono)",
    "orthogonal": "as usually started",
    "identity": "started from the identity",
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How far back gradients are followed before training, and whether at every start, and after training too."""

    reach: int = 1000  # tokens
    whole: bool = True
    untested: str = ""


SIZES = {"smoke": Sizes(reach=64, whole=False, untested=INSTALLATION)}
SIZES |= dict.fromkeys(("quick", "laptop", "gpu_hour", "gpu", "pod"), Sizes())


@dataclasses.dataclass(frozen=True)
class Profile:
    """The norms of one arm in one block: J_k by k, of each seed."""

    far: int  # tokens back to where D ends
    seeds: dict[int, dict[int, float]]

    @property
    def decays(self) -> list[float]:
        """D of each seed. A norm of 0 at the end counts as the least number there is, and D is at least this."""
        norms = [norms for norms in self.seeds.values() if _near(norms)]
        return [math.log10(_near(of_seed)) - math.log10(max(of_seed[self.far], LEAST)) for of_seed in norms]

    @property
    def at_least(self) -> str:
        return "at least " if any(norms[self.far] == 0 for norms in self.seeds.values()) else ""


class Reach(NamedTuple):
    """The profiles of one setting by arm and block, all before or all after training."""

    trained: bool
    far: int
    rows: list[Row]
    profiles: dict[tuple[str, str], Profile]
    left_out: int  # other settings

    @property
    def residual(self) -> dict[str, Profile]:
        return {arm: profile for (arm, block), profile in self.profiles.items() if block == RESIDUAL}

    @property
    def failed(self) -> list[tuple[str, str, str]]:
        """Cells of which a row has no number: arm, block, and the words for each."""
        rows = {(row["arm"], row["block"], row["seed"], row["outcome"]) for row in self.rows if row["outcome"] != "ok"}
        return [(arm, block, f"{arm}, {block}, seed {seed} ({outcome})") for arm, block, seed, outcome in sorted(rows)]

    @property
    def when(self) -> str:
        steps = self.rows[0]["steps"]
        return f"after {steps:,} steps on recall over {self.far} tokens" if self.trained else "before training"


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """Before training, of attention in both blocks; after it the trainings of path_length at its farthest distance."""
    del rows  # no cell depends on another
    sizes = SIZES[scale.name]
    judged = [arm for mixer in JUDGED for arm in (trials.variants(mixer) if sizes.whole else (mixer,))]
    distance = path_length.SIZES[scale.name].distances[-1]
    wanted = []
    for arm in dict.fromkeys((*judged, *scale.arms)):
        blocks = (RESIDUAL, PLAIN) if arm == ATTENTION else (RESIDUAL,)  # the cause is asked of attention alone
        jobs = [(scale.arm(arm, length=sizes.reach, block=block), MEASURE) for block in blocks]
        if sizes.whole:
            jobs.append((path_length.job(scale, arm, distance), TRAINED))
        seeds = scale.seeds if arm in judged else min(trials.OTHERS, scale.seeds)
        wanted += [Cell(job.replace(seed=seed), measure) for job, measure in jobs for seed in range(seeds)]
    return wanted


def judge(rows: list[Row], *, threshold: float = 2.4, stable: float = 1.0, length: int = 1000) -> Finding:
    """The finding for `length` tokens, or, where that was not reached, for the longest sequence there is."""
    before, after = _reach(rows, MEASURE, length), _reach(rows, TRAINED, length)
    if before is None:
        return Finding("untested", "measured", reason="nothing was measured yet")
    control = _control(before)
    reached = before.rows[0]["length"]
    if reached < length:
        verdict, reason = "untested", f"{length:,} tokens were not reached, {reached:,} were"
    elif not control.met:
        verdict, reason = "undecided", f"the control is not met: {control.measured}"
    else:
        verdict, reason = _test(before, threshold, stable)
        if after is None:
            reason += "; not measured after training"
        else:
            again, why = _test(after, threshold, stable)
            if {verdict, again} == {"holds", "fails"}:
                reason = f"turns with training: {before.when} it {verdict}, {reason}; {after.when} it {again}, {why}"
                verdict = "undecided"
            else:
                reason += f"; {after.when} the same test: {again}"
    if (ATTENTION, PLAIN) in before.profiles:
        reason += f"; {_cause(before.profiles[ATTENTION, PLAIN].decays, stable)}"
    reaches = [reach for reach in (before, after) if reach is not None]
    unmentioned = [cell for reach in reaches for _, _, cell in reach.failed if cell not in reason]
    if unmentioned:
        reason += f"; failed: {', '.join(unmentioned)}"
    numbers = tuple(number for reach in reaches for number in _numbers(reach))
    return Finding(verdict, "measured", reason=reason, numbers=numbers, controls=(control,))


def tell(rows: list[Row], judged: Finding, *, threshold: float, stable: float, length: int) -> Finding:
    """The finding with its sentence, and a table and figures of the norms before and after training."""
    del threshold, stable
    before, after = _reach(rows, MEASURE, length), _reach(rows, TRAINED, length)
    if before is None:
        return dataclasses.replace(judged, sentence="no gradient was followed back")
    reaches = [reach for reach in (before, after) if reach is not None and reach.profiles]
    drawn = [(reach, block) for reach in reaches for block in dict.fromkeys(block for _, block in reach.profiles)]
    return dataclasses.replace(
        judged,
        sentence=_sentence(before),
        figures=tuple(_figure(reach, block) for reach, block in drawn),
        speaks_for="; ".join(_speaks_for(reach) for reach in reaches),
        arms=tuple(likeness(_sizes(before.residual))),
        tables=tuple(_table(reach, rows) for reach in reaches),
    )


def magnitude(values: list[float], confidence: float = 0.95) -> Interval:
    """|D| with the interval that follows from that of D."""
    value, low, high = t_interval(values, confidence)
    if low < 0 < high:
        return Interval(abs(value), 0.0, max(-low, high))
    return Interval(abs(value), *sorted((abs(low), abs(high))))


def _judged() -> tuple[str, ...]:
    return ATTENTION, *trials.variants(LSTM), *trials.variants(ELMAN)


def _reach(rows: list[Row], measure: str, length: int) -> Reach | None:
    """The norms of the setting that has the judged three and is as near to `length` as can be, rather longer."""
    settings: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        if parts.split(row["measure"])[0] == measure:
            settings[alike.of_row(row, FIELDS)].append(row)

    def order(of_setting: list[Row]) -> tuple:
        at = of_setting[0]["length"]
        return not {row["arm"] for row in of_setting} >= set(JUDGED), at < length, abs(at - length)

    of_measure = [settings[setting] for setting in sorted(settings, key=str)]
    chosen = min((rows for rows in of_measure if measure == MEASURE or _distance(rows[0])), key=order, default=None)
    if chosen is None:
        return None
    wanted = length - 1 if measure == MEASURE else _distance(chosen[0]) - 1  # the value stands one after its key
    measured = {row["distance"] for row in chosen if "norm" in row}
    far = min((k for k in measured if k >= wanted), default=max(measured, default=wanted))
    return Reach(measure == TRAINED, far, chosen, _profiles(chosen, far), len(settings) - 1)


def _distance(row: Row) -> int:
    """Tokens from the pair to its query in recall of one pair; 0 of any other task."""
    knobs = parts.knobs("suite.tasks", row["task"]) if parts.split(row["task"])[0] == path_length.TASK else {}
    return int(knobs["distance"]) if knobs and knobs["pairs"] == 1 else 0


def _profiles(rows: list[Row], far: int) -> dict[tuple[str, str], Profile]:
    """The profiles of whole cells, the judged first: a cell that is still written has no D yet."""
    norms: dict[tuple[str, str], dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if "norm" in row:
            norms[row["arm"], row["block"]][row["seed"]][row["distance"]] = row["norm"]
    first = [(arm, block) for block in (RESIDUAL, PLAIN) for arm in _judged()]
    profiles = {}
    for key in dict.fromkeys((*first, *sorted(norms))):
        seeds = {seed: of_seed for seed, of_seed in sorted(norms[key].items()) if of_seed.keys() >= {0, *NEAR, far}}
        if seeds:
            profiles[key] = Profile(far, seeds)
    return profiles


def _near(norms: dict[int, float]) -> float:
    return statistics.fmean(norms[k] for k in NEAR)


def _control(reach: Reach) -> Control:
    """That the instrument works where it is judged."""
    name = "J_1 to J_8 are positive and finite in every judged cell"
    judged = _judged()
    broken = [cell for arm, block, cell in reach.failed if arm in judged and block == RESIDUAL]
    cells = [(arm, *cell) for arm, of_arm in reach.residual.items() if arm in judged for cell in of_arm.seeds.items()]
    broken += [f"{arm}, seed {seed} (a norm of 0)" for arm, seed, norms in cells if not all(norms[k] for k in NEAR)]
    return Control(name, not broken, f"not in {', '.join(broken)}" if broken else f"{len(cells)} cells")


def _test(reach: Reach, threshold: float, stable: float) -> tuple[str, str]:
    """The verdict of one setting, with its reason."""
    decays = {arm: reach.residual[arm].decays if arm in reach.residual else [] for arm in _judged()}
    short = [arm for arm, values in decays.items() if len(values) < 2]
    if short:
        return "untested", f"fewer than two seeds in the residual block: {', '.join(short)}"
    symbol, interval = ("D", t_interval) if reach.trained else ("|D|", magnitude)
    corrected = 1 - 0.05 / len(decays)  # any one of them makes it fail; all of them together make it hold
    right, wrong, other = [], [], []
    for arm, values in decays.items():
        bound, wanted = (stable, "below") if arm == ATTENTION else (threshold, "above")
        size = interval(values)
        if _side(size, bound) == wanted:
            right.append(f"{arm}'s {symbol} of {_text(size)} lies {wanted} {bound:g}")
            continue
        size = interval(values, corrected)
        side = _side(size, bound)
        where = other if side in (wanted, "around") else wrong
        where.append(f"{arm}'s {symbol} of {_text(size, corrected)} lies {side} {bound:g}")
    if wrong:
        return "fails", ", ".join(wrong)
    return ("undecided", ", ".join(other)) if other else ("holds", ", ".join(right))


def _side(size: Interval, bound: float) -> str:
    return "below" if size.high < bound else "above" if size.low > bound else "around"


def _cause(values: list[float], stable: float) -> str:
    """Whether residuals are what keeps attention's gradient stable, by the plain block."""
    if len(values) < 2:
        return "whether residuals are the cause is open: one seed in the plain block"
    size = magnitude(values)
    found = f"in the plain block attention's |D| is {_text(size)}"
    if size.low > stable:
        return f"residuals are the cause: {found}"
    return f"residuals are not the cause: {found} too" if size.high < stable else f"the cause is undecided: {found}"


def _sizes(profiles: dict[str, Profile]) -> dict[str, float]:
    """|D| of the judged pair, and of each other mixer that has seeds enough for a sentence about it."""
    decays = {arm: profile.decays for arm, profile in profiles.items() if profile.decays}
    return {
        arm: abs(statistics.fmean(values))
        for arm, values in decays.items()
        if arm in (ATTENTION, LSTM) or (parts.split(arm)[0] not in JUDGED and len(values) >= trials.OTHERS)
    }


def _numbers(reach: Reach) -> Iterator[Number]:
    for (arm, block), profile in reach.profiles.items():
        if values := profile.decays:
            bounds = t_interval(values)[1:] if len(values) > 1 else (None, None)
            least = ", at least: J is 0 in float64 at the end" if profile.at_least else ""
            name = f"D {'after' if reach.trained else 'before'} training, {arm}, {block} block{least}"
            yield Number(name, statistics.fmean(values), "decades", len(values), COMMAND, *bounds)


def _figure(reach: Reach, block: str) -> Figure:
    """Medians over seeds, with the least and the greatest. A logarithmic axis has no 0: these points are left out."""
    points = []
    for arm, seeds in ((arm, of_arm.seeds) for (arm, at), of_arm in reach.profiles.items() if at == block):
        for k in sorted(set.intersection(*map(set, seeds.values()))):
            norms = [seed[k] for seed in seeds.values()]
            bounds = (min(norms), max(norms)) if len(norms) > 1 else ()
            if k > 0 and min(norms) > 0:
                points.append(Point(arm, k, statistics.median(norms), *bounds))
    return Figure(
        name=f"gradient_reach_{'trained' if reach.trained else block}",
        title=f"How far gradients reach {reach.when}, {block} block",
        x="k (tokens back)",
        y="norm of d h_T / d x_(T-k)",
        points=tuple(points),
    )


def _table(reach: Reach, rows: list[Row]) -> Table:
    """Medians over seeds of what D is made of; after training, how many seeds solve the task."""
    tests = [row for row in trials.of_task(rows, path_length.TASK) if row.get("phase") == "test"]
    solved = {row["run_id"] for row in tests if row["outcome"] == "ok" and row["final_accuracy"] >= trials.SOLVED}
    lines = []
    for (arm, block), profile in reach.profiles.items():
        norms, values = profile.seeds.values(), profile.decays
        medians = [statistics.median(map(norm, norms)) for norm in (lambda n: n[0], _near, lambda n: n[reach.far])]
        decay = _text(t_interval(values)) if len(values) > 1 else ", ".join(f"{value:.3g}" for value in values)
        line = (arm, block, *(f"{norm:.3g}" for norm in medians), profile.at_least + decay, str(len(norms)))
        runs = {row["run_id"] for row in reach.rows if (row["arm"], row["block"]) == (arm, block)}
        lines.append((*line, f"{len(runs & solved)}/{len(runs)}") if reach.trained else line)
    columns = ("mixer", "block", "J_0", "mean of J_1 to J_8", f"J_{reach.far}", "D", "seeds")
    columns += ("recall solved",) if reach.trained else ()
    return Table(f"Norms {reach.when}, medians over seeds, and D in decades", columns, tuple(lines))


def _sentence(reach: Reach) -> str:
    profiles = {arm: reach.residual[arm] for arm in (*_judged()[1:], ATTENTION) if arm in reach.residual}
    if not profiles:
        return "no gradient of the judged three was followed back"
    changes = [f"{_change(profile)} in {_name(arm)}" for arm, profile in profiles.items()]
    listed = " and ".join([", ".join(changes[:-1]), changes[-1]] if len(changes) > 1 else changes)
    plain = (ATTENTION, PLAIN)
    without = f"; without residuals attention's {_change(reach.profiles[plain])}" if plain in reach.profiles else ""
    return f"over {reach.far:,} tokens, {reach.when}, the gradient {listed}{without}"


def _change(profile: Profile) -> str:
    """shrinks by 10^80, grows by 36 times, stays as it is"""
    if not profile.decays:
        return "is 0"
    decades = statistics.fmean(profile.decays)
    if abs(decades) < math.log10(1.5):
        return "stays as it is"
    size = f"{10 ** abs(decades):.2g} times" if abs(decades) < 2 else f"10^{abs(decades):.3g}"
    return f"{'shrinks' if decades > 0 else 'grows'} by {profile.at_least}{size}"


def _name(arm: str) -> str:
    """A judged arm in a sentence: the LSTM as usually started."""
    name = parts.constant("suite.mixers", arm, "NAME")
    if arm == ATTENTION:
        return name
    [knob] = parts.constant("suite.mixers", arm, "VARIANTS")
    start = str(parts.knobs("suite.mixers", arm)[knob])
    return f"{name} {STARTS[start]}" if start in STARTS else f"{name} of {knob}={start}"


def _speaks_for(reach: Reach) -> str:
    row = reach.rows[0]
    counts = {len(profile.seeds) for profile in reach.residual.values()}
    seeds = " to ".join(map(str, sorted({min(counts, default=0), max(counts, default=0)})))
    model = (
        f"{row['length']:,} tokens, width {row['reference_width']}, depth {row['depth']}, {seeds} seeds, {reach.when}"
    )
    return f"{model}, other settings left out: {reach.left_out}" if reach.left_out else model


def _text(size: Interval, confidence: float = 0.95) -> str:
    return f"{size.value:.3g} ({100 * confidence:.3g} % {size.low:.3g} to {size.high:.3g})"
