"""FDA-BNN's mathematics in float64, its layers, its schedule, its cost; and the estimator rows."""

import copy
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from compactnets import cost
from compactnets.binary.convert import binary_layers
from compactnets.binary.estimators import Estimator, LayerScale, Steepening, standardized
from compactnets.binary.fda import FDA, FourierSign, WrongSign, gradients, residual
from compactnets.binary.fourier import (
    Fourier,
    kept_energy,
    series,
    slope_closed,
    slope_recurrence,
    slope_sum,
)
from compactnets.binary.layers import Sign
from compactnets.binary.react import react_resnet_cifar
from compactnets.binary.rebnn import ReBNN
from compactnets.binary.scales import analytic_scale
from compactnets.binary.ste import Clipped, Polynomial, hard_sign, sign
from compactnets.method import Method, Progress

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TERMS = st.integers(0, 20)
SEEDS = st.integers(0, 2**16)


def draw(seed, *shape, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64)


# The series


@calm
@given(n=TERMS, omega=st.floats(0.05, 3), seed=SEEDS)
def test_the_slope_is_the_derivative_of_the_series(n, omega, seed):
    t = draw(seed, 50, spread=2).requires_grad_()
    series(t, n, omega).sum().backward()
    assert torch.allclose(slope_sum(t.detach(), n, omega), t.grad, rtol=1e-9, atol=1e-9)


@calm
@given(n=TERMS, omega=st.floats(0.05, 3), seed=SEEDS)
def test_closed_form_and_recurrence_equal_the_sum(n, omega, seed):
    u = 2.7 * (2 * torch.rand(200, generator=torch.Generator().manual_seed(seed)).double() - 1)
    t, peak = u / omega, 4 * omega * (n + 1) / math.pi
    truth = slope_sum(t, n, omega)
    far = u.abs() >= 1e-5  # nearer to 0 the closed form takes the value at 1e-5
    assert ((slope_closed(t, n, omega) - truth).abs()[far] < 1e-11 * peak).all()
    assert ((slope_closed(t, n, omega) - truth).abs() < 1e-6 * peak).all()
    assert ((slope_recurrence(t, n, omega) - truth).abs() < 1e-10 * peak).all()


def test_at_nine_terms_in_double_the_three_forms_agree_to_1e_12():
    t = torch.linspace(-2.7, 2.7, 100_001, dtype=torch.float64)
    t = t[t.abs() > 1e-5]
    truth = slope_sum(t, 9, 1.0)
    assert (slope_closed(t, 9, 1.0) - truth).abs().max() < 1e-12
    assert (slope_recurrence(t, 9, 1.0) - truth).abs().max() < 1e-11


@pytest.mark.parametrize("n", [0, 1, 9, 18])
def test_the_closed_form_has_both_limits_where_its_denominator_vanishes(n):
    peak = 4 * 0.5 * (n + 1) / math.pi
    t = torch.tensor([0, -0.0, 1e-30, 2 * math.pi, -2 * math.pi]).double()  # omega t = 0, ±pi
    expected = torch.tensor([peak, peak, peak, -peak, -peak], dtype=torch.float64)
    assert torch.allclose(slope_closed(t.double(), n, 0.5), expected, rtol=1e-4)
    single = slope_closed(t.float(), n, 0.5)
    assert torch.allclose(single[:3], expected[:3].float(), rtol=1e-4)
    assert (
        single.abs() <= peak * (1 + 1e-6)
    ).all()  # float32(pi) is off by more than the pole's width


def test_half_precision_is_computed_in_single():
    t = draw(0, 200, spread=3).bfloat16()
    slope = slope_closed(t, 18, 0.5)
    assert slope.dtype == torch.bfloat16
    assert torch.equal(slope, slope_closed(t.float(), 18, 0.5).bfloat16())


@pytest.mark.parametrize("method", [FDA(), FDA.bibench()])
def test_the_layer_compiles_once_for_every_n_omega_and_alpha(method):
    counter = CompileCounterWithBackend("aot_eager")
    layer = method.layer(nn.Conv2d(4, 4, 3, bias=False)).train()
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    for epoch in range(3):
        for sign_ in (layer.activation, layer.binarizer.sign):
            sign_.advance(epoch, 4)
        found = []
        for call in (layer, compiled):
            layer.zero_grad()
            call(t := x.clone().requires_grad_()).square().sum().backward()
            found.append((t.grad, layer.weight.grad))
        for eager, fast in zip(*found, strict=True):
            assert torch.allclose(eager, fast, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


def test_tensors_for_n_and_omega_give_the_same_slope_and_stay_untouched():
    t, n, omega = draw(0, 40), torch.tensor(9.0), torch.tensor(0.5)
    before = t.clone()
    assert torch.allclose(slope_closed(t, n, omega), slope_closed(t, 9, 0.5))
    assert torch.equal(t, before) and n == 9 and omega == 0.5


def test_the_series_is_sign_only_inside_half_a_period():
    omega, n = 0.5, 2000  # T/2 = 2 pi
    inside = torch.tensor([-6.0, -1.0, 0.1, 3.0, 6.0], dtype=torch.float64)
    assert torch.allclose(series(inside, n, omega), hard_sign(inside), atol=0.01)
    beyond = torch.tensor([7.0, 12.0], dtype=torch.float64)  # T/2 < t < T: the text says sign = +1
    assert torch.allclose(series(beyond, n, omega), torch.full_like(beyond, -1), atol=0.01)


@pytest.mark.parametrize(
    ("n", "energy"), [(0, 0.8106), (1, 0.9006), (4, 0.9596), (9, 0.9798), (18, 0.9893)]
)
def test_energy_kept_has_its_golden_values_and_quadrature_agrees(n, energy):
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * 2 * math.pi - math.pi
    assert round(kept_energy(n), 4) == energy
    assert abs(float(series(t, n, 1.0).square().mean()) - kept_energy(n)) < 1e-8
    missing = float((hard_sign(t) - series(t, n, 1.0)).square().mean())
    assert abs(missing - (1 - kept_energy(n))) < 1e-6


@pytest.mark.parametrize(
    ("n", "central", "normal"),
    [(0, 0, 0.116), (1, 1 / 2, 0.334), (4, 2 / 5, 0.438), (9, 1 / 2, 0.469), (18, 9 / 19, 0.484)],
)
def test_half_of_the_period_has_the_wrong_sign(n, central, normal):
    t = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000 * 2 * math.pi - math.pi
    wrong = slope_closed(t, n, 1.0) < 0
    assert abs(float(wrong.double().mean()) - 0.5) < 1e-4
    inside = t.abs() < math.pi / 2
    assert abs(float(wrong[inside].double().mean()) - central) < 1e-3
    wide = torch.linspace(-9, 9, 600_001, dtype=torch.float64)
    density = torch.exp(-wide.square() / 2)
    weighted = density[slope_closed(wide, n, 1.0) < 0].sum() / density.sum()
    assert abs(float(weighted) - normal) < 6e-4
    zero = math.pi / (2 * (n + 1))
    around = slope_closed(torch.tensor([0.999 * zero, 1.001 * zero]).double(), n, 1.0)
    assert around[0] > 0 > around[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": -1}, "n must not be negative, got -1"),
        ({"omega": 0.0}, "omega must be positive, got 0.0"),
        ({"clip": math.nan}, "clip must be positive, got nan"),
        ({"n": 18, "grow": 9}, "grow must be at least n = 18 or None, got 9"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"alpha": -0.1}, "alpha must not be negative, got -0.1"),
        ({"nam": "cos"}, "nam must be one of .*, got 'cos'"),
        ({"variant": "F2"}, "variant must be one of .*, got 'F2'"),
        ({"convention": "code"}, "convention must be one of .*, got 'code'"),
    ],
)
def test_a_bad_option_is_refused_when_the_method_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        FDA(**options)


# The noise adaptation


@calm
@given(
    rows=st.integers(1, 5), d=st.integers(1, 6), hidden=st.integers(1, 3), n=TERMS,
    alpha=st.floats(0, 1), shortcut=st.sampled_from(["zero", "linear", "sin"]), seed=SEEDS,
)  # fmt: skip
def test_equations_15_to_17_with_alpha_are_autograd(rows, d, hidden, n, alpha, shortcut, seed):
    t, w1, w2 = draw(seed, rows, d), draw(seed + 1, d, hidden), draw(seed + 2, hidden, d)
    g = draw(seed + 3, rows, d)
    found = gradients(g, t, w1, w2, Fourier(n, 0.3), alpha, shortcut)
    leaves = [x.clone().requires_grad_() for x in (t, w1, w2)]
    z = series(leaves[0], n, 0.3) + alpha * residual(*leaves, shortcut)
    z.backward(g)
    for ours, leaf in zip(found, leaves, strict=True):
        assert torch.allclose(ours, leaf.grad, rtol=1e-6, atol=1e-6)


def fourier_sign(alpha=None, d=3, dim=-1, **options):
    torch.manual_seed(0)
    layer = FourierSign(FDA(**options), d, dim).double()
    if alpha is not None:
        layer.alpha.fill_(alpha)
    return layer


@pytest.mark.parametrize("variant", ["F0", "F1"])
@pytest.mark.parametrize("dim", [-1, 1])
def test_the_layers_backward_pass_is_that_of_the_equations(variant, dim):
    layer = fourier_sign(0.7, dim=dim, variant=variant)
    t = draw(1, *((5, 3) if dim == -1 else (2, 3, 4, 4))).requires_grad_()
    g = draw(2, *t.shape)
    z = layer(t)
    z.backward(g)
    rows, g_rows = (x.detach().movedim(dim, -1) for x in (t, g))
    slope = Fourier(9, layer.omega)
    dt, dw1, dw2 = gradients(g_rows, rows, layer.w1.data, layer.w2.data, slope, layer.alpha)
    assert torch.allclose(t.grad, dt.movedim(-1, dim))
    assert torch.allclose(layer.w1.grad, dw1) and torch.allclose(layer.w2.grad, dw2)
    value = hard_sign(rows)
    if variant == "F1":
        value = value + layer.alpha * residual(rows, layer.w1, layer.w2)
    assert torch.allclose(z, value.movedim(-1, dim), rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_f0_is_sign_bit_for_bit_at_every_alpha_and_f1_only_at_zero(alpha):
    t = draw(0, 20, 3)
    t[0] = torch.tensor([0.0, -0.0, 1e-300])
    assert torch.equal(fourier_sign(alpha)(t), hard_sign(t))
    assert torch.equal(fourier_sign(alpha, variant="F1")(t), hard_sign(t)) == (alpha == 0)


@pytest.mark.parametrize("variant", ["F0", "F1"])
def test_at_alpha_zero_the_noise_matrices_get_zero_gradient(variant):
    layer = fourier_sign(0.0, variant=variant)
    layer(t := draw(0, 20, 3).requires_grad_()).backward(draw(1, 20, 3))
    assert not layer.w1.grad.any() and not layer.w2.grad.any()
    assert torch.allclose(t.grad, draw(1, 20, 3) * slope_sum(t.detach(), 9, 0.1), rtol=1e-4)


def test_without_noise_adaptation_there_are_no_parameters_and_nothing_but_the_slope():
    layer = fourier_sign(nam="off")
    assert not list(layer.parameters()) and layer.alpha == 0
    layer(t := draw(0, 20, 3).requires_grad_()).sum().backward()
    assert torch.allclose(t.grad, Fourier(9, layer.omega)(t.detach()))


def test_the_window_takes_the_gradient_where_t_is_larger():
    t = torch.tensor([-1.5, -1.0, 0.2, 1.0, 1.01])
    assert (Fourier(9, 0.1, clip=1.0)(t) != 0).tolist() == [False, True, True, True, False]


# The method


def toy(width=4):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.Flatten(),
        nn.Linear(16 * width, 6),
        nn.Linear(6, 2),
    )


X = torch.zeros(1, 3, 8, 8)


def test_the_method_makes_layers_whose_weights_are_one_scale_times_signs():
    model = FDA().prepare(source := toy(), X)
    layers = dict(binary_layers(model))
    assert isinstance(FDA(), Method) and list(layers) == ["2", "5"]
    for name, layer in layers.items():
        w = source.get_submodule(name).weight
        assert torch.equal(layer.weight, w) and layer.shift is None
        assert torch.allclose(layer.binarizer(w), w.abs().mean() * hard_sign(w))
        assert layer.binarizer.scale(w).shape == (w.shape[0],)
        assert layer.activation.dim == (1 if name == "2" else -1)


def test_weights_get_the_slope_at_w_over_std_times_scale_over_std():
    w = (0.05 * draw(0, 4, 2, 3, 3) + 0.01).requires_grad_()
    g, std = draw(1, 4, 2, 3, 3), float(w.detach().std(correction=0))
    LayerScale(fourier_sign(nam="off"))(w).backward(g)
    slope = slope_sum(w.detach() / std, 9, 0.1)
    expected = float(w.detach().abs().mean()) / std * slope * g
    assert torch.allclose(w.grad, expected, rtol=1e-4)
    assert abs(float(standardized(w.detach()).std(correction=0)) - 1) < 1e-12
    assert not standardized(torch.zeros(2, 3)).any()  # no 0 / 0


def schedule(method, epochs):
    return [method.plan(epoch, epochs) for epoch in range(epochs)]


def test_terms_grow_from_9_to_18_and_alpha_falls_to_exactly_zero():
    assert schedule(FDA(), 4) == [(9, 1.0), (12, pytest.approx(2 / 3)), (15, 1 - 2 / 3), (18, 0.0)]
    assert [n for n, _ in schedule(FDA(grow=None), 3)] == [9, 9, 9]
    assert schedule(FDA(), 1) == [(9, 1.0)]


@calm
@given(epochs=st.integers(2, 500), n=st.integers(0, 20), extra=st.integers(0, 20))
def test_the_last_epoch_trains_what_is_deployed(epochs, n, extra):
    for method in (FDA(n=n, grow=n + extra), FDA.bibench()):
        terms, alphas = zip(*schedule(method, epochs), strict=True)
        assert alphas[-1] == 0 and list(alphas) == sorted(alphas, reverse=True)
        assert list(terms) == sorted(terms) and terms[0] == method.n
    assert schedule(FDA(n=n, grow=n + extra), epochs)[-1][0] == n + extra


def test_the_hook_sets_the_buffers_before_each_epoch_and_writes_the_history():
    model = FDA().prepare(toy(), X)
    (hook,) = FDA().hooks()
    progress = Progress(model, torch.optim.SGD(model.parameters(), 1.0), 1, 3)
    hook.start(progress)
    seen = []
    for progress.epoch in range(3):
        seen.append((float(model[2].activation.n), float(model[5].binarizer.sign.alpha)))
        assert hook.epoch_end(progress) == dict(zip(("n", "alpha"), seen[-1], strict=True))
    assert seen == [(9, 1), (14, 0.5), (18, 0)]
    assert repr(hook) == "Advance()"


def test_the_noise_matrices_depend_on_the_methods_seed_alone():
    def matrices(seed):
        return FDA(seed=seed).prepare(model, X)[2].activation.w1.detach()

    model, before = toy(), torch.get_rng_state()
    first = matrices(0)
    torch.rand(3)
    assert torch.equal(first, matrices(0)) and not torch.equal(first, matrices(1))
    torch.set_rng_state(before)


@pytest.mark.parametrize("method", [FDA(), FDA(variant="F1"), FDA(nam="off"), Estimator()])
def test_the_deployed_network_computes_the_trained_networks_outputs(method):
    torch.manual_seed(0)
    model = method.prepare(toy(32), X)
    for hook in method.hooks():
        hook.start(Progress(model, torch.optim.SGD(model.parameters(), 1.0), 1, 1))
    for module in model.modules():
        if isinstance(module, FourierSign):
            module.advance(2, 3)
    x = torch.randn(8, 3, 8, 8)
    model(x)  # running statistics
    y = model.eval()(x)
    assert torch.allclose(method.deploy(model)(x), y, atol=1e-4)


def test_deploying_an_unfinished_network_is_refused():
    model = FDA(variant="F1").prepare(toy(), X)
    with pytest.raises(ValueError, match=r"training mode: call model.eval\(\)"):
        FDA(variant="F1").deploy(model)
    with pytest.raises(ValueError, match=r"no scaled sign|something else than signs"):
        FDA(variant="F1").deploy(model.eval())  # alpha is still 1
    with pytest.raises(ValueError, match="no 1-bit layer"):
        FDA().deploy(toy().eval())
    with pytest.raises(ValueError, match="ReBNN"):
        FDA().deploy(ReBNN().prepare(toy(), X).eval())


def test_a_network_without_a_layer_to_binarize_and_a_foreign_checkpoint_are_refused():
    for method in (FDA(), Estimator()):
        with pytest.raises(ValueError, match="no layer to binarize"):
            method.prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)), X)
    other = ReBNN().prepare(toy(), X).state_dict()
    with pytest.raises((RuntimeError, ValueError), match="ReBNN"):
        FDA().prepare(toy(), X).load_state_dict(other)


def test_bibenchs_operator_differs_where_its_code_does():
    method = FDA.bibench()
    model = method.prepare(toy(), X)
    layer = model[2]
    assert [p.requires_grad for p in layer.activation.parameters()] == [False, False]
    assert [p.requires_grad for p in layer.binarizer.parameters()] == [True, True]
    assert [method.hidden(d) for d in (2, 16, 63, 64, 144)] == [1, 4, 15, 1, 2]
    assert [FDA().hidden(d) for d in (2, 16, 63, 64, 144)] == [1, 1, 1, 1, 2]
    assert [n for n, _ in schedule(method, 3)] == [9, 12, 15]
    alphas = [alpha for _, alpha in schedule(method, 3)]
    assert alphas == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 3)) for i in (1, 2, 3)])
    w = (2 * draw(3, 4, 4, 3, 3)).requires_grad_()
    layer.double().binarizer.sign.alpha.fill_(0)
    y = layer.binarizer(w)
    y.sum().backward()
    assert torch.allclose(y, analytic_scale(w).view(-1, 1, 1, 1) * hard_sign(w))
    assert torch.allclose(w.grad, slope_sum(w.detach(), 9, 0.1) * (w.abs() <= 1), rtol=1e-4)


def test_bibenchs_surrogate_has_its_golden_integral():
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 100_000 - 1
    integral = float(Fourier(9, 0.1, clip=1.0)(x).mean()) * 2
    terms = [math.sin((2 * i + 1) * 0.1) / (2 * i + 1) for i in range(10)]
    assert integral == pytest.approx(8 / math.pi * sum(terms), rel=1e-6)


# Cost


def test_noise_adaptation_adds_the_counted_parameters_and_none_at_inference():
    torch.manual_seed(0)
    real = react_resnet_cifar(20)
    plain, noisy = (FDA(nam=nam).prepare(real, X) for nam in ("off", "sin"))

    def sizes(part):
        layers = [layer for _, layer in binary_layers(noisy)]
        return sum(p.numel() for layer in layers for p in getattr(layer, part).parameters())

    assert len(list(binary_layers(noisy))) == 18
    assert sizes("binarizer") == 69_696 and sizes("activation") == 1_248
    total = [sum(p.numel() for p in model.parameters()) for model in (plain, noisy)]
    assert total[1] - total[0] == 69_696 + 1_248
    x = torch.zeros(1, 3, 32, 32)
    noisy.eval().apply(lambda m: m.advance(1, 2) if isinstance(m, FourierSign) else None)
    assert not [n for n, _ in FDA().deploy(noisy).named_parameters() if "w1" in n or "w2" in n]
    costs = cost.count(plain, x)
    option_a = costs.real_macs - 2 * 131_072  # the real 1x1 shortcuts of this network
    assert (costs.bops(), option_a) == (40_108_032, 443_008)
    assert sum(c.weights for c in costs if c.weight_bits == 1) == 267_264


# The other estimators


def test_every_estimator_row_puts_its_slope_on_weights_and_activations_alike():
    for slope in (Clipped(), Clipped(math.inf), Polynomial()):
        model = Estimator(slope).prepare(toy(), X)
        assert isinstance(Estimator(slope), Method)
        for _, layer in binary_layers(model):
            assert isinstance(layer.binarizer, LayerScale) and layer.shift is None
            assert layer.binarizer.sign.slope == layer.activation.slope == slope
            assert isinstance(layer.activation, Sign)
    with pytest.raises(ValueError, match=r"slope must be a slope or \"steepening\", got 'tanh'"):
        Estimator("tanh").prepare(toy(), X)
    with pytest.raises(ValueError, match="needs 0 < low <= high"):
        Steepening(2, 1)


def test_the_tanh_grows_steeper_from_a_tenth_to_ten():
    layer, x = Steepening().double(), draw(0, 30)
    steepness = [layer.advance(epoch, 5)["t"] for epoch in range(5)]
    assert steepness == pytest.approx([0.1, 10**-0.5, 1, 10**0.5, 10])
    layer.advance(0, 5)
    layer(t := x.clone().requires_grad_()).sum().backward()
    expected = 1 - torch.tanh(0.1 * x).square()  # k = 1/t: the slope starts near 1
    assert torch.allclose(t.grad, expected, rtol=1e-5)
    assert torch.equal(layer(x), hard_sign(x))


def test_the_plain_estimator_passes_every_gradient():
    sign(t := draw(0, 9, spread=5).requires_grad_(), Clipped(math.inf)).backward(g := draw(1, 9))
    assert torch.equal(t.grad, g)


# The meter


def test_the_meter_counts_negative_slopes_and_leaves_the_network_alone():
    method = FDA(omega=1.0)
    model = method.prepare(toy(), X)
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for module in model.modules():
        if isinstance(module, FourierSign):
            module.n.fill_(18)  # as the method's own hook has done for the next epoch
    state = copy.deepcopy(model.state_dict())
    line = WrongSign(images, "2").epoch_end(Progress(model, None, 1, 2))  # type: ignore[arg-type]
    assert model.training and not model[2].activation._forward_pre_hooks
    assert all(torch.equal(state[n], v) for n, v in model.state_dict().items())
    with torch.no_grad():
        inputs = model.eval()[:2](images)
    wrong = float((slope_closed(inputs, 9, 1.0) < 0).double().mean())
    assert line["wrong_activations"]["2"] == pytest.approx(wrong, abs=1e-3)
    assert 0.3 < line["wrong_weights"]["2"] < 0.6
    assert sum(line["reach"]) == inputs.numel()
    assert repr(WrongSign(images, "2")) != repr(WrongSign(images + 1, "2"))


def trained(method, source, epochs=2):
    """The network after two steps."""
    model = method.prepare(source, X)
    progress = Progress(model, torch.optim.SGD(model.parameters(), 0.1), 1, epochs)
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for hook in method.hooks():
        hook.start(progress)
    for progress.epoch in range(epochs):
        model.train()(x).square().mean().backward()
        progress.optimizer.step()
    return model


@pytest.mark.parametrize(
    "method", [FDA(), FDA(variant="F1"), FDA.bibench(), Estimator("steepening"), Estimator()]
)
def test_training_twice_gives_the_same_bits_and_leaves_the_network_it_came_from(method):
    source = toy()
    before = copy.deepcopy(source.state_dict())
    first, second = (trained(method, source) for _ in range(2))
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert all(torch.equal(before[name], value) for name, value in source.state_dict().items())
    start = dict(method.prepare(source, X).named_parameters())
    still = {n for n, p in first.named_parameters() if torch.equal(p, start[n])}
    frozen = {f"{layer}.activation.{w}" for layer in ("2", "5") for w in ("w1", "w2")}
    assert still == (frozen if method == FDA.bibench() else set())
