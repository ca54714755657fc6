"""Pallas kernels for TPUs; elsewhere they are interpreted, which is slow and gives the same numbers."""
