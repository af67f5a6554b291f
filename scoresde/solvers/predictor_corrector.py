"""A predictor and a corrector, as one solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.sde import Level
from scoresde.solvers.base import Corrector, Solver, Step
from scoresde.solvers.langevin import AnnealedLangevin
from scoresde.solvers.reverse_diffusion import ReverseDiffusion
from scoresde.solvers.runge_kutta import AdaptiveSolver
from scoresde.tensors import Scalar


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """Predict the next level, then correct at that level.

    Song et al. 2021, arXiv:2011.13456, Alg. 1. The state at the last level before sigma = 0 is
    corrected too. (The paper's code corrects before it predicts.)

    Attributes:
        predictor: a one-step solver on a fixed grid; one that keeps a history would mix states
            before and after correction.
        corrector: run at the level that the predictor reached. `Langevin`, the paper's, spreads the
            samples in few dimensions, where norms vary from draw to draw.
        corrections: corrector steps a level.

    Raises:
        ValueError: corrections below 1; a predictor that stays at a level, picks its own steps
            or, at its first step, keeps a history; a corrector that is none.
    """

    predictor: Solver = ReverseDiffusion()
    corrector: Corrector = AnnealedLangevin()
    corrections: int = 1
    stochastic = True

    def __post_init__(self) -> None:
        if self.corrections < 1:
            raise ValueError(f"corrections={self.corrections}: at least one, or no corrector")
        if isinstance(self.predictor, Corrector):
            raise ValueError(f"predictor={self.predictor} stays at a level; it cannot predict")
        if isinstance(self.predictor, AdaptiveSolver):
            raise ValueError(
                f"predictor={self.predictor} picks its own steps; take a one-step solver"
            )
        if not isinstance(self.corrector, Corrector):
            raise ValueError(
                f"corrector={self.corrector} does not stay at a level; take a Corrector"
            )

    @property
    def order(self) -> int:
        return min(1, self.predictor.order)

    @property
    def evals(self) -> int:
        return self.predictor.evals + self.corrections * self.corrector.evals

    def init(self, field: Field, x: Tensor, level: Level) -> None:
        self.predictor.init(field, x, level)

    def step(
        self, field: Field, x: Tensor, here: Level, there: Level, state: Any, noise: Noise
    ) -> Step:
        x, history, _ = self.predictor.step(field, x, here, there, None, noise)
        if history is not None:
            raise ValueError(f"predictor={self.predictor} keeps a history; take a one-step solver")
        for j in range(self.corrections):
            x = self.corrector.step(field, x, there, there, None, noise.fold(j)).x
        return Step(x)

    def finish(self, field: Field, x: Tensor, here: Level, state: Any, noise: Noise) -> Step:
        return self.predictor.finish(field, x, here, state, noise)

    def clock(self, level: Level) -> Scalar:
        return self.predictor.clock(level)
