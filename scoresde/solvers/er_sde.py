"""ER-SDE: the extended reverse-time SDE, whose noise is a function of sigma / alpha."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Solver, Step, lacks_data
from scoresde.solvers.interpolation import gauss
from scoresde.tensors import Scalar, Term, exp, lincomb, log, sqrt

History = tuple[tuple[Scalar, Term], ...]
"""The last predictions of x0, newest first, each with its rho."""


def er_sde_5(rho: Scalar) -> Scalar:
    """Return phi(rho) = rho (e^{rho^0.3} + 10), the ER-SDE 5 of the paper."""
    return rho * (exp(rho**0.3) + 10.0)


@dataclass(frozen=True)
class ERSDE(Solver):
    """ER-SDE-Solver: multistep on x0 in rho = sigma / alpha, for any noise scale function phi.

    With x0 a polynomial P in rho through its last predictions, a step from t to s is

        x_s / alpha_s = k x_t / alpha_t + (1 - k) x0 + integral of (1 - phi_s / phi) P' drho
                        + sqrt(rho_s^2 - k^2 rho_t^2) z,    k = phi(rho_s) / phi(rho_t),

    with the integral from t to s (Cui et al. 2023, arXiv:2309.06169, eqs. 16-18). phi = rho^2 is
    the reverse SDE, phi = rho the probability flow, and phi = rho^{1 + tau^2} any amount tau.

    The weak order is 1 with one node and 2 with more.

    Attributes:
        nodes: 1, 2 or 3 predictions behind P: the order of the paper.
        phi: of rho, such that phi / rho does not fall as rho rises.

    Raises:
        ValueError: another number of nodes; a phi whose noise would have a negative variance, or
            that floats do not hold, here or in a step.
    """

    nodes: int = 3
    phi: Callable[[Scalar], Scalar] = er_sde_5
    stochastic = True

    def __post_init__(self) -> None:
        require_integer(self.nodes, "nodes", 1, 3)
        for low, high in pairwise((1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)):
            self._kept(high, low)

    @property
    def order(self) -> int:
        return min(self.nodes, 2)

    def step(
        self,
        field: Field,
        x: Tensor,
        here: Level,
        there: Level,
        state: History | None,
        noise: Noise,
    ) -> Step:
        z = noise.increment(x, self.clock(there), self.clock(here))
        prediction = field(x, here)
        if lacks_data(here):
            # all noise: nothing of x is kept, and no polynomial goes through rho = inf
            return Step(lincomb((there.alpha, prediction.x0), (there.sigma, z)))
        start, stop = here.sigma / here.alpha, there.sigma / there.alpha
        history = ((start, prediction.term(x0=1.0)), *(state or ()))
        share = self._kept(start, stop)
        kept = share * stop / start
        weights = self._weights([rho for rho, _ in history], stop, kept)
        terms = ((there.alpha * w * c, y) for w, (_, (c, y)) in zip(weights, history, strict=True))
        return Step(
            lincomb(
                (there.alpha / here.alpha * kept, x),
                *terms,
                (there.sigma * sqrt((1.0 - share) * (1.0 + share)), z),
            ),
            history[: self.nodes - 1],
        )

    def clock(self, level: Level) -> Scalar:
        """Return -(rho / phi)^2: the noise of a step is an increment in this clock."""
        if lacks_data(level):
            return 0.0
        rho = level.sigma / level.alpha
        return -((rho / self.phi(rho)) ** 2)

    def _kept(self, start: Scalar, stop: Scalar) -> Scalar:
        """Return phi / rho at stop over that at start: in [0, 1] where rho falls.

        Raises:
            ValueError: more than 1, or out of the range of floats (checked for floats).
        """
        try:
            kept = self.phi(stop) / stop / (self.phi(start) / start)
        except (OverflowError, ZeroDivisionError):
            raise ValueError(
                f"phi={self.phi}: floats do not hold what it is at rho={stop} or at {start}; take "
                f"a phi of less noise"
            ) from None
        if isinstance(kept, Tensor):
            return kept.clamp(max=1.0)
        if kept > 1.0 + 1e-9:
            raise ValueError(
                f"phi={self.phi}: phi / rho falls as rho rises from {stop} to {start}, which would "
                f"take noise of negative variance; take a phi that grows at least as rho"
            )
        return min(kept, 1.0)  # but for rounding

    def _weights(self, nodes: Sequence[Scalar], stop: Scalar, kept: Scalar) -> tuple[Scalar, ...]:
        """Return the weights of the x0 predictions at nodes, newest first, in x / alpha."""
        if len(nodes) == 1:
            return (1.0 - kept,)
        first, second = self._integrals(nodes[0], nodes[1], stop)
        last = nodes[0] - nodes[1]
        slope = first / last
        if len(nodes) == 2:
            return 1.0 - kept + slope, -slope
        before, both = nodes[1] - nodes[2], nodes[0] - nodes[2]
        new, old = second / (last * both), second / (before * both)
        return 1.0 - kept + slope + new, -slope - new - old, old

    def _integrals(self, start: Scalar, before: Scalar, stop: Scalar) -> tuple[Scalar, Scalar]:
        """Return the integrals for the P' of Newton's polynomials, rho and its quadratic."""
        # in log rho, because a step may span decades of rho
        first: Scalar = 0.0
        second: Scalar = 0.0
        for at, weight in gauss(log(start), log(stop), 16):
            rho = exp(at)
            density = weight * rho * (1.0 - self.phi(stop) / self.phi(rho))
            first = first + density
            second = second + density * (2.0 * rho - start - before)
        return first, second
