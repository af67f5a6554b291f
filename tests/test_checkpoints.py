"""Checkpoints: what comes back, what is refused, and damage and malice."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pickle import UnpicklingError

import pytest
import torch
from torch import nn
from training_helpers import CONFIG, Net, Run, assert_equal, contents

from scoresde import EDMSDE, VPSDE, Denoiser, GaussianSDE, atomic
from scoresde.training import (
    EMA,
    CorruptCheckpoint,
    checkpoint,
    latest,
    load,
    load_model,
    save,
)


def test_all_state_comes_back_and_goes_on_alike(tmp_path):
    run, resumed = Run(steps=3), Run()
    path = run.save(tmp_path, 3)
    assert path == latest(tmp_path)
    assert resumed.load(path) == 3
    assert_equal(run, resumed)
    run.step(), resumed.step()
    assert_equal(run, resumed)


def test_the_newest_are_kept(tmp_path):
    run = Run(1)
    for step in range(1, 6):
        run.save(tmp_path, step, keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-00000000{k}" for k in (3, 4, 5)]
    with pytest.raises(ValueError, match="keep=1"):
        run.save(tmp_path, 6, keep=1)
    with pytest.raises(FileExistsError, match="step-000000005"):
        run.save(tmp_path, 5)


def test_damaged_ones_do_not_count(tmp_path):
    run = Run(1)
    for step in (1, 2, 3):
        run.save(tmp_path, step, keep=2)
    (tmp_path / "step-000000003" / "optim.pt").write_bytes(b"#")
    run.save(tmp_path, 4, keep=2)
    assert sorted(int(p.name[-1]) for p in tmp_path.iterdir()) == [2, 3, 4]
    run.save(tmp_path, 5, keep=2)
    assert sorted(int(p.name[-1]) for p in tmp_path.iterdir()) == [4, 5]


def test_tied_weights(tmp_path):
    def tied() -> Denoiser:
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        net[1].weight = net[0].weight
        return Denoiser(net, VPSDE())

    model, other = tied(), tied()
    save(tmp_path, 1, model, EMA(model), torch.optim.SGD(model.parameters(), lr=0.1))
    load_model(tmp_path, other)
    assert torch.equal(model.net[1].weight, other.net[1].weight)
    assert other.net[0].weight is other.net[1].weight


class TestLoadModel:
    def test_average_or_last_from_a_checkpoint_or_a_run(self, tmp_path):
        run = Run(4)
        path = run.save(tmp_path, 4)
        for source in (path, tmp_path):
            for ema, expected in ((True, run.ema.module), (False, run.model)):
                other = Run(1)
                assert load_model(source, other.model, ema=ema) == 4
                torch.testing.assert_close(
                    other.model.state_dict(), expected.state_dict(), rtol=0, atol=0
                )

    def test_refuses_another_process_or_parameterisation(self, tmp_path):
        Run(1).save(tmp_path, 1)
        with pytest.raises(ValueError, match=r"model.sde: expected 'EDMSDE.*found 'VPSDE\(.*20.0"):
            load_model(tmp_path, Denoiser(Net(), EDMSDE()))
        with pytest.raises(ValueError, match=r"model.sde: .*beta_max=19"):
            load_model(tmp_path, Denoiser(Net(), replace(VPSDE(), beta_max=19.0)))
        with pytest.raises(ValueError, match=r"model.predicts: expected 'v', found 'eps'"):
            load_model(tmp_path, Denoiser(Net(), VPSDE(), "v"))

    def test_refuses_functions_of_another_content_by_the_same_name(self, tmp_path):
        def process(rate: float) -> GaussianSDE:
            return GaussianSDE(lambda t: torch.cos(rate * t), lambda t: torch.sin(rate * t))

        def model(rate: float = 1.5, scale: float = 1.0) -> Denoiser:
            return Denoiser(Net(), process(rate), time_input=lambda level: scale * level.t)

        one = model()
        save(tmp_path, 1, one, EMA(one), torch.optim.SGD(one.parameters(), lr=0.1))
        assert load_model(tmp_path, model()) == 1
        with pytest.raises(ValueError, match=r"model.alpha: .*\n  model.sigma: "):
            load_model(tmp_path, model(rate=1.4))
        with pytest.raises(ValueError, match=r"run:\n  model.fed: "):
            load_model(tmp_path, model(scale=999.0))

    def test_takes_what_another_processor_rounds_otherwise(self, tmp_path):
        def model(std: float) -> Denoiser:
            return Denoiser(Net(), VPSDE(), data_std=std)

        one = model(0.7078369169084159)
        save(tmp_path, 1, one, EMA(one), torch.optim.SGD(one.parameters(), lr=0.1))
        assert load_model(tmp_path, model(0.7078369169086598)) == 1
        with pytest.raises(ValueError, match=r"run:\n  model.data_std: expected 0.70784, found"):
            load_model(tmp_path, model(0.70784))

    def test_nothing_there(self, tmp_path):
        assert latest(tmp_path) is None
        assert latest(tmp_path / "absent") is None
        with pytest.raises(FileNotFoundError, match="absent"):
            load_model(tmp_path / "absent", Run().model)


class TestMismatch:
    def test_config_shows_what_differs_and_changes_nothing(self, tmp_path):
        path = Run(2).save(tmp_path, 2)
        before, other, fresh = contents(tmp_path), Run(), Run()
        config = {"seed": 1, "net": {"width": 2, "betas": (0.9, 0.999)}, "extra": True}
        with pytest.raises(ValueError, match="of another run") as raised:
            other.load(path, config)
        told = str(raised.value)
        assert "config.seed: expected 1, found 0" in told
        assert "config.net.betas: expected [0.9, 0.999], found [0.9, 0.99]" in told
        assert "config.extra: expected True, found None" in told
        assert "width" not in told
        assert contents(tmp_path) == before
        assert_equal(other, fresh)

    def test_parameters_by_name_and_changes_nothing(self, tmp_path):
        path = Run(2).save(tmp_path, 2)
        for net, message in (
            (nn.Linear(2, 2), r"missing: net.bias, net.weight; unexpected: net.count, net.linear"),
            (Net(width=3), r"of another shape or dtype: net.linear.bias, net.linear.weight"),
            (Net().double(), r"of another shape or dtype: net.linear.bias"),
        ):
            model = Denoiser(net, VPSDE())
            before = {k: v.clone() for k, v in model.state_dict().items()}
            with pytest.raises(ValueError, match=message):
                load_model(path, model)
            ema, optimizer = EMA(model), torch.optim.Adam(model.parameters())
            with pytest.raises(ValueError, match=message):
                load(path, model, ema, optimizer, CONFIG)
            torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
            assert not optimizer.state


class TestDamage:
    def test_bit_flips_and_truncations_are_all_found(self, tmp_path):
        path = Run(2).save(tmp_path, 2)
        files, rng = sorted(path.iterdir()), random.Random(0)
        assert len(files) == 5
        for trial in range(250):
            file = files[trial % 5]
            sound = file.read_bytes()
            damaged = bytearray(sound)
            if trial < 200:
                damaged[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
            else:
                del damaged[rng.randrange(len(sound)) :]
            file.write_bytes(damaged)
            with pytest.raises(CorruptCheckpoint):
                load_model(path, Run().model)
            file.write_bytes(sound)
        assert load_model(path, Run().model) == 2

    @pytest.mark.parametrize("name", [*checkpoint.FILES, "MANIFEST.json"])
    def test_the_file_is_named_and_the_one_before_is_used(self, tmp_path, name):
        run = Run(1)
        old, new = run.save(tmp_path, 1), run.save(tmp_path, 2)
        with open(new / name, "r+b") as file:
            file.write(b"#")
        with pytest.warns(RuntimeWarning, match=f"step-000000002/{name}: differs"):
            assert latest(tmp_path) == old
        with pytest.raises(CorruptCheckpoint, match=name):
            run.load(new)
        (new / name).unlink()
        with pytest.warns(RuntimeWarning, match=f"No such file.*step-000000002/{name}"):
            assert latest(tmp_path) == old
        run.save(tmp_path, 2)  # takes the place of the damaged one
        assert latest(tmp_path) == new

    def test_none_intact(self, tmp_path):
        path = Run(1).save(tmp_path, 1)
        (path / "optim.pt").unlink()
        with (
            pytest.warns(RuntimeWarning, match=r"optim\.pt"),
            pytest.raises(CorruptCheckpoint, match="none of its 1"),
        ):
            latest(tmp_path)

    def test_a_pickle_that_runs_code_does_not_run(self, tmp_path):
        class Malice:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "canary"),)

        path = Run(2).save(tmp_path, 2)
        files = {name: (path / name).read_bytes() for name in checkpoint.FILES}
        torch.save({"state": Malice(), "param_groups": []}, path / "optim.pt")
        files["optim.pt"] = (path / "optim.pt").read_bytes()
        atomic.write(tmp_path / "step-000000003", files)  # with a manifest that is right
        run, fresh = Run(), Run()
        with pytest.raises(UnpicklingError):
            run.load(tmp_path / "step-000000003")
        assert not (tmp_path / "canary").exists()
        assert_equal(run, fresh)
