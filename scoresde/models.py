"""The denoiser of a configuration."""

from __future__ import annotations

from types import FunctionType

import torch
from torch import nn

from scoresde.chains import VLB, Clipped, Hybrid, LearnedVariance
from scoresde.config import OBJECTIVE, Config, build_at
from scoresde.data import Affine, Dataset
from scoresde.denoiser import BaseDenoiser, Denoiser
from scoresde.sde import SDE
from scoresde.training import LearnedUncertainty, WithUncertainty


def build_model(config: Config, dataset: Dataset, transform: Affine) -> BaseDenoiser:
    """Return the untrained denoiser of a run, with the deviation of its data."""
    std = config.data_std
    if std is None:
        std = float(transform.forward(dataset.train[:10_000]).double().std())
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


def clipped(model: BaseDenoiser, transform: Affine, shape: tuple[int, ...]) -> BaseDenoiser:
    """Return a denoiser whose expected data, of a shape, stay within their grey levels.

    Raises:
        ValueError: continuous data, which have no range.
    """
    if transform.levels is None:
        raise ValueError(
            "config.sample.clip, config.likelihood.clip: continuous data have no range to be kept "
            "in; set both to False"
        )
    ends = torch.tensor([0.0, transform.levels - 1.0]).reshape(-1, *[1] * len(shape))
    low, high = transform.embed(ends.expand(2, *shape)).aminmax()
    return Clipped(model, float(low), float(high))
