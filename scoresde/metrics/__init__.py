"""Figures of merit of samples and likelihoods, by well-kept libraries."""

from scoresde.metrics.classifier import ConfidentShare
from scoresde.metrics.mixtures import MixtureBits, mixture_bits

__all__ = ["ConfidentShare", "MixtureBits", "mixture_bits"]
