"""Loss, State and the training step: jit with NamedSharding in and out, the state donated."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree, UInt32

from suite import mesh as meshes
from suite.job import Job
from suite.model.backbone import Model
from suite.tasks import Batch

Metrics = dict[str, Array]
Windows = tuple[Batch, Int[Array, "B T"] | None]  # a batch, and the windows at whose ends its examples begin
LOGITS = 1 << 25  # scalars on a device at once: 128 MiB


class State(eqx.Module):
    """All that training carries on, arrays only. `fingerprint` is a sum over all examples seen, in any order."""

    params: Model
    optimizer: PyTree
    step: Int[Array, ""]
    fingerprint: UInt32[Array, ""]


def start(params: Model, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    tree: Any = params  # optax's types know containers of arrays, not modules
    return State(params, optimizer.init(tree), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.uint32))


def over(state: State, job: Job, n_steps: int, mesh: Mesh) -> State:
    """The state with the schedule of its learning rate over so many steps of the job."""
    other = meshes.replicate(Schedule.of(job.replace(steps=n_steps)), mesh)

    def changed(node: Any) -> Any:
        return other._replace(count=node.count) if isinstance(node, Schedule) else node

    optimizer = jax.tree.map(changed, state.optimizer, is_leaf=lambda node: isinstance(node, Schedule))
    return dataclasses.replace(state, optimizer=optimizer)


class Schedule(NamedTuple):
    """The schedule of the learning rate, as arrays of the state: jobs that differ in it alone share their programs."""

    count: Int[Array, ""]
    learning_rate: Float[Array, ""]
    warmup: Float[Array, ""]  # steps
    steps: Float[Array, ""]

    @classmethod
    def of(cls, job: Job) -> "Schedule":
        numbers = (job.learning_rate, round(job.warmup * job.steps), job.steps)
        return cls(jnp.zeros((), jnp.int32), *(jnp.asarray(number, jnp.float32) for number in numbers))

    def now(self, decay: str) -> Float[Array, ""]:
        """The learning rate of the next step. The first step of the warmup has one above 0, or it would only cost."""
        count = self.count.astype(jnp.float32)
        rise = (count + 1) / (self.warmup + 1)
        share = jnp.clip((count - self.warmup) / jnp.maximum(self.steps - self.warmup, 1), 0, 1)
        fall = 0.1 + 0.45 * (1 + jnp.cos(jnp.pi * share)) if decay == "cosine" else jnp.ones((), jnp.float32)
        return self.learning_rate * jnp.where(count < self.warmup, rise, fall)


def make_optimizer(job: Job, matrices: PyTree, schedule: Schedule | None = None) -> optax.GradientTransformation:
    """Clipping, the update rule, warmup and decay of the learning rate, as the job says; only `matrices` decay.

    The schedule, by default the job's own, stands in the state from `init` on.
    """
    rules: dict[str, Callable[[], optax.GradientTransformation]] = {
        "adamw": lambda: optax.adamw(1.0, b2=0.95, weight_decay=job.weight_decay, mask=matrices),
        "lion": lambda: optax.lion(1.0, weight_decay=job.weight_decay, mask=matrices),
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(job.weight_decay, matrices), optax.sgd(1.0, momentum=0.9, nesterov=True)
        ),
    }
    clip = optax.clip_by_global_norm(job.clip) if job.clip else optax.identity()
    learning_rate = _by_schedule(Schedule.of(job) if schedule is None else schedule, job.decay)
    return _with_loose_dtypes(optax.chain(clip, rules[job.optimizer](), learning_rate))


def make_step(
    static: Model,
    like: State,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    microbatch: int = 0,
    passes: Sequence[bool] = (),
) -> Any:
    """One optimiser step over the mesh: a batch is split by examples and tokens, parameters by their names.

    With `microbatch`, a divisor of the batch, so many examples are in memory at once and their gradients are added up.
    `like` has the shapes of the state. Metrics: loss (nats a weighted target), gradient_norm, finite.

    With `passes`, which says of each mixer of a pattern whether its state is passed, an example is read from the state
    at the end of the example before it in the batch; of the first, of the last. No gradient goes there.
    """
    examples = meshes.devices_of_examples(mesh)

    def differentiate(params: Model, weights: Float[Array, ""], windows: Windows) -> tuple[Array, Model]:
        """Loss and gradient of what one device has of a batch."""

        def objective(params: Model, windows: Windows) -> Float[Array, ""]:
            batch, before_BT = windows
            ends = None
            if before_BT is not None:
                model = eqx.combine(jax.lax.stop_gradient(params), static, is_leaf=meshes.is_shard)
                ends = jax.lax.stop_gradient(end_states(model, before_BT, passes))
            nats_BT, _ = answer(eqx.combine(params, static, is_leaf=meshes.is_shard), batch, state=ends)
            return jnp.sum(nats_BT * batch.weights_BT) / weights

        return _add_up(jax.value_and_grad(objective), params, windows, microbatch // examples)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        with meshes.ambient(mesh):
            on_each_device = meshes.on_each_device(mesh, state.params, differentiate, "sums")
            windows = (batch, jnp.roll(batch.tokens_BT, 1, axis=0) if passes else None)
            loss, gradient = on_each_device(state.params, jnp.sum(batch.weights_BT), windows)
        norm = optax.tree.norm(gradient)
        params: Any = state.params  # as in start
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        ids_B = state.step * batch.tokens_BT.shape[0] + jnp.arange(batch.tokens_BT.shape[0], dtype=jnp.int32)
        fingerprint = state.fingerprint + fingerprint_of(ids_B, batch.tokens_BT)
        metrics = {"loss": loss, "gradient_norm": norm, "finite": jnp.isfinite(loss) & jnp.isfinite(norm)}
        return State(params, optimizer_state, state.step + 1, fingerprint), metrics

    whole, lies = meshes.replicated(mesh), meshes.layout(like, mesh)
    return jax.jit(step, in_shardings=(lies, meshes.over_tokens(mesh)), out_shardings=(lies, whole), donate_argnums=0)


def make_evaluate(static: Model, mesh: Mesh, of_targets: Callable[[Array, Array, Batch], Any]) -> Callable[..., Any]:
    """`of_targets(nats_BT, correct_BT, batch)` of the targets of a batch, whole on every device.

    Each device computes the nats and the correctness of its own examples and tokens.
    """

    def of_device(params: Model, _: None, batch: Batch) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        return answer(eqx.combine(params, static, is_leaf=meshes.is_shard), batch)

    @functools.partial(jax.jit, out_shardings=meshes.replicated(mesh))
    def evaluate(params: Model, batch: Batch) -> Any:
        with meshes.ambient(mesh):
            nats_BT, correct_BT = meshes.on_each_device(mesh, params, of_device, "tokens")(params, None, batch)
        return of_targets(nats_BT, correct_BT, batch)

    return evaluate


def sums(nats_BT: Float[Array, "B T"], correct_BT: Float[Array, "B T"], batch: Batch) -> Metrics:
    """Sums over a batch: nats, correct and weights, each weighted as the batch says; the same at final positions.

    `exact` counts the examples of which every target is correct; as many as have a target have a final position.
    """
    final_BT = final_targets(batch.weights_BT)
    counts_BT = batch.weights_BT > 0
    exact_B = jnp.any(counts_BT, axis=1) & jnp.all((correct_BT > 0) | ~counts_BT, axis=1)
    return {
        "nats": jnp.sum(nats_BT * batch.weights_BT),
        "correct": jnp.sum(correct_BT * batch.weights_BT),
        "weights": jnp.sum(batch.weights_BT),
        "exact": jnp.sum(exact_B.astype(jnp.float32)),
        "final_correct": jnp.sum(correct_BT * final_BT),
        "finals": jnp.sum(final_BT),
    }


def _add_up(
    differentiate: Callable[[Model, Windows], tuple[Array, Model]], params: Model, windows: Windows, microbatch: int
) -> tuple[Array, Any]:
    """Value and gradient summed over microbatches of so many examples; 0 for the whole batch at once."""
    batch_size = windows[0].tokens_BT.shape[0]
    count = batch_size // (microbatch or batch_size)
    if count == 1:
        return differentiate(params, windows)
    pieces = jax.tree.map(lambda leaf: jnp.swapaxes(leaf.reshape(-1, count, *leaf.shape[1:]), 0, 1), windows)

    def add(sums: tuple[Array, Model], piece: Windows) -> tuple[tuple[Array, Model], None]:
        return jax.tree.map(jnp.add, sums, differentiate(params, piece)), None

    zeros = jax.tree.map(jnp.zeros_like, (jnp.zeros((), jnp.float32), params))
    with jax.named_scope("microbatches"):
        return jax.lax.scan(add, zeros, pieces)[0]


def end_states(model: Model, tokens_BT: Int[Array, "B T"], passes: Sequence[bool]) -> PyTree:
    """The states of the blocks at the end of these tokens, as `answer` starts from them."""
    model = eqx.tree_at(lambda model: model.embedding_VD, model, meshes.whole(model.embedding_VD))
    return model.ends(model.embed(tokens_BT), passes)


def answer(
    model: Model, batch: Batch, chunk: int = 0, state: PyTree = None
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Nats of every target, and 1 where the likeliest token is the target; with a state of `end_states`, from there.

    With `chunk` so many tokens are read at a time, the state carried between them; otherwise all in parallel form.
    Where logits of all tokens are more than LOGITS they are made a few tokens at a time, and again for the
    gradient: (B, T, V) is never whole.
    """

    @jax.checkpoint
    def at_a_token(
        x_BD: Float[Array, "B D"], targets_B: Int[Array, " B"]
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        return loss_and_correct(model.logits(x_BD), targets_B)

    model = eqx.tree_at(lambda model: model.embedding_VD, model, meshes.whole(model.embedding_VD))
    x_BTD = model.embed(batch.tokens_BT)
    starts_BT = model.starts(batch.tokens_BT)
    x_BTD = model.in_chunks(x_BTD, chunk) if chunk else model.through(x_BTD, starts_BT, state)
    batch_size, length = batch.tokens_BT.shape
    tokens = max(1, LOGITS // (batch_size * model.embedding_VD.shape[0]))
    if tokens >= length:
        return loss_and_correct(model.logits(x_BTD), batch.targets_BT)
    by_token = (jnp.swapaxes(x_BTD, 0, 1), batch.targets_BT.T)
    nats_TB, correct_TB = jax.lax.map(lambda token: at_a_token(*token), by_token, batch_size=tokens)
    return nats_TB.T, correct_TB.T


def loss_and_correct(
    logits_V: Float[Array, "... V"], targets: Int[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Cross-entropy of every target in nats, and 1 where the likeliest token is the target."""
    correct = (jnp.argmax(logits_V, axis=-1) == targets).astype(jnp.float32)
    return cross_entropy(logits_V, targets), correct


def final_targets(weights_BT: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """1 at the last target of each example that counts, its final position; 0 elsewhere."""
    counts_BT = weights_BT > 0
    left_BT = jnp.cumsum(counts_BT[:, ::-1].astype(jnp.int32), axis=1)[:, ::-1]
    return (counts_BT & (left_BT == 1)).astype(jnp.float32)


def cross_entropy(logits_V: Float[Array, "... V"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """Minus the log-probability of each target, in nats."""
    chosen = jnp.take_along_axis(logits_V, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_V, axis=-1) - chosen


def fingerprint_of(ids_B: Int[Array, " B"], tokens_BT: Int[Array, "B T"]) -> UInt32[Array, ""]:
    """Wrap-around sum over examples of a hash of (id, tokens): the same for any layout of hosts and devices."""
    at_T = jnp.arange(tokens_BT.shape[1], dtype=jnp.uint32)
    placed_BT = _mix(tokens_BT.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + (at_T * jnp.uint32(0x85EBCA77))[None])
    row_B = jnp.sum(placed_BT, axis=1, dtype=jnp.uint32)
    return jnp.sum(_mix(row_B ^ _mix(ids_B.astype(jnp.uint32) + jnp.uint32(1))), dtype=jnp.uint32)


def _by_schedule(schedule: Schedule, decay: str) -> optax.GradientTransformation:
    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Schedule]:
        learning_rate = state.now(decay)
        return jax.tree.map(lambda leaf: leaf * learning_rate, updates), state._replace(count=state.count + 1)

    return optax.GradientTransformation(lambda params: schedule, update)


def _with_loose_dtypes(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same, for strict dtypes: optax's own code multiplies int32 counts with float32."""

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion("standard"):
            return transformation.update(updates, state, params)

    return optax.GradientTransformation(transformation.init, update)


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """The finaliser of MurmurHash3: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def as_numbers(metrics: Metrics) -> dict[str, Any]:
    """Metrics as Python numbers; waits for the device."""
    return {name: value.item() for name, value in jax.device_get(metrics).items()}
