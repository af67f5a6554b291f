"""Data: sets held in memory, the transform to model space with its log-det, endless batches."""

from scoresde.data.arrays import npy, npz
from scoresde.data.batching import batches, random_flip
from scoresde.data.binary import cifar10, idx
from scoresde.data.dataset import Dataset
from scoresde.data.folders import images
from scoresde.data.toys import (
    checkerboard,
    checkerboard_log_prob,
    digits,
    gaussians8,
    gaussians8_log_prob,
    moons,
    rings,
    rings_log_prob,
    spirals,
)
from scoresde.data.transforms import Affine, Logit

__all__ = [
    "Affine",
    "Dataset",
    "Logit",
    "batches",
    "checkerboard",
    "checkerboard_log_prob",
    "cifar10",
    "digits",
    "gaussians8",
    "gaussians8_log_prob",
    "idx",
    "images",
    "moons",
    "npy",
    "npz",
    "random_flip",
    "rings",
    "rings_log_prob",
    "spirals",
]
