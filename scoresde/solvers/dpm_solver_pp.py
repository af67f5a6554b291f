"""DPM-Solver++, multistep."""

from __future__ import annotations

from dataclasses import dataclass, field

from scoresde.solvers.frames import Frame, X0Frame
from scoresde.solvers.interpolation import BH2, Coordinate, Lam
from scoresde.solvers.multistep import ExponentialAdams


@dataclass(frozen=True)
class DPMSolverPP(ExponentialAdams):
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
    frame: Frame = field(default=X0Frame(), init=False, repr=False)
    coordinate: Coordinate = field(default=Lam(), init=False, repr=False)
    blend = BH2()
    most = 3
