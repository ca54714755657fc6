"""What arms hold equal: the width, or the knob of the state, at which a model meets a budget of another arm."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from suite import parts
from suite.counting import flops
from suite.job import Job
from suite.model import backbone
from suite.model.backbone import Model

SOLVED = ("params", "flops", "state_bytes")  # follow from shapes; a step time has to be measured
FAR = 0.5  # off the target, with nothing on its other side: out of reach
MOST = 4  # times the width of the reference, beyond which no width is tried


def solve(job: Job, vocab: int) -> Job:
    """The job on its own: at the width where `job.match` comes nearest to that of its `match_to` at `job.width`.

    Widths are searched on a grid of about a 32nd of job.width, a power of two, so large widths stay multiples that
    hardware likes; those that the mixer refuses are left out. ValueError where none below four times the width fits.
    """
    if job.own_width:
        return job.replace(width=job.own_width, own_width=0, match_to="")
    if job.match == "none" or not job.match_to:
        return job.replace(match_to="")
    names = ("mixer", "block", "short_conv", "hidden", "head_size", "width", "depth", "match", "match_to")
    if job.match != "params":
        names = (*names, "length", "dtype", "state_dtype")
    solved = _solve(Job(**{name: getattr(job, name) for name in names}), vocab)
    return job.replace(mixer=solved.mixer, width=solved.width, match_to="")


def mismatch(job: Job, vocab: int) -> float:
    """How far the solved model is from what it is matched in, as a fraction of the reference's."""
    return quantity(solve(job, vocab), vocab) / quantity(reference(job), vocab) - 1


def reference(job: Job) -> Job:
    """The job of the arm that this one is matched to."""
    return job.replace(mixer=job.match_to, match_to="", own_width=0)


def quantity(job: Job, vocab: int) -> float:
    """What `job.match` names of the job's model: parameters, forward FLOPs a token, or bytes of state of an example."""
    built = backbone.shapes(job, vocab)
    match job.match:
        case "params":
            return backbone.count_parameters(built)
        case "flops":
            return flops_per_token(built, job)
        case "state_bytes":
            return state_bytes(built, job, job.length)
    raise ValueError(
        f"--match={job.match} has to be measured, which launch.compare does; for one job give its width as --own_width"
    )


def flops_per_token(built: Model, job: Job) -> float:
    """Forward FLOPs of products, the mean over the job's length: what causality leaves, whatever the fast form does."""
    return flops.sum_over_time(lambda tokens: step_count(built, job, tokens).matmul, job.length) / job.length


def step_count(built: Model, job: Job, tokens: int) -> flops.Count:
    """Work of the step that reads token number `tokens`."""
    state = jax.eval_shape(lambda built: built.start(1, tokens, jnp.dtype(job.dtype)), built)
    token = jax.ShapeDtypeStruct((1,), jnp.int32)
    return flops.count(lambda built, token_B, state: built.step(token_B, state), built, token, state)


def state_bytes(built: Model, job: Job, context: int) -> int:
    """Bytes of one example's state that holds `context` tokens, all blocks."""
    state = jax.eval_shape(lambda built: built.start(1, context, jnp.dtype(job.dtype)), built)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


@functools.cache
def _solve(job: Job, vocab: int) -> Job:
    target = quantity(reference(job), vocab)
    candidates, make = _candidates(job)

    @functools.cache
    def reached(candidate: int) -> float | None:
        try:
            return quantity(make(candidate), vocab)
        except ValueError:
            return None

    near = {candidate: reached(candidate) for candidate in _around(candidates, reached, target)}
    quantities = {candidate: value for candidate, value in near.items() if value is not None}
    if not quantities:
        backbone.shapes(job.replace(match_to=""), vocab)  # raises the mixer's own reason, if its knobs never fit
    nearest = min(quantities, key=lambda candidate: abs(quantities[candidate] - target), default=None)
    one_sided = len({value < target for value in quantities.values()}) == 1
    if nearest is None or (one_sided and abs(quantities[nearest] / target - 1) > FAR):
        what = {"params": "parameters", "flops": "FLOPs a token", "state_bytes": "bytes of state"}[job.match]
        raise ValueError(f"no width up to {candidates[-1]} gives {job.arm} the {target:,.0f} {what} of {job.match_to}")
    return make(nearest)


def _candidates(job: Job) -> tuple[Sequence[int], Callable[[int], Job]]:
    """What is tried, in an order in which the quantity grows, and the job that each stands for."""
    alone = job.replace(match_to="")
    knob = job.state_knob
    if job.match == "state_bytes" and knob:
        values = range(1, MOST * max(job.length, job.width) + 1)
        return values, lambda value: alone.replace(mixer=parts.with_knobs("suite.mixers", job.mixer, {knob: value}))
    grid = 1 << max(0, (job.width // 32).bit_length() - 1)
    return range(grid, MOST * job.width + 1, grid), lambda width: alone.replace(width=width)


def _around(candidates: Sequence[int], reached: Callable[[int], float | None], target: float) -> list[int]:
    """The candidates next to where the quantity crosses the target: it grows with them, so bisect."""
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        at = next((candidate for candidate in candidates[middle:] if reached(candidate) is not None), None)
        if at is None or reached(at) >= target:  # pyright: ignore[reportOptionalOperand] - such a candidate fits
            high = middle
        else:
            low = candidates.index(at) + 1
    nearest = candidates[max(0, low - 1) :: -1] if low else candidates[:1]
    below = next((candidate for candidate in nearest if reached(candidate) is not None), None)
    above = next((candidate for candidate in candidates[low:] if reached(candidate) is not None), None)
    return [candidate for candidate in (below, above) if candidate is not None]
