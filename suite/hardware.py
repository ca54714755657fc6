"""Peaks of accelerators: what a measured rate is divided by.

Figures are dense (no sparsity) and per JAX device: TPU v2, v3 and TPU7x show two devices a chip, so theirs are half a
chip's. float32 on NVIDIA is TF32 where the chip has it and on TPU one bfloat16 pass, since that is what XLA's
default precision runs. A CPU is not looked up: its peak is measured once on the spot (suite/measures/peak.py).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Peak:
    """One device: FLOP/s by dtype of the products, bytes/s and bytes of its memory, and who says so."""

    flops: dict[str, float]
    bytes_per_second: float
    memory_bytes: float
    source: str


def _tpu(bfloat16: float, bandwidth: float, memory: float, source: str) -> Peak:
    return Peak({"bfloat16": bfloat16 * 1e12, "float32": bfloat16 * 1e12}, bandwidth * 1e12, memory * 1e9, source)


def _nvidia(bfloat16: float, float32: float, bandwidth: float, memory: float, source: str) -> Peak:
    return Peak({"bfloat16": bfloat16 * 1e12, "float32": float32 * 1e12}, bandwidth * 1e12, memory * 1e9, source)


PEAKS = {
    "TPU v2": _tpu(22.5, 0.35, 8, "Google Cloud TPU v2 page: 45 TFLOP/s, 700 GB/s, 16 GB a chip of two cores"),
    "TPU v3": _tpu(61.5, 0.45, 16, "Google Cloud TPU v3 page: 123 TFLOP/s, 900 GB/s, 32 GB a chip of two cores"),
    "TPU v4": _tpu(275, 1.228, 32, "Google Cloud TPU v4 page: 275 TFLOP/s, 1228 GB/s, 32 GB a chip"),
    "TPU v5 lite": _tpu(197, 0.819, 16, "Google Cloud TPU v5e page: 197 TFLOP/s, 819 GB/s, 16 GB"),
    "TPU v5": _tpu(459, 2.765, 95, "Google Cloud TPU v5p page: 459 TFLOP/s, 2765 GB/s, 95 GB"),
    "TPU v6 lite": _tpu(918, 1.64, 32, "Google Cloud TPU v6e page: 918 TFLOP/s, 1640 GB/s, 32 GB"),
    "TPU7x": _tpu(1153.5, 3.69, 96, "Google Cloud TPU7x page: 2307 TFLOP/s, 7380 GB/s, 192 GB a chip of two devices"),
    "NVIDIA A100-SXM4-40GB": _nvidia(312, 156, 1.555, 40, "NVIDIA A100 data sheet, SXM 40 GB"),
    "NVIDIA A100-PCIE-40GB": _nvidia(312, 156, 1.555, 40, "NVIDIA A100 data sheet, PCIe 40 GB"),
    "NVIDIA A100-SXM4-80GB": _nvidia(312, 156, 2.039, 80, "NVIDIA A100 data sheet, SXM 80 GB"),
    "NVIDIA A100 80GB PCIe": _nvidia(312, 156, 1.935, 80, "NVIDIA A100 data sheet, PCIe 80 GB"),
    "NVIDIA H100 80GB HBM3": _nvidia(989.4, 494.7, 3.35, 80, "NVIDIA H100 data sheet, SXM"),
    "NVIDIA H100 PCIe": _nvidia(756, 378, 2.0, 80, "NVIDIA H100 data sheet, PCIe"),
    "NVIDIA H200": _nvidia(989.4, 494.7, 4.8, 141, "NVIDIA H200 data sheet, SXM"),
    "NVIDIA B200": _nvidia(2250, 1125, 7.7, 180, "NVIDIA DGX B200 data sheet, an eighth of the system"),
    "NVIDIA L40S": _nvidia(362, 183, 0.864, 48, "NVIDIA L40S data sheet"),
    "NVIDIA L4": _nvidia(121, 60, 0.3, 24, "NVIDIA L4 data sheet"),
    "Tesla T4": Peak({"float32": 8.1e12}, 0.32e12, 16e9, "NVIDIA T4 data sheet (no bfloat16, no TF32)"),
}

# Seconds of one dependent step of a recurrence in the best kernel known: what no batch size buys back.
STEP_SECONDS = {
    "NVIDIA H100 80GB HBM3": (2e-6, "persistent kernel, derived from FlashRNN's chart of LSTMs on an H100"),
    "NVIDIA H200": (2e-6, "as the H100, the same cores"),
}

# Bytes a second that a device can send over all links to the devices beside it.
LINK_BYTES = {
    "TPU v5 lite": (200e9, "Google Cloud TPU v5e page: 400 GB/s in both directions"),
    "TPU v5": (600e9, "Google Cloud TPU v5p page: 1,200 GB/s in both directions"),
    "TPU v6 lite": (400e9, "Google Cloud TPU v6e page: 800 GB/s in both directions"),
    "TPU7x": (300e9, "Google Cloud TPU7x page: 1,200 GB/s in both directions, a chip of two devices"),
    "NVIDIA H100 80GB HBM3": (450e9, "NVIDIA H100 data sheet: NVLink, 900 GB/s in both directions"),
}


def peak(device_kind: str) -> Peak:
    """The peaks of a device, by `jax.Device.device_kind`; LookupError names the line that is missing."""
    if device_kind not in PEAKS:
        raise LookupError(f"no peak FLOP/s for {device_kind!r}; add a line with its source to suite/hardware.py")
    return PEAKS[device_kind]


def flops_per_second(peak: Peak, dtype: str) -> float:
    """Peak FLOP/s for products in `dtype`; LookupError where the device has none."""
    if dtype not in peak.flops:
        raise LookupError(f"no peak FLOP/s in {dtype} ({peak.source}); add it with its source to suite/hardware.py")
    return peak.flops[dtype]


def step_seconds(device_kind: str) -> float:
    """Latency of one dependent step; LookupError where nobody has measured it."""
    if device_kind not in STEP_SECONDS:
        raise LookupError(f"no step latency for {device_kind!r}; add a line with its source to suite/hardware.py")
    return STEP_SECONDS[device_kind][0]


def link_bytes_per_second(device_kind: str) -> float:
    """Bytes a second that a device sends to others at most; LookupError where no line says it."""
    if device_kind not in LINK_BYTES:
        raise LookupError(f"no link bandwidth for {device_kind!r}; add a line with its source to suite/hardware.py")
    return LINK_BYTES[device_kind][0]
