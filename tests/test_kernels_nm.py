"""N:M sparse int8 products: against the dense convolution, on every path, and what is refused."""

import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from compactnets import cost, kernels
from compactnets.kernels import NMConv2d, NMLinear, nm_conv2d, nm_conv2d_reference
from compactnets.kernels.nm import pack_nm, unpack_nm

PATTERNS = [(2, 4), (1, 4), (1, 16), (1, 2), (3, 8), (7, 32), (20, 64), (16, 16), (1, 64)]


def masked(outputs, inputs, kernel, n, m, seed=0):
    """Random int8 weights, -127 .. 127, n of every m inputs kept at random places."""
    generator = torch.Generator().manual_seed(seed)
    size = (outputs, inputs + -inputs % m, *kernel)
    weight = torch.randint(-127, 128, size, generator=generator).to(torch.int8)
    order = torch.rand(size, generator=generator).unflatten(1, (-1, m)).argsort(2)
    return (weight * (order.argsort(2) < n).flatten(1, 2))[:, :inputs].contiguous()


# Patterns whose quads lie in 16 inputs, and others; chunks that end early; tiles of pixels of every
# size; borders, strides; images of one pixel, which are the rows of a linear layer.
CHECK = """
import torch
from compactnets import kernels
from compactnets.kernels import nm_conv2d, nm_conv2d_reference
from compactnets.kernels.nm import dense_tiles, pack_nm
from test_kernels_nm import masked, PATTERNS

def check(pattern, images, inputs, outputs, size, kernel=(1, 1), **geometry):
    weight = masked(outputs, inputs, kernel, *pattern)
    x = torch.randn(images, inputs, *size)
    rest = (pack_nm(weight, *pattern), torch.rand(outputs),
            weight.flatten(1).sum(1, dtype=torch.int32))
    codes = torch.randint(-128, 128, x.shape).to(torch.int8)
    bytes_ = torch.randint(0, 256, x.shape).to(torch.uint8)
    bias = torch.randn(outputs)
    for args, zero in (((x, *rest, bias), 0), ((codes, *rest, None, torch.rand(images)), 0),
                       ((bytes_, *rest, bias, torch.rand(1)), 117)):
        options = {"zero": zero, "kernel_size": kernel, **geometry}
        y, expected = nm_conv2d(*args, **options), nm_conv2d_reference(*args, **options)
        assert torch.equal(y, expected), (pattern, x.shape, outputs, kernel, args[0].dtype)
        args = (*args, *[None] * (6 - len(args)), dense_tiles(weight))
        assert torch.equal(nm_conv2d(*args, **options), expected), (x.shape, outputs, kernel)

torch.manual_seed(0)
for pattern in PATTERNS:
    check(pattern, 2, 100, 33, (5, 6), (3, 3), padding=(1, 1))
    check(pattern, 13, 192, 40, (1, 1))
for pixels in range(1, 30):
    check((2, 4), pixels, 64, 16, (1, 1))
for inputs in (1, 3, 63, 65, 128):
    check((1, 4), 1, inputs, 20, (4, 5))
for outputs in (1, 15, 16, 17):
    check((1, 16), 1, 64, outputs, (4, 5))
for pixels in (31, 32, 33, 64, 70):
    check((2, 4), pixels, 100, 50, (1, 1))
    check((2, 4), 1, 64, 16, (1, pixels))
check((2, 4), 1, 65, 33, (4, 40), (3, 3), padding=(1, 1))
check((2, 4), 2, 70, 20, (9, 8), (3, 2), stride=(2, 3), padding=(2, 0))
check((2, 4), 2, 64, 20, (7, 9), (1, 1), stride=(2, 2), padding=(0, 1))
check((2, 4), 0, 64, 20, (7, 9))
for value in (0, 255):  # products at the ends of their range
    for sign in (127, -127):
        weight = torch.full((16, 64, 1, 1), sign, dtype=torch.int8)
        args = (torch.full((1, 64, 3, 3), value, dtype=torch.uint8), pack_nm(weight, 64, 64),
                torch.ones(16), weight.flatten(1).sum(1, dtype=torch.int32), None, torch.ones(1))
        for zero in (0, 128, 255):
            assert (nm_conv2d(*args, zero=zero) == 64 * sign * (value - zero)).all()
noise = torch.randint(0, 256, (1, 1, 8, 128), dtype=torch.uint8)  # any index is harmless
nm_conv2d(torch.ones(1, 64, 1, 1), noise, torch.ones(16), torch.ones(16, dtype=torch.int32))
print(kernels.isa())
"""


@pytest.mark.parametrize("isa", [isa for isa in kernels.supported() if isa != "reference"])
def test_every_path_equals_the_reference_bit_for_bit(isa):
    here = os.path.dirname(__file__)
    environment = {**os.environ, "COMPACTNETS_ISA": isa, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]


@st.composite
def layers(draw):
    """(weight int8, x of any dtype, x_scale, zero, scale, bias, pattern, geometry)."""
    pattern = draw(st.sampled_from(PATTERNS))
    inputs, outputs = draw(st.integers(1, 150)), draw(st.integers(1, 40))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    geometry = {
        "stride": (draw(st.integers(1, 2)), draw(st.integers(1, 3))),
        "padding": (draw(st.integers(0, 2)), draw(st.integers(0, 2))),
    }
    images = draw(st.integers(0, 3))
    size = [
        max(1, kernel[i] - 2 * geometry["padding"][i]) + draw(st.integers(0, 9)) for i in (0, 1)
    ]
    seed = draw(st.integers(0, 2**20))
    generator = torch.Generator().manual_seed(seed)
    kind = draw(st.sampled_from([torch.float32, torch.int8, torch.uint8]))
    shape = (images, inputs, *size)
    x = torch.randn(shape, generator=generator)
    if kind is not torch.float32:
        x = torch.randint(-128, 128, shape, generator=generator).to(kind)
    x_scale = None if kind is torch.float32 else torch.rand(images, generator=generator)
    zero = draw(st.integers(0, 255)) if kind is torch.uint8 else 0
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    scale, bias = torch.randn(2, outputs, generator=generator)
    weight = masked(outputs, inputs, kernel, *pattern, seed=seed)
    return weight, x, x_scale, zero, scale, bias, pattern, geometry


@settings(max_examples=40, deadline=None)
@given(layers())
def test_the_layer_is_the_dense_convolution_of_its_integers(layer):
    weight, x, x_scale, zero, scale, bias, pattern, geometry = layer
    module = NMConv2d.from_integers(weight, scale, *pattern, bias=bias, **geometry)
    assert torch.equal(module.integers(), weight)
    y = module(x, x_scale, zero)
    expected = nm_conv2d_reference(
        x,
        module.packed,
        module.scale,
        module.weight_sums,
        module.bias,
        x_scale,
        zero=zero,
        kernel_size=weight.shape[2:],
        **geometry,
    )
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    if x_scale is not None:  # another route: floats, where all is exact in double
        real = (x.double() - zero) * x_scale.double()[:, None, None, None]
        wide = F.conv2d(real, weight.double() * scale.double()[:, None, None, None], **geometry)
        wide = wide + bias.double()[:, None, None]
        torch.testing.assert_close(
            y.double(),
            wide,
            rtol=1e-5,
            atol=1e-5 * (1 + wide.abs().max().item()) if wide.numel() else 0,
        )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_packing_stores_two_bytes_per_kept_weight_and_unpacks(pattern):
    weight = masked(48, 128, (3, 1), *pattern)
    packed = pack_nm(weight, *pattern)
    assert torch.equal(unpack_nm(packed, 48, 128, (3, 1)), weight)
    kept = -(-64 * pattern[0] // (4 * pattern[1])) * 4 / 64
    assert packed.numel() == 2 * kept * weight.numel()


def test_a_weight_that_breaks_the_pattern_is_refused_by_its_output():
    weight = masked(20, 64, (1, 1), 2, 4)
    weight[13, 8:12] = torch.tensor([1, 1, 1, 0], dtype=torch.int8)[:, None, None]
    with pytest.raises(ValueError, match=r"2:4: output 13 has 3 weights among the inputs 8 .. 11"):
        pack_nm(weight, 2, 4)
    with pytest.raises(ValueError, match="output 13"):
        NMConv2d(weight.float(), 2, 4)
    dense = torch.zeros(3, 8, 2, 2)
    dense[2, 5:, 1, 0] = 1
    with pytest.raises(ValueError, match=r"output 2 has 3 .* inputs 4 .. 7, tap 2"):
        NMConv2d(dense, 2, 4)
    pack_nm(weight, 3, 4)


def test_a_float_layer_is_quantized_by_the_largest_magnitude_of_an_output():
    torch.manual_seed(0)
    weight = torch.randn(20, 64) * (masked(20, 64, (1, 1), 1, 4) != 0).flatten(1)
    layer, x, bias = NMLinear(weight, 1, 4), torch.randn(2, 5, 64), torch.randn(20)
    dense = layer.integers().flatten(1) * layer.scale[:, None]
    assert ((dense - weight).abs() <= 0.500001 * layer.scale[:, None]).all()
    torch.testing.assert_close(layer(x), x @ weight.t(), rtol=0, atol=0.15)
    shifted = NMLinear(weight, 1, 4, bias=bias)
    torch.testing.assert_close(shifted(x), layer(x) + bias)
    assert layer(x[0, 0]).shape == (20,) and layer(x[:, :0]).shape == (2, 0, 20)
    assert torch.equal(layer(x), torch.stack([layer(x[0]), layer(x[1])]))  # rows do not meet


def test_rows_with_nan_are_nan_and_others_are_not():
    x = torch.randn(4, 64)
    x[1, 0], x[2, 63], x[3] = math.nan, math.inf, -0.0
    y = NMLinear(torch.eye(64), 1, 64)(x)
    assert y[1:3].isnan().all() and y[0].isfinite().all() and (y[3] == 0).all()
    image = torch.ones(2, 64, 2, 2)
    image[1, 0, 0, 0] = -math.inf
    y = NMConv2d(torch.ones(3, 64, 1, 1), 64, 64)(image)
    assert y[1].isnan().all() and (y[0] == 64).all()


def test_layers_survive_their_state_dict(tmp_path):
    weight = masked(20, 70, (3, 3), 2, 4).float()
    layer = NMConv2d(weight, 2, 4, bias=torch.randn(20), padding=1)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other, x = NMConv2d.blank(70, 20, 3, 2, 4, bias=True, padding=1), torch.randn(1, 70, 5, 40)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert torch.equal(other(x), layer(x))
    linear = NMLinear.from_integers(masked(20, 70, (1, 1), 2, 4).flatten(1), torch.rand(20), 2, 4)
    other = NMLinear.blank(70, 20, 2, 4)
    assert "tiles" not in linear.state_dict()
    other.load_state_dict(linear.state_dict())
    assert torch.equal(other(x[0, :, 0].t()), linear(x[0, :, 0].t()))


def test_strides_of_x_do_not_matter():
    layer = NMConv2d(masked(20, 64, (1, 1), 2, 4).float(), 2, 4)
    x = torch.randint(0, 256, (2, 128, 9, 9)).to(torch.uint8)
    for view in (x[:, ::2], x[:, 3:67], x[:, :64, 1:, :4], x[:, :64].transpose(2, 3)):
        assert torch.equal(
            layer(view, torch.ones(1), 3), layer(view.contiguous(), torch.ones(1), 3)
        )
    assert torch.equal(layer(x[:, :64].double()), layer(x[:, :64].float()))


@pytest.mark.parametrize("shape", [(1, 192, 30, 31), (300, 192, 1, 1), (5, 192, 4, 4)])
def test_any_number_of_threads_gives_the_same_bits(shape):
    weight, x = masked(100, 192, (1, 1), 1, 4), torch.randn(shape)
    layer = NMConv2d.from_integers(weight, torch.rand(100), 1, 4)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += [layer(x) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], y) for y in results[1:])


@pytest.mark.parametrize("kind", [torch.float32, torch.int8, torch.uint8])
def test_torch_accepts_the_operator_and_compiles_the_layers(kind):
    layer = NMConv2d(masked(20, 64, (3, 3), 2, 4).float(), 2, 4, padding=1, stride=2)
    x = torch.randint(0, 99, (2, 64, 6, 5)).to(kind)
    x_scale = None if kind is torch.float32 else torch.rand(2)
    zero = 7 if kind is torch.uint8 else 0
    args = (x, layer.packed, layer.scale, layer.weight_sums, torch.rand(20), x_scale)
    options = {"zero": zero, "kernel_size": [3, 3], "stride": [2, 2], "padding": [1, 1]}
    torch.library.opcheck(nm_conv2d.op, args, options)
    with torch.inference_mode():
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(x, x_scale, zero), layer(x, x_scale, zero))
        linear = NMLinear(masked(20, 64, (1, 1), 2, 4).flatten(1).float(), 2, 4)
        rows = x[:, :, 0].mT
        compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
        assert torch.equal(
            compiled(rows, None if x_scale is None else x_scale[:1], zero),
            linear(rows, None if x_scale is None else x_scale[:1], zero),
        )


def test_a_gradient_is_refused_rather_than_lost():
    y = NMLinear(torch.eye(64), 1, 64)(torch.randn(2, 64, requires_grad=True))
    with pytest.raises(RuntimeError, match="autograd"):
        y.sum().backward()


def test_costs_count_what_is_kept():
    layer = NMConv2d(torch.zeros(32, 64, 3, 3), 2, 4, padding=1)
    total = cost.count(layer, torch.ones(1, 64, 5, 5))
    assert total.macs == 25 * 32 * 64 * 9 // 2
    assert layer.cost_bytes() == 2 * 32 * 64 * 9 // 2 + 4 * (32 + 32)
    assert "pattern=2:4" in repr(layer) and "padding=(1, 1)" in repr(layer)


BYTES = torch.zeros(2, 1, 8, 128, dtype=torch.uint8)
INTS = torch.zeros(20, dtype=torch.int32)
BAD = {
    "x must be .N": (ValueError, {"x": torch.ones(2, 8)}),
    "x must be .*with channels": (ValueError, {"x": torch.ones(2, 0, 4, 4)}),
    "x must be float32, int8": (TypeError, {"x": torch.ones(1, 8, 2, 2).double()}),
    "packed must be uint8": (TypeError, {"packed": BYTES.float()}),
    "packed has shape": (ValueError, {"packed": BYTES[:1]}),
    "packed has shape .*, 0": (ValueError, {"packed": BYTES[:, :, :0]}),
    "packed has shape.*80 inputs": (ValueError, {"x": torch.ones(2, 80, 2, 2)}),
    "packed has shape.*kernel": (ValueError, {"kernel_size": (2, 2)}),
    "packed is on meta": (ValueError, {"packed": BYTES.to("meta")}),
    "scale must be float32": (TypeError, {"scale": torch.ones(20).half()}),
    "scale must have": (ValueError, {"scale": torch.ones(20, 1)}),
    "weight_sums must be int32": (TypeError, {"weight_sums": torch.ones(20)}),
    "weight_sums must have": (ValueError, {"weight_sums": INTS[:19]}),
    "bias must have": (ValueError, {"bias": torch.ones(21)}),
    "bias must be": (TypeError, {"bias": torch.ones(20).int()}),
    "zero must be": (
        ValueError,
        {"x": torch.ones(1, 8, 2, 2).to(torch.uint8), "x_scale": torch.ones(1), "zero": 256},
    ),
    "zero goes with": (ValueError, {"zero": 3}),
    "x_scale goes": (ValueError, {"x_scale": torch.ones(1)}),
    "x_scale goes with an int8": (ValueError, {"x": torch.ones(1, 8, 2, 2).to(torch.int8)}),
    "x_scale must have": (
        ValueError,
        {"x": torch.ones(2, 8, 2, 2).to(torch.int8), "x_scale": torch.ones(3)},
    ),
    "tiles must be int8": (TypeError, {"tiles": BYTES}),
    "tiles must have": (ValueError, {"tiles": torch.zeros(2, 1, 2048, dtype=torch.int8)}),
    "tiles is on meta": (
        ValueError,
        {"tiles": torch.zeros(1, 1, 2048, dtype=torch.int8, device="meta")},
    ),
    "stride must be": (ValueError, {"stride": (0, 1)}),
    "padding must be": (ValueError, {"padding": (0, -1)}),
    "does not fit x of size 0": (ValueError, {"x": torch.ones(1, 8, 0, 2)}),
}


@pytest.mark.parametrize("function", [nm_conv2d, nm_conv2d_reference])
@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused_by_name(function, message):
    error, change = BAD[message]
    good = {
        "x": torch.ones(1, 8, 2, 2),
        "packed": BYTES,
        "scale": torch.ones(20),
        "weight_sums": INTS,
        "kernel_size": (1, 1),
    }
    function(**good)
    with pytest.raises(error, match=message):
        function(**{**good, **change})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: NMConv2d(torch.zeros(4, 64), 2, 4), ValueError, "weight must be"),
        (lambda: NMLinear(torch.zeros(4, 64, 1, 1), 2, 4), ValueError, "weight must be"),
        (lambda: NMLinear(torch.zeros(4, 64), 0, 4), ValueError, "n:m must"),
        (lambda: NMLinear(torch.zeros(4, 60), 2, 5), ValueError, "m divide 64"),
        (lambda: NMLinear(torch.full((4, 64), math.nan), 64, 64), ValueError, "finite"),
        (lambda: NMLinear(torch.zeros(4, 64), 2, 4, bias=torch.ones(3)), ValueError, "bias must"),
        (lambda: pack_nm(torch.zeros(4, 64), 2, 4), TypeError, "weight must be int8"),
        (lambda: pack_nm(torch.full((4, 4), -128).to(torch.int8), 4, 4), ValueError, "-128"),
        (lambda: NMLinear(torch.zeros(4, 64), 2, 4)(torch.ones(63)), ValueError, "x must be"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
