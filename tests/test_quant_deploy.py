"""The deployed convolution equals the simulated one, whatever the grid of its codes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compactnets.cost import count
from compactnets.quant import CodedConv2d, Codes, Lsq, MaxAbs, Pact, Pams, encode


class Grid(nn.Module):
    """An affine quantizer as given: step and zero one each, or one per image."""

    def __init__(self, bits, step, zero):
        super().__init__()
        self.bits, self.inverse = bits, 1 / torch.tensor(step)
        self.zero = torch.tensor(zero, dtype=torch.int32)

    def codes(self, x):
        return encode(x, self.inverse, self.zero, 2**self.bits - 1)

    def forward(self, x):
        return self.codes(x).decode()


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def relative(y, expected):
    return ((y - expected).norm() / expected.norm()).item()


def weight_codes(conv, bits):
    quantizer = Lsq(bits, per_image=False)
    quantizer.calibrate(conv.weight)
    return quantizer.codes(conv.weight)


def expected(conv, weight, x_hat):
    shape = conv.stride, conv.padding, conv.dilation, conv.groups
    bias = None if conv.bias is None else conv.bias.double()
    return F.conv2d(x_hat.double(), weight.decode().double(), bias, *shape).detach()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("make", [Pams, MaxAbs, Pact, Lsq])
def test_it_equals_the_simulated_convolution(make, bits):
    conv, x, quantizer = nn.Conv2d(16, 20, 3, padding=1), images(2, 16, 9, 11), make(bits)
    quantizer.calibrate(x)
    weight = weight_codes(conv, bits)
    deployed = CodedConv2d.from_float(conv, weight, quantizer, weight_bits=bits)
    y = deployed(x)
    assert not y.requires_grad and y.dtype is torch.float32
    assert relative(y, expected(conv, weight, quantizer(x))) < 1e-5


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(12, 8, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(1, 2), bias=False),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.Conv2d(12, 8, 3, groups=4),
        nn.Conv2d(12, 8, 1),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_geometry_of_a_convolution_is_honored(conv, memory_format):
    x = images(1, 12, 8, 9).contiguous(memory_format=memory_format)
    weight, quantizer = weight_codes(conv, 4), Grid(3, 0.4, 2)
    y = CodedConv2d.from_float(conv, weight, quantizer, weight_bits=4)(x)
    assert relative(y, expected(conv, weight, quantizer(x))) < 1e-5
    assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("zero", [-9, -1, 0, 1, 3, 4, 200, 255])
def test_padding_adds_real_zeros_even_where_zero_is_no_level(zero):
    conv, x, quantizer = nn.Conv2d(3, 4, 3, padding=2), images(1, 3, 5, 5), Grid(2, 0.5, zero)
    weight = weight_codes(conv, 2)
    deployed = CodedConv2d.from_float(conv, weight, quantizer, weight_bits=2)
    assert relative(deployed(x), expected(conv, weight, quantizer(x))) < 1e-5


def test_every_image_has_its_own_step_and_zero():
    conv, x = nn.Conv2d(3, 4, 3, padding=1), images(3, 3, 6, 5)
    quantizer, weight = Grid(2, [0.3, 0.7, 1.1], [0, 2, -1]), weight_codes(conv, 3)
    y = CodedConv2d.from_float(conv, weight, quantizer, weight_bits=3)(x)
    assert relative(y, expected(conv, weight, quantizer(x))) < 1e-5
    one = Grid(2, [0.3], [1])
    y = CodedConv2d.from_float(conv, weight, one, weight_bits=3)(x[:1])
    assert relative(y, expected(conv, weight, one(x[:1]))) < 1e-5


def test_weights_may_have_a_step_and_a_zero_per_output_channel():
    conv, x = nn.Conv2d(3, 4, 3), images(1, 3, 6, 5)
    inverse, zero = torch.tensor([2.0, 4.0, 8.0, 16.0]), torch.tensor([1, 2, 3, -1])
    weight, quantizer = encode(conv.weight, inverse, zero.int(), 3), Grid(2, 0.5, 1)
    y = CodedConv2d.from_float(conv, weight, quantizer, weight_bits=2)(x)
    assert relative(y, expected(conv, weight, quantizer(x))) < 1e-5


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("make", [Pams, MaxAbs, Pact, Lsq, lambda bits: Lsq(bits, signed=False)])
def test_after_a_relu_the_kernel_codes_its_input_by_itself(make, bits):
    conv, x, quantizer = nn.Conv2d(3, 4, 3, padding=1), images(2, 3, 6, 5).relu(), make(bits)
    quantizer.calibrate(x * 0.7)  # some values are beyond the highest level
    weight = weight_codes(conv, bits)
    options = {"weight_bits": bits, "relu": True}
    general = CodedConv2d.from_float(conv, weight, quantizer, **options)
    fused = CodedConv2d.from_float(conv, weight, quantizer, nonnegative=True, **options)
    assert torch.equal(fused(x), general(x))
    assert relative(fused(x), expected(conv, weight, quantizer(x)).relu()) < 1e-5
    quantizer.codes = None  # no codes are made on the way
    assert fused(x).shape == (2, 4, 6, 5)


@pytest.mark.parametrize(("step", "zero"), [(0.5, -1), (0.5, 4), ([0.3, 0.7], [0, 1])])
def test_after_a_relu_grids_without_zero_or_one_per_image_go_the_general_way(step, zero):
    conv, x, quantizer = (
        nn.Conv2d(3, 4, 3, padding=1),
        images(2, 3, 6, 5).relu(),
        Grid(2, step, zero),
    )
    quantizer.grid = lambda x: (quantizer.inverse, quantizer.zero, 3)
    weight = weight_codes(conv, 2)
    deployed = CodedConv2d.from_float(conv, weight, quantizer, weight_bits=2, nonnegative=True)
    assert relative(deployed(x), expected(conv, weight, quantizer(x))) < 1e-5


def test_costs_are_counted_in_the_widths_of_the_codes():
    conv, quantizer = nn.Conv2d(4, 8, 3, padding=1), Grid(3, 0.5, 1)
    deployed = CodedConv2d.from_float(conv, weight_codes(conv, 2), quantizer, weight_bits=2)
    layer = count(deployed, images(1, 4, 10, 10)).layers[0]
    assert (layer.weights, layer.macs) == (288, 28_800)
    assert (layer.weight_bits, layer.activation_bits) == (2, 3)


def test_the_state_moves_to_another_layer():
    conv, x = nn.Conv2d(3, 4, 3), images(1, 3, 6, 5)
    first, second = (
        CodedConv2d.from_float(conv, weight_codes(conv, bits), Pams(bits), weight_bits=bits)
        for bits in (2, 2)
    )
    first.quantizer.calibrate(x)
    second.packed.zero_()
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x))


def test_what_does_not_fit_is_refused():
    conv, quantizer, x = nn.Conv2d(3, 4, 3), Grid(2, 0.5, 300), images(1, 3, 6, 5)
    weight = weight_codes(conv, 2)
    with pytest.raises(ValueError, match="code 300"):
        CodedConv2d.from_float(conv, weight, quantizer, weight_bits=2)(x)
    above = Grid(8, 0.5, -1)  # levels 1 to 256
    with pytest.raises(ValueError, match="level 256"):
        CodedConv2d.from_float(conv, weight, above, weight_bits=2)(x)
    far = Codes(weight.values, weight.step, torch.tensor(-126, dtype=torch.int32))
    with pytest.raises(ValueError, match="do not fit int8"):
        CodedConv2d.from_float(conv, far, quantizer, weight_bits=2)
    with pytest.raises(ValueError, match="codes have shape"):
        CodedConv2d.from_float(nn.Conv2d(3, 5, 3), weight, quantizer, weight_bits=2)
    same = nn.Conv2d(3, 4, 3, padding="same")
    with pytest.raises(ValueError, match="numbers of zeros"):
        CodedConv2d.from_float(same, weight, quantizer, weight_bits=2)
    flat = Codes(weight.values[0, 0], weight.step, weight.zero)
    with pytest.raises(ValueError, match="weight must be"):
        CodedConv2d(flat, quantizer, weight_bits=2)
