"""How recognisable samples are, to a classifier that learnt from real data."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class ConfidentShare:
    """The share of samples to which a classifier gives some class a probability above a threshold.

    The classifier is scikit-learn's logistic regression on radial basis functions (Nystroem's
    features of the kernel). Compare the share of samples with the share of held-out data: a share
    above it is no better than one below it by as much.

    Args:
        x: training data (N, *).
        labels: their classes (N,).
        threshold: of the largest class probability.
        seed: of the choice of basis functions.

    Raises:
        ImportError: scikit-learn is not installed.
    """

    def __init__(self, x: Tensor, labels: Tensor, threshold: float = 0.9, seed: int = 0) -> None:
        try:
            from sklearn.kernel_approximation import Nystroem
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
        except ImportError as error:
            raise ImportError(
                "ConfidentShare needs scikit-learn: pip install 'scoresde[data]'"
            ) from error
        rows = _rows(x)
        # the kernel reaches as far as the data spread: exp(-|x - y|^2 / (5 variance))
        kernel = Nystroem(
            gamma=0.2 / float(rows.var(0).sum()),
            n_components=min(300, len(rows)),
            random_state=seed,
        )
        self.threshold = threshold
        self._classifier = make_pipeline(kernel, LogisticRegression(C=100.0, max_iter=1000))
        self._classifier.fit(rows, labels.cpu().numpy())

    def __call__(self, x: Tensor) -> float:
        """Return the share among samples x (B, *)."""
        return float((self._classifier.predict_proba(_rows(x)).max(1) > self.threshold).mean())

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """Return the share of samples x (B, *) that are classified as labelled (B,)."""
        return float(self._classifier.score(_rows(x), labels.cpu().numpy()))


def _rows(x: Tensor) -> Any:
    return x.detach().flatten(1).double().cpu().numpy()
