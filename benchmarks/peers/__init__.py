"""Other libraries' samplers, each behind the few lines that hand it an exact denoiser of ours.

A `Method` is a sampler of theirs with its settings; `Method.sampler` is what `scoresde.testing`
takes, so that their orders and laws are measured as ours are. All run on the levels that they are
given, so that all solves end at the same noise level.
"""

from importlib import import_module

from benchmarks.peers.base import Method, MissingPeer

LIBRARIES = ("k_diffusion", "azula", "diffusers")


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


__all__ = ["LIBRARIES", "Method", "MissingPeer", "flow_methods", "reverse_methods"]
