"""Benchmarks: one operation, layer or training step in all of its forms and in other libraries', timed in turns.

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

from suite import mesh as meshes
from suite import parts
from suite.counting import flops
from suite.job import Job
from suite.model import backbone, matching
from suite.ops import attention, delta, implementations, linear, matrix
from suite.sweep.store import Row
from suite.tasks import Batch
from suite.training import clock
from suite.training.programs import Programs

ONE_HEAD = ("lstm", "gru", "elman")
LAYERS = (*ONE_HEAD, "lstm_heads")
MATRICES = ("scalar", "vector", "delta", "low_rank")  # linear recurrences with a matrix state, by how it decays
OPERATIONS = ("attention", "linear", *MATRICES)
TRAININGS = {"train_attention": "attention", "train_lstm": "lstm"}
FAMILIES = (*LAYERS, *OPERATIONS, *TRAININGS)
CHUNKS = (16, 32, 64, 128, 256)
VOCAB = 256
DEPTH = 4  # of what is trained
# The form that shows all of the work in its jaxpr.
COUNTED = {**dict.fromkeys(LAYERS, "scan"), "attention": "dense"}
WARMUP = 2
FASTEST = math.exp(-0.5)  # least log decay of a low-rank recurrence, RWKV-7's

Call = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is computed: a family at (batch, length, width).

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
        if self.family not in ONE_HEAD and self.width % self.head_size:
            raise ValueError(f"width {self.width} is not a multiple of the head size {self.head_size}")

    @property
    def facts(self) -> Row:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Work:
    """The same work for every contender: `compute(form)` is a function of the arrays and all inputs but the last.

    The last input weighs the outputs.
    """

    arrays: dict[str, np.ndarray]
    inputs: list[np.ndarray]
    compute: Callable[[str], Callable[..., jax.Array]]


def run(benchmark: Benchmark, rounds: int) -> Iterator[Row]:
    """A row for each contender: seconds of each round, its value, or the outcome that kept it out.

    `value` is the weighted sum of the outputs; of a training the loss of the first step and `last_value` of the last.
    """
    calls: dict[str, Call] = {}
    facts: dict[str, Row] = {}
    for name, make in _contenders(benchmark):
        try:
            call, own = make()
            first = call()
        except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError, ModuleNotFoundError) as error:
            outcome = "missing" if isinstance(error, ModuleNotFoundError) else "refused"
            yield {**benchmark.facts, "contender": name, "outcome": outcome, "error": str(error)[:300]}
            continue
        calls[name], facts[name] = call, {**own, "value": first}
    timed = clock.time_turns(calls, warmup=WARMUP, rounds=rounds)
    for name, seconds in timed.items():
        last = {"last_value": calls[name]()} if benchmark.family in TRAININGS else {}
        yield {**benchmark.facts, "contender": name, "seconds": seconds, **facts[name], **last, "outcome": "ok"}


def _contenders(benchmark: Benchmark) -> Iterator[tuple[str, Callable[[], tuple[Call, Row]]]]:
    """Names, and what makes the call and the facts of its row."""
    if benchmark.family in TRAININGS:
        yield from _trainings(benchmark)
        return
    work = (_layer if benchmark.family in LAYERS else _operation)(benchmark)
    for implementation in _forms(benchmark.family):
        if implementation == "chunked":
            for tokens in (tokens for tokens in CHUNKS if tokens < 2 * benchmark.length):
                yield (
                    f"{implementation} {tokens}",
                    functools.partial(_gradient, benchmark, work, implementation, tokens),
                )
        else:
            yield implementation, functools.partial(_gradient, benchmark, work, implementation)
    for name, module in _peers():
        if benchmark.family in module.GRADIENTS:
            make = module.GRADIENTS[benchmark.family]
            yield name, functools.partial(_of_baseline, module, make, work.arrays, work.inputs, benchmark.dtype)


def _forms(family: str) -> list[str]:
    """The forms that run on this platform."""
    return [
        implementation
        for implementation in implementations.FORMS[_kind(family)]
        if implementations.ONLY_ON.get(implementation, meshes.platform()) == meshes.platform()
    ]


def _kind(family: str) -> str:
    """What the family's forms are found under."""
    return "matrix" if family in MATRICES else family.removesuffix("_heads")


def chosen(benchmark: Benchmark) -> str:
    """The name of the contender that runs where nobody asks for another."""
    if benchmark.family in TRAININGS:
        return "suite"
    size = benchmark.width if benchmark.family in ONE_HEAD else benchmark.head_size
    implementation = implementations.choose(_kind(benchmark.family), "auto", jnp.dtype(benchmark.dtype), head_size=size)
    return (
        f"{implementation} {implementations.chunk(benchmark.family, benchmark.length)}"
        if implementation == "chunked"
        else implementation
    )


def _peers() -> Iterator[tuple[str, Any]]:
    for name in parts.names("suite.baselines"):
        yield name, importlib.import_module(f"suite.baselines.{name}")


def _of_baseline(module: Any, make: Callable[..., Call], *args: Any) -> tuple[Call, Row]:
    if importlib.util.find_spec(module.PACKAGE) is None:
        raise ModuleNotFoundError(f"{module.PACKAGE} is not installed")
    call = make(*args)
    return call, {"version": importlib.import_module(module.PACKAGE).__version__}


def _gradient(benchmark: Benchmark, work: Work, implementation: str, chunk: int = 0) -> tuple[Call, Row]:
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

    return call, {**_bytes(compiled), **_work_of(benchmark, work)}


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
    compute = work.compute(COUNTED.get(benchmark.family, "sequential"))
    forward = flops.count(lambda arrays, inputs: compute(arrays, *inputs), *shapes).matmul
    if benchmark.family == "attention":  # a query sees half of the keys
        forward = forward * (benchmark.length + 1) // (2 * benchmark.length)
    return {"flops": 3 * forward, "dependent_steps": benchmark.length if benchmark.family in LAYERS else 0}


def _layer(benchmark: Benchmark) -> Work:
    """A recurrent layer with its projection of the inputs."""
    heads = f":heads={benchmark.width // benchmark.head_size}" if benchmark.family == "lstm_heads" else ""
    module, knobs = parts.load("suite.mixers", _kind(benchmark.family) + heads)
    made = module.Mixer(benchmark.width, key=jax.random.key(0), **knobs)
    arrays = {name: np.asarray(value) for name, value in vars(made).items() if isinstance(value, jax.Array)}
    rng = np.random.default_rng(0)
    shape = (benchmark.batch, benchmark.length, benchmark.width)

    def compute(implementation: str) -> Callable[..., jax.Array]:
        def apply(arrays: Mapping[str, jax.Array], x_BTD: jax.Array) -> jax.Array:
            like = eqx.filter_eval_shape(
                lambda: module.Mixer(
                    benchmark.width, key=jax.random.key(0), **{**knobs, "implementation": implementation}
                )
            )
            names = list(arrays)
            own = eqx.tree_at(lambda mixer: [getattr(mixer, name) for name in names], like, list(arrays.values()))
            return own(x_BTD)

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
    k /= math.sqrt(size)
    zero_BHKP = np.zeros((batch, heads, size, size), np.float32)
    match benchmark.family:
        case "attention":

            def compute(implementation: str) -> Callable[..., jax.Array]:
                return lambda _, q, k, v: attention.causal(
                    q, k, v, window=0, slope_H=None, implementation=implementation
                )

            return Work({}, [q, k * math.sqrt(size), v, weigh], compute)
        case "linear":
            shape = (batch, length, benchmark.width)

            def compute(implementation: str) -> Callable[..., jax.Array]:
                return lambda _, decay, x: linear.recurrence(decay, x, jnp.zeros_like(x[:, 0]), implementation)

            return Work({}, [np.exp(log_decay(*shape)), normal(*shape), normal(*shape)], compute)
        case "scalar" | "vector":

            def compute(implementation: str) -> Callable[..., jax.Array]:
                def apply(_: Any, q: jax.Array, k: jax.Array, v: jax.Array, decay: jax.Array) -> jax.Array:
                    return matrix.recurrence(
                        q, k, v, decay.astype(jnp.float32), jnp.asarray(zero_BHKP), implementation
                    )[0]

                return apply

            channels = 1 if benchmark.family == "scalar" else size
            return Work({}, [q, k, v, log_decay(batch, length, heads, channels), weigh], compute)
    unit = k / np.linalg.norm(k, axis=-1, keepdims=True)
    if benchmark.family == "low_rank":

        def compute(implementation: str) -> Callable[..., jax.Array]:
            def apply(_: Any, *inputs: jax.Array) -> jax.Array:
                q, k, v, removal, added, decay = inputs
                state = jnp.asarray(zero_BHKP)
                return delta.low_rank(
                    q, k, v, removal, added, decay.astype(jnp.float32), state, implementation, FASTEST
                )[0]

            return apply

        decay = np.maximum(log_decay(*unit.shape), -FASTEST)
        added = unit / (1 + np.exp(-normal(*unit.shape)))
        return Work({}, [q, k, v, unit, added, decay, weigh], compute)
    assert benchmark.family == "delta"
    beta = 1 / (1 + np.exp(-normal(batch, length, heads)))

    def compute(implementation: str) -> Callable[..., jax.Array]:
        def apply(_: Any, q: jax.Array, k: jax.Array, v: jax.Array, beta: jax.Array, decay: jax.Array) -> jax.Array:
            beta, decay = beta.astype(jnp.float32), decay.astype(jnp.float32)
            return delta.recurrence(q, k, v, beta, decay, jnp.asarray(zero_BHKP), implementation)[0]

        return apply

    return Work({}, [q, unit, v, beta, log_decay(batch, length, heads), weigh], compute)


def _trainings(benchmark: Benchmark) -> Iterator[tuple[str, Callable[[], tuple[Call, Row]]]]:
    """Our whole training step, and those of baselines, of a language model with tied embeddings on random tokens."""
    job = Job(
        mixer=TRAININGS[benchmark.family],
        **{"width": benchmark.width, "depth": DEPTH, "length": benchmark.length, "batch": benchmark.batch},
        **{"dtype": benchmark.dtype, "learning_rate": 1e-3, "warmup": 0.0, "decay": "constant"},
    )
    tokens_BS = np.random.default_rng(0).integers(VOCAB, size=(job.batch, job.length + 1), dtype=np.int32)
    programs = Programs(job, meshes.make(devices=jax.devices()[:1]), VOCAB)

    def make() -> tuple[Call, Row]:
        compiled, state = programs.step, programs.start(job)
        ones_BT = np.ones((job.batch, job.length), np.float32)
        batch = jax.device_put(Batch(tokens_BS[:, :-1], tokens_BS[:, 1:], ones_BT), meshes.over_batch(programs.mesh))

        def call() -> float:
            nonlocal state
            state, metrics = compiled(state, batch)
            return float(metrics["loss"])

        forward = matching.flops_per_token(backbone.shapes(job, VOCAB), job)
        steps = job.depth * job.length if job.mixer.startswith(LAYERS) else 0
        flops_ = {"flops": 3 * forward * job.batch * job.length, "dependent_steps": steps}
        return call, {**_bytes(compiled), **flops_}

    yield "suite", make
    for name, module in _peers():
        if TRAININGS[benchmark.family] in module.TRAININGS:
            own = module.TRAININGS[TRAININGS[benchmark.family]]
            weights = _weights(programs.start(job).params)
            yield name, functools.partial(_of_baseline, module, own, weights, tokens_BS, job)


def _weights(params: Any) -> dict[str, np.ndarray]:
    """Parameters of a model of equal blocks by the names of their fields; those of blocks with the layers first."""
    [block] = params.pattern
    found = {"embedding_VD": params.embedding_VD, "scale_D": params.scale_D, **vars(block), **vars(block.mixer)}
    return {name: np.asarray(value) for name, value in found.items() if isinstance(value, jax.Array)}
