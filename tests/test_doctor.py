"""launch.doctor, in real processes: what is odd is named within seconds, with its rank; what is well is a table."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from programs import TINY, command, environment, free_address, start, wait

from suite import machine
from suite.sweep import doctor, provenance
from suite.sweep.doctor import Look

pytestmark = pytest.mark.timeout(200)


def ranks(
    program: list[str],
    outs: list[pathlib.Path],
    addresses: list[str],
    variables: list[dict[str, str]],
    folders: list[pathlib.Path],
    patience: float = 60.0,
) -> tuple[list[int], list[str], float]:
    """Exit codes and stderr of two processes of one job, and the seconds until both have ended."""
    began = time.monotonic()
    both = [
        start(
            [
                *(*program, f"--out={outs[rank]}", f"--patience={patience}", "--num_processes=2"),
                *(f"--coordinator_address={addresses[rank]}", f"--process_id={rank}"),
            ],
            env=environment() | variables[rank],
            cwd=folders[rank],  # from which a program imports first
        )
        for rank in range(2)
    ]
    codes, said = wait(both, 100)
    return codes, said, time.monotonic() - began


def another_source(folder: pathlib.Path) -> pathlib.Path:
    """A copy of the suite in which a file differs."""
    for name in ("suite", "launch"):
        shutil.copytree(provenance.PACKAGE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "suite" / "training" / "step.py", "a") as file:
        file.write("# changed\n")
    return folder


def another_version(folder: pathlib.Path) -> dict[str, str]:
    """Variables with which a process sees another version of optax."""
    (folder / "optax-0.0.1.dist-info").mkdir(parents=True)
    (folder / "optax-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: optax\nVersion: 0.0.1\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), environment()["PYTHONPATH"]])}


@pytest.mark.parametrize(
    ("program", "odd", "word"),
    [
        ("doctor", "version", "differs from rank 0 in optax (0.0.1 against "),
        ("doctor", "flag", "differs from rank 0 in --xla_cpu_enable_fast_math (true against nothing)"),
        ("doctor", "source", "differs from rank 0 in suite/training/step.py ("),
        ("doctor", "out", "does not see rank 0's --out="),
        ("job", "source", "differs from rank 0 in suite/training/step.py ("),
        ("job", "out", "does not see rank 0's --out="),
    ],
)
def test_a_rank_that_differs_is_named_to_all_within_seconds(
    program: str, odd: str, word: str, tmp_path: pathlib.Path
) -> None:
    address, outs, variables, folders = free_address(), [tmp_path / "out"] * 2, [{}, {}], [tmp_path] * 2
    if odd == "version":
        variables[1] = another_version(tmp_path / "packages")
    elif odd == "source":
        folders[1] = another_source(tmp_path / "copy")
        variables[1] = {"PYTHONPATH": str(folders[1])}
    elif odd == "flag":
        variables[1] = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}
    else:
        outs[1] = tmp_path / "elsewhere"
    argv = command("job", *TINY) if program == "job" else command("doctor")
    codes, said, seconds = ranks(argv, outs, [address] * 2, variables, folders)
    assert codes == [70, 70], said
    for rank, text in enumerate(said):
        [line] = text.strip().splitlines()
        assert line.startswith(f"rank {rank}: crossover: rank 1 (host "), line
        assert word in line
    assert not any(list(out.iterdir()) for out in set(outs)), "nothing is left of it"
    assert seconds < 60  # 7 on an idle machine; this one may be busy


def test_a_port_at_which_nobody_answers_is_named_by_both_within_seconds(tmp_path: pathlib.Path) -> None:
    addresses = [free_address(), free_address()]
    codes, said, seconds = ranks(command("doctor"), [tmp_path] * 2, addresses, [{}, {}], [tmp_path] * 2, 6.0)
    assert codes == [70, 70], said
    assert f"s for rank 1 of 2 processes to come to {addresses[0]}; do all processes run" in said[0]
    assert f"s for process 0 at {addresses[1]} (Connection refused); do all processes run" in said[1]
    assert all(len(text.strip().splitlines()) == 1 for text in said)
    assert seconds < 60  # 9 on an idle machine


def test_a_host_whose_name_the_others_cannot_reach_is_named(tmp_path: pathlib.Path) -> None:
    """Two network namespaces; the name of one's host means the loopback, as some systems have it, and gloo takes it."""
    names = ("crossover-c", "crossover-d")
    if os.geteuid() or not shutil.which("ip") or subprocess.run(["ip", "netns", "add", names[0]]).returncode:
        pytest.skip("NOT TESTED: no network namespaces here; they take root and iproute2")
    try:
        for line in (
            f"netns add {names[1]}",
            f"link add crossover-2 netns {names[0]} type veth peer name crossover-3 netns {names[1]}",
            *(f"-n {name} addr add 10.99.1.{host}/24 dev crossover-{host + 1}" for host, name in enumerate(names, 1)),
            *(f"-n {name} link set crossover-{host + 1} up" for host, name in enumerate(names, 1)),
            *(f"-n {name} link set lo up" for name in names),
        ):
            subprocess.run(["ip", *line.split()], check=True)
        both = []
        for rank, host in enumerate(("10.99.1.1", "127.0.0.1")):
            argv = command("doctor", f"--out={tmp_path}", "--coordinator_address=10.99.1.1:8476", "--patience=60")
            named = f"hostname {host}; exec {' '.join(argv)} --num_processes=2 --process_id={rank}"
            both.append(start(["ip", "netns", "exec", names[rank], "unshare", "-u", "sh", "-c", named]))
        codes, said = wait(both, 100)
        assert codes == [70, 70], said
        for text in said:
            assert "rank 1 (host 127.0.0.1) is cut off: rank 0 does not reach 1 at 127.0.0.1:" in text
            assert "(Connection refused)" in text
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def test_two_processes_that_are_well_are_shown_in_a_table_before_their_first_cell(tmp_path: pathlib.Path) -> None:
    argv = command("job", *TINY, "--measures=size", f"--out={tmp_path}", f"--coordinator_address={free_address()}")
    both = [start([*argv, "--num_processes=2", f"--process_id={rank}"], devices=2) for rank in range(2)]
    with contextlib.ExitStack() as stack:
        for process in both:
            stack.callback(process.kill)
        said = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    heading, first, second, rate, *rest = [line for line in said[0][0].splitlines() if "Gloo" not in line]
    assert heading.startswith("rank 0: rank  host")
    assert [line.split()[2] for line in (first, second)] == ["0", "1"]
    assert all(f"2 x {machine.cpu()}" in line and line.endswith(" s") for line in (first, second))
    assert rate.startswith("rank 0: all-reduce of 16 MiB over 4 devices: ")
    assert rate.endswith(" GB/s a device")
    assert rest[0].startswith("rank 0: ready ")
    assert all(line.startswith("rank 0: ") for line in rest)
    assert [line for line in said[1][0].splitlines() if "Gloo" not in line] == []


def test_a_disk_without_room_is_refused(tmp_path: pathlib.Path) -> None:
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)]).returncode:
        pytest.skip("NOT TESTED: a tmpfs cannot be mounted here; it takes root")
    try:
        [code], [said] = wait([start(command("doctor", f"--out={tmp_path}/out"))], 60)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert code == 70
    assert said == f"crossover: 1 MB are free at --out={tmp_path}/out; wanted 1,074\n"


def test_a_bucket_to_which_there_is_no_way_is_refused_within_seconds() -> None:
    began = time.monotonic()
    variables = environment() | {"STORAGE_EMULATOR_HOST": f"http://{free_address()}"}
    [code], [said] = wait([start(command("doctor", "--out=gs://bucket/out"), env=variables)], 60)
    assert code == 70
    assert said.startswith("crossover: no way to gs://bucket/out: http://127.0.0.1:")
    assert "Connection refused" in said
    assert len(said.strip().splitlines()) == 1
    assert time.monotonic() - began < 30  # 4 on an idle machine


def plugged(root: pathlib.Path, vendor: str, device: str, group: str, *files: str) -> pathlib.Path:
    """A system with one device on its bus, and these under /dev."""
    folder = root / "sys/bus/pci/devices/0000:00:04.0"
    folder.mkdir(parents=True)
    for name, value in (("vendor", vendor), ("device", device), ("class", group)):
        (folder / name).write_text(f"{value}\n")
    for file in files:
        (root / "dev" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "dev" / file).touch()
    return root


def test_accelerators_count_where_they_are_plugged_in_and_may_be_opened(tmp_path: pathlib.Path) -> None:
    assert machine.accelerators(tmp_path) == []
    gpu = plugged(tmp_path / "a", "0x10de", "0x2330", "0x030200", "nvidia0", "nvidiactl")
    assert machine.accelerators(gpu) == ["NVIDIA 0x2330"]
    assert [path.name for path in machine.device_files(machine.GPU_FILES, gpu)] == ["nvidia0"]
    assert machine.accelerators(plugged(tmp_path / "b", "0x10de", "0x2330", "0x030200")) == [], "a container's host's"
    assert machine.accelerators(plugged(tmp_path / "c", "0x10de", "0x22a3", "0x068000", "nvidia0")) == [], "a switch"
    assert machine.accelerators(plugged(tmp_path / "d", "0x1ae0", "0x0063", "0x120000", "vfio/0")) == ["TPU v5e"]
    assert machine.accelerators(plugged(tmp_path / "e", "0x1ae0", "0x0042", "0x020000", "vfio/0")) == [], (
        "a network card"
    )


def test_the_process_that_holds_a_device_is_named(tmp_path: pathlib.Path) -> None:
    device = tmp_path / "accel0"
    device.touch()
    assert machine.holders([device]) == []
    program = f"file = open({str(device)!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with open(device):  # by this process too, which is no other
            [holder] = machine.holders([device])
        other.communicate(b"\n")
    assert holder.startswith("python")
    assert holder.endswith(f" (process {other.pid})")


LOOK = Look("a", "NVIDIA H100", [1e-3] * 4, 5 * 10**12, 100.0)


def test_a_slow_device_and_a_missing_one_are_each_a_line() -> None:
    assert doctor.odd([LOOK]) == []
    assert doctor.odd([LOOK] * 4) == []
    slow = dataclasses.replace(LOOK, host="b", seconds=[1e-3, 1e-3, 2e-3, 1e-3])
    short = dataclasses.replace(LOOK, host="c", seconds=[1e-3] * 3)
    assert doctor.odd([LOOK, LOOK, slow, short]) == [
        "rank 2 (host b) is slow: a product takes its device 2 2.0 times as long",
        "rank 3 (host c) has 3 devices where most have 4",
    ]


def test_the_table_tells_how_far_clocks_are_apart() -> None:
    lines = doctor.table([LOOK, dataclasses.replace(LOOK, host="b", time=97.5, free=0)])
    assert lines == [
        "rank  host  devices          product  free      clock",
        "0     a     4 x NVIDIA H100  1.00 ms  5,000 GB  0 s",
        "1     b     4 x NVIDIA H100  1.00 ms  -         -2.50 s",
    ]


def test_of_many_hosts_the_one_that_is_cut_off_is_named() -> None:
    addresses = [(f"host{rank}", f"10.0.0.{rank}", 4000 + rank) for rank in range(4)]
    assert doctor.odd_address([("", [])] * 4, addresses) == ""
    unreached = [("", []) if rank == 2 else ("", [(2, "no answer")]) for rank in range(4)]
    line = doctor.odd_address(unreached, addresses)
    assert line.startswith("rank 2 (host host2) is cut off: rank 0 does not reach 2 at 10.0.0.2:4002, ")
    reaching_nobody = [
        ("", [(other, "no answer") for other in (0, 1, 2)]) if rank == 3 else ("", []) for rank in range(4)
    ]
    assert doctor.odd_address(reaching_nobody, addresses).startswith("rank 3 (host host3) is cut off: rank 3 does not")
    nameless = [("its host's name x is no address of that host", []), *[("", [])] * 3]
    assert (
        doctor.odd_address(nameless, addresses) == "rank 0 (host host0): its host's name x is no address of that host"
    )
