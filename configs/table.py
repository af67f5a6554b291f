"""Seven measures of 53 940 diamonds under a VP process: seconds on a core.

diamonds.csv of ggplot2 (docs/examples.md says where from). The values are rounded, to 0.01 carat, a
tenth of a per cent, a hundredth of a millimetre or a dollar.
"""

from scoresde.config import Config, defaults


def get_config() -> Config:
    config = defaults()
    config.data = (
        "table('data/diamonds.csv', "
        "columns=('carat', 'depth', 'table', 'price', 'x', 'y', 'z'), label='cut')"
    )
    config.net = "MLP(hidden=128, depth=3)"
    config.train.steps = 400
    config.train.batch_size = 256
    config.likelihood.trace = "ExactTrace()"
    config.likelihood.batch_size = 1000
    return config
