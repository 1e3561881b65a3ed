"""Sign estimators: one bit forward, the stated slope backward."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compactnets.binary.ste import Clipped, Polynomial, SignSwish, Tanh, hard_sign, sign

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SLOPES = [Clipped(), Clipped(0.5), Clipped(math.inf), Polynomial(), Tanh(), Tanh(3, 0.5)]
SLOPES += [SignSwish(), SignSwish(2.0)]
EVERY = pytest.mark.parametrize("slope", SLOPES, ids=repr)
REALS = st.lists(st.floats(width=32), min_size=1, max_size=20)


@EVERY
@calm
@given(values=REALS)
def test_every_estimator_has_two_values_at_one_level(slope, values):
    x = torch.tensor(values)
    y = sign(x, slope)
    assert y.dtype == x.dtype and y.shape == x.shape
    assert y.tolist() == [1.0 if v >= 0 else -1.0 for v in values]


@EVERY
def test_zeros_are_plus_one_and_nan_is_minus_one(slope):
    x = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf])
    assert sign(x, slope).tolist() == hard_sign(x).tolist() == [1, 1, -1, 1, -1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_type_and_layout_are_kept(dtype):
    x = torch.randn(2, 3, 4, 5).to(dtype, memory_format=torch.channels_last).requires_grad_()
    y = sign(x, Polynomial())
    y.backward(torch.ones_like(y))
    assert y.dtype == x.grad.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)


@EVERY
def test_arguments_and_the_incoming_gradient_stay_untouched(slope):
    x = torch.linspace(-2, 2, 9, requires_grad=True)
    before, incoming = x.detach().clone(), torch.full((9,), 3.0)
    sign(x, slope).backward(incoming)
    assert torch.equal(x.detach(), before) and torch.equal(incoming, torch.full((9,), 3.0))
    assert x.grad.data_ptr() != incoming.data_ptr()


@EVERY
@calm
@given(values=REALS.map(lambda v: [x for x in v if math.isfinite(x)] or [0.5]))
def test_the_gradient_is_the_incoming_one_times_the_slope(slope, values):
    x = torch.tensor(values, requires_grad=True)
    incoming = torch.arange(1.0, len(values) + 1)
    sign(x, slope).backward(incoming)
    assert torch.equal(x.grad, incoming * slope(x.detach()))


@pytest.mark.parametrize(
    ("slope", "area"),
    [
        (Clipped(), 2.0),
        (Clipped(0.5), 1.0),
        (Polynomial(), 2.0),
        (Tanh(), 2.0),
        (Tanh(3, 0.5), 1.0),
        (SignSwish(), 2.0),
        (SignSwish(2.0), 2.0),
    ],
    ids=repr,
)
def test_a_slope_integrates_to_the_step_of_its_surrogate(slope, area):
    x = torch.linspace(-40, 40, 800_001, dtype=torch.float64)
    assert float(torch.trapezoid(slope(x), x)) == pytest.approx(area, abs=1e-3)


def _swish(x, b):
    s = torch.sigmoid(b * x)
    return 2 * s * (1 + b * x * (1 - s)) - 1  # BNN+, eq. 3


def _square(x):
    return torch.where(x < 0, 2 * x + x.square(), 2 * x - x.square())  # Bi-Real, eq. 6


@pytest.mark.parametrize(
    ("slope", "surrogate", "bound"),
    [
        (Clipped(0.7), lambda x: x, 0.699),
        (Polynomial(), _square, 0.999),
        (Tanh(2.0, 1.5), lambda x: 1.5 * torch.tanh(2 * x), 3.0),
        (SignSwish(5.0), lambda x: _swish(x, 5.0), 3.0),
    ],
    ids=["clipped", "polynomial", "tanh", "signswish"],
)
def test_a_slope_is_the_derivative_of_its_surrogate(slope, surrogate, bound):
    x = torch.linspace(-bound, bound, 400, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(surrogate(x).sum(), x)
    assert torch.allclose(slope(x.detach()), derivative, atol=1e-9)


def test_slopes_at_their_edges():
    x = torch.tensor([-2.0, -1.0, -0.0, 0.0, 1.0, 1.0000001, 2.0])
    assert Clipped()(x).tolist() == [0, 1, 1, 1, 1, 0, 0]  # closed interval
    assert Polynomial()(x).tolist() == [0, 0, 2, 2, 0, 0, 0]
    assert Tanh(2.0, 3.0)(torch.zeros(1)).item() == 6.0
    assert SignSwish(5.0)(torch.zeros(1)).item() == 5.0
    far = torch.tensor([-1e30, 1e30])
    for slope in (Clipped(), Polynomial(), Tanh(), SignSwish()):
        assert slope(far).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert Clipped(math.inf)(far).tolist() == [1, 1]


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_that_lets_nothing_pass_is_refused(clip):
    with pytest.raises(ValueError, match="clip must be positive"):
        Clipped(clip)
