"""CIFAR-10, Improved DDPM: 52.5 million parameters (Nichol and Dhariwal 2021, arXiv:2102.09672).

The paper's L_hybrid; its L_vlb is `--config.objective="VLB()"`.
"""

import math
from pathlib import Path

from scoresde.config import Config, read


def get_config() -> Config:
    config = read(Path(__file__).with_name("vp_ddpmpp_cifar10.py"))
    config.sde = "CosineBetas(n=4000)"
    # a quarter of the index, up to 1000, as the paper's code rescales it
    config.net = (
        "ADM(width=128, multipliers=(1, 2, 2, 2), blocks=3, dropout=0.3, conv_resample=True, "
        "time_scale=0.25)"
    )
    config.time_input = "feed_index"
    config.objective = "Hybrid()"
    config.optim.lr = 1e-4
    config.optim.warmup = 1  # none
    config.train.steps = 500_000
    config.train.grad_clip = math.inf
    config.train.flip = False
    config.sample.solver = "LearnedAncestral()"
    config.sample.grid = "Respaced()"
    config.sample.steps = 4000
    config.sample.clip = True
    config.likelihood.method = "vlb"
    config.likelihood.clip = True
    config.likelihood.levels = 4000
    return config
