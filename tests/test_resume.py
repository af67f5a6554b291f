"""Runs that are stopped, killed and resumed end as if they had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from training_helpers import MLP, QUIET, Gain, assert_same, labelled, mlp, run, zeros

from scoresde import VPSDE, Denoiser, SubVPSDE
from scoresde.training import (
    DSM,
    CosineDecay,
    Preempted,
    Record,
    TrainState,
    Warmup,
    latest,
    likelihood,
    load_model,
    train,
)


class TestResume:
    def test_bit_for_bit(self, tmp_path):
        whole = run(tmp_path / "whole", 40)
        run(tmp_path / "parts", 20)
        parts = run(tmp_path / "parts", 40)
        assert_same(whole, parts)
        assert [r[:4] for r in whole.history] == [r[:4] for r in parts.history]
        assert [r.step for r in parts.history] == list(range(4, 41, 4))
        logged = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
        assert [Record(**json.loads(line)) for line in logged] == parts.history

    def test_without_a_folder_is_the_same_run(self, tmp_path):
        assert_same(run(None, 15), run(tmp_path, 15))

    def test_steps_after_the_checkpoint_are_taken_again(self, tmp_path):
        class Crash(Exception):
            pass

        def crash(state: TrainState):
            if state.step == 17:
                raise Crash

        with pytest.raises(Crash):
            run(tmp_path, 40, callbacks=[crash])
        with open(tmp_path / "log.jsonl", "a") as log:
            log.write('{"step": 18, "lo')  # as a kill leaves it
        (tmp_path / ".tmp-1-ab").mkdir()
        assert latest(tmp_path).name == "step-000000010"
        resumed = run(tmp_path, 24)
        assert [r.step for r in resumed.history] == [4, 8, 12, 16, 20, 24]
        assert_same(resumed, run(None, 24))
        assert not list(tmp_path.glob(".tmp*"))

    def test_a_finished_run_is_read_back(self, tmp_path):
        done = run(tmp_path, 12)
        again = run(tmp_path, 12)
        assert_same(done, again)
        assert done.history == again.history
        with pytest.raises(ValueError, match=r"steps=11: .*has taken 12 already"):
            run(tmp_path, 11)

    def test_other_settings_are_refused_by_name(self, tmp_path):
        run(tmp_path, 4)
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        for options, told in (
            ({"seed": 1}, "config.seed: expected 1, found 0"),
            ({"ema_decay": 0.5}, "config.ema_decay: expected 0.5, found 0.9"),
            ({"schedule": Warmup(5)}, r"config.schedule: expected 'Warmup\(steps=5\)', found 'Cos"),
            ({"config": {"width": 32}}, "config.config.width: expected 32, found 16"),
            ({"optimizer": torch.optim.Adam(mlp().parameters())}, "config.optimizer.name: .*AdamW"),
        ):
            with pytest.raises(ValueError, match=told):
                run(tmp_path, 8, **options)
        other = Denoiser(MLP(), SubVPSDE())
        with pytest.raises(ValueError, match=r"model.sde: expected 'SubVPSDE\("):
            train(other, DSM(), labelled, steps=8, workdir=tmp_path, **QUIET)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before

    def test_functions_without_a_name_are_told_when_they_count(self, tmp_path):
        model = Denoiser(Gain(), VPSDE())
        options = {"schedule": lambda step: 1.0, "workdir": tmp_path, **QUIET}
        train(model, DSM(), zeros, steps=1, **options)
        with pytest.warns(RuntimeWarning, match=r"schedule='<function .*<lambda>>' has no name"):
            train(model, DSM(), zeros, steps=2, **options)

    def test_begin_is_called_once_no_other_run_is_there(self, tmp_path):
        seen = []
        run(tmp_path, 4, begin=lambda state: seen.append(state.step))
        run(tmp_path, 8, begin=lambda state: seen.append(state.step))
        with pytest.raises(ValueError, match="of another run"):
            run(tmp_path, 12, seed=1, begin=lambda state: seen.append(state.step))
        assert seen == [0, 4]

    def test_objectives_are_known_by_name_in_every_process(self, tmp_path):
        model = Denoiser(Gain(), VPSDE())
        train(model, DSM(likelihood), zeros, steps=1, workdir=tmp_path, **QUIET)
        state = json.loads((tmp_path / "step-000000001" / "state.json").read_text())
        told = state["config"]["objective"]
        assert "<function likelihood>" in told
        assert " at 0x" not in told

    def test_seeds_differ_and_the_global_generator_is_left_alone(self):
        before = torch.random.get_rng_state()
        first = run(None, 3)
        torch.manual_seed(5)
        again = run(None, 3)
        assert_same(first, again)
        torch.random.set_rng_state(before)
        other = run(None, 3, seed=1)
        assert torch.equal(before, torch.random.get_rng_state())
        assert not torch.equal(first.model.net.layers[0].weight, other.model.net.layers[0].weight)


class TestStopping:
    @pytest.mark.parametrize(
        ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
    )
    def test_mid_step_then_resumed(self, tmp_path, signum, status):
        former = signal.getsignal(signum)

        def batch(step: int):
            if step == 12:
                os.kill(os.getpid(), signum)
            return labelled(step)

        model = mlp()
        options = {
            "optimizer": torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
            "schedule": CosineDecay(60, warmup=5), "ema_decay": 0.9, "log_every": 4,
            "config": {"width": 16}, "workdir": tmp_path, **QUIET,
        }  # fmt: skip
        with pytest.raises(Preempted) as stopped:
            train(model, DSM(label_dropout=0.2), batch, steps=40, **options)
        assert stopped.value.code == status
        assert stopped.value.checkpoint == latest(tmp_path) == tmp_path / "step-000000013"
        assert signal.getsignal(signum) == former
        assert_same(run(tmp_path, 40), run(None, 40))

    def test_a_long_callback_is_cut_short(self, tmp_path):
        def slow(state: TrainState):
            if state.step == 3:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
                time.sleep(30)

        start = time.monotonic()
        with pytest.raises(Preempted) as stopped:
            run(tmp_path, 40, callbacks=[slow])
        assert time.monotonic() - start < 5
        assert stopped.value.code == 128 + signal.SIGUSR1
        assert latest(tmp_path).name == "step-000000003"

    def test_a_second_signal_finds_the_former_handler(self, tmp_path):
        class Former(Exception):
            pass

        def former(signum, frame):
            raise Former

        def batch(step: int):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            return zeros(step)

        old = signal.signal(signal.SIGTERM, former)
        try:
            with pytest.raises(Former):
                train(Denoiser(Gain(), VPSDE()), DSM(), batch, steps=5, workdir=tmp_path, **QUIET)
        finally:
            signal.signal(signal.SIGTERM, old)

    def test_works_in_a_thread(self, tmp_path):
        states = []
        thread = threading.Thread(target=lambda: states.append(run(tmp_path, 4)))
        thread.start()
        thread.join()
        assert_same(states[0], run(None, 4))

    @pytest.mark.slow
    def test_a_process_saves_and_exits_with_143(self, tmp_path):
        script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from training_helpers import *
train(mlp(), DSM(), labelled, steps=10**9, workdir={str(tmp_path)!r}, **QUIET,
      callbacks=[lambda state: print(state.step, flush=True)])
"""
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            said = process.stdout.read().split()
        assert process.returncode == 143
        step = load_model(tmp_path, mlp())
        assert step >= max(map(int, said), default=1)
