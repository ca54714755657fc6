"""Sequence mixers, one file each; the file name is the flag value.

A file defines `Mixer`, an `eqx.Module` with

    __init__(width, *, key, **knobs)      raises ValueError for knobs that do not fit
    __call__(x_BTD) -> y_BTD              causal; the fastest form there is on this platform
    start(batch, length, dtype) -> state  hidden state, or an empty cache for `length` tokens
    extend(x_BTD, state) -> y_BTD, state  a chunk of tokens
    step(x_BD, state) -> y_BD, state      one token

Inputs come in the compute dtype and outputs leave in it; parameters and recurrent states are float32. With parameters
and inputs cast to float64 everything is float64: `precision.wide` says which. A mixer of several forms has a knob
`form` and a method `ran(dtype)` that names the one that `__call__` runs. suite/contract.py runs all of this at tiny
shapes. A user's own mixer may leave out `start`, `extend` and `step`; measures that want them then refuse it.
"""
