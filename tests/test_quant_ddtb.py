"""DDTB's quantizer: levels, errors, gradients, ties; its gate; which layers are dynamic."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets.method import Progress
from compactnets.quant.affine import affine, affine_grid, gradients, steps_per_unit
from compactnets.quant.ddtb import (
    DualBounds,
    Gate,
    OpenGates,
    TraceBounds,
    dynamic_intensity,
    min_max,
    most_dynamic,
    symmetric,
)
from compactnets.quant.quantizer import encode
from compactnets.quant.ste import round_ste

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
BITS = st.sampled_from([2, 3, 4, 8])
SEEDS = st.integers(0, 2**16)


def draw(seed, *shape, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64)


def case(seed, bits, images=3):
    """Inputs, and generic bounds around 0: s * lower is not near half an integer."""
    upper, lower = draw(seed, 2).abs() + 0.3
    lower = -lower
    s = (2**bits - 1) / (upper - lower)
    if abs((s * lower) % 1 - 0.5) < 0.01:
        lower = lower * 1.05
    return draw(seed + 1, images, 2, 5, 5, spread=1.5), upper, lower


def as_printed(x, upper, lower, bits):
    """The quantizer's equations, one by one, with straight-through rounding."""
    c = torch.maximum(torch.minimum(x, upper), lower)
    s = (2**bits - 1) / (upper - lower)
    z = round_ste(s * lower) + 2 ** (bits - 1)
    q = round_ste(s * c - z)
    return (q + z) / s


@calm
@given(seed=SEEDS, bits=BITS)
def test_there_are_at_most_2_to_the_bits_levels_and_all_are_multiples_of_the_step(seed, bits):
    x, upper, lower = case(seed, bits)
    x_hat = affine(x, upper, lower, bits)
    multiples = x_hat * steps_per_unit(upper, lower, bits)
    assert len(multiples.round().unique()) <= 2**bits
    assert torch.allclose(multiples, multiples.round(), atol=1e-9)
    assert affine(torch.zeros(3), upper.float(), lower.float(), bits).tolist() == [0, 0, 0]


@calm
@given(seed=SEEDS, bits=BITS)
def test_the_error_is_at_most_half_a_step_also_at_the_ends(seed, bits):
    x, upper, lower = case(seed, bits)
    x = torch.cat([x.flatten(), upper[None], lower[None], torch.tensor([-99.0, 99.0])])
    error = affine(x, upper, lower, bits) - x.clamp(lower, upper)
    assert error.abs().max() <= 0.5 / steps_per_unit(upper, lower, bits) + 1e-12


@calm
@given(seed=SEEDS, bits=BITS)
def test_value_and_gradients_are_those_of_the_printed_equations(seed, bits):
    x, upper, lower = case(seed, bits)
    leaves = [t.clone().requires_grad_() for t in (x, upper, lower)]
    grad = draw(seed + 2, *x.shape)
    printed, ours = as_printed(*leaves, bits), affine(*leaves, bits)
    assert torch.allclose(printed, ours, atol=1e-12)
    wanted = torch.autograd.grad(printed, leaves, grad)
    for found in (
        torch.autograd.grad(ours, leaves, grad),
        gradients(grad, x, ours.detach(), upper, lower),
    ):
        for one, other in zip(found, wanted, strict=True):
            assert torch.allclose(one, other, atol=1e-10)


@calm
@given(seed=SEEDS, bits=BITS)
def test_the_bounds_gradients_add_up_to_the_gradient_over_clipped_values(seed, bits):
    x, upper, lower = case(seed, bits)
    grad = draw(seed + 2, *x.shape)
    for error_term in (True, False):
        x_hat = affine(x, upper, lower, bits)
        _, at_upper, at_lower = gradients(grad, x, x_hat, upper, lower, error_term)
        clipped = grad[(x > upper) | (x < lower)].sum()
        assert torch.allclose(at_upper + at_lower, clipped, atol=1e-10)


def test_without_error_term_the_bounds_get_the_indicators():
    x, upper, lower = case(3, 2)
    grad = draw(5, *x.shape)
    x_hat = affine(x, upper, lower, 2)
    _, at_upper, at_lower = gradients(grad, x, x_hat, upper, lower, error_term=False)
    assert torch.allclose(at_upper, grad[x > upper].sum(), atol=1e-12)
    assert torch.allclose(at_lower, grad[x < lower].sum(), atol=1e-12)


def test_bounds_per_image_give_each_image_its_own_result_and_gradient():
    x, upper, lower = case(7, 2)
    factor = torch.tensor([0.5, 1.0, 1.7], dtype=torch.float64)
    u = (factor * upper).view(3, 1, 1, 1).requires_grad_()
    low = (factor * lower).view(3, 1, 1, 1).requires_grad_()
    affine(x, u, low, 2).square().sum().backward()
    codes = encode(x, *affine_grid(u, low, 2))
    for i in range(3):
        ui, li = u.detach()[i, 0, 0, 0].requires_grad_(), low.detach()[i, 0, 0, 0].requires_grad_()
        alone = affine(x[i : i + 1], ui, li, 2)
        alone.square().sum().backward()
        assert torch.allclose(ui.grad, u.grad[i, 0, 0, 0])
        assert torch.allclose(li.grad, low.grad[i, 0, 0, 0])
        assert torch.allclose(codes.decode()[i].double(), alone[0].detach(), atol=1e-6)


@pytest.mark.parametrize(("bits", "levels"), [(2, 5), (3, 9), (4, 17)])
def test_symmetric_bounds_are_ties_and_have_one_level_more(bits, levels):
    ten = torch.tensor(10.0)
    x_hat = affine(torch.linspace(-12, 12, 4001), ten, -ten, bits)
    assert len(x_hat.unique()) == levels
    if bits == 2:
        wanted = torch.tensor([-40, -20, 0, 20, 40]) / 3
        assert torch.allclose(x_hat.unique(), wanted)
    assert int(encode(x_hat, *affine_grid(ten, -ten, bits)).values.max()) == 2**bits - 1


def test_non_negative_values_reach_all_four_levels_only_if_the_lower_bound_is_near_zero():
    x, ten = torch.linspace(0, 12, 4001), torch.tensor(10.0)
    reached = [len(affine(x, ten, torch.tensor(low), 2).unique()) for low in (0.0, -2.2, -10.0)]
    assert reached == [4, 3, 3]


@calm
@given(seed=SEEDS, bits=BITS)
def test_codes_stand_for_exactly_the_rounded_values(seed, bits):
    x, upper, lower = (t.float() for t in case(seed, bits))
    codes = encode(x, *affine_grid(upper, lower, bits))
    assert torch.equal(codes.decode(), affine(x, upper, lower, bits))
    assert codes.values.dtype == torch.uint8 and int(codes.values.max()) < 2**bits


def test_bounds_that_meet_or_cross_stay_finite_and_arguments_stay_as_they_were():
    x = draw(0, 2, 1, 3, 3)
    for upper, lower in ((1.0, 1.0), (-1.0, 1.0)):
        u, low = (torch.tensor(v, dtype=torch.float64).requires_grad_() for v in (upper, lower))
        before, grad = x.clone(), torch.ones_like(x)
        affine(x.clone().requires_grad_(), u, low, 2).backward(grad)
        assert all(t.grad.isfinite() for t in (u, low))
        assert torch.equal(before, x) and torch.equal(grad, torch.ones_like(x))


@pytest.mark.parametrize("bits", [1, 9, 2.0])
def test_bits_outside_of_2_to_8_are_refused(bits):
    with pytest.raises(ValueError, match="bits"):
        affine(torch.ones(1), torch.tensor(1.0), torch.tensor(0.0), bits)


def test_percentile_start_is_the_mean_over_the_batches():
    quantizer = DualBounds(2)
    quantizer.calibrate([torch.arange(101.0), torch.arange(101.0) - 50])
    assert float(quantizer.alpha_u.detach()) == (99 + 49) / 2
    assert float(quantizer.alpha_l.detach()) == (1 - 49) / 2


def with_gate(seed=0, **options):
    torch.manual_seed(seed)
    quantizer = DualBounds(2, bound=1.3)
    with torch.no_grad():
        quantizer.alpha_l.fill_(-0.4)
    quantizer.gate = Gate(6, **options)
    return quantizer


def test_a_gate_has_2176_parameters_for_64_channels():
    assert sum(p.numel() for p in Gate(64).parameters()) == 32 * 64 + 64 + 64 == 2176


def test_zero_logits_are_the_static_quantizer_and_a_closed_gate_too():
    x = draw(0, 4, 6, 5, 5).float()
    quantizer = with_gate()
    static = affine(x, quantizer.alpha_u, quantizer.alpha_l, 2)
    assert torch.equal(quantizer(x), static)  # closed
    quantizer.gated.fill_(True)
    assert not torch.equal(quantizer(x), static)
    nn.init.zeros_(quantizer.gate.w2)
    assert torch.equal(quantizer(x), static)


def test_a_gate_scales_the_bounds_of_each_image_by_a_factor_between_0_and_2():
    quantizer = with_gate().eval()
    quantizer.gated.fill_(True)
    x = draw(0, 4, 6, 5, 5).float() + draw(1, 4, 6, 1, 1).float()
    upper, lower = quantizer.bounds(x)
    for bound, alpha in ((upper, quantizer.alpha_u), (lower, quantizer.alpha_l)):
        beta = (bound / alpha).flatten()
        assert beta.shape == (4,) and len(beta.unique()) > 1 and 0 < beta.min() < beta.max() < 2


@pytest.mark.parametrize(("released", "learn"), [(False, 4), (True, 1)])
def test_in_the_released_gate_only_the_second_layer_learns(released, learn):
    quantizer = with_gate(released=released)
    quantizer.gated.fill_(True)
    x = draw(0, 4, 6, 5, 5).float().requires_grad_()
    quantizer(x).square().sum().backward()
    moved = [p for p in quantizer.gate.parameters() if p.grad is not None and p.grad.any()]
    assert len(moved) == learn and any(p is quantizer.gate.w2 for p in moved)
    inside = (x > quantizer.bounds(x)[1]) & (x < quantizer.bounds(x)[0])
    assert not x.grad[~inside].any()  # the gate looks at x without a gradient


def test_gate_layers_are_ternary_and_see_four_values():
    w, x = draw(0, 32, 6), draw(1, 7, 6)
    assert len(symmetric(w, 2).unique()) == 3 and symmetric(w, 2).max() <= w.abs().max()
    assert len(min_max(x, 2).unique()) == 4
    assert min_max(x, 2).min() == x.min() and torch.isclose(min_max(x, 2).max(), x.max())


def test_a_gate_survives_a_flat_image():
    quantizer = with_gate().eval()
    quantizer.gated.fill_(True)
    assert quantizer(torch.full((1, 6, 3, 3), 0.25)).isfinite().all()


def test_a_closed_gate_has_a_penalty_an_open_one_none_and_it_is_given_out_once():
    quantizer, x = with_gate(), draw(0, 4, 6, 5, 5).float()
    quantizer(x)
    penalty = quantizer.take_penalty()
    assert float(penalty.detach()) > 0 and quantizer.take_penalty() is None
    penalty.backward()
    assert quantizer.gate.w2.grad.any()
    quantizer.gated.fill_(True)
    quantizer(x)
    assert float(quantizer.take_penalty().detach()) == 0
    copy.deepcopy(quantizer.eval())


@pytest.mark.parametrize(("share", "count"), [(0.3, 14), (0.0, 0), (1.0, 48)])
def test_the_share_rounds_down_14_of_48_at_0_3(share, count):
    intensity = draw(0, 48)
    chosen = most_dynamic(intensity, share)
    assert len(chosen) == count
    rest = [value for i, value in enumerate(intensity) if i not in chosen]
    assert all(intensity[i] >= value for i in chosen for value in rest)


def test_dynamic_intensity_adds_the_variances_of_both_ends():
    highest = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    lowest = torch.tensor([[0.0, 0.0], [-1.0, -5.0]])
    assert dynamic_intensity(highest, lowest).tolist() == [2.0, 8.0]
    assert most_dynamic(torch.tensor([2.0, 8.0]), 0.5) == [1]
    with pytest.raises(ValueError, match="share"):
        most_dynamic(highest[0], 1.5)


def test_gates_open_after_the_warm_up_and_stay_as_they_were_in_the_last_epoch():
    model = nn.Sequential(DualBounds(2), DualBounds(2))
    progress = Progress(model, None, steps_per_epoch=1, epochs=3)  # type: ignore[arg-type]
    for warmup, states in ((0, "111"), (1, "011"), (2, "001"), (3, "000")):
        hook, seen = OpenGates(warmup), ""
        hook.start(progress)
        for progress.epoch in range(3):
            seen += str(int(model[0].gated))
            hook.epoch_end(progress)
        assert seen == states and int(model[1].gated) == int(states[-1])
    with pytest.raises(ValueError, match="warmup"):
        OpenGates(-1)


def test_bounds_are_traced_at_the_start_and_every_few_steps():
    model = nn.Sequential(DualBounds(2, bound=4.0))
    progress = Progress(model, None, steps_per_epoch=4, epochs=1)  # type: ignore[arg-type]
    hook = TraceBounds(every=2)
    hook.start(progress)
    for progress.step in range(1, 5):
        hook.after_step(progress)
    lines = hook.epoch_end(progress)["bounds"]
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert lines[0]["upper"] == [4.0] and lines[0]["lower"] == [-4.0]
