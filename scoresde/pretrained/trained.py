"""A trained denoiser with all that drawing from it needs, and the drawing."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from scoresde.config import Config, amp, solve_settings
from scoresde.data import Affine
from scoresde.denoiser import BaseDenoiser
from scoresde.models import clipped
from scoresde.noise import SeededNoise
from scoresde.sampling import solve
from scoresde.sde import Prior
from scoresde.training.loop import fast_bfloat16


@dataclass(frozen=True)
class Trained:
    """A trained denoiser, and what drawing from it needs; its data are not among that.

    Attributes:
        config: the configuration that it was trained by, with what was fitted to the data settled.
        model: the denoiser, with averaged weights.
        transform: from data to model space; its `levels` are those of the data.
        prior: the Gaussian with the moments that the training data have at T.
        shape: of one sample.
        classes: the name of each class; empty where the network is told none.
    """

    config: Config
    model: BaseDenoiser
    transform: Affine
    prior: Prior
    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()

    def label(self, name: str) -> int:
        """Return the index of a class from its name, or from the index in digits.

        Raises:
            ValueError: there is no such class; the names that there are, and the nearest.
        """
        if not self.classes:
            raise ValueError(f"label={name!r}: this model is told no class; leave it out")
        if name in self.classes:
            return self.classes.index(name)
        if name.isdecimal() and int(name) < len(self.classes):
            return int(name)
        near = difflib.get_close_matches(name, self.classes, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(self.classes)
        raise ValueError(f"label={name!r}: 0 to {len(self.classes) - 1}, or one of {known}{hint}")


def draw(
    trained: Trained,
    n: int,
    seed: int = 0,
    *,
    labels: Sequence[int] | None = None,
    **settings: Any,
) -> tuple[Tensor, int]:
    """Draw n samples in data units, and return them with the network calls of each.

    Args:
        trained: a trained model.
        n: number of samples.
        seed: of the noise.
        labels: classes, which samples take in turn, -1 for none; all there are by default.
        settings: of `scoresde.solve`; those of the configuration by default.

    Raises:
        ValueError: no samples; a label out of range, or of a model without classes.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least 1 sample")
    config, transform, model = trained.config, trained.transform, trained.model
    cycle = _cycle(trained, labels)
    settings = settings or solve_settings(config, "sample")
    size, device = config.sample.batch_size, next(model.parameters()).device
    model = clipped(model, config, "sample", transform, trained.shape)
    asked = amp(config, "sample")
    half = fast_bfloat16(device) if asked is None else asked
    drawn, calls = [], 0
    for start in tqdm(range(0, n, size), desc="sampling", leave=False):
        count = min(size, n - start)
        turns = torch.arange(start, start + count) % max(1, len(cycle))
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            solution = solve(
                model,
                (count, *trained.shape),
                noise=SeededNoise(seed, start=start),
                cond={"label": cycle[turns].to(device)} if len(cycle) else None,
                prior=trained.prior,
                **settings,
            )
        drawn.append(solution.x.cpu())
        calls = max(calls, int(solution.nfe.max()))
    x = torch.cat(drawn)
    return (transform.inverse(x) if transform.levels is None else transform.to_pixels(x)), calls


def _cycle(trained: Trained, labels: Sequence[int] | None) -> Tensor:
    """Return the classes that samples take in turn."""
    known = len(trained.classes)
    for label in labels or ():
        if not known:
            raise ValueError(f"labels={list(labels or ())}: this model is told no class")
        if not -1 <= label < known:
            raise ValueError(f"labels: {label} must be in 0..{known - 1}, or -1 for no class")
    return torch.tensor(list(labels or range(known)), dtype=torch.int64)
