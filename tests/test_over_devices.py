"""What is measured over devices: bytes that a step sends, weak scaling, and the section of the report."""

import pathlib

import jax
import pytest
from programs import command, ranks, rows_of, wait
from test_report import CPU, put

from suite import mesh as meshes
from suite import report
from suite.job import Job
from suite.measures import collectives, weak_scaling
from suite.report import over_devices, records
from suite.report.page import Chart
from suite.sweep.record import Row
from suite.training import rig

JOB = Job(mixer="lstm", task="recall:pairs=1,vocab=16", width=16, depth=1, length=12, batch=16)


def test_the_sum_of_a_step_is_that_of_its_gradients_and_a_few_numbers(devices: list) -> None:
    built = rig.build(JOB, meshes.make(devices=devices))
    *rows, total = collectives.measure(built)
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(built.state.params))
    assert 0 <= total["sent_bytes"] - 2 * 7 * gradients // 8 < 64
    assert {(row["operation"], row["axes"], row["loops"]) for row in rows} == {("all-reduce", "data", "outside")}
    assert sum(row["sent_bytes"] for row in rows) == total["sent_bytes"]
    assert total["sent_bytes_per_token"] == total["sent_bytes"] / (16 * 12 / 8)


def test_one_device_sends_nothing(devices: list) -> None:
    [row] = collectives.measure(rig.build(JOB, meshes.make(devices=devices[:1])))
    assert (row["operation"], row["calls"], row["sent_bytes"]) == ("all", 0, 0)


@pytest.mark.parametrize(
    ("spec", "n_devices", "expected"),
    [
        ("data:8", 2, "data:2"),
        ("data:4,fsdp:2", 4, "data:2,fsdp:2"),
        ("data:2,fsdp:2,model:2", 2, "model:2"),
        ("context:8", 4, "context:4"),
    ],
)
def test_a_smaller_mesh_has_the_last_axes_of_the_whole_one(
    spec: str, n_devices: int, expected: str, devices: list
) -> None:
    built = rig.build(JOB.replace(length=16), meshes.make(spec, devices))
    part = weak_scaling.on_devices(built, n_devices)
    assert meshes.words(part.mesh) == expected
    assert list(part.mesh.devices.flat) == devices[:n_devices]
    assert (part.job.batch, part.programs.job.batch) == (2 * n_devices,) * 2


def test_every_number_of_devices_steps_on_the_same_batch_a_device(devices: list) -> None:
    rows = list(weak_scaling.measure(rig.build(JOB, meshes.make(devices=devices)), rounds=2, warmup=0))
    assert [row["devices"] for row in rows] == [1, 2, 4, 8] * 2
    assert {row["tokens"] / row["calls"] / row["devices"] for row in rows} == {2 * 12}
    assert [row["mesh_axes"] for row in rows[:2]] == ["data:1", "data:2"]


def test_a_batch_that_few_devices_cannot_share_is_timed_on_more(devices: list) -> None:
    built = rig.build(JOB.replace(batch=24, microbatch=8), meshes.make(devices=devices))
    assert weak_scaling.numbers_of_devices(built) == [1, 2, 4, 8]
    assert weak_scaling.on_devices(built, 2).job.microbatch == 2


@pytest.mark.slow
def test_two_processes_time_their_own_devices_and_then_all(tmp_path: pathlib.Path) -> None:
    flags = ["--mixer=lstm", "--task=recall:pairs=1,vocab=16", "--width=16", "--depth=1", "--length=12", "--batch=16"]
    argv = command("job", *flags, "--measures=collectives,weak_scaling:rounds=1,warmup=0", f"--out={tmp_path}")
    codes, said = wait(ranks(argv, devices=2))
    assert codes == [0, 0], said
    scaled = [row for row in rows_of(tmp_path) if row.get("phase") == "scaling"]
    assert [row["devices"] for row in scaled] == [1, 2, 4]
    assert all(row["fastest_seconds"] <= row["burst_seconds"] <= row["slowest_seconds"] for row in scaled)


def put_sent(root: pathlib.Path, job: Job, axes: str, sent: int) -> None:
    n_devices = int(axes.rpartition(":")[2])
    place = CPU | {"place": f"here-{axes}", "n_devices": n_devices, "mesh": axes}
    tokens = job.batch * job.length / n_devices
    shared = {"phase": "collectives", "tokens": tokens, "calls": 3}
    kinds = [("all-reduce", "data", "outside"), ("all", "all", "all")] if sent else [("all", "all", "all")]
    rows = [
        shared | dict(zip(("operation", "axes", "loops"), kind, strict=True)) | {"sent_bytes": sent} for kind in kinds
    ]
    put(root, job, "collectives", [row | {"sent_bytes_per_token": sent / tokens} for row in rows], place)


def put_scaling(root: pathlib.Path, job: Job, kept: dict[int, float]) -> None:
    """Rounds that differ in speed by a factor, in each of which so much of one device's rate is kept."""
    rows: list[Row] = []
    for turn, slow in enumerate((1.0, 3.0, 1.5)):
        for devices, share in kept.items():
            seconds = slow * 0.2 / share * (1 + 0.01 * turn * (devices > 1))
            times = dict.fromkeys(("burst_seconds", "fastest_seconds", "slowest_seconds"), seconds)
            at = {"devices": devices, "mesh_axes": f"data:{devices}", "calls": 5, "tokens": 5 * 24 * devices}
            rows.append({"phase": "scaling", "turn": turn, **at, **times})
    put(root, job, "weak_scaling:rounds=3", rows, CPU | {"n_devices": max(kept), "n_processes": 1})


def test_the_report_draws_bytes_of_every_mesh_and_scaling_of_this_place(tmp_path: pathlib.Path) -> None:
    for n_devices, sent in ((1, 0), (2, 1000), (4, 1500)):
        put_sent(tmp_path, JOB.replace(batch=2 * n_devices), f"data:{n_devices}", sent)
    put_scaling(tmp_path, JOB, {1: 1.0, 2: 0.9, 4: 0.5})
    comparison = records.read(tmp_path)
    sent, scaling = [block for block in over_devices.over_devices(comparison) if isinstance(block, Chart)]
    assert sent.alternative == "bytes sent a token against devices. lstm: 62.5 at 4."
    assert scaling.alternative == "fraction kept against devices. lstm: 0.495 at 4."
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "all-reduce over data 100 %" in text
    [line] = [line for line in text.splitlines() if line.startswith("| lstm") and "| data:4 | 196 " in line]
    assert "| 50 %" in line
    assert "collectives (not judged)" not in text


def test_the_ratio_is_of_one_round_so_a_drifting_machine_does_not_widen_it(tmp_path: pathlib.Path) -> None:
    put_scaling(tmp_path, JOB, {1: 1.0, 2: 0.9})
    [_, two] = over_devices._scaled(records.read(tmp_path))
    interval = over_devices._kept(two)
    assert interval.low < 0.9 < interval.high + 0.01
    assert interval.high - interval.low < 0.06


def test_without_such_rows_there_is_no_section(tmp_path: pathlib.Path) -> None:
    put_scaling(tmp_path, JOB, {1: 1.0})  # of one device alone there is nothing to compare
    assert list(over_devices.over_devices(records.read(tmp_path))) == []


def test_lines_of_one_arm_are_told_apart_by_what_differs_between_them(tmp_path: pathlib.Path) -> None:
    for axes in ("data:4", "data:2,fsdp:4"):
        put_sent(tmp_path, JOB, axes, 1000)
    cells = over_devices._cells(records.read(tmp_path))
    assert over_devices._series(cells) == ["lstm, data+fsdp", "lstm, data"]
