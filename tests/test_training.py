"""The loop: what it learns, that it resumes bit for bit, stops when asked, and says what failed."""

from __future__ import annotations

import copy
import json
import math
import sys

import pytest
import torch
from conftest import generator
from torch import Tensor, nn
from training_helpers import MLP, QUIET, Gain, run, zeros

from scoresde import VPSDE, Denoiser, sample
from scoresde.training import (
    DSM,
    EMA,
    CosineDecay,
    ImportanceTimes,
    NonFiniteLoss,
    Record,
    TensorBoard,
    Warmup,
    likelihood,
    load_model,
    train,
)
from scoresde.training.history import rewind_log


class TestLearning:
    def test_recovers_the_score_of_gaussian_data(self):
        # eps = w x has one w for all times; its minimiser is E[sigma] / E[V], here by quadrature
        sde, c = VPSDE(), 0.5
        model = Denoiser(Gain(), sde)
        state = train(
            model, DSM(), lambda step: (c * torch.randn(4096, 2, generator=generator(step)), None),
            steps=200, optimizer=torch.optim.Adam(model.parameters(), lr=0.03),
            schedule=CosineDecay(200, warmup=1), ema_decay=0.9, **QUIET,
        )  # fmt: skip
        t = torch.linspace(sde.t_min, sde.T, 100_001, dtype=torch.float64)
        v = sde.alpha(t) ** 2 * c**2 + sde.sigma(t) ** 2
        expected = float(sde.sigma(t).mean() / v.mean())
        assert float(model.net.gain.detach()) == pytest.approx(expected, rel=0.01)
        assert float(state.ema.module.net.gain) == pytest.approx(expected, rel=0.01)
        loss = float((1 - 2 * expected * sde.sigma(t) + expected**2 * v).mean())
        assert state.history[-1].loss == pytest.approx(loss, rel=0.02)

    def test_importance_sampling_has_the_same_minimiser_and_less_variance(self):
        x0 = torch.randn(256, 2, generator=generator(0), dtype=torch.float64)
        model = Denoiser(Gain(0.8).double(), VPSDE(), "v")
        losses = {
            kind: torch.stack(
                [objective(model, x0, generator(seed)).detach() for seed in range(200)]
            )
            for kind, objective in {
                "uniform": DSM(likelihood),
                "importance": DSM(likelihood, ImportanceTimes()),
            }.items()
        }
        a, b = losses["uniform"], losses["importance"]
        assert b.std() < 0.5 * a.std()
        assert abs(a.mean() - b.mean()) < 5 * (a.var() / 200 + b.var() / 200).sqrt()


class TestFailing:
    @pytest.mark.parametrize("where", ["loss", "gradient"])
    def test_the_step_is_named_and_the_checkpoint_is_sound(self, tmp_path, where):
        def objective(model, x0, g, cond):
            gain = model.net.gain
            if x0[0, 0] != 7:
                return gain.square()
            return gain * math.nan if where == "loss" else (gain - gain.detach()).abs().sqrt()

        def batch(step: int):
            return torch.full((4, 2), float(step)), None

        model = Denoiser(Gain(1.0), VPSDE())
        with pytest.raises(NonFiniteLoss, match=r"^step 7: the loss is") as failed:
            train(
                model, objective, batch, steps=100, workdir=tmp_path, checkpoint_every=5,
                log_every=50, max_skipped=0, **QUIET,
            )  # fmt: skip
        assert failed.value.step == 7
        assert [p.name for p in tmp_path.glob("step-*")] == ["step-000000005"]
        other = Denoiser(Gain(), VPSDE())
        load_model(tmp_path, other, ema=False)
        assert other.net.gain.isfinite()

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"steps": 0}, "steps=0 must be at least 1"),
            ({"log_every": 0}, "log_every=0"),
            ({"checkpoint_every": -1}, "checkpoint_every=-1"),
            ({"keep": 1}, "keep=1 must be at least 2"),
            ({"seed": -1}, "seed=-1"),
            ({"max_skipped": -1}, "max_skipped=-1 must be at least 0"),
            ({"grad_clip": 0.0}, "grad_clip=0.0"),
            ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ],
    )
    def test_arguments_by_name(self, options, told):
        options = {"steps": 1, **QUIET, **options}
        with pytest.raises(ValueError, match=told):
            train(Denoiser(Gain(), VPSDE()), DSM(), zeros, **options)

    @pytest.mark.parametrize("fused", [True, False])
    def test_a_gradient_that_is_not_finite_is_skipped(self, tmp_path, fused):
        bad = {3, 4, 7}

        def objective(model, x0, g, cond):
            return model.net.gain * (math.nan if int(x0[0, 0]) in bad else 1.0)

        def batch(step: int):
            return torch.full((4, 2), float(step)), None

        model = Denoiser(Gain(0.0), VPSDE())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
        state = train(
            model, objective, batch, steps=10, optimizer=optimizer, schedule=lambda step: 1.0,
            workdir=tmp_path, log_every=2, max_skipped=2, **QUIET,
        )  # fmt: skip
        # under a constant gradient Adam moves by its learning rate a step, here for 7 of the 10
        assert float(model.net.gain.detach()) == pytest.approx(-0.7)
        assert float(optimizer.state[model.net.gain]["step"]) == 7
        assert [r.skipped for r in state.history] == [0, 1, 1, 1, 0]
        assert all(math.isfinite(r.loss) for r in state.history)

    @pytest.mark.parametrize("where", ["loss", "norm"])
    def test_what_is_told_as_skipped_is_skipped(self, where):
        # an infinite loss of finite gradient; a finite gradient whose norm overflows
        def objective(model, x0, g, cond):
            bad = int(x0[0, 0]) == 4
            if where == "loss":
                return model.net.gain.sum() + (math.inf if bad else 0.0)
            return model.net.gain.sum() * (1e20 if bad else 1.0)

        def batch(step: int):
            return torch.full((4, 2), float(step)), None

        model = Denoiser(Gain([0.0, 0.0]), VPSDE())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
        state = train(
            model, objective, batch, steps=8, optimizer=optimizer, schedule=lambda step: 1.0,
            log_every=8, **QUIET,
        )  # fmt: skip
        taken = 8 - state.history[0].skipped
        assert state.history[0].skipped == 1
        assert float(optimizer.state[model.net.gain]["step"]) == taken
        assert model.net.gain.tolist() == pytest.approx([-0.1 * taken] * 2)

    def test_too_many_in_a_row_are_told_across_records(self, tmp_path):
        def objective(model, x0, g, cond):
            return model.net.gain * (math.nan if x0[0, 0] >= 5 else 1.0)

        def batch(step: int):
            return torch.full((4, 2), float(step)), None

        model = Denoiser(Gain(), VPSDE())
        with pytest.raises(NonFiniteLoss, match=r"^step 5: .* in 4 steps in a row") as failed:
            train(
                model, objective, batch, steps=20, workdir=tmp_path, log_every=2, max_skipped=3,
                checkpoint_every=7, **QUIET,
            )  # fmt: skip
        assert failed.value.step == 5
        lines = (tmp_path / "log.jsonl").read_text().splitlines()
        assert json.loads(lines[-1], parse_constant=pytest.fail)["loss"] is None
        assert math.isnan(rewind_log(tmp_path / "log.jsonl", 8)[-1].loss)
        load_model(tmp_path, model)
        assert model.net.gain.isfinite()

    @pytest.mark.parametrize(
        ("x0", "told"),
        [
            (
                torch.tensor([[0.0], [math.nan], [math.inf]]),
                r"batch\(0\): .* 2 of 3 rows.* \[1, 2\]",
            ),
            (torch.zeros(0, 2), r"batch\(0\): shape \(0, 2\) holds no data"),
            (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "torch.uint8 where floats are meant"),
            (torch.zeros(4, 2, dtype=torch.int64), "torch.int64 where floats are meant"),
        ],
    )
    def test_data_by_step_and_row(self, x0, told):
        model = Denoiser(Gain(0.5), VPSDE())
        with pytest.raises(ValueError, match=told):
            train(model, DSM(), lambda step: (x0, None), steps=1, **QUIET)
        assert float(model.net.gain.detach()) == 0.5

    @pytest.mark.parametrize(("scale", "data_std"), [(255.0, 1.0), (1.0, 0.01), (0.01, 0.5)])
    def test_data_off_the_scale_of_the_model_are_told(self, scale, data_std):
        x0 = scale * torch.rand(16, 2, generator=generator(0))
        model = Denoiser(Gain(), VPSDE(), data_std=data_std)
        with pytest.warns(UserWarning, match=f"the model has data_std={data_std:g}:"):
            train(model, DSM(), lambda step: (x0, None), steps=2, **QUIET)

    def test_a_batch_is_a_pair(self):
        model = Denoiser(Gain(), VPSDE())
        with pytest.raises(
            TypeError, match=r"batch\(0\): a Tensor is no pair; return \(x0, cond\)"
        ):
            train(model, DSM(), lambda step: torch.zeros(4, 2), steps=1, **QUIET)

    def test_a_network_is_no_denoiser(self):
        with pytest.raises(TypeError, match="Gain is no denoiser"):
            train(Gain(), DSM(), zeros, steps=1, **QUIET)

    def test_schedules(self):
        with pytest.raises(ValueError, match="steps=0"):
            Warmup(0)
        with pytest.raises(ValueError, match="warmup=20"):
            CosineDecay(10, warmup=20)


class TestStep:
    def test_schedule_and_clipping_in_closed_form(self):
        # gradient 3 everywhere, clipped to 0.5, by plain gradient descent
        model = Denoiser(Gain(0.0), VPSDE())
        state = train(
            model, lambda model, x0, g, cond: 3 * model.net.gain, zeros, steps=10,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.2), schedule=Warmup(4),
            grad_clip=0.5, log_every=5, **QUIET,
        )  # fmt: skip
        factors = [min(1.0, (k + 1) / 4) for k in range(10)]
        assert float(model.net.gain.detach()) == pytest.approx(-0.2 * 0.5 * sum(factors))
        assert [r.grad_norm for r in state.history] == pytest.approx([3.0, 3.0])
        assert [r.lr for r in state.history] == pytest.approx([0.2, 0.2])

    @pytest.mark.parametrize("rate", [0.2, torch.tensor(0.2)], ids=["number", "tensor"])
    def test_the_learning_rate_is_afterwards_what_it_was(self, tmp_path, rate):
        model = Denoiser(Gain(0.0), VPSDE())
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        how = {"optimizer": optimizer, "schedule": CosineDecay(5, warmup=1), **QUIET}
        for k in range(2):
            state = train(model, DSM(), zeros, steps=5, workdir=tmp_path / f"{k}", **how)
            assert state.history[-1].lr == pytest.approx(0.2 * CosineDecay(5, warmup=1)(4))
            assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.2)

    def test_the_recorded_loss_is_the_mean_since_the_last_record(self):
        def objective(model, x0, g, cond):
            return 0.0 * model.net.gain + x0[0, 0]

        def batch(step: int):
            return torch.full((4, 2), float(step)), None

        state = train(Denoiser(Gain(), VPSDE()), objective, batch, steps=10, log_every=4, **QUIET)
        assert [(r.step, r.loss) for r in state.history] == [(4, 1.5), (8, 5.5), (10, 8.5)]

    def test_cosine_decays_from_one_to_nothing(self):
        schedule = CosineDecay(100, warmup=1)
        assert schedule(0) == 1.0
        assert schedule(50) == pytest.approx(0.5)
        assert schedule(100) == schedule(200) == pytest.approx(0.0, abs=1e-15)

    def test_bfloat16_reaches_the_network_and_nothing_else(self):
        seen = []

        class Net(Gain):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(2, 2)

            def forward(self, x: Tensor, t: Tensor) -> Tensor:
                seen.append(self.linear(x).dtype)
                return self.linear(x)

        def objective(*args) -> Tensor:
            losses.append(DSM()(*args))
            return losses[-1]

        losses, model = [], Denoiser(Net(), VPSDE())
        for amp, dtype in ((True, torch.bfloat16), (False, torch.float32)):
            train(model, objective, zeros, steps=2, progress=False, amp=amp)
            assert seen[-1] == dtype
            assert losses[-1].dtype == torch.float32
            assert all(p.dtype == torch.float32 for p in model.parameters())

    def test_callbacks_see_every_step(self):
        steps = []
        run(None, 5, callbacks=[lambda state: steps.append((state.step, len(state.history)))])
        assert steps == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 2)]


class TestEMA:
    def test_recursion_with_warm_up(self):
        model = MLP()
        ema = EMA(model, decay=0.5)
        expected = None
        for n in range(20):
            with torch.no_grad():
                for p in model.parameters():
                    p.copy_(torch.randn(p.shape, generator=generator(n)))
                model.layers[1].running_mean.fill_(n)
            ema.update_parameters(model)
            decay = min(0.5, (1 + n) / (10 + n))
            now = copy.deepcopy([p.detach() for p in model.parameters()])
            expected = (
                now if n == 0
                else [decay * a + (1 - decay) * p for a, p in zip(expected, now, strict=True)]
            )  # fmt: skip
            torch.testing.assert_close([p.detach() for p in ema.module.parameters()], expected)
        assert (ema.module.layers[1].running_mean == 19).all()  # buffers are copied
        assert int(ema.n_averaged) == 20
        assert not ema.module.training
        assert not any(p.requires_grad for p in ema.module.parameters())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_would_stall_it_and_is_told(self, dtype):
        with pytest.warns(UserWarning, match="stalls.* amp=True"):
            EMA(MLP().to(dtype))
        EMA(MLP().to(dtype), decay=0.0)

    def test_samples_can_be_drawn_from_it(self):
        model = run(None, 2).ema.module
        cond = {"label": torch.zeros(3, dtype=torch.int64)}
        assert sample(model, (3, 2), steps=2, seed=0, cond=cond).isfinite().all()


class TestTensorBoard:
    def test_scalars_and_images(self, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        board = TensorBoard(tmp_path, images=lambda model: torch.rand(4, 1, 8, 8), images_every=5)
        state = run(None, 10, callbacks=[board])
        board.close()
        events = EventAccumulator(str(tmp_path)).Reload()
        losses = [(e.step, e.value) for e in events.Scalars("train/loss")]
        assert losses == [(r.step, pytest.approx(r.loss)) for r in state.history]
        assert {f"train/{name}" for name in Record._fields} <= set(events.Tags()["scalars"])
        assert [e.step for e in events.Images("samples")] == [5, 10]

    def test_missing(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(ImportError, match=r"scoresde\[tensorboard\]"):
            TensorBoard(tmp_path)

    def test_refusals(self, tmp_path):
        pytest.importorskip("tensorboard")
        with pytest.raises(ValueError, match="images_every=0"):
            TensorBoard(tmp_path, images_every=0)
