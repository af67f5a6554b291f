"""CIFAR-10, VE, NCSN++: 62.8 million parameters (Song et al. 2021, arXiv:2011.13456, App. H).

Deep, of 107.6 million: `--config.net="ncsnpp(blocks=8, time_scale=64.0)"` and
`--config.train.steps=950000`. Data are in [0, 1] as in the paper's code, whose network maps them to
[-1, 1] before its first layer; here it does not.
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
    config.low = 0.0
    config.sde = "VESDE(sigma_min=0.01, sigma_max=50.0)"
    config.net = "ncsnpp(time_scale=64.0)"  # 16 cycles per unit of log sigma, fed a quarter of it
    config.predicts = "eps"
    config.time_input = "feed_log_sigma"
    config.objective = "DSM(weighting=sigma2)"
    config.train.ema_decay = 0.999
    # the paper's code: reverse diffusion, after a Langevin step at every level
    config.sample.solver = "PredictorCorrector(corrector=Langevin(snr=0.16), correct_first=True)"
    config.sample.grid = "UniformGrid()"
    config.sample.steps = 1000
    return config
