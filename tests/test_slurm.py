"""A real preemption by a real Slurm on this machine: a job of low priority is saved, requeued, and ends as if alone."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from programs import TINY, assert_same, command, environment, ranks, training, wait

from suite.sweep import provenance, store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]
# By the number of tasks: long enough for a notice to come in their middle.
STEPS = {
    1: ["--steps=20000", "--validate_every=1000", "--record_every=1000"],
    2: ["--steps=2000", "--validate_every=100", "--record_every=100"],
}

CONFIGURATION = """
ClusterName=crossover
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 Port={port_of_node} CPUs={cores} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


@pytest.fixture
def slurm(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm of one node on the loopback: no munge, no systemd, nothing under /etc."""
    if os.geteuid() or not shutil.which("slurmctld") or not shutil.which("slurmd"):
        pytest.skip("NOT TESTED: no slurmctld here; apt-get install slurm-wlm, and root")
    (tmp_path / "state").mkdir()
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    facts = {"host": socket.gethostname().partition(".")[0], "folder": tmp_path, "cores": os.cpu_count()}
    configuration = tmp_path / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(port=ports[0], port_of_node=ports[1], **facts))
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    subprocess.run(["slurmctld", "-c", "-f", configuration], check=True)
    subprocess.run(["slurmd", "-f", configuration], check=True)
    try:
        until = time.monotonic() + 60
        while asked("sinfo", "-h", "-o", "%T") != "idle":
            assert time.monotonic() < until, (tmp_path / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.2)
        yield
    finally:
        asked("scancel", "--state=RUNNING")
        for name in ("slurmd", "slurmctld"):
            subprocess.run(["kill", (tmp_path / f"{name}.pid").read_text().strip()], check=False)


def asked(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True).stdout.strip()


def variables() -> str:
    """What a step needs of this environment, as words for env."""
    return " ".join(f"{name}={environment()[name]}" for name in ("JAX_PLATFORMS", "XLA_FLAGS", "PYTHONPATH"))


def script(folder: pathlib.Path, argv: list[str]) -> pathlib.Path:
    """The batch script of BUILD.md, with another program to run and without the GPUs."""
    text = (provenance.PACKAGE / "BUILD.md").read_text().partition("```bash\n")[2].partition("```")[0]
    text, programs = re.subn(
        r"srun (.*) \.venv/bin/python .* &", rf"srun \1 env {variables()} {' '.join(argv)} &", text
    )
    text, gpus = re.subn(r"#SBATCH --gpus-per-node=8\n", "", text)
    assert (programs, gpus) == (1, 1), text
    path = folder / "crossover.sh"
    path.write_text(text)
    return path


@pytest.mark.parametrize("tasks", STEPS)
def test_the_documented_script_is_preempted_saved_requeued_and_ends_alike(
    tasks: int, slurm: None, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "out"
    high = tmp_path / "high.sh"
    high.write_text("#!/bin/bash\nsleep 5\n")
    options = ["--parsable", "--exclusive", f"--output={tmp_path}/%j.log", "--nodes=1", f"--ntasks-per-node={tasks}"]
    job = asked("sbatch", *options, "--partition=low", str(script(tmp_path, training(out, *STEPS[tasks]))))
    assert job
    until = time.monotonic() + 200
    while not any(row.get("phase") == "validation" for row in store.load(out)):
        assert time.monotonic() < until, (tmp_path / f"{job}.log").read_text()
        time.sleep(0.1)
    assert asked("sbatch", *options, "--partition=high", str(high))
    until = time.monotonic() + 400  # a busy machine takes a minute and more for what an idle one does in ten seconds
    while not list(out.glob("runs/*/learning.done")):
        assert time.monotonic() < until, (tmp_path / f"{job}.log").read_text()
        time.sleep(0.2)
    record = next(out.glob("runs/*/learning.cell")).read_text()
    assert '"ended": {"0": 75}' in record, record
    log = (tmp_path / f"{job}.log").read_text()
    assert log.count("started learning") == 2, "the log is appended to"
    assert "DUE TO PREEMPTION" not in log, "the script has asked for its requeue, before its time was over"
    whole = tmp_path.with_name(f"{tmp_path.name}-whole")
    codes, said = wait(ranks(training(whole, *STEPS[tasks]), tasks))
    assert codes == [0] * tasks, said
    assert_same(out, whole)


def test_two_jobs_within_one_task_are_each_alone(slurm: None, tmp_path: pathlib.Path) -> None:
    """JAX takes every process of a task for rank 0 of 1 at one port."""
    jobs = [" ".join(command("job", *TINY, "--measures=size", f"--out={tmp_path / name}")) for name in "ab"]
    both = "; ".join([*(f"{job} & p{number}=$!" for number, job in enumerate(jobs)), "wait $p0 && wait $p1"])
    done = subprocess.run(
        ["srun", "-n1", "env", *variables().split(), "bash", "-c", both], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert [store.load(tmp_path / name)[0]["n_processes"] for name in "ab"] == [1, 1]
