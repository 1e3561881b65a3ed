"""ReBNN's mathematics, in float64: gradients, threshold, flips, gamma; and the released layer."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets.binary import ReBNN
from compactnets.binary.convert import binary_layers
from compactnets.binary.layers import BinaryConv2d
from compactnets.binary.rebnn import (
    ReleasedScale,
    Remember,
    ResilientScale,
    adaptive_gamma,
    gradients,
    reconstruction_loss,
    released_gamma,
    resilient_layers,
)
from compactnets.binary.scales import AnalyticScale, analytic_scale, per_filter
from compactnets.binary.ste import hard_sign, sign
from compactnets.method import Method, Progress

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SHAPES = st.sampled_from([(1, 1, 1, 1), (3, 2, 3, 3), (4, 5), (2, 3, 2)])
SEEDS = st.integers(0, 2**16)


def draw(seed, *shape, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64)


def case(shape, seed):
    """w with values on both sides of the window, alpha, g, gamma; float64."""
    w, g = draw(seed, *shape, spread=0.8), draw(seed + 1, *shape)
    alpha, gamma = draw(seed + 2, shape[0]).abs(), draw(seed + 3, shape[0]).abs()
    return w, alpha, g, gamma


@calm
@given(shape=SHAPES, seed=SEEDS)
def test_gradients_are_those_of_task_and_reconstruction_loss(shape, seed):
    w, alpha, g, gamma = case(shape, seed)
    w.requires_grad_(), alpha.requires_grad_()
    task = (g * per_filter(alpha, w) * sign(w)).sum()  # any loss with dL/dw_hat = g
    (task + reconstruction_loss(w, alpha, gamma)).backward()
    delta_w, delta_alpha = gradients(w.detach(), alpha.detach(), g, gamma)
    assert torch.allclose(w.grad, delta_w, rtol=1e-12, atol=1e-12)
    assert torch.allclose(alpha.grad, delta_alpha, rtol=1e-12, atol=1e-12)


@calm
@given(shape=SHAPES, seed=SEEDS, constant=st.sampled_from([0.0, 1e-2, 0.5]))
def test_the_layers_backward_pass_is_autograd_on_the_whole_objective(shape, seed, constant):
    w, _, g, _ = case(shape, seed)
    w.requires_grad_()
    scale = ResilientScale(w, constant)
    scale.alpha.data[0].neg_()
    scale(w).backward(g)
    ours = w.grad, scale.alpha.grad
    w.grad = scale.alpha.grad = None
    alpha, gamma = scale.alpha.abs(), torch.full_like(scale.alpha.data, constant)
    w_hat = per_filter(alpha, w) * sign(w)
    ((g * w_hat).sum() + reconstruction_loss(w, alpha, gamma)).backward()
    assert torch.allclose(ours[0], w.grad, rtol=1e-12, atol=1e-12)
    assert torch.allclose(ours[1], scale.alpha.grad, rtol=1e-12, atol=1e-12)


def test_the_reconstruction_loss_is_half_gamma_times_the_squared_distance():
    w = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    loss = reconstruction_loss(w, torch.tensor([1.0, 2.0]), torch.tensor([10.0, 1.0]))
    assert loss.item() == (10 * (0 + 1) + (4 + 1)) / 2  # sign(0) = +1


def test_arguments_stay_untouched():
    w, alpha, g, gamma = case((3, 2, 3, 3), 0)
    before = [t.clone() for t in (w, alpha, g, gamma)]
    gradients(w, alpha, g, gamma)
    scale = ResilientScale(w, "max")
    scale(w.requires_grad_()).backward(g)
    assert all(torch.equal(a, b) for a, b in zip(before, (w, alpha, g, gamma), strict=True))


def step(w, alpha, g, gamma, lr):
    """Weights after one step of plain SGD, and which signs it changed."""
    after = w - lr * gradients(w, alpha, g, gamma)[0]
    return after, hard_sign(after) != hard_sign(w)


@calm
@given(shape=SHAPES, seed=SEEDS, part=st.floats(0.01, 0.99), size=st.floats(0.1, 1e4))
def test_a_weight_flips_exactly_if_its_gradient_passes_the_threshold(shape, seed, part, size):
    w, alpha, g, gamma = case(shape, seed)
    alpha, gamma = size * alpha, gamma / 3
    lr = part / float(gamma.max())  # eta gamma < 1
    flips = step(w, alpha, g, gamma, lr)[1]
    a, c, b = per_filter(alpha, w), per_filter(gamma, w), hard_sign(w)
    windowed = g * (w.abs() <= 1)
    margin = windowed.abs() - c - (1 - lr * c) * w.abs() / (lr * a)
    clear = margin.abs() > 1e-9  # on the threshold itself rounding decides
    expected = (windowed * b > 0) & (margin > 0)
    assert torch.equal(flips[clear], expected[clear])
    assert (windowed.abs() > c)[flips].all()  # a flip needs |g| > gamma


def test_some_weights_flip_in_the_test_above():
    w, alpha, g, gamma = case((64, 4, 3, 3), 0)
    flips = step(w, 10 * alpha, g, gamma / 3, 0.9 / float(gamma.max()))[1]
    assert 0.05 < flips.double().mean() < 0.95


@calm
@given(shape=SHAPES, seed=SEEDS, part=st.floats(0.01, 0.99), size=st.floats(0.1, 1e4))
def test_with_gamma_at_the_largest_gradient_no_weight_flips(shape, seed, part, size):
    w, alpha, g, _ = case(shape, seed)
    gamma = g.flatten(1).abs().amax(1)
    after, flips = step(w, size * alpha, g, gamma, part / float(gamma.max()))
    assert not (flips & (after.abs() > 1e-12 * size)).any()


def test_the_bound_on_the_learning_rate_is_essential():
    w, alpha, g, _ = case((64, 4, 3, 3), 0)
    gamma = g.flatten(1).abs().amax(1)
    assert step(w, alpha, g, gamma, 3 / float(gamma.min()))[1].double().mean() > 0.1


@calm
@given(shape=SHAPES, seed=SEEDS, share=st.floats(0, 1))
def test_gamma_lies_between_zero_and_the_largest_gradient(shape, seed, share):
    g = draw(seed, *shape)
    flipped = draw(seed + 1, *shape).abs() < 3 * share - 1
    gamma = adaptive_gamma(flipped, g)
    peak = g.flatten(1).abs().amax(1)
    assert ((gamma >= 0) & (gamma <= peak)).all()
    assert torch.equal(gamma == 0, ~flipped.flatten(1).any(1) | (peak == 0))
    expected = flipped.flatten(1).sum(1) / g[0].numel() * peak
    assert torch.allclose(gamma, expected)


@calm
@given(shape=SHAPES, seed=SEEDS)
def test_remember_counts_the_signs_that_a_step_changed(shape, seed):
    w = draw(seed, *shape)
    scale = ResilientScale(w)
    assert (scale.share == 0).all()
    steps = [draw(seed + i, *shape) for i in range(1, 4)]
    steps[0].view(-1)[0] = -0.0  # counts as positive
    for before, after in zip([w, *steps], steps, strict=False):
        scale.remember(after)
        expected = ((before >= 0) != (after >= 0)).flatten(1).double().mean(1)
        assert torch.equal(scale.share, expected)
        assert torch.equal(scale.positive, after >= 0)
    scale.remember(steps[-1])
    assert (scale.share == 0).all()  # nothing moved, nothing flipped


@calm
@given(shape=SHAPES, seed=SEEDS)
def test_the_adaptive_layer_uses_the_share_of_the_last_step_and_shows_its_gamma(shape, seed):
    w, _, g, _ = case(shape, seed)
    scale = ResilientScale(w)
    moved = draw(seed + 9, *shape, spread=0.8).requires_grad_()
    scale.remember(moved.detach())
    assert (scale.last_gamma() == 0).all()  # no backward pass yet
    scale(moved).backward(g)
    flipped = (w >= 0) != (moved >= 0)
    gamma = adaptive_gamma(flipped, g)
    assert torch.allclose(scale.last_gamma(), gamma)
    expected = gradients(moved.detach(), scale.alpha.detach().abs(), g, gamma)
    assert torch.allclose(moved.grad, expected[0]) and torch.allclose(scale.alpha.grad, expected[1])


def test_gamma_max_and_constants_do_not_depend_on_flips():
    w, _, g, _ = case((3, 2, 3, 3), 1)
    peak = g.flatten(1).abs().amax(1)
    for gamma, expected in (("max", peak), (0.25, torch.full_like(peak, 0.25))):
        scale = ResilientScale(w, gamma)
        scale.remember(-w)
        scale(w.clone().requires_grad_()).backward(g)
        assert torch.allclose(scale.last_gamma(), expected)


@pytest.mark.parametrize(
    ("gamma", "message"),
    [
        ("adaptiv", 'gamma must be "adaptive", "max" or a number, got \'adaptiv\''),
        (-1e-9, "gamma must not be negative, got -1e-09"),
        (math.nan, "gamma must not be negative, got nan"),
    ],
)
def test_a_bad_gamma_is_refused(gamma, message):
    with pytest.raises(ValueError, match=message):
        ResilientScale(torch.ones(2, 3), gamma)


def toy():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, bias=False)
    )


def test_a_bad_scale_is_refused_when_the_network_is_prepared():
    with pytest.raises(ValueError, match=r"scale must be one of \[.*'resilient'\], got 'learned'"):
        ReBNN(scale="learned").prepare(toy(), torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gamma must not be negative"):
        ReBNN(gamma=-1.0).prepare(toy(), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (ReBNN(), ResilientScale),
        (ReBNN(gamma=0.0), ResilientScale),
        (ReBNN(scale="analytic"), AnalyticScale),
        (ReBNN(scale="released"), ReleasedScale),
    ],
)
def test_the_method_prepares_the_named_scale_and_groups_latent_weights_apart(method, kind):
    assert isinstance(method, Method)
    model = method.prepare(toy(), torch.zeros(1, 3, 8, 8))
    ((name, layer),) = binary_layers(model)
    assert name == "2" and isinstance(layer.binarizer, kind)
    assert len(list(resilient_layers(model))) == (kind is ResilientScale)
    rest, latent = method.parameter_groups(model)
    assert latent["params"] == [layer.weight] and latent["lr_scale"] == method.latent_lr
    together = {id(p) for p in [*rest["params"], *latent["params"]]}
    assert together == {id(p) for p in model.parameters()}
    assert len(rest["params"]) + 1 == len(list(model.parameters()))
    assert method.hooks()[0] is not method.hooks()[0]  # fresh ones


def test_the_released_scales_random_start_depends_on_the_methods_seed_alone():
    def alpha(seed):
        model = ReBNN(scale="released", seed=seed).prepare(toy(), torch.zeros(1, 3, 8, 8))
        return model[2].binarizer.alpha.detach()

    before = torch.get_rng_state()
    first = alpha(0)
    torch.rand(3)
    assert torch.equal(first, alpha(0)) and not torch.equal(first, alpha(1))
    torch.set_rng_state(before)


def test_the_hook_remembers_after_each_step_and_clears_the_peak():
    layer = BinaryConv2d(nn.Conv2d(2, 3, 3, bias=False), ResilientScale)
    model = nn.Sequential(layer)
    hook, optimizer = Remember(), torch.optim.SGD(model.parameters(), 1.0)
    hook.start(progress := Progress(model, optimizer, 1, 1))
    model(torch.randn(1, 2, 5, 5)).square().sum().backward()
    assert (layer.binarizer.peak.grad > 0).all()
    with torch.no_grad():
        layer.weight[0].neg_()
    hook.after_step(progress)
    assert layer.binarizer.share.tolist() == [1, 0, 0] and layer.binarizer.peak.grad is None
    assert repr(hook) == "Remember()"


@calm
@given(p=st.floats(0, 1e6))
def test_the_released_clamp_is_a_constant(p):
    assert released_gamma(p) == 2e-4


@calm
@given(shape=SHAPES, seed=SEEDS)
def test_the_released_layer_differs_in_four_documented_places(shape, seed):
    w, _, g, _ = case(shape, seed)
    w = (2 * w).requires_grad_()  # many outside the window
    scale = ReleasedScale(w)
    scale.alpha.data = draw(seed + 5, shape[0]).abs() + 0.1
    w_hat = scale(w)
    w_hat.backward(g)
    a, b, gamma = per_filter(scale.alpha.detach(), w), hard_sign(w.detach()), 2e-4
    residual = gamma * (w.detach() - 0.02 * a * b)
    assert torch.allclose(w_hat.detach(), 0.02 * a * b)  # 1: the factor
    assert torch.allclose(w.grad, a * g + residual)  # 2, 3: no window, no factor, gamma constant
    data_term = (g * w.detach()).flatten(1).sum(1)  # 4: sum g w, not sum g b
    expected = data_term - (residual * b).flatten(1).sum(1)
    assert torch.allclose(scale.alpha.grad, expected)
    assert torch.allclose(scale.scale(w), 0.02 * scale.alpha.abs())


def test_gamma_zero_is_a_learned_scale_and_nothing_else():
    w, _, g, _ = case((3, 2, 3, 3), 4)
    alpha = analytic_scale(w)
    delta_w, delta_alpha = gradients(w, alpha, g, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(delta_w, per_filter(alpha, w) * (g * (w.abs() <= 1)))
    assert torch.allclose(delta_alpha, (g * hard_sign(w)).flatten(1).sum(1))
