"""What a program costs: FLOPs, sequential depth and paths from its jaxpr; bytes sent and moved from its HLO."""
