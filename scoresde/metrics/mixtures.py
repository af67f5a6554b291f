"""Gaussian mixtures fitted by scikit-learn: what a likelihood has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from tqdm.auto import tqdm


class MixtureBits(NamedTuple):
    """Bits per dimension of test data under a fitted mixture.

    Attributes:
        components: full-covariance Gaussians in the mixture.
        bits_per_dim: mean over the test data.
        stderr: its standard error; NaN of a single row, which tells nothing of it.
    """

    components: int
    bits_per_dim: float
    stderr: float


def mixture_bits(
    train: Tensor,
    test: Tensor,
    log_det: float,
    components: Sequence[int] = (1, 5, 10, 20),
    seed: int = 0,
) -> list[MixtureBits]:
    """Fit full-covariance mixtures to training data, and measure them on test data.

    Args:
        train: (N, *) in model space, dequantised.
        test: (M, *) likewise.
        log_det: log |d model / d data| per dimension, in nats, of the data transform.
        components: numbers of components to fit.
        seed: of the fit.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise ImportError(
            "mixture_bits needs scikit-learn: pip install 'scoresde[data]'"
        ) from error
    rows, held_out = (x.flatten(1).double().cpu().numpy() for x in (train, test))
    results = []
    for k in tqdm(components, desc="Gaussian mixtures", leave=False):
        nats = (
            GaussianMixture(k, reg_covar=1e-3, random_state=seed).fit(rows).score_samples(held_out)
        )
        bits = -(nats / rows.shape[1] + log_det) / math.log(2.0)
        n = len(bits)
        stderr = float(bits.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        results.append(MixtureBits(k, float(bits.mean()), stderr))
    return results
