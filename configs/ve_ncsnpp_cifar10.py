"""CIFAR-10, VE, NCSN++: 62.8 million parameters (Song et al. 2021, arXiv:2011.13456, App. H)."""

from configs.cifar10 import get_config as shared
from scoresde.config import Config


def get_config() -> Config:
    config = shared()
    config.low = 0.0
    config.sde = "VESDE(sigma_min=0.01, sigma_max=50.0)"
    config.net = (
        "UNet(width=128, multipliers=(1, 2, 2, 2), blocks=4, attention=(1,), dropout=0.1, "
        "scale_shift=False, embedding='fourier', resample=(1, 3, 3, 1), progressive_input=True)"
    )
    config.predicts = "eps"
    config.time_input = "feed_log_sigma"
    config.objective = "DSM(weighting=sigma2)"
    config.train.ema_decay = 0.999
    config.sample.solver = "PredictorCorrector(corrector=Langevin(snr=0.16))"
    config.sample.steps = 1000
    return config
