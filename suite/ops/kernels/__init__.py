"""Pallas kernels for TPUs and NVIDIA GPUs; elsewhere they are interpreted, which is slow and gives the same numbers."""
