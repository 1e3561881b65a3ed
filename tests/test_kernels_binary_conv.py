"""The 1-bit convolution against two other routes to its numbers, and what it refuses."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compactnets import kernels
from compactnets.kernels.binary_conv import (
    binary_conv2d,
    binary_conv2d_reference,
    pack_weight,
    unpack_weight,
)

LAYOUTS = ["channels_last", "contiguous", "every second channel", "crop", "transposed"]


def signs(x):
    return torch.where(x >= 0, 1.0, -1.0)


def laid_out(x, layout):
    """The same values in other strides."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "every second channel":
        return torch.stack((x, -x), dim=2).flatten(1, 2)[:, ::2]
    if layout == "crop":
        return F.pad(x, (1, 2, 3, 0)).contiguous(memory_format=torch.channels_last)[
            :, :, 3:, 1 : 1 + x.shape[3]
        ]
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x.contiguous()


@st.composite
def layers(draw, max_channels=130):
    """A random layer and input: (x, weight, scale, bias, input_shift, geometry)."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs = draw(st.integers(1, max_channels // groups))
    outputs = draw(st.integers(1, 40))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = (draw(st.integers(0, 3)), draw(st.integers(0, 5)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    size = [
        max(1, dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i] + draw(st.integers(0, 12)))
        for i in (0, 1)
    ]
    images = draw(st.integers(0, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    x = torch.randn(images, inputs * groups, *size, generator=generator)
    x = torch.where(x.abs() < 0.1, -0.0 * x, x)  # zeros of both signs
    weight = torch.randn(outputs * groups, inputs, *kernel, generator=generator)
    scale, bias = torch.randn(2, outputs * groups, generator=generator)
    shift = torch.randn(inputs * groups, generator=generator)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return (
        laid_out(x, draw(st.sampled_from(LAYOUTS))),
        weight,
        scale,
        draw(st.sampled_from([None, bias])),
        draw(st.sampled_from([None, shift])),
        geometry,
    )


@settings(max_examples=60, deadline=None)
@given(layers())
def test_the_operator_equals_float_convolution_of_signs_and_the_reference_bit_for_bit(layer):
    x, weight, scale, bias, shift, geometry = layer
    x_before = x.clone()
    args = (x, pack_weight(weight, geometry["groups"]), scale, bias, shift)
    options = {"kernel_size": weight.shape[2:], **geometry}
    y = binary_conv2d(*args, **options)

    shifted = x if shift is None else x + shift[:, None, None]
    dots = F.conv2d(signs(shifted).contiguous(), signs(weight), **geometry)
    expected = dots * scale[:, None, None]
    expected = expected if bias is None else expected + bias[:, None, None]
    assert torch.equal(y, expected)

    reference = binary_conv2d_reference(*args, **options)
    assert torch.equal(y, reference)
    assert y.stride() == reference.stride()
    assert torch.equal(x, x_before)


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 130), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
@example(1, 16, 64, 0)
def test_unpacking_gives_back_the_signs_that_were_packed(groups, outputs, inputs, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs * groups, inputs, 2, 3, generator=generator)
    packed = pack_weight(weight, groups)
    shape = (outputs * groups, inputs * groups, (2, 3), groups)
    assert torch.equal(unpack_weight(packed, *shape), signs(weight))
    sums = packed[:, -6:].permute(0, 2, 1).unflatten(0, (groups, -1)).flatten(1, 2)
    assert torch.equal(
        sums[:, :outputs].flatten(0, 1), signs(weight).sum(1).flatten(1).to(torch.int32)
    )


def test_zero_of_either_sign_is_plus_one_and_nan_is_minus_one():
    values = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 3.0])
    expected = torch.tensor([1.0, 1, -1, 1, -1, 1, -1, 1])
    for channels in (8, 40):  # inside one vector, and beyond the first
        x = values.repeat(channels // 8).view(1, channels, 1, 1)
        weight = torch.eye(channels)[:, :, None, None]  # ±1: row o is -1 but for +1 at o
        y = binary_conv2d(x, pack_weight(weight - 0.5), torch.ones(channels), kernel_size=1)
        wanted = signs(weight - 0.5).flatten(1) @ expected.repeat(channels // 8)
        assert torch.equal(y.flatten(), wanted)
    nan_weight = torch.full((1, 8, 1, 1), math.nan)
    y = binary_conv2d(torch.ones(1, 8, 1, 1), pack_weight(nan_weight), torch.ones(1), kernel_size=1)
    assert y.item() == -8


def test_a_sum_of_opposite_infinities_counts_as_nan():
    x = torch.full((1, 1, 1, 1), -math.inf)
    packed, one = pack_weight(torch.ones(1, 1, 1, 1)), torch.ones(1)
    shift = torch.tensor([math.inf])
    assert binary_conv2d(x, packed, one, None, shift, kernel_size=1).item() == -1


def test_padding_contributes_exactly_zero():
    packed = pack_weight(torch.ones(1, 3, 3, 3))
    y = binary_conv2d(torch.ones(1, 3, 1, 1), packed, torch.ones(1), kernel_size=3, padding=3)
    assert y.sum() == 9 * 3  # one pixel, seen once by each of the nine taps
    assert y.shape == (1, 1, 5, 5)
    assert y[0, 0, 0, 0] == 0


@pytest.mark.parametrize("channels", [64, 96, 512, 2048])
def test_long_sums_of_equal_or_opposite_signs_do_not_overflow(channels):
    x = torch.ones(1, channels, 8, 9)
    weight = torch.stack((torch.ones(channels, 7, 7), -torch.ones(channels, 7, 7)))
    y = binary_conv2d(x, pack_weight(weight), torch.ones(2), kernel_size=7)
    assert torch.equal(y[:, 0], torch.full((1, 2, 3), 49.0 * channels))
    assert torch.equal(y[:, 1], torch.full((1, 2, 3), -49.0 * channels))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 5, 64])
def test_the_result_has_the_memory_format_that_the_compiler_is_told(layout, channels):
    x = laid_out(torch.randn(2, channels, 5, 6), layout)
    y = binary_conv2d(x, pack_weight(torch.randn(4, channels, 3, 3)), torch.ones(4), kernel_size=3)
    last = x.stride(1) == 1
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"groups": 2}])
def test_torch_accepts_the_operator(layout, options):
    groups = options.get("groups", 1)
    x = laid_out(torch.randn(2, 6, 5, 6), layout)
    packed = pack_weight(torch.randn(4, 6 // groups, 3, 3), groups)
    args = (x, packed, torch.rand(4), torch.rand(4), torch.rand(6))
    torch.library.opcheck(binary_conv2d.op, args, {"kernel_size": [3, 3], **options})


@pytest.mark.parametrize("images", [1, 3])
def test_any_number_of_threads_gives_the_same_bits(images):
    x = torch.randn(images, 128, 33, 31).to(memory_format=torch.channels_last)
    args = (x, pack_weight(torch.randn(80, 128, 3, 3)), torch.randn(80), torch.randn(80))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results += [binary_conv2d(*args, kernel_size=3, padding=1) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], y) for y in results[1:])


BAD = {
    "x must be": (ValueError, {"x": torch.ones(3, 4, 4)}),
    "x must be float32": (TypeError, {"x": torch.ones(1, 3, 4, 4, dtype=torch.float64)}),
    "packed must be int32": (TypeError, {"packed": torch.ones(1, 18, 16)}),
    "packed has shape": (ValueError, {"packed": torch.ones(1, 17, 16, dtype=torch.int32)}),
    r"packed has shape.*40 inputs": (ValueError, {"x": torch.ones(1, 40, 4, 4)}),
    r"packed has shape.*0 inputs": (ValueError, {"x": torch.ones(1, 0, 4, 4)}),
    "scale must be float32": (TypeError, {"scale": torch.ones(2, dtype=torch.int64)}),
    "scale must have shape": (ValueError, {"scale": torch.ones(2, 1)}),
    r"packed has shape.*17 outputs": (ValueError, {"scale": torch.ones(17)}),
    "bias must have shape": (ValueError, {"bias": torch.ones(3)}),
    "bias must be float32": (TypeError, {"bias": torch.ones(2).half()}),
    "input_shift must have shape": (ValueError, {"input_shift": torch.ones(2)}),
    "kernel_size must be": (ValueError, {"kernel_size": [0, 3]}),
    "stride must be": (ValueError, {"stride": [0, 1]}),
    "padding must be": (ValueError, {"padding": [0, -1]}),
    "dilation must be": (ValueError, {"dilation": [0, 1]}),
    "stride must be two": (ValueError, {"stride": [1, 1, 1]}),
    "groups=2 does not divide": (ValueError, {"groups": 2}),
    "groups=0 does not divide": (ValueError, {"groups": 0}),
    "does not fit x of size 2": (ValueError, {"x": torch.ones(1, 3, 4, 2)}),
    "does not fit x of size 0": (ValueError, {"x": torch.ones(1, 3, 0, 4), "padding": [2, 0]}),
    "packed is on meta": (
        ValueError,
        {"packed": torch.ones(1, 18, 16, dtype=torch.int32, device="meta")},
    ),
}


@pytest.mark.parametrize("function", [binary_conv2d, binary_conv2d_reference])
@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused_by_name(function, message):
    error, change = BAD[message]
    good = {
        "x": torch.ones(1, 3, 4, 4),
        "packed": pack_weight(torch.ones(2, 3, 3, 3)),
        "scale": torch.ones(2),
        "bias": None,
        "input_shift": None,
        "kernel_size": [3, 3],
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
    }
    function(**good)
    with pytest.raises(error, match=message):
        function(**{**good, **change})


@pytest.mark.parametrize(
    ("weight", "groups", "message"),
    [
        (torch.ones(3, 4), 1, "weight must be"),
        (torch.ones(0, 4, 3, 3), 1, "weight must be"),
        (torch.ones(3, 4, 3, 3), 2, "groups=2"),
        (torch.ones(3, 4, 3, 3), 0, "groups=0"),
    ],
)
def test_a_weight_that_cannot_be_packed_is_refused(weight, groups, message):
    with pytest.raises(ValueError, match=message):
        pack_weight(weight, groups)


def test_unpacking_for_another_layer_is_refused():
    with pytest.raises(ValueError, match="packed must have shape"):
        unpack_weight(pack_weight(torch.ones(2, 3, 3, 3)), 2, 33, (3, 3))


def test_a_gradient_is_refused_rather_than_lost():
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    y = binary_conv2d(x, pack_weight(torch.ones(2, 3, 3, 3)), torch.ones(2), kernel_size=3)
    with pytest.raises(RuntimeError, match="autograd"):
        y.sum().backward()


def test_the_reference_is_exact_under_autocast():
    x, weight = torch.randn(1, 300, 5, 5), torch.randn(8, 300, 3, 3)
    packed, scale = pack_weight(weight), torch.rand(8)
    with torch.autocast("cpu", torch.bfloat16):
        y = binary_conv2d_reference(x, packed, scale, kernel_size=(3, 3))
    assert torch.equal(y, binary_conv2d(x, packed, scale, kernel_size=3))


def test_the_path_in_use_is_one_that_is_supported():
    assert kernels.isa() in kernels.supported()
    assert kernels.available() == (kernels.isa() != "reference")
