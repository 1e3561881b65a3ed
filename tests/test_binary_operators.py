"""The seven operators: BiBench's formulas, what is equal, what normalizations absorb, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import kernels
from compactnets.binary import BNN, XNOR, BiReal, DoReFa, ReAct, ReBNN, ReCU, XNORPlusPlus
from compactnets.binary.convert import binary_layers
from compactnets.binary.deploy import Rescaled
from compactnets.binary.recu import ClampedScale, quantile, standardized, tau_at
from compactnets.binary.ste import hard_sign
from compactnets.binary.xnor_pp import SpatialScale
from compactnets.method import Method
from train_toys import one_thread, same_state, toy_images, toy_net, train_toy  # noqa: F401

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=15)

METHODS = [BNN(), XNOR(), DoReFa(), BiReal(), XNORPlusPlus(), ReAct(), ReCU()]
ALL = pytest.mark.parametrize("method", METHODS, ids=repr)
SCALED = {"XNOR", "DoReFa", "BiReal", "ReAct"}  # by the mean magnitude of the filter


def name_of(method):
    return type(method).__name__


def draw(seed, *shape, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64)


def layer_of(method, kind="conv", size=(4, 4)):
    """A layer in float64 whose learned parts have any values, 3 inputs, 5 outputs."""
    torch.manual_seed(3)
    real = nn.Conv2d(3, 5, 3, padding=1, bias=False) if kind == "conv" else nn.Linear(3, 5)
    real = real.double()
    if isinstance(method, XNORPlusPlus):
        layer = method.layer(real, size if kind == "conv" else ())
        nn.init.normal_(layer.rescale.outputs)
        for side in layer.rescale.sides:
            nn.init.normal_(side)
    else:
        layer = method.layer(real)
    with torch.no_grad():
        layer.weight.copy_(draw(7, *layer.weight.shape, spread=0.8))  # on both sides of the window
        if layer.shift is not None:
            layer.shift.copy_(draw(8, 3, spread=0.3))
    return layer


# The operators as BiBench's released convolutions compute them: value forward, path backward.


def straight(value, path):
    return path + (value - path).detach()


def clip(x):
    return x.clamp(-1, 1)


def poly(x):
    inner = torch.where(x < 0, 2 * x + x * x, 2 * x - x * x)
    return torch.where(x < -1, -1.0, torch.where(x < 1, inner, 1.0))


def released(layer, name, a, kind):
    """Output of the operator for the layer's parameters; the second dimension of a is reduced."""
    s, w = hard_sign, layer.weight
    over = tuple(range(1, w.dim()))
    filters = w.abs().mean(over, keepdim=True).detach()
    apply = (lambda x, w: F.conv2d(x, w, padding=1)) if kind == "conv" else F.linear
    scale = None
    if name == "BNN" or name == "XNORPlusPlus":
        w_hat = straight(s(w), clip(w))
    elif name == "ReCU":
        w1 = w - w.mean(over, keepdim=True)
        w1 = w1 / (torch.sqrt(w1.var(over, keepdim=True) + 1e-5) / 2 / math.sqrt(2))
        q = (-w1.abs().mean() * math.log(2 - 2 * float(layer.binarizer.tau))).detach()
        w2 = torch.minimum(torch.maximum(w1, -q), q)
        w_hat, scale = straight(s(w2), w2), layer.binarizer.alpha
    else:
        w_hat = straight(filters * s(w), clip(w))
    if name == "ReCU":
        over_a = (1, 2, 3) if kind == "conv" else (-1,)
        a = a / torch.sqrt(a.var(over_a, keepdim=True) + 1e-5)
        a_hat = straight(s(a), poly(a))
    elif name == "XNOR":
        over_a = (1, 2, 3) if kind == "conv" else (-1,)
        a_hat = straight(a.abs().mean(over_a, keepdim=True).detach() * s(a), clip(a))
    elif name in ("BiReal", "ReAct"):
        if name == "ReAct":
            a = a + (layer.shift.view(-1, 1, 1) if kind == "conv" else layer.shift)
        a_hat = straight(s(a), poly(a))
    else:
        a_hat = straight(s(a), clip(a))
    y = apply(a_hat, w_hat)
    if name == "XNORPlusPlus":
        o, sides = layer.rescale.outputs, list(layer.rescale.sides)
        y = y * o.view(-1, 1, 1) * sides[0].view(1, -1, 1) * sides[1] if sides else y * o
    if scale is not None:
        y = y * (scale.view(-1, 1, 1) if kind == "conv" else scale)
    return y + layer.bias if getattr(layer, "bias", None) is not None else y


@ALL
@pytest.mark.parametrize("kind", ["conv", "linear"])
@calm
@given(seed=st.integers(0, 2**16))
def test_outputs_and_all_gradients_are_those_of_the_released_formula(method, kind, seed):
    layer = layer_of(method, kind)
    shape = (2, 3, 4, 4) if kind == "conv" else (2, 6, 3)
    a, g = draw(seed, *shape), draw(seed + 1, *((2, 5, 4, 4) if kind == "conv" else (2, 6, 5)))
    results = []
    for run in (layer, lambda x: released(layer, name_of(method), x, kind)):
        layer.zero_grad()
        x = a.clone().requires_grad_()
        y = run(x)
        y.backward(g)
        grads = {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
        results.append({"y": y.detach(), "x": x.grad} | grads)
    ours, theirs = results
    assert ours.keys() == theirs.keys() and {"weight", "x"} <= ours.keys()
    for key, value in ours.items():
        assert torch.allclose(value, theirs[key], atol=1e-9), key


SLOPES = {  # activation, weight: closed forms of the table
    "BNN": ("clip", "clip"),
    "XNOR": ("clip", "clip"),
    "DoReFa": ("clip", "clip"),
    "BiReal": ("poly", "clip"),
    "XNORPlusPlus": ("clip", "clip"),
    "ReAct": ("poly", "clip"),
}


def closed_form(which, x):
    if which == "clip":
        return 1.0 if abs(x) <= 1 else 0.0
    return 2 + 2 * x if -1 <= x < 0 else 2 - 2 * x if 0 <= x < 1 else 0.0


@pytest.mark.parametrize("name", SLOPES)
def test_surrogate_gradients_on_a_grid_are_the_closed_forms(name):
    method = next(m for m in METHODS if name_of(m) == name)
    grid = torch.linspace(-2, 2, 401, dtype=torch.float64)
    real = nn.Conv2d(1, 1, 1, bias=False).double()
    layer = method.layer(real, (401, 1)) if name == "XNORPlusPlus" else method.layer(real)
    x = grid.view(1, 1, -1, 1).requires_grad_()
    layer(x).sum().backward()
    w_hat = layer.binarizer(layer.weight).item()
    of_activations, of_weights = SLOPES[name]
    expected = torch.tensor([closed_form(of_activations, v) for v in grid.tolist()])
    assert torch.allclose(x.grad.flatten(), w_hat * expected.double(), atol=1e-6)
    w = grid.view(-1, 1).requires_grad_()
    layer.binarizer(w).sum().backward()
    expected = torch.tensor([closed_form(of_weights, v) for v in grid.tolist()])
    assert torch.allclose(w.grad.flatten(), expected.double(), atol=1e-6)


def test_recus_activation_slope_on_normalized_values_is_the_triangle():
    layer = layer_of(ReCU())
    a = draw(0, 3, 2, 4, 4)
    a = (a / a.std(dim=(1, 2, 3), keepdim=True)).requires_grad_()
    g = draw(1, 3, 2, 4, 4)
    layer.activation(a).backward(g)
    eps_free = a.detach().requires_grad_()
    sigma = torch.sqrt(eps_free.var(dim=(1, 2, 3), keepdim=True) + 1e-5)
    poly(eps_free / sigma).backward(g)
    assert torch.allclose(a.grad, eps_free.grad, atol=1e-9)
    layer.activation.eval()
    b = torch.linspace(-2, 2, 401, dtype=torch.float64, requires_grad=True)
    layer.activation(b).sum().backward()
    assert torch.allclose(b.grad, (2 - 2 * b.detach().abs()).clamp_min(0), atol=1e-12)


@ALL
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_channel_has_at_most_two_weights_and_activations_are_exact_signs(method, kind):
    layer = layer_of(method, kind)
    w_hat = layer.binarizer(layer.weight).detach().flatten(1)
    for row, scale in zip(w_hat, layer.binarizer.scale(layer.weight), strict=True):
        assert 1 <= len(row.unique()) <= 2
        assert torch.equal(row.abs(), scale.detach().expand_as(row))
    x = draw(2, 4, 3, 4, 4)
    for mode in (True, False):
        assert torch.equal(layer.train(mode).activation(x), hard_sign(x))


def outputs(layer, a, g):
    layer.zero_grad()
    x = a.clone().requires_grad_()
    y = layer(x)
    y.backward(g)
    return y.detach(), x.grad, layer.weight.grad.clone()


def test_react_without_shift_is_bireal_and_dorefa_is_bireal_forwards():
    react, bireal, dorefa = (layer_of(m) for m in (ReAct(), BiReal(), DoReFa()))
    react.shift.data.zero_()
    a, g = draw(0, 2, 3, 4, 4), draw(1, 2, 5, 4, 4)
    ours, theirs, third = (outputs(x, a, g) for x in (react, bireal, dorefa))
    assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
    assert torch.equal(theirs[0], third[0]) and torch.equal(theirs[2], third[2])
    assert not torch.allclose(theirs[1], third[1])  # the triangle is not the window


def test_xnor_pp_with_unit_scales_is_bnn():
    plus, bnn = layer_of(XNORPlusPlus()), layer_of(BNN())
    for parameter in plus.rescale.parameters():
        nn.init.ones_(parameter)
    a, g = draw(0, 2, 3, 4, 4), draw(1, 2, 5, 4, 4)
    pairs = zip(outputs(plus, a, g), outputs(bnn, a, g), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


def normalized(method, mean_free=True):
    """A layer's result behind a batch normalization in training mode; all share their signs."""
    layer = layer_of(method)
    with torch.no_grad():
        w = layer.weight - layer.weight.mean(dim=(1, 2, 3), keepdim=True) if mean_free else 0
        layer.weight.copy_(w)
        if layer.shift is not None:
            layer.shift.zero_()
    norm = nn.BatchNorm2d(5, eps=1e-14).double()
    return norm(layer(draw(4, 6, 3, 4, 4))).detach()


@pytest.mark.parametrize("method", [DoReFa(), BiReal(), ReAct(), ReCU()], ids=repr)
def test_a_normalization_absorbs_every_scale_per_channel(method):
    assert torch.allclose(normalized(method), normalized(BNN()), atol=1e-8)


@pytest.mark.parametrize("method", [XNOR(), XNORPlusPlus()], ids=repr)
def test_a_normalization_does_not_absorb_scales_of_samples_and_places(method):
    assert (normalized(method) - normalized(BNN())).abs().max() > 0.1


def toy_rows(seed=0):
    """Linear layers on rows of tokens, with a bias and without."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(2, (4, 2)),
        nn.Flatten(3),
        nn.Flatten(1, 2),
        nn.Linear(16, 12),
        nn.LayerNorm(12),
        nn.Linear(12, 8),
        nn.LayerNorm(8),
        nn.Linear(8, 8, bias=False),
        nn.Flatten(1),
        nn.Linear(96, 4),
    )


NETS = {"conv": (toy_net, 1), "linear": (toy_rows, 2)}


def trained(method, kind):
    net = NETS[kind][0]()
    return train_toy(net, method=method, images=toy_images(32), epochs=1).model


@ALL
@pytest.mark.parametrize("kind", NETS)
def test_the_deployed_network_gives_the_trained_networks_outputs(method, kind):
    net = trained(method, kind)
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fast = method.deploy(net)
    packed = [
        m for m in fast.modules() if isinstance(m, kernels.BinaryConv2d | kernels.BinaryLinear)
    ]
    assert len(packed) == NETS[kind][1] and not list(binary_layers(fast))
    rescaled = [m for m in fast.modules() if isinstance(m, Rescaled)]
    assert bool(rescaled) == isinstance(method, XNOR | XNORPlusPlus)
    folded = sum(isinstance(m, nn.BatchNorm2d) for m in fast.modules()) < 2
    assert folded == (kind == "conv" and not rescaled) or kind == "linear"
    with torch.inference_mode():
        assert torch.allclose(fast(x), net(x), atol=1e-4 * float(net(x).abs().max()))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@ALL
def test_prepare_is_a_method_that_leaves_its_argument_alone_and_repeats_itself(method):
    model, x = toy_net(), torch.zeros(2, 3, 8, 8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    once, again = method.prepare(model, x), method.prepare(model, x)
    assert isinstance(method, Method) and same_state(once, again)
    assert not list(binary_layers(model)) and str(model) == str(toy_net())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [layer.method for _, layer in binary_layers(once)] == [name_of(method)]
    assert torch.equal(once[3].weight, model[3].weight)


@ALL
def test_every_operator_learns_its_parameters(method):
    net = method.prepare(toy_net(), torch.zeros(2, 3, 8, 8))
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net[3].weight.grad.abs().sum() > 0


@ALL
def test_a_network_without_a_layer_to_binarize_is_refused(method):
    for net in (nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Flatten(), nn.Linear(192, 4))):
        with pytest.raises(ValueError, match="Sequential has no layer to binarize"):
            method.prepare(net, torch.zeros(1, 3, 8, 8))


@ALL
def test_networks_that_train_or_were_never_prepared_or_by_another_method_are_not_deployed(method):
    net = method.prepare(toy_net(), torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="training mode"):
        method.deploy(net.train())
    net.eval()[4].train()
    with pytest.raises(ValueError, match="training mode"):
        method.deploy(net)
    with pytest.raises(ValueError, match="no 1-bit layer: prepare and train it first"):
        method.deploy(toy_net().eval())
    for other in [ReBNN(), *METHODS]:
        if name_of(other) != name_of(method):
            theirs = other.prepare(toy_net(), torch.zeros(2, 3, 8, 8)).eval()
            message = f"prepared by {name_of(other)}, not by {name_of(method)}"
            with pytest.raises(ValueError, match=message):
                method.deploy(theirs)


@ALL
def test_the_checkpoint_of_another_method_is_refused(method, tmp_path):
    example = torch.zeros(2, 3, 8, 8)
    net = method.prepare(toy_net(), example)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    state = torch.load(tmp_path / "net.pt")
    fresh = method.prepare(toy_net(seed=1), example)
    fresh.load_state_dict(state)
    assert same_state(fresh, net)
    for other in METHODS:
        if other != method:
            with pytest.raises((ValueError, RuntimeError), match=r"checkpoint|Missing|Unexpected"):
                other.prepare(toy_net(), example).load_state_dict(state)
    if isinstance(method, BNN):  # the same names and shapes in the state: only the method tells
        with pytest.raises(ValueError, match="of BNN, this layer was prepared by DoReFa"):
            DoReFa().prepare(toy_net(), example).load_state_dict(state)


def test_recus_tau_rises_by_epochs_from_085_towards_099():
    assert tau_at(0, 10) == pytest.approx(0.85) and tau_at(10, 10) == pytest.approx(0.99)
    taus = [tau_at(e, 10) for e in range(11)]
    a = (0.99 - 0.85) / (math.e - 1)
    assert taus == sorted(taus) and taus[5] == pytest.approx(a * math.e**0.5 + 0.85 - a)
    run = train_toy(method=ReCU(), images=toy_images(32), epochs=3)
    scale = next(iter(binary_layers(run.model)))[1].binarizer
    assert float(scale.tau) == pytest.approx(tau_at(2, 3))


@calm
@given(seed=st.integers(0, 2**16), tau=st.floats(0.51, 0.999))
def test_the_clamp_of_recu_is_the_quantile_of_a_laplace_distribution(seed, tau):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(50_000, generator=generator, dtype=torch.float64) - 0.5
    w = -u.sign() * torch.log1p(-2 * u.abs()).abs() * -2.0  # Laplace of scale 2 by inversion
    below = float((w < quantile(w, tau)).double().mean())
    assert below == pytest.approx(tau, abs=0.015)
    assert float(quantile(w, 0.5)) == 0 and float(quantile(w, 1.0)) == math.inf


def test_recus_standardized_filters_have_no_mean_and_deviation_two_root_two():
    w = standardized(draw(0, 4, 3, 3, 3, spread=5.0) + 2)
    assert torch.allclose(w.mean(dim=(1, 2, 3)), torch.zeros(4).double(), atol=1e-12)
    assert torch.allclose(w.std(dim=(1, 2, 3)), torch.full((4,), 8**0.5).double(), atol=1e-5)


def test_recus_gradient_stops_outside_the_clamp():
    w = draw(0, 3, 2, 3, 3).requires_grad_()
    scale = ClampedScale(w.detach(), 0.85).double()
    latent = scale.latent(w)
    inside = latent.detach().abs() < latent.detach().abs().max()
    assert 0.02 < 1 - inside.double().mean() < 0.5
    g = torch.where(inside, 0.0, draw(1, 3, 2, 3, 3))
    scale(w).backward(g)
    assert w.grad.abs().max() == 0


@pytest.mark.parametrize("taus", [(0.5, 0.9), (0.9, 0.8), (0.85, 1.0)])
def test_a_tau_out_of_range_is_refused(taus):
    with pytest.raises(ValueError, match=r"tau must rise between 0\.5 and 1"):
        ReCU(*taus)
    with pytest.raises(ValueError, match="at least 2 weights per output"):
        ReCU().layer(nn.Linear(1, 3))


def test_the_scales_of_recu_start_at_random_by_their_seed():
    nets = [ReCU(seed=s).prepare(toy_net(), None) for s in (0, 0, 1)]
    alphas = [next(iter(binary_layers(n)))[1].binarizer.alpha for n in nets]
    assert torch.equal(alphas[0], alphas[1]) and not torch.equal(alphas[0], alphas[2])
    assert all(((a >= 0) & (a < 1)).all() for a in alphas)


def test_a_negative_learned_scale_of_recu_is_deployed_with_its_sign():
    net = trained(ReCU(), "conv")
    net[3].binarizer.alpha.data.neg_()
    x = torch.randn(6, 3, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(ReCU().deploy(net)(x), net(x), atol=1e-4)


def test_xnor_pp_has_as_many_scales_as_the_map_of_the_example_is_large():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=(2, 1), bias=False)
    )
    layer = XNORPlusPlus().prepare(net, torch.zeros(1, 3, 9, 7))[1]
    assert [len(s) for s in layer.rescale.sides] == [4, 5] and len(layer.rescale.outputs) == 6
    scale = SpatialScale(2, (2, 3))
    for parameter, values in zip(scale.parameters(), ([1, 2], [1, 3], [1, 5, 7]), strict=True):
        parameter.data.copy_(torch.tensor(values))
    y = torch.ones(1, 2, 2, 3)
    assert scale(y, None)[0].tolist() == [[[1, 5, 7], [3, 15, 21]], [[2, 10, 14], [6, 30, 42]]]
    with pytest.raises(ValueError, match=r"scales for maps of \(2, 3\), got one of \(4, 4\)"):
        scale(torch.ones(1, 2, 4, 4), None)


def test_xnor_pp_refuses_layers_that_the_example_does_not_reach_or_reaches_differently():
    class Odd(nn.Module):
        def __init__(self, twice):
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, bias=False)
            self.second = nn.Conv2d(3, 3, 3, bias=False)
            self.twice = twice

        def forward(self, x):
            x = self.first(x)
            return self.second(self.second(x)) if self.twice else x

    for twice, message in ((True, "second makes maps of"), (False, "does not reach layer second")):
        with pytest.raises(ValueError, match=message):
            XNORPlusPlus().prepare(Odd(twice), torch.zeros(1, 3, 9, 9))


def test_a_sample_of_zeros_gives_xnor_zeros_and_finite_gradients():
    layer = layer_of(XNOR())
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert (y == 0).all() and x.grad.isfinite().all()
