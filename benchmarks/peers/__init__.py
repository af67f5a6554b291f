"""Other libraries' samplers, each behind the few lines that hand it an exact denoiser of ours.

A `Method` is a sampler of theirs with its settings; `Method.sampler` is what `scoresde.testing`
takes, so that their orders and laws are measured as ours are. All run on the levels that they are
given, so that all solves end at the same noise level. An `Integrator` places its own steps between
the same ends, and a `Density` is a log-likelihood.
"""

from importlib import import_module

from benchmarks.peers.base import Method, MissingPeer
from benchmarks.peers.odes import Density, Integrator

LIBRARIES = ("k_diffusion", "azula", "diffusers")
"""Those with samplers."""

INTEGRATING = ("scipy", "torchdiffeq", "torchode", "flow_matching")
"""Those that integrate whatever they are given."""


def flow_methods() -> tuple[Method, ...]:
    """Return what the libraries have for the probability flow.

    Raises:
        MissingPeer: one is not installed.
    """
    return tuple(m for name in LIBRARIES for m in import_module(f"{__name__}.{name}").FLOW)


def reverse_methods() -> tuple[Method, ...]:
    """Return what the libraries have for the reverse SDE at full noise.

    Raises:
        MissingPeer: one is not installed.
    """
    return tuple(m for name in LIBRARIES for m in import_module(f"{__name__}.{name}").REVERSE)


def integrators() -> tuple[Integrator, ...]:
    """Return what the libraries have for any ordinary differential equation.

    Raises:
        MissingPeer: one is not installed.
    """
    return tuple(m for name in INTEGRATING for m in import_module(f"{__name__}.{name}").INTEGRATORS)


def densities() -> tuple[Density, ...]:
    """Return what the libraries have for likelihoods, or what is made of them.

    Raises:
        MissingPeer: one is not installed.
    """
    return tuple(m for name in INTEGRATING for m in import_module(f"{__name__}.{name}").DENSITIES)


__all__ = [
    "INTEGRATING",
    "LIBRARIES",
    "Density",
    "Integrator",
    "Method",
    "MissingPeer",
    "densities",
    "flow_methods",
    "integrators",
    "reverse_methods",
]
