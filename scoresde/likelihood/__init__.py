"""Log-likelihoods as measurements: a number, and how far it may be off.

`log_likelihood` is exact, by the probability flow. What it is made of has a file each: the traces,
the flow's Jacobian that they estimate, and the record of the result.
"""

from scoresde.likelihood.flow import default_trace, flow_jacobian, log_likelihood
from scoresde.likelihood.jacobian import FlowJacobian, Jacobian, find_mode, products
from scoresde.likelihood.record import LogLikelihood, Transform
from scoresde.likelihood.survey import (
    Columns,
    Evaluate,
    Share,
    fingerprint,
    save_columns,
    summary,
    survey,
)
from scoresde.likelihood.traces import Estimate, ExactTrace, Hutchinson, Trace

__all__ = [
    "Columns",
    "Estimate",
    "Evaluate",
    "ExactTrace",
    "FlowJacobian",
    "Hutchinson",
    "Jacobian",
    "LogLikelihood",
    "Share",
    "Trace",
    "Transform",
    "default_trace",
    "find_mode",
    "fingerprint",
    "flow_jacobian",
    "log_likelihood",
    "products",
    "save_columns",
    "summary",
    "survey",
]
