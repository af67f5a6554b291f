"""Solvers: one method family a file, each a step from level to level."""

from scoresde.solvers.adams import AdamsPC
from scoresde.solvers.adaptive_sde import AdaptiveSDE
from scoresde.solvers.base import Corrector, Solver, Step
from scoresde.solvers.ddim import DDIM, Ancestral
from scoresde.solvers.dpm_solver_pp import DPMSolverPP
from scoresde.solvers.er_sde import ERSDE
from scoresde.solvers.euler_maruyama import EulerMaruyama
from scoresde.solvers.flow import Euler, Heun
from scoresde.solvers.langevin import AnnealedLangevin, Langevin
from scoresde.solvers.predictor_corrector import PredictorCorrector
from scoresde.solvers.reverse import ReverseSolver
from scoresde.solvers.reverse_diffusion import ReverseDiffusion
from scoresde.solvers.runge_kutta import AdaptiveSolver, DormandPrince
from scoresde.solvers.seeds import SEEDS
from scoresde.solvers.stochastic_adams import (
    SASolver,
    SDEDPMSolverPP,
    StochasticAdams,
    StochasticAdamsPC,
)

__all__ = [
    "DDIM",
    "ERSDE",
    "SEEDS",
    "AdamsPC",
    "AdaptiveSDE",
    "AdaptiveSolver",
    "Ancestral",
    "AnnealedLangevin",
    "Corrector",
    "DPMSolverPP",
    "DormandPrince",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "ReverseDiffusion",
    "ReverseSolver",
    "SASolver",
    "SDEDPMSolverPP",
    "Solver",
    "Step",
    "StochasticAdams",
    "StochasticAdamsPC",
]
