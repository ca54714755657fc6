"""What training steps hold and send on meshes of TPUs, by the real compiler: nothing runs, and no TPU is needed.

    make test-aot  # installs the compiler
    .venv-aot/bin/python tests/compiled_meshes.py --out=docs/measured/meshes.md

Each program takes a minute or two. What was compiled is kept in --rows, and the same command again compiles the rest.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import time
from collections import Counter
from typing import Any

# Set before JAX is imported; libtpu need not ask the cloud which TPU it has.
os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-8"}
os.environ |= {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUMPY_RANK_PROMOTION": "raise"}

from ahead import VOCAB
from jax.sharding import Mesh

from suite import mesh as meshes
from suite.counting import collectives
from suite.job import Job
from suite.model import backbone
from suite.planning.topology import parse
from suite.sweep import provenance
from suite.training import conditions
from suite.training.programs import Programs

CHIPS = {"v5e:2x4": 8, "v5e:16x16": 256, "v5e:8x8": 64, "v5e:4x4": 16}  # the ends first
A_CHIP = 8  # sequences
LARGE = Job(mixer="attention:heads=8", width=1024, depth=28, length=2048, dtype="bfloat16", remat="block")
MATCHED = LARGE.replace(mixer="lstm", width=896)  # as --match_to=attention finds it, with 2,392 channels in its MLP
TWIN = MATCHED.replace(hidden=2304)  # so that 256 divides an axis of every matrix
LONG = Job(width=512, depth=2, batch=1, dtype="bfloat16")
LENGTHS = (32_768, 65_536, 131_072)
ARMS = ("attention", "attention:implementation=blocked", "mamba2", "lstm")


def compiled(job: Job, mesh_spec: str, topology: str) -> dict[str, Any]:
    """What the compiled step of a job holds and sends on a device, and the seconds that compiling it took."""
    mesh = mesh_of(mesh_spec, topology)
    of_job = Programs(job, mesh, VOCAB)
    lowered = of_job.lowered_step
    began = time.perf_counter()
    step = lowered.compile()
    seconds = time.perf_counter() - began
    memory = step.memory_analysis()
    assert memory is not None
    sent: Counter[str] = Counter()
    found = collectives.of_program(step, mesh)
    for one in found:
        assert one.calls is not None, f"the length of a loop around {one.name} is not known"
        sent[one.operation] += one.calls * one.sent
    return {
        "commit": provenance.of_source({})["commit"],
        **{"arm": job.arm, "topology": topology, "mesh": meshes.words(mesh), "length": job.length},
        "implementation": conditions.implementation(job, mesh),
        "parameters": backbone.count_parameters(backbone.shapes(job, VOCAB)),
        "state": sum(meshes.bytes_a_device(of_job.like, mesh)),
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "peak": memory.peak_memory_in_bytes,
        "sent": dict(sent),
        "in_time": sum(one.in_time for one in found),
        "seconds": seconds,
    }


def programs() -> list[tuple[Job, str, str]]:
    """The job, mesh and topology of every program."""
    long = [LONG.replace(mixer=arm, length=length) for length in reversed(LENGTHS) for arm in ARMS]
    large = [
        (job.replace(batch=A_CHIP * count), f"fsdp:{count}", topology)
        for topology, count in CHIPS.items()
        for job in (LARGE, TWIN)
    ]
    return [*((job, "context:8", "v5e:2x4") for job in long), *large]


def kept(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def compile_all(path: pathlib.Path) -> None:
    """Writes a row for every program that has none, as soon as it is compiled."""
    for job, mesh, topology in programs():
        at = (job.arm, topology, job.length)
        if not any((row["arm"], row["topology"], row["length"]) == at for row in kept(path)):
            row = compiled(job, mesh, topology)
            print(json.dumps(row), flush=True)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def mesh_of(spec: str, topology: str) -> Mesh:
    return parse(topology).mesh(spec)


ABOUT = """# Training steps on meshes of TPUs

**Programs that TPU's compiler made, for devices that were not there: none was run.** Bytes are a device's. Made by

    python tests/compiled_meshes.py --out=docs/measured/meshes.md

at commit {commit}, with jax {jax} and libtpu {libtpu}. Compilation is on two cores that others used too.
"""
FSDP = """
## A large model over fsdp

Attention of width 1,024 with 28 blocks, heads of 128 channels and {attention:,} parameters, and its twin, an LSTM of
width 896 with {lstm:,}; sequences of 2,048 bytes, {a_chip} a chip, in bfloat16, with `--remat=block`: of every
block only its input is kept for the gradient. State: parameters and both of Adam's moments, in float32.

| arm | mesh | state | times devices | arguments | temporaries | peak | sent in a step | compiled in |
|---|---|---|---|---|---|---|---|---|"""
UNEVEN = """
Temporaries are no more at any number of devices than 2 % above those at 8. State falls as 1/fsdp but for vectors, which
are whole. Over eight chips parameters are gathered in bfloat16, twice, and most gradients scattered. Over 64 and 256
the compiler writes both as all-reduces of whole matrices in float32, several times the bytes; so it did with a
matrix by itself, in each of three forms of the gather.

Where no axis of a matrix is a multiple of `fsdp` it is whole on every device. The LSTM that is matched by its width
alone has an MLP of 2,392 channels: over fsdp:256 its state would be {uneven} a device rather than {even}. The twin
has 2,304. `launch.job --measures=layout` says where each parameter of a job lies.
"""
CONTEXT = """
## Long sequences over context

One sequence over the eight chips of v5e:2x4, mesh context:8; width 512, 2 blocks, bfloat16, no `--remat`. Gradients are
added up over the chips at any length. What attention sends beside them are keys, values and their gradients. The ring
passes keys and values on once forward and once backward, and with them gradients in float32. `blocked` gathers keys and
values once, and for their gradients the compiler writes an all-reduce, twice the bytes of the reduce-scatter that it is
given. No collective is in a loop over time.

| arm | implementation | tokens | sent in a step | of it gradients | arguments | temporaries | peak | compiled in |
|---|---|---|---|---|---|---|---|---|"""


def page(every: list[dict[str, Any]]) -> str:
    """The tables of all rows."""
    versions = {package: importlib.metadata.version(package) for package in ("jax", "libtpu")}
    lines = [ABOUT.format(commit=", ".join(dict.fromkeys(row["commit"] for row in every)), **versions)]
    large = sorted((row for row in every if row["mesh"].startswith("fsdp")), key=lambda row: (row["arm"], chips(row)))
    counts = {row["arm"].partition(":")[0]: row["parameters"] for row in large}
    lines.append(FSDP.format(a_chip=A_CHIP, **counts))
    lines += [
        f"| {row['arm']} | {row['mesh']} | {mib(row['state'])} | {mib(row['state'] * chips(row))} "
        f"| {mib(row['arguments'])} | {mib(row['temporaries'])} | {mib(row['peak'])} "
        f"| {mib(sum(row['sent'].values()))} | {row['seconds']:.0f} s |"
        for row in large
    ]
    mesh = mesh_of("fsdp:256", "v5e:16x16")
    states = [sum(meshes.bytes_a_device(Programs(job, mesh, VOCAB).like, mesh)) for job in (MATCHED, TWIN)]
    lines.append(UNEVEN.format(uneven=mib(states[0]), even=mib(states[1])))
    lines.append(CONTEXT.lstrip("\n"))
    long = [row for row in every if row["mesh"] == "context:8"]
    lines += [
        f"| {row['arm']} | {row['implementation']} | {row['length']:,} | {mib(sum(row['sent'].values()))} "
        f"| {mib(collectives.SENT['all-reduce'](4 * row['parameters'], 8))} | {mib(row['arguments'])} "
        f"| {mib(row['temporaries'])} | {mib(row['peak'])} | {row['seconds']:.0f} s |"
        for row in sorted(long, key=lambda row: (ARMS.index(row["arm"]), row["length"]))
    ]
    have = {(row["arm"], row["topology"], row["length"]) for row in every}
    missing = [
        f"{job.arm} over {mesh}, {job.length:,} tokens"
        for job, mesh, topology in programs()
        if (job.arm, topology, job.length) not in have
    ]
    if missing:
        lines.append(f"\nNot compiled, for want of time: {'; '.join(missing)}.")
    return "\n".join(lines) + "\n"


def mib(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def chips(row: dict[str, Any]) -> int:
    return CHIPS[row["topology"]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=pathlib.Path, default=pathlib.Path("out/compiled_meshes.jsonl"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/measured/meshes.md"))
    parser.add_argument("--kept", action="store_true", help="compile nothing: the page of what is in --rows")
    flags = parser.parse_args()
    flags.rows.parent.mkdir(parents=True, exist_ok=True)
    if not flags.kept:
        compile_all(flags.rows)
    flags.out.write_text(page(kept(flags.rows)))
