"""Gradient flow: does the gradient vanish or explode over a long recurrence, and are residuals the cure?"""

import dataclasses
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

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
    "J_k is the norm of d h_T / d x_(T-k), from random probes in float64 before any training, and D the decimal "
    "logarithm of the mean of J_1 to J_8 over J_999; parameters matched, a 95 % t-interval over seeds. Holds: the "
    "intervals of |D| of the Elman network and of the LSTM lie above 2.4, a factor of 256, where a term drops out of a "
    "bfloat16 sum, and attention's below 1, all in the residual block. Fails: one of them lies wholly on the other "
    "side. Otherwise undecided, and so where a judged cell failed or one of J_1 to J_8 is no positive number. Untested "
    "below 1,000 tokens, without one of the three, below two seeds, and at a scale that is not evidence. Residuals are "
    "the cause if attention's interval lies wholly above 1 in the plain block."
)

ELMAN = "elman"
JUDGED = (ATTENTION, LSTM, ELMAN)
RESIDUAL, PLAIN = "residual", "plain"
NEAR = range(1, 9)
LEAST = sys.float_info.min  # XLA takes what is smaller, 2.2e-308, for zero
MEASURE = "gradient_reach"
COMMAND = "python -m launch.compare --claims=gradient_flow"
NAMES = {ATTENTION: "attention", LSTM: "the LSTM", ELMAN: "the Elman network"}

Key = tuple[str, str]  # arm and block
Profiles = dict[Key, dict[int, dict[int, float]]]  # J_k by seed and k


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How far back gradients are followed."""

    reach: int = 1000  # tokens
    untested: str = ""


SIZES = {"smoke": Sizes(reach=64, untested=INSTALLATION)} | dict.fromkeys(("quick", "laptop", "gpu", "pod"), Sizes())


class Reach(NamedTuple):
    """The norms at one length, the distance that D is taken at, and D of each seed by arm and block."""

    length: int
    rows: list[Row]
    far: int
    profiles: Profiles
    decays: dict[Key, list[float]]

    @property
    def bounded(self) -> set[Key]:
        """Those of which a norm is 0 in float64 at the end: D is at least what stands there."""
        return {key for key in self.decays if any(norms[self.far] == 0 for norms in self.profiles[key].values())}


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """Both blocks, all seeds of the judged three and one of every other arm."""
    del rows  # no cell depends on another
    reach = SIZES[scale.name].reach
    return [
        Cell(scale.arm(mixer, length=reach, block=block, seed=seed), MEASURE)
        for mixer in dict.fromkeys((*JUDGED, *scale.arms))
        for block in (RESIDUAL, PLAIN)
        for seed in range(scale.seeds if mixer in JUDGED else 1)
    ]


def judge(rows: list[Row], *, threshold: float = 2.4, stable: float = 1.0, length: int = 1000) -> Finding:
    """The finding for `length` tokens, or, where that was not reached, for the longest sequence there is."""
    reach = _reach(rows, length)
    if reach is None:
        return Finding("untested", "measured", reason="nothing was measured yet")
    failed = _failed(reach.rows)
    control = _control(reach.profiles, failed)
    measured = {*reach.profiles, *((arm, block) for arm, block, _ in failed)}
    missing = [arm for arm in JUDGED if (arm, RESIDUAL) not in measured]
    if reach.length < length:
        verdict, reason = "untested", f"{length:,} tokens were not reached, {reach.length:,} were"
    elif missing:
        verdict, reason = "untested", f"not measured in the residual block: {', '.join(missing)}"
    elif not control.met:
        verdict, reason = "undecided", f"the control is not met: {control.found}"
    else:
        verdict, reason = _verdict({arm: reach.decays[arm, RESIDUAL] for arm in JUDGED}, threshold, stable)
    if (ATTENTION, PLAIN) in reach.decays:
        reason += f"; {_cause(reach.decays[ATTENTION, PLAIN], stable)}"
    unmentioned = [cell for cell in failed.values() if cell not in reason]
    if unmentioned:
        reason += f"; failed: {', '.join(unmentioned)}"
    numbers = tuple(_number(*key, values, key in reach.bounded) for key, values in reach.decays.items())
    return Finding(verdict, "measured", reason=reason, numbers=numbers, controls=(control,))


def tell(rows: list[Row], judged: Finding, *, threshold: float, stable: float, length: int) -> Finding:
    """The finding with its sentence, a table of D and the norms of both blocks."""
    reach = _reach(rows, length)
    if reach is None:
        return dataclasses.replace(judged, sentence="no gradient was followed back")
    blocks = [block for block in (RESIDUAL, PLAIN) if any(block in key for key in reach.profiles)]
    return dataclasses.replace(
        judged,
        sentence=_sentence(reach),
        figures=tuple(_figure(reach.profiles, block) for block in blocks),
        scope=_scope(reach),
        arms=tuple(_likeness(reach.decays, threshold, stable)),
        tables=(_table(reach),) if reach.decays else (),
    )


def _reach(rows: list[Row], length: int) -> Reach | None:
    """The norms at `length` tokens or what is nearest to it; None where none was measured."""
    followed = [row for row in rows if parts.split(row["measure"])[0] == MEASURE]
    if not followed:
        return None
    at = _length(followed, length)
    of_length = [row for row in followed if row["length"] == at]
    far = _far(of_length, length - 1)
    profiles = _profiles(of_length, far)
    return Reach(at, of_length, far, profiles, _decays(profiles, far))


def magnitude(values: list[float]) -> Interval:
    """|D| with the interval that follows from that of D."""
    value, low, high = t_interval(values)
    if low < 0 < high:
        return Interval(abs(value), 0.0, max(-low, high))
    return Interval(abs(value), *sorted((abs(low), abs(high))))


def _length(followed: list[Row], length: int) -> int:
    """The shortest sequence of at least `length`, else the longest; first among those that have the judged three."""
    arms: dict[int, set[str]] = defaultdict(set)
    for row in followed:
        arms[row["length"]].add(row["arm"])
    whole = [at for at, measured in arms.items() if measured >= set(JUDGED)] or list(arms)
    return min((at for at in whole if at >= length), default=max(whole))


def _far(rows: list[Row], wanted: int) -> int:
    """The first distance of at least `wanted` among those that were measured, else the last of them."""
    measured = {row["distance"] for row in rows if "norm" in row}
    return min((k for k in measured if k >= wanted), default=max(measured, default=wanted))


def _profiles(rows: list[Row], far: int) -> Profiles:
    """J_k of whole cells, the judged three first: a cell that is still written has no D yet."""
    profiles: Profiles = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if "norm" in row:
            profiles[row["arm"], row["block"]][row["seed"]][row["distance"]] = row["norm"]
    whole = {
        key: {seed: norms for seed, norms in sorted(seeds.items()) if norms.keys() >= {*NEAR, far}}
        for key, seeds in profiles.items()
    }
    first = [(arm, block) for block in (RESIDUAL, PLAIN) for arm in JUDGED]
    return {key: whole[key] for key in dict.fromkeys((*first, *sorted(whole))) if whole.get(key)}


def _decays(profiles: Profiles, far: int) -> dict[Key, list[float]]:
    """D of each seed. A norm of 0 at the end counts as the least number there is, and D is at least this."""
    decays = {
        key: [_decay([norms[k] for k in NEAR], norms[far]) for norms in seeds.values() if any(norms[k] for k in NEAR)]
        for key, seeds in profiles.items()
    }
    return {key: values for key, values in decays.items() if values}


def _decay(near: list[float], far: float) -> float:
    return math.log10(statistics.fmean(near)) - math.log10(max(far, LEAST))


def _failed(rows: list[Row]) -> dict[tuple[str, str, int], str]:
    """Cells of which a row has no number, by arm, block and seed: the words for each."""
    cells = sorted((row["arm"], row["block"], row["seed"], row["outcome"]) for row in rows if row["outcome"] != "ok")
    return {(arm, block, seed): f"{arm}, {block}, seed {seed} ({outcome})" for arm, block, seed, outcome in cells}


def _control(profiles: Profiles, failed: dict[tuple[str, str, int], str]) -> Control:
    """That the instrument works where it is judged."""
    name = "J_1 to J_8 are positive and finite in every judged cell"
    broken = [cell for (arm, block, _), cell in failed.items() if arm in JUDGED and block == RESIDUAL]
    seen = [(arm, seed, norms) for arm in JUDGED for seed, norms in profiles.get((arm, RESIDUAL), {}).items()]
    broken += [f"{arm}, seed {seed} (a norm of 0)" for arm, seed, norms in seen if not all(norms[k] for k in NEAR)]
    if broken:
        return Control(name, False, f"not in {', '.join(broken)}")
    return Control(name, bool(seen), f"{len(seen)} cells")


def _verdict(judged: dict[str, list[float]], threshold: float, stable: float) -> tuple[str, str]:
    short = [arm for arm, values in judged.items() if len(values) < 2]
    if short:
        return "untested", f"fewer than two seeds give no interval ({', '.join(short)})"
    sizes = {arm: magnitude(values) for arm, values in judged.items()}
    right = {arm: size.low > threshold for arm, size in sizes.items()}
    wrong = {arm: size.high < threshold for arm, size in sizes.items()}
    right[ATTENTION], wrong[ATTENTION] = sizes[ATTENTION].high < stable, sizes[ATTENTION].low > stable
    bounds = {arm: f"{arm}'s |D| of {_text(size)}" for arm, size in sizes.items()}
    if all(right.values()):
        return (
            "holds",
            f"{bounds[LSTM]} and {bounds[ELMAN]} lie above {threshold:g}, {bounds[ATTENTION]} below {stable:g}",
        )
    against = [arm for arm in JUDGED if wrong[arm]]
    if against:
        sides = {arm: f"below {threshold:g}" for arm in JUDGED} | {ATTENTION: f"above {stable:g}"}
        return "fails", "; ".join(f"{bounds[arm]} lies {sides[arm]}" for arm in against)
    limits = {arm: threshold for arm in JUDGED} | {ATTENTION: stable}
    return "undecided", "; ".join(f"{bounds[arm]} straddles {limits[arm]:g}" for arm in JUDGED if not right[arm])


def _cause(values: list[float], stable: float) -> str:
    """Whether residuals are what keeps attention's gradient stable, by the plain block."""
    if len(values) < 2:
        return "whether residuals are the cause is open: one seed in the plain block"
    size = magnitude(values)
    if size.low > stable:
        return f"residuals are the cause: in the plain block attention's |D| is {_text(size)}"
    if size.high < stable:
        return f"residuals are not the cause: in the plain block attention's |D| is {_text(size)} too"
    return f"whether residuals are the cause is undecided: in the plain block attention's |D| is {_text(size)}"


def _likeness(decays: dict[Key, list[float]], threshold: float, stable: float) -> Iterator[tuple[str, str]]:
    for (arm, block), values in decays.items():
        if block == RESIDUAL and arm not in (ATTENTION, LSTM):
            size = abs(statistics.fmean(values))
            yield arm, LIKE_ATTENTION if size < stable else LIKE_LSTM if size > threshold else NEITHER


def _number(arm: str, block: str, values: list[float], bounded: bool) -> Number:
    least = ", at least: J is 0 in float64 at the end" if bounded else ""
    bounds = t_interval(values)[1:] if len(values) > 1 else (None, None)
    return Number(f"D, {arm}, {block} block{least}", statistics.fmean(values), "decades", len(values), COMMAND, *bounds)


def _figure(profiles: Profiles, block: str) -> Figure:
    """Medians over seeds, with the least and the greatest. A logarithmic axis has no 0: these points are left out."""
    points = []
    for arm, seeds in ((arm, seeds) for (arm, of_block), seeds in profiles.items() if of_block == block):
        for k in sorted(set.intersection(*map(set, seeds.values()))):
            norms = [seed[k] for seed in seeds.values()]
            bounds = (min(norms), max(norms)) if len(norms) > 1 else ()
            if min(norms) > 0:
                points.append(Point(arm, k, statistics.median(norms), *bounds))
    return Figure(
        name=f"gradient_reach_{block}",
        title=f"How far gradients reach before training, {block} block",
        x="k (tokens back)",
        y="norm of d h_T / d x_(T-k)",
        points=tuple(points),
    )


def _table(reach: Reach) -> Table:
    def cell(key: Key) -> str:
        if key not in reach.decays:
            return "not measured"
        values = reach.decays[key]
        text = _text(t_interval(values)) if len(values) > 1 else f"{values[0]:.3g} (one seed)"
        return f"at least {text}" if key in reach.bounded else text

    arms = dict.fromkeys(arm for arm, _ in reach.decays)
    rows = tuple((arm, cell((arm, RESIDUAL)), cell((arm, PLAIN))) for arm in arms)
    title = f"D, decades from the mean of J_1 to J_8 to J_{reach.far}"
    return Table(title, ("mixer", "residual block", "plain block"), rows)


def _sentence(reach: Reach) -> str:
    factors = []
    for arm, name in NAMES.items():
        if values := reach.decays.get((arm, RESIDUAL)):
            least = "at least " if (arm, RESIDUAL) in reach.bounded else ""
            factors.append(f"{least}10^{statistics.fmean(values):.3g} in {name}")
    if not factors:
        return "no gradient of the judged three was followed back"
    listed = " and ".join([", ".join(factors[:-1]), factors[-1]] if len(factors) > 1 else factors)
    return f"over {reach.far:,} tokens the gradient shrinks by a factor of {listed} (residual block, before training)"


def _scope(reach: Reach) -> str:
    row = reach.rows[0]
    seeds = sorted({len(reach.decays[arm, RESIDUAL]) for arm in JUDGED if (arm, RESIDUAL) in reach.decays})
    counts = f", {' to '.join(map(str, seeds))} seeds" if seeds else ""
    return f"{reach.length:,} tokens, width {row['reference_width']}, depth {row['depth']}{counts}, before training"


def _text(size: Interval) -> str:
    return f"{size.value:.3g} (95 % {size.low:.3g} to {size.high:.3g})"
