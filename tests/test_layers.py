"""Who may import whom, and what only one file may say: read from the source."""

import ast
import fnmatch
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(path.relative_to(ROOT).as_posix() for top in ("suite", "launch") for path in (ROOT / top).rglob("*.py"))
TESTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))

PLAIN = {"numpy", "scipy", "absl", "etils"}
JAX = {"jax", "jaxtyping", "equinox", "numpy"}
ZERO = {
    *(
        "suite.job",
        "suite.parts",
        "suite.literals",
        "suite.user_files",
        "suite.files",
        "suite.manifest",
        "suite.hardware",
        "suite.machine",
        "suite.mixtures",
        "suite.scale",
    ),
    "suite.declarations",
    *("suite.energy", "suite.learning_rates", "suite.spreadsheets", "suite.judging", "suite.quantities"),
    *("suite.sweep.attempts", "suite.sweep.exit_codes", "suite.sweep.fault_injection", "suite.sweep.leases"),
    *("suite.sweep.links", "suite.sweep.options", "suite.sweep.provenance", "suite.sweep.prune"),
    *(
        "suite.sweep.reading",
        "suite.sweep.recalling",
        "suite.sweep.record",
        "suite.sweep.remedies",
        "suite.sweep.rendezvous",
        "suite.sweep.search",
        "suite.sweep.serving",
        "suite.sweep.startup",
        "suite.sweep.status",
        "suite.sweep.store",
    ),
}
ONE = {"suite.mesh", "suite.counting", "suite.training.clock", "suite.ops"}
ONE |= {"suite.sweep.processes", "suite.sweep.watchdog"}
TWO = {"suite.mixers", "suite.tasks", "suite.model", "suite.training.step", "suite.training.checkpoint"}
TWO |= {"suite.training.programs", "suite.training.conditions", "suite.training.course", "suite.training.memory"}
TWO |= {"suite.training.examples"}

# The first pattern that fits a file says what it may import besides the standard library, inside functions too.
MAY_IMPORT = {
    "suite/__init__.py": set(),
    "suite/sweep/processes.py": JAX | ZERO,
    "suite/sweep/watchdog.py": JAX | ZERO,
    "suite/sweep/joining.py": JAX | PLAIN | ZERO | {"suite.sweep"},
    "suite/sweep/doctor.py": JAX | PLAIN | ZERO | ONE | {"suite.sweep"},
    "suite/sweep/checks.py": JAX | PLAIN | ZERO | {"suite.contract", "suite.training"},
    "suite/sweep/worker.py": JAX | PLAIN | ZERO | ONE | TWO | {"suite.contract", "suite.sweep", "suite.training"},
    "suite/sweep/comparison.py": PLAIN | ZERO | {"suite.sweep.schedule", "suite.sweep.progress"},
    "suite/sweep/leases.py": PLAIN | ZERO | {"tensorstore"},
    "suite/sweep/*": PLAIN | ZERO,
    "suite/judging/*": PLAIN | ZERO,
    "suite/quantities/*": PLAIN | ZERO,
    "suite/mesh.py": JAX | ZERO,
    "suite/counting/*": JAX | {"suite.counting"},
    "suite/training/clock.py": JAX | ZERO,
    "suite/training/step.py": JAX | {"optax"} | ZERO | ONE | {"suite.model", "suite.tasks"},
    "suite/training/checkpoint.py": JAX | PLAIN | {"orbax"} | ZERO | ONE | {"suite.training.step"},
    "suite/training/*": JAX | PLAIN | {"optax"} | ZERO | ONE | TWO,
    "suite/ops/*": JAX | ZERO | {"suite.mesh", "suite.ops"},
    "suite/mixers/*": JAX | {"suite.ops", "suite.mixers"},  # no mesh, job or task
    "suite/tasks/*": PLAIN | {"tensorflow_datasets", "array_record", "suite.files", "suite.manifest", "suite.tasks"},
    "suite/model/backbone.py": JAX | ZERO | {"suite.mesh", "suite.ops"},
    "suite/model/*": JAX | ZERO | {"suite.counting", "suite.model"},
    "suite/contract.py": JAX | PLAIN | ZERO | TWO,
    "suite/inference.py": JAX | PLAIN | ZERO | ONE | TWO | {"suite.contract", "suite.training"},
    "suite/measures/*": JAX
    | PLAIN
    | {"optax"}
    | ZERO
    | ONE
    | TWO
    | {"suite.contract", "suite.inference", "suite.training", "suite.measures"},
    "suite/baselines/*": {"numpy", "suite.job"},  # the other library by its name, which need not be installed
    "suite/benchmark.py": JAX | PLAIN | ZERO | ONE | TWO | {"suite.contract", "suite.training"},
    "suite/claims/*": PLAIN | ZERO | {"suite.claims"},
    "suite/report/*": PLAIN | ZERO | {"vl_convert", "suite.claims", "suite.report"},
    "suite/planning/bounds.py": ZERO,
    "suite/planning/*": JAX
    | PLAIN
    | ZERO
    | ONE
    | TWO
    | {"suite.planning", "suite.training", "suite.measures", "suite.report.words", "suite.sweep"},
    "suite/machine.py": set(),
    "suite/energy.py": {"pynvml"},  # an extra, which need not be installed
    "suite/spreadsheets.py": set(),
    "suite/*.py": PLAIN | ZERO,
    "launch/engines/*": PLAIN | ZERO | {"launch.engines"},
    "launch/*": JAX | PLAIN | {"optax", "orbax", "suite", "launch"},
}
CLOCKS = {"perf_counter", "time", "monotonic", "process_time", "now", "utcnow", "today"}


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that a file imports; `from suite import model` is suite.model."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            if (node.module or "").partition(".")[0] in ("suite", "launch"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def allowed(file: str) -> set[str]:
    return next(names for pattern, names in MAY_IMPORT.items() if fnmatch.fnmatch(file, pattern))


def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(), file)


@pytest.mark.parametrize("file", FILES)
def test_every_file_has_its_layer(file: str):
    assert any(fnmatch.fnmatch(file, pattern) for pattern in MAY_IMPORT), f"say in MAY_IMPORT what {file} may import"


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_what_lies_below_it(file: str):
    for name in imports(parsed(file)):
        if name.partition(".")[0] not in sys.stdlib_module_names:
            assert any(name == known or name.startswith(f"{known}.") for known in allowed(file)), f"{file}: {name}"


def test_specs_claims_reports_and_engines_come_without_jax():
    light = [file for file in FILES if "jax" not in allowed(file) and not file.startswith("suite/tasks/corpora/")]
    modules = [file.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for file in light]
    assert {"suite.job", "suite.sweep.store"} <= set(modules)
    program = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
    heavy = {{"jax", "tensorflow_datasets"}} & set(sys.modules)
    if heavy:
        sys.exit(f"{{name}} imports {{heavy}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("launch/engines/")])
def test_an_engine_renders_and_neither_reads_nor_runs_anything(file: str):
    tree = parsed(file)
    assert not {"os", "pathlib", "shutil", "socket", "subprocess", "time"} & set(imports(tree))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "open"]


@pytest.mark.parametrize("file", FILES)
def test_only_the_mesh_says_partition_spec(file: str):
    if file != "suite/mesh.py":
        assert "PartitionSpec" not in (ROOT / file).read_text()


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.startswith("suite/") and file != "suite/training/clock.py"]
)
def test_only_the_clock_reads_a_clock(file: str):
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ImportFrom):
            assert node.module not in ("time", "datetime", "timeit"), f"line {node.lineno}: import the module"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            read = owner in ("time", "datetime", "date", "timeit") and node.attr.removesuffix("_ns") in CLOCKS
            assert not read, f"line {node.lineno}: {owner}.{node.attr}"


@pytest.mark.parametrize("file", FILES + TESTS)
def test_annotations_are_not_postponed(file: str):
    # They would become strings, and jaxtyping would check nothing.
    assert not [node for node in parsed(file).body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]


@pytest.mark.parametrize("file", FILES)
def test_every_file_says_what_it_is(file: str):
    tree = parsed(file)
    assert not tree.body or ast.get_docstring(tree), "wanted: a docstring of one idea"
