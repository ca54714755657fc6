"""What numbers rest on that may change beneath them: source, own files, data, libraries, what the compiler is told.

A half-trained state goes on only where all of it is as it was. A done cell stays where its own files and its data are.
"""

import collections
import contextlib
import dataclasses
import importlib.metadata
import os
from collections.abc import Collection, Iterable
from typing import Any

from etils import epath

from suite import parts
from suite.job import Cell, Job
from suite.sweep import store
from suite.sweep.store import Row

COMPUTING = ("jax", "jaxlib", "equinox", "optax", "numpy")
COMPILERS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# Of what the compiler is told, what changes no number: how many devices there are, what is written, how long is waited.
HARMLESS = ("host_platform_device_count", "dump", "timeout", "profile", "log")
NUMERICS = ("JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64", "JAX_DEFAULT_PRNG_IMPL", "NVIDIA_TF32_OVERRIDE")
CORPUS = "corpus_sha256"


def of_training(job: Job, data: Row) -> dict[str, str]:
    """All that a training rests on beside its job, by name; `data` is what its task knows of its data."""
    return {
        "source": store.provenance({})["source"],
        **job.own_files(),
        **{name: str(value) for name, value in data.items()},
        **of_process(),
    }


def of_process() -> dict[str, str]:
    """What every job of this process rests on beside the source: libraries, and what the compiler is told."""
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
    """What a task has computed of its data."""
    return {field.name: getattr(task, field.name) for field in dataclasses.fields(task) if not field.init}


def check_done(root: epath.PathLike, rows: Collection[Row], cells: Collection[Cell], data_dir: str) -> None:
    """ValueError where a done cell rests on another version of an own file, or of a corpus, than those of `cells` now.

    `rows` are those that there are, with the tasks of their jobs. What a row does not tell is not asked.
    """
    own, corpora = _own_files(cells), _corpora(rows, cells, data_dir)
    changed: dict[tuple[str, str, str], dict[tuple[str, str], None]] = collections.defaultdict(dict)
    for row in rows:
        then = dict(row["own_source"]) if "own_source" in row else {}
        now = {name: own[name] for name in then if name in own}
        if CORPUS in row and row["task"] in corpora:
            name = f"the corpus of {parts.short('suite.tasks', row['task'])}"
            then[name], now[name] = row[CORPUS], corpora[row["task"]]
        for name in now:
            if then[name] != now[name]:
                changed[name, then[name], now[name]][row["run_id"], store.kind_of(row)] = None
    for (name, then, now), kinds in changed.items():
        done = [run for run, kind in kinds if store.is_done(epath.Path(root) / "runs" / run, kind)]
        if done:
            runs = list(dict.fromkeys(done))
            more = f" and {len(runs) - 1} more of its runs" if len(runs) > 1 else ""
            raise ValueError(
                f"{name} has changed since it was measured ({len(done)} done cells): {then[:16]} then, {now[:16]} now;"
                f" use another --out, or remove {root}/runs/{runs[0]}{more}"
            )


def of_another_version(rows: Collection[Row]) -> str:
    """A line on the cells whose rows come from another version of the suite; empty where there are none."""
    now = store.provenance({})["source"]
    cells = {(row["run_id"], store.kind_of(row)) for row in rows if "source" in row and row["source"] != now}
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
    known = {row["task"] for row in rows if CORPUS in row}
    found = {}
    for job in {cell.job.task: cell.job for cell in cells if cell.job.task in known}.values():
        with contextlib.suppress(LookupError):  # not there any more: no matter, unless something is left to do
            found[job.task] = of_data(make_task(job, data_dir))[CORPUS]
    return found
