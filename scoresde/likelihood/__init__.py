"""Log-likelihoods as measurements: a number, and how far it may be off.

`log_likelihood` is exact, by the probability flow; `elbo` is a bound by the reverse SDE. `Decoded`
makes of a density at t_min one of the data, and `Discrete` of a density the probability of
integers, in bits per dimension. What they are made of has a file each: the traces, the flow's
Jacobian that they estimate, decoders, dequantisers, and the record of the result.
"""

from scoresde.likelihood.decoder import Decoded, Decoder, DiscretisedGaussian, GaussianDecoder
from scoresde.likelihood.dequantise import (
    Dequantiser,
    FlowDequantiser,
    UniformDequantiser,
    dequantiser_loss,
    fit_dequantiser,
)
from scoresde.likelihood.discrete import Discrete
from scoresde.likelihood.elbo import elbo
from scoresde.likelihood.flow import log_likelihood
from scoresde.likelihood.jacobian import Jacobian
from scoresde.likelihood.probes import Hadamard, Probes, Rademacher, Sphere, UnitNormal
from scoresde.likelihood.record import Density, LogLikelihood, Transform
from scoresde.likelihood.sketches import HutchPP, XTrace
from scoresde.likelihood.survey import (
    Columns,
    Evaluate,
    Share,
    fingerprint,
    save_columns,
    summary,
    survey,
)
from scoresde.likelihood.traces import (
    ControlVariate,
    Estimate,
    ExactTrace,
    Flipped,
    Hutchinson,
    Trace,
)

__all__ = [
    "Columns",
    "ControlVariate",
    "Decoded",
    "Decoder",
    "Density",
    "Dequantiser",
    "Discrete",
    "DiscretisedGaussian",
    "Estimate",
    "Evaluate",
    "ExactTrace",
    "Flipped",
    "FlowDequantiser",
    "GaussianDecoder",
    "Hadamard",
    "HutchPP",
    "Hutchinson",
    "Jacobian",
    "LogLikelihood",
    "Probes",
    "Rademacher",
    "Share",
    "Sphere",
    "Trace",
    "Transform",
    "UniformDequantiser",
    "UnitNormal",
    "XTrace",
    "dequantiser_loss",
    "elbo",
    "fingerprint",
    "fit_dequantiser",
    "log_likelihood",
    "save_columns",
    "summary",
    "survey",
]
