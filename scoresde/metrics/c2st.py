"""The classifier two-sample test."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from scoresde.metrics.estimate import Estimate, Samples, pair


def c2st(
    samples: Samples, reference: Samples, *, classifier: Any = None, folds: int = 5, seed: int = 0
) -> Estimate:
    """Return how often a classifier tells samples from the reference, where it did not learn.

    0.5 is chance: the classifier finds no difference. 1 is certainty. Lopez-Paz and Oquab 2017,
    arXiv:1610.06545, with cross-validation, so that each sample is classified once. The standard
    error is that of a share, sqrt(a (1 - a) / 2N). The p-value is that of an accuracy as high under
    the normal law of mean 1/2 and variance 1 / 8N (their Sec. 3). That is of independent guesses;
    classifiers of different folds learn from the same samples, so it holds approximately. For a
    stable one it is too small: of equal laws, P(p <= 0.05) was 0.09 for logistic regression, N =
    200 samples in 10 dimensions, by two folds or five.

    Args:
        samples: (N, *), or their features.
        reference: as many of the same shape.
        classifier: any of scikit-learn's; by default a network of two hidden layers of 10 units a
            dimension, at most 100, on standardised data, as Lueckmann et al. 2021,
            arXiv:2101.04653.
        folds: of the cross-validation.
        seed: of the folds and of the default classifier.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: as `pair`; sets of different sizes, of which chance is not 1/2; fewer than two
            folds, or more than samples; too few samples for the default classifier.
    """
    try:
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as error:
        raise ImportError("c2st needs scikit-learn: pip install 'scoresde[data]'") from error
    both = pair(samples, reference)
    n = len(both.x)
    if n != len(both.y):
        raise ValueError(f"{n} samples, but {len(both.y)} of reference: take as many of both")
    if not 2 <= folds <= n:
        raise ValueError(f"folds={folds}: need 2 to {n}, the number of samples")
    learnt = 2 * (n - math.ceil(n / folds))
    if classifier is None and learnt < 12:  # the network sets a tenth aside, with some of both
        raise ValueError(f"{n} samples: {learnt} to learn from are too few; give more of both")
    x, y = torch.cat([both.x, both.y]).cpu().numpy(), np.repeat([1, 0], n)
    chosen = _network(x.shape[1], seed) if classifier is None else classifier
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    accuracy = float(np.mean(cross_val_predict(chosen, x, y, cv=split) == y))
    stderr = math.sqrt(accuracy * (1.0 - accuracy) / (2 * n))
    p_value = 0.5 * math.erfc((accuracy - 0.5) * math.sqrt(8.0 * n) / math.sqrt(2.0))
    return both.estimate("C2ST accuracy", accuracy, stderr, p_value)


def _network(dims: int, seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    width = min(10 * dims, 100)
    # patient enough for sets of a hundred, whose passes are single steps
    network = MLPClassifier(
        (width, width),
        learning_rate_init=5e-3,
        early_stopping=True,
        n_iter_no_change=30,
        max_iter=1000,
        random_state=seed,
    )
    return make_pipeline(StandardScaler(), network)
