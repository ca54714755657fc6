"""By the real CUDA compiler, ahead of time, for two H100s: the kernels for NVIDIA, and the whole step of every mixer.

Nothing runs and no GPU is needed. `make test-aot-cuda` installs the 4 GB of CUDA beside this suite.
"""

import functools
import importlib.util

import pytest
from ahead import compiled_gradient, text_of
from jax.experimental import topologies
from jax.sharding import Mesh

from suite import mesh as meshes
from suite import parts
from suite.job import Job
from suite.training import conditions
from suite.training.programs import Programs

pytestmark = [
    pytest.mark.aot,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda13_plugin") is None, reason="CUDA is not installed: make test-aot-cuda"
    ),
]
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 28 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# cuDNN's LSTM asks cuDNN for its sizes as it is compiled, which takes a GPU.
KERNELS = {"persistent": "__gpu$xla.gpu.triton", "cudnn": "__cudnn$fmha"}


@functools.cache
def mesh_of(n_devices: int) -> Mesh:
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="", topology=f"1x1x{n_devices}", target_config=H100
    )
    return meshes.make(devices=list(topology.devices))


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
