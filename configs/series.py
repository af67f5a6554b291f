"""Days of Italy's electric power demand, 24 hours each, under a VP process: seconds on a core.

ItalyPowerDemand of the UCR archive (docs/examples.md says where from). The larger file, the
archive's test set, is what is learnt from. Every series has mean 0 and deviation 1 of its own.
"""

from scoresde.config import Config, defaults


def get_config() -> Config:
    config = defaults()
    config.data = "series('data/ItalyPowerDemand_TEST.ts', 'data/ItalyPowerDemand_TRAIN.ts')"
    config.net = "MLP(hidden=128, depth=3)"
    config.train.steps = 400
    config.train.batch_size = 128
    return config
