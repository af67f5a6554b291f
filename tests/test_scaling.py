"""What networks cost: the counters against closed forms, the formulas, and the committed tables."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.scaling import formulas
from benchmarks.scaling.counting import Count, Kept, count, parameters
from benchmarks.scaling.formulas import A100, H100
from benchmarks.scaling.page import SOLVERS, as_json, from_json, page
from benchmarks.scaling.stated import MULTIPLY_ADDS, PARAMETERS, SPEEDS
from benchmarks.scaling.systems import SYSTEMS
from scoresde.nets import UNet, ddpm
from scoresde.nets.layers import Attention, Resample

ROOT = Path(__file__).parents[1]
FILES = ROOT / "benchmarks" / "scaling"
COUNTS = from_json((FILES / "counts.json").read_text())


class Told(nn.Module):
    """A network that leaves the time alone."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x, t):
        return self.layers(x)


def test_a_linear_layer_is_two_operations_a_weight():
    found = count(lambda: Told(nn.Linear(7, 5)), (7,))
    # the gradient by the weights costs as much; none is asked by x
    assert found == Count(7 * 5 + 5, forward=2 * 7 * 5, backward=2 * 7 * 5, activations=4 * 7)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 6), (1, 1, 6), (2, 2, 3)])
def test_a_convolution_is_two_operations_a_weight_and_point(kernel, stride, size):
    padding = kernel // 2 if stride == 1 else 0
    found = count(lambda: Told(nn.Conv2d(3, 4, kernel, stride, padding)), (3, 6, 6))
    assert found.forward == found.backward == 2 * (3 * 4 * kernel**2) * size**2
    assert found.activations == 4 * 3 * 6 * 6


def test_gradients_by_what_is_between_layers_cost_as_much_again():
    found = count(lambda: Told(nn.Linear(7, 5), nn.SiLU(), nn.Linear(5, 3)), (7,))
    first, second = 2 * 7 * 5, 2 * 5 * 3
    assert (found.forward, found.backward) == (first + second, first + 2 * second)
    assert found.training == 2 * first + 3 * second


@pytest.mark.parametrize("up", [False, True])
def test_filters_are_counted_channel_by_channel(up):
    def build():
        return Told(nn.Conv2d(3, 4, 1), Resample(2, (1.0, 3.0, 3.0, 1.0), up=up))

    found = count(build, (3, 8, 8))
    # each tap meets a point once: of the input going up, of the output going down
    fir = 2 * 4 * 4**2 * (8 * 8 if up else 4 * 4)
    assert found.forward == 2 * 3 * 4 * 8 * 8 + fir


def test_activations_of_two_layers_are_their_inputs_and_that_of_the_bend():
    found = count(lambda: Told(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 2)), (3,))
    assert found.activations == 4 * (3 + 5 + 5)


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x, t):
        h = self.layer(x)
        return h[:, :2] * h[:, 2:] + h[:, :2]


def test_activations_that_share_memory_count_once():
    assert count(Squared, (3,)).activations == 4 * (3 + 4)


def test_counts_of_a_small_unet_by_hand():
    w, size = 8, 4

    def build():
        return UNet(1, width=w, multipliers=(1,), blocks=1, attention=(0,), scale_shift=False)

    found = count(build, (1, size, size))
    points = size**2
    # features of t, two layers, and a shift for each of the 5 blocks
    told = w * 4 * w + (4 * w) ** 2 + 4 * w * 5 * w
    # stem and head; 10 convolutions, of which the first of both going up see a skip beside
    convolutions = 9 * (w + w + (10 + 2) * w * w)
    # those skips are brought back to w channels by a 1 x 1 convolution
    skips = 2 * 2 * w * w
    # after the block going down, the middle's first, and the last going up: q, k, v and out, then
    # scores and the mean of the values
    attention = 3 * (4 * w * w + 2 * points * w)
    assert found.forward == 2 * (told + points * (convolutions + skips + attention))
    # all is differentiated twice, but for the first layers, whose input asks for no gradient
    first = w * 4 * w + points * 9 * w
    assert found.backward == 2 * found.forward - 2 * first


def small():
    return UNet(1, width=8, multipliers=(1,), blocks=1, attention=(0,))


def test_the_processor_keeps_as_many_bytes():
    net = small()
    kept = Kept(net)
    with kept.hooks():
        y = net(torch.ones(1, 1, 4, 4), torch.ones(1))
    assert y.requires_grad
    assert kept.bytes() == count(small, (1, 4, 4)).activations


def test_an_image_costs_the_same_in_a_batch():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, x, t):
            return self.net(x[0], t.expand(2))

    one, two = count(small, (1, 4, 4)), count(Pair, (2, 1, 4, 4))
    assert (two.forward, two.backward) == (2 * one.forward, 2 * one.backward)


SMALL = Count(parameters=10**9, forward=10**12, backward=2 * 10**12, activations=10**9)


def test_state_is_twenty_bytes_a_parameter():
    net = nn.Linear(30, 40)
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 30)).sum().backward()
    optimiser.step()
    held = [t for p in net.parameters() for t in (p, p.grad, p)]  # the last its average
    held += [m for s in optimiser.state.values() for k, m in s.items() if k.startswith("exp_avg")]
    expected = formulas.state_bytes(SMALL._replace(parameters=parameters(net)))
    assert sum(t.nbytes for t in held) == expected


def test_largest_batch_fills_what_the_state_leaves():
    assert formulas.largest_batch(SMALL, A100) == 60  # (80 - 20) / 1
    assert formulas.largest_batch(SMALL._replace(activations=7 * 10**9), A100) == 8
    assert formulas.largest_batch(SMALL._replace(parameters=5 * 10**9), A100) == 0


def test_hours_are_operations_over_the_used_peak():
    hours = formulas.training_hours(SMALL, 10**6, A100)
    assert hours == pytest.approx(3e18 / (0.35 * 312e12) / 3600)
    assert formulas.training_hours(SMALL, 10**6, H100) == pytest.approx(hours * 312 / 989)
    sampled = formulas.sampling_hours(SMALL, 10**6, 30, A100)
    assert sampled == pytest.approx(10 * hours)


def test_utilisation_is_what_seconds_assume():
    for share in (0.1, 1.0):
        rate = 4 / formulas.seconds(SMALL.forward, A100, share)
        assert formulas.utilisation(SMALL.forward, rate, A100, 4) == pytest.approx(share)
    for share in (0.0, 1.01, -0.5, math.nan):
        with pytest.raises(ValueError, match=r"utilisation=.*share of the peak"):
            formulas.seconds(1.0, A100, share)


@pytest.mark.parametrize("name", SYSTEMS)
def test_committed_parameters_are_those_of_the_networks(name):
    with torch.device("meta"):
        assert parameters(SYSTEMS[name].build()) == COUNTS[name].parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_committed_counts_are_those_of_the_networks(name):
    assert SYSTEMS[name].count() == COUNTS[name]


def test_committed_tables_follow_from_the_counts():
    assert list(COUNTS) == list(SYSTEMS)
    assert (FILES / "tables.md").read_text() == page(COUNTS)
    assert (FILES / "counts.json").read_text() == as_json(COUNTS)


def test_counts_are_those_that_papers_state():
    for name, stated in MULTIPLY_ADDS.items():
        assert COUNTS[name].forward / 2e9 == pytest.approx(stated, rel=2e-3)
    for name, stated in PARAMETERS.items():
        assert COUNTS[name].parameters / 1e6 == pytest.approx(stated, rel=0.025)
    # Dhariwal and Nichol 2021: 17.9 images a second at all of a V100's 120 TFLOP/s, a step being
    # three calls
    assert 120e12 / (3 * COUNTS["ADM 256"].forward) == pytest.approx(17.9, abs=0.05)


def test_ho_et_al_have_two_attentions_more():
    """As counted in their released weights, 35,746,307."""
    with torch.device("meta"):
        net, more = ddpm(), Attention(2, 256, 1, rescale=False)
    assert parameters(net) + 2 * parameters(more) == 35_746_307


def test_training_and_sampling_are_those_of_the_configurations():
    assert SYSTEMS["DDPM++"].images == SYSTEMS["NCSN++"].images == 1_300_000 * 128
    assert SYSTEMS["EDM"].images == 200_000_000
    calls = {where: solver.nfe(steps, denoise=True) for solver, steps, where in SOLVERS}
    assert (calls["DDPM++"], calls["NCSN++"], calls["EDM on CIFAR-10"]) == (1000, 2000, 35)


def test_speeds_name_a_system_and_what_ran_it():
    for speed in SPEEDS:
        flops = speed.flops(COUNTS[speed.system])
        expected = (3, speed.calls)[speed.calls > 0] * COUNTS[speed.system].forward
        assert flops == pytest.approx(expected, rel=1e-3)
        assert speed.rate > 0.0
        assert speed.devices > 0


def test_the_page_has_the_tables():
    assert '--8<-- "benchmarks/scaling/tables.md"' in (ROOT / "docs" / "scaling.md").read_text()
