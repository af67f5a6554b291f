"""Forward processes: every Gaussian diffusion x_t = alpha(t) x_0 + sigma(t) eps.

The marginal coefficients alpha and sigma fix the linear SDE dx = f(t) x dt + g(t) dw:

    f = d log alpha / dt,    g^2 = d sigma^2 / dt - 2 f sigma^2,    lam = log(alpha / sigma)

(Song et al. 2021, arXiv:2011.13456, Sec. 3; Kingma et al. 2021, arXiv:2107.00630, Sec. 3). A new
process is one class with alpha, sigma, f, g2 and the inverse of lam, or just
`GaussianSDE(alpha, sigma)`.
"""

from scoresde.sde.base import CLEAN, SDE, Kernel, Level, Prior, forward_kernel
from scoresde.sde.gaussian import GaussianSDE
from scoresde.sde.processes import EDMSDE, VESDE, VPSDE, CosineVPSDE, RectifiedFlow, SubVPSDE

__all__ = [
    "CLEAN",
    "EDMSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "CosineVPSDE",
    "GaussianSDE",
    "Kernel",
    "Level",
    "Prior",
    "RectifiedFlow",
    "SubVPSDE",
    "forward_kernel",
]
