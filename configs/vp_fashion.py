"""Fashion-MNIST (IDX files in data/fashion-mnist) under a VP process."""

from scoresde.config import Config, defaults


def get_config() -> Config:
    config = defaults()
    config.conditional = False
    config.data = "idx('data/fashion-mnist')"
    config.net = "UNet(width=64, multipliers=(1, 2, 2), blocks=2, attention=(2,), dropout=0.1)"
    config.objective = "DSM(weighting=edm, times=LogNormalTimes(mean=-0.8, std=1.6))"
    config.optim.lr = 2e-4
    config.optim.warmup = 1000
    config.train.steps = 100_000
    config.train.ema_decay = 0.9995
    config.train.checkpoint_every = 5000
    config.train.log_every = 100
    config.sample.batch_size = 64
    config.likelihood.batch_size = 64
    return config
