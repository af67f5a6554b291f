"""Proof that the contracts bite: planted mistakes, each caught by the check that is named for it.

Among them are those that were found in the libraries of the field, with where they were found.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from solver_examples import SOLVERS, label

from scoresde import (
    DDIM,
    IPNDM,
    SEEDS,
    VESDE,
    VPSDE,
    AdaptiveSolver,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    RectifiedFlow,
    Solver,
    Step,
    SubVPSDE,
)
from scoresde.sde.base import Kernel
from scoresde.solvers.ddim import new_noise
from scoresde.solvers.frames import PolarFrame
from scoresde.tensors import exp, expm1, lincomb, sqrt
from scoresde.testing import ContractError, Sampler, check_process, check_solver

# Steps that go wrong


@dataclass(frozen=True)
class Drifting(Euler):
    """Converges at order 1, but to the flow of another time span."""

    def step(self, field, x, here, there, state, noise):
        dt = 1.3 * (there.t - here.t)
        return Step(lincomb((1.0, x), (dt, field(x, here).velocity)))


@dataclass(frozen=True)
class Boastful(Heun):
    order = 3


@dataclass(frozen=True)
class Even(DPMSolverPP):
    """Takes the last step for as long as this one, and says it is no worse for that."""

    def step(self, field, x, here, there, state, noise):
        if state:
            (_, term), *older = state
            state = ((2.0 * here.lam - there.lam, term), *older)
        return super().step(field, x, here, there, state, noise)


@dataclass(frozen=True)
class Wasteful(Euler):
    def step(self, field, x, here, there, state, noise):
        field(x, here)
        return super().step(field, x, here, there, state, noise)


@dataclass(frozen=True)
class Secretive(DDIM):
    stochastic = False

    def step(self, field, x, here, there, state, noise):
        step = super().step(field, x, here, there, state, noise)
        return Step(step.x + 0.01 * noise.normal(x, here.t))


@dataclass(frozen=True)
class GlobalNoise(Euler):
    stochastic = True

    def step(self, field, x, here, there, state, noise):
        return Step(super().step(field, x, here, there, state, noise).x + torch.randn_like(x))


@dataclass(frozen=True)
class TwoStepsAtLeast(Euler):
    def finish(self, field, x, here, state, noise):
        return Step(field(x, here).x0 / state)

    def step(self, field, x, here, there, state, noise):
        return Step(super().step(field, x, here, there, state, noise).x, 1.0)


@dataclass(frozen=True)
class Blind(Euler):
    """Loses its way where alpha is 0."""

    def step(self, field, x, here, there, state, noise):
        step = super().step(field, x, here, there, state, noise)
        return Step(step.x if here.alpha > 0.0 else step.x * math.nan)


@dataclass(frozen=True)
class Promoting(Euler):
    def step(self, field, x, here, there, state, noise):
        return super().step(field, x.double(), here, there, state, noise)


@dataclass(frozen=True)
class Overwriting(Euler):
    def step(self, field, x, here, there, state, noise):
        return Step(x.add_(field(x, here).velocity, alpha=there.t - here.t))


@dataclass(frozen=True)
class Coupled(Euler):
    def step(self, field, x, here, there, state, noise):
        step = super().step(field, x, here, there, state, noise)
        return Step(step.x + 1e-3 * (there.t - here.t) * x.mean(0, keepdim=True))


@dataclass(frozen=True)
class Reading(Euler):
    def step(self, field, x, here, there, state, noise):
        size = 1.0 if x.abs().max() < 1e6 else 0.5
        return Step(super().step(field, x, here, there, state, noise).x * size)


@dataclass(frozen=True)
class Heavy(Euler):
    def step(self, field, x, here, there, state, noise):
        step = super().step(field, x, here, there, state, noise)
        return Step(step.x + 0.0 * x.sin().cos().tanh())


@dataclass(frozen=True)
class Remembering(Euler):
    """Adds the last velocity, kept on itself: two solves at once take each other's."""

    def step(self, field, x, here, there, state, noise):
        last = self.__dict__.get("last", 0.0)
        object.__setattr__(self, "last", field(x, here).velocity)
        return Step(x + (there.t - here.t) * 0.5 * (self.last + last))


class Undecorated(Euler):
    pass


@dataclass(frozen=True)
class Detached(Euler):
    def step(self, field, x, here, there, state, noise):
        dt = there.t - here.t
        return Step(lincomb((1.0, x), (dt, field(x, here).velocity.detach())))


@dataclass(frozen=True)
class PolarAdams(Solver):
    """Adams-Bashforth in the polar angle, with the last slope and its angle as history."""

    order = 2
    stochastic = False

    def radius(self, here, there, c):
        return there.radius(c)

    def step(self, field, x, here, there, state, noise):
        c = field.data_std
        phi, h = here.angle(c), there.angle(c) - here.angle(c)
        v = PolarFrame().slope(field, x, here)
        before, last = state or (phi - h, v)
        share, r = 0.5 * h / (phi - before), self.radius(here, there, c)
        moves = (r * h * (1.0 + share), v), (-r * h * share, last)
        return Step(lincomb((there.radius(c) / here.radius(c), x), *moves), (phi, v))


@dataclass(frozen=True)
class StaleSigma(PolarAdams):
    """Scales its increment by alpha of the new level and sigma of the old: azula's REABSampler."""

    def radius(self, here, there, c):
        return math.hypot(there.alpha * c, here.sigma)


@dataclass(frozen=True)
class ThirdOrder(Solver):
    """Three nodes of x0 in lam, as an exponential integrator; the curvature weighs as told."""

    order = 3
    stochastic = False
    curvature = 1.0

    def step(self, field, x, here, there, state, noise):
        history = ((here.lam, field(x, here).x0), *(state or ()))
        lams, h = [lam for lam, _ in history], there.lam - here.lam
        phi1 = math.expm1(-h)
        phi2 = phi1 / h + 1.0
        phi3 = phi2 / h - 0.5
        weights = [-phi1, 0.0, 0.0]
        if len(lams) == 2:
            slope = phi2 * h / (lams[0] - lams[1])
            weights = [-phi1 + slope, -slope, 0.0]
        if len(lams) == 3:
            near, far, whole = lams[0] - lams[1], lams[1] - lams[2], lams[0] - lams[2]
            # the interpolant's slope and bend at the newest node, by divided differences
            first = [1.0 / near, -1.0 / near, 0.0]
            bend = [1.0 / near / whole, -(1.0 / near + 1.0 / far) / whole, 1.0 / far / whole]
            for k in range(3):
                weights[k] += phi2 * h * (first[k] + near * bend[k])
                weights[k] -= self.curvature * 2.0 * phi3 * h * h * bend[k]
        terms = ((there.alpha * w, x0) for w, (_, x0) in zip(weights, history, strict=False))
        return Step(lincomb((there.sigma / here.sigma, x), *terms), history[:2])


@dataclass(frozen=True)
class HalfCurvature(ThirdOrder):
    """Half the weight of the second difference, as in the code of DPM-Solver++(3M)'s authors."""

    curvature = 0.5


@dataclass(frozen=True)
class Loud(EulerMaruyama):
    """Noise of another deviation, by an amount that samples would not show."""

    def step(self, field, x, here, there, state, noise):
        return super().step(field, x, here, there, state, _Louder(noise))


@dataclass(frozen=True)
class _Louder:
    noise: object

    def increment(self, x, start, stop):
        return 1.3 * self.noise.increment(x, start, stop)


@dataclass(frozen=True)
class Uncorrected(PredictorCorrector):
    """Counts a corrector that it never calls."""

    def step(self, field, x, here, there, state, noise):
        return self.predictor.step(field, x, here, there, None, noise)


@dataclass(frozen=True)
class Rounding(Euler):
    """Makes a tensor of a coefficient, in the default dtype."""

    def step(self, field, x, here, there, state, noise):
        dt = torch.tensor(there.t - here.t)
        return Step(x + dt * field(x, here).velocity)


@dataclass(frozen=True)
class Chatty(Euler):
    def step(self, field, x, here, there, state, noise):
        logging.getLogger("chatty").debug("stepping to %s", there.t)
        return super().step(field, x, here, there, state, noise)


@dataclass(frozen=True)
class Hoarding(Euler):
    def step(self, field, x, here, there, state, noise):
        new = super().step(field, x, here, there, state, noise).x
        return Step(new, (*(state or ()), x))


@dataclass(frozen=True)
class AnyOrder(DPMSolverPP):
    """Takes orders that its history cannot reach, and runs at another."""

    def __post_init__(self):
        pass


@dataclass(frozen=True)
class NoTop(DPMSolverPP):
    """Takes an order above those it has."""

    most = 10**6


@dataclass(frozen=True)
class AnyNodes(IPNDM):
    """Takes a number of slopes that it has no weights for."""

    def __post_init__(self):
        pass


@dataclass(frozen=True)
class AnyStages(SEEDS):
    """Takes a number of stages at which it makes something else."""

    def __post_init__(self):
        pass


@dataclass(frozen=True)
class Pathless(DDIM):
    """Draws by the number of the level, and says that it follows a path."""

    def step(self, field, x, here, there, state, noise):
        return super().step(field, x, here, there, state, _Fresh(noise))


@dataclass(frozen=True)
class _Fresh:
    noise: object

    def increment(self, x, start, stop):
        return self.noise.normal(x, start, stop)


@dataclass(frozen=True)
class AdaptiveAncestral(AdaptiveSolver):
    """The reverse SDE at constant x0, corrected by the mean of x0 at both ends of the step."""

    order = 1
    strong_order = 1
    stochastic = True
    evals = 2

    def init(self, field, x, level):
        return x  # the loop wants a tensor to carry

    def step(self, field, x, here, there, state, noise):
        share = new_noise(here, there)
        keep = there.sigma / here.sigma * sqrt(1.0 - share)
        weight = there.alpha - keep * here.alpha
        first, z = field(x, here).x0, self.draw(noise, x, here, there)
        plain = lincomb((keep, x), (weight, first), (there.sigma * sqrt(share), z))
        second = field(plain, there).x0
        error = lincomb((0.5 * weight, second), (-0.5 * weight, first))
        return Step(plain + error, x, error)

    def draw(self, noise, x, here, there):
        return noise.increment(x, self.clock(there), self.clock(here))

    def position(self, level, data_std):
        return PolarFrame().variable(level, data_std)

    def level(self, position, sde, data_std):
        return PolarFrame().level(position, sde, data_std)


@dataclass(frozen=True)
class Forgetful(AdaptiveAncestral):
    """Draws afresh for every try of a step: AlexiaJM's adaptive predictor."""

    strong_order = None

    def draw(self, noise, x, here, there):
        return noise.normal(x, here.t, there.t)


PAIR = (Ancestral(), AnnealedLangevin(snr=0.1))
OWN = (PolarAdams(), ThirdOrder(), AdaptiveAncestral())

MUTANTS = [
    (Drifting(), Euler(), "order"),
    (Boastful(), Heun(), "order"),
    (Even(), DPMSolverPP(), "order"),
    (StaleSigma(), PolarAdams(), "order"),
    (HalfCurvature(), ThirdOrder(), "order"),
    (Loud(), EulerMaruyama(), "order"),
    (Wasteful(), Euler(), "evals"),
    (Uncorrected(*PAIR), PredictorCorrector(*PAIR), "evals"),
    (Secretive(), DDIM(), "stochastic"),
    (GlobalNoise(), EulerMaruyama(), "stochastic"),
    (TwoStepsAtLeast(), Euler(), "grids"),
    (Blind(), Euler(), "grids"),
    (Promoting(), Euler(), "kind"),
    (Overwriting(), Euler(), "kind"),
    (Rounding(), Euler(), "precision"),
    (Coupled(), Euler(), "batch"),
    (
        PredictorCorrector(corrector=Langevin(batch_mean_norms=True)),
        PredictorCorrector(corrector=Langevin()),
        "batch",
    ),
    (Reading(), Euler(), "reads"),
    (Heavy(), Euler(), "operations"),
    (Chatty(), Euler(), "compiles"),
    (Hoarding(), Euler(), "history"),
    (AnyOrder(), DPMSolverPP(), "history"),
    (NoTop(), DPMSolverPP(), "history"),
    (AnyNodes(), IPNDM(), "history"),
    (AnyStages(), SEEDS(), "history"),
    (Remembering(), Euler(), "stateless"),
    (Undecorated(), Euler(), "stateless"),
    (Detached(), Euler(), "gradients"),
    (Pathless(1.0), DDIM(1.0), "strong"),
    (Forgetful(), AdaptiveAncestral(), "tolerance"),
]


# Loops that go wrong


def multistep(field, x, levels, noise):
    """DPM-Solver++(2M), as a loop."""
    last = None
    for here, there in pairwise(levels):
        x0 = field(x, here).x0
        if there.sigma == 0.0:
            return x0
        h, d = there.lam - here.lam, x0
        if last is not None:
            d = x0 + (x0 - last[1]) * h / (2.0 * last[0])
        x = lincomb((there.sigma / here.sigma, x), (-there.alpha * math.expm1(-h), d))
        last = (h, x0)
    return x


def one_step_crash(field, x, levels, noise):
    """Remembers a step size that a single step never has: k-diffusion's sample_dpmpp_2m_sde."""
    last = None
    for here, there in pairwise(levels):
        x0 = field(x, here).x0
        if there.sigma == 0.0:
            x = x0
        else:
            h, d = there.lam - here.lam, x0
            if last is not None:
                d = x0 + (x0 - last[1]) * h / (2.0 * last[0])
            x = lincomb((there.sigma / here.sigma, x), (-there.alpha * math.expm1(-h), d))
        last = (h, x0)
    return x


def log_of_zero(field, x, levels, noise):
    """Takes the logarithm of sigma = 0: diffusers' singlestep DPM-Solver of order 3."""
    for here, there in pairwise(levels):
        h = math.log(there.alpha / here.alpha) - math.log(there.sigma / here.sigma)
        x0 = field(x, here).x0
        x = lincomb((there.sigma / here.sigma, x), (-there.alpha * math.expm1(-h), x0))
    return x


def ancestral(field, x, levels, noise):
    """DDPM's posterior, as a loop."""
    for k, (here, there) in enumerate(pairwise(levels)):
        share = 1.0 - math.exp(2.0 * (here.lam - there.lam))
        mean = field(x, here).combine(x0=there.alpha, eps=there.sigma * math.sqrt(1.0 - share))
        x = lincomb((1.0, mean), (there.sigma * math.sqrt(share), noise.normal(x, k)))
    return x


def global_ancestral(field, x, levels, noise):
    """Draws from the global generator, as most libraries' samplers do."""
    return ancestral(field, x, levels, _Global())


class _Global:
    def normal(self, x, k):
        return torch.randn_like(x)


def unequal(field, x, levels, noise):
    """Adds the noise of the whole forward kernel to a step around x0: not the reverse process."""
    for k, (here, there) in enumerate(pairwise(levels)):
        x = lincomb((there.alpha, field(x, here).x0), (there.sigma, noise.normal(x, k)))
    return x


LOOPS = [
    (one_step_crash, multistep, {"order": 2, "evals": 1}, "grids"),
    (log_of_zero, multistep, {"order": 1, "evals": 1}, "grids"),
    (multistep, multistep, {"order": 2, "evals": 2}, "evals"),
    (global_ancestral, ancestral, {"order": 1, "evals": 1, "stochastic": True}, "stochastic"),
    (unequal, ancestral, {"order": 1, "evals": 1, "stochastic": True}, "order"),
]


# Processes that go wrong


@dataclass(frozen=True)
class DoubledExponent(SubVPSDE):
    """sigma = 1 - e^{-2B}, the variance of the other process: sbgm's SubVPSDE."""

    def sigma(self, t):
        return -expm1(-2.0 * self._integral(t))


@dataclass(frozen=True)
class DoubledSlope(VPSDE):
    """A derivative of sigma twice too large: deepinv's SongDiffusionSDE."""

    def dsigma(self, t):
        return 2.0 * super().dsigma(t)


@dataclass(frozen=True)
class MissingRoot(VESDE):
    """g^2 without the factor 2 of the logarithm: deepinv once more."""

    def g2(self, t):
        return 0.5 * super().g2(t)


@dataclass(frozen=True)
class Cancelling(VPSDE):
    """1 - e^{-B} as it stands: score_sde_pytorch."""

    def sigma(self, t):
        return sqrt(1.0 - exp(-self._integral(t)))


@dataclass(frozen=True)
class Astray(VPSDE):
    def t_at(self, lam):
        return 1.01 * super().t_at(lam)


@dataclass(frozen=True)
class Unscaled(VPSDE):
    """Forgets that the data's scale falls, and with it the old noise's."""

    def transition(self, s, t):
        scale, _ = super().transition(s, t)
        return Kernel(scale, sqrt(self.sigma(t) ** 2 - self.sigma(s) ** 2))


@dataclass(frozen=True)
class Scalar(RectifiedFlow):
    def sigma(self, t):
        return t if isinstance(t, float) else t.double()


@dataclass(frozen=True)
class Broadcasting(VPSDE):
    """Lets one level a sample line up with the columns."""

    def perturb(self, x0, t, eps):
        level = self.level(t)
        return (level.alpha * x0 + level.sigma * eps).to(x0)


class Mutable(VPSDE):
    pass


PROCESSES = [
    (DoubledExponent(), "coefficients"),
    (DoubledSlope(), "coefficients"),
    (MissingRoot(), "coefficients"),
    (Astray(), "inverse"),
    (Unscaled(), "kernels"),
    (Scalar(), "tensors"),
    (Cancelling(), "precision"),
    (Broadcasting(), "perturbs"),
    (Mutable(), "value"),
]


def names(report):
    return [found.check for found in report.failed]


@pytest.mark.parametrize(("mutant", "sound", "check"), MUTANTS, ids=label)
def test_the_check_named_for_it_catches_a_solver(mutant, sound, check):
    assert sound in (*OWN, *SOLVERS)  # held to their contracts below, and in test_contract.py
    report = check_solver(mutant)
    assert check in names(report), str(report)
    with pytest.raises(ContractError, match=check):
        report.raise_if_failed()
    assert f"FAIL  {check}" in str(report)


@pytest.mark.parametrize("solver", OWN, ids=label)
def test_sound_solvers_of_this_file_pass(solver):
    check_solver(solver, operations=8).raise_if_failed()


@pytest.mark.parametrize(("mutant", "sound", "claims", "check"), LOOPS)
def test_the_check_named_for_it_catches_a_loop(mutant, sound, claims, check):
    report = check_solver(Sampler(mutant, **claims))
    assert check in names(report), str(report)
    assert mutant.__name__ in str(report)


@pytest.mark.parametrize(
    ("loop", "claims"),
    [
        (multistep, {"order": 2, "evals": 1}),
        (ancestral, {"order": 1, "evals": 1, "stochastic": True}),
    ],
)
def test_sound_loops_of_this_file_pass(loop, claims):
    check_solver(Sampler(loop, **claims)).raise_if_failed()


@pytest.mark.parametrize(("mutant", "check"), PROCESSES, ids=lambda v: str(v).partition("(")[0])
def test_the_check_named_for_it_catches_a_process(mutant, check):
    report = check_process(mutant)
    assert check in names(report), str(report)
