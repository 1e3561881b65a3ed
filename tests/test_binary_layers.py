"""The parts of a 1-bit layer: activation, binarizer, rescale; of both kinds of layer."""

import pytest
import torch
from torch import nn

from compactnets.binary.deploy import deploy
from compactnets.binary.layers import BinaryLinear, binarized
from compactnets.binary.scales import AnalyticScale, UnitScale, analytic_scale
from compactnets.binary.ste import Clipped, hard_sign
from train_toys import one_thread  # noqa: F401


class PerSample(nn.Module):
    """Multiplies by the mean magnitude of each sample's input."""

    def forward(self, y, x):
        return y * x.abs().flatten(1).mean(1).view(-1, *(1,) * (y.dim() - 1))


class Faded(nn.Module):
    """Signs plus a part that has not faded out."""

    def forward(self, x):
        return hard_sign(x) + 0.1 * x


def analytic(_weight):
    return AnalyticScale()


@pytest.mark.parametrize("bias", [True, False])
def test_the_linear_layer_multiplies_shifted_signs_with_scaled_ones_and_adds_its_real_bias(bias):
    real = nn.Linear(7, 5, bias=bias)
    layer = binarized(real, analytic)
    nn.init.normal_(layer.shift)
    x = torch.randn(2, 3, 7)
    expected = hard_sign(x + layer.shift) @ hard_sign(real.weight).T * analytic_scale(real.weight)
    expected = expected + real.bias if bias else expected
    assert isinstance(layer, BinaryLinear) and torch.allclose(layer(x), expected, atol=1e-6)
    layer(x).sum().backward()
    assert layer.weight.grad.abs().sum() > 0 and real.weight.grad is None


def test_a_rescale_sees_the_result_and_the_unshifted_input():
    x = torch.randn(4, 3, 6, 6)
    conv = nn.Conv2d(3, 2, 3, bias=False)
    plain, scaled = binarized(conv, analytic), binarized(conv, analytic, rescale=PerSample())
    nn.init.constant_(plain.shift, 0.3)
    nn.init.constant_(scaled.shift, 0.3)
    assert torch.allclose(scaled(x), PerSample()(plain(x), x))


def test_without_a_shift_there_is_no_parameter_for_it():
    layer = binarized(nn.Conv2d(3, 2, 3, bias=False), lambda w: UnitScale(), Clipped(), shift=False)
    assert layer.shift is None and [n for n, _ in layer.named_parameters()] == ["weight"]
    assert set(layer(torch.randn(1, 3, 3, 3)).flatten().tolist()) <= set(range(-27, 28, 2))


def test_a_slope_beside_an_activation_is_refused():
    with pytest.raises(ValueError, match="slope or an activation, not both"):
        BinaryLinear(nn.Linear(2, 2), analytic, Clipped(), activation=Faded())
    with pytest.raises(TypeError, match="Linear become binary, got ReLU"):
        binarized(nn.ReLU(), analytic)


def test_the_unscaled_gradient_leaves_out_the_scale_and_keeps_the_value():
    w = torch.tensor([[0.5, -1.5, 0.1]], requires_grad=True)
    value = AnalyticScale(scale_gradient=False)(w)
    assert torch.equal(value, AnalyticScale()(w))
    value.backward(torch.tensor([[1.0, 2.0, 3.0]]))
    assert w.grad.tolist() == [[1.0, 0.0, 3.0]]  # the window stays, alpha = 0.7 is gone


@pytest.mark.parametrize("rescale", [None, PerSample()])
def test_deployed_linear_and_convolutional_layers_compute_the_trained_ones(rescale):
    torch.manual_seed(0)
    net = nn.Sequential(
        binarized(nn.Conv2d(5, 8, 3, padding=1, bias=False), analytic, rescale=rescale),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        binarized(nn.Linear(128, 6), analytic, rescale=rescale),
    )
    x = torch.randn(8, 5, 4, 4)
    net(x)
    net.eval()
    packed = deploy(net)
    kinds = {type(m).__module__ for m in packed.modules() if hasattr(m, "packed")}
    assert any("kernels" in kind for kind in kinds) or rescale
    assert torch.allclose(packed(x), net(x), atol=1e-4)


def test_an_activation_that_is_not_yet_a_sign_cannot_be_packed():
    net = nn.Sequential(binarized(nn.Linear(4, 4), analytic, activation=Faded())).eval()
    with pytest.raises(ValueError, match="something else than signs: finish its training"):
        deploy(net)
