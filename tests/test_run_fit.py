"""A network that cannot take the data of a configuration is refused before training."""

from __future__ import annotations

import gzip
import re
import struct

import numpy as np
import pytest

from scoresde import config, run
from scoresde.nets import MLP

UNET = "UNet(width=8, multipliers=(1, 2), attention=())"


def write_idx(folder, size=8, classes=4, n=24):
    """Write a folder in the format of MNIST, of n images (size, size) of some classes."""
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (n, size, size), dtype=np.uint8)
    labels = np.arange(n, dtype=np.uint8) % classes
    for part in ("train", "t10k"):
        for name, values in (("images", images), ("labels", labels)):
            header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            path = folder / f"{part}-{name}-idx{values.ndim}-ubyte.gz"
            path.write_bytes(gzip.compress(header + values.tobytes()))
    return f"idx({str(folder)!r})"


@pytest.fixture
def settings(tmp_path):
    chosen = config.defaults()
    chosen.data = write_idx(tmp_path / "idx")
    chosen.train.steps, chosen.train.batch_size, chosen.optim.warmup = 1, 4, 1
    return chosen


@pytest.mark.parametrize(
    ("net", "size", "message"),
    [
        (UNET, 7, r"samples of shape \(1, 7, 7\) of 4 classes: .* divisible by 2 .*; pad x or"),
        (UNET[:-1] + ", patch=2)", 6, r"divisible by 4 .*for patches .*fewer multipliers"),
        ("ddpm(width=8)", 12, r"divisible by 8 .*; pad x or build the network with fewer"),
        ("ADM(width=8, multipliers=(1, 2), attention=(), head_channels=8)", 7, "divisible by 2"),
        (UNET[:-1] + ", channels=3)", 8, r"\(1, 8, 8\) .*: .* is not \(B, 3, \*\)"),
        (UNET[:-1] + ", dims=1)", 8, "with 1 spatial dimensions"),
        (UNET[:-1] + ", num_classes=3)", 8, "of 4 classes: it knows 3; leave num_classes to the"),
        (UNET[:-1] + ", num_classes=None)", 8, "this network has no classes; build it with num"),
        ("MLP(shape=(1, 9, 9))", 8, r"is not \(B, 1, 9, 9\)"),
        ("RefineNet(width=8)", 8, "a RefineNet has no classes; leave it out"),
    ],
)
def test_a_network_that_does_not_take_the_data_is_refused_by_its_key(
    settings, tmp_path, net, size, message
):
    settings.data, settings.net = write_idx(tmp_path / "idx", size), net
    named = rf"^config\.net='{re.escape(net)}' does not take "
    with pytest.raises(ValueError, match=f"{named}.*{message}"):
        run.build_run(settings)


def test_what_the_network_itself_refuses_has_the_key_too(settings, tmp_path):
    settings.data = write_idx(tmp_path / "idx", size=7)
    settings.net = "DiT(patch=2, width=16, depth=1, heads=2)"
    with pytest.raises(ValueError, match=r"^config\.net: patch=2 must divide .*another patch"):
        run.build_run(settings)


def test_more_classes_than_the_data_have_are_taken(settings):
    settings.net = "MLP(hidden=8, depth=1, num_classes=9)"
    built = run.build_run(settings).model.net
    assert isinstance(built, MLP)
    assert built.conditioning.num_classes == 9


def test_classes_are_told_where_there_are_some(settings, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(20 * 64, dtype=np.uint8).reshape(20, 1, 8, 8))
    settings.data = f"npy({str(tmp_path / 'x.npy')!r}, levels=256)"
    with pytest.raises(ValueError, match=r"^config\.conditional=True, .*x\.npy.* set it to False"):
        run.build_run(settings)
    settings.conditional = False
    for name in ("DSM", "VLB", "Hybrid"):
        settings.objective = f"{name}(label_dropout=0.1)"
        if name != "DSM":
            settings.sde, settings.predicts = "LinearBetas(n=10)", "eps"
            settings.time_input = "feed_index"
        with pytest.raises(ValueError, match=rf"^config\.objective='{name}.*leave label_dropout"):
            run.train_run(settings, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_data_without_spread_are_refused(settings, tmp_path):
    np.savez(
        tmp_path / "x.npz", train=np.full((20, 4), 7, np.uint8), train_labels=np.zeros(20, int)
    )
    settings.data = f"npz({str(tmp_path / 'x.npz')!r}, levels=256)"
    with pytest.raises(
        ValueError, match=r"^config\.data=.*x\.npz.* deviation of 0\.0: give samples"
    ):
        run.build_run(settings)
    settings.data_std = 0.5
    assert run.build_run(settings).model.data_std == 0.5
