"""Cloud TPU: a queued resource for each worker, the same command on every host of its slice, and its deletion.

The script asks for the slice, waits for it, installs the suite, runs the command and deletes the slice, whatever came
of it. Processes are started again on their hosts; a slice that was taken away is asked for anew.
"""

import shlex
from collections.abc import Sequence

from launch.engines import Place, Submission, check_bucket, check_one_process, restarting, worker_names

BOUNDS = {"restarts": (0, 1000)}
# By the beginning of an accelerator's type: the software of its hosts.
RUNTIMES = {
    "v4-": "tpu-ubuntu2204-base",
    "v5litepod-": "v2-alpha-tpuv5-lite",
    "v5p-": "v2-alpha-tpuv5",
    "v6e-": "v2-alpha-tpuv6e",
}


def render(
    argv: Sequence[str],
    place: Place,
    *,
    type: str = "",  # of the slice, as v5litepod-256
    zone: str = "",
    project: str = "",  # empty: gcloud's
    runtime: str = "",  # empty: the one for the type
    spot: bool = False,
    restarts: int = 10,
) -> Submission:
    check_one_process(place, "tpu_pod", most_nodes=1)  # the type says how many hosts a slice has
    check_bucket(argv, "tpu_pod")
    runtime = runtime or next((name for start, name in RUNTIMES.items() if type.startswith(start)), "")
    if not runtime:
        known = ", ".join(f"{start}N" for start in RUNTIMES)
        raise ValueError(f"tpu_pod:type wants a slice of {known}, or runtime= beside it; got {type!r}")
    if not zone:
        raise ValueError("tpu_pod wants a zone, as tpu_pod:type=v5litepod-256,zone=us-central1-a")
    where = shlex.join([f"--zone={zone}", *([f"--project={project}"] if project else []), "--quiet"])
    asked = shlex.join([f"--accelerator-type={type}", f"--runtime-version={runtime}", *(["--spot"] if spot else [])])
    on_host = f"""\
set -e
mkdir -p crossover
tar xzf crossover.tar.gz -C crossover
cd crossover
lock="-o DPkg::Lock::Timeout=600"  # a fresh host updates itself
sudo apt-get $lock update
sudo apt-get $lock install -y python3.12-venv || {{
    sudo add-apt-repository -y ppa:deadsnakes/ppa
    sudo apt-get $lock install -y python3.12-venv
}}
python3.12 -m venv .venv
.venv/bin/pip install -q -c constraints.txt -e '.[tpu]'
set +e
stopping=
trap 'stopping=yes; kill $child' TERM HUP
{restarting([".venv/bin/python", "-m", *argv], restarts)}"""
    script = f"""\
#!/bin/bash
name=$1
tpus() {{ gcloud compute tpus "$@" {where}; }}
state() {{ tpus queued-resources describe "$name" --format='value(state.state)'; }}
delete() {{ trap - EXIT; tpus queued-resources delete "$name" --force; }}
source=$(mktemp -d)/crossover.tar.gz
git ls-files -z --cached --others --exclude-standard | tar czf "$source" --null --files-from=- || exit
for attempt in $(seq 0 {restarts}); do
    tpus queued-resources create "$name" --node-id="$name" {asked} || exit
    trap delete EXIT
    until [ "$(state)" = ACTIVE ]; do
        case $(state) in FAILED | SUSPENDED) break ;; esac
        sleep 30
    done
    tpus tpu-vm scp "$source" {place.folder}/on_host.sh "$name:" --worker=all &&
        tpus tpu-vm ssh "$name" --worker=all --command='bash on_host.sh'
    code=$?
    [ $code = 0 ] || [ "$(state)" = ACTIVE ] && exit $code
    delete
done
exit $code
"""
    commands = [["bash", f"{place.folder}/tpu_pod.sh", name] for name in worker_names(place)]
    return Submission({"tpu_pod.sh": script, "on_host.sh": on_host}, commands)
