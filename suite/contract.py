"""The contracts of mixers and tasks, held by running them at tiny shapes.

The tests hold every file of the folders to them, and launch.job a user's own file before anything is trained on it.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, PyTree

from suite import parts
from suite.job import Job
from suite.sweep import provenance
from suite.tasks import SPLITS, Batch

WIDTH, BATCH, LENGTH, CHANGED = 32, 2, 12, 7
CHUNKS = (5, 7)
BEGINS = (4, 5, 9)  # tokens that begin a document
WIDTHS = (WIDTH, 48, 64, 96, 128, 256)  # of which an own mixer is built at the first that its knobs fit
DTYPES = ("float32", "bfloat16")
# An own mixer may round as it likes, and what breaks the contract is wrong in the first digits.
CLOSE, ROUNDING = 1e-3, 1e-5
STATEFUL = ("start", "extend", "step")

Form = Callable[[Any, Float[Array, "B T D"]], Float[Array, "B T D"]]


def check_job(job: Job, task: Any, out: epath.PathLike) -> None:
    """ValueError, naming the part and what it breaks, where an own mixer or the own task of a job breaks its contract.

    What has passed is known under `out`, by all that it rests on: it is not run again.
    """
    reset = {"reset": True} if job.reset else {}
    for spec in parts.pattern(job.mixer) + (parts.pattern(job.match_to) if job.match_to else []):
        _once(
            out,
            "suite.mixers",
            spec,
            {"width": job.width, **reset},
            functools.partial(_check_own_mixer, spec, job.width, **reset),
        )
    data = provenance.of_data(task)
    _once(out, "suite.tasks", job.task, {"length": job.length, **data}, functools.partial(check_task, task, job.length))


def wants(job: Job, measure: str, *methods: str) -> None:
    """ValueError where a mixer of the job lacks a method that a measure calls."""
    for spec in parts.pattern(job.mixer):
        module, _ = parts.load("suite.mixers", spec)
        lacking = [method for method in methods if not hasattr(module.Mixer, method)]
        if lacking:
            raise ValueError(f"{measure} wants a mixer with {', '.join(methods)}; {spec} has no {', '.join(lacking)}")


def check_mixer(mixer: Any, width: int, close: float = CLOSE, rounding: float = ROUNDING) -> None:
    """ValueError says which part of the contract a mixer breaks, and where. Forms that it does not have are left out.

    `close` is how far forms may be from one another, `rounding` how far a later token may move an earlier output.
    """
    stateful = all(hasattr(mixer, method) for method in STATEFUL)
    if stateful:
        check_state(mixer, width)
    check_dtypes(mixer, width, stateful=stateful)
    with jax.default_matmul_precision("highest"):
        check_causal(mixer, width, rounding)
        check_examples(mixer, width, rounding)
        check_forms(mixer, width, close, stateful=stateful)


def check_dtypes(mixer: Any, width: int, *, stateful: bool = True) -> None:
    """Outputs come in the dtype and the shape of the inputs; parameters are float32."""
    for dtype in DTYPES:
        x_BTD = inputs(width, dtype)
        for name, form in _forms(stateful=stateful).items():
            y_BTD = jax.eval_shape(form, mixer, x_BTD)
            if (y_BTD.shape, y_BTD.dtype) != (x_BTD.shape, x_BTD.dtype):
                raise ValueError(f"{name} makes {_told(y_BTD)} of {_told(x_BTD)}; wanted the same shape and dtype")
    for leaf in jax.tree.leaves(eqx.filter(mixer, eqx.is_array)):
        if leaf.dtype != jnp.float32:
            raise ValueError(f"a parameter is {_told(leaf)}; wanted float32")


def check_state(mixer: Any, width: int) -> None:
    """A state comes back from `extend` and from `step` in the shapes and dtypes of `start`."""
    for dtype in DTYPES:
        x_BTD = inputs(width, dtype)
        start = jax.eval_shape(lambda x_BTD=x_BTD: mixer.start(BATCH, LENGTH, x_BTD.dtype))
        for name, call, x in (("extend", mixer.extend, x_BTD), ("step", mixer.step, x_BTD[:, 0])):
            _, after = jax.eval_shape(call, x, start)
            if after != start:
                raise ValueError(f"{name} gives a state of {_tree(after)} where start gave {_tree(start)}, in {dtype}")


def check_causal(mixer: Any, width: int, rounding: float = ROUNDING) -> None:
    """No output moves with a later input."""
    changed = jnp.zeros((BATCH, LENGTH, width), jnp.float32).at[:, CHANGED].set(1.0)
    before_BTD, (_, gradient_BTD) = run(in_parallel, mixer, inputs(width), changed)
    after_BTD, _ = run(in_parallel, mixer, inputs(width) + changed, changed)
    for y_BTD in (before_BTD, after_BTD):
        _check_finite(y_BTD)
    scale = rounding * np.max(np.abs(before_BTD))
    moved_T = np.max(np.abs(np.asarray(before_BTD) - np.asarray(after_BTD)), axis=(0, 2))
    for token in range(CHANGED):
        if not moved_T[token] <= scale:
            raise ValueError(
                f"not causal: a change of token {CHANGED} moves the output at token {token} by {moved_T[token]:.3g}"
            )
    later_T = np.max(np.abs(gradient_BTD), axis=(0, 2))[CHANGED + 1 :]
    if not np.all(later_T <= rounding * np.max(np.abs(gradient_BTD))):
        token = CHANGED + 1 + int(np.argmax(later_T))
        raise ValueError(f"not causal: the output at token {CHANGED} has a gradient at token {token}")


def check_examples(mixer: Any, width: int, rounding: float = ROUNDING) -> None:
    """No example's output or gradient moves with another example.

    Each device computes its own: what mixed them would depend on how many devices there are.
    """
    before, after = (
        run(in_parallel, mixer, x_BTD, probe(width)) for x_BTD in (inputs(width), inputs(width).at[1].add(1.0))
    )
    for name, one_BTD, other_BTD in (("output", before[0], after[0]), ("gradient", before[1][1], after[1][1])):
        moved = np.max(np.abs(np.asarray(one_BTD[0]) - np.asarray(other_BTD[0])))
        if not moved <= rounding * np.max(np.abs(one_BTD[0])):
            raise ValueError(f"mixes examples: a change of one moves the {name} of another by {moved:.3g}")


def check_forms(mixer: Any, width: int, close: float = CLOSE, *, stateful: bool = True) -> None:
    """Read at once, in chunks and token by token, a sequence gives the same outputs and the same gradients."""
    wanted_BTD, wanted_gradient = run(in_parallel, mixer, inputs(width), probe(width))
    _check_finite(wanted_BTD)
    for leaf in jax.tree.leaves(wanted_gradient):
        if not np.all(np.isfinite(leaf)):
            raise ValueError("a gradient of __call__ is not finite")
    forms = _forms(stateful=stateful) | ({"read": in_whole} if stateful and hasattr(mixer, "read") else {})
    for name, form in forms.items():
        if form is in_parallel:
            continue
        y_BTD, gradient = run(form, mixer, inputs(width), probe(width))
        _check_values(name, np.asarray(y_BTD, np.float64), np.asarray(wanted_BTD, np.float64), close)
        apart = distance((y_BTD, gradient), (wanted_BTD, wanted_gradient))
        if not apart <= close:
            raise ValueError(f"{name} gives other gradients than __call__: {apart:.2g} of their largest entry apart")


def check_starts(mixer: Any, width: int, close: float = CLOSE) -> None:
    """Documents in one sequence are read as each alone, with the same gradients: ValueError where one sees another."""
    starts_BT = jnp.zeros((BATCH, LENGTH), bool).at[0, jnp.asarray(BEGINS)].set(True).at[1, BEGINS[0]].set(True)
    x_BTD, probe_BTD = inputs(width), probe(width)

    def together(mixer: Any, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return mixer(x_BTD, starts_BT)

    def alone(mixer: Any, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        first_1TD = [mixer(x_1TD) for x_1TD in jnp.split(x_BTD[:1], BEGINS, axis=1)]
        second_1TD = [mixer(x_1TD) for x_1TD in jnp.split(x_BTD[1:], BEGINS[:1], axis=1)]
        return jnp.concatenate([jnp.concatenate(parts, axis=1) for parts in (first_1TD, second_1TD)])

    with jax.default_matmul_precision("highest"):
        read, wanted = run(together, mixer, x_BTD, probe_BTD), run(alone, mixer, x_BTD, probe_BTD)
    _check_finite(read[0])
    apart = distance(read, wanted)
    if not apart <= close:
        raise ValueError(f"reset: documents read together are {apart:.2g} of the largest entry apart from each alone")


def check_task(task: Any, length: int, examples: int = 4) -> None:
    """Batches have their shapes and dtypes, tokens are in the vocabulary, and an example depends on its id alone."""
    if not isinstance(task.vocab, int) or task.vocab < 1:
        raise ValueError(f"vocab {task.vocab!r} wants a number of at least 1")
    for split in SPLITS:
        ids = np.arange(examples)
        batch = Batch(*task.batch(split, ids))
        for name, array, dtype in zip(Batch._fields, batch, (np.int32, np.int32, np.float32), strict=True):
            if np.shape(array) != (examples, length) or np.asarray(array).dtype != dtype:
                wanted = f"wanted {np.dtype(dtype)} {(examples, length)}"
                raise ValueError(f"{name} of split {split} is {_told(np.asarray(array))}; {wanted}")
        for name, array in (("tokens", batch.tokens_BT), ("targets", batch.targets_BT)):
            low, high = np.min(array), np.max(array)
            if low < 0 or high >= task.vocab:
                raise ValueError(f"{name} of split {split} go from {low} to {high}; vocab is {task.vocab}")
        if not (np.all(np.isfinite(batch.weights_BT)) and np.min(batch.weights_BT) >= 0 and np.any(batch.weights_BT)):
            raise ValueError(f"weights of split {split} want finite numbers of at least 0 and not only zeros")
        for number in reversed(range(examples)):
            alone = Batch(*task.batch(split, ids[number : number + 1]))
            if not all(np.array_equal(one[0], all_[number]) for one, all_ in zip(alone, batch, strict=True)):
                raise ValueError(f"example {number} of split {split} is another alone than among others")


def in_parallel(mixer: Any, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    return mixer(x_BTD)


def in_chunks(mixer: Any, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    state, outputs = mixer.start(*x_BTD.shape[:2], x_BTD.dtype), []
    for chunk_BTD in jnp.split(x_BTD, np.cumsum(CHUNKS)[:-1], axis=1):
        y_BTD, state = mixer.extend(chunk_BTD, state)
        outputs.append(y_BTD)
    return jnp.concatenate(outputs, axis=1)


def in_whole(mixer: Any, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """All but the last tokens by `read`, and these from the state that it leaves."""
    y_BTD, state = mixer.read(x_BTD[:, : CHUNKS[0]], x_BTD.shape[1])
    rest_BTD, _ = mixer.extend(x_BTD[:, CHUNKS[0] :], state)
    return jnp.concatenate([y_BTD, rest_BTD], axis=1)


def in_steps(mixer: Any, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    def step(state: PyTree, x_BD: Array) -> tuple[PyTree, Array]:
        y_BD, state = mixer.step(x_BD, state)
        return state, y_BD

    start = mixer.start(*x_BTD.shape[:2], x_BTD.dtype)
    return jnp.swapaxes(jax.lax.scan(step, start, jnp.swapaxes(x_BTD, 0, 1))[1], 0, 1)


@eqx.filter_jit
def run(form: Form, mixer: Any, x_BTD: Array, probe_BTD: Array) -> tuple[Array, tuple[PyTree, Array]]:
    """The outputs, and the gradient of their product with the probe: of the mixer's parameters and of the inputs."""
    arrays, static = eqx.partition(mixer, eqx.is_array)
    y_BTD, pull_back = jax.vjp(lambda arrays, x_BTD: form(eqx.combine(arrays, static), x_BTD), arrays, x_BTD)
    return y_BTD, pull_back(probe_BTD)


def inputs(width: int, dtype: str = "float32") -> Float[Array, "B T D"]:
    return jax.random.normal(jax.random.key(1), (BATCH, LENGTH, width), jnp.float32).astype(dtype)


def probe(width: int) -> Float[Array, "B T D"]:
    """Random: a sum of all outputs would be 0 for every mixer that ends in a norm over heads."""
    return jax.random.normal(jax.random.key(2), (BATCH, LENGTH, width), jnp.float32)


def distance(actual: PyTree, wanted: PyTree) -> float:
    """The largest of all leaves' distances; NaN where any is."""
    return float(np.max([*distances(actual, wanted).values()]))


def distances(actual: PyTree, wanted: PyTree) -> dict[str, float]:
    """The largest difference of each leaf, by its name, in parts of the leaf's largest entry.

    A leaf that is nothing but rounding itself is taken in parts of the largest of all.
    """
    named, _ = jax.tree_util.tree_flatten_with_path(wanted)
    one, other = ([np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)] for tree in (actual, wanted))
    largest = max(np.max(np.abs(leaf)) for leaf in other)
    scales = [max(np.max(np.abs(leaf)), 1e-3 * largest) for leaf in other]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): float(np.max(np.abs(left - right)) / scale)
        for (path, _), left, right, scale in zip(named, one, other, scales, strict=True)
    }


def _check_own_mixer(spec: str, width: int, *, reset: bool = False) -> None:
    """The contract at the smallest width that its knobs fit."""
    module, knobs = parts.load("suite.mixers", spec)

    def build(width: int) -> Any:
        return module.Mixer(width, key=jax.random.key(0), **knobs)

    for smaller in WIDTHS:
        try:
            eqx.filter_eval_shape(build, smaller)
        except Exception:  # at the last width, the job's own, it is raised
            continue
        width = smaller
        break
    mixer = build(width)
    check_mixer(mixer, width)
    if reset:
        check_starts(mixer, width)


def _once(
    out: epath.PathLike, folder: str, spec: str, conditions: Mapping[str, Any], check: Callable[[], None]
) -> None:
    """Runs the check of a part with files of the user's own, unless they have passed it here before."""
    own = parts.own_files(folder, spec)
    if not own:
        return
    rests_on = [spec, own, dict(conditions), jax.__version__, jax.default_backend(), provenance.of_source({})["source"]]
    digest = hashlib.sha256(json.dumps(rests_on, sort_keys=True, default=str).encode()).hexdigest()[:16]
    passed = epath.Path(out) / "cache" / f"contract-{digest}"
    if passed.exists():
        return
    try:
        with parts.own_lines(folder, spec):
            try:
                check()
            except jax.errors.JaxRuntimeError:  # no breach: what this machine cannot run is its cells' outcome
                return
    except (ValueError, TypeError) as error:
        if error.__cause__ is not None:  # with file and line already
            raise
        raise ValueError(f"{parts.short(folder, spec)}: {str(error).partition(chr(10))[0]}") from error
    if jax.process_index() == 0:
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.write_text("")


def _forms(*, stateful: bool) -> dict[str, Form]:
    return {"__call__": in_parallel} | ({"extend": in_chunks, "step": in_steps} if stateful else {})


def _check_values(name: str, y_BTD: np.ndarray, wanted_BTD: np.ndarray, close: float) -> None:
    apart_BTD = np.abs(y_BTD - wanted_BTD)
    for token in range(LENGTH):
        if not np.max(apart_BTD[:, token]) <= close * np.max(np.abs(wanted_BTD)):
            at = (*np.unravel_index(np.argmax(apart_BTD[:, token]), apart_BTD[:, token].shape),)
            values = f"{y_BTD[at[0], token, at[1]]:.3g} against {wanted_BTD[at[0], token, at[1]]:.3g}"
            raise ValueError(f"{name} gives other values than __call__ at token {token}: {values}")


def _check_finite(y_BTD: Array) -> None:
    for batch, token, channel in np.argwhere(~np.isfinite(np.asarray(y_BTD)))[:1]:
        raise ValueError(f"__call__ gives {y_BTD[batch, token, channel]} at token {token}")


def _told(array: Any) -> str:
    return f"{array.dtype} {tuple(array.shape)}"


def _tree(tree: PyTree) -> str:
    return ", ".join(_told(leaf) for leaf in jax.tree.leaves(tree)) or "nothing"
