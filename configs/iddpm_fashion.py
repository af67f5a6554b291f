"""Fashion-MNIST, Improved DDPM: cosine betas, L_hybrid, learned variances, respaced steps.

Nichol and Dhariwal 2021, arXiv:2102.09672. Its L_vlb, with levels drawn by the moments
of their losses, is `--config.objective="VLB()"`.
"""

from pathlib import Path

from scoresde.config import Config, read


def get_config() -> Config:
    config = read(Path(__file__).with_name("fashion_base.py"))
    config.sde = "CosineBetas(n=4000)"
    config.net = config.net.removesuffix(")") + ", time_scale=0.25)"
    config.predicts = "eps"
    config.time_input = "feed_index"
    config.objective = "Hybrid()"
    config.train.dequantise = False
    config.sample.solver = "LearnedAncestral()"
    config.sample.grid = "Respaced()"
    config.sample.steps = 1000
    config.sample.clip = True
    config.likelihood.method = "vlb"
    config.likelihood.clip = True
    return config
