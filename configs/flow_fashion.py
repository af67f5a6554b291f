"""Fashion-MNIST (IDX files in data/fashion-mnist) by flow matching on straight paths.

Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2023, arXiv:2210.02747. Times are logit-normal,
as in Esser et al. 2024, arXiv:2403.03206.
"""

from pathlib import Path

from scoresde.config import Config, read


def get_config() -> Config:
    config = read(Path(__file__).with_name("vp_fashion.py"))
    config.sde = "RectifiedFlow()"
    config.predicts = "velocity"
    config.time_input = "feed_t"
    config.objective = "DSM(weighting=velocity, times=LogNormalTimes(mean=0.0, std=1.0))"
    return config
