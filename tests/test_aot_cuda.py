"""By the real CUDA compiler, ahead of time, for two H100s: the kernels for NVIDIA, and the whole step of every mixer.

Nothing runs and no GPU is needed. `make test-aot-cuda` installs the 4 GB of CUDA beside this suite.
"""

import functools
import importlib.util

import pytest
from ahead import assert_the_longest_step_fits, assert_trained_and_read, compiled_gradient, text_of
from jax.sharding import Mesh

from suite import parts
from suite.job import Job
from suite.planning.topology import parse
from suite.scale import SCALES
from suite.sweep import reading
from suite.sweep.reading import Reading
from suite.training import conditions
from suite.training.programs import Programs

pytestmark = [
    pytest.mark.aot,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda13_plugin") is None, reason="CUDA is not installed: make test-aot-cuda"
    ),
]
# cuDNN's LSTM asks cuDNN for its sizes as it is compiled, which takes a GPU.
KERNELS = {"persistent": "__gpu$xla.gpu.triton", "cudnn": "__cudnn$fmha"}


@functools.cache
def mesh_of(n_devices: int) -> Mesh:
    return parse(f"h100:{n_devices}").mesh("")


@pytest.mark.parametrize("n_devices", [1, 2])
@pytest.mark.parametrize(("heads", "dtype"), [(3, "bfloat16"), (6, "bfloat16"), (6, "float32"), (12, "float32")])
def test_the_persistent_kernel_compiles(heads: int, dtype: str, n_devices: int) -> None:
    # 19 examples a device: no multiple of a block.
    text = compiled_gradient(
        f"lstm:implementation=persistent,heads={heads}", mesh_of(n_devices), (19 * n_devices, 300, 384), dtype
    )
    assert text.count(f'custom_call_target="{KERNELS["persistent"]}"') == 2


@pytest.mark.parametrize("spec", ["attention", "attention:kv_heads=2,window=100"])
def test_attention_is_cudnns(spec: str) -> None:
    assert f'custom_call_target="{KERNELS["cudnn"]}' in compiled_gradient(spec, mesh_of(2), (4, 512, 512), "bfloat16")


@pytest.mark.parametrize("name", parts.names("suite.mixers"))
def test_the_whole_step_compiles_with_the_form_that_the_row_names(name: str) -> None:
    job = Job(mixer=name, width=256, depth=2, length=512, batch=8, dtype="bfloat16")
    compiled = Programs(job, mesh_of(2), 256).lowered_step.compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes > 0
    assert (KERNELS["cudnn"] in text_of(compiled)) == (conditions.implementation(job, mesh_of(2)) == "cudnn")


@pytest.mark.parametrize("name", ["attention", "lstm"])
def test_the_longest_steps_of_scale_gpu_hour_fit_what_it_is_for(name: str) -> None:
    assert_the_longest_step_fits(SCALES["gpu_hour"], name, parse("h100:1").mesh(""))


@pytest.mark.parametrize("task", ["needle", "text"])
def test_what_launch_contexts_trains_and_reads_at_scale_gpu_hour_fits(task: str) -> None:
    job = reading.SIZES["gpu_hour"].job(task)
    asked = Reading(("attention", "lstm"), job, seeds=1, measures=(), rates="table")
    assert_trained_and_read(asked, parse("h100:1").mesh(""), longest=16)
