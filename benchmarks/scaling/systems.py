"""The systems of the papers: their networks, and how many images they were trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from benchmarks.scaling.counting import Count, count
from configs import edm_cifar10, ve_ncsnpp_cifar10, vp_ddpmpp_cifar10
from scoresde.calls import build
from scoresde.config import Config
from scoresde.nets import ADM, DiT, ddpm, ncsnpp


@dataclass(frozen=True)
class System:
    """A network and its training.

    Attributes:
        name: of the network, unique.
        shape: of what it is given.
        build: its constructor.
        images: seen in training, steps times batch size.
        source: of the number of images.
        classes: whether it has classes.
    """

    name: str
    shape: tuple[int, ...]
    build: Callable[[], nn.Module]
    images: int
    source: str
    classes: bool = False

    def count(self) -> Count:
        """Count what an image costs."""
        return count(self.build, self.shape, classes=self.classes)


def _configured(
    name: str, config: Config, source: str, net: str | None = None, steps: int | None = None
) -> System:
    """Return a configuration's system, on CIFAR-10, with another network or length if given."""
    shape, call = (3, 32, 32), net or str(config.net)
    make = partial(build, call, nn.Module, channels=3, dims=2, num_classes=None)
    images = (steps or int(config.train.steps)) * int(config.train.batch_size)
    return System(name, shape, make, images, source)


def _dit(name: str, width: int, depth: int, heads: int, steps: int) -> System:
    make = partial(
        DiT, (4, 32, 32), width=width, depth=depth, heads=heads, num_classes=1000, outputs=8
    )
    source = f"{steps:,} x 256 (Peebles and Xie 2023)"
    return System(name, (4, 32, 32), make, steps * 256, source, classes=True)


_VP, _VE, _EDM = (m.get_config() for m in (vp_ddpmpp_cifar10, ve_ncsnpp_cifar10, edm_cifar10))
_DEEP = 950_000  # steps

CIFAR = (
    System("DDPM", (3, 32, 32), ddpm, 800_000 * 128, "800,000 x 128 (Ho et al. 2020, App. B)"),
    System(
        "Improved DDPM",
        (3, 32, 32),
        partial(
            ADM, 3, width=128, multipliers=(1, 2, 2, 2), blocks=3, conv_resample=True, outputs=6
        ),
        500_000 * 128,
        "500,000 x 128 (Nichol and Dhariwal 2021, App. A)",
    ),
    _configured("DDPM++", _VP, "`configs/vp_ddpmpp_cifar10.py`"),
    _configured("DDPM++ deep", _VP, "the same, its deep variant", "ddpmpp(blocks=8)", _DEEP),
    _configured("NCSN++", _VE, "`configs/ve_ncsnpp_cifar10.py`"),
    _configured(
        "NCSN++ deep", _VE, "the same, its deep variant", "ncsnpp(blocks=8, time_scale=64.0)", _DEEP
    ),
    _configured("EDM", _EDM, "`configs/edm_cifar10.py`"),
)

LARGE = (
    System(
        "DDPM 256",
        (3, 256, 256),
        partial(ddpm, multipliers=(1, 1, 2, 2, 4, 4), attention=(4,), dropout=0.0),
        2_400_000 * 64,
        "2,400,000 x 64, LSUN bedrooms (Ho et al. 2020, App. B)",
    ),
    System(
        "NCSN++ 256",
        (3, 256, 256),
        partial(
            ncsnpp,
            multipliers=(1, 1, 2, 2, 2, 2, 2),
            blocks=2,
            attention=(4,),
            dropout=0.0,
            progressive_input="input_skip",
            progressive_output="output_skip",
        ),
        2_400_000 * 64,
        "2,400,000 x 64 (the authors' `default_lsun_configs.py`)",
    ),
    System(
        "ADM 256",
        (3, 256, 256),
        partial(
            ADM,
            3,
            width=256,
            multipliers=(1, 1, 2, 2, 4, 4),
            attention=(3, 4, 5),
            num_classes=1000,
            outputs=6,
        ),
        1_980_000 * 256,
        "1,980,000 x 256 (Dhariwal and Nichol 2021)",
        classes=True,
    ),
    _dit("DiT-S/2", 384, 12, 6, 400_000),
    _dit("DiT-B/2", 768, 12, 12, 400_000),
    _dit("DiT-L/2", 1024, 24, 16, 400_000),
    _dit("DiT-XL/2", 1152, 28, 16, 7_000_000),
)

SYSTEMS = {system.name: system for system in (*CIFAR, *LARGE)}
