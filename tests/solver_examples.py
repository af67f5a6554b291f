"""Every solver of the package, with the examples of it that the tests run."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from conftest import generator, slow
from torch import Tensor, nn

import scoresde.solvers
from scoresde import (
    BH1,
    DDIM,
    DEIS,
    ERSDE,
    IPNDM,
    MALA,
    PNDM,
    RK4,
    SEEDS,
    VPSDE,
    AdamsPC,
    AdaptiveAdams,
    AdaptiveSDE,
    AdaptiveSolver,
    Ancestral,
    AnnealedLangevin,
    BogackiShampine,
    Churned,
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
    FixedLangevin,
    Heun,
    Langevin,
    Midpoint,
    Noise,
    Noised,
    Phi,
    PolarFrame,
    PredictorCorrector,
    Restart,
    ReverseDiffusion,
    Rho,
    SASolver,
    SDEDPMSolverPP,
    Solver,
    StochasticAdamsPC,
    TimeFrame,
    Tsitouras,
    UnderdampedLangevin,
    UniC,
    UniP,
    UniPC,
    Vary,
    X0Frame,
)
from scoresde.tensors import exp
from scoresde.testing.orders import Family


def bell(level):
    """Return an amount of noise that is largest where the data begin to show."""
    return exp(-0.1 * level.lam**2)


EXAMPLES: dict[type[Solver], tuple[Solver, ...]] = {
    AdamsPC: tuple(AdamsPC(k) for k in (1, 2, 3, 4)),
    AdaptiveAdams: tuple(AdaptiveAdams(order=k) for k in (2, 3, 4, 5, 6)),
    AdaptiveSDE: (AdaptiveSDE(0.1, 0.1),),
    Ancestral: (
        *(Ancestral(), Ancestral(forward_variance=True)),
        *(Ancestral(0.5, forward_variance=True), Ancestral(bell)),
    ),
    AnnealedLangevin: (PredictorCorrector(DDIM(1.0), AnnealedLangevin(), corrections=2),),
    BogackiShampine: (BogackiShampine(),),
    Churned: (
        Churned(DDIM(1.0)),
        Churned(DDIM(), lambda level: 0.1 * level.sigma),
        Churned(Heun(), 0.2, inflation=1.01),
        Churned(Heun(EpsFrame())),
    ),
    DDIM: (DDIM(), DDIM(0.5), DDIM(1.0), DDIM(bell)),
    DEIS: (*map(DEIS, (1, 2, 3, 4)), DEIS(2, Rho()), DEIS(4, Rho())),
    DPMSolver: tuple(DPMSolver(k) for k in (1, 2, 3)),
    DPMSolverAdaptive: (DPMSolverAdaptive(order=2), DPMSolverAdaptive()),
    DPMSolverFast: (DPMSolverFast(), DPMSolverFast(598)),
    DPMSolverPP: tuple(DPMSolverPP(k) for k in (1, 2, 3)),
    DPMSolverPPSingle: tuple(DPMSolverPPSingle(k) for k in (1, 2, 3)),
    DormandPrince: (DormandPrince(),),
    DormandPrince853: (DormandPrince853(),),
    ERSDE: (ERSDE(1), ERSDE(2), ERSDE(3), ERSDE(2, phi=lambda rho: rho**1.5)),
    Euler: (Euler(), Euler(PolarFrame())),
    EulerMaruyama: tuple(EulerMaruyama(tau) for tau in (1.0, 0.5, 0.0, bell)),
    ExponentialAdams: (
        ExponentialAdams(),
        ExponentialAdams(2, EpsFrame()),
        ExponentialAdams(4, PolarFrame(), Phi()),
    ),
    FixedLangevin: (PredictorCorrector(DDIM(1.0), FixedLangevin(1e-4)),),
    Heun: (Heun(), Heun(PolarFrame())),
    IPNDM: tuple(map(IPNDM, (1, 2, 3, 4))),
    Langevin: (
        PredictorCorrector(corrector=Langevin()),
        PredictorCorrector(Heun(), Langevin(), corrections=2),
        PredictorCorrector(corrector=Langevin(batch_mean_norms=True)),
    ),
    MALA: (
        PredictorCorrector(DDIM(1.0), MALA()),
        PredictorCorrector(DDIM(), MALA(0.5), corrections=3),
    ),
    Midpoint: (Midpoint(), Midpoint(TimeFrame()), Midpoint(EpsFrame())),
    Noised: (
        *(Noised(), Noised(DDIM(), 0.5), Noised(AdamsPC(), bell)),
        *(Noised(UniPC(), 0.5), Noised(DPMSolverPP(2), 0.0)),
    ),
    PNDM: (PNDM(),),
    PredictorCorrector: (
        PredictorCorrector(Ancestral(), AnnealedLangevin(snr=0.1)),
        PredictorCorrector(DDIM(), correct_first=True, correct_last=False),
        PredictorCorrector(DDIM(), correct_first=True),
        PredictorCorrector(DDIM(), corrections=2, correct_last=False),
    ),
    RK4: (RK4(), RK4(EpsFrame()), RK4(X0Frame())),
    Restart: (
        Restart(Heun(), bottom=0.5, top=2.0, steps=4),
        Restart(AdamsPC(2), bottom=0.4, top=1.0, steps=3, repeats=1),
        Restart(Restart(DDIM(1.0), 0.3, 0.6), bottom=1.0, top=2.0),
    ),
    ReverseDiffusion: tuple(ReverseDiffusion(tau) for tau in (1.0, 0.5, 0.0, bell)),
    SASolver: (SASolver(), SASolver(1, 1), SASolver(2, 0, tau=0.5), SASolver(3, 2, tau=0.0)),
    SDEDPMSolverPP: (*(SDEDPMSolverPP(k) for k in (1, 2, 3)), SDEDPMSolverPP(2, tau=bell)),
    SEEDS: (*(SEEDS(k) for k in (1, 2, 3)), SEEDS(2, tau=0.5), SEEDS(3, tau=0.0)),
    StochasticAdamsPC: tuple(StochasticAdamsPC(tau) for tau in (1.0, 0.5, bell)),
    Tsitouras: (Tsitouras(),),
    UnderdampedLangevin: (PredictorCorrector(DDIM(1.0), UnderdampedLangevin(), corrections=3),),
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


def one_of_each(solvers: Iterable[Solver]) -> list[Any]:
    """Return the parameters of a test: of each class its default or first example, others slow."""
    kept = [
        next((s for s in examples if s == kind()), examples[0])
        for kind, examples in EXAMPLES.items()
    ]
    return [solver if solver in kept else slow(solver) for solver in solvers]


def label(value: Any) -> str | None:
    """Return the name of a solver among a test's parameters."""
    # without the address of a function, which no two processes of the tests share
    return re.sub(r" at 0x\w+", "", str(value)) if isinstance(value, Solver) else None


def shares_levels(solver: Solver) -> bool:
    """Say whether a solver raises the noise on the way, for the whole batch at once."""
    return isinstance(solver, Churned | Noised | Restart)


def on_steps(solver: Solver) -> Family:
    """Return the solver, or one for each number of steps where it takes that to converge."""
    match solver:
        case DPMSolverFast():
            return lambda n: DPMSolverFast(3 * n - 2)
        case Churned():
            return lambda n: replace(solver, amount=1.0 / n, inflation=1.0)
        case Restart(solver=Restart() as inner):
            return lambda n: replace(solver, solver=replace(inner, steps=n), steps=n)
        case Restart():
            return lambda n: replace(solver, steps=n)
    return solver


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
