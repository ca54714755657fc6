"""What a machine cannot do is a result: a row with its reason and the estimate, and the sweep goes on."""

import os
import pathlib
import subprocess

import pytest
from programs import TINY, command, environment, run

from suite.sweep import exit_codes, store

pytestmark = pytest.mark.timeout(600)
CGROUP = pathlib.Path("/sys/fs/cgroup/memory/crossover-test")

REFUSES = '''
"""A mixer that no platform has a program for (2026)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import ffi


class Mixer(eqx.Module):
    out_DD: jax.Array

    def __init__(self, width, *, key):
        self.out_DD = jax.random.normal(key, (width, width)) / width**0.5

    def __call__(self, x_BTD):
        call = ffi.ffi_call("crossover_no_such_target", jax.ShapeDtypeStruct(x_BTD.shape, x_BTD.dtype))

        @jax.custom_vjp
        def refused(x_BTD):
            return call(x_BTD)

        refused.defvjp(lambda x_BTD: (call(x_BTD), None), lambda _, y_BTD: (y_BTD,))
        return refused(x_BTD) @ self.out_DD.astype(x_BTD.dtype)

    def start(self, batch, length, dtype):
        return jnp.zeros((), jnp.int32)

    def extend(self, x_BTD, state):
        return x_BTD @ self.out_DD.astype(x_BTD.dtype), state + x_BTD.shape[1]

    def step(self, x_BD, state):
        return x_BD @ self.out_DD.astype(x_BD.dtype), state + 1
'''


def test_what_no_device_holds_is_a_row_and_the_next_cell_is_run(tmp_path: pathlib.Path) -> None:
    # Scores of 65,536 tokens with themselves: 550 GB at 32 heads, which no allocator promises. Nothing is touched.
    large = ["--mixer=attention:heads=32,implementation=reference", "--task=recall:pairs=2,vocab=16", "--width=64"]
    flags = [*large, "--length=65536", "--batch=1", "--depth=1", "--measures=step_time,size", f"--out={tmp_path}"]
    ended = run(command("job", *flags))
    assert ended.returncode == 0, ended.stderr
    [refused] = [row for row in store.load(tmp_path) if row["outcome"] != "ok"]
    assert refused["outcome"] == "oom"
    assert refused["estimate_bytes"] > 4 * 32 * 65536**2
    assert any(row["measure"] == "size" for row in store.load(tmp_path)), "the next cell was run"
    assert run(command("report", f"--out={tmp_path}")).returncode == 0
    told = (tmp_path / "report.md").read_text()
    assert "Cells without a number" in told
    assert "out of memory" in told
    assert "the compiled step" in told


def test_what_does_not_compile_is_a_row_and_the_next_cell_is_run(tmp_path: pathlib.Path) -> None:
    (tmp_path / "refuses.py").write_text(REFUSES)
    flags = ["--mixer=./refuses.py", *TINY, "--measures=learning,decode:shortest=16,longest=16", "--out=out"]
    ended = run(command("job", *flags), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    [refused] = [row for row in store.load(tmp_path / "out") if row["outcome"] != "ok"]
    assert refused["outcome"] == "did_not_compile"
    assert "crossover_no_such_target" in refused["error"]
    assert refused["estimate_bytes"] > 0
    assert any(row["measure"].startswith("decode") for row in store.load(tmp_path / "out")), "the next cell was run"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError("Timeout waiting at barrier 'a'. The original error raised was: INTERNAL: Barrier failed"), 134),
        (RuntimeError("UNAVAILABLE: Gloo: Connection closed by peer"), 134),
        (TimeoutError("Overall save timeout exceeded."), 70),
        (ValueError("Barrier failed"), 70),
    ],
)
def test_the_end_of_a_peer_is_told_from_an_own_error(error: Exception, code: int) -> None:
    assert exit_codes.code_of(error) == code


@pytest.mark.slow
def test_what_the_host_has_no_memory_for_is_found_by_two_kills(tmp_path: pathlib.Path) -> None:
    """A real memory cgroup, and trainings that eat all of it at their third step."""
    if not os.access(CGROUP.parent, os.W_OK) or not (CGROUP.parent / "memory.limit_in_bytes").exists():
        pytest.skip("NOT TESTED: no memory cgroup (version 1) can be made here; it takes root")
    CGROUP.mkdir(exist_ok=True)
    try:
        (CGROUP / "memory.limit_in_bytes").write_text(str(2 << 30))  # what the comparison needs and half as much again
        flags = ["--scale=smoke", "--claims=gradient_flow", "--task=recall:pairs=2,vocab=16", "--fault=hog@3:0"]
        inside = f"echo $$ > {CGROUP}/cgroup.procs; exec " + " ".join(command("compare", *flags, f"--out={tmp_path}"))
        ended = subprocess.run(["sh", "-c", inside], capture_output=True, text=True, env=environment(), check=False)
    finally:
        CGROUP.rmdir()
    assert ended.returncode == 0, ended.stderr
    rows = [row for row in store.load(tmp_path) if row["outcome"] != "ok"]
    assert rows
    assert {(row["measure"], row["outcome"], row["error"]) for row in rows} == {("learning", "oom", "2 tries: 137")}
    assert all(row["estimate_bytes"] > 0 for row in rows)
    assert "out of memory" in (tmp_path / "report.md").read_text()
