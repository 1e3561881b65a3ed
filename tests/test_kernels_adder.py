"""Adder convolutions against the definition, in the integers, in double precision, on all paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import cost, kernels
from compactnets.kernels import AdderConv2d, AdderLinear, adder_conv2d
from compactnets.kernels.adder import (
    adder_conv2d_packed,
    adder_conv2d_packed_reference,
    adder_distances,
    pack_adder_weight,
    unpack_adder_weight,
)
from compactnets.kernels.adder_gradient import (
    adder_input_gradient,
    adder_input_gradient_reference,
    adder_weight_sign_gradient,
)
from compactnets.kernels.adder_layers import adder_codes

LAYOUTS = ["channels_last", "contiguous", "every second channel", "crop", "transposed"]


def laid_out(x, layout):
    """The same values in other strides."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "every second channel":
        return torch.stack((x, x), dim=2).flatten(1, 2)[:, ::2]
    if layout == "crop":
        big = F.pad(x, (1, 2, 3, 0)).contiguous(memory_format=torch.channels_last)
        return big[:, :, 3:, 1 : 1 + x.shape[3]]
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x.contiguous()


@st.composite
def geometries(draw, images=3, channels=70, outputs=70):
    """A random layer: shapes of x and weight, stride, padding, and a seed."""
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 6)))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2), (3, 1), (5, 4)]))
    padding = (draw(st.integers(0, 3)), draw(st.integers(0, 7)))
    size = [max(1, kernel[i] - 2 * padding[i]) + draw(st.integers(0, 9 + 20 * i)) for i in (0, 1)]
    inputs = draw(st.integers(1, channels))
    x_shape = (draw(st.integers(0, images)), inputs, *size)
    w_shape = (draw(st.integers(1, outputs)), inputs, *kernel)
    return x_shape, w_shape, stride, padding, draw(st.integers(0, 2**20))


def options(w_shape, stride, padding):
    return {
        "out_channels": w_shape[0],
        "kernel_size": w_shape[2:],
        "stride": stride,
        "padding": padding,
    }


def codes(shape, dtype, seed, extreme=False):
    """Random codes; extreme: only the two ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(256, shape, generator=generator, dtype=torch.int32)
    values = torch.where(values < 128, 0, 255) if extreme else values
    return values.to(torch.uint8) if dtype is torch.uint8 else (values - 128).to(torch.int8)


def close(actual, expected, tolerance):
    """Largest difference beside the largest expected value."""
    if expected.numel() == 0:
        return actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max().item()
    return error <= tolerance * max(expected.abs().max().item(), 1e-30)


@settings(max_examples=60, deadline=None)
@given(
    geometries(),
    st.sampled_from([torch.uint8, torch.int8]),
    st.sampled_from(LAYOUTS),
    st.booleans(),
    st.integers(-128, 127),
)
def test_codes_give_the_exact_integer_distance(sizes, dtype, layout, extreme, zero):
    x_shape, w_shape, stride, padding, seed = sizes
    zero += 128 if dtype is torch.uint8 else 0
    x = laid_out(codes(x_shape, dtype, seed, extreme), layout)
    weight = codes(w_shape, dtype, seed + 1, extreme)
    before = x.clone()
    packed = pack_adder_weight(weight, stride)
    arguments = options(w_shape, stride, padding)
    y = adder_conv2d_packed(x, packed, zero_point=zero, **arguments)
    assert y.dtype == torch.int32 and torch.equal(x, before)
    wide = F.pad(x.int(), (padding[1],) * 2 + (padding[0],) * 2, value=zero).double()
    columns = F.unfold(wide, w_shape[2:], stride=stride)
    for output, filter_ in enumerate(weight.double().flatten(1)):
        expected = -(columns - filter_[:, None]).abs().sum(1)
        assert torch.equal(y[:, output].flatten(1).double(), expected)
    generator = torch.Generator().manual_seed(seed)
    scale, bias = torch.randn(2, w_shape[0], generator=generator)
    scaled = adder_conv2d_packed(x, packed, scale, bias, zero_point=zero, **arguments)
    reference = adder_conv2d_packed_reference(x, packed, scale, bias, zero_point=zero, **arguments)
    assert torch.equal(scaled, reference) and scaled.stride() == reference.stride()


@settings(max_examples=50, deadline=None)
@given(geometries(), st.sampled_from(LAYOUTS), st.sampled_from([None, "scale", "bias", "both"]))
def test_fp32_is_the_distance_of_double_precision(sizes, layout, epilogue):
    x_shape, w_shape, stride, padding, seed = sizes
    generator = torch.Generator().manual_seed(seed)
    x = laid_out(torch.randn(x_shape, generator=generator), layout)
    weight = torch.randn(w_shape, generator=generator)
    scale, bias = torch.randn(2, w_shape[0], generator=generator)
    scale = scale if epilogue in ("scale", "both") else None
    bias = bias if epilogue in ("bias", "both") else None
    args = (x, pack_adder_weight(weight, stride), scale, bias)
    y = adder_conv2d_packed(*args, **options(w_shape, stride, padding))
    expected = adder_distances(x.double(), weight.double(), stride, padding)
    if scale is not None:
        expected = expected * scale[:, None, None]
    if bias is not None:
        expected = expected + bias[:, None, None]
    assert close(y, expected, 2e-6)
    reference = adder_conv2d_packed_reference(*args, **options(w_shape, stride, padding))
    assert y.shape == reference.shape and y.stride() == reference.stride()


def distances(x, weight, padding=1):
    packed = pack_adder_weight(weight)
    return adder_conv2d_packed(x, packed, **options(weight.shape, (1, 1), (padding, padding)))


@pytest.mark.parametrize("channels", [3, 64, 1000])
@pytest.mark.parametrize(("shift", "spread"), [(0, 1), (3, 1), (1e3, 1), (1e6, 1), (-1e4, 1e-3)])
def test_data_far_from_zero_and_close_to_each_other_keep_their_accuracy(channels, shift, spread):
    x = shift + spread * torch.randn(1, channels, 5, 6)
    weight = shift + spread * torch.randn(20, channels, 3, 3)
    y = distances(x, weight, padding=0)
    assert close(y, adder_distances(x.double(), weight.double()), 4e-6)


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e6, 1e30])
def test_values_of_very_different_size_keep_their_accuracy(factor):
    x, weight = torch.randn(1, 20, 9, 8), torch.randn(8, 20, 3, 3)
    x[:, ::2] *= factor
    weight[:, 1::4] *= factor
    y = distances(x, weight)
    assert close(y, adder_distances(x.double(), weight.double(), 1, 1), 4e-6)


def test_equal_window_and_filter_have_distance_exactly_zero_and_nothing_is_positive():
    x = torch.randn(1, 30, 3, 3) * 100
    y = distances(x, torch.cat((x, x + 1e-3)), padding=0)
    assert y[0, 0].item() == 0 and y[0, 1].item() < 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("where", ["x", "weight"])
def test_nan_infinity_and_overflow_reach_the_outputs_they_concern_and_no_others(value, where):
    x, weight = torch.randn(1, 17, 8, 9), torch.randn(20, 17, 3, 3)
    clean = adder_distances(x, weight, 1, 1)
    if where == "x":
        x[0, 5, 2, 3] = value
    else:
        weight[4, 5, 1, 1] = value
    y, expected = distances(x, weight), adder_distances(x, weight, 1, 1)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
    kept = expected == clean if value != 3e38 else expected > -1e30
    assert kept.any() and not kept.all()
    assert close(y[kept], expected[kept], 2e-6)


def test_opposite_infinities_and_equal_ones_act_as_in_the_definition():
    x = torch.full((1, 1, 1, 1), float("inf"))
    weight = torch.tensor([float("inf"), -float("inf")]).view(2, 1, 1, 1)
    y = distances(x, weight, padding=0).flatten()
    assert y[0].isnan() and y[1] == -float("inf")


def test_a_padded_position_adds_minus_the_weight():
    weight = torch.randn(3, 4, 3, 3)
    y = distances(torch.zeros(1, 4, 1, 1), weight)
    torch.testing.assert_close(y.flatten(), -weight.abs().sum((1, 2, 3)))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
def test_the_longest_integer_sums_do_not_overflow(kernel):
    x = torch.full((1, 3000, 3, 6), 255, dtype=torch.uint8)
    weight = torch.zeros(2, 3000, *kernel, dtype=torch.uint8)
    y = adder_conv2d_packed(x, pack_adder_weight(weight), **options(weight.shape, (1, 1), (0, 0)))
    assert (y == -255 * 3000 * kernel[0] * kernel[1]).all()


@settings(max_examples=40, deadline=None)
@given(geometries(), st.sampled_from([torch.float32, torch.uint8, torch.int8]))
def test_unpacking_gives_back_what_was_packed(sizes, dtype):
    _, w_shape, stride, _, seed = sizes
    weight = codes(w_shape, torch.uint8, seed)
    weight = weight.float() if dtype is torch.float32 else weight.view(dtype)
    packed = pack_adder_weight(weight, stride)
    assert packed.dtype == dtype
    unpacked = unpack_adder_weight(packed, *w_shape[:2], w_shape[2:], stride)
    assert torch.equal(unpacked, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_any_number_of_threads_gives_the_same_bits(dtype):
    x = codes((2, 48, 33, 31), torch.int8, 0).to(dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for stride in ((1, 1), (2, 2)):
            weight = codes((40, 48, 3, 3), torch.int8, 1).to(dtype)
            packed = pack_adder_weight(weight, stride)
            arguments = options(weight.shape, stride, (1, 1))
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                results.append(adder_conv2d_packed(x, packed, **arguments))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], y) for y in results[1:4])
    assert all(torch.equal(results[4], y) for y in results[5:])


# ---- gradients


def squash(rule, difference):
    rules = {"hardtanh": lambda d: d.clamp(-1, 1), "sign": torch.sign, "difference": lambda d: d}
    return rules[rule](difference)


def expected_gradients(x, weight, grad, stride, padding, to_weight, to_input):
    """The formulas over the unfolded input, in double precision."""
    x, weight, grad = x.detach().double(), weight.detach().double(), grad.double()
    kernel = weight.shape[2:]
    columns = F.unfold(x, kernel, 1, padding, stride)[:, None]  # (N, 1, K, L)
    difference = columns - weight.flatten(1)[:, :, None]  # (N, out, K, L)
    parts = grad.flatten(2)[:, :, None]
    folded = (squash(to_input, -difference) * parts).sum(1)
    return (
        F.fold(folded, x.shape[2:], kernel, 1, padding, stride),
        (squash(to_weight, difference) * parts).sum((0, 3)).view_as(weight),
    )


@settings(max_examples=40, deadline=None)
@given(
    geometries(images=2, channels=35, outputs=20),
    st.sampled_from(["difference", "sign"]),
    st.sampled_from(["hardtanh", "difference", "sign"]),
    st.sampled_from(LAYOUTS),
)
@example(((2, 35, 9, 20), (20, 35, 3, 3), (1, 1), (1, 1), 0), "sign", "hardtanh", "contiguous")
@example(((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 0), 0), "sign", "hardtanh", "channels_last")
def test_gradients_are_the_papers_formulas(sizes, to_weight, to_input, layout):
    x_shape, w_shape, stride, padding, seed = sizes
    generator = torch.Generator().manual_seed(seed)
    x = laid_out(torch.randn(x_shape, generator=generator), layout).requires_grad_()
    weight = torch.randn(w_shape, generator=generator).requires_grad_()
    y = adder_conv2d(x, weight, stride, padding, weight_gradient=to_weight, input_gradient=to_input)
    grad = torch.randn(y.shape, generator=generator)
    kept = grad.clone()
    y.backward(grad)
    assert torch.equal(grad, kept)
    assert close(y, adder_distances(x.double(), weight.double(), stride, padding), 2e-6)
    to_x, to_w = expected_gradients(x, weight, grad, stride, padding, to_weight, to_input)
    assert close(x.grad, to_x, 2e-5)
    assert close(weight.grad, to_w, 2e-5)


def test_sign_gradients_are_the_true_ones():
    x = torch.randn(2, 3, 5, 6, dtype=torch.double, requires_grad=True)
    weight = torch.randn(4, 3, 2, 3, dtype=torch.double, requires_grad=True)

    def layer(x, weight):
        return adder_conv2d(x, weight, 1, 1, weight_gradient="sign", input_gradient="sign")

    assert torch.autograd.gradcheck(layer, (x, weight))


def test_the_papers_gradients_are_those_of_the_squared_and_the_huber_distance():
    x = torch.randn(2, 5, 4, 7, requires_grad=True)
    weight = torch.randn(3, 5, 1, 1, requires_grad=True)
    grad = torch.randn(2, 3, 4, 7)
    found = torch.autograd.grad(adder_conv2d(x, weight), (x, weight), grad)
    difference = x[:, None] - weight[None]
    squared = (-0.5 * difference**2).sum(2)
    huber = -F.huber_loss(difference, torch.zeros_like(difference), reduction="none").sum(2)
    torch.testing.assert_close(found[0], torch.autograd.grad(huber, x, grad)[0])
    torch.testing.assert_close(found[1], torch.autograd.grad(squared, weight, grad)[0])


def test_only_the_gradients_that_are_asked_for_are_computed():
    x, weight = torch.randn(1, 3, 5, 5), torch.randn(2, 3, 3, 3, requires_grad=True)
    adder_conv2d(x, weight).sum().backward()
    assert x.grad is None and weight.grad is not None
    assert not adder_conv2d(x, weight.detach()).requires_grad
    x.requires_grad_()
    (grad,) = torch.autograd.grad(adder_conv2d(x, weight.detach()).sum(), x)
    assert grad.shape == x.shape


def test_training_on_no_images_gives_zero_gradients():
    x = torch.randn(0, 3, 5, 5, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, requires_grad=True)
    for rule in ("difference", "sign"):
        y = adder_conv2d(x, weight, weight_gradient=rule)
        to_x, to_w = torch.autograd.grad(y.sum(), (x, weight))
        assert to_x.shape == x.shape and torch.equal(to_w, torch.zeros_like(weight))


# ---- torch.compile, dispatch, errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int8])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("scaled", [False, True])
def test_torch_accepts_the_packed_operator(dtype, layout, scaled):
    x = laid_out(codes((2, 6, 5, 6), torch.uint8, 0).to(dtype), layout)
    packed = pack_adder_weight(codes((4, 6, 3, 3), torch.uint8, 1).to(dtype), (1, 1))
    extra = (torch.rand(4), torch.rand(4)) if scaled else ()
    arguments = {"out_channels": 4, "kernel_size": [3, 3], "padding": [1, 0]}
    torch.library.opcheck(adder_conv2d_packed.op, (x, packed, *extra), arguments)


def test_torch_accepts_the_gradient_operators():
    x, weight, grad = torch.randn(2, 6, 5, 6), torch.randn(4, 6, 3, 3), torch.randn(2, 4, 3, 3)
    arguments = {"stride": [2, 2], "padding": [1, 1]}
    torch.library.opcheck(adder_input_gradient.op, (x, weight, grad, "hardtanh"), arguments)
    torch.library.opcheck(adder_weight_sign_gradient.op, (x, weight, grad), arguments)


def test_training_compiles_to_the_same_bits():
    weight = torch.randn(4, 3, 3, 3)
    x = torch.randn(2, 3, 6, 6)

    def step(x, weight):
        y = adder_conv2d(x, weight, padding=1).relu()
        return torch.autograd.grad((y * y).sum() + adder_conv2d(x, weight).sum(), (x, weight))

    def loss(x, weight):
        return adder_conv2d(x, weight, 1, 1).square().sum()

    inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*inputs), inputs)
    expected = torch.autograd.grad(loss(*inputs), inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(g.isfinite().all() for g in step(*inputs))


BAD = {
    "x must be": (ValueError, {"x": torch.ones(3, 4, 4)}),
    "x must be float32": (TypeError, {"x": torch.ones(1, 3, 4, 4, dtype=torch.float64)}),
    "packed must be": (TypeError, {"x": torch.ones(1, 3, 4, 4, dtype=torch.int8)}),
    "packed has shape": (ValueError, {"packed": torch.ones(1, 27, 16)}),
    r"packed has shape.*40 inputs": (ValueError, {"x": torch.ones(1, 40, 4, 4)}),
    r"packed has shape.*17 outputs": (ValueError, {"out_channels": 17}),
    "both must be >= 1": (ValueError, {"x": torch.ones(1, 0, 4, 4)}),
    "out_channels=0": (ValueError, {"out_channels": 0}),
    "scale must be float32": (TypeError, {"scale": torch.ones(2, dtype=torch.int64)}),
    "scale must have shape": (ValueError, {"scale": torch.ones(2, 1)}),
    "bias must have shape": (ValueError, {"bias": torch.ones(3)}),
    "bias must be float32": (TypeError, {"bias": torch.ones(2).half()}),
    "kernel_size must be": (ValueError, {"kernel_size": [0, 3]}),
    "stride must be": (ValueError, {"stride": [0, 1]}),
    "padding must be": (ValueError, {"padding": [0, -1]}),
    "stride must be two": (ValueError, {"stride": [1, 1, 1]}),
    "zero_point must be": (ValueError, {"zero_point": 1}),
    "does not fit x of size 2": (ValueError, {"x": torch.ones(1, 3, 4, 2)}),
    "does not fit x of size 0": (ValueError, {"x": torch.ones(1, 3, 0, 4), "padding": [2, 0]}),
    "packed is on meta": (ValueError, {"packed": torch.ones(1, 28, 16, device="meta")}),
}


@pytest.mark.parametrize("function", [adder_conv2d_packed, adder_conv2d_packed_reference])
@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused_by_name(function, message):
    error, change = BAD[message]
    good = {
        "x": torch.ones(1, 3, 4, 4),
        "packed": pack_adder_weight(torch.ones(2, 3, 3, 3)),
        "scale": None,
        "bias": None,
        "out_channels": 2,
        "kernel_size": [3, 3],
        "stride": [1, 1],
        "padding": [0, 0],
    }
    function(**good)
    with pytest.raises(error, match=message):
        function(**{**good, **change})


def test_codes_with_a_bias_but_no_scale_are_refused():
    x, packed = (
        codes((1, 3, 4, 4), torch.uint8, 0),
        pack_adder_weight(codes((2, 3, 3, 3), torch.uint8, 1)),
    )
    with pytest.raises(ValueError, match="bias needs a scale"):
        adder_conv2d_packed(x, packed, None, torch.ones(2), out_channels=2, kernel_size=3)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (torch.ones(3, 4), ValueError, "weight must be"),
        (torch.ones(0, 4, 3, 3), ValueError, "weight must be"),
        (torch.ones(3, 4, 3, 3).double(), TypeError, "weight must be float32, int8 or uint8"),
    ],
)
def test_a_weight_that_cannot_be_packed_is_refused(weight, error, message):
    with pytest.raises(error, match=message):
        pack_adder_weight(weight)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(3, 4, 4)}, ValueError, "x must have 4"),
        ({"x": torch.ones(1, 3, 4, 4).half()}, TypeError, "x must be float32"),
        ({"weight": torch.ones(2, 3, 3, 3).double()}, TypeError, "weight must be"),
        ({"weight": torch.ones(2, 4, 3, 3)}, ValueError, "weight has 4 input channels, x 3"),
        ({"stride": 0}, ValueError, "stride must be"),
        ({"padding": -1}, ValueError, "padding must be"),
        ({"weight_gradient": "l2"}, ValueError, "weight_gradient must be one of"),
        ({"input_gradient": "clip"}, ValueError, "input_gradient must be one of"),
        ({"weight": torch.ones(2, 3, 5, 5)}, ValueError, "does not fit x"),
    ],
)
def test_a_bad_argument_of_the_training_form_is_refused_by_name(change, error, message):
    good = {"x": torch.ones(1, 3, 4, 4), "weight": torch.ones(2, 3, 3, 3)}
    adder_conv2d(**good)
    with pytest.raises(error, match=message):
        adder_conv2d(**{**good, **change})


@pytest.mark.parametrize("function", [adder_input_gradient, adder_input_gradient_reference])
def test_a_gradient_of_another_shape_is_refused(function):
    x, weight = torch.ones(1, 3, 4, 4), torch.ones(2, 3, 3, 3)
    with pytest.raises(ValueError, match="grad must have shape"):
        function(x, weight, torch.ones(1, 2, 3, 3), "hardtanh")
    with pytest.raises(ValueError, match="rule must be one of"):
        function(x, weight, torch.ones(1, 2, 2, 2), "difference")


# ---- layers


def trained(seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(20, 36, 3, 3, generator=generator)
    return weight, torch.rand(20, generator=generator), torch.randn(20, generator=generator)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_fp32_layer_is_the_trained_formula_with_its_normalization_folded(stride):
    weight, _, _ = trained()
    norm = nn.BatchNorm2d(20).eval()
    with torch.no_grad():
        norm.running_mean.copy_(-350 - torch.rand(20))
        norm.running_var.copy_(40 + torch.rand(20))
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        layer = AdderConv2d(
            weight, gain, norm.bias - norm.running_mean * gain, stride=stride, padding=1
        )
        x = torch.randn(2, 36, 9, 8)
        expected = norm(adder_conv2d(x, weight, stride, 1))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(layer.dense_weight(), weight)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_8_bit_layer_is_the_distance_of_its_codes_in_real_units(stride):
    weight, scale, bias = trained()
    x, step = 2 * torch.randn(2, 36, 9, 8), 0.05
    layer = AdderConv2d(weight, scale, bias, step=step, stride=stride, padding=1)
    real = adder_codes(x, step).double() * step
    expected = adder_distances(real, layer.dense_weight().double(), stride, 1)
    expected = expected * scale[:, None, None] + bias[:, None, None]
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(layer(adder_codes(x, step)), layer(x))


def test_codes_round_to_even_and_stay_in_range():
    values = torch.tensor([0.5, 1.5, -0.5, 2.4, 1e9, -1e9, float("nan"), float("inf")])
    assert adder_codes(values, 1.0).tolist() == [0, 2, 0, 2, 127, -128, 0, 127]


@pytest.mark.parametrize("step", [None, 0.05])
@pytest.mark.parametrize("shape", [(36,), (5, 36), (2, 3, 36), (0, 36)])
def test_the_linear_layer_is_the_distance_of_rows(step, shape):
    weight = torch.randn(10, 36)
    layer, x = AdderLinear(weight, step=step), torch.randn(shape)
    if step is not None:
        x, weight = adder_codes(x, step) * step, adder_codes(weight, step) * step
    expected = -torch.cdist(x.reshape(-1, 36).double(), weight.double(), p=1)
    torch.testing.assert_close(layer(x), expected.view(*shape[:-1], 10).float())


@pytest.mark.parametrize("step", [None, 0.05])
def test_layers_survive_their_state_dict(step, tmp_path):
    weight, scale, bias = trained()
    layer, x = AdderConv2d(weight, scale, bias, step=step, padding=1), torch.randn(1, 36, 6, 6)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = AdderConv2d.blank(36, 20, 3, padding=1, scale=True, bias=True, codes=step is not None)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert torch.equal(other(x), layer(x))
    linear = AdderLinear(weight[:, :, 0, 0], step=step)
    blank = AdderLinear.blank(36, 20, codes=step is not None)
    blank.load_state_dict(linear.state_dict())
    assert torch.equal(blank(x[0, :, 0, 0]), linear(x[0, :, 0, 0]))
    with pytest.raises(RuntimeError, match="size mismatch"):
        AdderConv2d.blank(40, 20, 3, scale=True, bias=True, codes=step is not None).load_state_dict(
            layer.state_dict()
        )


@pytest.mark.parametrize("step", [None, 0.05])
def test_layers_compile_without_a_graph_break_and_to_the_same_bits(step):
    weight, scale, bias = trained()
    model = nn.Sequential(
        AdderConv2d(weight, scale, bias, step=step, padding=1),
        nn.Flatten(2),
        AdderLinear(torch.randn(5, 64), step=step),
    ).eval()
    x = torch.randn(2, 36, 8, 8)
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), model(x))


def test_layers_cost_the_terms_of_the_dense_layer_in_their_bits():
    weight, _, _ = trained()
    x = torch.ones(1, 36, 8, 8)
    dense = cost.count(nn.Conv2d(36, 20, 3, padding=1, bias=False), x)
    for step, bits in ((None, 32), (0.1, 8)):
        layer = AdderConv2d(weight, step=step, padding=1)
        counted = cost.count(layer, x)
        assert counted.macs == dense.macs
        (row,) = counted
        assert (row.weights, row.weight_bits, row.activation_bits) == (weight.numel(), bits, bits)
        scales = 0 if step is None else 4 * 21  # one per output, and the step
        assert row.stored_bytes == weight.numel() * bits // 8 + scales
    rows = cost.count(AdderLinear(torch.ones(10, 70)), torch.ones(1, 3, 70))
    assert rows.macs == 3 * 700


def test_half_precision_does_not_touch_the_packed_weights():
    weight, _, _ = trained()
    layer, x = AdderConv2d(weight, padding=1), torch.randn(1, 36, 5, 5)
    before = layer(x)
    assert torch.equal(layer.half()(x), before)


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_that_is_no_step_is_refused(step):
    with pytest.raises(ValueError, match="step must be"):
        AdderConv2d(torch.ones(1, 1, 1, 1), step=step)


# ---- every path in a process of its own

CHECK = """
import torch, torch.nn.functional as F
from compactnets import kernels
from compactnets.kernels.adder import *
from compactnets.kernels.adder_gradient import *

def check(images, channels, outputs, height, width, kernel, stride=(1, 1), padding=(0, 0)):
    arguments = dict(out_channels=outputs, kernel_size=kernel, stride=stride, padding=padding)
    case = (images, channels, height, width, arguments)
    for dtype in (torch.uint8, torch.int8):
        x = torch.randint(256, (images, channels, height, width)).to(torch.uint8).view(dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        w = torch.randint(256, (outputs, channels, *kernel)).to(torch.uint8).view(dtype)
        args = x, pack_adder_weight(w, stride)
        for rest in ((), (torch.randn(outputs), torch.randn(outputs))):
            y = adder_conv2d_packed(*args, *rest, zero_point=7, **arguments)
            expected = adder_conv2d_packed_reference(*args, *rest, zero_point=7, **arguments)
            assert torch.equal(y, expected), case
    for shift in (0, 1000):
        x = torch.randn(images, channels, height, width) + shift
        w = torch.randn(outputs, channels, *kernel) + shift
        y = adder_conv2d_packed(x, pack_adder_weight(w, stride), **arguments)
        expected = adder_distances(x.double(), w.double(), stride, padding)
        if y.numel() == 0:
            return
        assert (y - expected).abs().max() <= 2e-6 * expected.abs().max(), case
    x, w = x - shift, w - shift
    grad = torch.randn(y.shape)
    geometry = dict(stride=stride, padding=padding)
    for rule in ("hardtanh", "sign"):
        found = adder_input_gradient(x, w, grad, rule, **geometry)
        wide = x.double(), w.double(), grad.double()
        expected = adder_input_gradient_reference(*wide, rule, **geometry)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1e-9), case
    found = adder_weight_sign_gradient(x, w, grad, **geometry)
    expected = adder_weight_sign_gradient_reference(*wide, **geometry)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1e-9), case

torch.manual_seed(0)
for channels in (1, 7, 8, 15, 16, 17, 33, 65, 129):
    check(2, channels, 17, 6, 9, (3, 3), padding=(1, 1))
for width in range(1, 33):
    check(1, 20, 16, 2, width, (1, 1))
    check(1, 5, 3, 2, width, (2, 3), padding=(0, 1))
check(1, 3, 20, 5, 130, (1, 3))
check(1, 3, 20, 5, 130, (1, 1))
for outputs in (1, 8, 9, 15, 16, 31, 33, 64, 65):
    check(1, 40, outputs, 5, 7, (3, 3), padding=(1, 1))
check(1, 130, 20, 8, 8, (7, 7), padding=(3, 3))
check(1, 32, 20, 9, 9, (7, 7), (2, 2), (3, 3))
check(3, 64, 32, 11, 8, (2, 5), (2, 3), (4, 0))
check(1, 9, 36, 9, 9, (3, 3), (3, 3), (5, 5))
check(1, 9, 6, 1, 1, (3, 5), (1, 1), (7, 9))
check(0, 64, 16, 4, 4, (3, 3))
print(kernels.isa())
"""


GUARD = """
import torch
from guarded import check, guarded
from compactnets.kernels import AdderConv2d, AdderLinear, adder_conv2d
torch.manual_seed(0)
for channels, outputs, size, kernel, more in (
    (64, 32, 9, 3, {"padding": 1}), (33, 17, 5, 3, {"padding": 1}), (7, 3, 4, 1, {}),
    (40, 20, 16, 3, {"padding": 1, "stride": 2}), (1, 1, 1, 1, {}), (96, 40, 7, 5, {"padding": 2}),
):
    for step in (None, 0.05):
        weight = torch.randn(outputs, channels, kernel, kernel)
        layer = AdderConv2d(weight, torch.randn(outputs), torch.randn(outputs), step=step, **more)
        for batch in (1, 2):
            x = torch.randn(batch, channels, size, size)
            codes = (20 * x).to(torch.int8)
            for values in (x, codes) if step else (x,):
                check(layer, values)
                check(layer, values.contiguous(memory_format=torch.channels_last))
for rule in ("hardtanh", "sign"):
    for end in (True, False):
        x = guarded(torch.randn(2, 19, 5, 7), end).requires_grad_()
        weight = guarded(torch.randn(17, 19, 3, 3), end).requires_grad_()
        to_weight = "sign" if rule == "sign" else "difference"
        y = adder_conv2d(x, weight, 1, 1, input_gradient=rule, weight_gradient=to_weight)
        torch.autograd.grad(y, (x, weight), guarded(torch.ones_like(y), end))
check(AdderLinear(torch.randn(7, 33), step=0.05), torch.randn(5, 33))
print("end")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by mprotect")
@pytest.mark.parametrize("isa", [isa for isa in kernels.supported() if isa != "reference"])
def test_no_path_reads_beyond_its_inputs(isa):
    environment = {**os.environ, "COMPACTNETS_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", GUARD],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr[-2000:]


@pytest.mark.parametrize("isa", [isa for isa in kernels.supported() if isa != "reference"])
def test_every_path_equals_the_reference(isa):
    environment = {**os.environ, "COMPACTNETS_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]
