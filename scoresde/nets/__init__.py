"""Networks to denoise with: a perceptron, U-Nets as published, a RefineNet and a transformer.

The convention is `net(x, t)` or `net(x, t, label=label)`, and the answer has the shape of x, or of
x with other channels for a network built with `outputs`:

- x (B, *) in the dtype of the weights;
- t (B,) in float32 or float64 whatever the dtype of the weights, since half precision merges
  neighbouring times;
- label (B,) in int64, for a network built with `num_classes=K`. -1 is "no class", and so is leaving
  label out: the unconditional network of classifier-free guidance (Ho and Salimans 2022,
  arXiv:2207.12598) is this one without its label.

No network couples the samples of a batch, none reads a value back from the device, and each is
differentiable in x as often as asked, in reverse and in forward mode. The last layer starts at
zero, and so does the output, except for the RefineNet's.
"""

from scoresde.nets.adm import ADM
from scoresde.nets.dit import DiT
from scoresde.nets.mlp import MLP
from scoresde.nets.published import ddpm, ddpmpp, ncsnpp
from scoresde.nets.refinenet import RefineNet
from scoresde.nets.unet import UNet

__all__ = ["ADM", "MLP", "DiT", "RefineNet", "UNet", "ddpm", "ddpmpp", "ncsnpp"]
