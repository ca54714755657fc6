"""Nonlinear recurrences: a cell scanned over time, its input projection taken out of the loop.

Heads are blocks of the recurrent matrix, and each is a recurrence of its own. A mixer's own arrays have gates before
heads, as papers write them; here all gates of a head stand beside each other.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from suite.ops import precision

Cell = Callable[[Float[Array, "B F"], PyTree], tuple[Float[Array, "B N"], PyTree]]


def scan(cell: Cell, input_BTF: Float[Array, "B T F"], state: PyTree) -> tuple[Float[Array, "B T N"], PyTree]:
    """Runs `cell(input_BF, state) -> h_BN, state` over the time axis."""

    def step(state: PyTree, input_BF: Float[Array, "B F"]) -> tuple[PyTree, Float[Array, "B N"]]:
        h_BN, state = cell(input_BF, state)
        return state, h_BN

    state, h_TBN = jax.lax.scan(step, state, jnp.swapaxes(input_BTF, 0, 1))
    return jnp.swapaxes(h_TBN, 0, 1), state


def project(x_BTD: Float[Array, "B T D"], weight_DHG: Float[Array, "D H G"]) -> Float[Array, "H T B G"]:
    """What all gates of all heads take in, for all tokens in one product."""
    x_TBD = jnp.swapaxes(x_BTD, 0, 1)  # the narrow side of the product is turned about, not the wide one
    length, batch, width = x_TBD.shape
    _, heads, gates = weight_DHG.shape
    u_XG = x_TBD.reshape(length * batch, width) @ weight_DHG.reshape(width, -1).astype(x_BTD.dtype)
    if heads == 1:
        return u_XG.reshape(1, length, batch, gates)  # to move an axis of one is to copy the array
    return jnp.moveaxis(u_XG.reshape(length, batch, heads, gates), 2, 0)


def check_heads(width: int, heads: int) -> None:
    """ValueError where a width does not split into that many equal heads."""
    if heads < 1 or width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}")


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


def product(h_BK: Float[Array, "B K"], weight_KG: Float[Array, "K G"], dtype: jnp.dtype) -> Float[Array, "B G"]:
    """The recurrent product: factors in the compute dtype, wide sums."""
    return jnp.matmul(h_BK.astype(dtype), weight_KG.astype(dtype), preferred_element_type=precision.wide(dtype))


def weight_gradient(
    first_BK: Float[Array, "B K"], h_TBK: Float[Array, "T B K"], change_TBG: Float[Array, "T B G"]
) -> Float[Array, "K G"]:
    """The recurrent matrix's gradient: one product of the states before all tokens with what came back to the gates."""
    before_TBK = jnp.concatenate([first_BK.astype(h_TBK.dtype)[None], h_TBK[:-1]])
    before_XK, change_XG = (x.reshape(-1, x.shape[-1]) for x in (before_TBK, change_TBG))
    return jnp.matmul(before_XK.T, change_XG, preferred_element_type=first_BK.dtype)


def at(buffer_TBK: Float[Array, "T B K"], token: Int[Array, ""]) -> Float[Array, "B K"]:
    return jax.lax.dynamic_index_in_dim(buffer_TBK, token, 0, keepdims=False)


def once(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same, made once: what both goes to a buffer and into a product XLA would make for either."""
    return jax.lax.optimization_barrier(x)


def put(buffer_TBK: Float[Array, "T B K"], x_BK: Float[Array, "B K"], token: Int[Array, ""]) -> Float[Array, "T B K"]:
    """The buffer with one token's place overwritten.

    A loop that overwrites what it has just read needs no second buffer: the gates' inputs become factors of the
    backward pass, and those become the gates' gradients. What is put must be used whole by the loop's product: cheap
    things that are used in parts XLA computes for each part again, from a buffer that it therefore copies every time.
    """
    return jax.lax.dynamic_update_index_in_dim(buffer_TBK, x_BK.astype(buffer_TBK.dtype), token, 0)


def rematerialised(
    extend: Callable[[Float[Array, "B T D"], PyTree], tuple[Float[Array, "B T N"], PyTree]],
    x_BTD: Float[Array, "B T D"],
    state: PyTree,
) -> tuple[Float[Array, "B T N"], PyTree]:
    """The same as `extend(x_BTD, state)`, in chunks whose insides are computed again for the gradient.

    Kept are a state for each chunk and the insides of one of them: with sqrt(T) tokens each, both grow as sqrt(T).
    """
    batch, length, width = x_BTD.shape
    chunk = math.isqrt(length)
    whole = length // chunk

    @functools.partial(jax.checkpoint, prevent_cse=False)  # a loop's body is compiled by itself: nothing to share
    def step(state: PyTree, x_BTD: Float[Array, "B T D"]) -> tuple[PyTree, Float[Array, "B T N"]]:
        y_BTN, state = extend(x_BTD, state)
        return state, y_BTN

    x_JBTD = jnp.swapaxes(x_BTD[:, : whole * chunk].reshape(batch, whole, chunk, width), 0, 1)
    state, y_JBTN = jax.lax.scan(step, state, x_JBTD)
    y_BTN = jnp.swapaxes(y_JBTN, 0, 1).reshape(batch, whole * chunk, -1)
    if whole * chunk == length:
        return y_BTN, state
    rest_BTN, state = extend(x_BTD[:, whole * chunk :], state)
    return jnp.concatenate([y_BTN, rest_BTN], axis=1), state
