"""Set before JAX is imported: eight CPU devices, strict dtypes and ranks; then the checks of jaxtyping's signatures."""

import importlib.metadata
import importlib.util
import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
# Most of what the tests cost is compiling, and these take four fifths of it: no LLVM passes, and loops written without
# MLIR. Programs that the tests start as a user does are compiled as XLA has it; so is everything where the compiler of
# a TPU or a GPU is installed, for the tests ask what it makes.
if not any(importlib.util.find_spec(compiler) for compiler in ("libtpu", "jax_cuda13_plugin")):
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
    if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):  # later ones end at this flag
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# libtpu, where it is installed, compiles without a TPU: it need not ask the cloud which one it has, nor be alone.
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-8"}
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import gc
import pathlib
from collections.abc import Iterator

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from beartype.claw import beartype_package

CONF = BeartypeConf(is_pep484_tower=True, claw_is_pep526=False)  # an int is a float, as every type checker has it
checked = beartype(conf=CONF)
SUITE = pathlib.Path(__file__).parent.parent / "suite"


def _modules_of_arrays() -> Iterator[str]:
    """The modules whose signatures have axes. Checking these takes ten times as long, of every call."""
    for path in SUITE.rglob("*.py"):
        if "jaxtyping" in path.read_text(encoding="utf-8"):
            name = ".".join(path.relative_to(SUITE.parent).with_suffix("").parts)
            yield name.removesuffix(".__init__")


jaxtyping.install_import_hook([*_modules_of_arrays()], "conftest.checked")
beartype_package("suite", conf=CONF)


@pytest.fixture(scope="session")
def devices() -> list:
    """Eight devices. Too few is an error: a test of a mesh that ran on one device would have tested nothing."""
    import jax

    found = jax.devices()
    assert len(found) == 8, f"wanted 8 devices and there are {len(found)}; was JAX imported before tests/conftest.py?"
    return found


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where data sets lie, with the corpus `sources` prepared and tokenised."""
    from suite.tasks import corpora

    folder = tmp_path_factory.mktemp("data")
    corpora.open_tokens("sources", str(folder))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_file() -> Iterator[None]:
    """Lets go of what a file has compiled: every program takes memory maps, of which Linux allows a process 65,530."""
    yield
    import jax

    from suite.training import programs

    programs._shared.cache_clear()
    jax.clear_caches()
    gc.collect()
