"""From counts to memory, hours and images a second."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.scaling.counting import Count

# of the peak; that of ADM on the V100, by its authors' own account
UTILISATION = 0.35
STATE_BYTES = 4 + 4 + 8 + 4  # a parameter, its gradient, Adam's two moments, its average


class Device(NamedTuple):
    """An accelerator by its maker's datasheet.

    Attributes:
        name: with the precision of the peak.
        peak: operations a second, dense.
        memory: bytes, 0 where it is not used here.
        source: of both.
    """

    name: str
    peak: float
    memory: float
    source: str


A100 = Device("A100", 312e12, 80e9, "NVIDIA A100 80GB datasheet: BFLOAT16 Tensor Core, dense")
H100 = Device(
    "H100", 989e12, 80e9, "NVIDIA H100 SXM datasheet: BFLOAT16 Tensor Core, without sparsity"
)
V100 = Device("V100, float16", 125e12, 0.0, "NVIDIA V100 SXM2 datasheet: Tensor performance")
V100_FLOAT32 = Device("V100, float32", 15.7e12, 0.0, "NVIDIA V100 SXM2 datasheet: single precision")
TPU_V3 = Device("TPU v3 chip", 123e12, 0.0, "Google Cloud TPU v3, peak compute per chip: bfloat16")


def state_bytes(count: Count) -> int:
    """Return the bytes that training holds whatever the batch: 20 a parameter, all in float32."""
    return STATE_BYTES * count.parameters


def largest_batch(count: Count, device: Device) -> int:
    """Return the largest n with state + n activations <= memory, both in float32."""
    return max(0, int((device.memory - state_bytes(count)) // count.activations))


def seconds(flops: float, device: Device, utilisation: float = UTILISATION) -> float:
    """Return flops / (utilisation peak), in seconds of one device.

    Raises:
        ValueError: a utilisation outside (0, 1].
    """
    if not 0.0 < utilisation <= 1.0:
        raise ValueError(f"utilisation={utilisation} must be a share of the peak, in (0, 1]")
    return flops / (utilisation * device.peak)


def training_hours(count: Count, images: int, device: Device) -> float:
    """Return images (forward + backward) / (utilisation peak), in hours of one device."""
    return seconds(images * count.training, device) / 3600.0


def sampling_hours(count: Count, images: int, calls: int, device: Device) -> float:
    """Return images calls forward / (utilisation peak), in hours of one device."""
    return seconds(images * calls * count.forward, device) / 3600.0


def utilisation(flops: float, rate: float, device: Device, devices: int) -> float:
    """Return rate flops / (devices peak), what a stated number of images a second comes to."""
    return rate * flops / (devices * device.peak)
