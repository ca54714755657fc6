"""What tells one machine from another: generations of one brand, cores that may be used, time that a group allows."""

import os
import pathlib
import platform

import jax
import pytest

from suite import machine
from suite import mesh as meshes
from suite.job import slug
from suite.training import conditions


def x86(brand: str, family: int, model: int, stepping: int, cores: int = 2) -> str:
    lines = (
        "vendor_id\t: AuthenticAMD\n"
        f"cpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {brand}\nstepping\t: {stepping}\n"
        "flags\t\t: fpu vme de\n\n"
    )
    return "".join(f"processor\t: {core}\n{lines}" for core in range(cores))


def arm(*parts: str) -> str:
    block = "BogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\n"
    return "".join(
        f"processor\t: {core}\n{block}CPU part\t: {part}\nCPU revision\t: 1\n\n" for core, part in enumerate(parts)
    )


def test_two_generations_of_one_brand_are_two_processors():
    zen3, zen5 = (machine.processor(x86("AMD EPYC", *numbers)) for numbers in ((25, 1, 1), (26, 2, 1)))
    assert zen3 == "AMD EPYC, family 25 model 1 stepping 1"
    assert zen5 == "AMD EPYC, family 26 model 2 stepping 1"
    assert slug(zen3) != slug(zen5)


def test_an_arm_processor_is_known_by_its_part():
    assert machine.processor(arm("0xd40", "0xd40")) == (
        f"{platform.machine()}, implementer 0x41 part 0xd40 variant 0x1 revision 1"
    )
    assert "part 0xd05" in machine.processor(arm("0xd05", "0xd0b"))  # cores of two kinds
    assert "part 0xd0b" in machine.processor(arm("0xd05", "0xd0b"))


@pytest.mark.parametrize("text", ["", "\n\n", "no colon\n", "processor\t: 0\n\n"])
def test_where_nothing_is_said_the_architecture_is_the_name(text: str):
    assert machine.processor(text) in (platform.processor(), platform.machine())


def test_the_place_of_a_cpu_carries_its_model_and_its_cores():
    mesh = meshes.make(devices=jax.devices()[:2])
    place = conditions.place(mesh)
    assert place == slug(f"{machine.cpu()} {machine.cores()} cores data2")
    assert conditions.device_kind(mesh) == machine.cpu()
    if "cpu family" in machine.CPUINFO.read_text():
        assert all(f"{word}-" in place for word in ("family", "model", "stepping"))


def test_fewer_cores_are_another_place():
    allowed = os.sched_getaffinity(0)
    before = machine.cores()
    try:
        os.sched_setaffinity(0, [min(allowed)])
        assert machine.cores() == "1"
        assert machine.share() <= 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert machine.cores() == before


@pytest.mark.parametrize(
    ("own_groups", "files", "wanted"),
    [
        ("0::/job/step", {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"}, [1.5]),
        ("0::/", {"cpu.max": "200000 100000"}, [2.0]),
        ("0::/of/the/host", {"cpu.max": "50000 100000"}, [0.5]),  # in a container
        ("0::/", {}, []),
        ("4:cpu:/job", {"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"}, [3.0]),
        ("4:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, []),
        ("3:cpuset:/job\n1:name=systemd:/", {"cpuset/job/cpu.max": "1 1"}, []),
    ],
)
def test_the_time_that_a_control_group_allows(own_groups: str, files: dict[str, str], wanted: list, tmp_path):
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    groups = tmp_path / "own"
    groups.write_text(f"{own_groups}\n")
    assert list(machine.quotas(groups, tmp_path / "cgroup")) == wanted
    assert list(machine.quotas(pathlib.Path("/no/such/file"), tmp_path / "cgroup")) == []


@pytest.mark.parametrize(
    ("own_groups", "files", "wanted"),
    [
        ("0::/job/step", {"job/memory.max": "1000", "job/step/memory.max": "max"}, [1000]),
        (
            "4:memory:/job",
            {"memory/job/memory.limit_in_bytes": "2000", "memory/memory.limit_in_bytes": "9000"},
            [2000, 9000],
        ),
        ("4:cpu:/job", {"memory/job/memory.limit_in_bytes": "2000"}, []),
    ],
)
def test_the_memory_that_a_control_group_allows(own_groups: str, files: dict[str, str], wanted: list, tmp_path):
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    groups = tmp_path / "own"
    groups.write_text(f"{own_groups}\n")
    assert list(machine.memory_limits(groups, tmp_path / "cgroup")) == wanted
    assert 0 < machine.memory_bytes() <= machine.describe()["memory_bytes"]
