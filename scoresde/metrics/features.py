"""Features of samples by any network, a batch at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from scoresde.metrics.estimate import Embedding


@dataclass(frozen=True, eq=False)
class Features:
    """A network whose outputs are compared in place of the data.

    Attributes:
        network: any module from samples (B, *), in the units of the data, to features (B, *), in
            evaluation mode. It runs where its parameters are.
        name: what every number made of its features is called by; a number of other features is
            another number.
        batch_size: samples at a time.

    Raises:
        ValueError: a network in training mode, whose features depend on the batch; no name; a
            batch size below 1.
    """

    network: nn.Module
    name: str
    batch_size: int = 500

    def __post_init__(self) -> None:
        if self.network.training:
            raise ValueError(f"network: {self.name} is in training mode; call its .eval() first")
        if not self.name:
            raise ValueError("name: is empty; say whose features these are")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: at least 1")

    def __call__(self, x: Tensor) -> Embedding:
        """Return the features (N, F) of samples (N, *), in host memory and without gradients."""
        tensors = chain(self.network.parameters(), self.network.buffers())
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        with torch.no_grad():
            parts = [self.network(some.to(device)).flatten(1) for some in x.split(self.batch_size)]
        return Embedding(torch.cat([part.cpu() for part in parts]), self.name)


def weights_hash(network: nn.Module) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 of a network's state."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:8]
