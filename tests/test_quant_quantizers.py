"""Activation quantizers: levels, codes, gradients by the closed forms, calibration."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compactnets.quant import Lsq, MaxAbs, Pact, Pams, encode, lsq, pact, pams
from compactnets.quant.quantizer import Codes, percentile

QUANTIZERS = {
    "pams": Pams,
    "max_abs": MaxAbs,
    "pact": Pact,
    "lsq signed": Lsq,
    "lsq unsigned": lambda bits: Lsq(bits, signed=False),
}
LEVELS = {  # number of values of a quantizer of b bits
    "pams": lambda b: 2**b - 1,
    "max_abs": lambda b: 2**b - 1,
    "pact": lambda b: 2**b,
    "lsq signed": lambda b: 2**b,
    "lsq unsigned": lambda b: 2**b,
}
each_quantizer = pytest.mark.parametrize("name", QUANTIZERS)
each_width = pytest.mark.parametrize("bits", [2, 3, 4, 8])


def images(seed=0, *shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*(shape or (2, 3, 9, 8)), generator=generator, dtype=dtype)


def calibrated(name, bits, x):
    quantizer = QUANTIZERS[name](bits)
    quantizer.calibrate(x)
    return quantizer


@each_width
@each_quantizer
def test_forward_gives_exactly_the_levels_of_the_codes(name, bits):
    x = images(bits)
    quantizer = calibrated(name, bits, x)
    with torch.no_grad():
        for parameter in (*quantizer.parameters(), *quantizer.buffers()):
            parameter.mul_(0.7)  # something is clipped
        x_hat = quantizer(x)
    codes = quantizer.codes(x)
    assert codes.values.dtype is torch.uint8 and int(codes.values.max()) < 2**bits
    assert torch.allclose(codes.decode(), x_hat, rtol=1e-6, atol=0)
    assert torch.equal(codes.integers().sign(), x_hat.sign().int())


@each_width
@each_quantizer
def test_the_levels_are_counted_and_zero_is_one(name, bits):
    quantizer = calibrated(name, bits, images())
    dense = torch.linspace(-99, 99, 200_001)
    values = quantizer.codes(dense).decode().unique()
    assert len(values) == len(quantizer(dense).detach().unique()) == LEVELS[name](bits)
    assert 0 in values and torch.allclose(values.diff(), quantizer.codes(dense).step, rtol=1e-4)


@each_width
def test_symmetric_levels_leave_half_unused_where_nothing_is_negative(bits):  # C5
    x = torch.linspace(-5, 5, 10_001)[None].relu()
    quantizer = calibrated("pams", bits, x)
    assert len(quantizer(x).detach().unique()) == 2 ** (bits - 1)
    assert len(calibrated("pact", bits, x)(x).detach().unique()) == 2**bits


def test_two_bits_are_minus_alpha_zero_alpha():
    x = torch.tensor([-9.0, -1.01, -0.99, 0.0, 0.99, 1.01, 9.0])
    assert pams(x, torch.tensor(2.0), 2).tolist() == [-2, -2, 0, 0, 0, 2, 2]


@given(bits=st.integers(2, 8), seed=st.integers(0, 2**16), alpha=st.floats(0.01, 50))
def test_pams_is_odd_idempotent_and_off_by_half_a_step_at_most(bits, seed, alpha):
    x, bound = images(seed, dtype=torch.float64), torch.tensor(alpha, dtype=torch.float64)
    x_hat, c = pams(x, bound, bits), x.clamp(-alpha, alpha)
    assert torch.equal(pams(-x, bound, bits), -x_hat)
    assert torch.allclose(pams(x_hat, bound, bits), x_hat, rtol=1e-12)
    half = alpha / (2 ** (bits - 1) - 1) / 2
    assert (x_hat - c).abs().max() <= half * (1 + 1e-9)


def gradients(function, x, bound):
    """(x_hat, its gradient by x, its gradient by the bound element by element) from autograd."""
    x, spread = x.clone().requires_grad_(), bound.expand(x.shape).clone().requires_grad_()
    parts = [function(a, b) for a, b in zip(x.unbind(), spread.unbind(), strict=True)]
    (x_hat := torch.stack(parts)).sum().backward()
    return x_hat.detach(), x.grad, spread.grad


def edges(bound, steps):
    """Values within, at and beyond the bounds, in float64."""
    inner = torch.linspace(-1.3, 1.3, 41, dtype=torch.float64) * bound * steps
    ends = torch.tensor([-steps, 0.0, steps], dtype=torch.float64) * bound
    return torch.cat((inner, ends))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_pams_gradients_are_the_closed_forms_edges_included(bits):
    alpha = torch.tensor(1.7, dtype=torch.float64)
    x = edges(alpha, 1.0)
    x_hat, by_x, by_alpha = gradients(lambda a, b: pams(a, b, bits), x, alpha)
    assert torch.allclose(by_x, (x.abs() <= alpha).double(), rtol=0, atol=1e-12)
    expected = x.sign() * (x.abs() > alpha) + (x_hat - x.clamp(-alpha, alpha)) / alpha
    assert torch.allclose(by_alpha, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_pact_gradients_are_two_indicators_edges_included(bits):
    alpha = torch.tensor(1.7, dtype=torch.float64)
    x = edges(alpha, 1.0)
    _, by_x, by_alpha = gradients(lambda a, b: pact(a, b, bits), x, alpha)
    assert torch.equal(by_x, ((x >= 0) & (x < alpha)).double())
    assert torch.equal(by_alpha, (x >= alpha).double())
    assert by_alpha[-1] == 1 and by_x[-1] == 0 and by_x[-2] == 1  # at alpha, and at 0


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_lsq_gradients_are_equation_3_edges_included(bits, signed):
    s = torch.tensor(0.25, dtype=torch.float64)  # a power of two: the ends are hit exactly
    q_n, q_p = (2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    x = torch.cat((edges(s, q_p), torch.tensor([-q_n, q_p], dtype=torch.float64) * s))
    v = x / s
    _, by_x, by_s = gradients(lambda a, b: lsq(a, b, bits, signed=signed, scale=0.5), x, s)
    inside = (-q_n < v) & (v < q_p)
    by_paper = torch.where(inside, v.round() - v, v.clamp(-q_n, q_p))
    assert torch.equal(by_x, inside.double())
    assert torch.allclose(by_s, 0.5 * by_paper, rtol=0, atol=1e-12)


def test_lsq_starts_and_scales_as_the_paper_says():
    weight = images(1, 8, 4, 3, 3)
    quantizer = Lsq(3, per_image=False)
    quantizer.calibrate(weight)
    assert math.isclose(
        quantizer.step.item(), 2 * weight.abs().mean().item() / 3**0.5, rel_tol=1e-6
    )
    assert math.isclose(quantizer.gradient_scale(weight), 1 / math.sqrt(8 * 36 * 3))
    assert math.isclose(Lsq(3, signed=False).gradient_scale(weight), 1 / math.sqrt(36 * 7))


def test_calibration_follows_its_rule():
    batches = [torch.tensor([[1.0, -4.0], [2.0, 0.0]]), torch.tensor([[0.0, 5.0], [-7.0, 1.0]])]
    quantizer = Pams(2)
    quantizer.calibrate(batches, "ema", decay=0.75)
    assert quantizer.alpha.item() == pytest.approx(0.75 * 3 + 0.25 * 6)
    quantizer.calibrate(batches, "percentile", percent=100)
    assert quantizer.alpha.item() == pytest.approx((4 + 7) / 2)
    largest = MaxAbs(2)
    largest.calibrate(iter(batches))
    assert largest.alpha.item() == 7 and not list(largest.parameters())


def test_a_percentile_is_a_value_that_occurs():
    x = torch.arange(101.0).flip(0).reshape(1, 101)
    assert [percentile(x, p).item() for p in (0, 1, 50, 99, 100)] == [0, 1, 50, 99, 100]
    with pytest.raises(ValueError, match="percentile 101"):
        percentile(x, 101)


@pytest.mark.parametrize("bits", [1, 9, 2.0, True])
@each_quantizer
def test_other_widths_are_refused(name, bits):
    with pytest.raises(ValueError, match="from 2 to 8"):
        QUANTIZERS[name](bits)


def test_unknown_starts_are_refused():
    with pytest.raises(ValueError, match="start must be"):
        Pams(2).calibrate(images(), "max")


@each_quantizer
def test_a_calibration_without_batches_is_refused(name):
    with pytest.raises(ValueError, match="at least one batch"):
        QUANTIZERS[name](2).calibrate([])


@each_quantizer
def test_nan_passes_forward_and_becomes_the_lowest_code(name):
    quantizer = calibrated(name, 3, images())
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
    x_hat = quantizer(x).detach()
    assert x_hat[0].isnan() and x_hat[1:].isfinite().all()
    codes = quantizer.codes(x)
    assert codes.values[0] == 0 and torch.allclose(codes.decode()[1:], x_hat[1:])


@each_quantizer
def test_arguments_stay_untouched_and_the_dtype_is_kept(name):
    x = images()
    before = x.clone()
    quantizer = calibrated(name, 2, x)
    quantizer.codes(x)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert quantizer(x.to(dtype)).dtype is dtype
    assert torch.equal(x, before)


@each_quantizer
def test_a_bound_pushed_below_zero_still_quantizes_and_comes_back(name):
    quantizer = QUANTIZERS[name](2)
    bound = next(iter((*quantizer.parameters(), *quantizer.buffers())))
    with torch.no_grad():
        bound.fill_(-0.5)
    x_hat = quantizer(images())
    assert x_hat.abs().max() < 1e-5
    if bound.requires_grad:
        (x_hat - images().relu()).square().sum().backward()
        assert bound.grad < 0  # descent raises it


def test_images_with_codes_of_their_own_equal_each_alone():
    x = images(3, 3, 2, 5, 5).contiguous(memory_format=torch.channels_last)
    inverse, zero = torch.tensor([0.5, 1.3, 2.0]), torch.tensor([0, 2, 300], dtype=torch.int32)
    codes = encode(x, inverse, zero, 3)
    assert codes.values.is_contiguous(memory_format=torch.channels_last)
    for i in range(3):
        alone = encode(x[i : i + 1], inverse[i], zero[i], 3)
        assert torch.equal(codes.values[i], alone.values[0])
        assert torch.equal(codes.decode()[i], alone.decode()[0])


@given(zero=st.integers(-5, 300), seed=st.integers(0, 2**16), highest=st.integers(1, 255))
def test_encoding_is_rounding_shifting_and_clamping(zero, seed, highest):
    x = images(seed)
    codes = encode(x, torch.tensor(1.5), zero, highest)
    assert torch.equal(codes.values, ((x * 1.5).round() + zero).clamp(0, highest).byte())
    assert isinstance(codes, Codes) and codes.zero == zero
