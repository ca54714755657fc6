"""Topologies of devices that need not be there: v5e:16x16, h100:8, cpu:8; which compiler knows them, and their meshes.

A TPU's are compiled for by libtpu, an H100's by jax's CUDA plugin, which both run on any x86-64 machine; a CPU's are
devices of this host's own.
"""

import dataclasses
import importlib.util
import math
import re

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from suite import mesh as meshes
from suite.sweep import startup

TPUS = ("v5e", "v5p", "v6e", "tpu7x")
SHAPES = "a TPU's chips as v5e:16x16, v5p:2x2x4, v6e:8x8 or tpu7x:2x2x1, an NVIDIA host as h100:8, or cpu:8"
# The package that brings a platform's compiler, and how it is installed.
COMPILERS = {"tpu": ("libtpu", "pip install 'jax[tpu]'"), "cuda": ("jax_cuda13_plugin", "pip install 'jax[cuda13]'")}
# Set before JAX starts: libtpu need not ask the cloud which TPU it has, nor be alone.
OF_TPU = {
    **{"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"},
    **{"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-8"},
}
LARGEST_HOST = 1024  # devices of a CPU
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
# Triton tiles products by trial on a GPU. The tiles that it takes without one do not fit every width.
WITHOUT_GPU: dict[str, float | bool] = {"xla_gpu_enable_triton_gemm": False}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A name as v5e:16x16, its platform (tpu, cuda or cpu) and its chips."""

    name: str
    platform: str
    chips: int

    @property
    def compiler(self) -> str:
        """The package that compiles for it; empty for a CPU."""
        return "" if self.platform == "cpu" else COMPILERS[self.platform][0]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that compiles for it."""
        devices = f"--xla_force_host_platform_device_count={self.chips}" if self.platform == "cpu" else ""
        variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": startup.xla_flags(devices)}
        return variables | (OF_TPU if self.platform == "tpu" else {})

    @property
    def efforts(self) -> bool:
        """Whether its compiler can be asked for less effort."""
        return self.platform == "tpu"

    def options(self, effort: str) -> dict[str, float | bool]:
        """The compiler's options for launch.plan's --effort, least or full."""
        if self.platform == "cuda":
            return WITHOUT_GPU
        return {"exec_time_optimization_effort": -1.0} if self.efforts and effort == "least" else {}

    def mesh(self, spec: str) -> Mesh:
        """The mesh that `spec` describes over its devices, of which none need be there.

        ValueError where its compiler knows no such topology.
        """
        try:
            return meshes.make(spec, self._devices())
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{self.compiler} knows no topology {self.name}: {reason}") from error

    def _devices(self) -> list[jax.Device]:  # pyright: ignore[reportInvalidTypeForm] - compiled, without stubs
        match self.platform:
            case "cpu":
                return jax.devices()[: self.chips]
            case "cuda":
                shape = f"1x1x{self.chips}"
                found = topologies.get_topology_desc("", "cuda", topology=shape, target_config=H100)
            case _:
                found = topologies.get_topology_desc(self.name, "tpu")
        return list(found.devices)


def parse(name: str) -> Topology:
    """The topology of a name; ValueError where none is known, or where its compiler is not installed."""
    match = re.fullmatch(r"([a-z0-9]+):([1-9][0-9]*(?:x[1-9][0-9]*){0,2})", name)
    chips = math.prod(map(int, match[2].split("x"))) if match else 0
    if match and match[1] in TPUS and "x" in match[2]:
        topology = Topology(name, "tpu", chips)
    elif match and match[1] == "h100" and "x" not in match[2]:
        topology = Topology(name, "cuda", chips)
    elif match and match[1] == "cpu" and "x" not in match[2] and chips <= LARGEST_HOST:
        topology = Topology(name, "cpu", chips)
    else:
        raise ValueError(f"no topology {name!r} is known; wanted {SHAPES}")
    if topology.compiler and importlib.util.find_spec(topology.compiler) is None:
        advice = COMPILERS[topology.platform][1]
        raise ValueError(f"the compiler for {name} is not installed: {advice}, which needs no such device")
    return topology
