"""Fashion-MNIST (IDX files in data/fashion-mnist): what the founding systems share.

The network, without classes, and the budget: 256 000 images, a quarter of an hour on a core. Each
system's file starts from here and sets what its paper says; by itself it is a VP process trained as
EDM is.
"""

from scoresde.config import Config, defaults


def get_config() -> Config:
    config = defaults()
    config.data = "idx('data/fashion-mnist')"
    config.conditional = False
    config.net = "UNet(width=32, multipliers=(1, 2), blocks=2, attention=(1,), patch=2)"
    config.objective = "DSM(weighting=edm, times=LogNormalTimes(mean=-0.8, std=1.6))"
    config.optim.lr = 1e-3
    config.optim.warmup = 200
    config.train.steps = 4000
    config.train.checkpoint_every = 500
    config.sample.amp = "auto"
    config.sample.batch_size = 100
    config.likelihood.batch_size = 100
    return config
