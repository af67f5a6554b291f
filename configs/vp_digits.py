"""Scikit-learn's 8x8 digits under a VP process: the run of `scoresde demo`."""

from scoresde.config import Config, defaults


def get_config() -> Config:
    return defaults()
