"""The processes of one job meet, alike in all that decides, or each says in one line why not: nothing is trained."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from programs import TINY, command, environment, free_address, start, wait

from suite.job import Cell, Job
from suite.sweep import exit_codes, links, processes, rendezvous, store
from suite.sweep.links import Member
from suite.sweep.rendezvous import Entry

pytestmark = pytest.mark.timeout(300)


def entry(**facts: str) -> Entry:
    return Entry(facts, {"cells": facts}, lambda offer: {})


@contextlib.contextmanager
def service(address: str) -> Iterator[None]:
    """Stands for JAX's service, which takes the port when the processes have met."""
    host, _, port = address.rpartition(":")
    with socket.create_server((host, int(port))):
        yield


def meet_all(members: list[tuple[Member, Entry]], seconds: float = 30) -> list[Any]:
    """What each process comes to, all at once: the offer and the name, or what it is refused with."""
    results: list[Any] = [None] * len(members)

    def one(index: int, member: Member, entry: Entry) -> None:
        try:
            results[index] = rendezvous.meet(member, entry, seconds, time.monotonic)
            if member.rank == 0:
                with service(member.address):
                    everybody.wait(seconds)
        except Exception as error:
            results[index] = error
        finally:
            if all(result is not None for result in results):
                everybody.set()

    everybody = threading.Event()
    threads = [threading.Thread(target=one, args=(index, *pair)) for index, pair in enumerate(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_the_processes_of_a_job_are_given_what_process_0_offers_and_one_name() -> None:
    address = free_address()
    results = meet_all([(Member(address, 3, rank), entry(seed="1")) for rank in range(3)])
    assert results[1:] == results[:-1]
    offer, name = results[0]
    assert offer == {"cells": {"seed": "1"}}
    assert len(name) == 32


def test_who_differs_is_named_with_both_values_to_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "STRANGER_SECONDS", 0.5)
    address = free_address()
    facts = [{"--learning_rate": "0.1", "suite/step.py": "aa"}, {"--learning_rate": "0.2", "suite/step.py": "bb"}]
    results = meet_all([(Member(address, 2, rank), entry(**facts[rank])) for rank in range(2)])
    for result in results:
        assert isinstance(result, ValueError)
        assert "rank 1 (host " in str(result)
        assert "differs from rank 0 in --learning_rate (0.2 against 0.1), suite/step.py (bb against aa)" in str(result)


def test_what_a_process_cannot_take_ends_all_of_them() -> None:
    address = free_address()

    def accept(offer: Any) -> dict[str, str]:
        raise ValueError("has no file ./mine.py")

    results = meet_all([(Member(address, 2, 0), entry()), (Member(address, 2, 1), Entry({}, None, accept))])
    assert ["has no file ./mine.py" in str(result) and isinstance(result, ValueError) for result in results] == [
        True
    ] * 2


def test_two_jobs_at_one_address_never_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "STRANGER_SECONDS", 0.5)
    for seeds in (("1", "2"), ("1", "1")):
        address = free_address()
        jobs = [(Member(address, 2, rank), entry(seed=seed)) for seed in seeds for rank in range(2)]
        results = meet_all(jobs, seconds=2)
        met = [index for index, result in enumerate(results) if not isinstance(result, Exception)]
        assert len({results[index][1] for index in met}) <= 1, "at most one of the jobs has met"
        assert len({jobs[index][1].settings["seed"] for index in met}) <= 1
        assert len(met) in (0, 2)
        assert sorted(jobs[index][0].rank for index in met) in ([], [0, 1])
        for result in results:
            assert not isinstance(result, Exception) or isinstance(result, ValueError | exit_codes.NotMet)


def test_a_stranger_does_not_end_the_job_that_it_comes_to() -> None:
    address = free_address()
    both = [(Member(address, 2, rank), entry(seed="1")) for rank in range(2)]
    results = meet_all([*both, (Member(address, 2, 1), entry(seed="2"))])
    if isinstance(results[2], exit_codes.NotMet):  # it came when they were gone
        assert results[0] == results[1]
    else:
        assert "differs from rank 0 in seed (2 against 1)" in str(results[2])
        assert results[0] == results[1], results


@pytest.mark.parametrize("rank", [0, 1])
def test_who_does_not_come_is_named_with_the_address_and_the_job_may_be_started_again(rank: int) -> None:
    address = free_address()
    [result] = meet_all([(Member(address, 3, rank), entry())], seconds=0.3)
    assert exit_codes.code_of(result) == exit_codes.STUCK
    assert "rank 1, 2 of 3 processes" in str(result) if rank == 0 else "process 0 at" in str(result)
    assert address in str(result)


def test_it_is_said_from_time_to_time_who_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(links, "SAY_SECONDS", 0.2)
    meet_all([(Member("127.0.0.1:1", 2, 1), entry())], seconds=0.5)
    said = capsys.readouterr().err
    assert said.startswith("crossover: rank 1 waited 0 s for process 0 at 127.0.0.1:1 (Connection refused)"), said


def test_a_host_without_an_address_is_refused_and_one_that_is_not_this_is_not_waited_for_in_silence() -> None:
    [result] = meet_all([(Member("no_such_host:1234", 2, 1), entry())], seconds=0.3)
    assert "no_such_host" in str(result)
    assert isinstance(result, ValueError | exit_codes.NotMet)  # where no name server answers it may be known later
    [result] = meet_all([(Member(f"192.0.2.1:{free_address().rpartition(':')[2]}", 2, 0), entry())], seconds=0.3)
    assert "is that an address of this host" in str(result)


def test_a_port_that_another_program_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "KNOCK_SECONDS", 0.5)
    address = free_address()
    with service(address):
        results = meet_all([(Member(address, 2, rank), entry()) for rank in range(2)], seconds=0.5)
    assert f"port {address.rpartition(':')[2]} of {socket.gethostname()} is taken" in str(results[0])
    assert address in str(results[1])
    assert [exit_codes.code_of(result) for result in results] == [exit_codes.STUCK] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="a port is reserved by a name that Linux frees with the process")
def test_a_port_that_another_job_has_just_left_to_jax_is_not_free() -> None:
    address = free_address()
    program = f"from suite.sweep import links; print(links._reserve({address.rpartition(':')[2]}), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        [result] = meet_all([(Member(address, 2, 0), entry())], seconds=0.3)
        assert "is taken by another program" in str(result)
        other.communicate("\n")
    [result] = meet_all([(Member(address, 2, 0), entry())], seconds=0.3)
    assert "for rank 1 of 2 processes" in str(result)


def test_a_process_that_comes_twice_takes_its_seat_only_if_it_has_died() -> None:
    address = free_address()
    results = meet_all([(Member(address, 3, rank), entry()) for rank in (0, 1, 1)], seconds=1)
    assert all(isinstance(result, exit_codes.NotMet) for result in results)
    assert any("was it started twice?" in str(result) for result in results)


def test_the_end_of_a_comparison_is_told_to_the_others() -> None:
    member = Member(free_address(), 2, 0)
    thread = threading.Thread(target=rendezvous.dismiss, args=(member, 3, 20, time.monotonic))
    thread.start()
    [result] = meet_all([(Member(member.address, 2, 1), entry())])
    thread.join()
    assert isinstance(result, rendezvous.Dismissed)
    assert result.code == 3


# address, number, rank, environment, a word of the answer
HALF: dict[str, tuple[str, int, int, dict[str, str], str]] = {
    "an address without a number": ("h:1", 0, -1, {}, "--num_processes and --process_id is missing"),
    "a number without an address": ("", 2, 0, {}, "--coordinator_address is missing"),
    "a number without a rank": ("h:1", 2, -1, {}, "--process_id is missing"),
    "a rank alone": ("", 0, 1, {}, "--coordinator_address and --num_processes is missing"),
    "a rank out of range": ("h:1", 2, 2, {}, "the ranks 0 to 1; got 2"),
    "a lone process of rank 1": ("h:1", 1, 1, {}, "the ranks 0 to 0; got 1"),
    "no port": ("h", 2, 0, {}, "host:port"),
    "a port that is no number": ("h:x", 2, 0, {}, "host:port"),
    "a port out of range": ("h:65536", 2, 0, {}, "1 to 65535"),
    "no host": (":80", 2, 0, {}, "host:port"),
}


@pytest.mark.parametrize("case", HALF)
def test_half_of_what_a_job_of_several_processes_needs_is_refused(case: str) -> None:
    address, number, rank, variables, word = HALF[case]
    with pytest.raises(ValueError, match=word):
        processes.find(address, number, rank, variables)


def test_one_process_alone_needs_no_address() -> None:
    assert processes.find("", 0, -1, {}) is None
    assert processes.find("", 1, 0, {}) is None
    assert processes.find("host:99", 1, 0, {}) is None
    assert processes.find("[::1]:99", 2, 1, {}) == Member("[::1]:99", 2, 1)
    assert Member("[::1]:99", 2, 1).host == "::1"


def step_of_slurm(rank: int, tasks: str, gpus: int, **more: str) -> dict[str, str]:
    step = {"SLURM_STEP_NODELIST": "a", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": tasks}
    return step | {"SLURM_LOCALID": str(rank), "SLURM_GPUS_ON_NODE": str(gpus)} | more


def test_a_task_of_slurm_takes_all_devices_that_it_should() -> None:
    everything = ",".join(map(str, range(8)))
    assert processes.local_devices({}) is None
    assert processes.local_devices(step_of_slurm(0, "1(x2)", 8)) is None, "one task a node: all that it sees"
    assert processes.local_devices(step_of_slurm(0, "1", 8, CUDA_VISIBLE_DEVICES=everything)) is None
    assert processes.local_devices(step_of_slurm(3, "8(x2)", 8)) == [3], "as many as there are: one each"
    assert processes.local_devices(step_of_slurm(1, "2(x2)", 8, CUDA_VISIBLE_DEVICES=everything)) == [4, 5, 6, 7]
    assert processes.local_devices(step_of_slurm(1, "8", 8, CUDA_VISIBLE_DEVICES="0")) is None, "each was given its own"
    assert processes.local_devices(step_of_slurm(0, "2", 8, JAX_LOCAL_DEVICE_IDS="5")) is None, "the user has the word"
    last = step_of_slurm(0, "2(x3),1", 8, SLURM_NODEID="3")
    assert processes.local_devices(last) is None
    of_mpi = {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert processes.local_devices(of_mpi) == [2, 3]
    with pytest.raises(ValueError, match="3 processes on a host with 2 GPUs"):
        processes.local_devices(step_of_slurm(0, "3", 2))


def test_steps_of_one_slurm_job_meet_at_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = set()
    for step in range(3):
        variables = step_of_slurm(
            1, "2", 0, SLURM_JOB_ID="7", SLURM_STEP_ID=str(step), SLURM_NTASKS="2", SLURM_PROCID="1"
        )
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        member = processes.find("", 0, -1, variables)
        assert member is not None
        assert (member.processes, member.rank, member.host) == (2, 1, "a")
        ports.add(member.port)
    assert len(ports) == 3
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert processes.find("", 0, -1, os.environ) is None, "one task is its own job, wherever it runs"


# What Slurm 22.05 sets, of an allocation of two tasks and four GPUs. A shell there is one process, whatever it starts.
ALLOCATION = {"SLURM_JOB_ID": "14", "SLURM_NTASKS": "2", "SLURM_TASKS_PER_NODE": "2", "SLURM_GPUS_ON_NODE": "4"}
FIRST_TASK = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
ONE_TASK_STEP = {"SLURM_STEP_NODELIST": "a", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
SHELLS = {
    "salloc, on the host where it was called": ALLOCATION,
    "salloc, on a node of the allocation": ALLOCATION | FIRST_TASK | ONE_TASK_STEP | {"SLURM_STEP_ID": "4294967290"},
    "a batch script": ALLOCATION | FIRST_TASK,
    "srun --pty of one task": ALLOCATION | FIRST_TASK | ONE_TASK_STEP | {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"},
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_program_in_a_shell_of_a_slurm_allocation_is_alone_with_all_gpus(
    shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = SHELLS[shell] | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes.find("", 0, -1, variables) is None
    assert processes.local_devices(variables) is None


def of_two(argv: list[str], address: str, rank: int) -> list[str]:
    return [*argv, f"--coordinator_address={address}", "--num_processes=2", f"--process_id={rank}"]


def test_what_differs_in_the_data_is_named_to_both(tmp_path: pathlib.Path) -> None:
    address = free_address()
    program = (
        "import sys\n"
        "from suite.sweep import processes\n"
        "from suite.sweep.links import Member\n"
        f"processes.join(Member({address!r}, 2, int(sys.argv[1])), 'name', None)\n"
        "processes.check_alike({'a': 'same'})\n"
        "try:\n"
        "    processes.check_alike({'corpus_sha256': 'abc'[int(sys.argv[1]):]})\n"
        "except ValueError as error:\n"
        "    print(error, file=sys.stderr)\n"
        "processes.leave()\n"
    )
    codes, said = wait([start([sys.executable, "-c", program, str(rank)]) for rank in range(2)], 60)
    assert codes == [0, 0], said
    assert ["rank 1 differs from rank 0 in corpus_sha256 (bc against abc)" in text for text in said] == [True, True], (
        said
    )


def test_a_rank_that_is_refused_alone_tells_the_other(tmp_path: pathlib.Path) -> None:
    argv, address = command("job", *TINY, "--mixer=./mine.py", f"--out={tmp_path}"), free_address()
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    (here / "mine.py").write_text("class Mixer:\n    def __init__(self, width, *, key, taps: int = 3): ...\n")
    both = [start(of_two(argv, address, rank), cwd=folder) for rank, folder in enumerate((here, there))]
    codes, said = wait(both, 100)
    assert codes == [70, 70], said
    assert "rank 1 (host " in said[0]
    assert "is refused: no file ./mine.py" in said[0]
    assert said[1].startswith("rank 1: crossover: no file ./mine.py")


def test_the_list_of_process_0_is_the_list_of_a_job(tmp_path: pathlib.Path) -> None:
    job = Job(mixer="lstm", task="recall:pairs=2,vocab=16", width=16, length=16, batch=8)
    lists = [[Cell(job, "size"), Cell(job.replace(width=8), "size")], [Cell(job.replace(seed=5), "size")]]
    address, out, both = free_address(), tmp_path / "out", []
    for rank, cells in enumerate(lists):
        file = tmp_path / f"{rank}.json"
        file.write_text(json.dumps({"cells": [cell.to_dict() for cell in cells], "asked": {}}))
        both.append(start(of_two(command("job", f"--cells={file}", f"--out={out}"), address, rank)))
    codes, said = wait(both, 200)
    assert codes == [0, 0], said
    assert {row["run_id"] for row in store.load(out)} == {cell.job.id for cell in lists[0]}


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("JAX_NUM_PROCESSES", "two", "JAX_NUM_PROCESSES wants a whole number, not 'two'"),
        ("JAX_COORDINATOR_ADDRESS", "somewhere:80", "--num_processes and --process_id is missing"),
        ("XLA_FLAGS", "--xla_nope=3", "Unknown flag in XLA_FLAGS: --xla_nope=3"),
        ("JAX_PLATFORMS", "cuda", "no device for JAX_PLATFORMS=cuda"),
    ],
)
def test_an_environment_that_cannot_work_is_refused_in_one_line(
    variable: str, value: str, word: str, tmp_path: pathlib.Path
) -> None:
    process = start(command("job", *TINY, f"--out={tmp_path}"), env=environment() | {variable: value})
    [code], [said] = wait([process], 60)
    assert code == 70, said
    assert word in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_a_comparison_on_two_hosts_does_what_the_first_wants_and_both_end(
    tmp_path: pathlib.Path, data_dir: pathlib.Path
) -> None:
    small = ["--scale=smoke", "--claims=gradient_flow", "--arms=attention,lstm", f"--data_dir={data_dir}"]
    argv, address = command("compare", *small, f"--out={tmp_path}"), free_address()
    codes, said = wait([start(of_two(argv, address, rank)) for rank in range(2)], 1200)
    assert codes == [0, 0], said
    assert (tmp_path / "report.html").exists()
    rows = store.load(tmp_path)
    assert {(row["n_processes"], row["outcome"]) for row in rows} == {(2, "ok")}
    tried = [json.loads(path.read_text())["attempts"] for path in tmp_path.glob("runs/*/*.cell")]
    assert {len(attempts) for attempts in tried} == {1}, "nothing was done twice"
