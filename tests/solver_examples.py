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
    BH1,
    DDIM,
    DEIS,
    IPNDM,
    PNDM,
    RK4,
    VPSDE,
    AdamsPC,
    AdaptiveSolver,
    Ancestral,
    AnnealedLangevin,
    BogackiShampine,
    Corrector,
    Denoiser,
    DormandPrince,
    DormandPrince853,
    DPMSolver,
    DPMSolverAdaptive,
    DPMSolverFast,
    DPMSolverPP,
    DPMSolverPPSingle,
    EpsFrame,
    Euler,
    EulerMaruyama,
    ExponentialAdams,
    Heun,
    Langevin,
    Midpoint,
    Noise,
    Phi,
    PolarFrame,
    PredictorCorrector,
    ReverseDiffusion,
    Rho,
    Solver,
    TimeFrame,
    Tsitouras,
    UniC,
    UniP,
    UniPC,
    Vary,
    X0Frame,
)

EXAMPLES: dict[type[Solver], tuple[Solver, ...]] = {
    AdamsPC: tuple(AdamsPC(k) for k in (1, 2, 3, 4)),
    Ancestral: (Ancestral(), Ancestral(forward_variance=True)),
    AnnealedLangevin: (PredictorCorrector(DDIM(1.0), AnnealedLangevin(), corrections=2),),
    BogackiShampine: (BogackiShampine(),),
    DDIM: (DDIM(), DDIM(0.5), DDIM(1.0)),
    DPMSolver: tuple(DPMSolver(k) for k in (1, 2, 3)),
    DPMSolverAdaptive: (DPMSolverAdaptive(order=2), DPMSolverAdaptive()),
    DPMSolverFast: (DPMSolverFast(), DPMSolverFast(598)),
    DEIS: (*map(DEIS, (1, 2, 3, 4)), DEIS(2, Rho()), DEIS(4, Rho())),
    DPMSolverPP: tuple(DPMSolverPP(k) for k in (1, 2, 3)),
    DPMSolverPPSingle: tuple(DPMSolverPPSingle(k) for k in (1, 2, 3)),
    DormandPrince: (DormandPrince(),),
    DormandPrince853: (DormandPrince853(),),
    Euler: (Euler(), Euler(PolarFrame())),
    EulerMaruyama: (EulerMaruyama(), EulerMaruyama(0.5), EulerMaruyama(0.0)),
    Heun: (
        *(Heun(), Heun(churn=0.1)),
        Heun(churn=0.2, churn_range=(0.05, 5.0), churn_noise=1.01),
        *(Heun(frame=PolarFrame()), Heun(churn=0.1, frame=EpsFrame())),
    ),
    ExponentialAdams: (
        ExponentialAdams(),
        ExponentialAdams(2, EpsFrame()),
        ExponentialAdams(4, PolarFrame(), Phi()),
    ),
    IPNDM: tuple(map(IPNDM, (1, 2, 3, 4))),
    Langevin: (
        PredictorCorrector(corrector=Langevin()),
        PredictorCorrector(Heun(), Langevin(), corrections=2),
        PredictorCorrector(corrector=Langevin(batch_mean_norms=True)),
    ),
    Midpoint: (Midpoint(), Midpoint(TimeFrame()), Midpoint(EpsFrame())),
    PNDM: (PNDM(),),
    PredictorCorrector: (PredictorCorrector(Ancestral(), AnnealedLangevin(snr=0.1)),),
    RK4: (RK4(), RK4(EpsFrame()), RK4(X0Frame())),
    ReverseDiffusion: (ReverseDiffusion(),),
    Tsitouras: (Tsitouras(),),
    UniC: (
        UniC(),
        UniC(DDIM(), 1, EpsFrame(), BH1()),
        UniC(ExponentialAdams(3, PolarFrame()), 3, PolarFrame(), Vary()),
    ),
    UniP: (UniP(2, EpsFrame()), UniP(2, X0Frame(), BH1()), UniP(4)),
    UniPC: (
        *map(UniPC, (1, 2, 3, 4)),
        UniPC(1, EpsFrame(), BH1()),
        UniPC(2, EpsFrame(), Vary()),
        UniPC(4, EpsFrame()),
    ),
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
            private = value.__name__.startswith("_")
            if issubclass(value, Solver) and not inspect.isabstract(value) and not private:
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
