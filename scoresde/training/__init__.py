"""Training: denoising score matching, the average of the weights, a loop, and its checkpoints.

    state = train(model, DSM(), batch, steps=100_000, workdir="runs/moons")
    x = scoresde.sample(state.ema.module, (64, 2), seed=0)

`train` goes on from the newest checkpoint of its folder; `load_model` reads one for sampling.
"""

from scoresde.atomic import CorruptCheckpoint
from scoresde.training.checkpoint import CheckpointError, latest, load, load_model, save
from scoresde.training.ema import EMA
from scoresde.training.history import NonFiniteLoss, Record
from scoresde.training.loop import Callback, train
from scoresde.training.losses import DSM, dsm_loss
from scoresde.training.maximum_likelihood import MaximumLikelihood
from scoresde.training.schedules import CosineDecay, Warmup
from scoresde.training.signals import Preempted
from scoresde.training.sliced import SlicedScoreMatching, ssm_loss
from scoresde.training.step import Batch, Objective, TrainState
from scoresde.training.tensorboard import TensorBoard
from scoresde.training.times import (
    DiscreteTimes,
    ImportanceTimes,
    InformationTimes,
    LogNormalTimes,
    Times,
    UniformTimes,
)
from scoresde.training.uncertainty import LearnedUncertainty, WithUncertainty
from scoresde.training.weightings import MinSNR, Weighting, edm, likelihood, sigma2, velocity

__all__ = [
    "DSM",
    "EMA",
    "Batch",
    "Callback",
    "CheckpointError",
    "CorruptCheckpoint",
    "CosineDecay",
    "DiscreteTimes",
    "ImportanceTimes",
    "InformationTimes",
    "LearnedUncertainty",
    "LogNormalTimes",
    "MaximumLikelihood",
    "MinSNR",
    "NonFiniteLoss",
    "Objective",
    "Preempted",
    "Record",
    "SlicedScoreMatching",
    "TensorBoard",
    "Times",
    "TrainState",
    "UniformTimes",
    "Warmup",
    "Weighting",
    "WithUncertainty",
    "dsm_loss",
    "edm",
    "latest",
    "likelihood",
    "load",
    "load_model",
    "save",
    "sigma2",
    "ssm_loss",
    "train",
    "velocity",
]
