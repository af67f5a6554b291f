"""Networks: what they depend on, what they leave apart, and how they are differentiated."""

import pytest
import torch
from torch.func import grad, jvp, vjp, vmap

from scoresde.nets import ADM, MLP, DiT, RefineNet, UNet, ddpm, ddpmpp, ncsnpp
from scoresde.nets.patches import to_channels, to_points

TINY = {"width": 8, "multipliers": (1, 2), "blocks": 1, "num_classes": 3}
NCSNPP = {
    "embedding": "fourier",
    "resample": (1, 3, 3, 1),
    "progressive_input": True,
    "scale_shift": False,
    "heads": 2,
}
TINY_ADM = TINY | {"head_channels": 8, "attention": (1,)}
TINY_DIT = {"width": 24, "depth": 2, "heads": 2, "num_classes": 3}
TINY_REFINENET = {"width": 8, "multipliers": (1, 2, 2), "dilations": (2,)}
NETS = {
    "mlp": (lambda: MLP(2, hidden=16, embed=8, num_classes=3), (2,)),
    "mlp of a tuple": (lambda: MLP((3, 4), hidden=16, embed=8, num_classes=3), (3, 4)),
    "1-d": (lambda: UNet(2, dims=1, **TINY), (2, 8)),
    "2-d": (lambda: UNet(1, dims=2, **TINY), (1, 8, 4)),
    "3-d": (lambda: UNet(1, dims=3, **TINY), (1, 4, 2, 4)),
    "ncsn++": (lambda: UNet(3, **TINY, **NCSNPP), (3, 8, 8)),
    "ddpm": (
        lambda: UNet(
            1,
            dims=1,
            resblock="ddpm",
            resample=(1, 3, 3, 1),
            combine="cat",
            progressive_output="residual",
            progressive_input="input_skip",
            **TINY | {"multipliers": (1, 2, 1)},
        ),
        (1, 8),
    ),
    "skips": (
        lambda: UNet(2, **TINY, progressive_input="input_skip", progressive_output="output_skip"),
        (2, 8, 4),
    ),
    "patches": (
        lambda: UNet(2, **TINY, **NCSNPP | {"heads": 1}, patch=2, input_periods=(3.0, 6.0)),
        (2, 8, 4),
    ),
    "adm": (lambda: ADM(1, **TINY_ADM), (1, 8, 4)),
    "improved ddpm": (lambda: ADM(2, dims=1, conv_resample=True, **TINY_ADM), (2, 8)),
    "dit": (lambda: DiT((3, 8, 4), **TINY_DIT), (3, 8, 4)),
    "3-d dit": (lambda: DiT((1, 4, 2, 6), **TINY_DIT), (1, 4, 2, 6)),
}


class Unlabelled(torch.nn.Module):
    """A network without classes, handed labels all the same."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, label=None):
        return self.net(x, t)


UNLABELLED = {
    "ncsnv2": (lambda: Unlabelled(RefineNet(1, **TINY_REFINENET)), (1, 8, 4)),
    "ncsn": (
        lambda: Unlabelled(RefineNet(2, dims=1, noise_levels=2, **TINY_REFINENET)),
        (2, 64),
    ),
    "3-d ncsn": (
        lambda: Unlabelled(
            RefineNet(1, dims=3, width=4, multipliers=(1, 2), dilations=(), noise_levels=2)
        ),
        (1, 4, 2, 4),
    ),
}


# torch scripts a few formulas of its own when it first differentiates in forward mode
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


def rouse(net):
    """Move every parameter, those that start at zero too."""
    for parameter in net.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return net


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=NETS)
def told(request):
    return NETS[request.param]


@pytest.fixture(params=NETS | UNLABELLED)
def kind(request):
    return (NETS | UNLABELLED)[request.param]


def inputs(kind):
    make, shape = kind
    return rouse(make()), torch.randn(3, *shape), torch.rand(3), torch.tensor([0, 2, -1])


@pytest.fixture
def case(kind):
    return inputs(kind)


def test_output_is_zero_at_first(told):
    make, shape = told
    assert torch.equal(make()(torch.randn(3, *shape), torch.rand(3)), torch.zeros(3, *shape))


def test_output_depends_on_all_that_it_is_given(told):
    net, x, t, label = inputs(told)
    y = net(x, t, label=label)
    assert y.shape == x.shape
    for other in (net(x + 0.1, t, label), net(x, t + 0.1, label), net(x, t, (label + 2) % 3)):
        assert ((other - y).flatten(1).norm(dim=1) > 1e-3).all()


def test_no_label_is_label_minus_one(case):
    net, x, t, label = case
    null = net(x, t)
    torch.testing.assert_close(null, net(x, t, torch.full_like(label, -1)))
    torch.testing.assert_close(null[2], net(x, t, label)[2])


def test_batch_mates_do_not_meet(case):
    net, x, t, label = case
    net, x = net.double(), x.double()
    y = net(x, t, label)
    for i in range(3):
        crowd, times, labels = 10 * torch.randn_like(x[[0] * 5]), torch.rand(5), torch.full((5,), 1)
        crowd[3], times[3], labels[3] = x[i], t[i], label[i]
        torch.testing.assert_close(net(crowd, times, labels)[3], y[i])
        torch.testing.assert_close(net(x[i, None], t[i, None], label[i, None])[0], y[i])


@pytest.mark.parametrize("attention", [(), (1,)])
def test_attention_reaches_across(attention):
    net = rouse(UNet(1, dims=1, attention=attention, **TINY)).double()
    for module in net.modules():
        if isinstance(module, torch.nn.GroupNorm):  # its mean and variance reach across as well
            module.forward = lambda x, *modulation: x
    x = torch.randn(1, 1, 256, dtype=torch.float64)
    reach = grad(lambda x: net(x, torch.rand(1))[0, 0, 0])(x)[0, 0]
    assert (reach[:4] != 0).all()
    assert (reach[128:] != 0).all() == bool(attention)
    assert (reach[128:] == 0).all() != bool(attention)


def test_the_seed_fixes_the_weights(kind):
    def weights():
        torch.manual_seed(1)
        return kind[0]().state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_dropout_acts_in_training_only():
    net = rouse(UNet(1, **TINY, dropout=0.5))
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


@forward_mode
def test_derivatives(case):
    net, x, t, label = case
    net, x = net.double(), x.double()

    def f(x):
        return net(x, t, label)

    u, v = torch.randn_like(x), torch.randn_like(x)
    h = 1e-6  # small enough to miss the bends of maxima and of ELU
    forward = jvp(f, (x,), (v,))[1]
    difference = (f(x + h * v) - f(x - h * v)) / (2 * h)
    torch.testing.assert_close(forward, difference, rtol=1e-6, atol=1e-6)
    (backward,) = vjp(f, x)[1](u)
    torch.testing.assert_close((u * forward).sum(), (backward * v).sum())


@forward_mode
def test_second_derivatives_agree_in_forward_and_reverse_mode(case):
    net, x, t, label = case
    net, x = net.double(), x.double()
    slope = grad(lambda x: net(x, t, label).sin().sum())
    v = torch.randn_like(x)
    forward = jvp(slope, (x,), (v,))[1]
    reverse = grad(lambda x: (slope(x) * v).sum())(x)  # the Hessian is symmetric
    torch.testing.assert_close(forward, reverse)
    assert forward.norm() > 1e-3


def test_vmap_is_the_batch(case):
    net, x, t, label = case
    mapped = vmap(lambda x, t, label: net(x[None], t[None], label[None])[0])(x, t, label)
    torch.testing.assert_close(mapped, net(x, t, label), rtol=1e-4, atol=1e-5)


ONE_LEVEL = TINY_ADM | {"multipliers": (1,), "attention": ()}
COMPILED = {
    "mlp": NETS["mlp"],
    "ncsn++": NETS["ncsn++"],
    "adm": (lambda: ADM(1, **ONE_LEVEL), (1, 4, 4)),
    "dit": (lambda: DiT((1, 4), **TINY_DIT | {"depth": 1}), (1, 4)),
    "ncsn": (
        lambda: Unlabelled(
            RefineNet(1, dims=1, width=4, multipliers=(1,), dilations=(), noise_levels=2)
        ),
        (1, 4),
    ),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiles_to_one_graph(name):
    make, shape = COMPILED[name]
    net, x, t = rouse(make()), torch.randn(2, *shape), torch.rand(2)
    label = torch.tensor([1, -1])
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, t, label), net(x, t, label))


def test_meta_device_and_back(case, kind):
    net, x, t, label = case
    with torch.device("meta"):
        blank = kind[0]()
    assert blank(x.to("meta"), t.to("meta"), label.to("meta")).shape == x.shape
    blank.to_empty(device="cpu").load_state_dict(net.state_dict())
    assert torch.equal(blank(x, t, label), net(x, t, label))


def test_bfloat16_is_close(case):
    net, x, t, label = case
    y = net(x, t, label)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(x, t, label)
    half = net.to(torch.bfloat16)(x.bfloat16(), t, label)
    assert half.dtype == torch.bfloat16
    for z in (mixed, half):
        assert (z - y).norm() < 0.05 * y.norm()


def test_bfloat16_keeps_its_frequencies(told):
    net = told[0]()
    exact = net.conditioning.sinusoids.frequencies.clone()
    assert torch.equal(net.to(torch.bfloat16).conditioning.sinusoids.frequencies, exact)


@pytest.mark.parametrize(
    "make",
    [
        lambda: UNet(3, **TINY, **NCSNPP),
        lambda: ADM(3, conv_resample=True, **TINY_ADM),
        lambda: RefineNet(3, **TINY_REFINENET),
    ],
    ids=["ncsn++", "improved ddpm", "ncsnv2"],
)
def test_memory_format_changes_nothing(make):
    net, x, t = rouse(make()), torch.randn(2, 3, 8, 8), torch.rand(2)
    y = net(x, t)
    z = net.to(memory_format=torch.channels_last)(x, t)
    assert z.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_patches_become_channels_and_points_again(dims):
    x = torch.arange(2.0 * 3 * 4 * 8 * 6).reshape(2, 3, 4, 8, 6)[(..., *[0] * (3 - dims))]
    folded = to_channels(x, 2)
    assert folded.shape == (2, 3 * 2**dims, *(n // 2 for n in x.shape[2:]))
    assert torch.equal(folded[:, 0].flatten(1), x[:, 0, *[slice(None, None, 2)] * dims].flatten(1))
    assert torch.equal(to_points(folded, 2), x)
    if dims == 2:
        assert torch.equal(folded, torch.nn.functional.pixel_unshuffle(x, 2))


def test_input_periods_tell_grey_levels_apart_below_the_noise():
    """The stem's own answer to two inputs a quarter of a period apart."""
    net = UNet(1, **TINY, input_periods=(0.01,))
    seen = []
    net.stem.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    x = torch.zeros(2, 1, 4, 4)
    x[1] += 0.0025
    net(x, torch.rand(2))
    torch.testing.assert_close(
        seen[0][0], torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 4, 4)
    )
    expected = torch.tensor([0.0025, 1.0, 0.0])[:, None, None].expand(3, 4, 4)
    torch.testing.assert_close(seen[0][1], expected, rtol=0.0, atol=1e-6)


AT_256 = {
    "multipliers": (1, 1, 2, 2, 2, 2, 2),
    "blocks": 2,
    "attention": (4,),
    "progressive_input": "input_skip",
    "progressive_output": "output_skip",
}
AT_1024 = {"width": 16, "multipliers": (1, 2, 4, 8, 16, 32, 32, 32), "blocks": 1, "attention": (6,)}


@pytest.mark.parametrize(
    ("build", "options", "parameters"),
    [
        (ddpm, {}, 35_218_947),  # vp/ddpm/cifar10, subvp/cifar10_ddpm_continuous, ve/cifar10_ddpm
        (
            ddpm,
            {"multipliers": (1, 1, 2, 2, 4, 4), "attention": (4,)},
            111_569_923,
        ),  # vp/ddpm/church
        (ddpmpp, {}, 61_804_419),  # vp/ and subvp/cifar10_ddpmpp_continuous, vp/cifar10_ddpmpp
        (ddpmpp, {"blocks": 8}, 106_632_579),  # vp/ and subvp/cifar10_ddpmpp_deep_continuous
        (ncsnpp, {}, 62_758_787),  # ve/cifar10_ncsnpp_continuous
        (ncsnpp, {"blocks": 8}, 107_586_947),  # ve/cifar10_ncsnpp_deep_continuous
        (
            ncsnpp,
            {"embedding": "positional"},
            62_693_251,
        ),  # vp/ and subvp/cifar10_ncsnpp_continuous
        (ncsnpp, {"embedding": "positional", "blocks": 8}, 107_521_411),  # the same, deep
        (ncsnpp, AT_256, 65_574_421),  # ve/church_ncsnpp_continuous
        (ncsnpp, AT_256 | AT_1024, 105_785_880),  # ve/ffhq_ncsnpp_continuous
    ],
)
def test_sizes_of_the_published_networks(build, options, parameters):
    """As counted in the authors' code, under configs/ of github.com/yang-song/score_sde_pytorch."""
    with torch.device("meta"):
        net = build(**options)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("build", [ddpm, ddpmpp, ncsnpp])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_published_networks_in_other_dimensions(build, dims):
    net = rouse(build(2, dims=dims, width=8, multipliers=(1, 2), blocks=1, num_classes=3))
    x, label = torch.randn(2, 2, *(4,) * dims), torch.tensor([0, 2])
    y = net(x, torch.rand(2), label)
    assert y.shape == x.shape
    assert (y != net(x, torch.rand(2), label)).any()


def silence(module):
    """Let a module's answers be zero."""
    for parameter in module.parameters():
        parameter.data.zero_()


def test_levels_below_the_stem_see_a_smaller_copy():
    net = rouse(UNet(1, **TINY | {"multipliers": (1, 1, 1)}, progressive_input="input_skip"))
    silence(net.stem)
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)  # of mean 0 in each 2 x 2
    torch.testing.assert_close(net(x + board, t), net(x, t))
    assert not torch.allclose(net(x + board.repeat_interleave(2, 1)[:, :8], t), net(x, t))


SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1}
WIDENED = {
    "mlp": lambda **o: MLP((2, 8, 4), hidden=16, embed=8, **o),
    "u-net": lambda **o: UNet(2, **SMALL, **o),
    "patches": lambda **o: UNet(2, patch=2, **SMALL, **o),
    "output_skip": lambda **o: UNet(2, progressive_output="output_skip", **SMALL, **o),
    "residual": lambda **o: UNet(2, progressive_output="residual", **SMALL, **o),
    "ddpm": lambda **o: ddpm(2, **SMALL, **o),
    "ddpm++": lambda **o: ddpmpp(2, **SMALL, **o),
    "ncsn++": lambda **o: ncsnpp(2, **SMALL, **o),
    "adm": lambda **o: ADM(2, head_channels=8, attention=(1,), **SMALL, **o),
    "ncsnv2": lambda **o: RefineNet(2, **TINY_REFINENET, **o),
    "ncsn": lambda **o: RefineNet(2, noise_levels=2, **TINY_REFINENET, **o),
    "dit": lambda **o: DiT((2, 8, 4), width=24, depth=1, heads=2, **o),
}


@pytest.mark.parametrize("name", WIDENED)
def test_outputs_beyond_the_channels_leave_those_as_they_were(name):
    make = WIDENED[name]
    plain, net = rouse(make()).eval(), make(outputs=5).eval()
    state = net.state_dict()
    for name, value in plain.state_dict().items():
        state[name][: len(value)] = value  # what is wider is so in its first axis
    net.load_state_dict(state)
    x, t = torch.randn(3, 2, 8, 4), torch.rand(3)
    assert net(x, t).shape == (3, 5, 8, 4)
    torch.testing.assert_close(net(x, t)[:, :2], plain(x, t))
    with pytest.raises(ValueError, match="outputs=0"):
        make(outputs=0)


@pytest.mark.parametrize("name", WIDENED)
def test_as_many_outputs_as_channels_are_the_default(name):
    with torch.device("meta"):
        plain, same = WIDENED[name](), WIDENED[name](outputs=2)
    assert [p.shape for p in plain.parameters()] == [p.shape for p in same.parameters()]


@pytest.mark.parametrize("level", [1, 2])
def test_levels_give_their_share_of_the_output(level):
    net = UNet(1, **TINY | {"multipliers": (1, 1, 1)}, progressive_output="output_skip")
    rouse(net.outputs[2 - level])  # the deepest first; the others' shares and the head are zero
    y = net(torch.randn(2, 1, 16, 16), torch.rand(2))
    side = 2**level
    squares = y.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    torch.testing.assert_close(squares, squares[:, :, :, :1, :, :1].expand_as(squares))
    assert squares[:, :, :, 0, :, 0].std() > 1e-3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UNet(1, dims=4), "dims=4"),
        (lambda: UNet(0), "channels=0"),
        (lambda: UNet(1, width=31), "width=31.*even"),
        (lambda: UNet(1, multipliers=()), "multiplier given for each level"),
        (lambda: UNet(1, heads=0), "heads=0"),
        (lambda: UNet(1, width=10, heads=3), "heads=3 must divide"),
        (lambda: UNet(1, attention=(3,)), r"attention=\(3,\).*0 to 2"),
        (lambda: UNet(1, embedding="learned"), "embedding='learned'"),
        (lambda: UNet(1, resample=(1, 2, 1)), r"resample=\(1, 2, 1\).*even number"),
        (lambda: UNet(1, resample=(1.0, float("inf"))), r"resample=\(1.0, inf\).*finite sum"),
        (
            lambda: UNet(1, time_scale=float("nan")),
            "time_scale=nan must be finite, and positive, or 0",
        ),
        (lambda: ADM(1, time_scale=-0.5), "time_scale=-0.5"),
        (lambda: DiT((1, 4), time_scale=-1.0), "time_scale=-1.0"),
        (lambda: MLP(2, time_scale=float("inf")), "time_scale=inf"),
        (lambda: UNet(1, num_classes=0), "num_classes=0"),
        (lambda: UNet(1, resblock="resnet"), "resblock='resnet'.*'biggan' or 'ddpm'"),
        (lambda: UNet(1, progressive_input="skip"), "progressive_input='skip'.*'input_skip'"),
        (lambda: UNet(1, progressive_output="skip"), "progressive_output='skip'.*'output_skip'"),
        (lambda: UNet(1, combine="mean"), "combine='mean' must be 'sum' or 'cat'"),
        (lambda: UNet(1, patch=0), "patch=0"),
        (lambda: UNet(1, input_periods=(0.0,)), r"input_periods=\(0.0,\)"),
        (lambda: MLP(0), "shape=0"),
        (lambda: MLP(()), r"shape=\(\)"),
        (lambda: DiT(()), r"shape=\(\).*1 to 3 spatial dimensions"),
        (lambda: MLP(2, embed=5), "embed=5"),
    ],
)
def test_arguments_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_time_scale_of_0_ignores_t():
    nets = (UNet(1, width=8, time_scale=0.0), MLP((1, 8, 8), hidden=8, time_scale=0.0))
    x = torch.randn(2, 1, 8, 8)
    for net in map(rouse, nets):
        found = net(x, torch.zeros(2))
        torch.testing.assert_close(net(x, torch.tensor([0.3, 40.0])), found, rtol=0.0, atol=0.0)


X, T = torch.zeros(2, 1, 4, 4), torch.zeros(2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X[:, 0], T), "x: shape .* 2 spatial dimensions"),
        ((X.expand(2, 3, 4, 4), T), r"x: shape \(2, 3, 4, 4\) is not \(B, 1, \*\)"),
        ((X[..., :3], T), r"x: size \(4, 3\) must be divisible by 2.*fewer multipliers"),
        ((X[..., :0], T), r"x: size \(4, 0\) must be divisible by 2 and not 0"),
        ((X.byte(), T), r"x: torch.uint8 must be floating point"),
        ((X, T[:1]), "t: shape"),
        ((X, T[0]), "t: shape"),
        ((X, T.bfloat16()), "t: .*float32 or float64"),
        ((X, T, torch.tensor([0])), "label: shape"),
        ((X, T, torch.tensor([0.0, 1.0])), "label: .*int64"),
        ((X, T, torch.tensor([0, 3])), r"label: .*\[0, 3\)"),
        ((X, T, torch.tensor([0, -2])), r"label: .*\[0, 3\)"),
    ],
)
def test_inputs_that_do_not_fit(args, message):
    with pytest.raises(ValueError, match=message):
        UNet(1, **TINY)(*args)


def test_mlp_refuses_other_inputs():
    with pytest.raises(ValueError, match=r"x: shape \(2, 3\) is not \(B, 2\)"):
        MLP(2)(torch.zeros(2, 3), T)
    with pytest.raises(ValueError, match="num_classes=K"):
        MLP(2)(torch.zeros(2, 2), T, torch.tensor([0, 1]))


def test_an_empty_batch_stays_empty(kind):
    make, shape = kind
    assert make()(torch.zeros(0, *shape), torch.zeros(0)).shape == (0, *shape)
