"""The provenance of numbers: the source, a user's own files, the data, the libraries and the flags of the compiler.

A half-trained state is resumed only where all of it is unchanged, a done cell kept where own files and data are.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from etils import epath

from suite import machine, parts
from suite.job import Cell, Job
from suite.sweep.record import Record, Row, stem_of

PACKAGE = pathlib.Path(__file__).parents[2]
RECORDED_VARIABLES = ("XLA_", "JAX_", "LIBTPU_", "NCCL_", "MALLOC_", "OMP_", "NPROC")
RECORDED_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy", "absl-py")
# What JAX needs for an accelerator, whatever the version of its driver.
GPU_PACKAGES = ("jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt")
TPU_PACKAGES = ("libtpu",)
COMPUTING = ("jax", "jaxlib", "equinox", "optax", "numpy")
COMPILERS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# Compiler flags that change no number: the number of devices, dumps, waiting times.
HARMLESS = ("host_platform_device_count", "dump", "timeout", "profile", "log")
NUMERICS = ("JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64", "JAX_DEFAULT_PRNG_IMPL", "NVIDIA_TF32_OVERRIDE")
CORPUS = "corpus_sha256"


def environment() -> Row:
    """The machine, the versions and the command of this process; its devices are not among them."""
    return {
        "python": platform.python_version(),
        **machine.describe(),
        "packages": versions((*RECORDED_PACKAGES, *GPU_PACKAGES, *TPU_PACKAGES)),
        "variables": {name: value for name, value in os.environ.items() if name.startswith(RECORDED_VARIABLES)},
        "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
        **of_source({}),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed: images for accelerators often lack tensorflow-datasets."""
    installed = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def sources() -> dict[str, str]:
    """A hash of each file of the suite that takes part in a job, by its name."""
    files = [*_sources_of_rows(), PACKAGE / "launch" / "__init__.py", PACKAGE / "launch" / "job.py"]
    return {path.relative_to(PACKAGE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in files}


def of_source(own_files: Mapping[str, str]) -> Row:
    """The commit, a hash of those of the suite's sources that compute rows, and the hashes of a user's own files."""
    return {"commit": _commit(), "source": _source(), "own_source": dict(own_files)}


@functools.cache
def _source() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in _sources_of_rows())).hexdigest()[:16]


def _sources_of_rows() -> list[pathlib.Path]:
    sources = sorted((PACKAGE / "suite").rglob("*.py"))
    judging = [PACKAGE / "suite" / wing for wing in ("report", "claims", "judging")]  # they read rows and make none
    asking = [PACKAGE / "suite" / "sweep" / f"{name}.py" for name in ("comparison", "schedule", "progress")]
    return [path for path in sources if path.parent not in judging and path not in asking]


@functools.cache
def _commit() -> str:
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"


def of_training(job: Job, data: Row) -> dict[str, str]:
    """The provenance of a training by name; `data` describes the data of its task."""
    return {
        "source": of_source({})["source"],
        **job.own_files(),
        **{name: str(value) for name, value in data.items()},
        **of_process(),
    }


def of_process() -> dict[str, str]:
    """The libraries and the flags of the compiler in this process."""
    return {
        **{package: importlib.metadata.version(package) for package in COMPUTING},
        **compiler_flags(),
        **{name: os.environ[name] for name in NUMERICS if name in os.environ},
    }


def compiler_flags() -> dict[str, str]:
    """Each flag of XLA that may change a number; the last of several counts, as it does for XLA."""
    words = [word for variable in COMPILERS for word in os.environ.get(variable, "").split()]
    flags = {name: value for name, _, value in (word.partition("=") for word in words)}
    return {name: value for name, value in flags.items() if not any(part in name for part in HARMLESS)}


def make_task(job: Job, data_dir: str) -> Any:
    """The job's task, its data opened and, for the first time, prepared."""
    module, knobs = parts.load("suite.tasks", job.task)
    with parts.own_lines("suite.tasks", job.task):
        if any(field.name == "data_dir" for field in dataclasses.fields(module.Task)):
            knobs["data_dir"] = data_dir
        return module.Task(length=job.length, seed=job.seed, **knobs)


def of_data(task: Any) -> dict[str, Any]:
    """The fields that a task has computed from its data."""
    return {field.name: getattr(task, field.name) for field in dataclasses.fields(task) if not field.init}


def check_done(root: epath.PathLike, rows: Collection[Row], cells: Collection[Cell], data_dir: str) -> None:
    """ValueError where a done cell rests on another version of an own file, or of a corpus, than those of `cells` now.

    `rows` are those that there are, with the tasks of their jobs. What a row does not tell is not asked.
    """
    hashes, corpora = _own_files(cells), _corpora(rows, cells, data_dir)
    changed: dict[tuple[str, str, str], dict[Record, None]] = collections.defaultdict(dict)
    for row in rows:
        then = dict(row["own_source"]) if "own_source" in row else {}
        now = {name: hashes[name] for name in then if name in hashes}
        if CORPUS in row and row["task"] in corpora:
            name = f"the corpus of {parts.short('suite.tasks', row['task'])}"
            then[name], now[name] = row[CORPUS], corpora[row["task"]]
        for name in now:
            if then[name] != now[name]:
                changed[name, then[name], now[name]][Record.of_row(root, row)] = None
    for (name, then, now), records in changed.items():
        done = [record.folder.name for record in records if record.is_done]
        if done:
            runs = list(dict.fromkeys(done))
            more = f" and {len(runs) - 1} more of its runs" if len(runs) > 1 else ""
            raise ValueError(
                f"{name} has changed since it was measured ({len(done)} done cells): {then[:16]} then, {now[:16]} now;"
                f" use another --out, or remove {root}/runs/{runs[0]}{more}"
            )


def of_another_version(rows: Collection[Row]) -> str:
    """A line on the cells whose rows come from another version of the suite; empty where there are none."""
    now = of_source({})["source"]
    cells = {(row["run_id"], stem_of(row)) for row in rows if "source" in row and row["source"] != now}
    return f"{len(cells)} done cells are of another version of the suite; they stay as they are" if cells else ""


def _own_files(cells: Iterable[Cell]) -> dict[str, str]:
    """The hashes of all own files that cells rest on, as they are now."""
    specs: dict[tuple[str, str], None] = {}
    for cell in cells:
        specs |= {("suite.measures", cell.measure): None, ("suite.tasks", cell.job.task): None}
        specs |= {("suite.mixers", spec): None for spec in (cell.job.mixer, cell.job.match_to) if spec}
    return {name: hash for folder, spec in specs for name, hash in parts.own_files(folder, spec).items()}


def _corpora(rows: Iterable[Row], cells: Iterable[Cell], data_dir: str) -> dict[str, str]:
    """By task, the hash of its corpus as it is now, for those of the cells that rows were taken on too."""
    tasks = {row["task"] for row in rows if CORPUS in row}
    corpora = {}
    for job in {cell.job.task: cell.job for cell in cells if cell.job.task in tasks}.values():
        with contextlib.suppress(LookupError):  # not there any more: no matter, unless something is left to do
            corpora[job.task] = of_data(make_task(job, data_dir))[CORPUS]
    return corpora
