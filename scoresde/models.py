"""The denoiser of a configuration."""

from __future__ import annotations

from types import FunctionType

import torch
from torch import nn

from scoresde.chains import VLB, Clipped, Hybrid, LearnedVariance
from scoresde.config import OBJECTIVE, Config, build_at
from scoresde.data import Affine, Dataset
from scoresde.denoiser import BaseDenoiser, Denoiser
from scoresde.nets.conditioning import Conditioning
from scoresde.sde import SDE
from scoresde.training import LearnedUncertainty, WithUncertainty


def build_model(config: Config, dataset: Dataset, transform: Affine) -> BaseDenoiser:
    """Return the untrained denoiser of a run, with the deviation of its data.

    Raises:
        ValueError: the network is to be told classes, and the data have none; data without
            spread; or what `build_at` refuses.
    """
    if config.conditional and not dataset.num_classes:
        raise ValueError(
            f"config.conditional=True, but config.data={config.data!r} has no classes: set it to "
            "False, or give the data labels"
        )
    std = config.data_std
    if std is None:
        std = float(transform.forward(dataset.train[:10_000]).double().std())
        if not std > 0.0:
            raise ValueError(
                f"config.data={config.data!r} has a standard deviation of {std}: give samples that "
                "are not all the same number, or set config.data_std"
            )
    classes = dataset.num_classes if config.conditional else None
    return build_denoiser(config, dataset.shape, classes, std)


def build_denoiser(
    config: Config, shape: tuple[int, ...], num_classes: int | None, data_std: float
) -> BaseDenoiser:
    """Return the untrained denoiser of a configuration; its weights follow from the seed.

    It has what the objective trains: a network of twice the channels, which `outputs` asks for,
    where that is variances too, or an uncertainty.

    Args:
        config: the configuration.
        shape: of one sample.
        num_classes: how many classes the network is told, or None.
        data_std: standard deviation of the data in model space.
    """
    objective = build_at(config, "objective", OBJECTIVE)
    learned = isinstance(objective, VLB | Hybrid)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = build_at(
            config,
            "net",
            nn.Module,
            shape=shape,
            channels=shape[0],
            dims=len(shape) - 1,
            num_classes=num_classes,
            **({"outputs": 2 * shape[0]} if learned else {}),
        )
    sde, feed = build_at(config, "sde", SDE), build_at(config, "time_input", FunctionType)
    kind = LearnedVariance if learned else Denoiser
    model = kind(net, sde, config.predicts, data_std=data_std, time_input=feed)
    return WithUncertainty(model) if isinstance(objective, LearnedUncertainty) else model


def require_fit(config: Config, model: BaseDenoiser, dataset: Dataset) -> None:
    """Call the model of a run on a batch of no samples, which costs little.

    It fails as others would, but for what follows from the values of x, t or labels.

    Raises:
        ValueError: the network does not take samples of the data's shape, or not all classes.
    """
    shape, classes = dataset.shape, dataset.num_classes if config.conditional else 0
    label = {"label": torch.zeros(0, dtype=torch.int64)} if classes else {}
    try:
        with torch.no_grad():
            model(torch.zeros(0, *shape), model.sde.level(model.sde.T), **label)
        for part in model.modules():  # without a label none is out of range
            if isinstance(part, Conditioning) and (part.num_classes or classes) < classes:
                raise ValueError(f"it knows {part.num_classes}; leave num_classes to the data")
    except Exception as error:  # whatever a network raises
        told = f" of {classes} classes" if classes else ""
        raise ValueError(
            f"config.net={config.net!r} does not take samples of shape {shape}{told}: {error}"
        ) from error


def clipped(
    model: BaseDenoiser, config: Config, section: str, transform: Affine, shape: tuple[int, ...]
) -> BaseDenoiser:
    """Return a denoiser whose expected data, of a shape, stay within their range if a section asks.

    That is from the first grey level to the last, or to the outer edges of their bins for a model
    of data that were dequantised.

    Raises:
        ValueError: continuous data, which have no range.
    """
    if not config[section].clip:
        return model
    if transform.levels is None:
        raise ValueError(f"config.{section}.clip: continuous data have no range; set it to False")
    beyond = 0.5 if config.train.dequantise else 0.0
    ends = torch.tensor([-beyond, transform.levels - 1.0 + beyond])
    ends = ends.reshape(-1, *[1] * len(shape))
    low, high = transform.embed(ends.expand(2, *shape)).aminmax()
    return Clipped(model, float(low), float(high))
