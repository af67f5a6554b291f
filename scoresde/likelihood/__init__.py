"""Log-likelihoods as measurements: a number, and how far it may be off.

`log_likelihood` is exact, by the probability flow. What it is made of has a file each: the traces,
the flow's Jacobian that they estimate, and the record of the result.
"""

from scoresde.likelihood.flow import log_likelihood
from scoresde.likelihood.jacobian import FlowJacobian, Jacobian
from scoresde.likelihood.probes import Hadamard, Probes, Rademacher, Sphere, UnitNormal
from scoresde.likelihood.record import LogLikelihood, Transform
from scoresde.likelihood.sketches import HutchPP, XTrace
from scoresde.likelihood.traces import (
    ControlVariate,
    Estimate,
    ExactTrace,
    Flipped,
    Hutchinson,
    Trace,
)

__all__ = [
    "ControlVariate",
    "Estimate",
    "ExactTrace",
    "Flipped",
    "FlowJacobian",
    "Hadamard",
    "HutchPP",
    "Hutchinson",
    "Jacobian",
    "LogLikelihood",
    "Probes",
    "Rademacher",
    "Sphere",
    "Trace",
    "Transform",
    "UnitNormal",
    "XTrace",
    "log_likelihood",
]
