"""A training: the loss and its step, the loop, the clock around it, and checkpoints."""
