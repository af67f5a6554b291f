"""CIFAR-10, NCSNv2: 29.7 million parameters, 232 levels (Song and Ermon 2020, arXiv:2006.09011).

The step is epsilon / sigma_min^2 = 6.2e-6 / 0.01^2, at each level five times. Data are in [0, 1] as
in the paper's code, whose network maps them to [-1, 1] before its first layer; here it does not.
"""

import math
from pathlib import Path

from scoresde.config import Config, read


def get_config() -> Config:
    config = read(Path(__file__).with_name("vp_ddpmpp_cifar10.py"))
    config.low = 0.0
    config.sde = "GeometricSigmas(n=232, sigma_max=50.0, sigma_min=0.01)"
    config.net = "RefineNet(width=128)"
    config.time_input = "feed_index"
    config.objective = "DSM(weighting=sigma2, times=LevelTimes())"
    config.optim.lr = 1e-4
    config.optim.warmup = 1  # none
    config.train.steps = 300_000
    config.train.ema_decay = 0.999
    config.train.grad_clip = math.inf
    config.sample.solver = "annealed_langevin(step=0.062, corrections=5)"
    config.sample.grid = "Respaced()"
    config.sample.steps = 232
    return config
