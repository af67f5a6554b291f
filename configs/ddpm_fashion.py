"""Fashion-MNIST, DDPM: linear betas, L_simple, ancestral steps (Ho et al. 2020, arXiv:2006.11239).

Of the paper's two variances the posterior's, which serves respaced chains too.
"""

from pathlib import Path

from scoresde.config import Config, read


def get_config() -> Config:
    config = read(Path(__file__).with_name("fashion_base.py"))
    config.sde = "LinearBetas(n=1000)"
    config.net = config.net.removesuffix(")") + ", time_scale=1.0)"
    config.predicts = "eps"
    config.time_input = "feed_index"
    config.objective = "DSM(weighting=sigma2, times=LevelTimes())"
    config.train.dequantise = False
    config.sample.solver = "Ancestral()"
    config.sample.grid = "Respaced()"
    config.sample.steps = 1000
    config.sample.clip = True
    config.likelihood.method = "vlb"
    config.likelihood.clip = True
    return config
