"""CIFAR-10, EDM, DDPM++: 55.7 million parameters (Karras et al. 2022, arXiv:2206.00364, App. F).

The paper's training configuration F, without classes: its augmentation is left out but for mirror
images, and with it what the network is told of it.
"""

import math

from scoresde.config import Config, defaults


def get_config() -> Config:
    config = defaults()
    config.data = "cifar10('data/cifar-10-batches-bin')"
    config.conditional = False
    config.transform = "Affine(loc=127.5, scale=127.5, levels=256)"
    config.data_std = 0.5
    config.sde = "EDMSDE()"
    config.net = (
        "UNet(width=128, multipliers=(2, 2, 2), blocks=4, attention=(1,), dropout=0.13, "
        "scale_shift=False, time_scale=1.0)"
    )
    config.predicts = "edm"
    config.time_input = "feed_log_sigma"
    config.objective = "DSM(weighting=edm, times=LogNormalTimes(mean=-1.2, std=1.2))"
    config.optim.lr = 1e-3
    config.optim.warmup = 19_531  # 10 million images
    config.optim.decay = False
    config.train.steps = 390_625  # 200 million images
    config.train.batch_size = 512
    config.train.ema_decay = 0.99929  # halves in half a million images
    config.train.grad_clip = math.inf
    config.train.flip = True
    config.train.dequantise = False
    config.train.checkpoint_every = 10_000
    config.train.log_every = 100
    config.train.tensorboard = True
    config.train.sample_every = 10_000
    config.sample.solver = "Heun()"
    config.sample.grid = "KarrasGrid(rho=7.0)"
    config.sample.steps = 18
    config.sample.batch_size = 256
    config.likelihood.batch_size = 64
    return config
