"""Chained 1-bit layers equal the float chain bit for bit, and what a chain refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import kernels
from compactnets.kernels import BinaryConv2d, BinaryConv2dSigns, BinaryLinear, chain
from compactnets.kernels.binary_chain import thresholds
from compactnets.kernels.binary_signs import (
    pack_signs,
    pack_signs_reference,
    unpack_signs,
    words_of,
)


def normal(channels, kind=nn.BatchNorm2d):
    """A batch normalisation in eval mode with gains of both signs, some of them 0."""
    norm = kind(channels).eval()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.1, 40.0)
    with torch.no_grad():
        norm.weight[:: max(channels // 3, 1)] = 0.0
    return norm


@st.composite
def convolutions(draw):
    """(x, layer, norm, shift) of odd sizes, groups, strides and signs of the scale."""
    torch.manual_seed(draw(st.integers(0, 2**20)))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = draw(st.integers(1, 70)), draw(st.integers(1, 40))
    kernel = draw(st.integers(1, 3))
    padding = draw(st.integers(0, 2))
    size = [kernel + draw(st.integers(0, 9)) for _ in range(2)]
    layer = BinaryConv2d(
        torch.randn(outputs * groups, inputs, kernel, kernel),
        torch.randn(outputs * groups),
        bias=draw(st.sampled_from([None, torch.randn(outputs * groups)])),
        input_shift=draw(st.sampled_from([None, torch.randn(inputs * groups)])),
        stride=draw(st.integers(1, 2)),
        padding=padding,
        groups=groups,
    )
    x = torch.randn(draw(st.integers(0, 2)), inputs * groups, *size)
    return x, layer, normal(outputs * groups), torch.randn(outputs * groups)


@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_signs_out_equal_the_signs_of_the_float_chain_and_signs_in_give_the_same_floats(case):
    x, layer, norm, shift = case
    with torch.no_grad():
        floats = norm(layer(x)) + shift[:, None, None]
    chained = BinaryConv2dSigns.of(layer, norm, shift)
    signs = chained(x)
    assert signs.dtype == torch.int32
    assert torch.equal(signs, pack_signs_reference(floats))
    packed = pack_signs(x, layer.input_shift)
    assert torch.equal(packed, pack_signs_reference(x, layer.input_shift))
    assert torch.equal(layer(packed), layer(x))
    assert torch.equal(chained(packed), signs)
    options = {**chained._geometry, "in_channels": layer.in_channels}
    args = (packed, chained.packed, chained.threshold)
    assert torch.equal(kernels.binary_conv2d_signs_reference(*args, **options), signs)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2), st.integers(1, 100), st.integers(0, 2**20))
def test_unpacking_signs_gives_back_what_was_packed(images, channels, seed):
    x = torch.randn(images, channels, 3, 2, generator=torch.Generator().manual_seed(seed))
    x[:, ::3] = torch.tensor([0.0, -0.0, math.nan, -math.inf, math.inf, -1e-45]).view(3, 2)
    signs = pack_signs(x)
    assert signs.shape == (images, 3, 2, words_of(channels))
    assert torch.equal(unpack_signs(signs, channels), torch.where(x >= 0, 1.0, -1.0))


def test_every_threshold_agrees_with_the_float_expression_for_every_sum():
    torch.manual_seed(0)
    layer = BinaryConv2d(torch.randn(64, 7, 1, 1), torch.randn(64), bias=torch.randn(64))
    layer.scale[0], layer.scale[1], layer.bias[2] = 0.0, math.nan, -math.inf
    norm, shift = normal(64), torch.randn(64)
    threshold, falling = thresholds(layer, norm, shift)
    for dot in range(-7, 8):
        y = dot * layer.scale + layer.bias
        with torch.no_grad():
            z = norm(y.view(1, 64, 1, 1)).flatten() + shift
        below = torch.where(falling, -dot, dot) < threshold
        assert torch.equal(below, ~(z >= 0))


def test_a_chain_of_three_equals_the_network_and_never_makes_floats_between():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 36, 3, padding=1),
        BinaryConv2d(torch.randn(40, 36, 3, 3), torch.randn(40), padding=1),
        normal(40),
        nn.Hardtanh(),
        BinaryConv2d(torch.randn(64, 20, 3, 3), stride=2, groups=2, input_shift=torch.randn(40)),
        normal(64),
        nn.PReLU(64),
        BinaryConv2d(torch.randn(10, 64, 1, 1), torch.rand(10), input_shift=torch.randn(64)),
        nn.Flatten(),
    ).eval()
    chained = chain(network)
    assert [type(m).__name__ for m in chained] == [
        "Conv2d",
        "BinaryConv2dSigns",
        "BinaryConv2dSigns",
        "BinaryConv2d",
        "Flatten",
    ]
    x = torch.randn(2, 3, 9, 11)
    with torch.no_grad():
        assert torch.equal(chained(x), network(x))
        assert chained[:2](x).dtype == torch.int32


def test_linear_layers_chain_as_well():
    torch.manual_seed(0)
    network = nn.Sequential(
        BinaryLinear(torch.randn(50, 70), torch.randn(50), input_shift=torch.randn(70)),
        normal(50, nn.BatchNorm1d),
        BinaryLinear(torch.randn(33, 50), torch.randn(33), input_shift=torch.randn(50)),
    ).eval()
    chained = chain(network)
    x = torch.randn(5, 70)
    with torch.no_grad():
        assert torch.equal(chained(x), network(x))
    assert chained[0](x[:0]).shape == (0, 2)


def test_a_chain_survives_its_state_dict_and_the_compiler():
    torch.manual_seed(0)
    first = BinaryConv2d(torch.randn(40, 36, 3, 3), torch.randn(40), padding=1)
    network = nn.Sequential(first, normal(40), BinaryConv2d(torch.randn(8, 40, 3, 3))).eval()
    chained = chain(network)
    other = nn.Sequential(
        BinaryConv2dSigns.blank(36, 40, 3, padding=1), BinaryConv2d.blank(40, 8, 3)
    )
    other.load_state_dict(chained.state_dict())
    x = torch.randn(2, 36, 6, 6)
    with torch.inference_mode():
        expected = network(x)
        assert torch.equal(other(x), expected)
        compiled = torch.compile(chained, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), expected)


def test_torch_accepts_the_operators():
    torch.manual_seed(0)
    layer = BinaryConv2dSigns(torch.randn(5, 6, 3, 3), torch.tensor([0, 1, -2, 99, -99]))
    x = torch.randn(2, 6, 5, 6)
    options = {"kernel_size": [3, 3]}
    args = (x, layer.packed, layer.threshold, torch.randn(6))
    torch.library.opcheck(kernels.binary_conv2d_signs.op, args, options)
    signs = pack_signs(x)
    args = (signs, layer.packed, layer.threshold)
    torch.library.opcheck(kernels.binary_conv2d_signs.op, args, {**options, "in_channels": 6})
    torch.library.opcheck(kernels.pack_signs.op, (x, torch.randn(6)))


def test_what_does_not_fit_is_refused_by_name():
    layer = BinaryConv2d(torch.ones(4, 3, 1, 1))
    chained = BinaryConv2dSigns.of(layer)
    signs = pack_signs(torch.ones(1, 3, 2, 2))
    good = (signs, chained.packed, chained.threshold)
    for function in (kernels.binary_conv2d_signs, kernels.binary_conv2d_signs_reference):
        with pytest.raises(ValueError, match=r"x must be signs \(N, H, W, 2\) of 40 channels"):
            function(*good, kernel_size=1, in_channels=40)
        with pytest.raises(TypeError, match="x must be float32"):
            function(*good, kernel_size=1)
        with pytest.raises(TypeError, match="threshold must be int32"):
            function(signs, chained.packed, torch.ones(4), kernel_size=1, in_channels=3)
        with pytest.raises(ValueError, match="input_shift is for floats"):
            function(*good, torch.ones(3), kernel_size=1, in_channels=3)
    with pytest.raises(ValueError, match="threshold must have 4"):
        BinaryConv2dSigns(torch.ones(4, 3, 1, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="training mode"):
        BinaryConv2dSigns.of(layer, nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="mixes neighbouring pixels"):
        BinaryConv2dSigns.of(layer, nn.MaxPool2d(3, stride=1, padding=1).eval())
    with pytest.raises(ValueError, match="not monotone"):
        BinaryConv2dSigns.of(layer, lambda y: y.abs() - 2)
    with pytest.raises(ValueError, match="changes the shape"):
        BinaryConv2dSigns.of(layer, nn.Flatten().eval())
    with pytest.raises(ValueError, match="needs two 1-bit layers"):
        chain([layer, nn.ReLU()])
    with pytest.raises(ValueError, match="signs of 40 channels"):
        unpack_signs(signs, 40)


@pytest.mark.parametrize("groups", [1, 2])
def test_any_number_of_threads_gives_the_same_signs(groups):
    torch.manual_seed(0)
    layer = BinaryConv2d(torch.randn(80, 96 // groups, 3, 3), padding=1, groups=groups)
    chained, x = BinaryConv2dSigns.of(layer), torch.randn(2, 96, 33, 31)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(chained(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], y) for y in results)
