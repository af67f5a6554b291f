"""Fashion-MNIST (IDX files in data/fashion-mnist) within an hour: what the package carries."""

from scoresde.config import Config, defaults

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def get_config() -> Config:
    config = defaults()
    config.data = f"idx('data/fashion-mnist', classes={CLASSES})"
    config.net = "UNet(width=40, multipliers=(1, 2), blocks=2, attention=(1,), patch=2)"
    config.objective = (
        "DSM(weighting=edm, times=LogNormalTimes(mean=-0.8, std=1.6), label_dropout=0.1)"
    )
    config.optim.lr = 2e-3
    config.optim.warmup = 200
    config.train.steps = 5500
    config.train.flip = True
    config.train.checkpoint_every = 1000
    return config
