"""What a program costs, read from its jaxpr: FLOPs, sequential depth, shortest paths."""
