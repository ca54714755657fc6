"""Slurm: an array of workers, each requeued by its own batch script.

A batch script that exits with 75 counts as failed, so it asks for its requeue itself. `--signal` gives notice before
the end of the time; of a preemption it is the partition that says how much time there is to save (GraceTime).
"""

import re
import shlex
from collections.abc import Sequence

from launch.engines import Place, Submission, shell_pattern
from suite.sweep import exit_codes

BOUNDS = {"gpus_per_node": (0, 64), "cpus_per_task": (0, 4096), "notice": (1, 65535), "restarts": (0, 1000)}
TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}|UNLIMITED")


def render(
    argv: Sequence[str],
    place: Place,
    *,
    partition: str = "",
    time: str = "",  # of each worker, as minutes, HH:MM:SS or DAYS-HH:MM:SS
    account: str = "",
    qos: str = "",
    constraint: str = "",
    mem: str = "",  # of a node, as 64G
    gpus_per_node: int = 0,
    cpus_per_task: int = 0,
    exclusive: bool = True,  # timings want a node for themselves
    notice: int = 120,  # seconds before the end of the time
    restarts: int = 10,  # preemptions counted, after which a crash is no longer answered by a requeue
) -> Submission:
    if time and not TIME.fullmatch(time):
        raise ValueError(f"slurm:time wants minutes, HH:MM:SS or DAYS-HH:MM:SS, not {time!r}")
    options = {
        "job-name": place.name,
        "array": f"0-{place.workers - 1}",
        "nodes": place.nodes,
        "ntasks-per-node": place.tasks_per_node,
        "partition": partition,
        "time": time,
        "account": account,
        "qos": qos,
        "constraint": constraint,
        "mem": mem,
        "gpus-per-node": gpus_per_node,
        "cpus-per-task": cpus_per_task,
        "signal": f"TERM@{notice}",
        "open-mode": "append",
        "output": f"{place.folder}/%x-%A_%a.log",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value not in ("", 0)]
    lines += ["#SBATCH --requeue", *(["#SBATCH --exclusive"] if exclusive else [])]
    step = ["srun", "--kill-on-bad-exit=0", *([f"--cpus-per-task={cpus_per_task}"] if cpus_per_task else [])]
    script = f"""\
#!/bin/bash
{chr(10).join(lines)}
job="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
again() {{ [ "$(squeue -h -j $job -o %T)" = RUNNING ] && scontrol requeue $job; }}  # unless it was cancelled
{shlex.join([*step, place.python, "-m", *argv])} &
trap '' TERM  # of a preemption or the end of the time; the step has it too, and saves
wait $!
code=$?
case $code in
    {shell_pattern(exit_codes.RESTARTED)}) again ;;
    {shell_pattern(exit_codes.RESTARTED_A_FEW_TIMES)}) [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] && again ;;
esac
exit $code
"""
    return Submission({"slurm.sh": script}, [["sbatch", f"{place.folder}/slurm.sh"]])
