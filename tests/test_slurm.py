"""A real preemption by a real Slurm on this machine: a job of low priority is saved, requeued, and ends as if alone."""

import os
import pathlib
import re
import shutil
import socket
import stat
import subprocess
import sys
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
LaunchParameters=use_interactive_step
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
    if not shutil.which("script"):
        pytest.skip("NOT TESTED: no terminal without script; apt-get install bsdutils")
    (tmp_path / "sizes.py").write_text(SIZES)
    flags = [*TINY, "--scale=smoke", "--arms=lstm,gru", f"--claims={tmp_path}/sizes.py", f"--out={tmp_path}/out"]
    line = " ".join(["env", variables(), *command("compare", *flags, "--workers=2")])
    (tmp_path / "typed.sh").write_text(f"env > {tmp_path}/variables; {line} > {tmp_path}/said 2>&1\n")
    subprocess.run(
        ["script", "-qec", "salloc -n2", "/dev/null"],
        input=f"bash {tmp_path}/typed.sh; exit\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    given = (tmp_path / "variables").read_text()
    assert "SLURM_NTASKS=2" in given
    assert "SLURM_PROCID=0" in given, "as a task has it"
    rows = store.load(tmp_path / "out")
    assert [row["n_processes"] for row in rows] == [1, 1], (tmp_path / "said").read_text()


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
