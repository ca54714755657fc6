"""Kubernetes: a JobSet with a Job for each worker and a pod for each of its nodes, which Kueue may queue.

The Job replaces pods by their exit codes; a code that no restart can mend fails it, and with it the JobSet.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from launch.engines import PORT, Place, Submission, check_one_process
from suite.sweep import exit_codes

BOUNDS = {"chips": (1, 16), "gpus": (1, 64), "notice": (1, 86400), "restarts": (0, 1000)}
SHARED = "/shared"  # where a claimed volume lies in a pod
JOB_INDEX = "metadata.labels['jobset.sigs.k8s.io/job-index']"
POD_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def render(
    argv: Sequence[str],
    place: Place,
    *,
    image: str = "",
    queue: str = "",  # of Kueue, in the namespace
    namespace: str = "default",
    tpu: str = "",  # of GKE's node label, as tpu-v5-lite-podslice
    topology: str = "",  # of a worker's slice, as 16x16
    chips: int = 4,  # TPU chips of a node
    gpu: str = "",  # of GKE's node label, as nvidia-h100-80gb; "any" for no label
    gpus: int = 8,  # of a node
    cpu: str = "",
    memory: str = "",
    volume: str = "",  # a PersistentVolumeClaim, at /shared in every pod
    account: str = "",  # a Kubernetes service account, as one that may write to a bucket
    notice: int = 120,  # seconds to save in
    restarts: int = 10,  # of all nodes of a worker
) -> Submission:
    check_one_process(place, "jobset")
    if not image:
        raise ValueError("jobset wants an image with the suite in it, as jobset:image=REGISTRY/crossover")
    if tpu and gpu:
        raise ValueError("jobset wants tpu or gpu, not both")
    if tpu and not re.fullmatch(r"\d+(x\d+){1,2}", topology):
        raise ValueError(f"jobset:topology wants the shape of a slice, as 16x16, not {topology!r}")
    if tpu and math.prod(map(int, topology.split("x"))) != place.nodes * chips:
        nodes = math.prod(map(int, topology.split("x"))) / chips
        raise ValueError(
            f"a slice of {topology} with {chips} chips a node has {nodes:g} nodes, not {place.nodes}: --nodes"
        )
    selector: dict[str, str] = {}
    resources = {name: amount for name, amount in {"cpu": cpu, "memory": memory}.items() if amount}
    if tpu:
        selector = {"cloud.google.com/gke-tpu-accelerator": tpu, "cloud.google.com/gke-tpu-topology": topology}
        resources["google.com/tpu"] = str(chips)
    elif gpu:
        selector = {} if gpu == "any" else {"cloud.google.com/gke-accelerator": gpu}
        resources["nvidia.com/gpu"] = str(gpus)
    container: dict[str, Any] = {
        "name": "crossover",
        "image": image,
        "command": ["python", "-m", *argv],
        "env": variables(place),
        "resources": {"requests": resources, "limits": resources},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",  # a pod failure policy wants it
        "terminationGracePeriodSeconds": notice,
        "nodeSelector": selector,
        "containers": [container],
    }
    if volume:
        container["volumeMounts"] = [{"name": "shared", "mountPath": SHARED}]
        pod["volumes"] = [{"name": "shared", "persistentVolumeClaim": {"claimName": volume}}]
    if account:
        pod["serviceAccountName"] = account
    job = {
        "completionMode": "Indexed",
        "completions": place.nodes,
        "parallelism": place.nodes,
        "backoffLimit": restarts * place.nodes,  # which counts pods: where one dies the others end too
        "podReplacementPolicy": "Failed",  # else a new pod would meet the old ones
        "podFailurePolicy": {"rules": failure_rules()},
        "template": {"spec": pod},
    }
    metadata: dict[str, Any] = {"name": place.name, "namespace": namespace}
    if queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": queue}
    if tpu:  # a slice is a node pool: each worker has one to itself
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    refused = {"name": "refused", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    jobset = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": 0, "rules": [refused]},  # the Jobs have had theirs
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "replicatedJobs": [{"name": "worker", "replicas": place.workers, "template": {"spec": job}}],
        },
    }
    return Submission(
        {"jobset.json": json.dumps(jobset, indent=2) + "\n"},
        [["kubectl", "create", "-f", f"{place.folder}/jobset.json"]],
    )


def variables(place: Place) -> list[dict[str, Any]]:
    """Rank and coordinator of a pod: process 0 of its worker, by the name that a JobSet gives it."""
    return [
        {"name": "JOB_INDEX", "valueFrom": {"fieldRef": {"fieldPath": JOB_INDEX}}},
        {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": POD_INDEX}}},
        {"name": "JAX_NUM_PROCESSES", "value": str(place.nodes)},
        {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{place.name}-worker-$(JOB_INDEX)-0.{place.name}:{PORT}"},
    ]


def failure_rules() -> list[dict[str, Any]]:
    """What a Job makes of a pod that failed: the first rule that fits."""
    again = sorted([*exit_codes.RESTARTED, *exit_codes.RESTARTED_A_FEW_TIMES])
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},  # preempted, evicted
        {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": again}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": list(exit_codes.RESTARTED)}},
        {"action": "Count", "onExitCodes": {"operator": "In", "values": list(exit_codes.RESTARTED_A_FEW_TIMES)}},
    ]
