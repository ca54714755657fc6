"""What compiled programs hold in the memory of a device, how much of it counts, and the largest size that fits."""

from collections.abc import Callable

import jax

from suite import machine

STEPS = 16  # of the largest that fits: finer it is not looked for


def held_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes on a device while a program runs: its arguments, its results and what it computes in between."""
    memory = compiled.memory_analysis()
    assert memory is not None, "the backend gives no memory of a compiled program"
    lasting = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return lasting + memory.temp_size_in_bytes


def limit_bytes(
    device: jax.Device,  # pyright: ignore[reportInvalidTypeForm] - compiled, without stubs
    memory_bytes: int,
) -> int:
    """Bytes of a device that count: so many, or for 0 all that it has; CPU devices share those of their host."""
    if memory_bytes:
        return memory_bytes
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return machine.memory_bytes() // device.client.local_device_count()


def in_use(
    device: jax.Device,  # pyright: ignore[reportInvalidTypeForm] - compiled, without stubs
    compiled_bytes: int,
) -> dict[str, int | str]:
    """The most bytes that were in use on a device, as it counts them; on one that does not, those of the programs."""
    stats = device.memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return {"held_bytes": stats["peak_bytes_in_use"], "held_from": "the device, since its process began"}
    return {"held_bytes": compiled_bytes, "held_from": "the compiled programs"}


def is_out(error: Exception) -> bool:
    """Whether an error of the runtime says that a device has no memory left."""
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()


def largest_that_fits(fits: Callable[[int], bool], start: int, unit: int, most: int) -> tuple[int, int]:
    """The largest multiple of a unit that fits and the least one tried that does not; 0 where there is none.

    Doubled or halved from `start`, then bisected to a sixteenth of it; beyond `most` it is not looked for.
    """
    size = max(unit, start // unit * unit)
    low = high = 0
    while (not low or not high) and unit <= size <= most:
        if fits(size):
            low, size = size, 2 * size
        else:
            high, size = size, size // 2 // unit * unit
    while low and high and high - low > (step := grid(low, unit)):
        size = low + max(step, (high - low) // 2 // step * step)
        if fits(size):
            low = size
        else:
            high = size
    return low, high


def grid(size: int, unit: int) -> int:
    """The distance to which the largest size that fits is known: a sixteenth of it, in units."""
    return max(unit, size // STEPS // unit * unit)
