"""Baselines: other libraries' forms of what this suite computes, to time ours against. One file a library.

A baseline says in PACKAGE what must be installed, and in GRADIENTS and TRAININGS what it knows:

    GRADIENTS[family](arrays, inputs, dtype) -> call     call() makes value and gradient by arrays and inputs once
    TRAININGS[mixer](weights, tokens_BS, job) -> call    call() is one training step on the same tokens

`arrays` and `weights` are ours by the names of their fields, as NumPy arrays, so that both sides compute the same; the
last of the inputs weighs the outputs, whose weighted sum is the value. A call returns its value or loss when the device
is done. Neither imports JAX.
"""
