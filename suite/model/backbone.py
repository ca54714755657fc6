"""The block, the backbone and build(job, vocab, key): everything of a model but the mixer, the same for every arm."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, PyTree

from suite import mesh as meshes
from suite import parts
from suite.job import Job
from suite.ops import convolution, initial, precision

NO_MLP = -1  # as the hidden size of a Job


class Block(eqx.Module):
    """Norm, short convolution, mixer; norm, gated MLP. Without residuals the same chain is a plain stack.

    `hidden` is that of the MLP: 0 for two thirds of 4 D, as it has three matrices (Shazeer 2020), NO_MLP for none.
    Between calls the state is kept in `state_dtype`: its floating numbers are rounded to it after a call, and widened
    before the next one to the dtypes that the mixer makes.
    """

    mixer: Any  # a part is asked, not typed
    taps_CD: Float[Array, "C D"] | None
    mixer_scale_D: Float[Array, " D"]
    mlp_scale_D: Float[Array, " D"] | None
    gate_DF: Float[Array, "D F"] | None
    up_DF: Float[Array, "D F"] | None
    down_FD: Float[Array, "F D"] | None
    residual: bool = eqx.field(static=True)
    state_dtype: str = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        *,
        mixer: str,
        short_conv: int,
        hidden: int,
        residual: bool,
        state_dtype: str,
        key: PRNGKeyArray,
    ):
        mixer_key, conv_key, gate_key, up_key, down_key = jax.random.split(key, 5)
        module, knobs = parts.load("suite.mixers", mixer)
        self.mixer = module.Mixer(width, key=mixer_key, **knobs)
        self.taps_CD = convolution.taps(conv_key, short_conv, width)
        self.mixer_scale_D = jnp.ones(width, jnp.float32)
        self.mlp_scale_D = self.gate_DF = self.up_DF = self.down_FD = None
        if hidden != NO_MLP:
            hidden = hidden or 8 * round(width / 3)
            self.mlp_scale_D = jnp.ones(width, jnp.float32)
            self.gate_DF = initial.dense(gate_key, width, width, hidden)
            self.up_DF = initial.dense(up_key, width, width, hidden)
            self.down_FD = initial.dense(down_key, hidden, hidden, width)
        self.residual, self.state_dtype = residual, state_dtype

    def __call__(
        self, x_BTD: Float[Array, "B T D"], starts_BT: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        """With `starts_BT` no document sees another; without it a mixer need not take it."""
        inner_BTD = rms_norm(x_BTD, self.mixer_scale_D)
        past_BPD = convolution.start(x_BTD.shape[0], self.taps_CD, x_BTD.dtype)
        inner_BTD, _ = convolution.extend(inner_BTD, past_BPD, self.taps_CD, starts_BT=starts_BT)
        starts = () if starts_BT is None else (starts_BT,)
        return self._mlp(self._join(x_BTD, self.mixer(inner_BTD, *starts)))

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> PyTree:
        return self._kept(self._empty(batch, length, dtype))

    def extend(self, x_BTD: Float[Array, "B T D"], state: PyTree) -> tuple[Float[Array, "B T D"], PyTree]:
        past_BPD, mixer_state = self._widened(state, x_BTD.dtype)
        inner_BTD, past_BPD = convolution.extend(rms_norm(x_BTD, self.mixer_scale_D), past_BPD, self.taps_CD)
        y_BTD, mixer_state = self.mixer.extend(inner_BTD, mixer_state)
        return self._mlp(self._join(x_BTD, y_BTD)), self._kept((past_BPD, mixer_state))

    def read(self, x_BTD: Float[Array, "B T D"], length: int) -> tuple[Float[Array, "B T D"], PyTree]:
        """A whole sequence from its start, with the state after it, made for `length` tokens."""
        past_BPD = convolution.start(x_BTD.shape[0], self.taps_CD, x_BTD.dtype)
        inner_BTD, past_BPD = convolution.extend(rms_norm(x_BTD, self.mixer_scale_D), past_BPD, self.taps_CD)
        if hasattr(self.mixer, "read"):
            y_BTD, mixer_state = self.mixer.read(inner_BTD, length)
        else:
            empty = self.mixer.start(x_BTD.shape[0], length, x_BTD.dtype)
            y_BTD, mixer_state = self.mixer.extend(inner_BTD, empty)
        return self._mlp(self._join(x_BTD, y_BTD)), self._kept((past_BPD, mixer_state))

    def step(self, x_BD: Float[Array, "B D"], state: PyTree) -> tuple[Float[Array, "B D"], PyTree]:
        past_BPD, mixer_state = self._widened(state, x_BD.dtype)
        inner_BTD = rms_norm(x_BD, self.mixer_scale_D)[:, None]
        inner_BTD, past_BPD = convolution.extend(inner_BTD, past_BPD, self.taps_CD)
        y_BD, mixer_state = self.mixer.step(inner_BTD[:, 0], mixer_state)
        return self._mlp(self._join(x_BD, y_BD)), self._kept((past_BPD, mixer_state))

    def _empty(self, batch: int, length: int, dtype: jnp.dtype) -> PyTree:
        """The state before the first token, in the dtypes in which it is computed."""
        return convolution.start(batch, self.taps_CD, dtype), self.mixer.start(batch, length, dtype)

    def _kept(self, state: PyTree) -> PyTree:
        """The state as it is kept between calls."""
        if self.state_dtype == "float32":
            return state

        def kept(leaf: Array) -> Array:
            return leaf.astype(self.state_dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return jax.tree.map(kept, state)

    def _widened(self, state: PyTree, dtype: jnp.dtype) -> PyTree:
        """The kept state in the dtypes in which it is computed; a cache that takes it as it is kept is left alone."""
        if self.state_dtype == "float32":
            return state
        like = jax.eval_shape(lambda: self._empty(1, 1, dtype))
        past_BPD, mixer_state = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), state, like)
        return past_BPD, state[1] if getattr(self.mixer, "takes_kept_state", False) else mixer_state

    def _mlp(self, x_D: Float[Array, "... D"]) -> Float[Array, "... D"]:
        if self.mlp_scale_D is None or self.gate_DF is None or self.up_DF is None or self.down_FD is None:
            return x_D
        inner_D = rms_norm(x_D, self.mlp_scale_D)
        dtype = x_D.dtype
        hidden_F = jax.nn.silu(inner_D @ self.gate_DF.astype(dtype)) * (inner_D @ self.up_DF.astype(dtype))
        return self._join(x_D, hidden_F @ self.down_FD.astype(dtype))

    def _join(self, x_D: Float[Array, "... D"], y_D: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return x_D + y_D if self.residual else y_D


class Model(eqx.Module):
    """Embedding, blocks, norm, logits by the same embedding. The blocks of a pattern are stacked over its repeats."""

    embedding_VD: Float[Array, "V D"]
    pattern: tuple[Block, ...]
    rest: tuple[Block, ...]
    scale_D: Float[Array, " D"]
    dtype: str = eqx.field(static=True)
    remat: str = eqx.field(static=True)
    end: int | None = eqx.field(static=True, default=None)  # the token after which all begins anew

    def __call__(self, tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        return self.logits(self.through(self.embed(tokens_BT), self.starts(tokens_BT)))

    def starts(self, tokens_BT: Int[Array, "B T"]) -> Bool[Array, "B T"] | None:
        """Whether a token begins a document, but for the first, before which there is nothing; None for no reset."""
        return None if self.end is None else jnp.pad(tokens_BT[:, :-1] == self.end, ((0, 0), (1, 0)))

    def through(
        self, x_BTD: Float[Array, "B T D"], starts_BT: Bool[Array, "B T"] | None = None, state: PyTree = None
    ) -> Float[Array, "B T D"]:
        """All blocks over embedded tokens, in parallel form; with a state of `ends`, from there.

        ValueError for both a state and documents that begin: no state goes into the next document.
        """
        if state is not None and starts_BT is not None:
            raise ValueError("documents that begin anew are not read from a state")

        def read(_: int, block: Block, x_BTD: Float[Array, "B T D"], state: PyTree) -> tuple[Array, None]:
            y_BTD = block(x_BTD, starts_BT) if state is None else block.extend(x_BTD, state)[0]
            return y_BTD, None

        return self._through(x_BTD, self._empty if state is None else state, read)[0]

    def ends(self, x_BTD: Float[Array, "B T D"], passes: Sequence[bool]) -> PyTree:
        """The states of the blocks after embedded tokens, in parallel form, where the mixer of a pattern passes one.

        None stands for a block that starts empty whatever was read before.
        """

        def read(place: int, block: Block, x_BTD: Float[Array, "B T D"], _: None) -> tuple[Array, PyTree]:
            return block.read(x_BTD, x_BTD.shape[1]) if passes[place] else (block(x_BTD), None)

        return self._through(x_BTD, self._empty, read)[1]

    @property
    def _empty(self) -> PyTree:
        """The state from which every block starts empty."""
        return [None] * len(self.pattern), [None] * len(self.rest)

    def _through(self, x_BTD: Float[Array, "B T D"], state: PyTree, read: Callable[..., Any]) -> tuple[Array, PyTree]:
        """All blocks, by a function of a block's place in the pattern, it, x_BTD and its state to x_BTD and a state."""

        def run(place: int, block: Block, x_BTD: Array, state: PyTree) -> tuple[Array, PyTree]:
            arrays, static = eqx.partition(block, eqx.is_array)

            def of_whole(arrays: PyTree, x_BTD: Float[Array, "B T D"], state: PyTree) -> tuple[Array, PyTree]:
                x_BTD, end = read(place, meshes.whole(eqx.combine(arrays, static)), x_BTD, state)
                return meshes.same_over_model(x_BTD), end

            # Of a block that is computed again only its input is kept.
            again = jax.checkpoint if self.remat == "block" else meshes.gathered_again
            return again(of_whole)(arrays, x_BTD, state)

        def in_turn(x_BTD: Array, blocks: Sequence[Block], states: Sequence[PyTree]) -> tuple[Array, list[PyTree]]:
            ends = []
            for place, (block, block_state) in enumerate(zip(blocks, states, strict=True)):
                x_BTD, end = run(place, block, x_BTD, block_state)
                ends.append(end)
            return x_BTD, ends

        def repeat(x_BTD: Array, at: tuple[PyTree, PyTree]) -> tuple[Array, list[PyTree]]:
            arrays, states = at
            return in_turn(x_BTD, eqx.combine(arrays, static), states)

        x_BTD = meshes.same_over_model(x_BTD)
        arrays, static = eqx.partition(self.pattern, eqx.is_array)
        pattern_state, rest_state = state
        pattern_ends: PyTree = []
        if self.pattern:
            with jax.named_scope("blocks"):  # profiles and suite/counting/hlo.py tell loops apart by it
                x_BTD, pattern_ends = jax.lax.scan(repeat, x_BTD, (arrays, pattern_state))
        x_BTD, rest_ends = in_turn(x_BTD, self.rest, rest_state)
        return x_BTD, (pattern_ends, rest_ends)

    def in_chunks(self, x_BTD: Float[Array, "B T D"], chunk: int) -> Float[Array, "B T D"]:
        """All blocks over embedded tokens, so many at a time, the state carried from chunk to chunk as decoding does.

        One at a time they are read stepwise.
        """
        batch, length, width = x_BTD.shape
        whole = length - length % chunk

        def read(state: PyTree, x_BCD: Float[Array, "B C D"]) -> tuple[PyTree, Float[Array, "B C D"]]:
            if x_BCD.shape[1] == 1:
                y_BD, state = self.advance(x_BCD[:, 0], state)
                return state, y_BD[:, None]
            y_BCD, state = self.further(x_BCD, state)
            return state, y_BCD

        chunk_NBCD = jnp.swapaxes(x_BTD[:, :whole].reshape(batch, -1, chunk, width), 0, 1)
        state, y_NBCD = jax.lax.scan(read, self.start(batch, length, x_BTD.dtype), chunk_NBCD)
        y_BTD = jnp.swapaxes(y_NBCD, 0, 1).reshape(batch, whole, width)
        return y_BTD if whole == length else jnp.concatenate([y_BTD, read(state, x_BTD[:, whole:])[1]], axis=1)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> PyTree:
        """Empty states of all blocks; caches hold `length` tokens."""
        stacked = eqx.filter_vmap(lambda pattern: [block.start(batch, length, dtype) for block in pattern])
        return stacked(self.pattern) if self.pattern else [], [block.start(batch, length, dtype) for block in self.rest]

    def extend(self, tokens_BT: Int[Array, "B T"], state: PyTree) -> tuple[Float[Array, "B T V"], PyTree]:
        x_BTD, state = self.further(self.embed(tokens_BT), state)
        return self.logits(x_BTD), state

    def further(self, x_BTD: Float[Array, "B T D"], state: PyTree) -> tuple[Float[Array, "B T D"], PyTree]:
        """All blocks over a chunk of embedded tokens, from a state."""
        return self._pass(x_BTD, state, lambda block, *args: block.extend(*args))

    def read(self, x_BTD: Float[Array, "B T D"], length: int) -> tuple[Float[Array, "B T D"], PyTree]:
        """All blocks over embedded tokens in parallel form, and the state after them, made for `length` tokens."""

        def repeat(x_BTD: Array, arrays: PyTree) -> tuple[Array, PyTree]:
            states = []
            for block in eqx.combine(arrays, static):
                x_BTD, state = block.read(x_BTD, length)
                states.append(state)
            return x_BTD, states

        arrays, static = eqx.partition(self.pattern, eqx.is_array)
        pattern_state: PyTree = []
        if self.pattern:
            x_BTD, pattern_state = jax.lax.scan(repeat, x_BTD, arrays)
        rest_state = []
        for block in self.rest:
            x_BTD, state = block.read(x_BTD, length)
            rest_state.append(state)
        return x_BTD, (pattern_state, rest_state)

    def step(self, tokens_B: Int[Array, " B"], state: PyTree) -> tuple[Float[Array, "B V"], PyTree]:
        x_BD, state = self.advance(self.embed(tokens_B), state)
        return self.logits(x_BD), state

    def advance(self, x_BD: Float[Array, "B D"], state: PyTree) -> tuple[Float[Array, "B D"], PyTree]:
        """All blocks over one embedded token, stepwise."""
        return self._pass(x_BD, state, lambda block, *args: block.step(*args))

    def _pass(self, x: Array, state: PyTree, advance) -> tuple[Array, PyTree]:
        def repeat(x: Array, at: tuple[PyTree, PyTree]) -> tuple[Array, PyTree]:
            arrays, states = at
            new_states = []
            for block, block_state in zip(eqx.combine(arrays, static), states, strict=True):
                x, block_state = advance(block, x, block_state)
                new_states.append(block_state)
            return x, new_states

        arrays, static = eqx.partition(self.pattern, eqx.is_array)
        pattern_state, rest_state = state
        if self.pattern:
            x, pattern_state = jax.lax.scan(repeat, x, (arrays, pattern_state))
        new_rest = []
        for block, block_state in zip(self.rest, rest_state, strict=True):
            x, block_state = advance(block, x, block_state)
            new_rest.append(block_state)
        return x, (pattern_state, new_rest)

    def embed(self, tokens: Int[Array, "..."]) -> Float[Array, "... D"]:
        # Times sqrt(D): the stream starts at unit scale, and the same matrix gives logits of unit scale.
        return (self.embedding_VD[tokens] * self.embedding_VD.shape[1] ** 0.5).astype(self.dtype)

    def logits(self, x_D: Float[Array, "... D"]) -> Float[Array, "... V"]:
        x_D = rms_norm(x_D, self.scale_D)
        return jnp.matmul(x_D, self.embedding_VD.T.astype(x_D.dtype), preferred_element_type=precision.wide(x_D.dtype))


def build(job: Job, vocab: int, *, key: PRNGKeyArray) -> Model:
    """The model of a job at `job.width`; ValueError where the mixer's knobs do not fit."""
    specs = pattern(job)
    residual = job.block == "residual"
    make = functools.partial(
        Block,
        job.width,
        short_conv=job.short_conv,
        hidden=job.hidden,
        residual=residual,
        state_dtype=job.state_dtype,
    )
    repeats, remainder = divmod(job.depth, len(specs))
    embedding_key, *block_keys = jax.random.split(key, 1 + job.depth)

    def make_pattern(keys: Key[Array, " P"]) -> tuple[Block, ...]:
        return tuple(make(mixer=spec, key=keys[index]) for index, spec in enumerate(specs))

    stacked = len(specs) * repeats
    keys_LP = jnp.stack(block_keys[:stacked]).reshape(repeats, len(specs)) if repeats else None
    return Model(
        embedding_VD=initial.dense(embedding_key, job.width, vocab, job.width),
        pattern=eqx.filter_vmap(make_pattern)(keys_LP) if repeats else (),
        rest=tuple(
            make(mixer=spec, key=key) for spec, key in zip(specs[:remainder], block_keys[stacked:], strict=True)
        ),
        scale_D=jnp.ones(job.width, jnp.float32),
        dtype=job.dtype,
        remat=job.remat,
        end=_end(job, specs) if job.reset else None,
    )


def _end(job: Job, specs: list[str]) -> int:
    """The token that ends a document of the job's task; ValueError where it has none or a mixer cannot be reset."""
    try:
        end = parts.constant("suite.tasks", job.task, "END")
    except LookupError as error:
        raise ValueError(
            f"reset wants a task of documents, with END at its top, as text; {job.task} has none"
        ) from error
    arrays = jax.ShapeDtypeStruct((1, 1, job.width), jnp.float32), jax.ShapeDtypeStruct((1, 1), jnp.bool)
    for spec in specs:
        module, knobs = parts.load("suite.mixers", spec)
        mixer = functools.partial(module.Mixer, job.width, **knobs)
        try:
            eqx.filter_eval_shape(lambda *arrays, make=mixer: make(key=jax.random.key(0))(*arrays), *arrays)
        except TypeError as error:
            known = ", ".join(parts.names("suite.mixers"))
            raise ValueError(f"reset wants a mixer that takes starts_BT; {spec} does not, these do: {known}") from error
    return int(end)


def pattern(job: Job) -> list[str]:
    """The mixers of a job's pattern at its width, attention's with heads of job.head_size channels where it has one.

    An arm that says how many heads it has keeps them.
    """
    specs = parts.pattern(job.mixer)
    return [_with_heads(spec, job.width, job.head_size) for spec in specs] if job.head_size else specs


def _with_heads(spec: str, width: int, head_size: int) -> str:
    try:
        knob = str(parts.constant("suite.mixers", spec, "HEADS_KNOB"))
    except LookupError:
        return spec
    _, given = parts.split(parts.short("suite.mixers", spec))
    heads = max(1, round(width / head_size))
    return spec if knob in given else parts.with_knobs("suite.mixers", spec, {knob: heads})


def shapes(job: Job, vocab: int) -> Model:
    """The model with shapes in the place of arrays: nothing is computed and no device is touched."""
    return eqx.filter_eval_shape(lambda: build(job, vocab, key=jax.random.key(0)))


def heads(model: Model) -> set[int]:
    """How many heads the mixers have: of queries, of keys, of states, by their knobs and their parameters' axis H."""
    mixers = [(block.mixer, stacked) for blocks, stacked in ((model.pattern, 1), (model.rest, 0)) for block in blocks]
    counts = {getattr(mixer, name, 1) for mixer, _ in mixers for name in ("heads", "n_heads", "kv_heads")}
    for mixer, stacked in mixers:
        for name, leaf in vars(mixer).items():
            letters = name.rpartition("_")[2]
            if letters.isupper() and "H" in letters and leaf is not None:
                counts.add(leaf.shape[stacked + letters.index("H")])
    return counts


def count_parameters(model: Model) -> int:
    """Scalars that are trained, the shared embedding once."""
    return sum(leaf.size for leaf in jax.tree.leaves(model) if hasattr(leaf, "size"))


def matrices(model: Model) -> Model:
    """True at the leaves that are matrices in their own layer: what weight decay acts on."""

    def of_rank(rank: int, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.ndim >= rank, tree)

    flags = of_rank(2, model)
    return eqx.tree_at(lambda model: model.pattern, flags, of_rank(3, model.pattern)) if model.pattern else flags


def rms_norm(x_D: Float[Array, "... D"], scale_D: Float[Array, " D"]) -> Float[Array, "... D"]:
    """RMSNorm (Zhang and Sennrich 2019); the mean of squares is at least float32."""
    wide_D = x_D.astype(precision.wide(x_D.dtype))
    wide_D = wide_D * jax.lax.rsqrt(jnp.mean(jnp.square(wide_D), axis=-1, keepdims=True) + 1e-6)
    return (wide_D * jnp.broadcast_to(scale_D, wide_D.shape)).astype(x_D.dtype)
