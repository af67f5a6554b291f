"""Solvers: one method family a file, each a step from level to level."""

from scoresde.solvers.adams import AdamsPC
from scoresde.solvers.base import Corrector, Solver, Step
from scoresde.solvers.churned import Churned
from scoresde.solvers.ddim import DDIM, Ancestral
from scoresde.solvers.dpm_solver_pp import DPMSolverPP
from scoresde.solvers.euler_maruyama import EulerMaruyama
from scoresde.solvers.flow import Euler, Heun
from scoresde.solvers.langevin import AnnealedLangevin, FixedLangevin, Langevin
from scoresde.solvers.mala import MALA
from scoresde.solvers.predictor_corrector import PredictorCorrector
from scoresde.solvers.restart import Restart
from scoresde.solvers.reverse_diffusion import ReverseDiffusion
from scoresde.solvers.runge_kutta import AdaptiveSolver, DormandPrince
from scoresde.solvers.underdamped import UnderdampedLangevin

__all__ = [
    "DDIM",
    "MALA",
    "AdamsPC",
    "AdaptiveSolver",
    "Ancestral",
    "AnnealedLangevin",
    "Churned",
    "Corrector",
    "DPMSolverPP",
    "DormandPrince",
    "Euler",
    "EulerMaruyama",
    "FixedLangevin",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "Restart",
    "ReverseDiffusion",
    "Solver",
    "Step",
    "UnderdampedLangevin",
]
