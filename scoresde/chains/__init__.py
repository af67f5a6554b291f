"""The chains of discrete time: DDPM, Improved DDPM and NCSN, on the solvers of continuous time.

    sde = LinearBetas(n=1000)
    model = scoresde.Denoiser(net, sde, "eps", time_input=feed_index)
    x = scoresde.sample(model, shape, solver=scoresde.Ancestral(), grid=Respaced(), steps=1000)

A `Ladder` is a process whose levels are those of a chain. `Respaced` picks steps among them; any
other grid, and any solver, solves the same model in log-SNR.
"""

from scoresde.chains.bound import ChainBound, vlb
from scoresde.chains.clipped import Clipped
from scoresde.chains.decoder import ChainDecoder
from scoresde.chains.ladder import (
    CosineBetas,
    GeometricSigmas,
    Ladder,
    LinearBetas,
    VELadder,
    VPLadder,
    feed_index,
)
from scoresde.chains.moments import LossMoments
from scoresde.chains.ncsn import (
    Hold,
    annealed_langevin,
    best_step,
    largest_distance,
    level_count,
    ncsnv2_ladder,
    ncsnv2_sampler,
)
from scoresde.chains.objectives import VLB, Hybrid, LevelTimes, variational
from scoresde.chains.respaced import Respaced
from scoresde.chains.variances import ChainPrediction, LearnedAncestral, LearnedVariance

__all__ = [
    "VLB",
    "ChainBound",
    "ChainDecoder",
    "ChainPrediction",
    "Clipped",
    "CosineBetas",
    "GeometricSigmas",
    "Hold",
    "Hybrid",
    "Ladder",
    "LearnedAncestral",
    "LearnedVariance",
    "LevelTimes",
    "LinearBetas",
    "LossMoments",
    "Respaced",
    "VELadder",
    "VPLadder",
    "annealed_langevin",
    "best_step",
    "feed_index",
    "largest_distance",
    "level_count",
    "ncsnv2_ladder",
    "ncsnv2_sampler",
    "variational",
    "vlb",
]
