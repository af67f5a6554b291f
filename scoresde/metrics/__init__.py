"""Figures of merit of samples and likelihoods, each with its standard error."""

from scoresde.metrics.c2st import c2st
from scoresde.metrics.classifier import ConfidentShare
from scoresde.metrics.convnet import ConvNet, classifier_features, train_classifier
from scoresde.metrics.energy import energy_distance
from scoresde.metrics.estimate import Embedding, Estimate, Samples
from scoresde.metrics.features import Features, weights_hash
from scoresde.metrics.frechet import frechet_distance
from scoresde.metrics.kid import kid
from scoresde.metrics.mixtures import MixtureBits, mixture_bits
from scoresde.metrics.mmd import mmd
from scoresde.metrics.mnist import digits_features
from scoresde.metrics.neighbours import density_coverage, precision_recall
from scoresde.metrics.sliced import sliced_wasserstein

__all__ = [
    "ConfidentShare",
    "ConvNet",
    "Embedding",
    "Estimate",
    "Features",
    "MixtureBits",
    "Samples",
    "c2st",
    "classifier_features",
    "density_coverage",
    "digits_features",
    "energy_distance",
    "frechet_distance",
    "kid",
    "mixture_bits",
    "mmd",
    "precision_recall",
    "sliced_wasserstein",
    "train_classifier",
    "weights_hash",
]
