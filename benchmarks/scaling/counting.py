"""What a network costs for one image, counted on the meta device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


class Count(NamedTuple):
    """Of a network, and of one image through it in float32.

    Attributes:
        parameters: of the network.
        forward: floating-point operations of a call, a multiplication and an addition being two.
            Those of matrix products and convolutions alone: norms, activations, sums and softmax
            are left out, as torch's counter leaves them out.
        backward: the same, of the gradient by the parameters.
        activations: bytes that a call keeps for its gradient, besides the parameters.
    """

    parameters: int
    forward: int
    backward: int
    activations: int

    @property
    def training(self) -> int:
        """Operations of an image in training, forward and backward."""
        return self.forward + self.backward


def count(
    build: Callable[[], nn.Module], shape: tuple[int, ...], *, classes: bool = False
) -> Count:
    """Count for one image.

    Args:
        build: the network's constructor, of net(x, t) or net(x, t, label).
        shape: of the image.
        classes: whether the network has classes.
    """
    with torch.device("meta"):
        net, x, t = build(), torch.empty(1, *shape), torch.empty(1)
        label = (torch.empty(1, dtype=torch.long),) if classes else ()
    kept = Kept(net)
    with FlopCounterMode(display=False) as forward, kept.hooks():
        y = net(x, t, *label)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    return Count(
        parameters(net), forward.get_total_flops(), backward.get_total_flops(), kept.bytes()
    )


def parameters(net: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(p.numel() for p in net.parameters())


class Kept:
    """The memory that autograd keeps, each piece once, however many tensors look at it.

    Args:
        net: whose own parameters and buffers are not counted.
    """

    def __init__(self, net: nn.Module) -> None:
        self._own = {id(p.untyped_storage()) for p in (*net.parameters(), *net.buffers())}
        # by identity, since on the meta device no memory has an address; held, so that none is
        # given away again
        self._storages: dict[int, torch.UntypedStorage] = {}

    def hooks(self) -> saved_tensors_hooks:
        """Return a context in which all that autograd saves is noted."""
        return saved_tensors_hooks(self._note, lambda saved: saved)

    def bytes(self) -> int:
        """Return the bytes of what was saved."""
        return sum(s.nbytes() for key, s in self._storages.items() if key not in self._own)

    def _note(self, saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        self._storages[id(storage)] = storage
        return saved
