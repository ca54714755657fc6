"""Which implementation of an operation runs where: the one table of choices, overridden by a mixer's knob.

A family of implementations is a file of suite/ops with IMPLEMENTATIONS, a dict of functions that compute the same; the
first is the reference parallel one, on which sequential depth is counted. Its SAME_CHAIN names, for kernels, whose
chain of dependent operations no jaxpr shows, the implementation that shares it; running maxima are left out.
"""

import contextlib
import contextvars
import importlib
from collections.abc import Callable, Collection, Iterator
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from suite import mesh as meshes

# Fastest known, and what runs where that one cannot. On two CPU cores (docs/measured/calibration.md and chunks.md) the
# dense form took 1.9 to 4.2 times the blocked one's time (512 to 4,096 tokens, gradients included), an associative
# scan, which makes log2 T passes over memory, loses to a plain loop, and the gradient of a loop takes 0.4 to 0.8 of the
# time, and about half of the memory, where the forward pass leaves its factors behind. On an H200 the LSTM's persistent
# kernel took 0.35 to 0.42 of the time of its loop of factors (docs/measured/calibration-h200.md). What else stands here
# of accelerators was not measured: what others found is told in the files of the kernels.
FASTEST = {
    "attention": {"cpu": ("blocked",), "gpu": ("cudnn", "dense"), "tpu": ("splash", "dense")},
    "recurrent": {"cpu": ("scan",), "gpu": ("scan",), "tpu": ("scan",)},
    "elman": {"cpu": ("factors",), "gpu": ("factors",), "tpu": ("factors",)},
    "gru": {"cpu": ("factors",), "gpu": ("factors",), "tpu": ("pallas", "factors")},
    "lstm": {"cpu": ("factors",), "gpu": ("persistent", "factors"), "tpu": ("pallas", "factors")},
    "linear": {"cpu": ("sequential",), "gpu": ("parallel",), "tpu": ("pallas", "parallel")},
    "complex": {"cpu": ("sequential",), "gpu": ("parallel",), "tpu": ("parallel",)},
    "matrix": {"cpu": ("chunked",), "gpu": ("chunked",), "tpu": ("chunked",)},
    "exponential": {"cpu": ("chunked",), "gpu": ("chunked",), "tpu": ("chunked",)},
    "delta": {"cpu": ("chunked",), "gpu": ("chunked",), "tpu": ("chunked",)},
    "low_rank": {"cpu": ("chunked",), "gpu": ("chunked",), "tpu": ("chunked",)},
}
# Kernels, and the one platform that each is written for.
ONLY_ON = {"cudnn": "gpu", "pallas": "tpu", "persistent": "gpu", "splash": "tpu"}
ONLY_OVER = {"ring": "context"}  # what is for sequences that are split over a mesh axis; on one device it is another
# What does not cut attention or reset states where a document begins within a sequence; all others do.
CANNOT_CUT = {
    "attention": ("ring", "cudnn", "splash"),
    "gru": ("pallas",),
    "lstm": ("pallas", "persistent", "cudnn"),
}
HOPPER_AND_LATER = ("H100", "H200", "H20", "H800", "B100", "B200", "B300")  # as device kinds name them
ON_MULTIPROCESSOR = (64, 128)  # channels of a head whose persistent kernel was timed, in bfloat16 on an H200
ON_CHIP = 64 << 20  # bytes of recurrent weights that a TPU kernel keeps in vector memory, of which there are 128 MiB
# Tokens of a chunk, powers of two: by what a matrix state's decay is (of a head, of each channel), and for delta rules.
# On a CPU the fastest of docs/measured/chunks.md; on accelerators what others found, not measured here.
CHUNKS = {
    "scalar": {"cpu": 64, "gpu": 64, "tpu": 256},
    "vector": {"cpu": 32, "gpu": 64, "tpu": 64},
    "delta": {"cpu": 64, "gpu": 64, "tpu": 64},
    "low_rank": {"cpu": 64, "gpu": 32, "tpu": 32},
}

_chunk_tried: contextvars.ContextVar[int] = contextvars.ContextVar("chunk_tried", default=0)


def family(name: str) -> ModuleType:
    """The file of a family."""
    return importlib.import_module(f"suite.ops.{name}")


def pick(family_name: str, implementation: str) -> Callable[..., Any]:
    """A family's implementation, over the devices of the mesh; ValueError where it has none of that name.

    A family's `over_devices` says how heads and sequences are split there.
    """
    known = family(family_name).IMPLEMENTATIONS
    check(family_name, implementation, known)
    return family(family_name).over_devices(known[implementation])


def check(family_name: str, implementation: str, known: Collection[str] = ()) -> None:
    """ValueError where a family has no such implementation, and neither `auto` nor `reference` is asked for."""
    known = known or ("auto", "reference", *family(family_name).IMPLEMENTATIONS)
    if implementation not in known:
        raise ValueError(f"implementation {implementation!r} is not known; wanted one of {', '.join(known)}")


def choose(
    family_name: str,
    implementation: str,
    dtype: jnp.dtype,
    *,
    resident: int = 0,
    head_size: int = 0,
    biased: bool = False,
    cut: bool = False,
) -> str:
    """The implementation that runs: `auto` is the fastest known on this platform that can, `reference` the first.

    `resident` is the size of the weights that a kernel would keep on chip; `head_size` counts the channels of a head of
    attention or of a recurrence; `biased` says that attention has a bias, `cut` that documents begin within sequences.
    """
    check(family_name, implementation)
    if implementation == "reference":
        return next(iter(family(family_name).IMPLEMENTATIONS))
    cannot_cut = CANNOT_CUT.get(family_name, ()) if cut else ()
    if implementation in cannot_cut:
        others = ", ".join(sorted(family(family_name).IMPLEMENTATIONS.keys() - set(cannot_cut)))
        raise ValueError(f"implementation {implementation} does not reset at the ends of documents; these do: {others}")
    if implementation != "auto":
        return implementation
    if family_name == "attention" and meshes.shards_of_context() > 1:
        # The kernels' queries start where their keys do. On eight devices of two cores a step with the ring took 1.04
        # (95 % 0.97 to 1.10; 4,096 tokens) and 1.04 (0.99 to 1.09; 16,384) of one with all keys gathered, by
        # tests/ring_or_gather.py; it holds less (docs/measured/meshes.md).
        return "ring"
    n_bytes = jnp.dtype(dtype).itemsize
    cannot = {
        "cudnn": n_bytes != 2 or head_size % 8 != 0 or head_size > _largest_head(),  # half precision only
        "persistent": n_bytes != 2 or head_size not in ON_MULTIPROCESSOR or not _is_hopper_or_later(),
        "splash": n_bytes == 8 or biased,
        "pallas": n_bytes == 8 or resident * n_bytes > ON_CHIP,
    }
    return next(
        fast
        for fast in FASTEST[family_name][meshes.platform()]
        if fast not in cannot_cut and not cannot.get(fast, False)
    )


def _largest_head() -> int:
    """Channels of the largest head that cuDNN's attention takes."""
    return 256 if _is_hopper_or_later() else 128


def _is_hopper_or_later() -> bool:
    return any(name in meshes.device_kind() for name in HOPPER_AND_LATER)


def chunk(decay: str, length: int) -> int:
    """Tokens of a chunk on this platform; no more than the next power of two above the length."""
    wanted = _chunk_tried.get() or CHUNKS[decay][meshes.platform()]
    return min(wanted, 1 << max(0, length - 1).bit_length())


@contextlib.contextmanager
def trying_chunks_of(tokens: int) -> Iterator[None]:
    """What is traced within has chunks of so many tokens: for finding out which is best."""
    token = _chunk_tried.set(tokens)
    try:
        yield
    finally:
        _chunk_tried.reset(token)
