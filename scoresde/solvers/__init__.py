"""Solvers: one method family a file, each a step from level to level."""

from scoresde.solvers.adams import AdamsPC
from scoresde.solvers.base import Corrector, Solver, Step
from scoresde.solvers.ddim import DDIM, Ancestral
from scoresde.solvers.dpm_solver_pp import DPMSolverPP
from scoresde.solvers.euler_maruyama import EulerMaruyama
from scoresde.solvers.flow import Euler, Heun
from scoresde.solvers.langevin import AnnealedLangevin, Langevin
from scoresde.solvers.predictor_corrector import PredictorCorrector
from scoresde.solvers.reverse_diffusion import ReverseDiffusion
from scoresde.solvers.runge_kutta import AdaptiveSolver, DormandPrince

__all__ = [
    "DDIM",
    "AdamsPC",
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
    "Solver",
    "Step",
]
