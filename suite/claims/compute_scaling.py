"""Smooth scaling: does attention turn compute into lower loss predictably, and does recurrence level off earlier?"""

import dataclasses
import functools
import itertools
import math
import statistics
from collections.abc import Callable, Iterable
from typing import NamedTuple

from suite.claims import ATTENTION, LSTM, Control, Figure, Finding, Number, Point, Table, likeness
from suite.job import Cell, Job
from suite.judging import isoflop, trials
from suite.judging.isoflop import TRAINING, Curve, Optimum, Prediction
from suite.judging.statistics import Interval, contrast, difference, fieller
from suite.scale import INSTALLATION, Changes, Scale, width_unit
from suite.sweep.record import Row
from suite.sweep.store import job_of

QUESTION = "Does more compute lower attention's loss predictably, and the LSTM's less and less?"
TEXTBOOK = (
    "Double the compute of a transformer and the improvement can be predicted; recurrent networks level off earlier, "
    "because their quality falls with length."
)
CLAIMED = "predictable gains; RNNs level off"
ON_TEXT = True
RULE = (
    "At each budget of training FLOPs, counted exactly, models of several widths are trained on text by several seeds, "
    "more of them at the smaller budgets; widths are added until the best of a budget is not at their edge. The "
    "budget's optimum is the least of a cubic in log parameters through the best width, its neighbours and the next "
    "nearest; its noise is that of the seeds at this budget. A power law above a floor, loss = E + c x compute^-a, "
    "fitted to the budgets at least 2, 4 and 8 times below the top one, predicts its optimum; e is the error, and its "
    "interval has the noise of fit and top in it (likelihood ratio, 95 % jointly over the predictions). b is the local "
    "slope of log loss against log compute, over the upper half of the budgets; the share kept is this over the slope "
    "of the lower half. Holds: every e lies in its interval, the interval of the nearest prediction reaches at most "
    "half the predicted gain to either side, the interval of b_lstm / b_attention lies below 1, and the LSTM's slope "
    "falls, more than attention's: the intervals of its share kept, and of that less attention's, lie below 1 and 0. "
    "Fails: an e lies outside its interval at 99 %, or that of b_lstm / b_attention lies at or above 1. Otherwise "
    "undecided, and so where an optimum of either lies at the edge of the widths, and where a probe of the rate (a "
    "third, three times), one seed at the best width of either arm at the two largest budgets, comes to a loss below "
    "the mean at the rate by more than the noise of seeds (t-test, one-sided, 5 %, Bonferroni over the probes): rates "
    "are not tuned at each width and budget. Untested below 2.5 decades or five budgets: curves only. Intervals are "
    "Student's at 95 %, of ratios Fieller's. G is loss(4T) - loss(T) at equal tokens. Control: loss falls from the "
    "least to the top budget for both."
)

COMMAND = "python -m launch.compare --claims=compute_scaling"
LONGER = 4
BELOW = (2, 4, 8)  # times below the top budget, from where it is predicted
PROBED = 2  # of the largest budgets, on which the verdict rests most
CLEARLY = 5  # times less than the share of chance that an error is given to be predicted: 99 % against 95 %


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is trained at each budget."""

    training: Changes  # on text
    widths: tuple[int, ...]  # of the models trained at each budget
    budgets: tuple[float, ...]  # FLOPs of a training
    seeds: tuple[int, ...]  # of the judged pair at each budget; every other arm has one
    shown: int | None = None  # budgets, the least first, at which the other arms are trained, on which nothing rests
    untested: str = ""


_QUICK = Sizes(
    training={"length": 128, "batch": 2, "validate_every": 100_000, "test_examples": 256},
    widths=(16, 32, 64),
    budgets=(7e8, 2e9, 6e9),
    seeds=(2, 2, 2),
    untested="three budgets over one decade; the rule wants five over two and a half",
)
_LAPTOP = Sizes(
    training={"length": 128, "batch": 4, "validate_every": 1_000_000, "test_examples": 512},
    widths=(16, 32, 64),
    budgets=(1e9, 4e9, 1.8e10, 7.5e10, 3.2e11),
    seeds=(8, 8, 8, 6, 3),
    shown=2,
)
_GPU = Sizes(
    training={**_LAPTOP.training, "length": 1024, "batch": 32, "test_examples": 2048},
    widths=(128, 256, 384, 512, 768),
    budgets=(1e15, 4e15, 1.6e16, 6.4e16, 2.56e17, 1.024e18),
    seeds=(8, 7, 6, 5, 4, 3),
)
SIZES = {
    "smoke": Sizes(
        training={**{"length": 32, "batch": 4, "validate_every": 1000, "validation_examples": 16, "test_examples": 32}},
        widths=(16,),
        budgets=(1e8, 2e8),
        seeds=(1, 1),
        untested=INSTALLATION,
    ),
    "quick": _QUICK,
    "laptop": _LAPTOP,
    "gpu_hour": dataclasses.replace(_QUICK, untested="an hour pays for one decade of budgets"),
    "gpu": _GPU,
    # Sequences are short and models no deeper: of 256 chips' examples a step is quick, and what its loops wait is not.
    "pod": Sizes(
        training={**_GPU.training, "depth": 4, "length": 256, "batch": 32, "test_examples": 8192},
        widths=(512, 640, 768, 896, 1024),
        budgets=(6e16, 2.6e17, 1.1e18, 4.7e18, 2e19),
        seeds=(6, 5, 4, 3, 3),
        shown=2,
    ),
}


def cells(scale: Scale, rows: list[Row]) -> list[Cell]:
    """The FLOPs of a token for every width; then, at each budget, as many steps as it pays for.

    Only with the first quantity that arms hold equal: the budgets hold FLOPs equal by themselves.
    """
    if scale.match != scale.matches[0]:
        return []
    sizes, over = SIZES[scale.name], _over(rows)
    model = functools.cache(functools.partial(_model, scale))
    models: dict[Job, None] = {}
    trainings: list[Job] = []
    probed = () if sizes.untested else sizes.budgets[-PROBED:]
    for mixer in scale.arms:
        at = None if mixer in (ATTENTION, LSTM) else sizes.shown
        for budget, seeds in zip(sizes.budgets[:at], sizes.seeds[:at], strict=True):
            tried = _tried(scale, mixer, budget, seeds, over, model)
            models.update(dict.fromkeys(model(mixer, width) for width in tried))
            trainings += [job for jobs in tried.values() for job in jobs]
            is_known = all(model(mixer, width).id in over.flops for width in tried)
            if mixer in (ATTENTION, LSTM) and budget in probed and is_known:
                trainings += _probes(tried, over)
    # At equal tokens, sequences four times as long: the middle width and budget.
    for mixer in scale.arms:
        job = model(mixer, sizes.widths[len(sizes.widths) // 2])
        if job.id in over.flops:
            job = at_budget(job, sizes.budgets[len(sizes.budgets) // 2], over.flops[job.id])
            trainings.append(with_longer_sequences(job))
    return [*(Cell(job, "size") for job in models), *(Cell(job, "learning") for job in trainings)]


class Over(NamedTuple):
    """FLOPs of a token by the model's run, test loss by the training's, and the trainings that have ended."""

    flops: dict[str, float]
    losses: dict[str, float]
    ended: set[str]


def _over(rows: list[Row]) -> Over:
    return Over(
        {row["run_id"]: row["flops_per_token"] for row in rows if row.get("phase") == "model"},
        {row["run_id"]: row["loss"] for row in rows if row.get("phase") == "test"},
        {row["run_id"] for row in rows if row.get("phase") == "test" or row["outcome"] != "ok"},
    )


def _model(scale: Scale, mixer: str, width: int) -> Job:
    text = scale.job.task if isoflop.is_text(scale.job.task) else "text"  # another corpus is welcome, another task not
    return scale.arm(mixer, SIZES[scale.name].training, task=text, width=width)


def _tried(
    scale: Scale, mixer: str, budget: float, seeds: int, over: Over, model: Callable[[str, int], Job]
) -> dict[int, list[Job]]:
    """The trainings of a budget by width: of the judged pair one width more as long as the best lies at the edge."""
    judged = mixer in (ATTENTION, LSTM)
    repeats = seeds if judged else 1
    tried = {width: _trainings(model(mixer, width), budget, repeats, over) for width in SIZES[scale.name].widths}
    while judged and len(tried) > 2:
        runs = {width: [job.id for job in jobs] for width, jobs in tried.items()}
        losses = {
            width: [over.losses[run] for run in of_width if run in over.losses] for width, of_width in runs.items()
        }
        means = {width: statistics.fmean(of_width) for width, of_width in losses.items() if of_width}
        if not means or any(not of_width or not over.ended.issuperset(of_width) for of_width in runs.values()):
            break
        unit = math.lcm(width_unit(mixer), width_unit(scale.against))
        width = unit * round(_beyond(sorted(tried), min(means, key=lambda width: means[width])) / unit)
        if width in (0, *tried):
            break
        tried[width] = _trainings(model(mixer, width), budget, repeats, over)
        if any(_spent(job, over.flops[model(mixer, width).id]) > isoflop.NEAR * budget for job in tried[width][:1]):
            tried[width] = []  # a step of so wide a model costs more than the budget
    return tried


def _probes(tried: dict[int, list[Job]], over: Over) -> list[Job]:
    """The probes of the rate at the best width of a budget; none before all its trainings have ended."""
    by_width = [jobs for jobs in tried.values() if jobs]
    if not over.ended.issuperset(job.id for jobs in by_width for job in jobs):
        return []
    losses = {jobs[0]: [over.losses[job.id] for job in jobs if job.id in over.losses] for jobs in by_width}
    means = {job: statistics.fmean(of_width) for job, of_width in losses.items() if of_width}
    return [cell.job for cell in trials.cells(min(means, key=lambda job: means[job]), 1, probes=True)] if means else []


def _spent(job: Job, flops_per_token: float) -> float:
    return TRAINING * flops_per_token * job.batch * job.length * job.steps


def _trainings(model: Job, budget: float, seeds: int, over: Over) -> list[Job]:
    """The seeds of one width; none while its FLOPs are not known."""
    if model.id not in over.flops:
        return []
    job = at_budget(model, budget, over.flops[model.id])
    return [job.replace(seed=seed) for seed in range(seeds)]


def _beyond(widths: list[int], best: int) -> float:
    """As far beyond the edge as the next width lies within it, where the best lies there; else the best itself."""
    within = {widths[0]: widths[1], widths[-1]: widths[-2]}
    return best**2 / within.get(best, best)


def at_budget(job: Job, budget: float, flops_per_token: float) -> Job:
    """The job with the steps that a budget of FLOPs pays for, at least one."""
    step = TRAINING * flops_per_token * job.batch * job.length
    return job.replace(steps=max(1, round(budget / step)))


def with_longer_sequences(job: Job) -> Job:
    """The job on sequences LONGER times as long, for as many tokens in all."""
    batch = max(1, job.batch // LONGER)
    steps = max(1, round(job.steps * job.batch / (LONGER * batch)))
    return job.replace(length=LONGER * job.length, batch=batch, steps=steps)


def judge(
    rows: list[Row], *, decades: float = 2.5, budgets: int = 5, confidence: float = 0.95, precision: float = 0.5
) -> Finding:
    """The finding over all budgets that both arms of the pair have; `precision` is a bound over the predicted gain."""
    curves = isoflop.gather(rows)
    if not {ATTENTION, LSTM} <= curves.keys():
        return Finding("untested", "measured", reason="the judged pair is not there")
    attention, lstm = _at_common_budgets(curves)
    if len(attention.budgets) < 2:
        return Finding("untested", "measured", reason="no slope from fewer than two budgets")
    verdict, reason = judge_curves(
        attention, lstm, decades=decades, budgets=budgets, confidence=confidence, precision=precision
    )
    numbers = tuple(_numbers(attention, lstm, _longer(rows, curves), confidence))
    return Finding(verdict, "measured", reason=reason, numbers=numbers, controls=(_control(attention, lstm),))


def judge_curves(
    attention: Curve, lstm: Curve, *, decades: float, budgets: int, confidence: float, precision: float
) -> tuple[str, str]:
    """The verdict, and why, on two curves of the same budgets."""
    control = _control(attention, lstm)
    reached = math.log10(attention.budgets[-1] / attention.budgets[0])
    if reached < decades - 0.01 or len(attention.budgets) < budgets:
        wanted = f"the rule wants {budgets} over {decades:g}"
        return "untested", f"{len(attention.budgets)} budgets over {reached:.1f} decades; {wanted}"
    if not control.met:
        return "undecided", f"the control failed: {control.measured}"
    verdict, reason = _verdict(attention, lstm, confidence, precision)
    better = _better_probes([attention, lstm], confidence)
    if verdict in ("holds", "fails") and better:
        return "undecided", f"rate: {'; '.join(better)}; with the rates as they are, {verdict}: {reason}"
    return verdict, reason


def _better_probes(curves: list[Curve], confidence: float) -> list[str]:
    """The probes of the rate at the largest budgets that do better than the rate beyond doubt, in words."""
    probes = [
        (curve.arm, probe)
        for curve in curves
        for probe in curve.probes
        if probe.training.budget in curve.budgets[-PROBED:] and probe.gain.dof
    ]
    one_sided = 1 - 2 * (1 - confidence) / max(1, len(probes))
    return [
        f"{arm} at {probe.training.budget:.2g} FLOPs comes to {probe.training.loss:.4g} nats at a rate of "
        f"{probe.training.row['learning_rate']:g}, against {probe.mean:.4g} (seeds differ by "
        f"{math.sqrt(probe.gain.variance):.2g})"
        for arm, probe in probes
        if probe.gain.interval(one_sided).low > 0
    ]


def tell(
    rows: list[Row], judged: Finding, *, decades: float, budgets: int, confidence: float, precision: float
) -> Finding:
    """The finding with its sentence, tables and the curves of all arms."""
    del decades, budgets, confidence, precision  # in no picture
    curves = isoflop.gather(rows)
    slopes = {
        arm: curve.upper_slope.value
        for arm, curve in curves.items()
        if len(curve.budgets) > 1 and (arm in (ATTENTION, LSTM) or _seeds(curve) >= trials.OTHERS)
    }
    finding = dataclasses.replace(
        judged,
        figures=_figures(curves),
        tables=_tables(curves, _longer(rows, curves)),
        arms=tuple(likeness(slopes)),
    )
    if not {ATTENTION, LSTM} <= curves.keys():
        return dataclasses.replace(finding, sentence="attention and the LSTM were not trained at fixed budgets")
    attention, lstm = _at_common_budgets(curves)
    if len(attention.budgets) < 2:
        return dataclasses.replace(finding, sentence="attention and the LSTM share fewer than two budgets")
    first, *_, last = attention.budgets
    tried = f"{len(attention.budgets)} budgets of {_power(first)} to {_power(last)} FLOPs"
    speaks_for = f"{tried}, on text at {_length(attention)} tokens"
    return dataclasses.replace(
        finding, sentence=f"{_sentence(attention, lstm)}; {_ahead(attention, lstm)}", speaks_for=speaks_for
    )


def _at_common_budgets(curves: dict[str, Curve]) -> tuple[Curve, Curve]:
    """Attention and the LSTM at the budgets that both have."""
    attention, lstm = curves[ATTENTION], curves[LSTM]
    return attention.at(lstm.budgets), lstm.at(attention.budgets)


def _verdict(attention: Curve, lstm: Curve, confidence: float, precision: float) -> tuple[str, str]:
    edges = [
        f"{curve.arm} at {optimum.budget:.2g} FLOPs (the {optimum.edge} width)"
        for curve in (attention, lstm)
        for optimum in curve.optima
        if optimum.edge
    ]
    if edges:
        return "undecided", f"the optimum lies at the edge of the widths: {', '.join(edges)}"
    if not (attention.has_noise and lstm.has_noise):
        return "undecided", "at some budget no width was repeated with another seed, so there is no noise to judge by"
    ratio = _ratio(attention, lstm)
    if ratio is None:
        return "undecided", "attention's own slope over the upper half of the budgets is not clear of 0"
    far = _misses(attention, 1 - (1 - confidence) / CLEARLY)
    if far:
        return "fails", f"attention's loss is not what smaller budgets predict: {'; '.join(far)}"
    if ratio.low >= 1:
        return "fails", "the LSTM gains at least as much from compute as attention over the upper half of the budgets"
    predictions = _predictions(attention, confidence)
    if not predictions:
        return "undecided", f"fewer than three budgets lie {min(BELOW)} times below the top one"
    near = _misses(attention, confidence)
    if near:
        return "undecided", f"attention's loss is hardly what smaller budgets predict: {'; '.join(near)}"
    first = predictions[min(predictions)]
    bound = max(first.interval.high - first.interval.value, first.interval.value - first.interval.low)
    if bound > precision * first.gain:
        gain = f"more than {precision:g} of the gain of {first.gain:.3g} that it predicts"
        return "undecided", f"the prediction of attention's loss is known to {bound:.3g} nats, {gain}"
    if ratio.high >= 1:
        return "undecided", "that the LSTM gains less from compute than attention is not beyond doubt"
    if not _levels_off(attention, lstm):
        return "undecided", "the LSTM gains less from compute, but that its slope falls faster is not beyond doubt"
    return "holds", "attention's loss is predicted, the LSTM gains less from compute, and ever less the more there is"


def _predictions(curve: Curve, confidence: float) -> dict[int, Prediction]:
    """The prediction from each number of times below the top budget, at a confidence that is of all together."""
    distinct = {len(curve.below(times)) for times in BELOW if len(curve.below(times)) >= isoflop.FITTED}
    each = 1 - (1 - confidence) / max(1, len(distinct))
    return {times: curve.prediction(times, each) for times in BELOW if len(curve.below(times)) >= isoflop.FITTED}


def _misses(curve: Curve, confidence: float) -> list[str]:
    """The predictions in whose interval the top budget's loss does not lie."""
    loss = curve.optima[-1].loss
    return [
        f"{loss:.4g} nats against {low:.4g} to {high:.4g} ({100 * confidence:g} %) from {times}x below"
        for times, ((_, low, high), _) in _predictions(curve, confidence).items()
        if not low <= loss <= high
    ]


def _ratio(attention: Curve, lstm: Curve) -> Interval | None:
    """b_lstm / b_attention over the upper half of the budgets; None where attention's is not clear of 0."""
    if attention.upper_slope.interval().low <= 0:
        return None
    return fieller(lstm.upper_slope, attention.upper_slope)


def _levels_off(attention: Curve, lstm: Curve) -> bool:
    """Whether the LSTM's slope falls from the lower half of the budgets to the upper, and more than attention's."""
    if any(curve.lower_slope.interval().low <= 0 for curve in (attention, lstm)):
        return False
    share = lstm.share_kept
    return share.interval().high < 1 and difference(share, attention.share_kept).interval().high < 0


def _longer(rows: list[Row], curves: dict[str, Curve]) -> dict[str, float]:
    """G of each arm: loss at LONGER times the length less that at the length, at equal width and tokens."""
    tests = {row["run_id"]: row for row in rows if row.get("phase") == "test" and isoflop.is_text(row["task"])}
    gaps = {}
    for arm, curve in curves.items():
        far = [row for row in tests.values() if row["arm"] == arm and row["length"] == LONGER * _length(curve)]
        trials = {(row["reference_width"], row["seed"]) for row in far}
        for training in curve.trainings:
            if (training.row["reference_width"], training.row["seed"]) in trials:
                longer = with_longer_sequences(job_of(training.row)).id
                if longer in tests:
                    gaps[arm] = tests[longer]["loss"] - training.loss
    return gaps


def _control(attention: Curve, lstm: Curve) -> Control:
    ends = {curve.arm: (curve.optima[0].loss, curve.optima[-1].loss) for curve in (attention, lstm)}
    losses = ", ".join(f"{arm} from {first:.3g} to {last:.3g} nats" for arm, (first, last) in ends.items())
    met = all(first > last for first, last in ends.values())
    return Control("loss falls from the least to the top budget", met, losses)


def _numbers(attention: Curve, lstm: Curve, longer: dict[str, float], confidence: float) -> Iterable[Number]:
    noisy = attention.has_noise and lstm.has_noise
    ratio = _ratio(attention, lstm) if noisy else None
    if ratio:
        n = len(attention.trainings) + len(lstm.trainings)
        yield Number("local slope of loss in compute, LSTM / attention", ratio.value, "x", n, COMMAND, *ratio[1:])
    for curve in (attention, lstm):
        n = len(curve.trainings)
        shares = [("share of b kept", curve.share_kept)] if len(curve.budgets) > 2 else []
        for name, estimate in (("b", curve.upper_slope), *shares):
            bounds = estimate.interval()[1:] if noisy else (None, None)
            yield Number(f"{name}, {curve.arm}", estimate.value, "", n, COMMAND, *bounds)
    loss = attention.optima[-1].loss
    for times, ((value, low, high), _) in _predictions(attention, confidence).items() if noisy else ():
        name = f"e from {times}x below, attention"
        yield Number(name, loss - value, "nats", len(attention.trainings), COMMAND, loss - high, loss - low)
    for arm, gap in longer.items():
        yield Number(f"G = loss(4T) - loss(T) at equal tokens, {arm}", gap, "nats", 1, COMMAND)


def _tables(curves: dict[str, Curve], longer: dict[str, float]) -> tuple[Table, ...]:
    lines = [
        (
            f"{arm}, {optimum.budget:.2g} FLOPs",
            f"{optimum.loss:.3f}",
            f"{math.sqrt(optimum.variance):.2g}" if optimum.dof else "one seed",
            f"the {optimum.edge} width" if optimum.edge else "",
            ", ".join(_losses(curve, optimum.budget)),
        )
        for arm, curve in curves.items()
        for optimum in curve.optima
    ]
    columns = ("arm", "optimum (nats)", "its s.d.", "at the edge", "loss of each training (parameters)")
    tables = [Table("Loss at fixed compute", columns, tuple(lines))] if lines else []
    if longer:
        gaps = tuple((arm, f"{gap:+.3f}") for arm, gap in longer.items())
        tables.append(Table("Four times the length at equal tokens", ("arm", "loss(4T) - loss(T), nats"), gaps))
    return tuple(tables)


def _bounds(optimum: Optimum) -> tuple[float, ...]:
    """The interval of an optimum for a figure, where seeds were repeated."""
    return contrast([1], [optimum.loss], [optimum.variance], [optimum.dof]).interval()[1:] if optimum.dof else ()


def _losses(curve: Curve, budget: float) -> list[str]:
    at = sorted((training.params, training.loss) for training in curve.trainings if training.budget == budget)
    return [f"{loss:.3f} ({params:,})" for params, loss in at]


def _figures(curves: dict[str, Curve]) -> tuple[Figure, ...]:
    points = tuple(
        Point(arm, optimum.budget, optimum.loss, *_bounds(optimum))
        for arm, curve in curves.items()
        for optimum in curve.optima
    )
    if not points:
        return ()
    title = "Least test loss at each budget of training compute"
    return (Figure("compute_scaling", title, "training compute (FLOPs)", "nats a token", points),)


def _ahead(attention: Curve, lstm: Curve) -> str:
    """Which arm is ahead beyond doubt, at how many budgets, or between which budgets the other one comes ahead."""
    if not (attention.has_noise and lstm.has_noise):
        return "with one seed at some budget neither is known to be ahead"
    clear: list[tuple[float, str]] = []
    for one, other in zip(attention.optima, lstm.optima, strict=True):
        gap = contrast([1, -1], *zip(one[1:4], other[1:4], strict=True)).interval()
        if gap.low > 0 or gap.high < 0:
            clear.append((one.budget, "attention" if gap.high < 0 else "the LSTM"))
    turns = [(one, other) for one, other in itertools.pairwise(clear) if one[1] != other[1]]
    if turns:
        return "; ".join(
            f"{one[1]} is ahead at {_power(one[0])} FLOPs, {other[1]} at {_power(other[0])}" for one, other in turns
        )
    if not clear:
        return "neither is ahead beyond doubt at any budget"
    return f"{clear[0][1]} is ahead beyond doubt at {len(clear)} of {len(attention.budgets)} budgets"


def _sentence(attention: Curve, lstm: Curve) -> str:
    losses = [f"{curve.optima[-1].loss:.3g}" for curve in (attention, lstm)]
    return (
        f"with {_power(attention.budgets[-1])} FLOPs of training attention comes to a loss of {losses[0]} nats a byte "
        f"and the LSTM to {losses[1]}"
    )


def _power(budget: float) -> str:
    """6.0 x 10^9"""
    mantissa, exponent = f"{budget:.1e}".split("e")
    return f"{mantissa} x 10^{int(exponent)}"


def _seeds(curve: Curve) -> int:
    return len({training.row["seed"] for training in curve.trainings})


def _length(curve: Curve) -> int:
    return curve.trainings[0].row["length"]
