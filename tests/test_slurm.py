"""A real preemption by a real Slurm on this machine: a job of low priority is saved, requeued, and ends as if alone."""

import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from programs import assert_same, environment, run, training

from suite import store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(560)]
STEPS = ["--steps=20000", "--validate_every=1000", "--record_every=1000"]

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


def test_a_preempted_job_is_saved_requeued_and_ends_alike(slurm: None, tmp_path: pathlib.Path) -> None:
    out, codes = tmp_path / "out", tmp_path / "codes"
    variables = " ".join(
        f"{name}={value}" for name, value in environment().items() if name in ("XLA_FLAGS", "PYTHONPATH")
    )
    batch = tmp_path / "low.sh"
    batch.write_text(
        "#!/bin/bash\n"
        f"env JAX_PLATFORMS=cpu {variables} srun -n1 --kill-on-bad-exit=0 {' '.join(training(out, *STEPS))} &\n"
        "trap '' TERM\n"  # the notice is for the step; the script waits for it
        "while true; do wait %1; code=$?; kill -0 %1 2> /dev/null || break; done\n"
        f"echo $code >> {codes}\n"
        "[ $code = 75 ] && scontrol requeue $SLURM_JOB_ID\n"
        "exit $code\n"
    )
    high = tmp_path / "high.sh"
    high.write_text("#!/bin/bash\nsleep 5\n")
    options = ["--parsable", "--exclusive", f"--output={tmp_path}/%j.log"]
    job = asked("sbatch", *options, "--requeue", "--partition=low", str(batch))
    assert job
    until = time.monotonic() + 200
    while not any(row.get("phase") == "validation" for row in store.load(out)):
        assert time.monotonic() < until, (tmp_path / f"{job}.log").read_text()
        time.sleep(0.1)
    assert asked("sbatch", *options, "--partition=high", str(high))
    until = time.monotonic() + 250
    while not list(out.glob("runs/*/learning.done")):
        assert time.monotonic() < until, (tmp_path / f"{job}.log").read_text()
        time.sleep(0.2)
    record = next(out.glob("runs/*/learning.cell")).read_text()
    assert '"ended": {"0": 75}' in record, record
    whole = tmp_path.with_name(f"{tmp_path.name}-whole")
    assert run(training(whole, *STEPS)).returncode == 0
    assert_same(out, whole)
