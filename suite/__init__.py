"""Crossover: where attention beats recurrence, by how much, and why.

The letter key. An array's name ends in its axes, in this order:

    B  batch            T  time (tokens)     D  width (residual stream)
    F  hidden (MLP)     H  heads             K  head size
    N  recurrent state  V  vocabulary        L  layers
    S  key positions    G  stacked gates     C  convolution taps
    P  head size of values; tokens before    J  chunks of a sequence

Sizes named in a signature are those letters; scalars, keys and pytrees carry no suffix.
"""
