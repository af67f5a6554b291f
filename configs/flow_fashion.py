"""Fashion-MNIST (IDX files in data/fashion-mnist) by flow matching on straight paths.

Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2023, arXiv:2210.02747. Times are logit-normal,
as in Esser et al. 2024, arXiv:2403.03206.
"""

from scoresde.config import Config, defaults


def get_config() -> Config:
    config = defaults()
    config.conditional = False
    config.data = "idx('data/fashion-mnist')"
    config.sde = "RectifiedFlow()"
    config.net = "UNet(width=64, multipliers=(1, 2, 2), blocks=2, attention=(2,), dropout=0.1)"
    config.predicts = "velocity"
    config.time_input = "feed_t"
    config.objective = "DSM(weighting=velocity, times=LogNormalTimes(mean=0.0, std=1.0))"
    config.optim.lr = 2e-4
    config.optim.warmup = 1000
    config.train.steps = 100_000
    config.train.ema_decay = 0.9995
    config.train.checkpoint_every = 5000
    config.train.log_every = 100
    config.sample.batch_size = 64
    config.likelihood.batch_size = 64
    return config
