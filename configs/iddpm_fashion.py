"""Fashion-MNIST, Improved DDPM: cosine betas, L_hybrid, learned variances, respaced steps.

Nichol and Dhariwal 2021, arXiv:2102.09672. Its L_vlb, with levels drawn by the moments
of their losses, is `--config.objective="VLB()"`.
"""

from pathlib import Path

from scoresde.config import Config, read


def get_config() -> Config:
    config = read(Path(__file__).with_name("ddpm_fashion.py"))
    config.sde = "CosineBetas(n=4000)"
    config.net = config.net.replace("time_scale=1.0", "time_scale=0.25")
    config.objective = "Hybrid()"
    config.sample.solver = "LearnedAncestral()"
    return config
