"""What a solve raises when it goes wrong: where, for which samples, and what was finished."""

from __future__ import annotations

from torch import Tensor


class SolveError(RuntimeError):
    """A solve that could not be completed.

    Attributes:
        t: the time at which it went wrong; that of the first of `indices` where they differ.
        indices: the rows of the batch that went wrong.
        nfe: network evaluations made so far.
        x: the state (B, *) as it was left; rows outside `indices` are finished and sound.
    """

    def __init__(
        self, what: str, *, t: float, indices: tuple[int, ...], nfe: int, x: Tensor
    ) -> None:
        shown = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
        super().__init__(
            f"{what} at t = {t:.6g} in {len(indices)} of {len(x)} samples (rows {shown}), "
            f"after {nfe} network evaluations; the other rows are in `.x`"
        )
        self.t, self.indices, self.nfe, self.x = t, indices, nfe, x


class NonFiniteState(SolveError):
    """The state of some samples became NaN or infinite."""


class StepSizeUnderflow(SolveError):
    """An adaptive solve needs steps smaller than the arithmetic resolves."""


class MaxEvaluations(SolveError):
    """An adaptive solve used up its budget of network evaluations."""
