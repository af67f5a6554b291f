"""CIFAR-10, VP, DDPM++: 61.8 million parameters (Song et al. 2021, arXiv:2011.13456, App. H)."""

from configs.cifar10 import get_config as shared
from scoresde.config import Config


def get_config() -> Config:
    config = shared()
    config.sde = "VPSDE(t_min=1e-5)"
    config.net = (
        "UNet(width=128, multipliers=(1, 2, 2, 2), blocks=4, attention=(1,), dropout=0.1, "
        "scale_shift=False, time_scale=1.0)"
    )
    config.predicts = "eps"
    config.time_input = "feed_999t"
    config.objective = "DSM(weighting=sigma2)"
    return config
