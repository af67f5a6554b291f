"""What is refused, and that the message names the argument and the remedy."""

from __future__ import annotations

import pytest
import torch
from solver_examples import label, model_on, normal
from torch import nn

import scoresde as sd
from scoresde import (
    DDIM,
    VPSDE,
    AdamsPC,
    Ancestral,
    AnnealedLangevin,
    Churned,
    Denoiser,
    DormandPrince,
    DPMSolverPP,
    EulerMaruyama,
    FixedGrid,
    Heun,
    InjectedNoise,
    Langevin,
    PredictorCorrector,
    Prior,
    ReverseDiffusion,
    SeededNoise,
    UniformGrid,
)
from scoresde.integrate import READ_EVERY

SHAPE = (2, 3)
X = normal(2, 3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, r"shape, x"),
        ({"shape": SHAPE, "x": X}, r"shape, x"),
        ({"shape": ()}, r"shape=\(\)"),
        ({"shape": 5}, r"shape=5 must be \(B, \*\)"),
        ({"shape": (3,)}, r"shape=\(3,\)"),
        ({"shape": (-1, 3)}, r"shape=\(-1, 3\)"),
        ({"shape": (2, 0)}, r"shape=\(2, 0\)"),
        ({"x": torch.zeros(3)}, r"x: shape \(3,\)"),
        ({"x": torch.zeros(2, 3, dtype=torch.long)}, r"x: dtype torch.int64 .* transform"),
        (
            {"x": torch.tensor([[0.0], [torch.nan], [torch.inf]])},
            r"x: NaN .* 2 rows, first \[1, 2\]",
        ),
        ({"x": X, "prior": Prior()}, r"prior: "),
        ({"shape": SHAPE, "steps": 0}, r"steps=0"),
        ({"shape": SHAPE, "steps": -3}, r"steps=-3"),
        ({"shape": SHAPE, "nfe": 0}, r"nfe=0"),
        ({"shape": SHAPE, "nfe": 2, "solver": Heun(), "denoise": False}, None),
        ({"shape": SHAPE, "nfe": 1, "solver": Heun(), "denoise": False}, r"nfe=1: .*Heun.* 2"),
        ({"shape": SHAPE, "steps": 4, "nfe": 4}, r"steps=4 and nfe=4"),
        ({"shape": SHAPE, "seed": 0, "noise": SeededNoise(0)}, r"seed=0 and noise="),
        ({"shape": SHAPE, "solver": DormandPrince(), "grid": UniformGrid()}, r"grid=UniformGrid"),
        ({"shape": SHAPE, "solver": DormandPrince(), "steps": 5}, r"steps=5: DormandPrince"),
        ({"shape": SHAPE, "solver": DormandPrince(), "nfe": 50}, r"nfe=50: DormandPrince"),
        ({"shape": SHAPE, "solver": DormandPrince(), "callback": print}, r"callback="),
        ({"shape": SHAPE, "solver": Langevin()}, r"solver=Langevin.*PredictorCorrector"),
        ({"shape": SHAPE, "solver": AnnealedLangevin()}, r"solver=AnnealedLangevin"),
        ({"x": X, "steps": 3, "grid": FixedGrid((1.0, 0.5))}, r"steps=3, .* has 2 steps.*leave"),
        ({"x": X, "nfe": 1, "grid": FixedGrid((1.0, 0.5))}, r"nfe=1: the grid's 2 steps .* 2"),
        ({"shape": SHAPE, "grid": FixedGrid((0.5, 1e-3))}, r"grid=.*from t=0\.5 .* from T=1\.0"),
        ({"shape": SHAPE, "grid": FixedGrid((1.0, 0.1))}, r"grid=.* to 0\.1, .* t_min=0\.001"),
        ({"shape": (2, 3.0)}, r"shape=\(2, 3\.0\)"),
        ({"shape": SHAPE, "state_dtype": torch.float16}, r"state_dtype=torch.float16 must be one"),
        ({"shape": SHAPE, "state_dtype": torch.int64}, r"state_dtype=torch.int64 must be one"),
        ({"shape": SHAPE, "steps": 10.0}, r"steps=10\.0 must be an integer"),
        ({"shape": SHAPE, "nfe": 9.5}, r"nfe=9\.5 must be an integer"),
        ({"x": X, "solver": DDIM(1.0), "noise": InjectedNoise([X]), "steps": 9}, r"draws: "),
        ({"x": X, "solver": DDIM(1.0), "noise": InjectedNoise([X[:1]])}, r"draws: .*\(1, 3\)"),
    ],
)
def test_arguments_of_sample(arguments, named):
    if named is None:
        sd.sample(model_on(), **arguments)
        return
    with pytest.raises(ValueError, match=named):
        sd.sample(model_on(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"solver": DDIM}, r"solver=.*is no Solver; give an instance, DDIM\(\.\.\.\)"),
        ({"solver": "DDIM"}, r"solver='DDIM' is no Solver$"),
        ({"grid": UniformGrid}, r"grid=.*is no Grid; give an instance, UniformGrid"),
    ],
)
def test_arguments_of_another_kind(arguments, named):
    with pytest.raises(TypeError, match=named):
        sd.sample(model_on(), SHAPE, **arguments)


@pytest.mark.parametrize("call", [sd.encode, sd.log_likelihood])
@pytest.mark.parametrize("times", [(1.0, 0.1), (0.5, 1e-3)])
def test_a_code_is_not_solved_for_over_part_of_the_way(call, times):
    with pytest.raises(ValueError, match=r"grid=.* solved from T=1\.0 to t_min=0\.001"):
        call(model_on(), X, grid=FixedGrid(times))


class Breaking(nn.Module):
    """A network whose output is not finite from one call on, in the rows that are marked."""

    def __init__(self, call, value):
        super().__init__()
        self.call, self.value, self.calls = call, value, 0

    def forward(self, x, t, mark):
        self.calls += 1
        return torch.where(mark & (self.calls >= self.call), self.value, 0.5 * x)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_solve_stops_soon_after_no_sample_is_finite(value):
    model = Denoiser(Breaking(3, value), VPSDE(), "v")
    how = {"steps": 1000, "solver": sd.Euler(), "grid": UniformGrid()}
    with pytest.raises(sd.NonFiniteState, match=r"rows 0, 1.*after 3 network") as caught:
        sd.sample(model, SHAPE, cond={"mark": torch.ones(2, 1, dtype=torch.bool)}, **how)
    assert model.net.calls == READ_EVERY
    assert caught.value.nfe == 3
    assert caught.value.t == pytest.approx(UniformGrid().times(VPSDE(), 999)[2])


def test_a_solve_goes_on_while_a_sample_is_finite_and_keeps_it():
    mark = torch.tensor([[True], [False]])
    how = {"x": X, "cond": {"mark": mark}, "steps": 40}
    model = Denoiser(Breaking(3, torch.nan), VPSDE(), "v")
    with pytest.raises(sd.NonFiniteState) as caught:
        sd.sample(model, **how)
    assert (model.net.calls, caught.value.nfe, caught.value.indices) == (40, 3, (0,))
    whole = sd.sample(Denoiser(Breaking(99, torch.nan), VPSDE(), "v"), **how)
    assert torch.equal(caught.value.x[1], whole[1])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"x": X, "encode": True}, r"denoise=True"),
        ({"shape": SHAPE, "encode": True, "denoise": False}, r"shape=\(2, 3\)"),
        ({"x": X, "encode": True, "denoise": False, "solver": DDIM(1.0)}, r"solver=DDIM"),
        ({"shape": SHAPE, "solver": DormandPrince(), "trajectory": True}, r"trajectory=True"),
    ],
)
def test_arguments_of_solve(arguments, named):
    with pytest.raises(ValueError, match=named):
        sd.solve(model_on(), **arguments)


@pytest.mark.parametrize(
    "solver",
    [DDIM(0.5), Ancestral(), ReverseDiffusion(), EulerMaruyama(), PredictorCorrector(), Churned()],
    ids=label,
)
def test_encode_and_likelihood_refuse_stochastic_solvers(solver):
    with pytest.raises(ValueError, match=r"solver=.*deterministic"):
        sd.encode(model_on(), X, solver=solver)
    with pytest.raises(ValueError, match=r"solver=.*deterministic"):
        sd.log_likelihood(model_on(), X, solver=solver)


@pytest.mark.parametrize("call", [sd.sample, sd.solve, sd.encode, sd.decode, sd.log_likelihood])
def test_what_is_no_denoiser_is_refused(call):
    with pytest.raises(TypeError, match=r"model: a Linear is no denoiser; wrap"):
        call(nn.Linear(3, 3), X)


@pytest.mark.parametrize("call", [sd.encode, sd.decode, sd.log_likelihood])
@pytest.mark.parametrize(
    ("x", "named"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), r": dtype torch.uint8 where floats are meant"),
        (torch.full((2, 3), torch.nan), r": NaN or infinite values in 2 rows"),
        (torch.zeros(4), r": shape \(4,\)"),
    ],
)
def test_data_that_are_none_are_refused(call, x, named):
    with pytest.raises(ValueError, match=named):
        call(model_on(), x)


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, t):
        return self.layer(x)


@pytest.mark.parametrize("call", [sd.encode, sd.decode, sd.log_likelihood])
def test_active_dropout_is_refused(call):
    for layer in (nn.Dropout(0.1), nn.Dropout2d(0.1), nn.AlphaDropout(0.1)):
        model = Denoiser(Net(nn.Sequential(nn.Linear(3, 3), layer)), VPSDE())
        with pytest.raises(ValueError, match=r"model: dropout .*model\.eval\(\)"):
            call(model, X)
    call(model.eval(), X, steps=2)
    call(Denoiser(Net(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0))), VPSDE()), X, steps=2)


def test_an_output_of_another_shape_is_refused():
    model = Denoiser(Net(nn.Linear(3, 4)), VPSDE())
    with pytest.raises(ValueError, match=r"net: output has shape \(2, 4\).*\(2, 3\)"):
        sd.sample(model, SHAPE)


@pytest.mark.parametrize(
    ("answer", "error", "named"),
    [
        (lambda x: (x, None), TypeError, r"net: returns a tuple, not a tensor; wrap it"),
        (lambda x: {"sample": x}, TypeError, r"net: returns a dict"),
        (lambda x: x.long(), ValueError, r"net: output has dtype torch.int64"),
        (lambda x: x.mul_(0.5), ValueError, r"net: changes its input in place.*x\.clone\(\)"),
    ],
)
@pytest.mark.parametrize("call", [sd.decode, sd.log_likelihood])
def test_outputs_of_another_kind_are_refused(call, answer, error, named):
    with pytest.raises(error, match=named):
        call(Denoiser(Net(answer), VPSDE()), X.clone())


@pytest.mark.parametrize("call", [sd.encode, sd.decode, sd.log_likelihood])
def test_statistics_of_the_batch_are_refused(call):
    for training, tracked in ((True, True), (True, False), (False, False)):
        layer = nn.BatchNorm1d(3, track_running_stats=tracked)
        model = Denoiser(Net(nn.Sequential(nn.Linear(3, 3), layer)), VPSDE()).train(training)
        with pytest.raises(ValueError, match=r"model: batch normalisation .*model\.eval\(\)"):
            call(model, X)
    call(Denoiser(Net(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))), VPSDE()).eval(), X)


def test_a_model_elsewhere_is_refused_and_the_condition_moved():
    with pytest.raises(ValueError, match=r"device='meta': the model is on cpu; move it"):
        sd.sample(model_on(), SHAPE, device="meta")
    cond = {"shift": torch.zeros(2, 3)}
    assert sd.sample(model_on().to("meta"), SHAPE, cond=cond).device.type == "meta"


@pytest.mark.parametrize("predicts", ["eps", "score"])
def test_a_prediction_that_says_nothing_at_alpha_0_is_refused(predicts):
    with pytest.raises(ValueError, match=rf"predicts='{predicts}': alpha is 0 at T"):
        Denoiser(nn.Identity(), sd.RectifiedFlow(), predicts)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: AdamsPC(0), "order=0"),
        (lambda: AdamsPC(5), "order=5"),
        (lambda: DPMSolverPP(4), "order=4"),
        (lambda: DDIM(1.5), r"eta=1\.5"),
        (lambda: DDIM(float("nan")), r"eta=nan"),
        (lambda: EulerMaruyama(-1.0), r"tau=-1\.0"),
        (lambda: EulerMaruyama(float("inf")), r"tau=inf must be finite and at least 0"),
        (lambda: Ancestral(1.5), r"eta=1\.5 must be finite and at least 0 and at most 1"),
        (lambda: ReverseDiffusion(float("nan")), r"tau=nan"),
        (lambda: DormandPrince(rtol=0.0), r"rtol=0\.0"),
        (lambda: DormandPrince(atol=-1.0), r"atol=-1\.0"),
        (lambda: DormandPrince(max_nfe=7), "max_nfe=7"),
        (lambda: PredictorCorrector(corrections=0), "corrections=0"),
        (lambda: PredictorCorrector(Langevin()), "predictor=Langevin"),
        (lambda: PredictorCorrector(DormandPrince()), "predictor=DormandPrince"),
        (lambda: PredictorCorrector(corrector=DDIM()), "corrector=DDIM"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("predictor", [AdamsPC(), DPMSolverPP(2)], ids=label)
def test_a_predictor_with_a_history_is_refused(predictor, mixture):
    with pytest.raises(ValueError, match=r"predictor=.*history"):
        sd.sample(mixture.denoiser(VPSDE()), (2, 2), solver=PredictorCorrector(predictor))


@pytest.mark.parametrize(
    "solver",
    [EulerMaruyama(), ReverseDiffusion(), Ancestral(forward_variance=True), PredictorCorrector()],
    ids=label,
)
def test_a_process_that_a_solver_cannot_start_on_is_refused(solver, mixture):
    with pytest.raises(ValueError, match=r"solver=.*RectifiedFlow.*smaller T"):
        sd.sample(mixture.denoiser(sd.RectifiedFlow()), (2, 2), solver=solver)
