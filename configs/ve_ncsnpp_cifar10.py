"""CIFAR-10, VE, NCSN++: 62.8 million parameters (Song et al. 2021, arXiv:2011.13456, App. H)."""

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
    config.train.checkpoint_every = 10_000
    config.train.log_every = 100
    config.train.tensorboard = True
    config.train.sample_every = 10_000
    config.sample.batch_size = 256
    config.likelihood.batch_size = 64
    config.low = 0.0
    config.sde = "VESDE(sigma_min=0.01, sigma_max=50.0)"
    config.net = (
        "UNet(width=128, multipliers=(1, 2, 2, 2), blocks=4, attention=(1,), dropout=0.1, "
        "scale_shift=False, embedding='fourier', time_scale=64.0, resample=(1, 3, 3, 1), "
        "progressive_input=True)"
    )
    config.predicts = "eps"
    config.time_input = "feed_log_sigma"
    config.objective = "DSM(weighting=sigma2)"
    config.train.ema_decay = 0.999
    # the paper's code: reverse diffusion, after a Langevin step at every level
    config.sample.solver = "PredictorCorrector(corrector=Langevin(snr=0.16), correct_first=True)"
    config.sample.grid = "UniformGrid()"
    config.sample.steps = 1000
    return config
