"""Times our implementations of each operation against each other and against other libraries on this machine.

    python -m launch.calibrate --out=out/calibrate
    python -m launch.calibrate --families=lstm,gru --shapes=8x256x128 --processes=3

Several fresh processes each time everything, in turns; the same command again times only what is missing. It writes
calibration.html, .md and .json. Other libraries are timed where they are installed (torch; on NVIDIA also fla).
"""

import dataclasses
import json
import math
import os
import re
import shlex
import subprocess
import sys

from absl import flags
from etils import epath

import launch
from suite import files, parts
from suite.sweep import exit_codes, provenance, startup, store
from suite.sweep.record import Record, Row

OUT = launch.define_directory("out", "out/calibrate", "directory of the rows and the tables")
FAMILIES = flags.DEFINE_string("families", "", "families of operations to time, separated by commas; empty: all")
SHAPES = flags.DEFINE_string("shapes", "", "batch x length x width, separated by commas; empty: those of the family")
PROCESSES = flags.DEFINE_integer("processes", 5, "fresh processes, over which the interval is taken", lower_bound=2)
ROUNDS = flags.DEFINE_integer("rounds", 5, "timings of each implementation in a process", lower_bound=1)
DTYPE = flags.DEFINE_enum(
    "dtype", "", ["", "float32", "bfloat16"], "of the products; empty: float32 on a CPU, else bfloat16"
)
PROCESS = flags.DEFINE_integer("process", -1, "internal: this process's number")

# Batch, length, width. On accelerators those of published charts: FlashRNN's LSTM, FlashAttention-3's attention,
# TFLA's linear recurrences.
CPU_SHAPES = {
    **dict.fromkeys(("lstm", "gru", "elman"), ((8, 256, 128), (16, 512, 256), (32, 256, 512))),
    "lstm_heads": ((16, 512, 256),),
    "attention": ((8, 512, 256), (2, 2048, 256), (1, 4096, 256)),
    "linear": ((8, 512, 256), (1, 4096, 256)),
    **dict.fromkeys(("scalar", "vector", "delta", "low_rank"), ((4, 512, 256), (1, 4096, 256))),
    **dict.fromkeys(("train_attention", "train_lstm"), ((8, 512, 256),)),
}
ACCELERATOR_SHAPES = {
    **dict.fromkeys(("lstm", "gru", "elman", "lstm_heads"), ((16, 1024, 768), (64, 1024, 768))),
    "attention": ((4, 4096, 2048), (2, 8192, 2048)),
    **dict.fromkeys(("linear", "scalar", "vector", "delta", "low_rank"), ((8, 8192, 4096), (1, 65536, 4096))),
    **dict.fromkeys(("train_attention", "train_lstm"), ((16, 2048, 1024),)),
}
HEAD_SIZE = {"cpu": 64}  # and 128 elsewhere; less where the width is no multiple
# A loop's body as one graph of launches. Read when JAX starts, so it has processes of its own.
GRAPHS = "--xla_gpu_enable_command_buffer=+WHILE"


def main() -> int:
    with exit_codes.door():
        shapes = read_shapes()
        families = parts.split_list(FAMILIES.value)
        unknown = set(families) - set(CPU_SHAPES)
        if unknown:
            raise ValueError(f"families {', '.join(sorted(unknown))} are not known; wanted {', '.join(CPU_SHAPES)}")
        store.check_writable(OUT.value)
        if PROCESS.value < 0:
            startup.check_xla_flags()
    if PROCESS.value >= 0:
        return time_everything(families or list(CPU_SHAPES), shapes)
    out = epath.Path(OUT.value)
    for process in range(PROCESSES.value):
        print(f"process {process + 1} of {PROCESSES.value}", flush=True)
        code = run_child(process, "")
        if code == exit_codes.DONE and any(row["platform"] == "gpu" for row in rows(out)):
            code = run_child(process, GRAPHS)
        if code != exit_codes.DONE:
            return code
    print(f"calibration: {report(out)}")
    return exit_codes.DONE


def read_shapes() -> list[tuple[int, int, int]]:
    shapes = []
    for text in parts.split_list(SHAPES.value):
        numbers = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)x([1-9][0-9]*)", text)
        if numbers is None:
            raise ValueError(f"cannot read the shape {text!r}; wanted batch x length x width, as in 8x256x128")
        batch, length, width = map(int, numbers.groups())
        shapes.append((batch, length, width))
    return shapes


def run_child(process: int, xla_flags: str) -> int:
    """Times everything in a fresh process; returns its exit code."""
    argv = [f"--{name}={flags.FLAGS[name].value}" for name in ("out", "families", "shapes", "rounds", "dtype")]
    variables = {"XLA_FLAGS": startup.xla_flags(xla_flags)}
    command = [sys.executable, "-m", "launch.calibrate", *argv, f"--process={process}"]
    return exit_codes.code_of_child(subprocess.run(command, env=os.environ | variables, check=False).returncode)


def time_everything(families: list[str], shapes: list[tuple[int, int, int]]) -> int:
    """One process's rows: the machine's peaks, then every benchmark that is not done."""
    startup.keep_memory()
    os.environ.setdefault("XLA_FLAGS", startup.xla_flags())  # where --process was given by hand
    import jax

    from suite import benchmark
    from suite import mesh as meshes
    from suite.measures import peak
    from suite.training.conditions import device_kind, place

    mesh = meshes.make(devices=jax.devices()[:1])
    platform = mesh.devices.flat[0].platform
    dtype = DTYPE.value or ("float32" if platform == "cpu" else "bfloat16")
    out = epath.Path(OUT.value)
    graphs = GRAPHS in os.environ["XLA_FLAGS"]
    record = Record(out, f"process-{PROCESS.value}{'-graphs' if graphs else ''}")
    conditions = {
        **{"process": PROCESS.value, "graphs": graphs, "xla_flags": os.environ["XLA_FLAGS"]},
        **{"platform": platform, "device_kind": device_kind(mesh), "place": place(mesh)},
        **{"jax": jax.__version__, **provenance.of_source({})},
    }
    elsewhere = {row["place"] for row in rows(out)} - {conditions["place"]}
    if elsewhere:  # ratios of one table are of one machine
        exit_codes.refuse(
            f"{out} holds timings of {', '.join(elsewhere)} and this is {conditions['place']}; use another --out"
        )
    done = {_key(row) for row in record.rows() if row["phase"] == "benchmark"}
    if not any(row["phase"] == "peak" for row in record.rows()):
        record.append({"phase": "peak", **peak.peaks(dtype), **conditions})
    for family in families:
        for batch, length, width in shapes or (CPU_SHAPES if platform == "cpu" else ACCELERATOR_SHAPES)[family]:
            head_size = math.gcd(width, HEAD_SIZE.get(platform, 128))
            one = benchmark.Benchmark(family, batch, length, width, head_size, dtype)
            if _key(dataclasses.asdict(one)) in done:
                continue
            shared = {"phase": "benchmark", "chosen": benchmark.chosen(one), **conditions}
            # Together, at the end: a benchmark that was cut off is timed anew.
            for row in list(benchmark.run(one, ROUNDS.value)):
                record.append(row | shared)
                if row["outcome"] == "ok":
                    fastest = min(row["seconds"])
                    print(f"  {family} {batch}x{length}x{width} {row['contender']}: {1e3 * fastest:.1f} ms", flush=True)
    return exit_codes.DONE


def _key(row: Row) -> tuple:
    return tuple(row[name] for name in ("family", "batch", "length", "width", "dtype"))


def rows(out: epath.Path) -> list[Row]:
    """The rows of all processes."""
    records = [Record(out, path.name.removesuffix(".jsonl")) for path in sorted(out.glob("process-*.jsonl"))]
    return [row for record in records for row in record.rows()]


def report(out: epath.Path) -> epath.Path:
    from suite.report import calibration  # here, not above: --help answers at once

    files.write(out / "environment.json", json.dumps(provenance.environment(), indent=1) + "\n")
    command = shlex.join(["python", "-m", "launch.calibrate", *sys.argv[1:]])
    return calibration.write(rows(out), provenance.environment(), command, out)


if __name__ == "__main__":
    launch.run(main)
