"""Fashion-MNIST, score SDE, VP: continuous DSM, Euler-Maruyama, likelihood by the flow.

Song et al. 2021, arXiv:2011.13456. Sub-VP: `--config.sde="SubVPSDE(t_min=1e-5)"`.
"""

from pathlib import Path

from scoresde.config import Config, read


def get_config() -> Config:
    config = read(Path(__file__).with_name("fashion_base.py"))
    config.sde = "VPSDE(t_min=1e-5)"
    config.predicts = "eps"
    config.time_input = "feed_t"
    config.objective = "DSM(weighting=sigma2)"
    # the paper's code has no corrector for this model
    config.sample.solver = "EulerMaruyama()"
    config.sample.grid = "UniformGrid()"
    config.sample.steps = 1000
    return config
