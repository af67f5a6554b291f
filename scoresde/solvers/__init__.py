"""Solvers: one method family a file, each a step from level to level."""

from scoresde.solvers.adams import AdamsPC
from scoresde.solvers.base import Corrector, Solver, Step
from scoresde.solvers.ddim import DDIM, Ancestral
from scoresde.solvers.dpm_solver import (
    DPMSolver,
    DPMSolverAdaptive,
    DPMSolverFast,
    DPMSolverPPSingle,
)
from scoresde.solvers.dpm_solver_pp import DPMSolverPP
from scoresde.solvers.euler_maruyama import EulerMaruyama
from scoresde.solvers.flow import RK4, Euler, Heun, Midpoint
from scoresde.solvers.frames import EpsFrame, Frame, LogFrame, PolarFrame, TimeFrame, X0Frame
from scoresde.solvers.langevin import AnnealedLangevin, Langevin
from scoresde.solvers.predictor_corrector import PredictorCorrector
from scoresde.solvers.reverse_diffusion import ReverseDiffusion
from scoresde.solvers.runge_kutta import (
    AdaptiveSolver,
    BogackiShampine,
    DormandPrince,
    DormandPrince853,
    Tsitouras,
)

__all__ = [
    "DDIM",
    "RK4",
    "AdamsPC",
    "AdaptiveSolver",
    "Ancestral",
    "AnnealedLangevin",
    "BogackiShampine",
    "Corrector",
    "DPMSolver",
    "DPMSolverAdaptive",
    "DPMSolverFast",
    "DPMSolverPP",
    "DPMSolverPPSingle",
    "DormandPrince",
    "DormandPrince853",
    "EpsFrame",
    "Euler",
    "EulerMaruyama",
    "Frame",
    "Heun",
    "Langevin",
    "LogFrame",
    "Midpoint",
    "PolarFrame",
    "PredictorCorrector",
    "ReverseDiffusion",
    "Solver",
    "Step",
    "TimeFrame",
    "Tsitouras",
    "X0Frame",
]
