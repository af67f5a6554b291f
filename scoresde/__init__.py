"""Score-based generative modelling with stochastic differential equations.

Any network, any Gaussian diffusion, any solver, and a proof that the numbers are right:

    model = scoresde.Denoiser(net, scoresde.VPSDE(), predicts="eps")
    x = scoresde.sample(model, (64, 3, 32, 32), steps=20, seed=0)
    logp = scoresde.log_likelihood(model, x)
"""

from scoresde.analytic import ExactDenoiser, Gaussian, GaussianMixture
from scoresde.denoiser import (
    BaseDenoiser,
    Denoiser,
    Field,
    Prediction,
    feed_999t,
    feed_log_sigma,
    feed_t,
)
from scoresde.errors import MaxEvaluations, NonFiniteState, SolveError, StepSizeUnderflow
from scoresde.grids import (
    DensityGrid,
    FixedGrid,
    Grid,
    KarrasGrid,
    LogSNRGrid,
    QuadraticGrid,
    UniformGrid,
)
from scoresde.integrate import Solution
from scoresde.likelihood import ExactTrace, Hutchinson, LogLikelihood, Trace, log_likelihood
from scoresde.noise import BrownianNoise, InjectedNoise, Noise, RecordedNoise, SeededNoise
from scoresde.sampling import decode, encode, sample, solve
from scoresde.sde import (
    CLEAN,
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    GaussianSDE,
    Level,
    Prior,
    RectifiedFlow,
    SubVPSDE,
)
from scoresde.solvers import (
    DDIM,
    MALA,
    AdamsPC,
    AdaptiveSolver,
    Ancestral,
    AnnealedLangevin,
    Churned,
    Corrector,
    DormandPrince,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    FixedLangevin,
    Heun,
    Langevin,
    PredictorCorrector,
    Restart,
    ReverseDiffusion,
    Solver,
    Step,
    UnderdampedLangevin,
)

__version__ = "0.1.0"

__all__ = [
    "CLEAN",
    "DDIM",
    "EDMSDE",
    "MALA",
    "SDE",
    "VESDE",
    "VPSDE",
    "AdamsPC",
    "AdaptiveSolver",
    "Ancestral",
    "AnnealedLangevin",
    "BaseDenoiser",
    "BrownianNoise",
    "Churned",
    "Corrector",
    "CosineVPSDE",
    "DPMSolverPP",
    "Denoiser",
    "DensityGrid",
    "DormandPrince",
    "Euler",
    "EulerMaruyama",
    "ExactDenoiser",
    "ExactTrace",
    "Field",
    "FixedGrid",
    "FixedLangevin",
    "Gaussian",
    "GaussianMixture",
    "GaussianSDE",
    "Grid",
    "Heun",
    "Hutchinson",
    "InjectedNoise",
    "KarrasGrid",
    "Langevin",
    "Level",
    "LogLikelihood",
    "LogSNRGrid",
    "MaxEvaluations",
    "Noise",
    "NonFiniteState",
    "Prediction",
    "PredictorCorrector",
    "Prior",
    "QuadraticGrid",
    "RecordedNoise",
    "RectifiedFlow",
    "Restart",
    "ReverseDiffusion",
    "SeededNoise",
    "Solution",
    "SolveError",
    "Solver",
    "Step",
    "StepSizeUnderflow",
    "SubVPSDE",
    "Trace",
    "UnderdampedLangevin",
    "UniformGrid",
    "decode",
    "encode",
    "feed_999t",
    "feed_log_sigma",
    "feed_t",
    "log_likelihood",
    "sample",
    "solve",
]
