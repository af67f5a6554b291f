"""Solvers: one method family a file, each a step from level to level."""

from scoresde.solvers.adams import AdamsPC
from scoresde.solvers.adaptive_adams import AdaptiveAdams
from scoresde.solvers.adaptive_sde import AdaptiveSDE
from scoresde.solvers.base import Corrector, Solver, Step
from scoresde.solvers.churned import Churned
from scoresde.solvers.ddim import DDIM, Ancestral
from scoresde.solvers.dpm_solver import (
    DPMSolver,
    DPMSolverAdaptive,
    DPMSolverFast,
    DPMSolverPPSingle,
)
from scoresde.solvers.dpm_solver_pp import DPMSolverPP
from scoresde.solvers.er_sde import ERSDE
from scoresde.solvers.euler_maruyama import EulerMaruyama
from scoresde.solvers.flow import RK4, Euler, Heun, Midpoint
from scoresde.solvers.frames import EpsFrame, Frame, LogFrame, PolarFrame, TimeFrame, X0Frame
from scoresde.solvers.interpolation import BH1, BH2, Blend, Coordinate, Lam, Phi, Rho, Time, Vary
from scoresde.solvers.langevin import AnnealedLangevin, FixedLangevin, Langevin
from scoresde.solvers.mala import MALA
from scoresde.solvers.multistep import DEIS, ExponentialAdams, Multistep
from scoresde.solvers.noised import Noised
from scoresde.solvers.pndm import IPNDM, PNDM
from scoresde.solvers.predictor_corrector import PredictorCorrector
from scoresde.solvers.restart import Restart
from scoresde.solvers.reverse import ReverseSolver, TauSolver
from scoresde.solvers.reverse_diffusion import ReverseDiffusion
from scoresde.solvers.runge_kutta import (
    AdaptiveSolver,
    BogackiShampine,
    DormandPrince,
    DormandPrince853,
    Tsitouras,
)
from scoresde.solvers.seeds import SEEDS
from scoresde.solvers.stochastic_adams import (
    SASolver,
    SDEDPMSolverPP,
    StochasticAdams,
    StochasticAdamsPC,
)
from scoresde.solvers.underdamped import UnderdampedLangevin
from scoresde.solvers.unipc import UniC, UniP, UniPC

__all__ = [
    "BH1",
    "BH2",
    "DDIM",
    "DEIS",
    "ERSDE",
    "IPNDM",
    "MALA",
    "PNDM",
    "RK4",
    "SEEDS",
    "AdamsPC",
    "AdaptiveAdams",
    "AdaptiveSDE",
    "AdaptiveSolver",
    "Ancestral",
    "AnnealedLangevin",
    "Blend",
    "BogackiShampine",
    "Churned",
    "Coordinate",
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
    "ExponentialAdams",
    "FixedLangevin",
    "Frame",
    "Heun",
    "Lam",
    "Langevin",
    "LogFrame",
    "Midpoint",
    "Multistep",
    "Noised",
    "Phi",
    "PolarFrame",
    "PredictorCorrector",
    "Restart",
    "ReverseDiffusion",
    "ReverseSolver",
    "Rho",
    "SASolver",
    "SDEDPMSolverPP",
    "Solver",
    "Step",
    "StochasticAdams",
    "StochasticAdamsPC",
    "TauSolver",
    "Time",
    "TimeFrame",
    "Tsitouras",
    "UnderdampedLangevin",
    "UniC",
    "UniP",
    "UniPC",
    "Vary",
    "X0Frame",
]
