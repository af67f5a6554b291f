"""CIFAR-10, VP, DDPM++: 61.8 million parameters (Song et al. 2021, arXiv:2011.13456, App. H).

Deep, of 106.6 million: `--config.net="ddpmpp(blocks=8)" --config.train.steps=950000`.
Sub-VP: `--config.sde="SubVPSDE(t_min=1e-5)"`.
"""

from scoresde.config import Config, defaults


def get_config() -> Config:
    config = defaults()
    config.data = "cifar10('data/cifar-10-batches-bin')"
    config.conditional = False
    config.optim.lr = 2e-4
    config.optim.warmup = 5000
    config.optim.decay = False
    config.train.steps = 1_300_000
    config.train.batch_size = 128
    config.train.flip = True
    config.train.dequantise = False
    config.train.checkpoint_every = 10_000
    config.train.log_every = 100
    config.train.tensorboard = True
    config.train.sample_every = 10_000
    config.sample.batch_size = 256
    config.likelihood.batch_size = 64
    config.sde = "VPSDE(t_min=1e-5)"
    config.net = "ddpmpp()"
    config.predicts = "eps"
    config.time_input = "feed_999t"
    config.objective = "DSM(weighting=sigma2)"
    config.train.ema_decay = 0.9999
    # the paper's code has no corrector for this model, and stops at 1e-3 in sampling
    config.sample.solver = "EulerMaruyama()"
    config.sample.grid = "UniformGrid()"
    config.sample.steps = 1000
    return config
