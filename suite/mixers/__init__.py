"""Sequence mixers, one file each; the file name is the flag value.

A file defines `Mixer`, an `eqx.Module` with

    __init__(width, *, key, **knobs)      raises ValueError for knobs that do not fit
    __call__(x_BTD) -> y_BTD              causal; the fastest implementation on this platform
    start(batch, length, dtype) -> state  hidden state, or an empty cache for `length` tokens
    extend(x_BTD, state) -> y_BTD, state  a chunk of tokens
    step(x_BD, state) -> y_BD, state      one token

and says at its top, as constants that are read without importing it, its NAME in the middle of a sentence, the FAMILY
of suite/ops that runs it, and its STATE: a "cache", or one whose recurrence is "nonlinear", "diagonal" or "matrix". It
may say VARIANTS: a knob of how it starts, or of its positions, and the values that are published; claims let the mixer
speak by the best of them. It may say HEADS_KNOB: the knob that a job's head_size sets by the width.

Inputs come in the compute dtype and outputs leave in it; parameters and recurrent states are float32. With parameters
and inputs cast to float64 everything is float64: `precision.wide` says which. A mixer of several implementations has a
knob `implementation` and a method `ran(dtype)` that names the one that `__call__` runs. One whose `extend` from the
start is not its fastest way to read a whole sequence has a method `read(x_BTD, length) -> y_BTD, state` that is, with
the state for `length` tokens. suite/contract.py runs all of this at tiny shapes. A user's own mixer may leave out
`start`, `extend`, `step` and the constants; measures that want the methods then refuse it.

Between calls the state is kept in the state_dtype of a job: the block around a mixer rounds it, and widens it before
the next call. A mixer that takes its state in any dtype, and rounds only what it adds, says `takes_kept_state = True`:
a cache is not copied then.

A mixer of which jobs may ask --reset=true also has `__call__(x_BTD, starts_BT)`, where a token of `starts_BT` begins a
document: no document sees another. `ran(dtype, cut=True)` then names the implementation.

Below stands what mixers of one kind share. All classes are abstract or final: a file's `Mixer` defines what its kind
leaves open, and overrides nothing.
"""

import abc
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from suite.ops import context, convolution, implementations, precision, recurrent


class Recurrence(eqx.Module):
    """A mixer that reads a whole sequence as it reads a chunk, from the state before the first token."""

    def __call__(
        self, x_BTD: Float[Array, "B T D"], starts_BT: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        starts = () if starts_BT is None else (starts_BT,)
        y_BTD, _ = self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype), *starts)
        return y_BTD

    @abc.abstractmethod
    def start(self, batch: int, length: int, dtype: jnp.dtype) -> PyTree: ...

    @abc.abstractmethod
    def extend(
        self, x_BTD: Float[Array, "B T D"], state: PyTree, starts_BT: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], PyTree]: ...

    @abc.abstractmethod
    def step(self, x_BD: Float[Array, "B D"], state: PyTree) -> tuple[Float[Array, "B D"], PyTree]: ...


class DiagonalRecurrence(Recurrence):
    """h_t = a_t h_{t-1} + b_t, elementwise: a mixer says what a and b are, and what it makes of h.

    The numbers are real in the family `linear`, and pairs of arrays in the family `complex`, as is the state.
    """

    family: eqx.AbstractClassVar[str]
    implementation: eqx.AbstractVar[str]
    size: eqx.AbstractVar[int]  # channels of h

    @abc.abstractmethod
    def gates(self, x_D: Float[Array, "*T D"]) -> tuple[PyTree, PyTree, Any]:
        """Decays a and inputs b, wide: near 1, bfloat16 would round a slow decay to none; what else `output` needs."""

    @abc.abstractmethod
    def output(self, h_N: PyTree, rest: Any) -> Float[Array, "*T D"]:
        """What is made of h, in the compute dtype."""

    def ran(self, dtype: jnp.dtype, *, cut: bool = False) -> str:
        return implementations.choose(self.family, self.implementation, dtype, cut=cut)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> PyTree:
        del length  # the same whatever the context
        return implementations.family(self.family).start(batch, self.size, precision.wide(dtype))

    def extend(
        self, x_BTD: Float[Array, "B T D"], state: PyTree, starts_BT: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], PyTree]:
        decay_BTN, input_BTN, rest = self.gates(x_BTD)
        if starts_BT is not None:
            decay_BTN = implementations.family(self.family).cut(decay_BTN, starts_BT)
        recurrence = implementations.pick(self.family, self.ran(x_BTD.dtype))
        h_BTN = recurrence(decay_BTN, input_BTN, state)
        return self.output(_narrow(h_BTN, x_BTD.dtype), rest), jax.tree.map(lambda x_BTN: x_BTN[:, -1], h_BTN)

    def step(self, x_BD: Float[Array, "B D"], state: PyTree) -> tuple[Float[Array, "B D"], PyTree]:
        decay_BN, input_BN, rest = self.gates(x_BD)
        state = implementations.family(self.family).step(decay_BN, input_BN, state)
        return self.output(_narrow(state, x_BD.dtype), rest), state


class MatrixRecurrence(Recurrence):
    """A matrix a head that is written by keys and values and read by queries: a mixer says what all of these are.

    The state is the last inputs of the short convolution, where there is one, and the matrices.
    """

    family: eqx.AbstractClassVar[str]
    implementation: eqx.AbstractVar[str]
    n_heads: eqx.AbstractVar[int]
    key_size: eqx.AbstractVar[int]  # of a head
    taps_CE: eqx.AbstractVar[Float[Array, "C E"] | None]  # of a short convolution; None for none
    norm_F: eqx.AbstractVar[Float[Array, " F"]]  # as many as all heads have values

    @abc.abstractmethod
    def project(
        self,
        x_BTD: Float[Array, "B T D"],
        past_BPE: Float[Array, "B P E"] | None,
        starts_BT: Bool[Array, "B T"] | None = None,
    ) -> tuple[tuple[Any, ...], Any, Float[Array, "B P E"] | None]:
        """The inputs of the family's recurrence, whose last are logarithms of decays; what else `merge` needs.

        With the last inputs of the short convolution, before the tokens and after them.
        """

    @abc.abstractmethod
    def merge(self, y_BTHP: Float[Array, "B T H P"], rest: Any) -> Float[Array, "B T D"]:
        """What is made of the values that were read, which are wide, in the compute dtype."""

    def ran(self, dtype: jnp.dtype, *, cut: bool = False) -> str:
        return implementations.choose(self.family, self.implementation, dtype, cut=cut)

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> PyTree:
        del length  # the same whatever the context
        sizes = (self.n_heads, self.key_size, self.norm_F.shape[0] // self.n_heads)
        matrices = implementations.family(self.family).start(batch, *sizes, precision.wide(dtype))
        return convolution.start(batch, self.taps_CE, precision.wide(dtype)), matrices

    def extend(
        self, x_BTD: Float[Array, "B T D"], state: PyTree, starts_BT: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], PyTree]:
        past_BPE, matrices = state
        if starts_BT is None:
            inputs, rest, past_BPE = self.project(x_BTD, past_BPE)
        else:
            inputs, rest, past_BPE = self.project(x_BTD, past_BPE, starts_BT)
            inputs = implementations.family(self.family).cut(inputs, starts_BT)
        y_BTHP, matrices = implementations.pick(self.family, self.ran(x_BTD.dtype))(*inputs, matrices)
        return self.merge(y_BTHP, rest), (past_BPE, matrices)

    def step(self, x_BD: Float[Array, "B D"], state: PyTree) -> tuple[Float[Array, "B D"], PyTree]:
        past_BPE, matrices = state
        inputs, rest, past_BPE = self.project(x_BD[:, None], past_BPE)
        of_token = jax.tree.map(lambda x_BT: jnp.squeeze(x_BT, 1), inputs)
        y_BHP, matrices = implementations.family(self.family).step(of_token, matrices)
        return jnp.squeeze(self.merge(y_BHP[:, None], rest), 1), (past_BPE, matrices)


class NonlinearRecurrence(Recurrence):
    """A cell whose gates see h_{t-1}: a mixer says its equations for a head and its weights; the output is h.

    R has one block on its diagonal for each of the heads. `remat` computes the insides of chunks again for the
    gradient, for long sequences. With a `dilation` token t sees the state of token t - dilation, and no token between
    (Chang et al. 2017): the path over k tokens has k / dilation steps, and other layers have to mix what lies between.
    """

    family: eqx.AbstractClassVar[str]
    vectors: eqx.AbstractClassVar[int]  # of the state, of which the first is h
    remat: eqx.AbstractVar[bool]
    dilation: eqx.AbstractVar[int]
    implementation: eqx.AbstractVar[str]

    @abc.abstractmethod
    def cell(
        self, x_BG: Float[Array, "B G"], h_BG: Float[Array, "B G"], biases: recurrent.Biases, state: recurrent.State
    ) -> recurrent.State:
        """The state after a token of one head, by W x_t, R h_{t-1}, the biases (1, G) and the state before; wide."""

    @abc.abstractmethod
    def weights(self) -> recurrent.Weights:
        """W, R and the biases, which have as many gates as they have numbers."""

    def ran(self, dtype: jnp.dtype, *, cut: bool = False) -> str:
        _, size, gates = self.weights().recurrent_HKG.shape
        return implementations.choose(
            self.family, self.implementation, dtype, resident=size * gates, head_size=size, cut=cut
        )

    def start(self, batch: int, length: int, dtype: jnp.dtype) -> recurrent.State:
        del length  # the same whatever the context
        heads, size, _ = self.weights().recurrent_HKG.shape
        tokens = (self.dilation,) if self.dilation > 1 else ()
        return (jnp.zeros((batch, *tokens, heads * size), precision.wide(dtype)),) * self.vectors

    def extend(
        self, x_BTD: Float[Array, "B T D"], state: recurrent.State, starts_BT: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], recurrent.State]:
        layer = implementations.pick(self.family, self.ran(x_BTD.dtype, cut=starts_BT is not None))
        starts = () if starts_BT is None else (recurrent.starts_of_dilated(starts_BT, self.dilation),)

        def read(weights: recurrent.Weights, x_BTD: Float[Array, "B T D"], state: recurrent.State) -> tuple[Array, Any]:
            def run(inputs: tuple[Array, ...], state: recurrent.State) -> tuple[Array, recurrent.State]:
                x_BTD, *starts = inputs
                return layer(self.cell, x_BTD, weights, state, *starts)

            each = functools.partial(recurrent.rematerialised, run) if self.remat else run
            inputs = (x_BTD, *starts)
            return each(inputs, state) if self.dilation == 1 else recurrent.dilated(each, inputs, state, self.dilation)

        return context.in_turn(read, self.weights(), x_BTD, state)

    def step(self, x_BD: Float[Array, "B D"], state: recurrent.State) -> tuple[Float[Array, "B D"], recurrent.State]:
        if self.dilation == 1:
            return recurrent.step(self.cell, x_BD, self.weights(), state)
        y_BD, newest = recurrent.step(self.cell, x_BD, self.weights(), tuple(x_BSN[:, 0] for x_BSN in state))
        pushed = zip(state, newest, strict=True)
        return y_BD, tuple(jnp.concatenate([x_BSN[:, 1:], new_BN[:, None]], axis=1) for x_BSN, new_BN in pushed)


def _narrow(h_N: PyTree, dtype: jnp.dtype) -> PyTree:
    return jax.tree.map(lambda x_N: x_N.astype(dtype), h_N)
