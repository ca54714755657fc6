"""The peaks of one device: a large matrix product, a long copy, and a loop of dependent steps."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from suite.sweep.record import Row
from suite.training import clock
from suite.training.rig import Rig

NEEDS = ()
PLACED = True
RESUMES = False
SECONDS = 2
CONDITIONS = {}
QUANTITIES = {"peak": {"flops_per_second": "FLOP/s", "bytes_per_second": "bytes/s", "step_seconds": "s"}}
REPEATS = 20
BOUNDS = {"size": (16, 65_536)}


def measure(rig: Rig, *, size: int = 2048) -> Iterator[Row]:
    """One row, of `peaks`."""
    yield {"phase": "peak", **peaks(rig.job.dtype, size), "outcome": "ok"}


def peaks(dtype: str, size: int = 2048) -> Row:
    """The best of several tries of each: a busy machine reaches its peak in a moment in which it is left alone.

    FLOP/s of products of (size, size) in `dtype`, bytes/s of a copy, seconds of one dependent step of a loop.
    """
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32).astype(dtype)
    product = min(clock.time_calls(jax.jit(jnp.matmul), a, a, warmup=2, repeats=REPEATS))
    long = jax.random.normal(jax.random.key(1), (16 * size * size,), jnp.float32)
    copy = min(clock.time_calls(jax.jit(lambda x: x + 1), long, warmup=2, repeats=REPEATS))
    loop_steps = 10_000

    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (jnp.tanh(x + 0.5), None), x, None, length=loop_steps)[0]

    dependent = min(clock.time_calls(jax.jit(loop), jnp.zeros((), jnp.float32), warmup=1, repeats=REPEATS))
    return {
        "flops_per_second": 2 * size**3 / product,
        "bytes_per_second": 2 * long.nbytes / copy,
        "step_seconds": dependent / loop_steps,
    }
