"""The programs as a user meets them: what the command line gets wrong, what is killed, what is run on two processes."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from programs import TINY, assert_same, command, ended, environment, ranks, run, start, training, wait, wait_for_step

from suite import parts
from suite.job import Job
from suite.sweep import store

MINE = '''"""Mean over the past: a mixer from outside this project (2026)."""

import equinox as eqx
import jax
import jax.numpy as jnp


class Mixer(eqx.Module):
    out_DD: jax.Array
    scale: float = eqx.field(static=True)

    def __init__(self, width, *, key, scale: float = 1.0):
        self.out_DD = jax.random.normal(key, (width, width)) / width**0.5
        self.scale = scale

    def __call__(self, x_BTD):
        return self.extend(x_BTD, self.start(x_BTD.shape[0], x_BTD.shape[1], x_BTD.dtype))[0]

    def start(self, batch, length, dtype):
        return jnp.zeros((batch, self.out_DD.shape[0]), jnp.float32), jnp.zeros((), jnp.int32)

    def extend(self, x_BTD, state):
        sum_BD, seen = state
        sums_BTD = sum_BD[:, None] + jnp.cumsum(x_BTD.astype(jnp.float32), axis=1)
        count_T = (seen + 1 + jnp.arange(x_BTD.shape[1])).astype(jnp.float32)
        mean_BTD = (self.scale * sums_BTD / count_T[None, :, None]).astype(x_BTD.dtype)
        return mean_BTD @ self.out_DD.astype(x_BTD.dtype), (sums_BTD[:, -1], seen + x_BTD.shape[1])

    def step(self, x_BD, state):
        y_BTD, state = self.extend(x_BD[:, None], state)
        return y_BTD[:, 0], state
'''


def launch(program: str, *flags: str, devices: int = 1, seconds: float = 280, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(program, *flags), capture_output=True, text=True, timeout=seconds, env=environment(devices), **options
    )


# flags, devices, a word of the answer
REFUSED = {
    "a mixer misspelt": (["--mixer=lstmm"], 1, "did you mean 'lstm'"),
    "a knob misspelt": (["--mixer=attention:head=4"], 1, "did you mean 'heads'"),
    "a width not divisible by heads": (["--width=130"], 1, "width 130 is not a multiple of heads 4"),
    "an unknown corpus": (["--task=text:corpus=nope"], 1, "no corpus 'nope'"),
    "a negative batch": (["--batch=-3"], 1, "--batch=-3"),
    "documents that begin anew, decoded": (["--task=text", "--reset=true", "--measures=decode"], 1, "leave out decode"),
    "a mesh of other size": (["--mesh=data:7"], 8, "wants 7 devices and there are 8"),
    "a batch that does not split": (["--batch=12"], 8, "batch 12 is not a multiple of the 8 devices"),
    "more pairs than fit": (["--task=recall:pairs=100"], 1, "400 tokens; length is 256"),
    "an unknown flag": (["--widht=3"], 1, "Did you mean: width"),
    "a word too much": (["lstm"], 1, "unexpected argument 'lstm'"),
    "an unknown measure": (["--measures=speed"], 1, "known: "),
    "a file that is not there": (["--mixer=./nowhere.py"], 1, "no file ./nowhere.py"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_succeed_is_answered_in_one_line(case: str, tmp_path: pathlib.Path, data_dir: pathlib.Path) -> None:
    flags, devices, word = REFUSED[case]
    ended = launch("job", *flags, f"--out={tmp_path}", f"--data_dir={data_dir}", devices=devices)
    assert ended.returncode == 70
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("program", ["job", "compare"])
def test_an_unwritable_out_is_refused(program: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = launch(program, f"--out={tmp_path / 'file' / 'out'}")
    assert ended.returncode == 70
    assert "cannot write to --out" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("program", ["job", "compare", "report", "calibrate"])
def test_a_place_without_a_client_is_refused_by_every_program(program: str) -> None:
    ended = launch(program, "--out=s3://bucket/out")
    assert ended.returncode == 70
    [line] = ended.stderr.strip().splitlines()
    assert "there is no client for s3:// here; wanted a path or gs://" in line


def test_a_directory_of_any_name_is_the_same_for_every_program(tmp_path: pathlib.Path) -> None:
    home = tmp_path / "a #1? 100% b"
    home.mkdir()
    variables = environment() | {"HOME": str(home)}
    options = {"env": variables, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 200}
    for program, *flags in (("job", *TINY, "--measures=size"), ("compare", "--status"), ("report",)):
        ended = subprocess.run(command(program, *flags, "--out=~/out/"), **options)
        assert ended.returncode == 0, ended.stderr
    assert len(list(home.glob("out/runs/*/size.done"))) == 1
    assert (home / "out" / "report.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == [home.name], "no ./~"


def test_another_users_directory_is_refused_with_advice(tmp_path: pathlib.Path) -> None:
    """A second user, who may read all and write only what is his: with root's files, as under a umask of 022."""
    second = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    second += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # Python may lie in root's home
    if os.geteuid() or not shutil.which("setpriv") or subprocess.run([*second, "true"]).returncode:
        pytest.skip("NOT TESTED: nobody else can be here; it takes root and util-linux")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o777)
    run = store.open_run(tmp_path, Job())
    argv = [*second, *command("job", "--measures=size", "--task=recall:pairs=2,vocab=16", f"--out={tmp_path}")]
    ended = subprocess.run(argv, capture_output=True, text=True, env=environment() | {"HOME": str(tmp_path)})
    assert ended.returncode == 70
    [line] = ended.stderr.strip().splitlines()
    assert f"cannot write to {run}, which belongs to the user root" in line
    assert "umask of 002" in line


@pytest.mark.parametrize(
    "flags",
    [["--arms=lstmm"], ["--claims=paralelism"], ["--scale=huge"], ["--arms=attention:head=2"], ["--mixer=lstm"]],
)
def test_a_comparison_refuses_before_it_starts(flags: list[str], tmp_path: pathlib.Path) -> None:
    ended = launch("compare", *flags, f"--out={tmp_path}")
    assert ended.returncode == 70
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_directory_of_another_job_shows_the_difference(tmp_path: pathlib.Path) -> None:
    job = Job()
    run = store.open_run(tmp_path, job)
    other = store.open_run(tmp_path / "other", job.replace(depth=7)) / "job.json"
    (run / "job.json").write_text(json.dumps(json.loads(other.read_text()) | {"id": run.name}))
    ended = launch("job", f"--out={tmp_path}", "--measures=size", "--data_dir=unused")
    assert ended.returncode == 70
    assert "depth: stored 7, now 2" in ended.stderr


def test_help_of_the_report_is_quick_and_needs_no_jax() -> None:
    code = "import sys, launch.report; sys.exit(any(name in sys.modules for name in ('jax', 'vl_convert', 'equinox')))"
    assert subprocess.run([sys.executable, "-c", code], env=environment(1)).returncode == 0
    began = time.perf_counter()
    assert "--out" in launch("report", "--help").stdout
    assert time.perf_counter() - began < 5  # under one second on an idle machine; this one may be busy


@pytest.mark.parametrize(
    ("program", "cell"),
    [
        (["compare", "--scale=smoke"], "learning lstm"),
        (["contexts"], "length_accuracy"),
        (["crossover", "--to=256"], "step_time"),
        (["inference", "--longest=2048"], "first_token"),
        (["recall"], "decode"),
    ],
)
def test_a_plan_is_printed_and_nothing_run(program: list[str], cell: str, tmp_path: pathlib.Path) -> None:
    ended = launch(*program, "--dry_run", f"--out={tmp_path / 'out'}")
    assert ended.returncode == 0, ended.stderr
    assert cell in ended.stdout
    assert "minutes" in ended.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("program", ["compare", "contexts", "crossover", "inference", "recall"])
def test_an_arm_of_which_no_cell_can_be_made_is_refused_in_one_line(program: str, tmp_path: pathlib.Path) -> None:
    ended = launch(program, "--arms=attention,lstm+gru+attention", "--depth=2", f"--out={tmp_path / 'out'}")
    assert ended.returncode == 70
    [line] = ended.stderr.splitlines()
    assert line == "crossover: depth 2 cuts the pattern of 3 mixers off; give --depth=3"


LONG = ["--steps=1200", "--validate_every=40"]  # a notice is a second under way


@pytest.fixture(scope="module")
def long_whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("whole")
    assert run(training(out, *LONG)).returncode == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_training_ends_bit_identical(
    how: signal.Signals, tmp_path: pathlib.Path, long_whole: pathlib.Path
) -> None:
    killed = tmp_path / "killed"
    process = start(training(killed, *LONG))
    wait_for_step(killed, 40, process)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL)
    assert not list(killed.glob("runs/*/learning.done"))
    assert run(training(killed, *LONG)).returncode == 0
    assert_same(killed, long_whole)
    skipped = run(training(killed, *LONG))
    assert "skipped" in skipped.stdout


# A process inherits that a signal is ignored: undone for where the tests themselves run under nohup.
HEARING_HANGUPS = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])",
]


@pytest.mark.slow
def test_a_terminal_that_is_closed_saves(tmp_path: pathlib.Path) -> None:
    process = start([*HEARING_HANGUPS, *training(tmp_path, "--steps=100000", "--validate_every=40")])
    with ended([process]):
        wait_for_step(tmp_path, 40, process)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 75
    assert list(tmp_path.glob("runs/*/checkpoints/*.manifest"))


def test_a_program_under_nohup_goes_on_when_its_terminal_is_closed() -> None:
    code = (
        "import os, signal, launch\n"
        "from suite.sweep import startup\n"
        "launch.run(lambda: startup.on_hangup(launch._stop) or os.kill(os.getpid(), signal.SIGHUP))\n"
    )
    for before, code_ in ((["nohup"], 0), ([], 75)):
        done = run([*HEARING_HANGUPS, *before, sys.executable, "-c", code])
        assert done.returncode == code_, done.stderr


def test_two_processes_train_like_one(tmp_path: pathlib.Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    # Width 32: from there on LAPACK's QR uses threads, which once kept the devices of a process waiting for ever.
    flags = ["--width=32", "--steps=20", "--validate_every=10", "--record_every=1"]
    subprocess.run([*training(alone), *flags], env=environment(4), check=True, capture_output=True, timeout=200)
    codes, said = wait(ranks([*training(together), *flags], devices=2), 120)
    assert codes == [0, 0], said
    mine, theirs = store.load(together), store.load(alone)
    assert [row["phase"] for row in mine] == [row["phase"] for row in theirs]
    assert mine[-1]["fingerprint"] == theirs[-1]["fingerprint"]
    # float32 sums in another order, over 20 steps.
    np.testing.assert_allclose([row["loss"] for row in mine], [row["loss"] for row in theirs], rtol=1e-5)


def test_a_trace_is_written(tmp_path: pathlib.Path) -> None:
    ended = launch("job", *TINY, "--trace=2", f"--out={tmp_path}")
    assert ended.returncode == 0, ended.stderr
    assert list(tmp_path.glob("runs/*/trace/**/*.xplane.pb"))


def test_what_xla_was_told_is_recorded_and_the_users_word_is_the_last(tmp_path: pathlib.Path) -> None:
    ended = launch("job", *TINY, "--measures=size", f"--out={tmp_path}")
    assert ended.returncode == 0, ended.stderr
    [path] = tmp_path.glob("runs/*/env.json")
    wanted = "--xla_cpu_prefer_vector_width=512 --xla_force_host_platform_device_count=1"
    assert json.loads(path.read_text())["variables"]["XLA_FLAGS"] == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does, and settings are glibc's")
def test_freed_memory_is_kept() -> None:
    code = (
        "import resource, numpy\n"
        "from suite.sweep import startup\n"
        "startup.keep_memory()\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    numpy.ones(1 << 24)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults(), faults())\n"
    )
    first, again = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert first > 100 * again  # 128 MiB


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_the_smoke_scale_runs_reports_and_is_not_run_twice(tmp_path: pathlib.Path, data_dir: pathlib.Path) -> None:
    flags = ["--scale=smoke", f"--out={tmp_path}", f"--data_dir={data_dir}"]
    first = launch("compare", *flags, seconds=1000)
    assert first.returncode == 0, first.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert {claim["name"] for claim in found["claims"]} == set(parts.names("suite.claims"))
    assert {claim["verdict"] for claim in found["claims"]} <= {"untested", "holds"}
    assert "not evidence" in (tmp_path / "report.html").read_text()
    rows = store.load(tmp_path)
    assert {row["outcome"] for row in rows} == {"ok"}
    assert all(row["corpus_sha256"] for row in rows if row["task"].startswith("text"))
    again = launch("compare", *flags)
    assert again.returncode == 0, again.stderr
    assert store.load(tmp_path) == rows


@pytest.mark.slow
def test_an_arm_from_outside_is_compared(tmp_path: pathlib.Path, data_dir: pathlib.Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    flags = ["--scale=smoke", "--arms=./mine.py", "--arms=attention", "--out=out", f"--data_dir={data_dir}"]
    flags.append("--claims=parallelism,inference_memory")
    ended = launch("compare", *flags, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    arms = {row["arm"] for row in store.load(tmp_path / "out")}
    assert {"./mine.py", "attention"} <= arms
    findings = json.loads((tmp_path / "out" / "report.json").read_text())
    assert findings["claims"]
