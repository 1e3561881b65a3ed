"""int8 products: compiled paths against the references, the references against plain arithmetic."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compactnets import kernels
from compactnets.kernels.int8 import (
    int8_conv2d,
    int8_conv2d_reference,
    int8_linear,
    int8_linear_reference,
    int8_quantize,
    int8_quantize_reference,
    pack_int8,
    quantize_weight,
    unpack_int8,
)

INPUTS = (torch.uint8, torch.int8, torch.float32)
OUTPUTS = (None, torch.uint8, torch.int8)
LAYOUTS = ("channels_last", "contiguous", "gaps", "expanded")

# The same random cases on every path; shapes meet whole and part tiles, steps, blocks and runs.
CHECK = """
import sys
sys.path.insert(0, "tests")
import torch
from test_kernels_int8 import check_conv, check_linear
from compactnets import _native, kernels
if "plain" in sys.argv:
    assert not _native.int8_use_avx_vnni(False)
for seed in range(60):
    check_conv(seed)
    check_linear(seed)
for rows in (1, 2, 3, 13, 14, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 81, 129):
    for depth, outputs in ((1, 1), (64, 32), (200, 33), (1024, 16), (2304, 40)):
        check_linear(rows, (rows, depth, outputs))
print(kernels.isa())
"""


def values(shape, dtype, generator, extreme=False):
    """Random values, or only the ends of the range."""
    if dtype is torch.float32:
        return torch.randn(shape, generator=generator)
    low = 0 if dtype is torch.uint8 else -128
    if extreme:
        return (torch.randint(2, shape, generator=generator) * 255 + low).to(dtype)
    return torch.randint(low, low + 256, shape, generator=generator).to(dtype)


def laid_out(x, layout):
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "gaps":
        return F.pad(x.contiguous(memory_format=torch.channels_last), (1, 2, 3, 1))[
            :, :, 3:-1, 1:-2
        ]
    if layout == "expanded":
        return x[:1].expand(x.shape)
    return x


def choose(generator, *options):
    return options[int(torch.randint(len(options), (), generator=generator))]


def options_of(generator, x_dtype, depth, outputs):
    """Scales that fill the range of the result, zero points, bias, activation."""
    pick = lambda *options: choose(generator, *options)  # noqa: E731
    out_dtype, x_inverse = pick(*OUTPUTS), None
    step = 1.0 if out_dtype is None else 70 * 70 * depth**0.5 / 60
    if x_dtype is torch.float32:
        x_inverse = pick(None, 30.0, 50.3)
    x_zero = pick(0, 7, 128, 255) - (128 if x_dtype is torch.int8 else 0)
    y_zero = 0 if out_dtype is None else pick(0, 17, 127)
    scale = (torch.rand(outputs, generator=generator) + 0.5) / step
    bias = pick(None, 20 * torch.randn(outputs, generator=generator))
    return (scale, bias), {
        "x_zero": x_zero,
        "x_inverse": x_inverse,
        "relu": pick(False, True),
        "out_dtype": out_dtype,
        "y_zero": y_zero,
    }


def check_conv(seed):
    generator = torch.Generator().manual_seed(seed)
    pick = lambda *options: choose(generator, *options)  # noqa: E731
    groups, channels, outputs = (
        pick(1, 1, 1, 2, 3),
        pick(1, 3, 16, 31, 64, 65, 96, 128),
        pick(1, 5, 16, 17, 32, 33, 70),
    )
    if pick(0, 0, 0, 1):
        groups, channels, outputs = pick(2, 7, 32, 33, 70), 1, 1
    kernel, stride = (pick(1, 3, 2, 5), pick(1, 3, 2, 4)), (pick(1, 1, 2, 3), pick(1, 1, 2, 3))
    dilation, padding = (pick(1, 1, 2), pick(1, 1, 2)), (pick(0, 1, 2), pick(0, 1, 3))
    height = pick(1, 2, 5, 8, 14) + dilation[0] * (kernel[0] - 1)
    width = pick(1, 3, 7, 14, 15, 20, 33) + dilation[1] * (kernel[1] - 1)
    dtype = pick(*INPUTS)
    shape = (pick(0, 1, 1, 2, 3), channels * groups, height, width)
    x = laid_out(values(shape, dtype, generator, pick(False, True)), pick(*LAYOUTS))
    weight = values((outputs * groups, channels, *kernel), torch.int8, generator, pick(False, True))
    packed = pack_int8(weight, groups, dilation[1])
    args, options = options_of(generator, dtype, weight[0].numel(), len(weight))
    options |= {"kernel_size": kernel, "stride": stride, "padding": padding}
    options |= {"dilation": dilation, "groups": groups}
    before = x.clone()
    y = int8_conv2d(x, packed, *args, **options)
    expected = int8_conv2d_reference(x, packed, *args, **options)
    assert torch.equal(y, expected), (seed, shape, weight.shape, dtype, options)
    assert y.stride() == expected.stride() and y.dtype == expected.dtype
    assert torch.equal(x, before)


def check_linear(seed, sizes=None):
    generator = torch.Generator().manual_seed(seed)
    pick = lambda *options: choose(generator, *options)  # noqa: E731
    rows, depth, outputs = sizes or (
        pick(0, 1, 2, 5, 15, 16, 17, 33, 70),
        pick(1, 3, 63, 64, 65, 200, 256),
        pick(1, 15, 16, 31, 32, 33, 70),
    )
    dtype = pick(*INPUTS)
    x = values((rows, depth), dtype, generator, pick(False, True))
    weight = values((outputs, depth), torch.int8, generator, pick(False, True))
    args, options = options_of(generator, dtype, depth, outputs)
    packed = pack_int8(weight)
    y = int8_linear(x, packed, *args, **options)
    expected = int8_linear_reference(x, packed, *args, **options)
    assert torch.equal(y, expected), (seed, x.shape, weight.shape, dtype, options)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_the_kernels_equal_the_references_bit_for_bit(seed):
    check_conv(seed)
    check_linear(seed)


PATHS = [(isa, "") for isa in kernels.supported() if isa != "reference"]
PATHS += [(isa, "plain") for isa, _ in PATHS if isa == "avx2"]  # without AVX-VNNI


@pytest.mark.parametrize(("isa", "how"), PATHS)
def test_every_path_equals_the_reference(isa, how):
    environment = {**os.environ, "COMPACTNETS_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, how], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_the_reference_is_the_product_of_the_real_values(seed):
    generator = torch.Generator().manual_seed(seed)
    x = values((2, 6, 7, 8), torch.uint8, generator)
    weight = values((4, 3, 3, 2), torch.int8, generator)
    scale, bias = torch.rand(4, generator=generator), torch.randn(4, generator=generator)
    options = {"stride": (2, 1), "padding": (1, 2), "groups": 2}
    packed = pack_int8(weight, 2)
    y = int8_conv2d_reference(x, packed, scale, bias, kernel_size=(3, 2), x_zero=100, **options)
    real = F.conv2d(x.double() - 100, weight.double(), None, **options)
    real = real * scale.double().view(-1, 1, 1) + bias.double().view(-1, 1, 1)
    assert torch.allclose(y.double(), real, rtol=1e-6, atol=1e-4)
    q = int8_conv2d_reference(
        x, packed, scale, bias, kernel_size=(3, 2), x_zero=100, out_dtype=torch.int8, **options
    )
    assert torch.equal(q, y.round().clamp(-128, 127).to(torch.int8))


@given(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 130), st.booleans(), st.integers(0, 999)
)
@settings(max_examples=40, deadline=None)
@example(33, 1, 1, False, 0)
def test_unpacking_gives_back_what_was_packed(groups, outputs, channels, dilated, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = values((outputs * groups, channels, 2, 3), torch.int8, generator)
    dilation = 2 if dilated else 1
    packed = pack_int8(weight, groups, dilation)
    sizes = (outputs * groups, channels * groups, (2, 3), groups, dilation)
    assert torch.equal(unpack_int8(packed, *sizes), weight)


@pytest.mark.parametrize("depth", [64, 1024, 4608, 65536])
@pytest.mark.parametrize("rows", [1, 14, 40])
def test_sums_of_extreme_values_do_not_saturate_or_overflow(depth, rows):
    x = torch.full((rows, depth), 255, dtype=torch.uint8)
    weight = torch.stack((torch.full((depth,), 127), torch.full((depth,), -128))).to(torch.int8)
    y = int8_linear(x, pack_int8(weight), torch.ones(2))
    assert torch.equal(y, torch.tensor([[255.0 * 127 * depth, -255.0 * 128 * depth]] * rows))
    zero = int8_linear(x, pack_int8(weight), torch.ones(2), x_zero=255)
    assert torch.equal(zero, torch.zeros(rows, 2))


def test_padding_counts_as_the_zero_point_exactly():
    x = torch.full((1, 3, 1, 1), 9, dtype=torch.uint8)
    packed = pack_int8(torch.ones(1, 3, 3, 3, dtype=torch.int8))
    y = int8_conv2d(x, packed, torch.ones(1), kernel_size=3, padding=3, x_zero=200)
    assert y.sum() == 9 * 3 * (9 - 200)  # one pixel, seen once by each of the nine taps
    assert y[0, 0, 0, 0] == 0


def test_results_round_halves_to_even_and_saturate():
    x = torch.arange(256).to(torch.uint8)[:, None]
    packed = pack_int8(torch.tensor([[1], [-1]], dtype=torch.int8))
    half = torch.full((2,), 0.5)
    wanted = torch.arange(256) / 2
    y = int8_linear(x, packed, half, out_dtype=torch.int8)
    assert torch.equal(y[:, 0], wanted.round().clamp(max=127).to(torch.int8))
    assert torch.equal(y[:, 1], (-wanted).round().clamp(min=-128).to(torch.int8))
    y = int8_linear(x, packed, 1e30 * half, out_dtype=torch.uint8, y_zero=3)
    assert y[0].tolist() == [3, 3] and y[1].tolist() == [255, 0]
    y = int8_linear(x, packed, half, out_dtype=torch.uint8, y_zero=100, relu=True)
    assert (y[:, 1] == 100).all()


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1000])
def test_quantizing_rounds_halves_to_even_and_saturates(count):
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, generator=generator) * 4
    special = torch.tensor(
        [torch.nan, torch.inf, -torch.inf, 0.5, 1.5, 2.5, -0.5, -0.0, 3e38, -3e38, 254.5, 1e-40]
    )
    for values_ in (x, torch.cat((special, x))):
        for inverse, zero in ((1.0, 0), (30.3, 128), (7.0, 255)):
            y = int8_quantize(values_, inverse, zero)
            assert torch.equal(y, int8_quantize_reference(values_, inverse, zero))
    assert int8_quantize(special, 1.0, 0).tolist() == [0, 255, 0, 0, 2, 2, 0, 0, 255, 0, 254, 0]


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_quantizing_keeps_the_memory_format(layout):
    x = laid_out(torch.randn(2, 5, 4, 3), layout)
    y, expected = int8_quantize(x, 30.0, 128), int8_quantize_reference(x, 30.0, 128)
    assert torch.equal(y, expected) and y.stride() == expected.stride()


def test_dynamic_quantization_has_one_scale_per_row_and_per_image():
    x = torch.randn(5, 96) * torch.tensor([1e-3, 1.0, 0.0, 1e3, 50.0])[:, None]
    weight, scale = quantize_weight(torch.randn(40, 96))
    y = int8_linear(x, pack_int8(weight), scale)
    real = x.double() @ (weight.double() * scale.double()[:, None]).T
    size = x.abs().amax(1, keepdim=True).double() * scale.double() * 74 * 96**0.5
    assert ((y - real).abs() <= 0.03 * size).all()
    assert torch.equal(y[2], torch.zeros(40))
    images = x.reshape(5, 6, 4, 4)
    packed = pack_int8(torch.ones(3, 6, 1, 1, dtype=torch.int8))
    y = int8_conv2d(images, packed, torch.ones(3), kernel_size=1)
    for one, result in zip(images, y, strict=True):
        assert torch.equal(int8_conv2d(one[None], packed, torch.ones(3), kernel_size=1)[0], result)


def test_a_weight_is_quantized_symmetrically_per_channel():
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [1e-3, 3e-3, -3e-3]])
    q, scale = quantize_weight(weight)
    assert q.tolist() == [[64, -127, 32], [0, 0, 0], [42, 127, -127]]
    assert torch.allclose(q * scale[:, None], weight, atol=0.01)
    assert scale[1] == 1


@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_any_number_of_threads_gives_the_same_bits(images, dtype):
    generator = torch.Generator().manual_seed(0)
    x = laid_out(values((images, 64, 29, 31), dtype, generator), "channels_last")
    packed = pack_int8(values((80, 64, 3, 3), torch.int8, generator))
    matrix = values((images * 200, 600), dtype, generator)
    wide = pack_int8(values((500, 600), torch.int8, generator))
    single = pack_int8(values((64, 1, 3, 3), torch.int8, generator), 64)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            conv = int8_conv2d(x, packed, torch.ones(80), kernel_size=3, padding=1)
            depth = int8_conv2d(x, single, torch.ones(64), kernel_size=3, groups=64)
            linear = int8_linear(matrix, wide, torch.ones(500))
            results.append(torch.cat([t.flatten() for t in (conv, depth, linear)]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], y) for y in results[1:])


@pytest.mark.parametrize("dtype", INPUTS)
@pytest.mark.parametrize("options", [{}, {"relu": True, "out_dtype": torch.uint8, "y_zero": 3}])
def test_torch_accepts_the_operators(dtype, options):
    generator = torch.Generator().manual_seed(0)
    scale, bias = torch.rand(4), torch.rand(4)
    matrix = values((3, 6), dtype, generator)
    weight = values((4, 6), torch.int8, generator)
    torch.library.opcheck(int8_linear.op, (matrix, pack_int8(weight), scale, bias), options)
    x = laid_out(values((2, 6, 5, 6), dtype, generator), "channels_last")
    packed = pack_int8(values((4, 3, 3, 3), torch.int8, generator), 2)
    geometry = {"kernel_size": [3, 3], "stride": 2, "padding": 1, "groups": 2}
    torch.library.opcheck(int8_conv2d.op, (x, packed, scale, bias), geometry | options)
    torch.library.opcheck(int8_quantize.op, (torch.randn(2, 3, 4), 20.0, 128))


GOOD = {
    "x": torch.ones(1, 6, 5, 5, dtype=torch.uint8),
    "packed": pack_int8(torch.ones(4, 6, 3, 3, dtype=torch.int8)),
    "scale": torch.ones(4),
    "bias": None,
    "kernel_size": (3, 3),
}
BAD = {
    "x must be": (ValueError, {"x": torch.ones(6, 5, 5, dtype=torch.uint8)}),
    "x must be uint8, int8 or float32": (TypeError, {"x": torch.ones(1, 6, 5, 5).double()}),
    "packed must be int8": (TypeError, {"packed": torch.ones(1, 6)}),
    "packed has shape": (ValueError, {"packed": torch.ones(1, 6, dtype=torch.int8)}),
    r"packed has shape.*70 inputs": (ValueError, {"x": torch.ones(1, 70, 5, 5)}),
    r"packed has shape.*dilation": (ValueError, {"dilation": (1, 2)}),
    "scale must be float32": (TypeError, {"scale": torch.ones(4).double()}),
    "scale must have shape": (ValueError, {"scale": torch.ones(4, 1)}),
    "bias must have shape": (ValueError, {"bias": torch.ones(5)}),
    "bias must be float32": (TypeError, {"bias": torch.ones(4).half()}),
    "out_dtype must be": (TypeError, {"out_dtype": torch.int32}),
    r"x_zero must lie in \[0, 255\]": (ValueError, {"x_zero": -1}),
    r"x_zero must lie in \[-128, 127\]": (
        ValueError,
        {"x": torch.ones(1, 6, 5, 5, dtype=torch.int8), "x_zero": 128},
    ),
    "y_zero must lie": (ValueError, {"out_dtype": torch.int8, "y_zero": 128}),
    "kernel_size must be": (ValueError, {"kernel_size": (0, 3)}),
    "stride must be": (ValueError, {"stride": (0, 1)}),
    "padding must be": (ValueError, {"padding": (-1, 0)}),
    "groups=4 does not divide": (ValueError, {"groups": 4}),
    "does not fit x of size 2": (ValueError, {"x": torch.ones(1, 6, 2, 5)}),
    "packed is on meta": (
        ValueError,
        {"packed": torch.ones(GOOD["packed"].shape, dtype=torch.int8, device="meta")},
    ),
}


@pytest.mark.parametrize("function", [int8_conv2d, int8_conv2d_reference])
@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused_by_name(function, message):
    error, change = BAD[message]
    function(**GOOD)
    with pytest.raises(error, match=message):
        function(**{**GOOD, **change})


@pytest.mark.parametrize("function", [int8_linear, int8_linear_reference])
def test_a_bad_matrix_is_refused_by_name(function):
    packed, scale = pack_int8(torch.ones(4, 6, dtype=torch.int8)), torch.ones(4)
    for x in (torch.ones(2, 70), torch.ones(2, 0)):
        with pytest.raises(ValueError, match=r"70 inputs|x must be"):
            function(x, packed, scale)
    with pytest.raises(ValueError, match="packed has shape"):
        function(torch.ones(2, 6), packed, torch.ones(40))


@pytest.mark.parametrize(
    ("weight", "groups", "error", "message"),
    [
        (torch.ones(3, 4), 1, TypeError, "weight must be int8"),
        (torch.ones(3, 4, 1, dtype=torch.int8), 1, ValueError, "weight must be"),
        (torch.ones(0, 4, dtype=torch.int8), 1, ValueError, "weight must be"),
        (torch.ones(3, 4, dtype=torch.int8), 2, ValueError, "groups=2"),
        (torch.ones(1, 65537, dtype=torch.int8), 1, ValueError, "more than 65536"),
    ],
)
def test_a_weight_that_cannot_be_packed_is_refused(weight, groups, error, message):
    with pytest.raises(error, match=message):
        pack_int8(weight, groups)


def test_quantizing_refuses_what_it_cannot_hold():
    for function in (int8_quantize, int8_quantize_reference):
        with pytest.raises(TypeError, match="x must be float32"):
            function(torch.ones(3).double(), 1.0)
        with pytest.raises(ValueError, match="zero must lie"):
            function(torch.ones(3), 1.0, 256)


def test_a_gradient_is_refused_rather_than_lost():
    x = torch.randn(2, 6, requires_grad=True)
    y = int8_linear(x, pack_int8(torch.ones(4, 6, dtype=torch.int8)), torch.ones(4))
    with pytest.raises(RuntimeError, match="autograd"):
        y.sum().backward()
