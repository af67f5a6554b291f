"""Two moons in the plane under a VP process: minutes on any processor."""

from scoresde.config import Config, defaults


def get_config() -> Config:
    config = defaults()
    config.conditional = False
    config.objective = "DSM(weighting=edm, times=LogNormalTimes(mean=-0.7, std=1.8))"
    config.data = "moons(n=20000)"
    config.net = "MLP(hidden=128, depth=3)"
    config.train.steps = 4000
    config.train.batch_size = 256
    config.likelihood.trace = "ExactTrace()"
    config.likelihood.batch_size = 2000
    return config
