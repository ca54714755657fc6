"""How often whole rules err: reports in which the truth is planted are drawn and judged, claim by claim.

    python tests/simulated.py --reports=400 --out=docs/measured/rules.md

A world is a truth: a function that draws a report and judges it. A verdict is wrong where it is "holds" or "fails" and
the truth is not; "undecided" is never wrong. Claims go through the cells that they ask for, round after round, and the
whole of `claims.judge`, so a rule that is changed is simulated as it then is; compute_scaling, whose rows are many,
through `judge_curves`. Whether a rate was tuned is no matter of chance: all are taken to be.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import math
import os
import pathlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import planted

from suite import claims, learning_rates, parts
from suite.claims import ATTENTION, LSTM, compute_scaling, gradient_flow, parallelism
from suite.job import Cell, Job
from suite.judging import trials
from suite.judging.isoflop import Curve, Training
from suite.scale import PAIR, SCALES, Scale, claim_cells
from suite.sweep.record import Row

Draw = Callable[[np.random.Generator], str]
Rows = Callable[[Row], Row]  # a made-up row of a cell with what was drawn for it
DECIDED = ("holds", "fails")


@dataclasses.dataclass(frozen=True)
class World:
    """A planted truth of one claim, the verdicts that are right, and a draw of a verdict.

    `textbook`: an effect as large as the textbook's, which the rule must see. `null`: nothing sets the two apart, or
    all lies on the bounds; the name under which the worlds of several claims make one report.
    """

    claim: str
    name: str
    truth: str  # "holds", "fails", or "undecided" where neither is right
    draw: Draw
    textbook: bool = False
    null: str = ""


def verdicts(world: World, reports: int, seed: int = 0) -> list[str]:
    """The verdicts of so many reports; no two worlds share their chance."""
    key = zlib.crc32(f"{world.claim}: {world.name}".encode())
    return [world.draw(np.random.default_rng([seed, key, report])) for report in range(reports)]


def rates(truth: str, drawn: list[str]) -> dict[str, float]:
    """The share of each verdict among those that were drawn, and of wrong ones."""
    shares = {verdict: drawn.count(verdict) / len(drawn) for verdict in claims.VERDICTS}
    return shares | {"wrong": sum(shares[verdict] for verdict in {*DECIDED} - {truth})}


def judged(claim: str, scale: str, draw: Rows) -> str:
    """The verdict on the rows of all cells that a claim asks for, given the rows that it has."""
    module, thresholds = parts.load("suite.claims", claim)
    rows: list[Row] = []
    cells: set[Cell] = set()
    while new := [cell for cell in dict.fromkeys(claim_cells(module, scale_of(scale), rows)) if cell not in cells]:
        cells.update(new)
        rows += [draw(row) for cell in new for row in made_up(cell)]
    return claims.judge(module, rows, thresholds).verdict


@functools.cache
def scale_of(name: str) -> Scale:
    return dataclasses.replace(SCALES[name], arms=PAIR, matches=("params",))


@functools.cache
def made_up(cell: Cell) -> tuple[Row, ...]:
    """The rows of a cell, of the validations the last."""
    rows = planted.rows_of(cell, ATTENTION)
    return tuple(row for row in rows if row.get("phase") != "validation" or row["step"] == row["steps"])


# Seeds that solve a task or do not.

FAR_APART = {"path_length": (0.95, 0.05), "state_tracking": (0.05, 0.95)}  # attention, and who is against it


def seeds(
    claim: str,
    attention: float,
    others: float,
    *,
    scale: str = "gpu",
    beyond: float = 1.0,
    easy: float = 1.0,
    own: dict[str, float] | None = None,
) -> Draw:
    """Every training solves its task with the chance of its mixer, of `others` where it has none of its `own`.

    A seed has the same luck at every level of the factors, so that these catch nothing; a probe of the rate its own.
    What is solved in length is solved beyond it with a chance of its own. Easy tasks are solved with the chance `easy`
    by the LSTM, surely by all others.
    """
    chances = {ATTENTION: attention, **(own or {})}

    def draw(rng: np.random.Generator) -> str:
        luck: dict[tuple, tuple[float, float, float]] = defaultdict(lambda: tuple(rng.random(3)))

        def of_row(row: Row) -> Row:
            if row.get("phase") not in ("validation", "test", "length"):
                return row
            mixer = mixer_of(row)
            training = tuple(row[name] for name in ("arm", "task", "length", "seed", "learning_rate"))
            here, far, tie = luck[training]
            is_easy = row["length"] <= planted.SHORT
            chance = (easy if mixer == LSTM else 1.0) if is_easy else chances.get(mixer, others)
            is_beyond = row["phase"] == "length" and row["eval_length"] > row["length"]
            solved = here < chance and (not is_beyond or far < beyond)
            accuracy = 1.0 if solved else 0.05
            return row | {"accuracy": accuracy, "final_accuracy": accuracy, "loss": (0.1 if solved else 2.0) + tie / 10}

        return judged(claim, scale, of_row)

    return draw


@functools.cache
def _mixer(arm: str) -> str:
    return parts.split(parts.pattern(arm)[0])[0]


def mixer_of(row: Row) -> str:
    """The mixer of a row's arm; a stack of several, which only is shown, is as its first."""
    return _mixer(row["arm"])


# Gradients.

STABLE = 0.3  # decades, the noise of attention's D


def gradients(decades: dict[str, float], spread: float, *, scale: str = "gpu", broken: str = "") -> Draw:
    """D of every arm with normal noise over seeds, the same mean before and after training, of any start of a mixer.

    The noise is that of the recurrences; attention's is STABLE. In the plain block all is as in the other. A `broken`
    mixer has no gradient near by in seed 0.
    """

    def draw(rng: np.random.Generator) -> str:
        noise: dict[tuple, float] = defaultdict(rng.standard_normal)

        def of_row(row: Row) -> Row:
            if row.get("phase") not in ("reach", "trained_reach"):
                return row
            if row["distance"] <= max(gradient_flow.NEAR):
                return row | {"norm": 0.0} if mixer_of(row) == broken and row["seed"] == 0 else row
            mixer = mixer_of(row)
            size = decades[mixer] + (STABLE if mixer == ATTENTION else spread) * noise[row["run_id"], row["measure"]]
            return row | {"norm": 0.5 * (1 + 0.01 * row["seed"]) * 10.0**-size}

        return judged("gradient_flow", scale, of_row)

    return draw


# Speeds.


def speeds(equal: float, best: float, control: float, spread: float) -> Draw:
    """Ratios of speed at equal batch, at the best ones, and of the two forms of one mixer, with noise of the logarithm.

    Each process has its own, a turn half as much more, and a drift over processes slows all of a process alike.
    """

    def draw(rng: np.random.Generator) -> str:
        noise: dict[tuple, float] = defaultdict(lambda: spread * rng.standard_normal())
        turns: dict[tuple, float] = defaultdict(lambda: spread / 2 * rng.standard_normal())

        def of_row(row: Row) -> Row:
            if row.get("phase") != "block":
                return row
            group = row["interleave_with"]
            ratio = control if group == parallelism.CONTROL else best if group == parallelism.BEST else equal
            ahead = mixer_of(row) == ATTENTION or row["arm"] == parallelism.PARALLEL
            process = group, row["repeat"], row["arm"]
            log = noise[process] / math.sqrt(2) + turns[*process, row["turn"]] + 0.1 * row["repeat"]
            log += 0.0 if ahead else math.log(ratio)
            tokens_a_second = 1e4 * math.exp(-log)
            return row | {"burst_seconds": row["tokens"] / tokens_a_second}

        return judged("parallelism", "gpu", of_row)

    return draw


# Contexts.


def contexts(attention: float, lstm: float, spread: float, *, seeds_apart: float = 0.0, helps: bool = True) -> Draw:
    """Loss falls by 0.05 nats with every doubling of the context up to the reach of each arm, in tokens, and no more.

    Each group of windows has noise in every loss; each seed its own `seeds_apart` in what a doubling gains.
    """

    def draw(rng: np.random.Generator) -> str:
        gains: dict[tuple, float] = defaultdict(lambda: 0.05 * math.exp(seeds_apart * rng.standard_normal()))

        def of_row(row: Row) -> Row:
            if row.get("phase") != "context":
                return row
            reach = attention if mixer_of(row) == ATTENTION else lstm
            gain = gains[row["arm"], row["seed"]] if helps or mixer_of(row) != ATTENTION else 0.0
            nats = 1.5 + gain * max(0.0, math.log2(reach / row["context"])) + spread * rng.standard_normal()
            return row | {"nats": nats}

        return judged("context_length", "gpu", of_row)

    return draw


# Loss at fixed compute.

BUDGETS = tuple(1e15 * 4.0**power for power in range(6))  # of scale gpu
REPEATS = compute_scaling.SIZES["gpu"].seeds
PARAMS = tuple(144 * width**2 for width in (64, 128, 256, 384, 512, 768, 1152))  # depth 12, one width added at each end
NOISE = {  # standard deviation of a seed's loss in nats, at the least budget and at the top one
    "noise 0.003": (0.003, 0.003),
    "noise 0.01 to 0.003": (0.01, 0.003),
    "noise 0.03 to 0.006": (0.03, 0.006),
    "noise 0.08 to 0.01": (0.08, 0.01),
    "noise 0.08 to 0.003": (0.08, 0.003),
}
Law = Callable[[float, float], float]  # loss in nats, of parameters and FLOPs


def frontier(exponent: float, floor: float = 0.0, least: float = 3.0) -> Law:
    """A power law above a floor at the best of the sizes, which grows with compute, and a parabola around it."""

    def loss(params: float, budget: float) -> float:
        far = math.log(budget / BUDGETS[0])
        best = math.log(PARAMS[1] * PARAMS[2]) / 2 + far * math.log(PARAMS[-2] / PARAMS[2]) / math.log(
            BUDGETS[-1] / BUDGETS[0]
        )
        return floor + (least - floor) * math.exp(-exponent * far) + 0.03 * (math.log(params) - best) ** 2

    return loss


def chinchilla(params: float, budget: float, excess: float = 1.0) -> float:
    """The law of Hoffmann et al. 2022, approach 3; `excess` multiplies what is above its floor."""
    return 1.69 + excess * (406.4 / params**0.34 + 410.7 / (budget / 6 / params) ** 0.28)


LAWS: dict[str, Law] = {
    "power law": frontier(0.07),
    "floor of 1.0": frontier(0.12, 1.0),
    "floor of 1.4": frontier(0.15, 1.4),
    "Chinchilla": chinchilla,
    "Chinchilla, 1.2 times above its floor": functools.partial(chinchilla, excess=1.2),
    "slower power law": frontier(0.045),
    "slower, floor of 1.0": frontier(0.08, 1.0),
    "plateau": frontier(0.35, 2.2),
}
# Attention's law, the LSTM's, the right verdict, and whether the effect is the textbook's.
SCALING = (
    *((name, name, "fails", False) for name in ("power law", "floor of 1.0", "floor of 1.4", "Chinchilla")),
    ("Chinchilla", "Chinchilla, 1.2 times above its floor", "fails", False),
    ("power law", "slower power law", "undecided", False),
    ("floor of 1.0", "slower, floor of 1.0", "undecided", False),
    *((name, "plateau", "holds", True) for name in ("power law", "floor of 1.0", "floor of 1.4")),
    ("plateau", "power law", "fails", True),
    ("plateau", "floor of 1.0", "fails", True),
)


def scaling(attention: Law, lstm: Law, noise: tuple[float, float]) -> Draw:
    """Trainings at every budget and size, with the seeds that scale gpu repeats and noise that falls with compute.

    A probe of the rate is as good as the rate, so that chance alone makes one win.
    """
    thresholds: dict[str, Any] = parts.knobs("suite.claims", "compute_scaling")

    def curve(arm: str, law: Law, rng: np.random.Generator) -> Curve:
        trainings, probed = [], []
        for index, (budget, repeats) in enumerate(zip(BUDGETS, REPEATS, strict=True)):
            spread = noise[0] * (noise[1] / noise[0]) ** (index / (len(BUDGETS) - 1))
            for params in PARAMS:
                losses = law(params, budget) + spread * rng.standard_normal(repeats)
                trainings += [Training(params, budget, budget, float(loss), {}) for loss in losses]
            best = min(PARAMS, key=lambda params, budget=budget: law(params, budget))
            losses = law(best, budget) + spread * rng.standard_normal(len(trials.PROBES))
            probed += [Training(best, budget, budget, float(loss), {"learning_rate": 0.0}) for loss in losses]
        return Curve(arm, tuple(trainings), tuple(probed))

    def draw(rng: np.random.Generator) -> str:
        pair = curve(ATTENTION, attention, rng), curve(LSTM, lstm, rng)
        return compute_scaling.judge_curves(*pair, **thresholds)[0]

    return draw


def worlds() -> Iterator[World]:
    """Every world of every claim that chance can turn."""
    yield from _worlds_of_seeds()
    yield from _worlds_of_gradients()
    yield from _worlds_of_speeds()
    yield from _worlds_of_contexts()
    for attention, lstm, truth, textbook in SCALING:
        for name, noise in NOISE.items():
            draw = scaling(LAWS[attention], LAWS[lstm], noise)
            null = "any" if (attention, lstm, name) == ("Chinchilla", "Chinchilla", "noise 0.003") else ""
            yield World("compute_scaling", f"{attention} against {lstm}, {name}", truth, draw, textbook, null)


def _worlds_of_seeds() -> Iterator[World]:
    path, state = "path_length", "state_tracking"
    for p in (0.1, 0.3, 0.5, 0.7, 0.9):
        for scale in ("gpu", "quick"):
            null = f"{p:.0%}" if scale == "gpu" else ""
            draw = seeds(path, p, p, scale=scale)
            yield World(path, f"all arms solve it in {p:.0%}, {scale}", "fails", draw, null=null)
            # More than half is what "solves" means, at four times the length too.
            truth = "fails" if p > 0.5 else "undecided"
            draw = seeds(state, p, p, scale=scale)
            yield World(state, f"both solve it in {p:.0%}, and beyond it, {scale}", truth, draw, null=null)
        draw = seeds(path, p, 0.05, own={LSTM: p})
        yield World(path, f"attention and the LSTM {p:.0%}, all others 5%", "fails", draw)
        truth = "fails" if p * p > 0.5 else "undecided"
        name = f"both solve it in {p:.0%}, of these {p:.0%} beyond it, quick"
        yield World(state, name, truth, seeds(state, p, p, scale="quick", beyond=p))
    for claim, (attention, others) in FAR_APART.items():
        is_path = claim == path
        names = ("attention", "long paths") if is_path else ("attention", "the LSTM")
        ahead = f"{names[0]} {attention:.0%}, {names[1]} {others:.0%}"
        for scale in ("gpu", "quick"):
            large = scale == "gpu" or not is_path  # short of 999 tokens path_length never holds
            yield World(claim, f"{ahead}, {scale}", "holds", seeds(claim, attention, others, scale=scale), large)
            draw = seeds(claim, attention, others, scale=scale, easy=0.0)
            yield World(claim, f"{ahead}, control broken, {scale}", "undecided", draw)
            draw = seeds(claim, others, attention, scale=scale)
            name = f"{names[0]} {others:.0%}, {names[1]} {attention:.0%}, {scale}"
            yield World(claim, name, "fails", draw, textbook=True)
    for scale in ("gpu", "quick"):
        draw = seeds(path, 1.0, 0.05, scale=scale)
        yield World(path, f"attention 100%, long paths 5%, {scale}", "holds", draw, scale == "gpu")
        # Of five seeds, one arm alone may have been lucky.
        draw = seeds(path, 1.0, 0.05, scale=scale, own={"slstm": 1.0})
        yield World(path, f"attention and sLSTM 100%, other long paths 5%, {scale}", "fails", draw, scale == "gpu")
        draw = seeds(path, 1.0, 0.05, scale=scale, own={"slstm": 1.0, "mingru": 1.0})
        name = f"attention, sLSTM and minGRU 100%, other long paths 5%, {scale}"
        yield World(path, name, "fails", draw, textbook=True)
        draw = seeds(path, 1.0, 0.5, scale=scale)
        yield World(path, f"attention 100%, long paths 50%, {scale}", "undecided", draw)


def _worlds_of_gradients() -> Iterator[World]:
    claim = "gradient_flow"
    bounds = {ATTENTION: 1.0, LSTM: 2.4, gradient_flow.ELMAN: 2.4}
    textbook = {ATTENTION: 0.1, LSTM: 20.0, gradient_flow.ELMAN: 20.0}
    for scale in ("gpu", "quick"):
        null = "any" if scale == "gpu" else ""
        name = f"all on their bounds, seeds 0.3 decades apart, {scale}"
        yield World(claim, name, "undecided", gradients(bounds, 0.3, scale=scale), null=null)
        for spread in (0.3, 3.0):
            apart = f"seeds {spread:g} decades apart, {scale}"
            draw = gradients({**textbook, LSTM: 2.4}, spread, scale=scale)
            yield World(claim, f"the textbook's, but the LSTM on its bound, {apart}", "undecided", draw)
            yield World(
                claim, f"20 decades against 0.1, {apart}", "holds", gradients(textbook, spread, scale=scale), True
            )
            draw = gradients({**textbook, LSTM: 0.5}, spread, scale=scale)
            yield World(claim, f"the LSTM 0.5 decades, {apart}", "fails", draw, spread < 1)
        draw = gradients(textbook, 0.3, scale=scale, broken=LSTM)
        yield World(claim, f"20 decades against 0.1, control broken, {scale}", "undecided", draw)


def _worlds_of_speeds() -> Iterator[World]:
    claim = "parallelism"
    for spread in (0.01, 0.1):
        apart = f"processes {spread:.0%} apart"
        null = "any" if spread == 0.1 else ""
        yield World(claim, f"both ratios 10, {apart}", "undecided", speeds(10, 10, 3, spread), null=null)
        yield World(claim, f"10 at equal batch, 40 at the best, {apart}", "undecided", speeds(10, 40, 3, spread))
        yield World(claim, f"10 at equal batch, 3 at the best, {apart}", "undecided", speeds(10, 3, 3, spread))
        yield World(claim, f"both ratios 40, {apart}", "holds", speeds(40, 40, 3, spread), True)
        yield World(claim, f"both ratios 1, {apart}", "fails", speeds(1, 1, 3, spread), True)
        yield World(
            claim, f"both ratios 40, control broken: forms alike, {apart}", "undecided", speeds(40, 40, 1, spread)
        )


def _worlds_of_contexts() -> Iterator[World]:
    claim = "context_length"
    for spread in (0.001, 0.01):
        noise = f"windows {spread:g} nats apart"
        null = "any" if spread == 0.01 else ""
        yield World(claim, f"both reach 1,024 tokens, {noise}", "fails", contexts(1024, 1024, spread), null=null)
        # The loss at 512 tokens lies the tolerance above that of all: chance says whether they reach 512 or 1,024.
        draw = contexts(512 * 2**0.2, 512 * 2**0.2, spread, seeds_apart=0.3)
        yield World(claim, f"both on the tolerance at 512 tokens, seeds apart, {noise}", "fails", draw)
        yield World(claim, f"attention 4,096 tokens, the LSTM 256, {noise}", "holds", contexts(4096, 256, spread), True)
        yield World(claim, f"attention 256 tokens, the LSTM 4,096, {noise}", "fails", contexts(256, 4096, spread), True)
        draw = contexts(4096, 256, spread, helps=False)
        yield World(claim, f"control broken: no context helps attention, {noise}", "undecided", draw)


def of_world(index: int, reports: int) -> list[str]:
    """The verdicts of a world, in a process of its own."""
    learning_rates.is_tuned = lambda job, choices: True
    Job.replace = functools.cache(Job.replace)  # most of the time goes into making the same jobs again
    return verdicts(list(worlds())[index], reports)


def line(world: World, drawn: list[str]) -> str:
    """A line of the table."""
    share = rates(world.truth, drawn)
    shown = " | ".join(f"{100 * share[key]:.1f} %" for key in (*claims.VERDICTS, "wrong"))
    return f"| {world.name} | {world.truth}{' (large effect)' if world.textbook else ''} | {shown} |"


def whole_reports(drawn: dict[World, list[str]]) -> Iterator[str]:
    """Lines of reports of all claims in worlds of which none has an effect: how often one verdict or more is wrong."""
    names = dict.fromkeys(world.null for world in drawn if world.null not in ("", "any"))
    for name in names:
        wrong = [
            [verdict in DECIDED and verdict != world.truth for verdict in of_world]
            for world, of_world in drawn.items()
            if world.null in (name, "any")
        ]
        share = sum(map(any, zip(*wrong, strict=True))) / len(wrong[0])
        yield f"| {name} | {len(wrong)} | {100 * share:.1f} % |"


ABOUT = """# How often the rules err

Reports with a planted truth, drawn and judged by the whole rule, {reports} for each line, for attention and the LSTM
with all their variants, controls, probes and levels, at the sizes of a scale (gpu where none is named). A verdict is
wrong where it is "holds" or "fails" and the truth is not; "undecided" is never wrong. Lines of a large effect show the
power of a rule. Where attention and an arm of a long path solve a task alike, the path does not decide, and "fails" is
right. A seed has the same luck at every level of a factor, so that levels catch nothing by chance. Inference memory is
a construction, which no chance turns. Made by

    python tests/simulated.py --reports={reports}
"""
WHOLE = """Whole reports, where nothing sets the judged apart or all lies on the bounds: how often at least one verdict
of all claims is wrong. On each claim the world is the first of its kind at scale gpu; on recall, parity and the word
problem all arms solve it in the given share of seeds.
"""


def main(reports: int, out: pathlib.Path, processes: int) -> None:
    """Writes the table of all worlds."""
    every = list(worlds())
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        drawn = dict(zip(every, pool.map(of_world, range(len(every)), [reports] * len(every)), strict=True))
    text = [ABOUT.format(reports=reports), WHOLE, "| solved in | claims | at least one wrong |", "|---|---|---|"]
    text += [*whole_reports(drawn), ""]
    for name in dict.fromkeys(world.claim for world in every):
        text += [f"| {name.replace('_', ' ')}: the world | the truth | {' | '.join(claims.VERDICTS)} | wrong |"]
        text += ["|---" * (len(claims.VERDICTS) + 3) + "|"]
        text += [line(world, drawn[world]) for world in every if world.claim == name] + [""]
    out.write_text("\n".join(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=400)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/measured/rules.md"))
    flags = parser.parse_args()
    main(flags.reports, flags.out, flags.processes)
