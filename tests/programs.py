"""The programs, started as a user starts them: commands, ranks of one job, and what they leave behind."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from etils import epath

from suite import mesh as meshes
from suite.job import Cell, Job
from suite.sweep import provenance, store
from suite.sweep.options import Options
from suite.sweep.worker import Worker
from suite.tasks import corpora
from suite.training import checkpoint, rig

TINY = ["--task=recall:pairs=2,vocab=16", "--width=16", "--length=16", "--batch=8", "--learning_rate=3e-3"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_"))}
ENVIRONMENT |= {"JAX_PLATFORMS": "cpu"}


def command(program: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", f"launch.{program}", *flags]


def environment(devices: int = 1) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(provenance.PACKAGE), os.environ.get("PYTHONPATH", "")]))
    return ENVIRONMENT | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "PYTHONPATH": path}


def training(out: pathlib.Path, *flags: str) -> list[str]:
    """A training of 120 steps with a validation and a checkpoint at every twentieth."""
    lengths = ["--steps=120", "--validate_every=20", "--validation_examples=16", "--test_examples=16"]
    waiting = "--lease_seconds=3"  # for a claim whose holder was killed
    return command("job", "--mixer=lstm", *TINY, *lengths, waiting, "--measures=learning", f"--out={out}", *flags)


def run(argv: list[str], devices: int = 1, seconds: float = 400, **options) -> subprocess.CompletedProcess:
    return subprocess.run(argv, capture_output=True, text=True, timeout=seconds, env=environment(devices), **options)


def start(argv: list[str], devices: int = 1, **options) -> subprocess.Popen:
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment(devices)}
    return subprocess.Popen(argv, **usual | options)


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def ranks(argv: list[str], number: int = 2, devices: int = 1, own: Sequence[str] = ()) -> list[subprocess.Popen]:
    """Starts the processes of one job; `own` has one flag more for each of them."""
    together = [f"--coordinator_address={free_address()}", f"--num_processes={number}"]
    return [start([*argv, *together, f"--process_id={rank}", *own[rank : rank + 1]], devices) for rank in range(number)]


@contextlib.contextmanager
def ended(processes: list[subprocess.Popen]) -> Iterator[None]:
    """Leaves none of them behind."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait(processes: list[subprocess.Popen], seconds: float = 400) -> tuple[list[int], list[str]]:
    """Exit codes as a shell gives them, and what was said on stderr."""
    with ended(processes):
        said = [process.communicate(timeout=seconds)[1] for process in processes]
    return [process.returncode if process.returncode >= 0 else 128 - process.returncode for process in processes], said


def wait_for_step(out: pathlib.Path, step: int, process: subprocess.Popen) -> None:
    """Returns when a validation at `step` or later is recorded: its checkpoint comes next, or is under way."""
    while True:
        assert process.poll() is None, "it ended before it could be disturbed"
        if any(row.get("phase") == "validation" and row["step"] >= step for row in store.load(out)):
            return
        time.sleep(0.01)


def rows_of(out: pathlib.Path) -> list[dict]:
    """All that is recorded but what differs between any two runs."""
    dropped = ("seconds", "commit", "source")
    return [{key: value for key, value in row.items() if key not in dropped} for row in store.load(out)]


def final_of(out: pathlib.Path) -> list[np.ndarray]:
    """The trained parameters of the one job there."""
    [(job, run)] = store.survey(out).runs
    return final_of_run(job, run)


def final_of_run(job: Job, run: epath.Path) -> list[np.ndarray]:
    """The trained parameters of one of several."""
    like = rig.build(job, meshes.make(devices=jax.devices()[:1])).state.params
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.restore_final(run / "final", like))]


def assert_same(out: pathlib.Path, whole: pathlib.Path) -> None:
    """Bit by bit: every row, every parameter."""
    assert rows_of(out) == rows_of(whole)
    for mine, theirs in zip(final_of(out), final_of(whole), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def worker(out: pathlib.Path, data_dir: os.PathLike | str = corpora.DATA_DIR) -> Worker:
    """The worker of launch.job in this process, on one device and without a watchdog, which would end the tests."""
    options = Options(out=str(out), lease_seconds=1.0, patience=0.0, data_dir=str(data_dir))
    return Worker(options, meshes.make(devices=jax.devices()[:1]), time.monotonic)


def run_here(out: pathlib.Path, job: Job, *measures: str, data_dir: os.PathLike | str = corpora.DATA_DIR) -> int:
    """What launch.job does of a directory: the door's checks, then the cells; its exit code."""
    store.check_writable(out)
    store.check_run(out, job)
    return worker(out, data_dir).run([Cell(job, measure) for measure in measures])
