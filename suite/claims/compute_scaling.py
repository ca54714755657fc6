"""Smooth scaling: does attention turn compute into lower loss predictably, and does recurrence level off earlier?"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from suite.claims import ATTENTION, LSTM, Control, Figure, Finding, Number, Point, Table, likeness
from suite.job import Cell, Job
from suite.judging import isoflop
from suite.judging.isoflop import TRAINING, Curve
from suite.judging.statistics import Interval
from suite.scale import INSTALLATION, Changes, Scale
from suite.sweep.store import Row, job_of

QUESTION = "Does more compute lower attention's loss predictably, and the LSTM's less and less?"
TEXTBOOK = (
    "Double the compute of a transformer and the improvement can be predicted; recurrent networks level off earlier, "
    "because their quality falls with length."
)
CLAIMED = "predictable gains; RNNs level off"
ON_TEXT = True
RULE = (
    "At each budget of training FLOPs, counted exactly, models of several widths are trained on text; the budget's "
    "optimum is the least of a parabola through test loss against log parameters, or the least loss itself where the "
    "parabola has no minimum between the smallest and the largest. A line through log optimum against log compute "
    "below the top budget predicts it: e is the error at 2, 4 and 8 times less. b is the slope of the line over all "
    "budgets, its interval by bootstrap over seeds (noise of the seeds' standard deviation on every training). Holds: "
    "attention's |e| is at most two standard deviations of its seeds at each of the three, the interval of b_lstm / "
    "b_attention lies below 1, and the LSTM's slope over the upper half of the budgets is below that over the lower "
    "half. Fails: the interval lies at or above 1, or an |e| is more than two. Otherwise undecided. Untested below 2.5 "
    "decades or five budgets: curves only. G is loss(4T) - loss(T) at equal tokens. Control: loss falls from the least "
    "to the top budget for both."
)

COMMAND = "python -m launch.compare --claims=compute_scaling"
REPEATED = 3  # seeds of every width at the least budget: their spread is the noise of all
LONGER = 4
BELOW = (2, 4, 8)  # times below the top budget, from where it is predicted
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is trained at each budget."""

    training: Changes  # on text
    widths: tuple[int, ...]  # of the models trained at each budget
    budgets: tuple[float, ...]  # FLOPs of a training
    untested: str = ""


_QUICK = Sizes(
    training={"length": 128, "batch": 2, "validate_every": 100_000, "test_examples": 256},
    widths=(16, 32, 64),
    budgets=(7e8, 2e9, 6e9),
    untested="three budgets over one decade; the rule wants five over two and a half",
)
_LAPTOP = Sizes(
    training={"length": 128, "batch": 4, "validate_every": 1_000_000, "test_examples": 512},
    widths=(16, 32, 64),
    budgets=(1e9, 4e9, 1.8e10, 7.5e10, 3.2e11),
)
_GPU = Sizes(
    training={**_LAPTOP.training, "length": 1024, "batch": 32, "test_examples": 2048},
    widths=(128, 256, 384, 512, 768),
    budgets=(1e15, 4e15, 1.6e16, 6.4e16, 2.56e17, 1.024e18),
)
SIZES = {
    "smoke": Sizes(
        training={**{"length": 32, "batch": 4, "validate_every": 1000, "validation_examples": 16, "test_examples": 32}},
        widths=(16,),
        budgets=(1e8, 2e8),
        untested=INSTALLATION,
    ),
    "quick": _QUICK,
    "laptop": _LAPTOP,
    "gpu": _GPU,
    "pod": Sizes(
        training={**_GPU.training, "length": 2048, "batch": 2, "test_examples": 4096},
        widths=(256, 384, 512, 768, 1024),
        budgets=(1e16, 4e16, 1.6e17, 6.4e17, 2.56e18, 1.024e19),
    ),
}


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """First the FLOPs of a token for every width; then, at each budget, as many steps as it pays for.

    Only with the first quantity that arms hold equal: the budgets hold FLOPs equal by themselves.
    """
    if scale.match != scale.matches[0]:
        return []
    sizes = SIZES[scale.name]
    text = scale.job.task if isoflop.is_text(scale.job.task) else "text"  # another corpus is welcome, another task not
    models = {
        (mixer, width): Cell(scale.arm(mixer, sizes.training, task=text, width=width), "size")
        for mixer in scale.arms
        for width in sizes.widths
    }
    flops = {row["run_id"]: row["flops_per_token"] for row in rows if row.get("phase") == "model"}
    if any(cell.job.id not in flops for cell in models.values()):
        return list(models.values())
    trainings = []
    for (mixer, _), cell in models.items():
        for budget in sizes.budgets:
            seeds = REPEATED if mixer in (ATTENTION, LSTM) and budget == sizes.budgets[0] else 1
            job = at_budget(cell.job, budget, flops[cell.job.id])
            trainings += [job.replace(seed=seed) for seed in range(seeds)]
    # At equal tokens, sequences four times as long: the middle width and budget.
    for mixer in scale.arms:
        job = models[mixer, sizes.widths[len(sizes.widths) // 2]].job
        job = at_budget(job, sizes.budgets[len(sizes.budgets) // 2], flops[job.id])
        trainings.append(with_longer_sequences(job))
    return [*models.values(), *(Cell(job, "learning") for job in trainings)]


def at_budget(job: Job, budget: float, flops_per_token: float) -> Job:
    """The job with the steps that a budget of FLOPs pays for, at least one."""
    step = TRAINING * flops_per_token * job.batch * job.length
    return job.replace(steps=max(1, round(budget / step)))


def with_longer_sequences(job: Job) -> Job:
    """The job on sequences LONGER times as long, for as many tokens in all."""
    batch = max(1, job.batch // LONGER)
    steps = max(1, round(job.steps * job.batch / (LONGER * batch)))
    return job.replace(length=LONGER * job.length, batch=batch, steps=steps)


def judge(rows: list[Row], *, decades: float = 2.5, budgets: int = 5, deviations: float = 2.0) -> Finding:
    """The finding over all budgets that both arms of the pair have."""
    curves = isoflop.gather(rows)
    if not {ATTENTION, LSTM} <= curves.keys():
        return Finding("untested", "measured", reason="the judged pair is not there")
    attention, lstm = curves[ATTENTION], curves[LSTM]
    common = _common_budgets(attention, lstm)
    if len(common) < 2:
        return Finding("untested", "measured", reason="no slope from fewer than two budgets")
    control = _control(attention, lstm)
    wanted = {"decades": decades, "budgets": budgets, "deviations": deviations}
    verdict, reason = _verdict(common, attention, lstm, control, **wanted)
    numbers = tuple(_numbers(attention, lstm, _longer(rows, curves)))
    return Finding(verdict, "measured", reason=reason, numbers=numbers, controls=(control,))


def tell(rows: list[Row], judged: Finding, *, decades: float, budgets: int, deviations: float) -> Finding:
    """The finding with its sentence, tables and the curves of all arms."""
    del decades, budgets, deviations  # in no picture
    curves = isoflop.gather(rows)
    finding = dataclasses.replace(
        judged,
        figures=_figures(curves),
        tables=_tables(curves, _longer(rows, curves)),
        arms=tuple(likeness({arm: curve.exponent() for arm, curve in curves.items() if len(curve.budgets) > 1})),
    )
    if not {ATTENTION, LSTM} <= curves.keys():
        return dataclasses.replace(finding, sentence="attention and the LSTM were not trained at fixed budgets")
    attention, lstm = curves[ATTENTION], curves[LSTM]
    common = _common_budgets(attention, lstm)
    if len(common) < 2:
        return dataclasses.replace(finding, sentence="attention and the LSTM share fewer than two budgets")
    return dataclasses.replace(
        finding,
        sentence=_sentence(attention, lstm),
        scope=f"{len(common)} budgets, {common[0]:.2g} to {common[-1]:.2g} FLOPs, text at {_length(attention)} tokens",
        crossover=_crossover(attention, lstm),
    )


def _common_budgets(attention: Curve, lstm: Curve) -> list[float]:
    return sorted(set(attention.budgets) & set(lstm.budgets))


def _verdict(
    common: list[float],
    attention: Curve,
    lstm: Curve,
    control: Control,
    *,
    decades: float,
    budgets: int,
    deviations: float,
) -> tuple[str, str]:
    reached = math.log10(common[-1] / common[0])
    if reached < decades - 0.01 or len(common) < budgets:
        wanted = f"the rule wants {budgets} over {decades:g}"
        return "untested", f"{len(common)} budgets over {reached:.1f} decades; {wanted}"
    if not control.met:
        return "undecided", f"the control failed: {control.found}"
    if attention.noise is None or lstm.noise is None:
        return "undecided", "no width was repeated with another seed, so there is no spread to judge by"
    allowed = deviations * attention.noise
    for times, error in _errors(attention).items():
        if error is None:
            return "undecided", f"fewer than two budgets lie {times} times below the top one"
        if abs(error) > allowed:
            return "fails", f"predicted from {times}x below, attention is off by {error:.3g}; {allowed:.3g} is allowed"
    ratio = _ratio(attention, lstm)
    if ratio.low >= 1:
        return "fails", "the LSTM gains at least as much from compute as attention"
    falls = _fall(lstm).high < 0
    if ratio.high < 1 and falls:
        return "holds", "attention's loss is predicted, the LSTM gains less from compute, and less the more there is"
    if falls:
        return "undecided", "that the LSTM gains less from compute than attention is not beyond doubt"
    return "undecided", "the LSTM's slope does not fall beyond doubt"


def _errors(curve: Curve) -> dict[int, float | None]:
    return {times: curve.error(times) for times in BELOW}


def _ratio(attention: Curve, lstm: Curve) -> Interval:
    """b_lstm / b_attention."""
    drawn_R = lstm.exponents(_drawn(lstm)) / attention.exponents(_drawn(attention))
    return Interval(lstm.exponent() / attention.exponent(), *_bounds(drawn_R))


def _fall(curve: Curve) -> Interval:
    """The slope over the upper half of the budgets less that over the lower half; they share the middle one."""
    half = len(curve.budgets) // 2
    halves = {"first": half}, {"last": half + 1}
    value = curve.exponent(**halves[0]) - curve.exponent(**halves[1])
    drawn_RN = _drawn(curve)
    return Interval(value, *_bounds(curve.exponents(drawn_RN, **halves[0]) - curve.exponents(drawn_RN, **halves[1])))


def _drawn(curve: Curve) -> np.ndarray:
    """Losses of the trainings, drawn anew with the noise of their seeds, (R, N)."""
    assert curve.noise is not None
    noise_RN = np.random.default_rng(len(curve.arm)).normal(0.0, curve.noise, (RESAMPLES, len(curve.trainings)))
    return curve.losses + noise_RN


def _bounds(drawn_R: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(drawn_R, (2.5, 97.5))
    return float(low), float(high)


def _longer(rows: list[Row], curves: dict[str, Curve]) -> dict[str, float]:
    """G of each arm: loss at LONGER times the length less that at the length, at equal width and tokens."""
    tests = {row["run_id"]: row["loss"] for row in rows if row.get("phase") == "test"}
    gaps = {}
    for arm, curve in curves.items():
        for training in curve.trainings:
            longer = with_longer_sequences(job_of(training.row)).id
            if longer in tests:
                gaps[arm] = tests[longer] - training.loss
    return gaps


def _control(attention: Curve, lstm: Curve) -> Control:
    ends = {curve.arm: (curve.optima()[0], curve.optima()[-1]) for curve in (attention, lstm)}
    losses = ", ".join(f"{arm} from {first:.3g} to {last:.3g} nats" for arm, (first, last) in ends.items())
    met = all(bool(first > last) for first, last in ends.values())
    return Control("loss falls from the least to the top budget", met, losses)


def _numbers(attention: Curve, lstm: Curve, longer: dict[str, float]) -> Iterable[Number]:
    if attention.noise is not None and lstm.noise is not None:
        value, low, high = _ratio(attention, lstm)
        n = len(attention.trainings) + len(lstm.trainings)
        yield Number("slope of loss in compute, LSTM / attention", value, "x", n, COMMAND, low, high)
    for curve in (attention, lstm):
        yield Number(f"b, {curve.arm}", curve.exponent(), "", len(curve.budgets), COMMAND)
    for times, error in _errors(attention).items():
        if error is not None:
            yield Number(f"e from {times}x below, attention", error, "nats", 1, COMMAND)
    for arm, gap in longer.items():
        yield Number(f"G = loss(4T) - loss(T) at equal tokens, {arm}", gap, "nats", 1, COMMAND)


def _tables(curves: dict[str, Curve], longer: dict[str, float]) -> tuple[Table, ...]:
    lines = [
        (f"{arm}, {budget:.2g} FLOPs", f"{loss:.3f}", ", ".join(_losses(curve, budget)), _text(curve.noise))
        for arm, curve in curves.items()
        for budget, loss in zip(curve.budgets, curve.optima(), strict=True)
    ]
    columns = ("arm", "optimum (nats)", "loss at each size (parameters)", "s.d. of seeds")
    tables = [Table("Loss at fixed compute", columns, tuple(lines))] if lines else []
    if longer:
        gaps = tuple((arm, f"{gap:+.3f}") for arm, gap in longer.items())
        tables.append(Table("Four times the length at equal tokens", ("arm", "loss(4T) - loss(T), nats"), gaps))
    return tuple(tables)


def _losses(curve: Curve, budget: float) -> list[str]:
    at = sorted((training.params, training.loss) for training in curve.trainings if training.budget == budget)
    return [f"{loss:.3f} ({params:,})" for params, loss in at]


def _figures(curves: dict[str, Curve]) -> tuple[Figure, ...]:
    points = tuple(
        Point(arm, budget, float(loss))
        for arm, curve in curves.items()
        for budget, loss in zip(curve.budgets, curve.optima(), strict=True)
    )
    if not points:
        return ()
    title = "Least test loss at each budget of training compute"
    return (Figure("compute_scaling", title, "training compute (FLOPs)", "nats a token", points),)


def _crossover(attention: Curve, lstm: Curve) -> str:
    """The first budget from which the arm that is behind at the least one is ahead."""
    common = _common_budgets(attention, lstm)
    losses = {curve.arm: dict(zip(curve.budgets, curve.optima(), strict=True)) for curve in (attention, lstm)}
    gaps = [losses[ATTENTION][budget] - losses[LSTM][budget] for budget in common]
    for budget, gap in zip(common, gaps, strict=True):
        if gap * gaps[0] < 0:
            return f"{'attention' if gap < 0 else 'the LSTM'} is ahead from {budget:.2g} FLOPs"
    return f"none: {'attention' if gaps[0] < 0 else 'the LSTM'} is ahead at every budget"


def _sentence(attention: Curve, lstm: Curve) -> str:
    return (
        f"at {attention.budgets[-1]:.2g} FLOPs attention stood at {attention.optima()[-1]:.3g} and the LSTM at "
        f"{lstm.optima()[-1]:.3g} nats a byte"
    )


def _length(curve: Curve) -> int:
    return curve.trainings[0].row["length"]


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
