"""What a solve raises when it goes wrong, and how a hyper-parameter out of range is refused."""

from __future__ import annotations

import math
from numbers import Integral, Real

from torch import Tensor


def require_kind(value: object, kind: type, name: str) -> None:
    """Refuse an argument that is no instance of a class.

    Raises:
        TypeError: naming the argument and the class, and the remedy where it is a class itself.
    """
    if not isinstance(value, kind):
        made = f"; give an instance, {value.__name__}(...)" if isinstance(value, type) else ""
        raise TypeError(f"{name}={value!r} is no {kind.__name__}{made}")


def require_integer(value: object, name: str, least: int, most: float = math.inf) -> None:
    """Refuse a hyper-parameter that is no integer from `least` to `most`.

    Raises:
        ValueError: naming the argument, its value and the range.
    """
    whole = None if isinstance(value, bool) or not isinstance(value, Integral) else int(value)
    if whole is None or not least <= whole <= most:
        end = f" to {most:g}" if math.isfinite(most) else " or more"
        raise ValueError(f"{name}={value!r} must be an integer, {least}{end}")


def require_number(
    value: object,
    name: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Refuse a hyper-parameter that is no finite number within the bounds.

    Raises:
        ValueError: naming the argument, its value and the bounds.
    """
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not (least <= number <= most and above < number < below):
        bounds = {"at least": least, "above": above, "at most": most, "below": below}
        said = "".join(f" and {word} {b:g}" for word, b in bounds.items() if math.isfinite(b))
        raise ValueError(f"{name}={value!r} must be finite{said}")


def name_calls(first: int, last: int) -> str:
    """Return how an error speaks of the network calls from one to another, counted from 1."""
    return f"network call {last}" if first == last else f"network calls {first} to {last}"


class SolveError(RuntimeError):
    """A solve that could not be completed.

    Attributes:
        t: where the step began that went wrong: the earliest, and for an adaptive solve that of
            the first of `indices` with this error.
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
