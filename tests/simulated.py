"""How often whole rules err: reports in which the truth is planted are drawn and judged, claim by claim.

    python tests/simulated.py --reports=400 --out=docs/measured/rules.md

A world is a truth: a function that draws a report and judges it. A verdict is wrong where it is "holds" or "fails" and
the truth is not; "undecided" is never wrong. Claims on seeds go through the cells that they ask for and `judge`, so a
rule that is changed is simulated as it then is; compute_scaling, whose rows are many, through `judge_curves`.
"""

import argparse
import concurrent.futures
import copy
import dataclasses
import functools
import math
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import planted

from suite import parts
from suite.claims import ATTENTION, LSTM, compute_scaling
from suite.judging.isoflop import Curve, Training
from suite.scale import PAIR, SCALES, claim_cells
from suite.sweep.record import Row

Draw = Callable[[np.random.Generator], str]


@dataclasses.dataclass(frozen=True)
class World:
    """A planted truth of one claim, the verdict that is right, and a draw of a verdict.

    `textbook`: an effect as large as the textbook's, which the rule must see.
    """

    claim: str
    name: str
    truth: str  # "holds", "fails", or "undecided" where neither is right
    draw: Draw
    textbook: bool = False


def rates(world: World, reports: int, seed: int = 0) -> dict[str, float]:
    """The share of each verdict among so many reports, and of wrong ones."""
    verdicts = Counter(world.draw(np.random.default_rng([seed, report])) for report in range(reports))
    shares = {verdict: verdicts[verdict] / reports for verdict in ("holds", "fails", "undecided", "untested")}
    return shares | {"wrong": sum(shares[verdict] for verdict in {"holds", "fails"} - {world.truth})}


# Seeds that solve a task or do not.


@functools.cache
def asked(claim: str) -> tuple[tuple[Row, bool], ...]:
    """The rows of all cells that a claim on seeds asks for at scale gpu, and whether each is of an easy task."""
    module, _ = parts.load("suite.claims", claim)
    scale = dataclasses.replace(SCALES["gpu"], arms=PAIR, matches=("params",))
    rows: list[Row] = []
    cells: set = set()
    while new := [cell for cell in dict.fromkeys(claim_cells(module, scale, rows)) if cell not in cells]:
        cells.update(new)
        rows += [row for cell in new for row in planted.rows_of(cell, ATTENTION) if row.get("phase") != "validation"]
    return tuple((row, row["length"] <= planted.SHORT) for row in rows)


def seeds(claim: str, attention: float, lstm: float, beyond: float = 1.0) -> Draw:
    """Every training solves its task with the chance of its arm, an easy one surely, probes of the rate like others.

    What is solved in length is solved beyond it with a chance of its own. All recurrences are as the LSTM is.
    """
    module, thresholds = parts.load("suite.claims", claim)

    def draw(rng: np.random.Generator) -> str:
        rows = []
        solved: dict[str, bool] = {}
        for row, is_easy in asked(claim):
            chance = attention if parts.split(row["mixer"])[0] == ATTENTION else lstm
            if row.get("phase") in ("test", "length"):
                in_length = solved.setdefault(row["run_id"], is_easy or bool(rng.random() < chance))
                far = row["phase"] == "length" and row["eval_length"] > row["length"]
                accuracy = 1.0 if in_length and (not far or rng.random() < beyond) else 0.05
                row = copy.copy(row) | {"accuracy": accuracy, "final_accuracy": accuracy}
            rows.append(row)
        return module.judge(rows, **thresholds).verdict

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
    """Trainings at every budget and size, with the seeds that scale gpu repeats and noise that falls with compute."""
    thresholds: dict[str, Any] = parts.knobs("suite.claims", "compute_scaling")

    def curve(arm: str, law: Law, rng: np.random.Generator) -> Curve:
        trainings = []
        for index, (budget, repeats) in enumerate(zip(BUDGETS, REPEATS, strict=True)):
            spread = noise[0] * (noise[1] / noise[0]) ** (index / (len(BUDGETS) - 1))
            for params in PARAMS:
                losses = law(params, budget) + spread * rng.standard_normal(repeats)
                trainings += [Training(params, budget, budget, float(loss), {}) for loss in losses]
        return Curve(arm, tuple(trainings))

    def draw(rng: np.random.Generator) -> str:
        pair = curve(ATTENTION, attention, rng), curve(LSTM, lstm, rng)
        return compute_scaling.judge_curves(*pair, **thresholds)[0]

    return draw


def worlds() -> Iterator[World]:
    """Every world of every claim that chance can turn and that is simulated."""
    for claim in ("path_length", "state_tracking"):
        for p in (0.1, 0.3, 0.5, 0.7, 0.9):
            yield World(claim, f"both arms solve it in {p:.0%}", "undecided", seeds(claim, p, p, beyond=p))
        ahead = (0.95, 0.05) if claim == "path_length" else (0.05, 0.95)
        yield World(claim, "the textbook's arm 95 %, the other 5 %", "holds", seeds(claim, *ahead), textbook=True)
        yield World(claim, "the textbook's arm 5 %, the other 95 %", "fails", seeds(claim, *ahead[::-1]), textbook=True)
    for attention, lstm, truth, textbook in SCALING:
        for name, noise in NOISE.items():
            draw = scaling(LAWS[attention], LAWS[lstm], noise)
            yield World("compute_scaling", f"{attention} against {lstm}, {name}", truth, draw, textbook)


def of_world(index: int, reports: int) -> str:
    """A line of the table."""
    world = list(worlds())[index]
    share = rates(world, reports)
    shown = " | ".join(f"{100 * share[key]:.1f} %" for key in ("holds", "fails", "undecided", "wrong"))
    return f"| {world.name} | {world.truth}{' (large effect)' if world.textbook else ''} | {shown} |"


ABOUT = """# How often the rules err

Reports with a planted truth, drawn and judged by the whole rule, {reports} for each line, at the sizes of scale gpu
for attention and the LSTM. A verdict is wrong where it is "holds" or "fails" and the truth is not; "undecided" is never
wrong. Lines of a large effect show the power of a rule. Where both arms solve a task alike the truth is
taken to be undecided, so that "fails" counts as wrong there. Made by

    python tests/simulated.py --reports={reports}

Simulated so far: {claims}. Inference memory is a construction,
which no chance turns. Not simulated yet: parallelism, gradient flow, context length, and several claims of one report
together.
"""


def main(reports: int, out: pathlib.Path, processes: int) -> None:
    """Writes the table of all worlds."""
    every = list(worlds())
    names = list(dict.fromkeys(world.claim for world in every))
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        lines = list(pool.map(of_world, range(len(every)), [reports] * len(every)))
    text = [ABOUT.format(reports=reports, claims=", ".join(names).replace("_", " "))]
    for name in names:
        text += [f"| {name.replace('_', ' ')}: the world | the truth | holds | fails | undecided | wrong |"]
        text += ["|---|---|---|---|---|---|"]
        text += [line for world, line in zip(every, lines, strict=True) if world.claim == name] + [""]
    out.write_text("\n".join(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/measured/rules.md"))
    flags = parser.parse_args()
    main(flags.reports, flags.out, flags.processes)
