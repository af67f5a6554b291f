"""A predictor and a corrector, as one solver."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.errors import require_integer, require_kind
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Corrector, Solver, Step
from scoresde.solvers.dpm_solver import DPMSolverFast
from scoresde.solvers.langevin import AnnealedLangevin
from scoresde.solvers.reverse_diffusion import ReverseDiffusion
from scoresde.solvers.runge_kutta import AdaptiveSolver
from scoresde.tensors import Scalar


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """Predict the next level, and correct at the levels on the way.

    Predictor P and corrector C alternate: [C] P C P ... C P [C], then the step to sigma = 0 where
    it is asked for. The flags say whether the state at the first level and the one at the last
    level above sigma = 0 are corrected. The default is Alg. 1 of Song et al. 2021
    (arXiv:2011.13456), which corrects after each prediction; the paper's code corrects before
    each, so take `correct_first=True` as well. A single step to sigma = 0 has no levels on the
    way: it is not corrected.

    The order is 0 with a corrector that leaves a bias: the error of the law falls with the steps
    to that bias, some snr^2 for Langevin steps, and no further.

    Attributes:
        predictor: a one-step solver on a fixed grid; one that keeps a history would mix states
            before and after correction.
        corrector: run at the level that the predictor reached. `Langevin`, the paper's, spreads the
            samples in few dimensions, where norms vary from draw to draw.
        corrections: corrector steps a level.
        correct_first: correct the start, at T.
        correct_last: correct the state at t_min.

    Raises:
        TypeError: a predictor or a corrector that is no solver.
        ValueError: corrections below 1; a predictor that stays at a level, picks its own steps
            or, at its first step, keeps a history; a corrector that is none.
    """

    predictor: Solver = ReverseDiffusion()
    corrector: Corrector = AnnealedLangevin()
    corrections: int = 1
    correct_first: bool = False
    correct_last: bool = True
    stochastic = True

    def __post_init__(self) -> None:
        require_kind(self.predictor, Solver, "predictor")
        require_kind(self.corrector, Solver, "corrector")
        require_integer(self.corrections, "corrections", 1)
        if isinstance(self.predictor, Corrector):
            raise ValueError(f"predictor={self.predictor} stays at a level; it cannot predict")
        if isinstance(self.predictor, AdaptiveSolver | DPMSolverFast):
            raise ValueError(
                f"predictor={self.predictor} picks its own steps; take a one-step solver"
            )
        if not isinstance(self.corrector, Corrector):
            raise ValueError(
                f"corrector={self.corrector} does not stay at a level; take a Corrector"
            )

    @property
    def order(self) -> int:
        return min(self.predictor.order, self.corrector.order)

    @property
    def evals(self) -> int:
        return self.predictor.evals + self.corrector.nfe(self.corrections, denoise=False)

    def nfe(self, steps: int, denoise: bool) -> int:
        moves = steps - denoise
        visits = moves - 1 + self.correct_first + self.correct_last if moves else 0
        visit = self.corrector.nfe(self.corrections, denoise=False)
        return self.predictor.nfe(steps, denoise) + visits * visit

    def init(self, field: Field, x: Tensor, level: Level) -> bool:
        """Return whether the state is still to be corrected before the next step."""
        self.predictor.init(field, x, level)
        return self.correct_first

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: bool, noise: Noise
    ) -> Step:
        if state:
            x = self._correct(field, x, here, noise)
        x, history, _ = self.predictor.step(field, x, here, there, None, noise)
        if history is not None:
            raise ValueError(f"predictor={self.predictor} keeps a history; take a one-step solver")
        if self.correct_last:
            x = self._correct(field, x, there, noise)
        return Step(x, not self.correct_last)

    def finish(self, field: Field, x: Tensor, here: Level, state: bool, noise: Noise) -> Step:
        return self.predictor.finish(field, x, here, None, noise)

    def clock(self, level: Level) -> Scalar:
        return self.predictor.clock(level)

    def _correct(self, field: Field, x: Tensor, level: Level, noise: Noise) -> Tensor:
        state = None
        for k in range(self.corrections):
            x, state, _ = self.corrector.step(field, x, level, level, state, noise.fold(k))
        return x
