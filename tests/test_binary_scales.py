"""Scales of binary weights: least-squares and learned ones, and what makes them packable."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets.binary.layers import BinaryConv2d
from compactnets.binary.rebnn import ReleasedScale, ResilientScale
from compactnets.binary.scales import (
    AnalyticScale,
    LearnedScale,
    analytic_scale,
    check_binarizer,
    per_filter,
)
from compactnets.binary.ste import Clipped, Polynomial, hard_sign

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SHAPES = st.sampled_from([(1, 1, 1, 1), (3, 2, 3, 3), (4, 7), (2, 5, 3)])


def weights(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@calm
@given(shape=SHAPES, seed=st.integers(0, 2**16), off=st.floats(-1, 1))
def test_the_analytic_scale_minimises_the_squared_error(shape, seed, off):
    w = weights(shape, seed)
    alpha, b = analytic_scale(w), hard_sign(w)

    def error(a):
        return (w - per_filter(a, w) * b).square().flatten(1).sum(1)

    assert (error(alpha) <= error(alpha + off) + 1e-12).all()
    size = w[0].numel()  # the excess is that of a parabola: M (alpha' - alpha)^2
    assert torch.allclose(error(alpha + off) - error(alpha), torch.full((), size * off**2).double())


def test_the_analytic_scale_is_the_mean_magnitude_of_a_filter():
    w = torch.tensor([[[1.0, -3.0]], [[0.0, 0.5]]])
    assert analytic_scale(w).tolist() == [2.0, 0.25]
    assert per_filter(torch.tensor([2.0, 3.0]), w).shape == (2, 1, 1)


def binarizers(w):
    yield AnalyticScale()
    yield AnalyticScale(Polynomial())
    yield LearnedScale(w)
    yield ReleasedScale(w)
    for gamma in ("adaptive", "max", 0.0, 1e-3):
        yield ResilientScale(w, gamma)


@calm
@given(shape=SHAPES, seed=st.integers(0, 2**16), negative=st.booleans())
def test_every_binarizer_is_a_scaled_sign(shape, seed, negative):
    w = weights(shape, seed, torch.float32)
    w.view(-1)[0] = 0.0
    for binarizer in binarizers(w):
        if negative and hasattr(binarizer, "alpha"):
            binarizer.alpha.data.neg_()  # training may take it below 0; |alpha| is what counts
        check_binarizer(binarizer, w)
        assert binarizer.scale(w).shape == w.shape[:1] and (binarizer.scale(w) >= 0).all()


def test_what_is_no_scaled_sign_cannot_be_packed():
    class Ternary(AnalyticScale):
        def forward(self, w):
            return super().forward(w) * (w.abs() > 0.5)

    with pytest.raises(ValueError, match=r"Ternary\(.*\) is no scaled sign: .*packed into bits"):
        check_binarizer(Ternary(), weights((3, 2, 3, 3), 0))


@calm
@given(seed=st.integers(0, 2**16))
def test_gradients_of_analytic_and_learned_scale_follow_their_formulas(seed):
    w = (1.5 * weights((3, 2, 3, 3), seed)).requires_grad_()
    g = weights((3, 2, 3, 3), seed + 1)
    b, inside = hard_sign(w.detach()), (w.detach().abs() <= 1).double()
    AnalyticScale()(w).backward(g)
    assert torch.allclose(w.grad, per_filter(analytic_scale(w.detach()), w) * g * inside)
    w.grad = None
    learned = LearnedScale(w)
    learned.alpha.data[0].neg_()
    learned(w).backward(g)
    alpha = learned.alpha.detach()
    assert torch.allclose(w.grad, per_filter(alpha.abs(), w) * g * inside)
    assert torch.allclose(learned.alpha.grad, (g * b).flatten(1).sum(1) * alpha.sign())


def test_learned_scales_start_at_the_analytic_one_but_the_released_at_random():
    w = weights((4, 2, 3, 3), 0, torch.float32)
    assert torch.equal(LearnedScale(w).alpha, analytic_scale(w))
    assert torch.equal(ResilientScale(w).alpha, analytic_scale(w))
    assert not torch.equal(ReleasedScale(w).alpha, ReleasedScale(w).alpha)


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"groups": 2}, {"dilation": 2, "padding": 2}, {"kernel_size": (1, 3)}],
)
def test_the_layer_convolves_shifted_signs_with_scaled_ones(options):
    options = {"kernel_size": 3, "padding": 1, **options}
    conv = nn.Conv2d(4, 6, bias=False, **options)
    layer = BinaryConv2d(conv, lambda w: AnalyticScale())
    nn.init.normal_(layer.shift)
    x = torch.randn(2, 4, 9, 8)
    signs = hard_sign(x + layer.shift.detach().view(1, -1, 1, 1))
    real = nn.Conv2d(4, 6, bias=False, **options)
    real.weight.data = per_filter(analytic_scale(conv.weight.data), conv.weight) * hard_sign(
        conv.weight.data
    )
    assert torch.allclose(layer(x), real(signs), atol=1e-5)
    assert (layer.weight_bits, layer.activation_bits) == (1, 1)
    assert torch.equal(layer.weight, conv.weight) and layer.weight is not conv.weight


def test_the_activations_gradient_has_the_layers_slope_and_reaches_the_shift():
    layer = BinaryConv2d(nn.Conv2d(2, 3, 1, bias=False), lambda w: AnalyticScale(), Clipped(0.5))
    x = torch.tensor([0.4, 0.6]).view(1, 2, 1, 1).requires_grad_()
    layer(x).sum().backward()
    column = layer.binarizer(layer.weight).sum(0).flatten()
    assert torch.allclose(x.grad.flatten(), column * torch.tensor([1.0, 0.0]))
    assert torch.allclose(layer.shift.grad, column * torch.tensor([1.0, 0.0]))
    assert "slope=Clipped(clip=0.5)" in repr(layer)


@pytest.mark.parametrize("options", [{"bias": True}, {"bias": False, "padding_mode": "reflect"}])
def test_a_convolution_with_bias_or_other_padding_is_refused(options):
    conv = nn.Conv2d(2, 3, 3, padding=1, **options)
    with pytest.raises(ValueError, match=r"cannot binarize Conv2d\(2, 3.*no bias and pad with zer"):
        BinaryConv2d(conv, lambda w: AnalyticScale())
