"""Fashion-MNIST, score SDE, VE: continuous DSM, PC sampling, likelihood by the flow.

Song et al. 2021, arXiv:2011.13456. sigma_max is the largest distance between two training images,
as in `configs/ncsnv2_fashion.py`.
"""

from pathlib import Path

from scoresde.config import Config, read


def get_config() -> Config:
    config = read(Path(__file__).with_name("fashion_base.py"))
    config.low = 0.0
    config.sde = "VESDE(sigma_min=0.01, sigma_max=22.4561)"
    config.predicts = "eps"
    config.time_input = "feed_log_sigma"
    config.objective = "DSM(weighting=sigma2)"
    # the paper's code: reverse diffusion, after a Langevin step at every level
    config.sample.solver = "PredictorCorrector(corrector=Langevin(snr=0.16), correct_first=True)"
    config.sample.grid = "UniformGrid()"
    config.sample.steps = 1000
    return config
