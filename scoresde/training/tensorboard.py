"""Scalars and grids of samples for TensorBoard, which is an optional dependency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde.denoiser import BaseDenoiser
from scoresde.training.step import TrainState


class TensorBoard:
    """A callback of `train` that writes every record, and grids of samples.

    Args:
        folder: where to write; `tensorboard --logdir` reads it.
        images: draws images (B, C, H, W) in [0, 1] from the averaged denoiser.
        images_every: steps between grids.

    Raises:
        ImportError: TensorBoard is not installed.
        ValueError: images_every below 1.
    """

    def __init__(
        self,
        folder: Path | str,
        images: Callable[[BaseDenoiser], Tensor] | None = None,
        images_every: int = 5000,
    ) -> None:
        try:
            import PIL  # noqa: F401  # which the writer asks for at its first image
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard, with pillow, is not installed; pip install 'scoresde[tensorboard]'"
            ) from error
        if images_every < 1:
            raise ValueError(f"images_every={images_every} must be at least 1")
        self._open = lambda step: SummaryWriter(str(folder), purge_step=step)
        self._images, self._images_every = images, images_every
        self._writer: Any = None

    def __call__(self, state: TrainState) -> None:
        """Write what is new at this step."""
        if self._writer is None:
            # what a killed run wrote after its last checkpoint is measured again
            self._writer = self._open(state.step)
        if state.history and state.history[-1].step == state.step:
            for name, value in state.history[-1]._asdict().items():
                self._writer.add_scalar(f"train/{name}", value, state.step)
            self._writer.flush()
        if self._images is not None and state.step % self._images_every == 0:
            model = state.ema.module
            assert isinstance(model, BaseDenoiser)
            self._writer.add_images("samples", self._images(model), state.step)
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
