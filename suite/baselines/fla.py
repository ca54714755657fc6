"""flash-linear-attention: Triton kernels of linear recurrences with a matrix state, on NVIDIA GPUs."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

PACKAGE = "fla"
Gradients = tuple[Callable[[], float], Callable[[], tuple[dict[str, np.ndarray], list[np.ndarray]]]]


def _gradient(kernel: Callable[..., Any], inputs: list[np.ndarray], dtype: str) -> Gradients:
    """Value and gradient of a kernel by all its inputs; ValueError where there is no GPU."""
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise ValueError("flash-linear-attention wants a GPU")
    *tensors, weigh = (torch.tensor(np.array(array)).to("cuda", getattr(torch, dtype)) for array in inputs)
    for tensor in tensors:
        tensor.requires_grad_()

    def call() -> float:
        for tensor in tensors:
            tensor.grad = None
        value = (kernel(*tensors)[0] * weigh).sum(dtype=torch.float32)
        value.backward()
        torch.cuda.synchronize()
        return value.item()

    return call, lambda: ({}, [tensor.grad.float().cpu().numpy() for tensor in tensors])


def scalar(arrays: Mapping[str, np.ndarray], inputs: list[np.ndarray], dtype: str) -> Gradients:
    """A decay of each head: queries, keys, values (B, T, H, K), logarithms of decays (B, T, H, 1)."""
    del arrays
    chunked = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
    return _gradient(lambda q, k, v, log_decay: chunked(q, k, v, log_decay[..., 0], scale=1.0), inputs, dtype)


def vector(arrays: Mapping[str, np.ndarray], inputs: list[np.ndarray], dtype: str) -> Gradients:
    """A decay of each channel: queries, keys, values and logarithms of decays (B, T, H, K)."""
    del arrays
    chunked = importlib.import_module("fla.ops.gla").chunk_gla
    return _gradient(lambda q, k, v, log_decay: chunked(q, k, v, log_decay, scale=1.0), inputs, dtype)


def delta(arrays: Mapping[str, np.ndarray], inputs: list[np.ndarray], dtype: str) -> Gradients:
    """The gated delta rule: queries, unit keys, values (B, T, H, K), betas and logarithms of decays (B, T, H)."""
    del arrays
    chunked = importlib.import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule
    return _gradient(lambda q, k, v, beta, decay: chunked(q, k, v, decay, beta, scale=1.0), inputs, dtype)


GRADIENTS = {"scalar": scalar, "vector": vector, "delta": delta}
TRAININGS = {}
