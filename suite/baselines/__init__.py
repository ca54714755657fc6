"""Baselines: other libraries' forms of what this suite computes, to time ours against. One file a library.

A baseline says in PACKAGE what must be installed, and in GRADIENTS and TRAININGS what it knows:

    GRADIENTS[family](arrays, inputs, dtype) -> call, gradients
                                                         call() makes value and gradient by arrays and inputs once, and
                                                         gradients() gives those of the last call: of arrays, of inputs
    TRAININGS[mixer](weights, tokens_BS, job) -> call    call() is one training step on the same tokens

`arrays` and `weights` are ours by the names of their fields, as NumPy arrays, so that both sides compute the same; the
last of the inputs weighs the outputs, whose weighted sum is the value, and has no gradient. A call returns its value or
loss when the device is done. Gradients are NumPy arrays too, as ours are laid out: a dict and a list. They are compared
with ours in float32, and a baseline that gives others is not timed. No baseline imports JAX.
"""
