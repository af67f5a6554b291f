"""What a sampler of another library is here, and how the library is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from scoresde import Level
from scoresde.denoiser import Field
from scoresde.noise import Noise
from scoresde.testing import Sampler

Levels = tuple[Level, ...]


class MissingPeer(ImportError):
    """A library that the comparison needs and that is not installed."""


def require(module: str) -> Any:
    """Import a module of another library.

    Raises:
        MissingPeer: it is not installed; says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPeer(
            f"{module}: cannot be imported ({error}); `make bench` installs the libraries that "
            f"scoresde is measured beside; `python -m benchmarks --alone` does without them"
        ) from error


@dataclass(frozen=True)
class Wiring:
    """How a library is handed a network.

    Attributes:
        exact: makes a network, as the library wants it, of a field and the levels of a solve.
        constant: makes one that returns a given tensor, and costs nothing.
    """

    exact: Callable[[Field, Levels], Any]
    constant: Callable[[Tensor], Any]


@dataclass(frozen=True)
class Method:
    """A sampler of another library, with the settings it was given.

    Attributes:
        library: whose it is.
        name: what tables call it.
        wiring: how it is handed a network.
        solve: carries x through the levels, as `solve(network, x, levels, noise)`; without a
            noise of ours the library draws its own.
        order: what the library or the method's paper says of it.
        evals: network calls a step.
        stochastic: whether it draws noise.
    """

    library: str
    name: str
    wiring: Wiring
    solve: Callable[[Any, Tensor, Levels, Noise | None], Tensor]
    order: int
    evals: int = 1
    stochastic: bool = False

    @property
    def sampler(self) -> Sampler:
        """The method as `scoresde.testing` takes it."""

        def run(field: Field, x: Tensor, levels: Levels, noise: Noise) -> Tensor:
            return self.solve(self.wiring.exact(field, levels), x, levels, noise)

        return Sampler(run, self.order, self.stochastic, self.evals)

    def __str__(self) -> str:
        return f"{self.library} {self.name}"
