"""What people build on densities and codes, one tool a file.

Interpolation between codes, ratios of two models' densities, mutual information, novelty of
samples, local dimension of the data, and calibration of posteriors.
"""

from scoresde.density.calibration import Calibration, calibration, ranks
from scoresde.density.codes import interpolate
from scoresde.density.dimension import LocalSpectrum, local_spectrum
from scoresde.density.novelty import Novelty, novelty
from scoresde.density.ratio import LogRatio, log_ratio, mutual_information

__all__ = [
    "Calibration",
    "LocalSpectrum",
    "LogRatio",
    "Novelty",
    "calibration",
    "interpolate",
    "local_spectrum",
    "log_ratio",
    "mutual_information",
    "novelty",
    "ranks",
]
