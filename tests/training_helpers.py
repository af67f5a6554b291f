"""Quadrature, small models and small runs that the tests of training share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from conftest import generator
from torch import Tensor, nn

from scoresde import EDMSDE, VPSDE, Denoiser, feed_t
from scoresde.training import DSM, EMA, CosineDecay, TrainState, load, save, train


@cache
def legendre(n: int = 128) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of Gauss and Legendre on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(0.5 + 0.5 * nodes), torch.from_numpy(0.5 * weights)


CONFIG = {"seed": 0, "net": {"width": 2, "betas": (0.9, 0.99)}}


class Net(nn.Module):
    def __init__(self, width: int = 2):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x, t):
        return self.linear(x)


class Classes(nn.Module):
    """E[x0 | x] of N(mean[label], std²) under noise of deviation t."""

    def __init__(self, means: Tensor, std: float):
        super().__init__()
        self.means, self.variance = nn.Parameter(means), std**2

    def forward(self, x, t, label):
        share = (self.variance / (self.variance + t**2)).reshape(-1, 1)
        return share * x + (1.0 - share) * self.means[label]


def exact_of_classes(means: Tensor, std: float) -> Denoiser:
    """Return the exact denoiser of a Gaussian for each class, with means (K, D)."""
    return Denoiser(Classes(means, std), EDMSDE(), "x0", data_std=1.0, time_input=feed_t)


class Run:
    """A model, its average and its optimizer, after some steps of nonsense."""

    def __init__(self, steps: int = 0, width: int = 2):
        with torch.random.fork_rng():
            torch.manual_seed(width)
            self.model = Denoiser(Net(width), VPSDE())
        self.ema = EMA(self.model, decay=0.5)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        for _ in range(steps):
            self.step()

    def step(self):
        for p in self.model.parameters():
            p.grad = p.detach().cos()
        self.optimizer.step()
        self.ema.update_parameters(self.model)
        self.model.net.count += 1

    def save(self, folder: Path, step: int, **options) -> Path:
        return save(folder, step, self.model, self.ema, self.optimizer, CONFIG, **options)

    def load(self, path: Path, config=CONFIG) -> int:
        return load(path, self.model, self.ema, self.optimizer, config)

    def tensors(self) -> dict[str, torch.Tensor]:
        states = self.optimizer.state_dict()["state"]
        named = {f"{i}.{k}": v for i, state in states.items() for k, v in state.items()}
        return {**self.model.state_dict(), **self.ema.state_dict(), **named}


def assert_equal(a: Run, b: Run):
    torch.testing.assert_close(a.tensors(), b.tensors(), rtol=0, atol=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


QUIET = {"progress": False, "amp": False}


class MLP(nn.Module):
    """With dropout, a buffer that moves, and labels from -1 to 2."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Dropout(0.2), nn.Linear(16, 2)
        )
        self.labels = nn.Embedding(4, 2)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t[:, None]], 1)) + self.labels(label + 1)


class Gain(nn.Module):
    """One parameter."""

    def __init__(self, gain: float | list[float] = 0.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.gain * x


def mlp() -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Denoiser(MLP(), VPSDE())


def labelled(step: int):
    g = generator(step)
    label = torch.randint(3, (8,), generator=g)
    # the global generator is the step's own: data may draw from it as well
    return torch.randn(8, 2, generator=g) + 0.1 * torch.randn(8, 2), {"label": label}


def zeros(step: int):
    return torch.zeros(4, 2), None


def run(workdir: Path | None, steps: int, **options) -> TrainState:
    model = mlp()
    options = {
        "optimizer": torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
        "schedule": CosineDecay(60, warmup=5), "ema_decay": 0.9, "checkpoint_every": 10,
        "log_every": 4, "config": {"width": 16}, **QUIET, **options,
    }  # fmt: skip
    objective = DSM(label_dropout=0.2)
    return train(model, objective, labelled, steps=steps, workdir=workdir, **options)


def assert_same(a: TrainState, b: TrainState):
    assert a.step == b.step
    for x, y in ((a.model, b.model), (a.ema, b.ema)):
        torch.testing.assert_close(x.state_dict(), y.state_dict(), rtol=0, atol=0)
    old, new = a.optimizer.state_dict(), b.optimizer.state_dict()
    assert old["param_groups"] == new["param_groups"]
    torch.testing.assert_close(old["state"], new["state"], rtol=0, atol=0)
