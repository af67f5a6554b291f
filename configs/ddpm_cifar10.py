"""CIFAR-10, DDPM: 35.2 million parameters (Ho et al. 2020, arXiv:2006.11239, App. B).

They are those of the score SDE's code; the paper counts 35.7.
"""

from pathlib import Path

from scoresde.config import Config, read


def get_config() -> Config:
    config = read(Path(__file__).with_name("vp_ddpmpp_cifar10.py"))
    config.sde = "LinearBetas(n=1000)"
    config.net = "ddpm()"
    config.time_input = "feed_index"
    config.objective = "DSM(weighting=sigma2, times=LevelTimes())"
    config.train.steps = 800_000
    # the paper's larger variance, beta
    config.sample.solver = "Ancestral(forward_variance=True)"
    config.sample.grid = "Respaced()"
    config.sample.clip = True
    config.likelihood.method = "vlb"
    config.likelihood.clip = True
    config.likelihood.levels = 1000
    return config
