"""Data: sets in memory or on disk, transforms to model space with their log-det, batches."""

from scoresde.data.arrays import npy, npz
from scoresde.data.audio_folder import audio
from scoresde.data.augment import random_crop, random_flip
from scoresde.data.batching import batches
from scoresde.data.binary import idx
from scoresde.data.cifar import cifar10
from scoresde.data.dataset import Dataset
from scoresde.data.image_folder import images
from scoresde.data.tabular import table
from scoresde.data.time_series import series
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
    "audio",
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
    "random_crop",
    "random_flip",
    "rings",
    "rings_log_prob",
    "series",
    "spirals",
    "table",
]
