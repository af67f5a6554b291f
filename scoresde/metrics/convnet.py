"""A small classifier of images, trained on the spot, whose features can be compared."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR
from tqdm.auto import trange

from scoresde.metrics.features import Features, weights_hash


class ConvNet(nn.Module):
    """Two convolutions, each with a maximum over 2x2, and two linear layers; calling it classifies.

    Args:
        shape: of an image (C, H, W), at least 4 high and wide.
        classes: how many there are.
        mean: subtracted from images.
        std: what they are divided by then.

    Attributes:
        body: from images to features (B, 128).
        head: from features to logits (B, classes).
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, mean: float = 0.0, std: float = 1.0
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.body = nn.Sequential(
            Standardise(mean, std),
            # the maximum first: the same function, on a quarter of the values
            *(nn.Conv2d(channels, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(64 * (height // 4) * (width // 4), 128), nn.ReLU()),
        )
        self.head = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W), in the units of the data."""
        return self.head(self.body(x))

    def features(self) -> Features:
        """Return the 128 features as a network of their own, named by the hash of all weights."""
        return Features(self.body, f"ConvNet classifier {weights_hash(self)}")


class Standardise(nn.Module):
    """(x - mean) / std, of integers too; both are part of the state."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.mean) - self.mean) / self.std


def train_classifier(
    x: Tensor,
    labels: Tensor,
    *,
    epochs: int = 5,
    batch_size: int = 128,
    lr: float = 2e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> ConvNet:
    """Train a classifier by Adam, its rate one cycle up to `lr` and down to 0.

    The weights follow from the data and the seed, on one machine with one number of threads.
    Fashion-MNIST takes minutes on two cores. torch's global generator is left as it was.

    Args:
        x: images (N, C, H, W), in the units of the data.
        labels: their classes (N,), 0, 1, ....
        epochs: times that every image is seen.
        batch_size: images in a step.
        lr: the largest rate.
        seed: of the first weights and the order of images.
        device: where to train, and where the network is then.

    Raises:
        ValueError: no images of at least 4x4; labels that do not fit; all images of one grey;
            settings below 1.
    """
    if x.ndim != 4 or not len(x) or min(x.shape[2:]) < 4:
        raise ValueError(f"x: shape {tuple(x.shape)}; need images (N, C, H, W) of at least 4x4")
    if labels.shape != (len(x),) or int(labels.min()) < 0:
        raise ValueError(f"labels: shape {tuple(labels.shape)}; need {len(x)} of them, from 0 on")
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value}: at least 1")
    std, mean = torch.std_mean(x[:10_000].double())
    if not std > 0:
        raise ValueError("x: all images are of one grey; there is nothing to tell apart")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ConvNet(x.shape[1:], int(labels.max()) + 1, float(mean), float(std)).to(device)
    optimizer = Adam(network.parameters(), lr=lr)
    schedule = OneCycleLR(optimizer, lr, total_steps=epochs * -(-len(x) // batch_size))
    for _ in trange(epochs, desc="classifier", leave=False):
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            loss = cross_entropy(network(x[rows].to(device)), labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)


def classifier_features(
    x: Tensor,
    labels: Tensor,
    *,
    epochs: int = 5,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep: Path | None = None,
) -> Features:
    """Return the 128 features of a classifier trained on images, named by the hash of its weights.

    Two numbers can be compared if the hashes of their networks are equal.

    Args:
        x, labels, epochs, seed, device: as in `train_classifier`.
        keep: a file for the classifier. One of the same data, epochs and seed that is there already
            is taken as it is; any other is replaced.

    Raises:
        ValueError: as `train_classifier`; a folder to keep the classifier in.
    """
    if keep is not None and keep.is_dir():
        raise ValueError(f"keep={keep} is a folder; name a file in it")
    train = partial(train_classifier, x, labels, epochs=epochs, seed=seed, device=device)
    if keep is None:
        return train().features()
    origin = _origin(x, labels, epochs, seed)
    network = _read(keep, ConvNet(x.shape[1:], int(labels.max()) + 1), origin)
    if network is None:
        network = train()
        _write(keep, network, origin)
    return network.to(device).features()


def _origin(x: Tensor, labels: Tensor, epochs: int, seed: int) -> dict[str, str]:
    digest = hashlib.sha256(f"{x.dtype} {tuple(x.shape)}".encode())
    for values in (x, labels):
        digest.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {"data": digest.hexdigest(), "epochs": str(epochs), "seed": str(seed)}


def _read(path: Path, network: ConvNet, origin: dict[str, str]) -> ConvNet | None:
    """Return a network with a file's weights, or None where these are not whole, or of others."""
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError):
        return None
    if told != origin | {"weights": weights_hash(network)}:
        return None
    return network.eval().requires_grad_(False)


def _write(path: Path, network: ConvNet, origin: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        told = origin | {"weights": weights_hash(network)}
        save_file(network.state_dict(), temporary, metadata=told)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
