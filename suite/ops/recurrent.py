"""Nonlinear recurrences: a cell at every token, its input projection taken out of the loop, and one backward pass.

A cell is a function of one head and token, `cell(x_BG, h_BG, biases, state) -> state`: of what its gates take in of the
input, W x_t, and of the output before it, R h_{t-1}, both wide, of its biases and of its state, whose first is h.

Heads are blocks of the recurrent matrix, and each is a recurrence of its own. A mixer's own arrays have gates before
heads, as papers write them; here all gates of a head stand beside each other.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from suite import mesh as meshes
from suite.ops import precision
from suite.ops.kernels import resident

State = tuple[Array, ...]  # (B, K) each in a loop, (H, B, K) of all heads, (B, N) in a mixer
Biases = tuple[Array, ...]  # (1, G) each in a cell, (H, G) of all heads
Loop = Callable[..., tuple[Float[Array, "H T B K"], State]]  # of a cell, all gates' inputs, weights and the first state


class Weights(NamedTuple):
    """Of a layer, as a mixer has them: columns and biases gate by gate."""

    input_DG: Float[Array, "D G"]
    recurrent_HKG: Float[Array, "H K G"]
    biases: tuple[Float[Array, " G"], ...]


class Gradient(NamedTuple):
    """A cell with a backward pass, of which only a product is in the loop: functions of one head and token.

    forward(x_BG, h_BG, biases, state) -> state, factors, keeps: what the backward pass multiplies with. Factors are
    kept in the compute dtype and `keeps` wide: in bfloat16 a forget gate above 1 - 1/512 would be 1, and a product of
    many of them would not fall. Where there are none the backward pass is given h.

    backward(kept, from_output_BK, state, product) -> state, changes: from the gradients of the state after the token to
    those before it. `product` takes the change of what R h_{t-1} came to, and gives it in the compute dtype and, back
    through R, what of h_{t-1} it is. Changes overwrite as many of the first factors, or else `from_output`.

    of_gates(*changes) -> changes of all tokens' W x, R h and biases before they are summed.
    """

    forward: Callable[..., tuple[State, tuple[Array, ...], tuple[Array, ...]]]
    backward: Callable[..., tuple[State, tuple[Array, ...]]]
    of_gates: Callable[..., tuple[Array, Array, tuple[Array, ...]]]
    overwritten: int


class Passes(NamedTuple):
    """How a gradient's loops over time run, on all heads."""

    alone: Callable[..., tuple[Float[Array, "H T B K"], State]]  # where there is no gradient
    forward: Callable[..., tuple[State, tuple[Array, ...], Float[Array, "H T B K"]]]
    backward: Callable[..., tuple[State, tuple[Array, ...]]]
    of_gates: Callable[..., tuple[Array, Array, tuple[Array, ...]]]


def layer(loop: Loop) -> Callable[..., tuple[Float[Array, "B T N"], State]]:
    """A loop of one head's gates as an implementation: `run(cell, x_BTD, weights, state) -> y_BTN, state`.

    With `starts_BT` after them, the state is an empty one before each token that begins a document.
    """

    def run(
        cell: Callable[..., State],
        x_BTD: Float[Array, "B T D"],
        weights: Weights,
        state: tuple[Array, ...],
        *starts_BT: Bool[Array, "B T"],
    ) -> tuple[Float[Array, "B T N"], tuple[Array, ...]]:
        u_HTBG, by_heads = project(x_BTD, weights), of_heads(weights)
        heads = weights.recurrent_HKG.shape[0]
        starts = [jnp.broadcast_to(each_BT.T[None], (heads, *each_BT.T.shape)) for each_BT in starts_BT]
        of_model = meshes.by_head(functools.partial(loop, cell), (0,) * (3 + len(starts)), (0, 0))
        h_HTBK, state = of_model(u_HTBG, by_heads, tuple(split(x_BN, heads) for x_BN in state), *starts)
        return join_all(h_HTBK), tuple(join(x_HBK) for x_HBK in state)

    return run


def step(
    cell: Callable[..., State], x_BD: Float[Array, "B D"], weights: Weights, state: tuple[Array, ...]
) -> tuple[Float[Array, "B N"], tuple[Array, ...]]:
    """One token of a layer."""
    u_HBG, heads = project(x_BD[:, None], weights)[:, 0], weights.recurrent_HKG.shape[0]
    advance = each_head(functools.partial(_advance, cell))
    state = advance(u_HBG, of_heads(weights), tuple(split(x_BN, heads) for x_BN in state))
    state = tuple(join(x_HBK) for x_HBK in state)
    return state[0].astype(x_BD.dtype), state


def of_one_sum(change_HTBG: Float[Array, "H T B G"]) -> tuple[Array, Array, tuple[Array, ...]]:
    """`Gradient.of_gates` of a cell whose gates see nothing but the sum of W x, R h and one bias."""
    return change_HTBG, change_HTBG, (change_HTBG,)


def scan(
    cell: Callable[..., State],
    u_HTBG: Float[Array, "H T B G"],
    weights: PyTree,
    state: State,
    *starts_HTB: Bool[Array, "H T B"],
    empty: tuple[float, ...] = (),
) -> tuple[Float[Array, "H T B K"], State]:
    """The plain loop, with JAX's own gradient: outputs in the dtype of the inputs, and the last state.

    The vectors of an empty state are of these numbers, 0 by default.
    """

    def loop(
        u_TBG: Float[Array, "T B G"], weights: PyTree, state: State, *starts_TB: Bool[Array, "T B"]
    ) -> tuple[Float[Array, "T B K"], State]:
        def turn(state: State, at: tuple[Array, ...]) -> tuple[State, Float[Array, "B K"]]:
            u_BG, *starts_B = at
            state = _advance(cell, u_BG, weights, _cut(state, *starts_B, empty=empty))
            return state, state[0].astype(u_BG.dtype)

        state, h_TBK = jax.lax.scan(turn, state, (u_TBG, *starts_TB))
        return h_TBK, state

    return each_head(loop)(u_HTBG, weights, state, *starts_HTB)


def over_time(advance: Callable[..., Any], inputs: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """Runs any `advance(inputs, state) -> y, state` over the time axis, which is the second of inputs and outputs."""

    def turn(state: PyTree, at: PyTree) -> tuple[PyTree, PyTree]:
        y, state = advance(at, state)
        return state, y

    state, y_TB = jax.lax.scan(turn, state, jax.tree.map(lambda x_BT: jnp.swapaxes(x_BT, 0, 1), inputs))
    return jax.tree.map(lambda y_TB: jnp.swapaxes(y_TB, 0, 1), y_TB), state


def factors(gradient: Gradient) -> Loop:
    """The loop whose forward pass leaves the factors of its backward pass behind."""
    alone = functools.partial(scan, lambda *arguments: gradient.forward(*arguments)[0])  # nothing need be left behind
    forward = each_head(functools.partial(_forward_loop, gradient.forward))
    backward = each_head(functools.partial(_backward_loop, gradient.backward, gradient.overwritten))
    passes = Passes(alone, forward, backward, gradient.of_gates)
    return lambda cell, *arguments: _run(passes, *arguments)


def pallas(gradient: Gradient) -> Loop:
    """The same in a TPU's kernels, a head at a time."""
    forward = functools.partial(resident.forward, gradient.forward)
    backward = functools.partial(resident.backward, gradient.backward, gradient.overwritten)
    return kernels(
        lambda *arrays: each_head(meshes.sharded(forward, (1, None, 0), (0, 1, 1)))(*arrays),
        lambda *arrays: each_head(meshes.sharded(backward, (1, 1, None, 0), (0, 1)))(*arrays),
        gradient.of_gates,
    )


def kernels(forward: Callable, backward: Callable, of_gates: Callable) -> Loop:
    """A loop of kernels, which leave the factors behind whether or not there is a gradient."""

    def alone(*arguments: PyTree) -> tuple[Float[Array, "H T B K"], State]:
        state, _, h_HTBK = forward(*arguments)
        return h_HTBK, state

    passes = Passes(alone, forward, backward, of_gates)
    return lambda cell, *arguments: _run(passes, *arguments)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(
    passes: Passes, u_HTBG: Float[Array, "H T B G"], weights: PyTree, state: State, *starts_HTB: Bool[Array, "H T B"]
) -> tuple[Float[Array, "H T B K"], State]:
    return passes.alone(u_HTBG, weights, state, *starts_HTB)


def _forward(
    passes: Passes, u_HTBG: Float[Array, "H T B G"], weights: PyTree, state: State, *starts_HTB: Bool[Array, "H T B"]
) -> tuple[tuple[Float[Array, "H T B K"], State], tuple[Any, ...]]:
    last, kept, h_HTBK = passes.forward(u_HTBG, weights, state, *starts_HTB)
    return (h_HTBK, last), (weights[0], state[0], h_HTBK, kept, starts_HTB)


def _backward(passes: Passes, left: tuple[Any, ...], changes: tuple[Float[Array, "H T B K"], State]) -> tuple[Any, ...]:
    """Changes of u, of the weights and of the first state; none of what begins a document."""
    recurrent_HKG, first_HBK, h_HTBK, kept, starts_HTB = left
    from_output_HTBK, state = changes
    state, of_loop = passes.backward(kept or (h_HTBK,), from_output_HTBK, recurrent_HKG, state, *starts_HTB)
    of_input_HTBG, of_product_HTBG, of_biases = passes.of_gates(*of_loop)
    of_recurrent_HKG = each_head(_weight_gradient)(first_HBK, h_HTBK, of_product_HTBG, *starts_HTB)
    biases = tuple(jnp.sum(x_HTBG, axis=(1, 2), dtype=first_HBK.dtype) for x_HTBG in of_biases)
    return of_input_HTBG, (of_recurrent_HKG, biases), state, *[None] * len(starts_HTB)


_run.defvjp(_forward, _backward)


def _advance(cell: Callable[..., Any], u_BG: Float[Array, "B G"], weights: PyTree, state: State) -> Any:
    recurrent_KG, biases = weights
    h_BK = state[0]
    h_BG = _product(h_BK, recurrent_KG, u_BG.dtype)
    return cell(u_BG.astype(h_BK.dtype), h_BG, tuple(bias_G[None] for bias_G in biases), state)


def _forward_loop(
    forward: Callable[..., Any],
    u_TBG: Float[Array, "T B G"],
    weights: PyTree,
    state: State,
    *starts_TB: Bool[Array, "T B"],
) -> tuple[State, tuple[Array, ...], Float[Array, "T B K"]]:
    """The last state; of every token what it keeps, of which the first overwrites `u_TBG`, and its output."""
    length, dtype = u_TBG.shape[0], u_TBG.dtype

    def advance(u_BG: Float[Array, "B G"], state: State) -> tuple[State, tuple[Array, ...]]:
        state, factors, keeps = _advance(forward, u_BG, weights, state)
        return state, (*(x.astype(dtype) for x in factors), *keeps, state[0].astype(dtype))

    _, (_, *others) = jax.eval_shape(advance, u_TBG[0], state)
    buffers = (u_TBG, *(jnp.zeros((length, *x.shape), x.dtype) for x in others))

    def turn(token: Int[Array, ""], carry: tuple[State, tuple[Array, ...]]) -> tuple[State, tuple[Array, ...]]:
        state, buffers = carry
        state = _cut(state, *(_at(each_TB, token) for each_TB in starts_TB))
        state, left = advance(_at(buffers[0], token), state)
        return state, tuple(_put(buffer, x, token) for buffer, x in zip(buffers, left, strict=True))

    state, (*kept, h_TBK) = jax.lax.fori_loop(0, length, turn, (state, buffers))
    return state, tuple(kept), h_TBK


def _backward_loop(
    backward: Callable[..., Any],
    overwritten: int,
    kept: tuple[Array, ...],
    from_output_TBK: Float[Array, "T B K"],
    recurrent_KG: Float[Array, "K G"],
    state: State,
    *starts_TB: Bool[Array, "T B"],
) -> tuple[State, tuple[Array, ...]]:
    """Changes of the first state; then those of every token."""
    length, dtype, wide = from_output_TBK.shape[0], from_output_TBK.dtype, state[0].dtype
    turned_GK = recurrent_KG.T
    arrays = (*kept, from_output_TBK)
    places = tuple(range(overwritten)) or (len(kept),)

    def product(change_BG: Float[Array, "B G"]) -> tuple[Float[Array, "B G"], Float[Array, "B K"]]:
        change_BG = _once(change_BG.astype(dtype))
        return change_BG, _product(change_BG, turned_GK, dtype)

    def turn(done: Int[Array, ""], carry: tuple[State, tuple[Array, ...]]) -> tuple[State, tuple[Array, ...]]:
        state, buffers = carry
        token = length - 1 - done
        now = {**dict(enumerate(arrays)), **dict(zip(places, buffers, strict=True))}
        *factors, from_output_BK = (_at(x, token).astype(wide) for x in now.values())
        state, changes = backward(tuple(factors), from_output_BK, state, product)
        state = _cut(state, *(_at(each_TB, token) for each_TB in starts_TB))
        return state, tuple(_put(buffer, x, token) for buffer, x in zip(buffers, changes, strict=True))

    return jax.lax.fori_loop(0, length, turn, (state, tuple(arrays[place] for place in places)))


def project(x_BTD: Float[Array, "B T D"], weights: Weights) -> Float[Array, "H T B G"]:
    """What all gates of all heads take in, for all tokens in one product."""
    x_TBD = jnp.swapaxes(x_BTD, 0, 1)  # the narrow side of the product is turned about, not the wide one
    length, batch, width = x_TBD.shape
    heads, size, gates = weights.recurrent_HKG.shape
    weight_DHG = by_head(weights.input_DG, heads, gates // size)
    u_XG = x_TBD.reshape(length * batch, width) @ weight_DHG.reshape(width, -1).astype(x_BTD.dtype)
    if heads == 1:
        return u_XG.reshape(1, length, batch, gates)  # to move an axis of one is to copy the array
    return jnp.moveaxis(u_XG.reshape(length, batch, heads, gates), 2, 0)


def of_heads(weights: Weights) -> tuple[Float[Array, "H K G"], Biases]:
    """The recurrent matrices and the biases, head by head."""
    heads, size, _ = weights.recurrent_HKG.shape
    return weights.recurrent_HKG, tuple(
        by_head(bias_G, heads, bias_G.size // (heads * size)) for bias_G in weights.biases
    )


def check(width: int, heads: int, dilation: int) -> None:
    """ValueError where a width does not split into that many equal heads, or a dilation is not positive."""
    if heads < 1 or width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}")
    if dilation < 1:
        raise ValueError(f"dilation {dilation} wants at least 1")


def by_head(weight_F: Float[Array, "*D F"], heads: int, gates: int) -> Float[Array, "*D H G"]:
    """Columns that stand gate by gate, head by head instead: all gates of a head beside each other."""
    weight_GHK = weight_F.reshape(*weight_F.shape[:-1], gates, heads, -1)
    return jnp.swapaxes(weight_GHK, -3, -2).reshape(*weight_F.shape[:-1], heads, -1)


def split(h_BN: Float[Array, "B N"], heads: int) -> Float[Array, "H B K"]:
    return jnp.swapaxes(h_BN.reshape(h_BN.shape[0], heads, -1), 0, 1)


def join(h_HBK: Float[Array, "H B K"]) -> Float[Array, "B N"]:
    return jnp.swapaxes(h_HBK, 0, 1).reshape(h_HBK.shape[1], -1)


def join_all(h_HTBK: Float[Array, "H T B K"]) -> Float[Array, "B T N"]:
    _, length, batch, _ = h_HTBK.shape
    return jnp.moveaxis(h_HTBK, 0, 2).swapaxes(0, 1).reshape(batch, length, -1)


def each_head(loop: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """A function of one head as one of all, whose arrays have heads as their first axis.

    Not for a custom_vjp: under vmap in a scan, JAX 0.10 to 0.12 puts the axis of its forward rule's results elsewhere
    than that of its own.
    """

    def of_all(*arrays: PyTree) -> PyTree:
        if jax.tree.leaves(arrays)[0].shape[0] > 1:
            return jax.vmap(loop)(*arrays)
        only = loop(*jax.tree.map(lambda x: x[0], arrays))  # a batched product of one is not always a product
        return jax.tree.map(lambda x: x[None], only)

    return of_all


# What the loops are made of: one head's arrays, time first, so that a step reads and writes one piece of memory.


def _product(h_BK: Float[Array, "B K"], weight_KG: Float[Array, "K G"], dtype: jnp.dtype) -> Float[Array, "B G"]:
    """The recurrent product: factors in the compute dtype, wide sums."""
    return jnp.matmul(h_BK.astype(dtype), weight_KG.astype(dtype), preferred_element_type=precision.wide(dtype))


def _weight_gradient(
    first_BK: Float[Array, "B K"],
    h_TBK: Float[Array, "T B K"],
    change_TBG: Float[Array, "T B G"],
    *starts_TB: Bool[Array, "T B"],
) -> Float[Array, "K G"]:
    """The recurrent matrix's gradient: one product of the states before all tokens with what came back to the gates."""
    before_TBK = jnp.concatenate([first_BK.astype(h_TBK.dtype)[None], h_TBK[:-1]])
    (before_TBK,) = _cut((before_TBK,), *starts_TB)
    before_XK, change_XG = (x.reshape(-1, x.shape[-1]) for x in (before_TBK, change_TBG))
    return jnp.matmul(before_XK.T, change_XG, preferred_element_type=first_BK.dtype)


def _cut(state: State, *starts_B: Bool[Array, "*T B"], empty: tuple[float, ...] = ()) -> State:
    """The state, or what is as long, where no document begins, and elsewhere an empty one; of 0s by default."""
    for each_B in starts_B:
        numbers = empty or (0.0,) * len(state)
        state = tuple(jnp.where(each_B[..., None], x, x_BK) for x, x_BK in zip(numbers, state, strict=True))
    return state


def _at(buffer_TBK: Shaped[Array, "T B *K"], token: Int[Array, ""]) -> Shaped[Array, "B *K"]:
    return jax.lax.dynamic_index_in_dim(buffer_TBK, token, 0, keepdims=False)


def _once(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same, made once: what both goes to a buffer and into a product XLA would make for either."""
    return jax.lax.optimization_barrier(x)


def _put(buffer_TBK: Float[Array, "T B K"], x_BK: Float[Array, "B K"], token: Int[Array, ""]) -> Float[Array, "T B K"]:
    """The buffer with one token's place overwritten.

    A loop that overwrites what it has just read needs no second buffer: the gates' inputs become factors of the
    backward pass, and those become the gates' gradients. What is put must be used whole by the loop's product: cheap
    things that are used in parts XLA computes for each part again, from a buffer that it therefore copies every time.
    """
    return jax.lax.dynamic_update_index_in_dim(buffer_TBK, x_BK.astype(buffer_TBK.dtype), token, 0)


def dilated(
    extend: Callable[[tuple[Array, ...], PyTree], tuple[Float[Array, "B T N"], PyTree]],
    inputs: tuple[Shaped[Array, "B T ..."], ...],
    state: PyTree,
    dilation: int,
) -> tuple[Float[Array, "B T N"], PyTree]:
    """`extend` where token t sees the state of token t - dilation (Chang et al. 2017), from any state to any.

    A state's second axis has the states of the last `dilation` tokens, the oldest first, which is that of the next
    token. Tokens that are a multiple of the dilation apart are a sequence of their own, and each is one of the batch.
    """
    batch, length = inputs[0].shape[:2]
    turns, rest = divmod(length, dilation)

    def run(of_tokens: slice, sequences: int, state: PyTree) -> tuple[Float[Array, "B S N"], PyTree]:
        """Tokens of so many sequences that take turns, the first ones of the state."""

        def apart(x_BSD: Shaped[Array, "B S ..."]) -> Shaped[Array, "X R ..."]:
            x_BSXD = x_BSD.reshape(batch, -1, sequences, *x_BSD.shape[2:])
            return jnp.swapaxes(x_BSXD, 1, 2).reshape(batch * sequences, -1, *x_BSD.shape[2:])

        y_XSN, state = extend(
            tuple(apart(x_BTD[:, of_tokens]) for x_BTD in inputs),
            jax.tree.map(lambda x: x[:, :sequences].reshape(-1, *x.shape[2:]), state),
        )
        y_BSN = jnp.swapaxes(y_XSN.reshape(batch, sequences, -1, y_XSN.shape[-1]), 1, 2)
        state = jax.tree.map(lambda x: x.reshape(batch, sequences, *x.shape[1:]), state)
        return y_BSN.reshape(batch, -1, y_XSN.shape[-1]), state

    outputs = []
    if turns:
        y_BTN, state = run(slice(turns * dilation), dilation, state)
        outputs.append(y_BTN)
    if rest:
        y_BTN, newest = run(slice(turns * dilation, None), rest, state)
        state = jax.tree.map(lambda old, new: jnp.concatenate([old[:, rest:], new], axis=1), state, newest)
        outputs.append(y_BTN)
    return jnp.concatenate(outputs, axis=1), state


def starts_of_dilated(starts_BT: Bool[Array, "B T"], dilation: int) -> Bool[Array, "B T"]:
    """Whether the token that lies `dilation` tokens back is of another document."""
    document_BT = jnp.cumsum(starts_BT.astype(jnp.int32), axis=1)
    return document_BT != jnp.pad(document_BT, ((0, 0), (dilation, 0)))[:, : starts_BT.shape[1]]


def rematerialised(
    extend: Callable[[tuple[Array, ...], PyTree], tuple[Float[Array, "B T N"], PyTree]],
    inputs: tuple[Shaped[Array, "B T ..."], ...],
    state: PyTree,
) -> tuple[Float[Array, "B T N"], PyTree]:
    """The same as `extend(inputs, state)`, in chunks whose insides are computed again for the gradient.

    Kept are a state for each chunk and the insides of one of them: with sqrt(T) tokens each, both grow as sqrt(T).
    """
    batch, length = inputs[0].shape[:2]
    chunk = math.isqrt(length)
    whole = length // chunk

    @functools.partial(jax.checkpoint, prevent_cse=False)  # a loop's body is compiled by itself: nothing to share
    def step(state: PyTree, inputs: tuple[Array, ...]) -> tuple[PyTree, Float[Array, "B T N"]]:
        y_BTN, state = extend(inputs, state)
        return state, y_BTN

    def in_chunks(x_BTD: Shaped[Array, "B T ..."]) -> Shaped[Array, "J B C ..."]:
        return jnp.swapaxes(x_BTD[:, : whole * chunk].reshape(batch, whole, chunk, *x_BTD.shape[2:]), 0, 1)

    state, y_JBTN = jax.lax.scan(step, state, tuple(in_chunks(x_BTD) for x_BTD in inputs))
    y_BTN = jnp.swapaxes(y_JBTN, 0, 1).reshape(batch, whole * chunk, -1)
    if whole * chunk == length:
        return y_BTN, state
    rest_BTN, state = extend(tuple(x_BTD[:, whole * chunk :] for x_BTD in inputs), state)
    return jnp.concatenate([y_BTN, rest_BTN], axis=1), state


def over_devices(run: Callable[..., Any]) -> Callable[..., Any]:
    """The same: `layer` splits heads, and a mixer's sequences are split by `context.in_turn`."""
    return run


IMPLEMENTATIONS = {"scan": layer(scan)}  # of any cell
SAME_CHAIN = {}
