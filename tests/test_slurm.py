"""Real preemptions by a real Slurm on this machine: what it stops is saved, requeued, and ends as if alone."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from programs import TINY, command, environment, final_of_run, ranks, rows_of, wait

from suite.job import Cell, Job
from suite.sweep import store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]
CORES = 4  # as the nodes count them, whatever the machine has: two workers of two processes at once
CONFIGURATION = """
ClusterName=crossover
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
SlurmctldPort={port}
FirstJobId={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmdParameters=config_overrides
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
GresTypes=gpu
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 Port={port_of_node} CPUs={cores} Gres=gpu:4 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


@pytest.fixture
def slurm(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm of one node on the loopback: no munge, no systemd, nothing under /etc.

    Its jobs have numbers of their own, for processes meet at a port that follows from the number of their job.
    """
    if os.geteuid() or not shutil.which("slurmctld") or not shutil.which("slurmd"):
        pytest.skip("NOT TESTED: no slurmctld here; apt-get install slurm-wlm, and root")
    (tmp_path / "state").mkdir()
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    facts = {"host": socket.gethostname().partition(".")[0], "folder": tmp_path, "cores": CORES}
    configuration = tmp_path / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(port=ports[0], port_of_node=ports[1], **facts))
    for number in range(4):  # Slurm gives out device files, whatever is behind them
        os.mknod(tmp_path / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tmp_path / "gres.conf").write_text(f"Name=gpu File={tmp_path}/gpu[0-3]\n")
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


def test_an_array_of_workers_is_preempted_and_killed_and_ends_alike(
    slurm: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers of two processes each share four trainings; a job of high priority takes their node."""
    for name in ("JAX_PLATFORMS", "XLA_FLAGS", "PYTHONPATH"):
        monkeypatch.setenv(name, environment()[name])
    job = Job(mixer="lstm", task="recall:pairs=2,vocab=16", width=16, length=16, batch=8, learning_rate=3e-3)
    job = job.replace(steps=1200, validate_every=100, validation_examples=16, test_examples=16)
    cells = [Cell(job.replace(seed=seed), "learning").to_dict() for seed in range(4)]
    (tmp_path / "cells.json").write_text(json.dumps({"cells": cells, "asked": {}}))
    flags = [f"--cells={tmp_path}/cells.json", "--lease_seconds=3"]  # as launch.compare gives them to its children
    out, whole = tmp_path / "out", tmp_path / "whole"
    engine = ["--engine=slurm:partition=low,exclusive=false", "--workers=2", "--tasks_per_node=2"]
    submit = command("submit", *engine, f"--to={tmp_path}", "--", "launch.job", *flags, f"--out={out}")
    submitted = subprocess.run(submit, capture_output=True, text=True, timeout=200, check=False)
    assert submitted.returncode == 0, submitted.stderr
    array = re.findall(r"Submitted batch job (\d+)", submitted.stdout)[0]

    def logs() -> dict[str, str]:
        return {path.name: path.read_text() for path in tmp_path.glob("crossover-*.log")}

    def wait_until(condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 400  # a busy machine takes a minute for what an idle one does in ten seconds
        while not condition():
            assert time.monotonic() < until, (asked("squeue", "-o", "%i %T %r %j"), logs())
            time.sleep(0.1)

    wait_until(lambda: any(row.get("phase") == "validation" for row in store.load(out)))
    processes = asked("scontrol", "listpids", asked("squeue", "-h", "-j", f"{array}_1", "-o", "%A"))
    for pid in re.findall(r"^(\d+) +\d+ +0 ", processes, re.MULTILINE):  # of its step: the script lives
        os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: state(array, 1, "Restarts") == "1")
    asked("sbatch", "--partition=high", "--exclusive", f"--output={tmp_path}/high.log", "--wrap=sleep 1")
    wait_until(lambda: state(array, 0, "Restarts") == "1")
    # Meanwhile, for Slurm waits until its credentials have expired before it starts a job again.
    codes, said = wait(ranks(command("job", *flags, f"--out={whole}"), 2))
    assert codes == [0, 0], said
    wait_until(lambda: not asked("squeue", "-h", "-j", array))
    assert [state(array, number) for number in (0, 1)] == ["COMPLETED"] * 2, logs()
    assert sorted(logs()) == [f"crossover-{array}_{number}.log" for number in (0, 1)]
    assert "stopped, and saved" in logs()[f"crossover-{array}_0.log"]
    assert all("DUE TO PREEMPTION" not in text for text in logs().values()), "a script has asked for its requeue itself"
    assert trained(out) == trained(whole)
    assert sorted(trained(out)) == [0, 1, 2, 3]


def state(array: str, number: int, word: str = "JobState") -> str:
    """What Slurm says of a worker of an array."""
    return re.findall(rf"\b{word}=(\w+)", asked("scontrol", "show", "job", f"{array}_{number}"))[0]


def trained(out: pathlib.Path) -> dict[int, tuple[list[dict], list[bytes]]]:
    """Of the training of each seed its rows, without what differs from run to run, and the bits of its parameters."""
    rows = [row for row in rows_of(out) if row["measure"] == "learning"]
    return {
        job.seed: (
            [row for row in rows if row["run_id"] == job.id],
            [leaf.tobytes() for leaf in final_of_run(job, run)],
        )
        for job, run in store.survey(out).runs
        if (run / "final").exists()
    }


def test_two_jobs_within_one_task_are_each_alone(slurm: None, tmp_path: pathlib.Path) -> None:
    """JAX takes every process of a task for rank 0 of 1 at one port."""
    jobs = [" ".join(command("job", *TINY, "--measures=size", f"--out={tmp_path / name}")) for name in "ab"]
    both = "; ".join([*(f"{job} & p{number}=$!" for number, job in enumerate(jobs)), "wait $p0 && wait $p1"])
    done = subprocess.run(
        ["srun", "-n1", "env", *variables().split(), "bash", "-c", both], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert [store.load(tmp_path / name)[0]["n_processes"] for name in "ab"] == [1, 1]


def in_step(*options: str, program: str) -> list[str]:
    """What each task of a step prints, in the order of their ranks."""
    argv = ["srun", "--label", *options, "env", *variables().split(), sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return [line.partition(": ")[2] for line in sorted(done.stdout.splitlines())]


def test_each_task_has_its_rank_and_its_gpus(slurm: None) -> None:
    program = (
        "import os\n"
        "from suite.sweep import processes\n"
        "member = processes.find('', 0, -1, os.environ)\n"
        "print(member and (member.rank, member.processes), os.environ['CUDA_VISIBLE_DEVICES'],"
        " processes.local_devices(os.environ))\n"
    )
    assert in_step("-n1", "--gpus-per-node=4", program=program) == ["None 0,1,2,3 None"], "alone, with all that it sees"
    each = in_step("-n2", "--gpus-per-task=1", program=program)
    assert each == ["(0, 2) 0 None", "(1, 2) 1 None"], "each sees its own"
    shared = in_step("-n2", "--gpus-per-node=4", program=program)
    assert shared == ["(0, 2) 0,1,2,3 [0, 1]", "(1, 2) 0,1,2,3 [2, 3]"], "each sees all and takes its half"


SIZES = """
from suite.claims import Finding
from suite.job import Cell

QUESTION = TEXTBOOK = CLAIMED = RULE = "none"
SIZES = {}


def cells(scale, rows):
    return [Cell(scale.arm(arm), "size") for arm in scale.arms]


def judge(rows):
    return Finding("untested", "measured")


def tell(rows, judged):
    return judged
"""


def test_a_comparison_in_a_shell_of_an_allocation_has_workers_of_one_process(
    slurm: None, tmp_path: pathlib.Path
) -> None:
    """The shell that salloc opens on a node has the variables of a task, among others the allocation's two tasks."""
    (tmp_path / "sizes.py").write_text(SIZES)
    flags = [*TINY, "--scale=smoke", "--arms=lstm,gru", f"--claims={tmp_path}/sizes.py", f"--out={tmp_path}/out"]
    line = " ".join(["env", variables(), *command("compare", *flags, "--workers=2")])
    (tmp_path / "compared.sh").write_text(f"env > {tmp_path}/variables; {line} > {tmp_path}/said 2>&1\n")
    step = ["srun", "--interactive", "--preserve-env"]  # as salloc starts the user's shell, which needs a terminal
    done = subprocess.run(
        ["salloc", "-n2", *step, "bash", f"{tmp_path}/compared.sh"], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    given = (tmp_path / "variables").read_text()
    assert "SLURM_NTASKS=2" in given
    assert "SLURM_PROCID=0" in given, "as a task has it"
    said = (tmp_path / "said").read_text()
    assert "report: " in said, said
    assert {row["n_processes"] for row in store.load(tmp_path / "out")} == {1}


def test_two_steps_of_one_allocation_do_not_meet(slurm: None, tmp_path: pathlib.Path) -> None:
    doctors = [
        f"srun -n2 --exact env {variables()} {' '.join(command('doctor', f'--out={tmp_path / name}', '--patience=60'))}"
        for name in "ab"
    ]
    both = "; ".join([*(f"{step} & p{number}=$!" for number, step in enumerate(doctors)), "wait $p0 && wait $p1"])
    done = subprocess.run(["salloc", "-n4", "bash", "-c", both], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    tables = [line for line in done.stdout.splitlines() if line.startswith("rank 0: ")]
    assert len([line for line in tables if line.startswith("rank 0: all-reduce of 16 MiB over 2 devices")]) == 2
    assert len([line for line in tables if line.startswith("rank 0: 1 ")]) == 2
