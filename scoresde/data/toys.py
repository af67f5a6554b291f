"""Small data that need no files: 2-D toys, three with their exact densities, and 8x8 digits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde.data.dataset import Dataset

_MODES, _MODE_RADIUS, _MODE_STD = 8, 2.0, 0.2
_RING_RADII, _RING_STD = (0.5, 1.0, 1.5), 0.06


def digits(test_share: float = 0.2, seed: int = 0) -> Dataset:
    """Handwritten digits of 8x8 pixels in 17 grey levels: 1797 samples, shape (1, 8, 8).

    The test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak
    1998), as scikit-learn ships it, split at random with equal proportions of every digit.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: `test_share` leaves the training or the test set empty.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install 'scoresde[data]'") from error
    pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    pixels = pixels.to(torch.uint8).view(-1, 1, 8, 8)
    everything = Dataset(pixels, pixels[:0], labels, labels[:0], levels=17, name="digits")
    return everything.split(test_share, seed)


def moons(n: int = 10_000, seed: int = 0) -> Dataset:
    """Two interleaved half circles of radius 1, with Gaussian noise of standard deviation 0.05.

    Like all toys here: `n` training and as many test samples of shape (2,), drawn independently.
    """
    generator = _generator(n, seed)
    label = torch.randint(2, (2 * n,), generator=generator)
    angle = math.pi * torch.rand(2 * n, generator=generator)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.tensor([1.0, 0.5]) - upper
    x = torch.where(label[:, None] == 0, upper, lower)
    return _halves("moons", x + 0.05 * torch.randn(2 * n, 2, generator=generator), label)


def spirals(n: int = 10_000, seed: int = 0) -> Dataset:
    """Two arms of a spiral that wind 1.5 times out to radius 2, with Gaussian noise of 0.05."""
    generator = _generator(n, seed)
    label = torch.randint(2, (2 * n,), generator=generator)
    # The square root makes the density along an arm nearly even.
    turn = torch.rand(2 * n, generator=generator).sqrt()
    angle = 3 * math.pi * turn + math.pi * label
    x = 2 * turn[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _halves("spirals", x + 0.05 * torch.randn(2 * n, 2, generator=generator), label)


def rings(n: int = 10_000, seed: int = 0) -> Dataset:
    """Three concentric circles of radius 0.5, 1 and 1.5, equally likely, with noise of 0.06."""
    generator = _generator(n, seed)
    label = torch.randint(len(_RING_RADII), (2 * n,), generator=generator)
    angle = 2 * math.pi * torch.rand(2 * n, generator=generator)
    x = torch.tensor(_RING_RADII)[label, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _halves("rings", x + _RING_STD * torch.randn(2 * n, 2, generator=generator), label)


def rings_log_prob(x: Tensor) -> Tensor:
    """The exact log-density of `rings` at x (B, 2), in nats, shape (B,).

    A circle of radius R blurred by N(0, s^2 I) has the density, at distance r from its centre,

        exp(-(r^2 + R^2) / (2 s^2)) I_0(r R / s^2) / (2 pi s^2),

    I_0 the modified Bessel function of the first kind.
    """
    r = _planar(x).norm(dim=1, keepdim=True)
    radii = torch.tensor(_RING_RADII, dtype=x.dtype, device=x.device)
    variance = _RING_STD**2
    log_ring = (
        torch.special.i0e(r * radii / variance).log()
        - (r - radii).square() / (2 * variance)
        - math.log(2 * math.pi * variance)
    )
    return log_ring.logsumexp(dim=1) - math.log(len(radii))


def gaussians8(n: int = 10_000, seed: int = 0) -> Dataset:
    """Eight equally likely Gaussians, standard deviation 0.2, evenly on a circle of radius 2."""
    generator = _generator(n, seed)
    label = torch.randint(_MODES, (2 * n,), generator=generator)
    noise = _MODE_STD * torch.randn(2 * n, 2, generator=generator)
    return _halves("gaussians8", _mode_means(noise)[label] + noise, label)


def gaussians8_log_prob(x: Tensor) -> Tensor:
    """The exact log-density of `gaussians8` at x (B, 2), in nats, shape (B,)."""
    squares = (_planar(x)[:, None] - _mode_means(x)).square().sum(dim=2)
    constant = math.log(_MODES * 2 * math.pi * _MODE_STD**2)
    return (-squares / (2 * _MODE_STD**2)).logsumexp(dim=1) - constant


def checkerboard(n: int = 10_000, seed: int = 0) -> Dataset:
    """Uniform over the eight dark unit squares of a 4x4 board on [-2, 2)^2; no labels.

    A square is dark where floor(x1) + floor(x2) is even.
    """
    generator = _generator(n, seed)
    across, along = torch.rand(2, 2 * n, generator=generator)
    x1 = 4 * across - 2
    # A column has two dark squares. The whole numbers are added first, which makes the last sum
    # exact, so that rounding never puts a sample on a light square.
    x2 = 2 * along + ((2 * along).floor() - 2 + x1.floor() % 2)
    x = torch.stack([x1, x2], dim=1)
    return Dataset(x[:n], x[n:], name="checkerboard")


def checkerboard_log_prob(x: Tensor) -> Tensor:
    """The exact log-density of `checkerboard` at x (B, 2), in nats, shape (B,).

    It is -log 8 on dark squares and -inf elsewhere.
    """
    dark = _planar(x).floor().sum(dim=1) % 2 == 0
    inside = ((x >= -2) & (x < 2)).all(dim=1)
    return x.new_full((len(x),), -math.log(8)).masked_fill(~(dark & inside), -math.inf)


def _generator(n: int, seed: int) -> torch.Generator:
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    return torch.Generator().manual_seed(seed)


def _halves(name: str, x: Tensor, label: Tensor) -> Dataset:
    n = len(x) // 2
    return Dataset(x[:n], x[n:], label[:n], label[n:], name=name)


def _planar(x: Tensor) -> Tensor:
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: give points of the plane, (B, 2)")
    return x


def _mode_means(like: Tensor) -> Tensor:
    angle = torch.arange(_MODES, dtype=like.dtype, device=like.device) * (2 * math.pi / _MODES)
    return _MODE_RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)
