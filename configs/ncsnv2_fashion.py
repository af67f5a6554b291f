"""Fashion-MNIST, NCSNv2: a ladder as wide as the data, annealed Langevin dynamics.

Song and Ermon 2020, arXiv:2006.09011. For grey levels in [0, 1] `ncsnv2_ladder` of the training
data gives sigma_max, the largest distance between two of them, and n, the levels that overlap, and
`ncsnv2_sampler` the step.
"""

from pathlib import Path

from scoresde.config import Config, read


def get_config() -> Config:
    config = read(Path(__file__).with_name("fashion_base.py"))
    config.low = 0.0
    config.sde = "GeometricSigmas(n=99, sigma_max=22.4561, sigma_min=0.01)"
    # technique 3: at this scale all levels look alike, and the network is told none
    config.net = config.net.removesuffix(")") + ", time_scale=0.0)"
    config.predicts = "eps"
    config.time_input = "feed_index"
    config.objective = "DSM(weighting=sigma2, times=LevelTimes())"
    config.train.dequantise = False
    config.sample.solver = "annealed_langevin(step=0.111, corrections=5)"
    config.sample.grid = "Respaced()"
    config.sample.steps = 99
    return config
