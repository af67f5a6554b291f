"""What the CIFAR-10 runs of Song et al. 2021 (arXiv:2011.13456, App. H) share."""

from scoresde.config import Config, defaults


def get_config() -> Config:
    config = defaults()
    config.conditional = False
    config.data = "cifar10('data/cifar-10-batches-bin')"
    config.optim.lr = 2e-4
    config.optim.warmup = 5000
    config.optim.decay = False
    config.train.steps = 1_300_000
    config.train.ema_decay = 0.9999
    config.train.flip = True
    config.train.checkpoint_every = 10_000
    config.train.log_every = 100
    config.train.tensorboard = True
    config.train.sample_every = 10_000
    config.sample.batch_size = 256
    config.likelihood.batch_size = 64
    return config
