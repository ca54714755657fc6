"""SkyPilot: a managed job for each worker, on a cloud, on Kubernetes or on Slurm, which it starts again elsewhere.

SkyPilot recovers from lost machines, and from exit code 75, as often as it takes. For an exit code it has no limit, so
crashes are answered on the machine, as often as `restarts` says.
"""

import json
import shlex
import textwrap
from collections.abc import Sequence

from launch.engines import PORT, Place, Submission, check_bucket, check_one_process, restarting, worker_names
from suite.sweep import exit_codes

BOUNDS = {"restarts": (0, 1000)}
EXTRAS = ("cuda", "tpu", "cpu")


def render(
    argv: Sequence[str],
    place: Place,
    *,
    accelerators: str = "",  # as H100:8 or tpu-v5litepod-8
    infra: str = "",  # as gcp/us-central1, k8s or slurm
    spot: bool = False,
    extra: str = "cuda",  # of the suite's installation; cpu for none
    restarts: int = 10,
) -> Submission:
    check_one_process(place, "skypilot")
    check_bucket(argv, "skypilot")
    if extra not in EXTRAS:
        raise ValueError(f"skypilot:extra wants one of {', '.join(EXTRAS)}, not {extra!r}")
    resources = {"infra": infra, "accelerators": accelerators}
    chosen = "".join(f"  {name}: {json.dumps(value)}\n" for name, value in resources.items() if value)
    package = ".[gcs]" if extra == "cpu" else f".[{extra},gcs]"
    run = f"""\
stopping=
trap 'stopping=yes; kill $child' TERM
export JAX_COORDINATOR_ADDRESS="$(head -n1 <<< "$SKYPILOT_NODE_IPS"):{PORT}"
export JAX_NUM_PROCESSES="$SKYPILOT_NUM_NODES" JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"
{restarting([".venv/bin/python", "-m", *argv], restarts, always=())}"""
    task = f"""\
name: {json.dumps(place.name)}
resources:
{chosen}  use_spot: {json.dumps(spot)}
  job_recovery:
    recover_on_exit_codes: {json.dumps(list(exit_codes.RESTARTED))}
num_nodes: {place.nodes}
workdir: .
setup: |
  python3 -m venv .venv
  .venv/bin/pip install -c constraints.txt -e {shlex.quote(package)}
run: |
{textwrap.indent(run, "  ")}"""
    launch = ["sky", "jobs", "launch", "--yes", "--detach-run"]
    commands = [[*launch, f"--name={name}", f"{place.folder}/skypilot.yaml"] for name in worker_names(place)]
    return Submission({"skypilot.yaml": task}, commands)
