"""The processes of a job: who they are, and how they join, agree, wait for each other with a limit, and part.

What they say to each other goes through JAX's coordination service: no device takes part, and all of it has limits.
"""

import itertools
import json
import re
import socket
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax._src import clusters, distributed  # the one way to the coordination service, which has no public door

from suite.sweep import exit_codes, rendezvous
from suite.sweep.links import Member

HEARTBEAT_SECONDS = 30  # after which the others take a silent process for dead; JAX's own 100 is long
PARTING_SECONDS = 300  # for the slowest to save, on a busy machine
AGREEING_SECONDS = 3600  # process 0 may be preparing a data set
NAME_SECONDS = 300  # for JAX to find process 0 in a cluster that it knows
MEETING_SECONDS = 60  # for JAX, after the processes have met
SLURM_PORTS = range(61440, 65536)  # above those that a system gives out, as JAX has it
STEP_PORTS = 509  # between the ports of two steps: the next jobs' steps are not met

_numbers = itertools.count()  # of what was agreed on: every process asks in the same order


def find(address: str, number: int, rank: int, variables: Mapping[str, str]) -> Member | None:
    """The process that this is: by the arguments (empty, 0 and -1 where not given), or else as JAX finds it.

    None for the only process of its job. ValueError where the half of it is known.
    """
    if not (address and number > 0 and rank >= 0) and not (number == 1 and rank <= 0):
        detected = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            address or None, number or None, rank if rank >= 0 else None, None, None, NAME_SECONDS
        )
        number, rank = _tasks_of_step(detected[1] or 0, variables), -1 if detected[2] is None else detected[2]
        address = address or _of_step(detected[0] or "", variables)
    if number == 1 and rank <= 0:
        return None
    given = {"--coordinator_address": bool(address), "--num_processes": number > 0, "--process_id": rank >= 0}
    if not any(given.values()):
        return None
    missing = [name for name, is_given in given.items() if not is_given]
    if missing:
        raise ValueError(
            f"one job of several processes wants {', '.join(given)} together, and {' and '.join(missing)} is missing"
        )
    return Member(address, number, rank)


def check_platform(alone: bool) -> None:
    """ValueError where JAX has no device of the platform that JAX_PLATFORMS names; a peer may be to blame.

    The host's CPU is named beside an accelerator: first states of shards and Jacobians are made there.
    """
    named = jax.config.values["jax_platforms"] or ""
    is_other = bool(named) and "cpu" not in named.split(",")
    if is_other:
        jax.config.update("jax_platforms", f"{named},cpu")
    try:
        platform = jax.local_devices()[0].platform
    except (RuntimeError, AssertionError) as error:
        if not alone and exit_codes.code_of(error) == exit_codes.PEER_DIED:
            raise
        raise ValueError(f"no device for JAX_PLATFORMS={named}: {str(error) or 'JAX knows none here'}") from error
    if is_other and platform == "cpu":  # JAX takes the CPU in the place of what it does not know
        raise ValueError(f"no device for JAX_PLATFORMS={named}: JAX knows none here")


def local_devices(variables: Mapping[str, str]) -> list[int] | None:
    """Which of the GPUs that it sees are this process's, where Slurm or Open MPI has started it; None for all of them.

    JAX takes one for each process, by its number on the host: of eight GPUs a lone process would use one.
    """
    if "JAX_LOCAL_DEVICE_IDS" in variables:  # JAX reads it by itself
        return None
    if "SLURM_LOCALID" in variables and "SLURM_STEP_NODELIST" in variables:
        rank, tasks = int(variables["SLURM_LOCALID"]), _slurm_tasks(variables)
    elif "OMPI_COMM_WORLD_LOCAL_RANK" in variables:
        rank, tasks = int(variables["OMPI_COMM_WORLD_LOCAL_RANK"]), int(variables["OMPI_COMM_WORLD_LOCAL_SIZE"])
    else:
        return None
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    seen = len(visible.split(",")) if visible else 0
    gpus = int(variables.get("SLURM_GPUS_ON_NODE", seen))
    if visible is None:
        seen = gpus
    if tasks == 1 or seen < gpus or not seen:  # fewer than there are: the tasks were given GPUs of their own
        return None
    if tasks > seen:
        raise ValueError(f"{tasks} processes on a host with {seen} GPUs; start at most one for each GPU")
    return [*range(rank * seen // tasks, (rank + 1) * seen // tasks)]


def _slurm_tasks(variables: Mapping[str, str]) -> int:
    """Tasks of a Slurm step on this node: the entry of `2(x3),1` at the node's number."""
    counts = [
        count
        for item in variables.get("SLURM_STEP_TASKS_PER_NODE", "1").split(",")
        for count in [int(item.partition("(")[0])] * int((re.findall(r"\(x(\d+)\)", item) or ["1"])[0])
    ]
    return counts[int(variables.get("SLURM_NODEID", "0"))]


def _tasks_of_step(number: int, variables: Mapping[str, str]) -> int:
    """The number of processes that JAX found; of Slurm it counts the tasks of an allocation, not those of this step.

    The shell that salloc opens on a node of the allocation is a step of one task.
    """
    is_of_slurm = "SLURM_STEP_NUM_TASKS" in variables and variables.get("SLURM_NTASKS") == str(number)
    return int(variables["SLURM_STEP_NUM_TASKS"]) if is_of_slurm else number


def _of_step(address: str, variables: Mapping[str, str]) -> str:
    """The address that JAX chose by the number of a Slurm job, with a port for each step: they may run at once."""
    if "SLURM_STEP_ID" not in variables or "JAX_COORDINATOR_PORT" in variables or not address:
        return address
    job, step = int(variables["SLURM_JOB_ID"]), int(variables["SLURM_STEP_ID"])
    port = SLURM_PORTS[(job + STEP_PORTS * step) % len(SLURM_PORTS)]
    return f"{address.rpartition(':')[0]}:{port}"


def join(member: Member | None, name: str, devices: list[int] | None) -> None:
    """Joins the others that were met under this name, or is the only process of its own job; with these devices.

    Also one process alone has a coordinator: SIGTERM is noticed only where there is one.
    """
    address = member.address if member else _own_address()
    if not member:
        jax.config.update("jax_cpu_collectives_implementation", None)  # gloo looks the host's name up
    jax.distributed.initialize(
        address,
        member.processes if member else 1,
        member.rank if member else 0,
        local_device_ids=devices,
        cluster_detection_method="deactivate",
        initialization_timeout=MEETING_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=PARTING_SECONDS,
        coordinator_bind_address=None if member else address,
    )
    if agree(name, MEETING_SECONDS) != name:
        raise exit_codes.NotMet(f"another job answers at {address}: choose another port for this one")


def check_alike(settings: rendezvous.Settings) -> None:
    """ValueError in every process, naming rank, setting and values, where settings differ between them."""

    def verdict(settings: list[rendezvous.Settings]) -> str:
        differing = [(rank, rendezvous.differences(settings[0], other)) for rank, other in enumerate(settings)]
        return next((f"rank {rank} {difference}" for rank, difference in differing if difference), "")

    refuse(together(settings, verdict))


def refuse(fault: str) -> None:
    """ValueError with a fault that every process has been told, and nothing where there is none.

    They leave together first: the end of process 0, which all others are connected to, would be one more error.
    """
    if fault:
        leave()
        raise ValueError(fault)


def address() -> str:
    """Where process 0 was met."""
    return distributed.global_state.coordinator_address or ""


def leave() -> None:
    """Leaves together with the others; what failed must not, or it would wait for those that are gone."""
    jax.distributed.shutdown()


def agree(value: Any, seconds: float = AGREEING_SECONDS) -> Any:
    """What process 0 gives, in every process: JSON. The others may look at another file system, or another clock."""
    joined = distributed.global_state  # jax.process_count() would start the devices
    if joined.num_processes == 1:
        return value
    key = f"crossover/{next(_numbers)}"
    if joined.process_id == 0:
        _service().key_value_set(key, json.dumps(value))
        return value
    return json.loads(_read(key, seconds))


def together(value: Any, verdict: Callable[[list[Any]], Any], seconds: float = AGREEING_SECONDS) -> Any:
    """What process 0 makes of what every process gives, in the order of their ranks, in every process: JSON."""
    joined = distributed.global_state
    if joined.num_processes == 1:
        return verdict([value])
    key = f"crossover/{next(_numbers)}"
    if joined.process_id:
        _service().key_value_set(f"{key}/{joined.process_id}", json.dumps(value))
        return json.loads(_read(key, seconds))
    others = [json.loads(_read(f"{key}/{rank}", seconds)) for rank in range(1, joined.num_processes)]
    made = json.dumps(verdict([json.loads(json.dumps(value)), *others]))
    _service().key_value_set(key, made)
    return json.loads(made)


def collect(value: Any, seconds: float = AGREEING_SECONDS) -> list[Any]:
    """What every process gives, in the order of their ranks, in every process: JSON."""
    return together(value, list, seconds)


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
        raise exit_codes.PeerLate(f"rank {ranks} did not come to the barrier {name!r} within {seconds:g} s") from error


def _read(key: str, seconds: float = AGREEING_SECONDS) -> str:
    return _service().blocking_key_value_get(key, round(seconds * 1000))


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
