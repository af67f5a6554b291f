"""What the papers state of size, cost and speed, to hold the counts against."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.scaling.counting import Count
from benchmarks.scaling.formulas import TPU_V3, V100, V100_FLOAT32, Device
from benchmarks.scaling.systems import SYSTEMS

# millions of parameters
PARAMETERS = {
    "DDPM": 35.7,
    "DDPM++": 62.0,
    "NCSN++": 63.0,
    "EDM": 55.7,
    "DDPM 256": 114.0,
    "ADM 256": 554.0,
    "DiT-S/2": 33.0,
    "DiT-B/2": 130.0,
    "DiT-L/2": 458.0,
    "DiT-XL/2": 675.0,
}

# 10^9 multiply-adds of a call, which Peebles and Xie 2023 call Gflops
MULTIPLY_ADDS = {
    "ADM 256": 1120.0,
    "DiT-S/2": 6.06,
    "DiT-B/2": 23.01,
    "DiT-L/2": 80.71,
    "DiT-XL/2": 118.64,
}


class Speed(NamedTuple):
    """A speed that a paper states.

    Attributes:
        system: its name.
        rate: images a second, on all devices together.
        calls: network calls an image in sampling, 0 for training.
        device: what it ran on.
        devices: how many.
        source: what is stated, and where.
    """

    system: str
    rate: float
    calls: int
    device: Device
    devices: int
    source: str

    def flops(self, count: Count) -> int:
        """Return the operations for an image, of a training step or of all calls."""
        return self.calls * count.forward if self.calls else count.training


_DAY = 86_400.0
SPEEDS = (
    Speed("DDPM", 21 * 128, 0, TPU_V3, 4, "21 steps of 128 a second (Ho et al. 2020, App. B)"),
    Speed("DDPM", 256 / 17, 1000, TPU_V3, 4, "256 samples in 17 s (Ho et al. 2020, App. B)"),
    Speed("DDPM 256", 2.2 * 64, 0, TPU_V3, 4, "2.2 steps of 64 a second (Ho et al. 2020, App. B)"),
    Speed("DDPM 256", 128 / 300, 1000, TPU_V3, 4, "128 samples in 300 s (Ho et al. 2020, App. B)"),
    Speed(
        "EDM",
        SYSTEMS["EDM"].images / (2 * _DAY),
        0,
        V100_FLOAT32,
        8,
        "about 2 days (README of github.com/NVlabs/edm)",
    ),
    Speed(
        "ADM 256",
        SYSTEMS["ADM 256"].images / (916 * _DAY),
        0,
        V100,
        1,
        "916 V100-days (Dhariwal and Nichol 2021, Table 10)",
    ),
    Speed(
        "DiT-XL/2", 5.7 * 256, 0, TPU_V3, 128, "5.7 steps of 256 a second (Peebles and Xie 2023)"
    ),
)
