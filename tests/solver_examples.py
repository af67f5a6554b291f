"""Every solver of the package, with the examples of it that the tests run."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import torch
from conftest import generator
from torch import Tensor, nn

import scoresde.solvers
from scoresde import (
    DDIM,
    ERSDE,
    SEEDS,
    VPSDE,
    AdamsPC,
    AdaptiveSDE,
    AdaptiveSolver,
    Ancestral,
    AnnealedLangevin,
    Corrector,
    Denoiser,
    DormandPrince,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    Noise,
    PredictorCorrector,
    ReverseDiffusion,
    SASolver,
    SDEDPMSolverPP,
    Solver,
    StochasticAdamsPC,
)
from scoresde.tensors import exp


def bell(level):
    """Return an amount of noise that is largest where the data begin to show."""
    return exp(-0.1 * level.lam**2)


EXAMPLES: dict[type[Solver], tuple[Solver, ...]] = {
    AdaptiveSDE: (AdaptiveSDE(0.1, 0.1),),
    AdamsPC: tuple(AdamsPC(k) for k in (1, 2, 3, 4)),
    Ancestral: (Ancestral(), Ancestral(forward_variance=True)),
    AnnealedLangevin: (PredictorCorrector(DDIM(1.0), AnnealedLangevin(), corrections=2),),
    DDIM: (DDIM(), DDIM(0.5), DDIM(1.0)),
    DPMSolverPP: tuple(DPMSolverPP(k) for k in (1, 2, 3)),
    DormandPrince: (DormandPrince(),),
    Euler: (Euler(),),
    EulerMaruyama: (EulerMaruyama(), EulerMaruyama(0.5), EulerMaruyama(0.0)),
    ERSDE: (ERSDE(1), ERSDE(2), ERSDE(3), ERSDE(2, phi=lambda rho: rho**1.5)),
    Heun: (Heun(), Heun(churn=0.1), Heun(churn=0.2, churn_range=(0.05, 5.0), churn_noise=1.01)),
    Langevin: (
        PredictorCorrector(corrector=Langevin()),
        PredictorCorrector(Heun(), Langevin(), corrections=2),
        PredictorCorrector(corrector=Langevin(batch_mean_norms=True)),
    ),
    PredictorCorrector: (PredictorCorrector(Ancestral(), AnnealedLangevin(snr=0.1)),),
    ReverseDiffusion: (ReverseDiffusion(),),
    SASolver: (SASolver(), SASolver(1, 1), SASolver(2, 0, tau=0.5), SASolver(3, 2, tau=0.0)),
    SDEDPMSolverPP: (*(SDEDPMSolverPP(k) for k in (1, 2, 3)), SDEDPMSolverPP(2, tau=bell)),
    SEEDS: (*(SEEDS(k) for k in (1, 2, 3)), SEEDS(2, tau=0.5), SEEDS(3, tau=0.0)),
    StochasticAdamsPC: tuple(StochasticAdamsPC(tau) for tau in (1.0, 0.5, bell)),
}
"""Examples of every class; a corrector's are predictors with it."""

SOLVERS = tuple(solver for examples in EXAMPLES.values() for solver in examples)
FIXED = tuple(solver for solver in SOLVERS if not isinstance(solver, AdaptiveSolver))
DETERMINISTIC = tuple(solver for solver in SOLVERS if not solver.stochastic)


def label(value: Any) -> str | None:
    """Return the name of a solver among a test's parameters."""
    return str(value) if isinstance(value, Solver) else None


def churns(solver: Solver) -> bool:
    """Say whether a solver raises the noise before a step."""
    return isinstance(solver, Heun) and solver.churn > 0.0


def couples(solver: Solver) -> bool:
    """Say whether a solver's samples depend on their batch mates, as it is documented to."""
    return isinstance(solver, PredictorCorrector) and solver.corrector == Langevin(
        batch_mean_norms=True
    )


def concrete_solvers() -> set[type[Solver]]:
    """Return every concrete solver class that a module of `scoresde.solvers` defines."""
    found = set()
    for module in pkgutil.iter_modules(scoresde.solvers.__path__, "scoresde.solvers."):
        for _, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(value, Solver) and not inspect.isabstract(value):
                found.add(value)
    return found - {Corrector}


class GivenNoise(Noise):
    """The same draw at every address: noise that a compiler can trace."""

    def __init__(self, draw: Tensor) -> None:
        self.draw = draw

    def normal(self, like: Tensor, *address: Any) -> Tensor:
        return self.draw

    def fold(self, key: int) -> GivenNoise:
        return self

    def rows(self, index: Tensor) -> GivenNoise:
        return GivenNoise(self.draw[index])


def zeros(like: Tensor) -> GivenNoise:
    """Return noise that is no noise."""
    return GivenNoise(torch.zeros_like(like))


class Curve(nn.Module):
    """An elementwise network, the same bit for bit in every batch; it counts its calls."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=dtype))
        self.calls, self.rows = 0, []

    def forward(self, x, t, shift=None):
        self.calls += 1
        self.rows.append(len(x))
        out = self.scale * x / (1.0 + x * x)
        return out if shift is None else out + shift


def model_on(sde=None, dtype=torch.float32):
    return Denoiser(Curve(dtype), sde or VPSDE(), "v")


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def steps_of(solver, steps):
    return {} if isinstance(solver, AdaptiveSolver) else {"steps": steps}
