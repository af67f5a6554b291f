"""Metrics of a run: its samples against its test data, beside what training data have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.metrics import (
    Estimate,
    Features,
    Samples,
    c2st,
    classifier_features,
    density_coverage,
    digits_features,
    energy_distance,
    frechet_distance,
    kid,
    mmd,
    precision_recall,
    sliced_wasserstein,
)
from scoresde.pretrained import draw
from scoresde.run import Run

Metric = Callable[[Samples, Samples, int], tuple[Estimate, ...]]

METRICS: dict[str, Metric] = {
    "frechet": lambda x, y, seed: (frechet_distance(x, y),),
    "frechet_infinity": lambda x, y, seed: (frechet_distance(x, y, extrapolate=True, seed=seed),),
    "kid": lambda x, y, seed: (kid(x, y, seed=seed),),
    "precision_recall": lambda x, y, seed: precision_recall(x, y),
    "density_coverage": lambda x, y, seed: density_coverage(x, y),
    "sliced": lambda x, y, seed: (sliced_wasserstein(x, y, seed=seed),),
    "energy": lambda x, y, seed: (energy_distance(x, y, seed=seed),),
    "mmd": lambda x, y, seed: (mmd(x, y, seed=seed),),
    "c2st": lambda x, y, seed: (c2st(x, y, seed=seed),),
}
"""What `scoresde evaluate --metrics` may name."""

FEATURES = ("classifier", "digits", "none")
"""What `scoresde evaluate --features` may name."""

_IMAGES = ("frechet", "kid", "precision_recall")
_FLAT = ("energy", "mmd", "sliced", "c2st")
_SMALL, _MOST = {"energy", "mmd", "c2st"}, 2000  # sums over all pairs, and a classifier to train


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a run.

    Attributes:
        samples: of its samples against its test data.
        train: the same of as many training data: what a perfect model would have.
        nfe: network calls a sample.
    """

    samples: tuple[Estimate, ...]
    train: tuple[Estimate, ...]
    nfe: int

    def table(self) -> str:
        """Return a line for each metric, below what its features are."""
        lines = [f"features: {network}" for network in {e.network: None for e in self.samples}]
        head = ("", "samples", "", "p", "training data", "", "N", "M")
        rows = [head, *map(_row, self.samples, self.train)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, *cells in rows:
            aligned = (cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))
            lines.append("  ".join((name.ljust(widths[0]), *aligned)).rstrip())
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, for a file."""
        return {
            "nfe": self.nfe,
            "samples": [asdict(e) for e in self.samples],
            "train": [asdict(e) for e in self.train],
        }


def evaluate(
    run: Run,
    n: int | None = None,
    *,
    metrics: Sequence[str] = (),
    features: str | None = None,
    seed: int = 0,
    keep: Path | None = None,
) -> Evaluation:
    """Draw samples of a run, and compare them, and as many training data, with its test data.

    A conditional run draws the classes of the very training data that are compared beside its
    samples, so that both have the proportions of the data.

    Args:
        run: a trained run.
        n: samples, no more than training data; as many as there are test data by default, at most
            10000, or 2000 of flat data.
            Metrics that sum over all pairs take no more than 2000 of both.
        metrics: names of `METRICS`; those that suit the data by default.
        features: one of `FEATURES`; those of a classifier trained on the training data, where
            these are images with labels.
        seed: of the samples, of which data are taken, and of what metrics draw.
        keep: a file for the classifier, which is trained once then.

    Raises:
        ValueError: names that are not known; features that the data do not allow; no test data, or
            fewer training data than samples.
    """
    data, images = run.data, len(run.data.shape) == 3
    if not len(data.test):
        raise ValueError(f"{data!r} has no test data: name some, or set some aside by split")
    names = tuple(metrics) or (_IMAGES if images else _FLAT)
    for name in names:
        if name not in METRICS:
            raise ValueError(f"--metrics: no {name!r}; of {', '.join(METRICS)}")
    known = images and data.train_labels is not None
    embed = _embedding(run, features or ("classifier" if known else "none"), keep)
    most = min(len(data.test), len(data.train), 10_000 if images else _MOST)
    n = most if n is None else n
    if n > len(data.train):
        raise ValueError(
            f"--n={n}: there are {len(data.train)} training data, of which as many are measured"
        )
    reference = embed(_some(data.test, len(data.test), seed))
    # before any sample is drawn, so that what cannot be measured is refused soon
    train = _measure(names, embed(_some(data.train, n, seed)), reference, seed)
    labels = data.train_labels if run.config.conditional else None
    told = None if labels is None else _some(labels, n, seed).tolist()
    drawn, nfe = draw(run.trained(), n, seed, labels=told)
    samples = _measure(names, embed(_some(drawn, n, seed)), reference, seed)
    return Evaluation(samples, train, nfe)


def _measure(
    names: Sequence[str], x: Samples, reference: Samples, seed: int
) -> tuple[Estimate, ...]:
    found: list[Estimate] = []
    for name in names:
        size = min(len(x), len(reference), _MOST) if name in _SMALL else None
        try:
            found += METRICS[name](x[:size], reference[:size], seed)
        except ValueError as error:
            raise ValueError(
                f"{name} of {len(x)} samples and {len(reference)} test data: {error}; take more of "
                f"both, or leave it out by --metrics"
            ) from error
    return tuple(found)


def _some(x: Tensor, n: int, seed: int) -> Tensor:
    """Return n rows in random order: the first of a file, sorted by class, are no sample of it."""
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]]


def _embedding(run: Run, features: str, keep: Path | None) -> Callable[[Tensor], Samples]:
    match features:
        case "none":
            return lambda x: x
        case "digits":
            if run.data.levels != 256:
                raise ValueError(f"--features=digits: takes grey levels 0..255, not {run.data!r}")
            found = digits_features()
            found.network.to(run.device)
            return found
        case "classifier":
            return _classifier(run, keep)
    raise ValueError(f"--features={features}: one of {', '.join(FEATURES)}")


def _classifier(run: Run, keep: Path | None) -> Features:
    data = run.data
    if data.train_labels is None or len(data.shape) != 3:
        raise ValueError(
            f"--features=classifier: {data!r} has no images with labels to learn from; take "
            f"--features=none"
        )
    # seeded by 0 whatever the samples are: all runs on the same data have the same features
    where = {"device": run.device, "keep": keep}
    return classifier_features(data.train, data.train_labels, **where)


def _row(of_samples: Estimate, of_train: Estimate) -> tuple[str, ...]:
    p = "" if of_samples.p_value is None else f"{of_samples.p_value:.2g}"
    numbers = (f"{of_samples.value:.4g}", f"± {of_samples.stderr:.2g}", p)
    real = (f"{of_train.value:.4g}", f"± {of_train.stderr:.2g}")
    return (of_samples.metric, *numbers, *real, str(of_samples.samples), str(of_samples.reference))
