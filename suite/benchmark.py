"""Benchmarks: one operation, layer or training step in all implementations and in other libraries', timed in turns.

All contenders compute the same from the same numbers: value and gradient of a weighted sum of the outputs, or a step of
training on the same tokens from the same parameters.
"""

import dataclasses
import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from suite import contract, parts
from suite import mesh as meshes
from suite.counting import flops
from suite.job import Job
from suite.model import backbone, matching
from suite.ops import implementations
from suite.sweep.record import Row
from suite.tasks import Batch
from suite.training import clock
from suite.training.programs import Programs

BASELINES = {name: importlib.import_module(f"suite.baselines.{name}") for name in parts.names("suite.baselines")}
# Layers of one head, and one with heads; operations and their families of implementations; whole trainings.
LAYERS = [
    name
    for name in parts.names("suite.mixers")
    if parts.constant("suite.mixers", name, "STATE") == "nonlinear"
    and "implementation" in parts.knobs("suite.mixers", name)
]
HEADED = {"lstm_heads": "lstm"}
OPERATIONS = {
    **{"attention": "attention", "linear": "linear", "scalar": "matrix", "vector": "matrix"},
    **{"delta": "delta", "low_rank": "low_rank"},
}
TRAININGS = {f"train_{mixer}": mixer for module in BASELINES.values() for mixer in module.TRAININGS}
FAMILIES = (*LAYERS, *HEADED, *OPERATIONS, *TRAININGS)
CHUNKS = (16, 32, 64, 128, 256)
VOCAB = 256
DEPTH = 4  # of what is trained
WARMUP = 2
FASTEST = math.exp(-0.5)  # least log decay of a low-rank recurrence, RWKV-7's

# As far as a gradient may lie from the true one, in parts of its largest entry. Rounding alone: in bfloat16, a rounding
# of 1/256, ours come to 0.005 over 1,024 tokens of 256 channels.
CLOSE = {"float32": 1e-3, "bfloat16": 5e-2}

Call = Callable[[], float]
Gradients = tuple[Mapping[str, np.ndarray], list[np.ndarray]]  # of the arrays, of all inputs but the last


@dataclasses.dataclass(frozen=True)
class Contender:
    """A program that is ready to be timed: its call, the gradients of the last one, and what is recorded of it."""

    call: Call
    conditions: Row
    gradients: Callable[[], Gradients] | None = None  # of a training there are none


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """An operation, a layer or a training step, by its family, and its sizes (batch, length, width).

    Operations and `lstm_heads` have heads of `head_size` channels, the other layers have one.
    """

    family: str
    batch: int
    length: int
    width: int
    head_size: int
    dtype: str

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family {self.family!r} is not known; wanted one of {', '.join(FAMILIES)}")
        if self.family not in LAYERS and self.width % self.head_size:
            raise ValueError(f"width {self.width} is not a multiple of the head size {self.head_size}")


@dataclasses.dataclass(frozen=True)
class Work:
    """The same work for every contender; the last input weighs the outputs.

    `compute(implementation)` is a function of the arrays and all inputs but the last.
    """

    arrays: dict[str, np.ndarray]
    inputs: list[np.ndarray]
    compute: Callable[[str], Callable[..., jax.Array]]


def run(benchmark: Benchmark, rounds: int) -> Iterator[Row]:
    """A row for each contender: seconds of each round, its value, or the outcome that kept it out.

    `value` is the weighted sum of the outputs; of a training the loss of the first step and `last_value` of the last.
    """
    ready: dict[str, Contender] = {}
    rows: dict[str, Row] = {}
    shared = dataclasses.asdict(benchmark)
    work = None if benchmark.family in TRAININGS else _work(benchmark)
    truth: Gradients | None = None
    for name, make in _trainings(benchmark) if work is None else _gradients(benchmark, work):
        try:
            contender = make()
            value = contender.call()
            if work is not None and contender.gradients is not None:
                gradients = contender.gradients()
                if truth is None:
                    truth = gradients if benchmark.dtype == "float32" else _truth(benchmark, work)
                _check_gradients(gradients, truth, CLOSE[benchmark.dtype])
        except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError, ModuleNotFoundError) as error:
            outcome = "missing" if isinstance(error, ModuleNotFoundError) else "refused"
            yield {**shared, "contender": name, "outcome": outcome, "error": str(error)[:300]}
            continue
        ready[name], rows[name] = contender, {**contender.conditions, "value": value}
    timed = clock.time_turns({name: contender.call for name, contender in ready.items()}, warmup=WARMUP, rounds=rounds)
    for name, seconds in timed.items():
        last = {"last_value": ready[name].call()} if benchmark.family in TRAININGS else {}
        yield {**shared, "contender": name, "seconds": seconds, **rows[name], **last, "outcome": "ok"}


def _truth(benchmark: Benchmark, work: Work) -> Gradients:
    """The gradients from the same numbers in float32, by the first of our programs that runs; ValueError if none does.

    A program in half precision is no measure of another: which of the two is off it does not say.
    """
    wide, failed = dataclasses.replace(benchmark, dtype="float32"), []
    for name, implementation, tokens in _programs(benchmark):
        try:
            with jax.default_matmul_precision("highest"):
                program = _gradient(wide, work, implementation, tokens)
            assert program.gradients is not None
            return program.gradients()
        except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
            failed.append(f"{name}: {error}")
    raise ValueError(f"cannot be checked, for none of our programs runs in float32: {'; '.join(failed)}")


def _check_gradients(gradients: Gradients, truth: Gradients, close: float) -> None:
    """ValueError where a contender computes other gradients than the true ones, or none; it names them."""
    (arrays, inputs), (true_arrays, true_inputs) = gradients, truth
    if arrays.keys() != true_arrays.keys() or len(inputs) != len(true_inputs):
        raise ValueError(
            f"gives gradients of {[*arrays]} and {len(inputs)} inputs, not of {[*true_arrays]} and {len(true_inputs)}"
        )
    apart = contract.distances(_by_name(gradients), _by_name(truth))
    wrong = [f"that of {name} by {part:.2g}" for name, part in apart.items() if not part <= close]
    if wrong:
        raise ValueError(
            f"gives other gradients than ours in float32, in parts of their largest entry: {', '.join(wrong)}; "
            f"wanted at most {close:g}"
        )


def _by_name(gradients: Gradients) -> dict[str, np.ndarray]:
    arrays, inputs = gradients
    return {**arrays, **{f"input {number}": array for number, array in enumerate(inputs)}}


def _gradients(benchmark: Benchmark, work: Work) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Names, ours first, and what makes each of them ready to compute value and gradient."""
    for name, implementation, tokens in _programs(benchmark):
        yield name, functools.partial(_gradient, benchmark, work, implementation, tokens)
    for name, module in BASELINES.items():
        if benchmark.family in module.GRADIENTS:
            make = functools.partial(module.GRADIENTS[benchmark.family], work.arrays, work.inputs, benchmark.dtype)
            yield name, functools.partial(_of_baseline, module, make)


def _programs(benchmark: Benchmark) -> Iterator[tuple[str, str, int]]:
    """Our programs: a name, the implementation, and the tokens of its chunks or 0."""
    for implementation in _implementations(benchmark.family):
        chunks = [tokens for tokens in CHUNKS if tokens < 2 * benchmark.length] if implementation == "chunked" else [0]
        for tokens in chunks:
            yield f"{implementation} {tokens}" if tokens else implementation, implementation, tokens


def _implementations(family: str) -> list[str]:
    """The implementations that run on one device of this platform."""
    written = implementations.family(_family(family)).IMPLEMENTATIONS
    platform = meshes.platform()
    on_one = [name for name in written if name not in implementations.ONLY_OVER]
    return [name for name in on_one if implementations.ONLY_ON.get(name, platform) == platform]


def _family(family: str) -> str:
    """The family of implementations of an operation or a layer."""
    return OPERATIONS.get(family) or str(parts.constant("suite.mixers", HEADED.get(family, family), "FAMILY"))


def chosen(benchmark: Benchmark) -> str:
    """The name of the contender that runs where nobody asks for another."""
    if benchmark.family in TRAININGS:
        return "suite"
    size = benchmark.width if benchmark.family in LAYERS else benchmark.head_size
    dtype = jnp.dtype(benchmark.dtype)
    implementation = implementations.choose(_family(benchmark.family), "auto", dtype, head_size=size)
    chunk = f" {implementations.chunk(benchmark.family, benchmark.length)}" if implementation == "chunked" else ""
    return implementation + chunk


def _of_baseline(module: Any, make: Callable[[], tuple[Any, ...]]) -> Contender:
    """The call that a baseline makes and, of an operation, its gradients.

    ModuleNotFoundError where the baseline's library is not installed.
    """
    if importlib.util.find_spec(module.PACKAGE) is None:
        raise ModuleNotFoundError(f"{module.PACKAGE} is not installed")
    version = importlib.import_module(module.PACKAGE).__version__
    call, *gradients = make()
    return Contender(call, {"version": version}, *gradients)


def _gradient(benchmark: Benchmark, work: Work, implementation: str, chunk: int = 0) -> Contender:
    """Our program for value and gradient by all arrays and inputs."""
    dtype = jnp.dtype(benchmark.dtype)
    arrays = jax.tree.map(jnp.asarray, work.arrays)
    *inputs, weigh = (jnp.asarray(array, dtype) for array in work.inputs)
    compute = work.compute(implementation)

    # The weights are an argument too: constants of hundreds of megabytes the compiler folds for minutes.
    def value(arrays: Any, inputs: list[jax.Array], weigh: jax.Array) -> jax.Array:
        return jnp.sum(compute(arrays, *inputs).astype(jnp.float32) * weigh.astype(jnp.float32))

    with implementations.trying_chunks_of(chunk):
        compiled = jax.jit(jax.value_and_grad(value, (0, 1))).lower(arrays, inputs, weigh).compile()

    def call() -> float:
        return float(jax.block_until_ready(compiled(arrays, inputs, weigh))[0])

    def gradients() -> Gradients:
        _, of_all = compiled(arrays, inputs, weigh)
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), of_all)

    return Contender(call, {**_bytes(compiled), **_work_of(benchmark, work)}, gradients)


def _bytes(compiled: jax.stages.Compiled) -> Row:
    memory = compiled.memory_analysis()
    assert memory is not None, "the backend tells no memory of a compiled program"
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
    }


def _work_of(benchmark: Benchmark, work: Work) -> Row:
    """FLOPs of products, three forward passes, and how many steps must wait for one another."""
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, jnp.float32), (work.arrays, work.inputs[:-1]))
    written = implementations.family(_family(benchmark.family)).IMPLEMENTATIONS
    compute = work.compute("sequential" if "sequential" in written else next(iter(written)))  # all work in its jaxpr
    forward = flops.count(lambda arrays, inputs: compute(arrays, *inputs), *shapes).matmul
    if benchmark.family == "attention":  # a query sees half of the keys
        forward = forward * (benchmark.length + 1) // (2 * benchmark.length)
    return {"flops": 3 * forward, "dependent_steps": 0 if benchmark.family in OPERATIONS else benchmark.length}


def _work(benchmark: Benchmark) -> Work:
    """The work in numbers that the benchmark's dtype can hold: all contenders, and the truth, start from the same."""
    work = (_operation if benchmark.family in OPERATIONS else _layer)(benchmark)
    dtype = jnp.dtype(benchmark.dtype)
    arrays, inputs = jax.tree.map(lambda array: array.astype(dtype).astype(np.float32), (work.arrays, work.inputs))
    return Work(arrays, inputs, work.compute)


def _layer(benchmark: Benchmark) -> Work:
    """A recurrent layer with its projection of the inputs.

    Its forget gates start at 1, with a memory of about 2 tokens. How long a program takes does not depend on it, but
    how far rounding carries does: an LSTM that starts with memories of 20 to 400 tokens is chaotic. Over 1,024 tokens
    of 256 channels its gradients grow a thousandfold, and inputs that were rounded give quite other ones in float32.
    """
    mixer = HEADED.get(benchmark.family, benchmark.family)
    chosen = [f"heads={benchmark.width // benchmark.head_size}"] if benchmark.family in HEADED else []
    chosen += ["forget=one"] if "forget" in parts.knobs("suite.mixers", mixer) else []
    module, knobs = parts.load("suite.mixers", f"{mixer}:{','.join(chosen)}" if chosen else mixer)
    made = module.Mixer(benchmark.width, key=jax.random.key(0), **knobs)
    arrays = {name: np.asarray(value) for name, value in vars(made).items() if isinstance(value, jax.Array)}
    rng = np.random.default_rng(0)
    shape = (benchmark.batch, benchmark.length, benchmark.width)

    def compute(implementation: str) -> Callable[..., jax.Array]:
        def apply(arrays: Mapping[str, jax.Array], x_BTD: jax.Array) -> jax.Array:
            changed = {**knobs, "implementation": implementation}
            like = eqx.filter_eval_shape(lambda: module.Mixer(benchmark.width, key=jax.random.key(0), **changed))
            names = list(arrays)
            mixer = eqx.tree_at(lambda mixer: [getattr(mixer, name) for name in names], like, list(arrays.values()))
            return mixer(x_BTD)

        return apply

    return Work(arrays, [rng.standard_normal(shape, np.float32) for _ in range(2)], compute)


def _operation(benchmark: Benchmark) -> Work:
    """Attention or a linear recurrence on its own, from queries, keys, values and decays that are given."""
    rng = np.random.default_rng(0)
    heads, size = benchmark.width // benchmark.head_size, benchmark.head_size
    batch, length = benchmark.batch, benchmark.length

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    def log_decay(*shape: int) -> np.ndarray:
        return -np.logaddexp(0, -(normal(*shape) + 3))  # of a sigmoid around 0.95

    q, k, v, weigh = (normal(batch, length, heads, size) for _ in range(4))
    unit, k = k / np.linalg.norm(k, axis=-1, keepdims=True), k / math.sqrt(size)
    zero_BHKP = np.zeros((batch, heads, size, size), np.float32)
    wide, rest = 0, (zero_BHKP,)  # how many of the last inputs are float32; a state in the dtype of the last, or knobs
    match benchmark.family:
        case "attention":
            inputs, rest = [q, k * math.sqrt(size), v], (0, None)
        case "linear":
            shape = (batch, length, benchmark.width)
            inputs, weigh = [np.exp(log_decay(*shape)), normal(*shape)], normal(*shape)
            rest = (np.zeros((batch, benchmark.width), np.float32),)
        case "scalar" | "vector":
            channels = 1 if benchmark.family == "scalar" else size
            inputs, wide = [q, k, v, log_decay(batch, length, heads, channels)], 1
        case "delta":
            beta = 1 / (1 + np.exp(-normal(batch, length, heads)))
            inputs, wide = [q, unit, v, beta, log_decay(batch, length, heads)], 2
        case _:
            added = unit / (1 + np.exp(-normal(*unit.shape)))
            inputs, wide = [q, k, v, unit, added, np.maximum(log_decay(*unit.shape), -FASTEST)], 1
            rest = (zero_BHKP, FASTEST)

    def compute(implementation: str) -> Callable[..., jax.Array]:
        recurrence = implementations.pick(OPERATIONS[benchmark.family], implementation)

        def apply(_: Any, *inputs: jax.Array) -> jax.Array:
            narrow, last = inputs[: len(inputs) - wide], inputs[len(inputs) - wide :]
            inputs = (*narrow, *(x.astype(jnp.float32) for x in last))
            after = (jnp.asarray(x, inputs[-1].dtype) if isinstance(x, np.ndarray) else x for x in rest)
            results = recurrence(*inputs, *after)
            return jax.tree.leaves(results)[0]  # of outputs and a state

        return apply

    return Work({}, [*inputs, weigh], compute)


def _trainings(benchmark: Benchmark) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Our whole training step, and those of baselines, of a language model with tied embeddings on random tokens."""
    job = Job(
        mixer=TRAININGS[benchmark.family],
        **{"width": benchmark.width, "depth": DEPTH, "length": benchmark.length, "batch": benchmark.batch},
        **{"dtype": benchmark.dtype, "learning_rate": 1e-3, "warmup": 0.0, "decay": "constant"},
    )
    tokens_BS = np.random.default_rng(0).integers(VOCAB, size=(job.batch, job.length + 1), dtype=np.int32)
    programs = Programs(job, meshes.make(devices=jax.devices()[:1]), VOCAB)

    def make() -> Contender:
        compiled, state = programs.step, programs.start(job)
        ones_BT = np.ones((job.batch, job.length), np.float32)
        batch = jax.device_put(Batch(tokens_BS[:, :-1], tokens_BS[:, 1:], ones_BT), meshes.over_batch(programs.mesh))

        def call() -> float:
            nonlocal state
            state, metrics = compiled(state, batch)
            return float(metrics["loss"])

        forward = matching.flops_per_token(backbone.shapes(job, VOCAB), job)
        steps = job.depth * job.length if job.mixer in LAYERS else 0
        flops_ = {"flops": 3 * forward * job.batch * job.length, "dependent_steps": steps}
        return Contender(call, {**_bytes(compiled), **flops_})

    yield "suite", make
    for name, module in BASELINES.items():
        if TRAININGS[benchmark.family] in module.TRAININGS:
            train = module.TRAININGS[TRAININGS[benchmark.family]]
            weights = _weights(programs.start(job).params)
            yield name, functools.partial(_of_baseline, module, lambda t=train, w=weights: (t(w, tokens_BS, job),))


def _weights(params: Any) -> dict[str, np.ndarray]:
    """Parameters of a model of equal blocks by the names of their fields; those of blocks with the layers first."""
    [block] = params.pattern
    fields = {"embedding_VD": params.embedding_VD, "scale_D": params.scale_D, **vars(block), **vars(block.mixer)}
    return {name: np.asarray(value) for name, value in fields.items() if isinstance(value, jax.Array)}
