"""Weights of 4 and 2 bits with int8 activations: against other routes, on every path, refusals."""

import copy
import math
import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compactnets import cost, kernels
from compactnets.kernels import LowBitConv2d, LowBitLinear, lowbit_linear, lowbit_linear_reference
from compactnets.kernels.lowbit import pack_codes, quantize_rows, quantize_weight, unpack_codes

KINDS = [(4, 8), (2, 2), (2, 1)]  # bits, code of zero; the last: ternary

# Every loop of every path: one row, tiles of rows and rests, whole and part blocks of outputs,
# inputs that end within a step and a chunk, groups that end within a tile, int8 as it comes.
CHECK = """
import torch
from compactnets import kernels
from compactnets.kernels import lowbit_linear, lowbit_linear_reference
from compactnets.kernels.lowbit import pack_codes

def check(bits, zero, rows, inputs, outputs, group):
    integers = torch.randint(-zero, 2**bits - zero, (outputs, inputs)).to(torch.int8)
    scale = torch.randn(inputs // group if group else 1, outputs)
    rest = (pack_codes(integers, bits, zero), scale, torch.randn(outputs))
    x = torch.randn(rows, inputs)
    codes = torch.randint(-128, 128, (rows, inputs)).to(torch.int8)
    for args in ((x, *rest), (x, *rest[:2]), (codes, *rest, torch.rand(rows)),
                 (codes, *rest, torch.rand(1))):
        y = lowbit_linear(*args, bits=bits, zero=zero)
        expected = lowbit_linear_reference(*args, bits=bits, zero=zero)
        assert torch.equal(y, expected), (bits, zero, rows, inputs, outputs, group)

torch.manual_seed(0)
for bits, zero in ((4, 8), (2, 2), (2, 1)):
    for rows in (0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 33, 65):
        check(bits, zero, rows, 160, 150, None)
        check(bits, zero, rows, 160, 150, 32)
    for inputs in (1, 2, 3, 4, 5, 63, 64, 65, 127, 200):
        for rows in (1, 9):
            check(bits, zero, rows, inputs, 70, None)
    for outputs in (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300):
        for rows in (1, 9):
            check(bits, zero, rows, 64, outputs, 64)
    for group in (32, 64, 128):
        for rows in (1, 5, 40):
            check(bits, zero, rows, 3 * group, 100, group)
x = torch.randn(5, 32)
x[1, 3], x[2, 31], x[3] = float("nan"), float("-inf"), 1e-35
scale, packed = torch.ones(1, 20), pack_codes(torch.ones(20, 32, dtype=torch.int8), 4, 8)
y = lowbit_linear(x, packed, scale, bits=4, zero=8)
assert y[1:3].isnan().all() and (y[3] == 0).all() and y[::4].isfinite().all()
expected = lowbit_linear_reference(x, packed, scale, bits=4, zero=8)
assert torch.equal(y.nan_to_num(), expected.nan_to_num())
print(kernels.isa())
"""


@pytest.mark.parametrize("isa", [isa for isa in kernels.supported() if isa != "reference"])
def test_every_path_equals_the_reference_bit_for_bit(isa):
    environment = {**os.environ, "COMPACTNETS_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]


@st.composite
def layers(draw):
    """(x, integers, scale of each weight's group, bias or None, bits, zero)."""
    bits, zero = draw(st.sampled_from(KINDS))
    group = draw(st.sampled_from([None, None, 32, 64, 128]))
    inputs = draw(st.integers(1, 4)) * group if group else draw(st.integers(1, 300))
    outputs, rows = draw(st.integers(1, 140)), draw(st.integers(0, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    size = (outputs, inputs)
    integers = torch.randint(-zero, 2**bits - zero, size, generator=generator).to(torch.int8)
    scale = torch.rand(inputs // group if group else 1, outputs, generator=generator)
    x = torch.randn(rows, inputs, generator=generator) * 10.0 ** draw(st.integers(-20, 20))
    x = torch.where(x.abs() < 0.1 * x.abs().max() if rows else x > 0, -0.0, x)
    bias = torch.randn(outputs, generator=generator) if draw(st.booleans()) else None
    return x, integers, scale, bias, bits, zero


@settings(max_examples=60, deadline=None)
@given(layers())
def test_the_operator_is_the_product_of_integers_times_scales(layer):
    x, integers, scale, bias, bits, zero = layer
    before = x.clone()
    args = (x, pack_codes(integers, bits, zero), scale, bias)
    y = lowbit_linear(*args, bits=bits, zero=zero)
    assert torch.equal(y, lowbit_linear_reference(*args, bits=bits, zero=zero))
    assert torch.equal(x, before)

    codes, x_scale = quantize_rows(x)
    weight = integers.double() * scale.double().t().repeat_interleave(
        integers.shape[1] // scale.shape[0], 1
    )
    exact = (codes.double() * x_scale.double()[:, None]) @ weight.t()
    exact = exact if bias is None else exact + bias.double()
    magnitude = (codes.double().abs() * x_scale.double()[:, None]) @ weight.abs().t() + 10.0
    assert ((y - exact).abs() <= 2e-6 * magnitude).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.integers(1, 200), st.integers(-25, 30), st.integers(0, 2**20))
def test_quantized_rows_are_within_half_a_step_and_reach_127(rows, depth, power, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, depth, generator=generator) * 10.0**power
    codes, scale = quantize_rows(x)
    error = (codes * scale[:, None].double() - x).abs()
    assert (error <= 0.500001 * scale[:, None]).all()
    assert (codes.abs().amax(-1) == 127).all()


def test_rounding_is_to_even_and_special_rows_are_as_documented():
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -2.5]])
    assert quantize_rows(x)[0].tolist() == [[127, 0, 2, 2, 0, -2]]
    eye = pack_codes(torch.eye(6, dtype=torch.int8), 4, 8)
    one = torch.ones(1, 6)
    assert lowbit_linear(x, eye, one, bits=4, zero=8).tolist() == [[127, 0, 2, 2, 0, -2]]
    for bad in (math.nan, math.inf, -math.inf):
        x[0, 3] = bad
        assert lowbit_linear(x, eye, one, bits=4, zero=8).isnan().all()
    for tiny in (0.0, -0.0, 1e-45, 7e-31):
        y = lowbit_linear(torch.full((1, 6), tiny), eye, one, one[0], bits=4, zero=8)
        assert (y == 1).all()


@pytest.mark.parametrize(("bits", "zero"), KINDS)
def test_the_longest_sums_of_extreme_values_do_not_overflow(bits, zero):
    inputs, low, high = 65536, -zero, 2**bits - 1 - zero
    integers = torch.tensor([[low], [high]], dtype=torch.int8).expand(2, inputs).contiguous()
    packed, scale = pack_codes(integers, bits, zero), torch.ones(1, 2)
    for value, rows in ((-128, 1), (127, 1), (-128, 6), (127, 40)):
        x = torch.full((rows, inputs), value, dtype=torch.int8)
        y = lowbit_linear(x, packed, scale, None, torch.ones(1), bits=bits, zero=zero)
        assert torch.equal(
            y, torch.tensor([[low, high]]).mul(value * inputs).float().expand(rows, 2)
        )


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 140), st.integers(1, 200), st.integers(0, 2**20))
def test_unpacking_gives_back_what_was_packed(kind, outputs, inputs, seed):
    bits, zero = kind
    generator = torch.Generator().manual_seed(seed)
    size = (outputs, inputs)
    integers = torch.randint(-zero, 2**bits - zero, size, generator=generator).to(torch.int8)
    packed = pack_codes(integers, bits, zero)
    assert torch.equal(unpack_codes(packed, outputs, inputs, bits, zero), integers)
    assert packed.numel() * 8 // bits < (outputs + 64) * (inputs + 64)


@pytest.mark.parametrize("group", [None, 32, 64])
@pytest.mark.parametrize("options", [{"bits": 4}, {"bits": 2}, {"bits": 2, "ternary": True}])
def test_a_layer_is_its_dense_weight_within_the_steps_of_both(group, options):
    torch.manual_seed(0)
    weight, x, bias = torch.randn(70, 192), torch.randn(2, 3, 192), torch.randn(70)
    layer = LowBitLinear(weight, group=group, bias=bias, **options)
    error = (layer.dense_weight() - weight).abs()
    step = layer.scale.t().repeat_interleave(192 // layer.scale.shape[0], 1)
    assert (error <= 0.500001 * step).all()
    codes, scale = quantize_rows(x)
    expected = (codes * scale[..., None]) @ layer.dense_weight().t() + bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(layer(x.double()), layer(x.double().float()))
    assert layer(x[:, :0]).shape == (2, 0, 70)


def test_a_weight_is_quantized_by_its_largest_magnitude_and_zeros_stay_zero():
    weight = torch.zeros(2, 64)
    weight[0, :4] = torch.tensor([-3.5, 0.25, 1.0, 0.7])
    integers, scale = quantize_weight(weight, 4, group=32)
    assert scale.tolist() == [[0.5, 0], [0, 0]]
    assert integers[0, :4].tolist() == [-7, 0, 2, 1] and not integers[:, 4:].any()
    assert quantize_weight(weight, 2, ternary=True)[0][0, :4].tolist() == [-1, 0, 0, 0]


def test_integers_and_scales_of_another_quantizer_deploy_as_they_are():
    integers = torch.tensor([[-8, 7, 0, 3], [1, -1, 2, -2]])
    x = torch.eye(4) * 127
    for scale in (torch.tensor([0.5, 2.0]), torch.tensor([[0.5], [2.0]])):
        layer = LowBitLinear.from_integers(integers, scale)
        assert torch.equal(layer(x), (integers * torch.tensor([[0.5], [2.0]])).t() * 127)
    ternary = LowBitLinear.from_integers(
        integers.clamp(-1, 1).float(), torch.tensor(3.0), bits=2, ternary=True
    )
    assert torch.equal(ternary.integers(), integers.clamp(-1, 1).to(torch.int8))
    assert torch.equal(ternary(x), integers.clamp(-1, 1).t() * 381.0)


@pytest.mark.parametrize("group", [None, 32])
def test_a_layer_survives_its_state_dict(group, tmp_path):
    options = {"bits": 2, "ternary": True, "group": group}
    layer = LowBitLinear(torch.randn(40, 96), bias=torch.randn(40), **options)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other, x = LowBitLinear.blank(96, 40, bias=True, **options), torch.randn(3, 96)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert torch.equal(other(x), layer(x))


def test_a_layer_follows_its_buffers_wherever_they_go():
    x = torch.randn(2, 64)
    layer, other = LowBitLinear(torch.randn(20, 64)), LowBitLinear(torch.randn(20, 64))
    before, wanted = layer(x), other(x)
    for make in (copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))):
        assert torch.equal(make(layer)(x), before)
    assert torch.equal(torch.func.functional_call(layer, dict(other.named_buffers()), x), wanted)
    assert torch.equal(layer(x), before)
    layer.scale.mul_(2)  # in place
    assert torch.equal(layer(x), 2 * before)
    layer.packed, layer.scale.data = other.packed, other.scale.clone()  # other memory
    assert torch.equal(layer(x), wanted)
    layer.scale = layer.scale[:, :7]
    with pytest.raises(ValueError, match="y has the wrong shape"):
        layer(x)
    layer.packed, layer.scale = other.packed, other.scale.double()
    with pytest.raises(TypeError, match="scale must be float32"):
        layer(x)
    assert other.to("meta")(x.to("meta")).shape == (2, 20)


def test_a_pointwise_convolution_is_the_linear_layer_over_pixels():
    weight, bias, x = torch.randn(24, 40, 1, 1), torch.randn(24), torch.randn(2, 40, 5, 3)
    layer = LowBitConv2d(weight, group=None, bias=bias)
    pixels = LowBitLinear(weight.flatten(1), bias=bias)(x.permute(0, 2, 3, 1))
    assert torch.equal(layer(x), pixels.permute(0, 3, 1, 2))
    assert torch.equal(layer(x.to(memory_format=torch.channels_last)), layer(x))
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"weight must be \(out, in, 1, 1\)"):
        LowBitConv2d(torch.randn(4, 4, 3, 3))
    with pytest.raises(ValueError, match="x must be"):
        layer(x[0])


def test_strides_of_x_do_not_matter():
    layer, wide = LowBitLinear(torch.randn(20, 33)), torch.randn(7, 66)
    for x in (wide[:, ::2], wide[:, 5:38], wide[:, :33].t().contiguous().t(), wide[::2, :33]):
        assert not x.is_contiguous()
        assert torch.equal(layer(x), layer(x.contiguous()))


def test_any_number_of_threads_gives_the_same_bits():
    x = torch.randn(70, 512)
    before = torch.get_num_threads()
    for options in ({}, {"group": 32}, {"bits": 2}):
        layer = LowBitLinear(torch.randn(1100, 512), **options)
        try:
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results += [torch.cat((layer(x), layer(x[:1]), layer(x[:4]))) for _ in range(2)]
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(results[0], y) for y in results[1:])


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("with_scale", [False, True])
def test_torch_accepts_the_operator_and_compiles_the_layer(rows, with_scale):
    x = torch.randint(-9, 9, (rows, 64)).to(torch.int8) if with_scale else torch.randn(rows, 64)
    x_scale = torch.rand(rows) if with_scale else None
    layer = LowBitLinear(torch.randn(20, 64), group=32, bias=torch.randn(20))
    args = (x, layer.packed, layer.scale, layer.bias, x_scale)
    torch.library.opcheck(lowbit_linear.op, args, {"bits": 4, "zero": 8})
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(x, x_scale), layer(x, x_scale))


def test_a_gradient_is_refused_rather_than_lost():
    y = LowBitLinear(torch.randn(4, 8))(torch.randn(2, 8, requires_grad=True))
    with pytest.raises(RuntimeError, match="autograd"):
        y.sum().backward()


def test_costs_are_those_of_a_linear_layer_in_few_bits():
    layer = LowBitLinear(torch.randn(10, 64), bits=2)
    assert layer.cost_weights() == 640
    total = cost.count(layer, torch.randn(1, 3, 64))
    assert total.macs == 3 * 640
    assert "ternary" not in repr(layer) and "bits=2" in repr(layer)


BYTES = torch.zeros(1, 16, 64, dtype=torch.uint8)
BAD = {
    "x must be": (ValueError, {"x": torch.ones(8)}),
    "x must be float32 or int8": (TypeError, {"x": torch.ones(2, 8).double()}),
    "packed must be uint8": (TypeError, {"packed": BYTES.float()}),
    "packed has shape": (ValueError, {"packed": BYTES[:, :8]}),
    "packed has shape.*80 inputs": (ValueError, {"x": torch.ones(2, 80)}),
    "packed has shape.*33 outputs": (ValueError, {"scale": torch.ones(1, 33)}),
    "packed has shape.*2 bits": (ValueError, {"bits": 2, "zero": 1, "scale": torch.ones(1, 65)}),
    "packed is on meta": (ValueError, {"packed": BYTES.to("meta")}),
    "scale must be float32": (TypeError, {"scale": torch.ones(1, 20).half()}),
    "scale must be .groups": (ValueError, {"scale": torch.ones(20)}),
    "scale must be .groups, out": (ValueError, {"scale": torch.ones(4, 20)}),
    "bias must have": (ValueError, {"bias": torch.ones(21)}),
    "bias must be": (TypeError, {"bias": torch.ones(20).int()}),
    "bits must be": (ValueError, {"bits": 3}),
    "zero must be": (ValueError, {"zero": 16}),
    "x_scale goes": (ValueError, {"x_scale": torch.ones(1)}),
    "x_scale goes with an int8": (ValueError, {"x": torch.ones(2, 8).to(torch.int8)}),
    "x_scale must have": (
        ValueError,
        {"x": torch.ones(2, 8).to(torch.int8), "x_scale": torch.ones(3)},
    ),
}


@pytest.mark.parametrize("function", [lowbit_linear, lowbit_linear_reference])
@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused_by_name(function, message):
    error, change = BAD[message]
    good = {
        "x": torch.ones(2, 8),
        "packed": BYTES,
        "scale": torch.ones(1, 20),
        "bits": 4,
        "zero": 8,
    }
    function(**good)
    with pytest.raises(error, match=message):
        function(**{**good, **change})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowBitLinear(torch.ones(4, 64), bits=3), "bits must be"),
        (lambda: LowBitLinear(torch.ones(4, 64), ternary=True), "ternary weights have 2 bits"),
        (lambda: LowBitLinear(torch.ones(4, 64), group=48), "group must be one of"),
        (lambda: LowBitLinear(torch.ones(4, 80), group=32), "group=32 does not divide 80"),
        (lambda: LowBitLinear(torch.ones(4, 64, 1)), "weight must be"),
        (lambda: LowBitLinear(torch.full((4, 64), math.nan)), "weight must be finite"),
        (lambda: LowBitLinear(torch.ones(4, 64), bias=torch.ones(5)), "bias must have 4"),
        (lambda: LowBitLinear(torch.ones(4, 65537)), "1 to 65536 inputs"),
        (lambda: LowBitLinear.from_integers(torch.full((2, 4), 8), torch.ones(2)), "must be -8"),
        (lambda: LowBitLinear.from_integers(torch.full((2, 4), 0.5), torch.ones(2)), "whole"),
        (lambda: LowBitLinear.from_integers(torch.ones(2, 4), torch.ones(3)), "scale must be"),
        (lambda: LowBitLinear.from_integers(torch.ones(2, 96), torch.ones(2, 2)), "2 groups"),
        (lambda: LowBitLinear(torch.ones(4, 64))(torch.ones(3)), "x must be"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
