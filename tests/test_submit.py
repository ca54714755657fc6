"""What launch.submit hands to engines: read as each engine reads it, and run where it can be run."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from programs import command, run

from launch.engines import Place, Submission
from suite import parts
from suite.sweep import exit_codes

FOLDER = "launch.engines"
KUBERNETES = "1.34"
ARGV = ["launch.job", "--mixer=lstm", "--out=gs://bucket/out"]
# A spec of each engine that it can do with, and as many nodes.
SPECS = {
    "slurm": ("slurm:partition=gpu,time=04:00:00,gpus_per_node=8", 2),
    "jobset": ("jobset:image=registry/crossover,queue=lab,tpu=tpu-v5-lite-podslice,topology=4x8", 8),
    "tpu_pod": ("tpu_pod:type=v5litepod-64,zone=us-central1-a,spot=true", 1),
    "skypilot": ("skypilot:accelerators=H100:8,spot=true", 2),
    "local": ("local", 1),
}


JOBSETS = [SPECS["jobset"][0], "jobset:image=i,gpu=nvidia-h100-80gb,volume=data,account=writer", "jobset:image=i,cpu=4"]


def render(spec: str, **place: Any) -> Submission:
    module, knobs = parts.load(FOLDER, spec)
    return module.render(ARGV, Place(**place), **knobs)


def jobset(spec: str = SPECS["jobset"][0], nodes: int = 8, **place: Any) -> dict[str, Any]:
    return json.loads(render(spec, nodes=nodes, **place).files["jobset.json"])


@pytest.mark.parametrize("engine", parts.names(FOLDER))
def test_an_engine_renders_the_command_for_each_of_its_workers(engine: str) -> None:
    spec, nodes = SPECS[engine]
    submission = render(spec, nodes=nodes, workers=3, folder="to")
    text = "".join(submission.files.values())
    assert all(word in text for word in ARGV)
    named = {word for words in submission.commands for word in words if word.startswith("to/")}
    assert named <= {f"to/{name}" for name in submission.files}, "a command reads only what is rendered"
    assert len(submission.commands) == 3 or '"replicas": 3' in text or "--array=0-2" in text
    assert submission == render(spec, nodes=nodes, workers=3, folder="to"), "it is pure"


@pytest.mark.parametrize("engine", parts.names(FOLDER))
def test_the_scripts_of_an_engine_are_bash(engine: str, tmp_path: pathlib.Path) -> None:
    spec, nodes = SPECS[engine]
    for name, text in render(spec, nodes=nodes).files.items():
        if name.endswith(".sh"):
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("spec", "place", "said"),
    [
        ("slurm:partitoin=gpu", {}, "did you mean 'partition'?"),
        ("slurm:time=4h", {}, "slurm:time wants minutes"),
        ("slurm:gpus_per_node=-1", {}, "slurm:gpus_per_node wants 0 to 64; got -1"),
        ("jobset", {}, "jobset wants an image"),
        ("jobset:image=i,tpu=t", {}, "jobset:topology wants the shape of a slice"),
        ("jobset:image=i,tpu=t,topology=4x8", {}, "a slice of 4x8 with 4 chips a node has 8 nodes, not 1"),
        ("jobset:image=i,tpu=t,gpu=g", {}, "jobset wants tpu or gpu, not both"),
        ("jobset:image=i", {"tasks_per_node": 2}, "jobset starts one process a node, not 2"),
        ("tpu_pod:type=v9-8,zone=z", {}, "tpu_pod:type wants a slice of v4-N"),
        ("tpu_pod:type=v6e-8", {}, "tpu_pod wants a zone"),
        ("skypilot:extra=rocm", {}, "skypilot:extra wants one of cuda, tpu, cpu, not 'rocm'"),
        ("local", {"nodes": 2}, "local has 1 node, not 2"),
    ],
)
def test_knobs_and_places_that_an_engine_cannot_do_with_are_refused(
    spec: str, place: dict[str, int], said: str
) -> None:
    with pytest.raises((ValueError, LookupError), match=re.escape(said)):
        render(spec, **place)


@pytest.mark.parametrize("engine", ["tpu_pod:type=v6e-8,zone=z", "skypilot"])
def test_an_engine_that_gives_its_machines_back_wants_a_bucket(engine: str) -> None:
    module, knobs = parts.load(FOLDER, engine)
    with pytest.raises(ValueError, match="wanted an --out in a bucket"):
        module.render(["launch.job", "--out=out/here"], Place(), **knobs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine=slrum", "--", *ARGV], "no engine 'slrum'; did you mean 'slurm'?"),
        (["--engine=slurm:partition=a b", "--", *ARGV], "cannot hand 'a b' to an engine"),
        (["--engine=slurm:time=4h", "--", *ARGV], "slurm:time wants minutes"),
        (["--workers=0", "--", *ARGV], "workers"),
        ([], "wanted -- and a command of launch.compare, launch.job, launch.doctor"),
        (["--", "launch.report", "--out=o"], "wanted -- and a command of launch.compare, launch.job, launch.doctor"),
        (["--", "launch.job", "--mixer=lstm"], "launch.job wants an --out=DIRECTORY"),
        (["--", *ARGV, "--process_id=1"], "--process_id is the engine's to give"),
        (["--", "launch.compare", "--scale=smok", "--out=o"], "scale"),
    ],
)
def test_what_cannot_be_submitted_is_refused_in_one_line(words: list[str], said: str, tmp_path: pathlib.Path) -> None:
    done = run(command("submit", "--to=to", *words), cwd=tmp_path)
    assert done.returncode == exit_codes.REFUSED
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "before anything is written"


OWN = """
from launch.engines import Submission


def render(argv, place, *, queue: str = "short"):
    commands = [["no-such-program", queue, f"{place.folder}/task.txt"]] * place.workers
    return Submission({"task.txt": " ".join(argv)}, commands)
"""


def test_an_engine_of_ones_own_is_a_file_and_dry_run_prints_what_its_program_would_be_given(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    submit = command("submit", "--engine=./mine.py:queue=long", "--workers=2", "--to=to")
    done = run([*submit, "--dry_run", "--", "python", "-m", *ARGV], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files, *commands = done.stdout.split("$ ")
    assert files == f"# to/task.txt\n{' '.join(ARGV)}\n"
    assert commands == ["no-such-program long to/task.txt\n"] * 2
    done = run([*submit, "--", *ARGV], cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (exit_codes.REFUSED, 1)
    assert "no program 'no-such-program' on this machine; --dry_run prints" in done.stderr
    assert not (tmp_path / "to").exists()


def scripted(tmp_path: pathlib.Path, *codes: int) -> tuple[subprocess.Popen, pathlib.Path]:
    """A local worker whose command ends with these codes one after another, and the file of its beginnings."""
    beginnings = tmp_path / "beginnings"
    program = f"""\
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), sys.exit({exit_codes.PREEMPTED})))
path = pathlib.Path({str(beginnings)!r})
tried = len(path.read_text()) if path.exists() else 0
path.write_text("." * (tried + 1))
if tried == {len(codes)}:
    time.sleep(60)
sys.exit({list(codes)}[tried])
"""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "__init__.py").touch()
    (tmp_path / "launch" / "job.py").write_text(program)
    [script] = render("local:restarts=2", python=sys.executable).files.values()
    return subprocess.Popen(["bash", "-c", script], cwd=tmp_path), beginnings


@pytest.mark.parametrize(
    ("codes", "last"),
    [
        ((0,), 0),
        ((70,), 70),
        ((130,), 130),
        ((1,), 1),
        ((75, 75, 75, 75, 0), 0),
        ((137, 124, 0), 0),
        ((134, 75, 143, 137), 137),
    ],
)
def test_a_local_worker_is_started_again_by_its_exit_code(
    codes: tuple[int, ...], last: int, tmp_path: pathlib.Path
) -> None:
    worker, beginnings = scripted(tmp_path, *codes)
    assert worker.wait(timeout=60) == last
    assert len(beginnings.read_text()) == len(codes)


def test_a_local_worker_that_is_given_notice_saves_and_ends(tmp_path: pathlib.Path) -> None:
    worker, beginnings = scripted(tmp_path)
    until = time.monotonic() + 60
    while not beginnings.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.2)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=60) == exit_codes.PREEMPTED
    assert len(beginnings.read_text()) == 1


def schema_errors(manifest: dict[str, Any]) -> list[str]:
    """Where a JobSet breaks the OpenAPI schema of its kind, or its Job that of Kubernetes; no cluster is asked."""
    import kubernetes_validate
    import pydantic
    from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

    [replicated] = manifest["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "worker"}, **replicated["template"]}
    errors = []
    try:
        parsed = JobsetV1alpha2JobSet.from_dict(manifest)
        if parsed is None or parsed.to_dict() != manifest:  # the models drop a field that the schema does not have
            errors.append("a field that a JobSet does not have")
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
    except (pydantic.ValidationError, kubernetes_validate.ValidationError) as error:
        errors.append(str(error))
    return errors


@pytest.mark.parametrize("spec", JOBSETS)
def test_a_jobset_fits_the_schemas_of_jobset_and_of_kubernetes(spec: str) -> None:
    assert schema_errors(jobset(spec, nodes=8, workers=2)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec/failurePolicy/maxRestart", 3),
        ("spec/failurePolicy/maxRestarts", "3"),
        ("spec/replicatedJobs/0/replica", 2),
        ("spec/replicatedJobs/0/template/spec/backofLimit", 3),
        ("spec/replicatedJobs/0/template/spec/template/spec/containers/0/images", "i"),
        ("spec/replicatedJobs/0/template/spec/podFailurePolicy/rules/1/onExitCodes/values", ["70"]),
    ],
)
def test_a_jobset_with_a_wrong_field_is_refused_by_the_same_schemas(path: str, value: Any) -> None:
    manifest = jobset()
    *parents, last = [int(step) if step.isdecimal() else step for step in path.split("/")]
    inner: Any = manifest
    for step in parents:
        inner = inner[step]
    inner[last] = value
    assert schema_errors(manifest)


def test_a_pod_is_replaced_by_its_exit_code_and_a_refusal_fails_the_jobset() -> None:
    manifest = jobset()
    [replicated] = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]

    def action(code: int) -> str:
        """What Kubernetes does: the first rule that fits."""
        for rule in job["podFailurePolicy"]["rules"]:
            if "onExitCodes" in rule:
                wanted = rule["onExitCodes"]
                if (code in wanted["values"]) == (wanted["operator"] == "In"):
                    return rule["action"]
        return "Count"

    assert {code: action(code) for code in (75, 70, 130, 1)} == {
        75: "Ignore",
        70: "FailJob",
        130: "FailJob",
        1: "FailJob",
    }
    assert {action(code) for code in exit_codes.RESTARTED_A_FEW_TIMES} == {"Count"}
    assert job["backoffLimit"] == 10 * 8, "ten restarts of eight pods"
    assert [rule["action"] for rule in manifest["spec"]["failurePolicy"]["rules"]] == ["FailJobSet"]


def test_skypilot_reads_the_task_as_it_is_meant(tmp_path: pathlib.Path) -> None:
    sky = pytest.importorskip("sky", reason="NOT TESTED: no SkyPilot here; pip install skypilot")
    (tmp_path / "task.yaml").write_text(render(SPECS["skypilot"][0], nodes=2).files["skypilot.yaml"])
    task = sky.Task.from_yaml(str(tmp_path / "task.yaml"))
    [resources] = task.resources
    assert (task.name, task.num_nodes, task.workdir) == ("crossover", 2, ".")
    assert (resources.accelerators, resources.use_spot) == ({"H100": 8}, True)
    assert resources.job_recovery["recover_on_exit_codes"] == [exit_codes.PREEMPTED]
    assert ".venv/bin/python -m launch.job --mixer=lstm" in task.run
    subprocess.run(["bash", "-n"], input=task.run, text=True, check=True)


GCLOUD = """\
#!/bin/bash
echo "$*" >> calls
case "$*" in
    *describe*) [ "$(grep -c create calls)" = 1 ] && grep -q 'tpu-vm ssh' calls && echo SUSPENDED || echo ACTIVE ;;
    *ssh*) [ "$(grep -c 'tpu-vm ssh' calls)" = 1 ] && exit 255 || exit 0 ;;
esac
"""


def test_a_slice_that_was_taken_away_is_asked_for_anew_and_deleted_in_the_end(tmp_path: pathlib.Path) -> None:
    """The script, with a stand-in for gcloud that loses the first slice while the command runs."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gcloud").write_text(GCLOUD)
    (tmp_path / "bin" / "gcloud").chmod(0o755)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    [script, _] = render(SPECS["tpu_pod"][0]).files.values()
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-c", script, "tpu_pod.sh", "name"], cwd=tmp_path, env={"PATH": path}, check=True, timeout=60
    )
    calls = [" ".join(line.split()[2:4]) for line in (tmp_path / "calls").read_text().splitlines()]
    once = ["queued-resources create", "queued-resources describe", "tpu-vm scp", "tpu-vm ssh"]
    deleted = "queued-resources delete"
    assert calls == [*once, "queued-resources describe", deleted, *once, deleted]
