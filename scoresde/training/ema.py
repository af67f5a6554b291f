"""The running average of a model's weights, which is what samples are drawn with."""

from __future__ import annotations

import warnings

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_Tensors = tuple[Tensor, ...] | list[Tensor]


class EMA(AveragedModel):
    """Exponential moving average of parameters, with a warm-up of its decay.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the first, random weights
    are soon forgotten; the first update copies. Buffers are copied at every update. The averaged
    model is `.module`, in evaluation mode; `.n_averaged` counts the updates. A warning tells of
    parameters in half precision, whose rounding stalls it.

    Raises:
        ValueError: decay outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema_decay={decay} must be in [0, 1); 0 keeps the last weights")
        super().__init__(model, multi_avg_fn=self._average)
        if decay > 0.0 and any(p.itemsize < 4 for p in model.parameters()):
            warnings.warn(
                "the running average of weights in half precision stalls, as the small steps it "
                "takes are rounded away; train them in float32, with amp=True",
                UserWarning,
                stacklevel=3,
            )
        self.decay = decay
        self.eval().requires_grad_(False)

    def _average(self, averages: _Tensors, current: _Tensors, n_averaged: Tensor | int) -> None:
        n = int(self.n_averaged)  # the buffer stays in host memory: nothing waits for a device
        get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))(averages, current, n)
