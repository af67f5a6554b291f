"""Pseudo-numerical methods: fixed multistep coefficients on eps, carried over by DDIM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Step, lacks_data
from scoresde.solvers.frames import EpsFrame, TimeFrame
from scoresde.solvers.multistep import History, Multistep
from scoresde.tensors import Scalar, exp, expm1, lincomb


@dataclass(frozen=True)
class IPNDM(Multistep):
    """Improved PNDM: DDIM's step with an Adams-Bashforth average of the last eps.

    The average is that for equal steps in sigma / alpha, whatever the steps are, and the first
    steps have shorter ones (Zhang and Chen 2022, arXiv:2204.13902). Where neighbouring steps
    differ by a share that does not shrink with them, order 1 is left, whatever the number of
    nodes, and order 2 on smooth grids. `DEIS(coordinate=Rho())` has the average for the steps that
    are taken, and keeps its order.

    Attributes:
        nodes: values of eps in the average, from 1 to 4, and the order where steps in
            sigma / alpha are equal; 1 is DDIM.

    Raises:
        ValueError: another number of nodes.
    """

    nodes: int = 4
    frame = EpsFrame()
    order = 1

    def __post_init__(self) -> None:
        require_integer(self.nodes, "nodes", 1, 4)

    def weights(self, lams: Sequence[Scalar], stop: Scalar, field: Field) -> Sequence[Scalar]:
        rise = exp(-lams[0]) * expm1(lams[0] - stop)  # of sigma / alpha
        return [rise * share for share in _SHARES[len(lams) - 1]]


@dataclass(frozen=True)
class PNDM(IPNDM):
    """PNDM: three pseudo Runge-Kutta steps of four calls, then pseudo Adams-Bashforth of order 4.

    Liu et al. 2022, arXiv:2202.09778: F-PNDM. The middle of a Runge-Kutta step is that in t. Of
    the order of the classical methods as little is left as for `IPNDM`.

    Raises:
        ValueError: at the start of a solve, where alpha is 0 and DDIM cannot take an average.
    """

    nodes: int = field(default=4, init=False, repr=False)

    def nfe(self, steps: int, denoise: bool) -> int:
        return steps + 3 * min(steps - denoise, self.nodes - 1)

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        if lacks_data(level):
            raise ValueError(
                f"solver={self}: x says nothing of the data at t={level.t} of {field.sde}, where "
                f"alpha is 0; choose a smaller T, or IPNDM(), whose first step is plain DDIM"
            )

    def step(
        self,
        field: Field,
        x: Tensor,
        here: Level,
        there: Level,
        state: History | None,
        noise: Noise,
    ) -> Step:
        state = state or ()
        if len(state) == self.nodes - 1:
            return super().step(field, x, here, there, state, noise)
        middle = TimeFrame().level(0.5 * (here.t + there.t), field.sde, field.data_std)
        first = field(x, here).eps
        second = field(_ddim(x, first, here, middle), middle).eps
        third = field(_ddim(x, second, here, middle), middle).eps
        fourth = field(_ddim(x, third, here, there), there).eps
        mean = lincomb((1 / 6, first), (1 / 3, second), (1 / 3, third), (1 / 6, fourth))
        return Step(_ddim(x, mean, here, there), ((here.lam, (1.0, first)), *state))


def _ddim(x: Tensor, eps: Tensor, here: Level, there: Level) -> Tensor:
    shift = -there.sigma * expm1(there.lam - here.lam)
    return lincomb((there.alpha / here.alpha, x), (shift, eps))


# Adams-Bashforth, newest first, by the number of nodes
_SHARES = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
