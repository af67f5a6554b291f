"""Grids: where the steps of a solve are, against the formulas and quantiles that define them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from scipy import integrate, optimize, stats

from scoresde import (
    AYS_DEEPFLOYD,
    AYS_SD15,
    AYS_SDXL,
    AYS_SVD,
    EDMSDE,
    VESDE,
    VPSDE,
    DensityGrid,
    FixedGrid,
    GaussianSDE,
    Grid,
    KarrasGrid,
    LogSNRGrid,
    QuadraticGrid,
    RectifiedFlow,
    UniformGrid,
)
from scoresde.grids import LOWEST_LAM

GRIDS = [
    UniformGrid(),
    QuadraticGrid(),
    LogSNRGrid(),
    KarrasGrid(),
    KarrasGrid(rho=3.0),
    DensityGrid(),
    DensityGrid(mean=0.5, width=1.0, uniform=0.05),
    DensityGrid(uniform=1.0),
]


def lam_range(sde):
    return LOWEST_LAM if sde == RectifiedFlow() else sde.lam(sde.T), sde.lam(sde.t_min)


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_every_grid_goes_down_from_the_end_to_t_min(grid, sde):
    searches = isinstance(sde, GaussianSDE)  # for every node: a few numbers of steps will do
    for steps in (1, 2, 3, 10, 64) if searches else range(1, 65):
        levels = grid.levels(sde, steps)
        times = [level.t for level in levels]
        assert len(times) == steps + 1
        assert (times[0], times[-1]) == (sde.T, sde.t_min)  # to the last bit
        assert all(a > b for a, b in pairwise(times))
        for level in levels:
            assert {type(v) for v in (level.t, level.alpha, level.sigma)} == {float}
        assert levels[1:-1] == tuple(sde.level(t) for t in times[1:-1])


@pytest.mark.parametrize("steps", [1, 7, 30])
def test_uniform_and_quadratic_grids_are_even_in_t_and_its_root(sde, steps):
    uniform, quadratic = UniformGrid().times(sde, steps), QuadraticGrid().times(sde, steps)
    for i in range(steps + 1):
        even = sde.T + i / steps * (sde.t_min - sde.T)
        assert uniform[i] == pytest.approx(even, rel=1e-12)
        root = math.sqrt(sde.T) + i / steps * (math.sqrt(sde.t_min) - math.sqrt(sde.T))
        assert quadratic[i] == pytest.approx(root**2, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("steps", [2, 7, 30])
def test_log_snr_grid_is_even_in_lam(sde, steps):
    low, high = lam_range(sde)
    for i, level in enumerate(LogSNRGrid().levels(sde, steps)[1:], 1):
        assert level.lam == pytest.approx(low + i / steps * (high - low), abs=1e-9)


@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_karras_grid_is_equation_5(sde, rho):
    steps = 18
    highest, lowest = (math.exp(-lam) for lam in lam_range(sde))
    for i, level in enumerate(KarrasGrid(rho).levels(sde, steps)):
        if 0 < i < steps:
            step = i / steps * (lowest ** (1 / rho) - highest ** (1 / rho))
            expected = (highest ** (1 / rho) + step) ** rho
            assert level.sigma / level.alpha == pytest.approx(expected, rel=1e-9)


def test_karras_grid_on_edm_is_the_papers():
    """Karras et al. 2022, arXiv:2206.00364, eq. 5, with i = 0 ... N - 1 for N = 18 levels."""
    times = KarrasGrid().times(EDMSDE(), 17)
    a, b = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    assert times == pytest.approx([(a + i / 17 * (b - a)) ** 7 for i in range(18)], rel=1e-10)


@pytest.mark.parametrize("grid", [g for g in GRIDS if isinstance(g, DensityGrid)], ids=repr)
def test_density_grid_is_the_quantiles_of_its_density(grid, sde):
    low, high = lam_range(sde)
    bell = stats.norm(-grid.mean, grid.width)
    mass = bell.cdf(high) - bell.cdf(low)

    def density(lam):
        return (1 - grid.uniform) * bell.pdf(lam) / mass + grid.uniform / (high - low)

    steps = 9
    for i, level in enumerate(grid.levels(sde, steps)):
        if 0 < i < steps:
            share, _ = integrate.quad(density, low, level.lam, epsabs=1e-11)
            assert share == pytest.approx(i / steps, abs=1e-8)


def test_density_grid_puts_most_steps_where_the_normal_is():
    levels = DensityGrid(mean=0.0, width=0.5, uniform=0.1).levels(VESDE(), 100)
    near = sum(abs(math.log(level.sigma / level.alpha)) < 1.0 for level in levels)
    inside = stats.norm.cdf(2) - stats.norm.cdf(-2)
    spread = 2.0 / math.log(50.0 / 0.01)
    assert near == pytest.approx(100 * (0.9 * inside + 0.1 * spread), abs=2)


@pytest.mark.parametrize("grid", GRIDS[2:], ids=repr)
def test_grids_in_lam_start_at_pure_noise_where_alpha_is_zero(grid):
    sde = RectifiedFlow()
    levels = grid.levels(sde, 10)
    assert (levels[0].alpha, levels[0].lam) == (0.0, -math.inf)
    assert all(level.lam > LOWEST_LAM for level in levels[1:])


@pytest.mark.parametrize("sde", [VESDE(sigma_max=20_000.0), RectifiedFlow(T=1.0 - 1e-9)])
def test_grids_are_even_however_strong_the_noise_at_the_end_is(sde):
    levels = LogSNRGrid().levels(sde, 10)
    gaps = [b.lam - a.lam for a, b in pairwise(levels)]
    assert gaps == pytest.approx([(sde.lam(sde.t_min) - sde.lam(sde.T)) / 10] * 10, rel=1e-6)
    roots = [(at.sigma / at.alpha) ** (1 / 7) for at in KarrasGrid().levels(sde, 10)]
    gaps = [a - b for a, b in pairwise(roots)]
    assert gaps == pytest.approx([(roots[0] - roots[-1]) / 10] * 10, rel=1e-6)


@pytest.mark.parametrize("steps", [100, 1000, 10_000])
def test_grids_of_many_steps_stay_in_order(steps):
    for grid in (UniformGrid(), QuadraticGrid(), KarrasGrid()):
        assert len(grid.levels(VPSDE(), steps)) == steps + 1


def test_median_of_the_density_grid_is_its_own_root():
    sde, grid = VPSDE(), DensityGrid()
    low, high = lam_range(sde)
    bell = stats.norm(-grid.mean, grid.width)

    def share(lam):
        normal = (bell.cdf(lam) - bell.cdf(low)) / (bell.cdf(high) - bell.cdf(low))
        return (1 - grid.uniform) * normal + grid.uniform * (lam - low) / (high - low) - 0.5

    median = optimize.brentq(share, low, high, xtol=1e-14)
    assert grid.levels(sde, 2)[1].lam == pytest.approx(median, abs=1e-10)


@pytest.mark.parametrize("grid", [AYS_SD15, AYS_SDXL, AYS_DEEPFLOYD, AYS_SVD])
def test_align_your_steps_is_its_table_and_log_linear_between(grid):
    high, low = (math.exp(-lam) for lam in (grid.lams[0], grid.lams[-1]))
    sde = EDMSDE(T=high, t_min=low)
    nodes = grid.times(sde, 10)
    assert nodes == pytest.approx([math.exp(-lam) for lam in grid.lams], rel=1e-12)
    finer = grid.times(sde, 20)
    assert finer[::2] == pytest.approx(nodes, rel=1e-12)
    means = [math.sqrt(a * b) for a, b in pairwise(nodes)]
    assert finer[1::2] == pytest.approx(means, rel=1e-12)
    with pytest.raises(ValueError, match=r"but EDMSDE.* is solved from"):
        grid.levels(EDMSDE(T=100.0 * high, t_min=low), 10)


def test_fixed_grids_hold_their_nodes():
    grid = FixedGrid((1.0, 0.5, 0.2, 0.001))
    assert grid.times(VPSDE(), 3) == (1.0, 0.5, 0.2, 0.001)
    with pytest.raises(ValueError, match="steps=4, but the grid has 3 steps"):
        grid.levels(VPSDE(), 4)
    for nodes in (
        *((0.2, 0.5), (0.5, 0.5), (0.5, math.nan), (math.nan, 0.5), (1.0,), ()),
        *((math.inf, 0.5), (0.5, -0.1), (0.5, -math.inf)),
    ):
        with pytest.raises(ValueError, match=r"nodes=.* FixedGrid: .*two times or more .*sort"):
            FixedGrid(nodes)
    assert (grid.steps, UniformGrid().steps) == (3, None)
    with pytest.raises(ValueError, match=r"FixedGrid.* t=1.5 to 0.5, outside \[0, 1.0\] of VPSDE"):
        FixedGrid((1.5, 0.5)).levels(VPSDE(), 1)


def test_grids_are_values():
    assert KarrasGrid() == KarrasGrid(7.0)
    assert len({DensityGrid(), DensityGrid(), DensityGrid(width=1.0)}) == 2


@pytest.mark.parametrize("steps", [0, -3])
def test_a_solve_takes_a_step(steps):
    for grid in GRIDS:
        with pytest.raises(ValueError, match=f"steps={steps}"):
            grid.levels(VPSDE(), steps)


def test_numbers_that_make_no_grid_are_refused():
    for bad in ({"uniform": 0.0}, {"uniform": 1.5}, {"width": 0.0}, {"width": math.nan}):
        with pytest.raises(ValueError, match=rf"{next(iter(bad))}={next(iter(bad.values()))}"):
            DensityGrid(**bad)
    for rho in (0.0, -7.0, math.nan):
        with pytest.raises(ValueError, match=f"rho={rho}"):
            KarrasGrid(rho)
    with pytest.raises(ValueError, match=r"mean=100.0, width=0.5: the normal has no mass"):
        DensityGrid(mean=100.0, width=0.5).levels(VPSDE(), 10)


class Long(Grid):
    """Gives more steps than it is asked for."""

    def times(self, sde, steps):
        return UniformGrid().times(sde, 2 * steps)


@pytest.mark.parametrize(
    ("grid", "steps", "match"),
    [
        (FixedGrid((1.0, 0.5, 0.5 - 1e-9, 0.001)), 3, r"lengths .* of t=0.5; leave out"),
        (FixedGrid((1.0, 0.3 + 1e-16, 0.3, 0.001)), 3, r"do(es)? not decrease|lengths"),
        (Long(), 3, r"gives 7 times for 3 steps, not 4"),
    ],
)
def test_levels_all_but_repeated_and_wrong_counts_are_refused(grid, steps, match):
    with pytest.raises(ValueError, match=match):
        grid.levels(VPSDE(), steps)
