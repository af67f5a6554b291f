"""DPM-Solver++, multistep."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Solver, Step
from scoresde.solvers.phi import phi2, phi3
from scoresde.tensors import Scalar, Term, expm1, lincomb

History = tuple[tuple[Scalar, Term], ...]
"""The last predictions of x0, newest first, each with its lam."""


@dataclass(frozen=True)
class DPMSolverPP(Solver):
    """Multistep DPM-Solver++: the exponential Adams-Bashforth method on x0, in lam.

    With h = lam_s - lam_t and D0, D1, D2 the x0 prediction and its divided differences,

        x_s = sigma_s / sigma_t x_t + alpha_s h (phi1 D0 + phi2 D1 + 2 phi3 D2),

    with the phi functions at -h, and order 2 takes phi1 / 2 for phi2 (Lu et al. 2022,
    arXiv:2211.01095, eqs. 9, 14 and Alg. 2). The weight of D2 is the exact integral's; the
    authors' code has half of it, which leaves order 2. The order builds up over the first steps,
    and what the first of them, DDIM, leaves falls with the square of the step size: little, where
    the data hardly show.

    Attributes:
        order: 1, 2 or 3; 1 is DDIM.

    Raises:
        ValueError: another order.
    """

    order: int = 2
    stochastic = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order={self.order} must be 1, 2 or 3")

    def step(
        self,
        field: Field,
        x: Tensor,
        here: Level,
        there: Level,
        state: History | None,
        noise: Noise,
    ) -> Step:
        prediction = field(x, here)
        if isinstance(there.alpha, float) and there.alpha == 0.0:
            return Step(prediction.combine(eps=there.sigma))  # lam = -inf: no finite step in lam
        history = ((here.lam, prediction.term(x0=1.0)), *(state or ()))
        weights = _weights(there.lam, [lam for lam, _ in history])
        terms = ((there.alpha * w * c, y) for w, (_, (c, y)) in zip(weights, history, strict=True))
        new = lincomb((there.sigma / here.sigma, x), *terms)
        return Step(new, history[: self.order - 1])


def _weights(there: Scalar, lams: list[Scalar]) -> tuple[Scalar, ...]:
    """Return the weights of the x0 predictions at lams, newest first, in x_there / alpha_there.

    A last node at lam = -inf, where alpha is 0, has an infinite r and so no weight.
    """
    h = there - lams[0]
    whole = -expm1(-h)  # h phi1(-h), and 1 where h is infinite
    if len(lams) == 1:
        return (whole,)
    r0 = (lams[0] - lams[1]) / h
    if len(lams) == 2:
        slope = 0.5 * whole / r0
        return whole + slope, -slope
    r1 = (lams[1] - lams[2]) / h
    line = h * phi2(-h)
    bend = (r0 * line + 2.0 * h * phi3(-h)) / (r0 + r1)  # of D1_0 - D1_1
    first, second = (line + bend) / r0, -bend / r1
    return whole + first, second - first, -second
