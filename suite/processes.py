"""The processes of a job: how they find each other, agree, wait for each other with a limit, and part.

What they say to each other goes through JAX's coordination service: no device takes part, and all of it has limits.
"""

import itertools
import json
import re
import socket
import sys
import uuid
from typing import Any

import jax
from jax._src import distributed  # the one way to the coordination service, which has no public door

from suite import ends

HEARTBEAT_SECONDS = 30  # after which the others take a silent process for dead; JAX's own 100 is long
PARTING_SECONDS = 300  # for the slowest to save, on a busy machine
AGREEING_SECONDS = 3600  # process 0 may be preparing a data set

_numbers = itertools.count()  # of what was agreed on: every process asks in the same order


def join(coordinator: str, processes: int, rank: int) -> None:
    """Joins the others: by the arguments, or else as JAX finds them, or else as the only process of its own job.

    Also one process alone has a coordinator: SIGTERM is noticed only where there is one.
    """
    limits: dict[str, Any] = {
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": PARTING_SECONDS,
    }
    if coordinator:
        jax.distributed.initialize(coordinator, processes, rank, **limits)
        return
    try:
        jax.distributed.initialize(**limits)
    except ValueError as error:  # how JAX says that it found no cluster
        if "coordinator_address" not in str(error):
            raise
        address = _own_address()
        jax.config.update("jax_cpu_collectives_implementation", None)  # gloo looks the host's name up
        jax.distributed.initialize(address, 1, 0, coordinator_bind_address=address, **limits)


def part() -> None:
    """Leaves together with the others; what failed must not, or it would wait for those that are gone."""
    jax.distributed.shutdown()


def agree(value: Any) -> Any:
    """What process 0 gives, in every process: JSON. The others may look at another file system, or another clock."""
    if jax.process_count() == 1:
        return value
    key = f"crossover/{next(_numbers)}"
    if jax.process_index() == 0:
        _service().key_value_set(key, json.dumps(value))
        return value
    return json.loads(_service().blocking_key_value_get(key, AGREEING_SECONDS * 1000))


def barrier(name: str, seconds: float) -> None:
    """Waits until every process is here; raises PeerLate, which names who is missing."""
    if jax.process_count() == 1:
        return
    try:
        _service().wait_at_barrier(f"crossover/{name}", round(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        missing = re.search(r"timed out task names:\s*((?:[^\n]*\d\n?)+)", str(error))
        if missing is None:
            raise
        ranks = ", ".join(re.findall(r"(\d+)$", missing[1], re.MULTILINE))
        raise ends.PeerLate(f"rank {ranks} did not come to the barrier {name!r} within {seconds:g} s") from error


def _service() -> Any:
    assert distributed.global_state.client is not None, "the processes of a job have joined before they talk"
    return distributed.global_state.client


def _own_address() -> str:
    """Where a lone process meets itself: on Linux no port that another may take, and no network that may be down."""
    if sys.platform == "linux":
        return f"unix-abstract:crossover-{uuid.uuid4().hex}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
