"""int8 layers: close to what they were built from, loadable, chained, compilable."""

import pytest
import torch
from torch import nn

from compactnets.kernels import Int8Conv2d, Int8Linear
from compactnets.kernels.int8 import int8_quantize


def grid(x):
    """Scale and zero point that hold all of x in uint8."""
    low, high = min(x.min().item(), 0), max(x.max().item(), 0)
    scale = (high - low) / 255
    return {"x_scale": scale, "x_zero": round(-low / scale)}


def relative(y, expected):
    return ((y - expected).norm() / expected.norm()).item()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_a_linear_layer_stays_close_to_the_one_it_was_built_from(dynamic, relu):
    layer, x = nn.Linear(200, 70), torch.randn(3, 9, 200)
    quantized = Int8Linear.from_float(layer, relu=relu, **({} if dynamic else grid(x)))
    y = quantized(x)
    expected = layer(x).relu() if relu else layer(x)
    assert y.shape == expected.shape and relative(y, expected) < 0.02


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(20, 30, 3, padding=1),
        nn.Conv2d(20, 30, (3, 2), stride=(2, 1), dilation=(1, 2), bias=False),
        nn.Conv2d(24, 24, 3, groups=24, padding=1),
        nn.Conv2d(24, 16, 3, groups=4),
    ],
)
def test_a_convolution_stays_close_to_the_one_it_was_built_from(layer, dynamic):
    x = torch.randn(2, layer.in_channels, 12, 13)
    quantized = Int8Conv2d.from_float(layer, **({} if dynamic else grid(x)))
    assert relative(quantized(x), layer(x)) < 0.03


def test_bytes_pass_from_layer_to_layer():
    first, second = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 8, 1)
    x = torch.randn(1, 16, 10, 10).contiguous(memory_format=torch.channels_last)
    between = first(x).relu()
    y_scale = between.max().item() / 255
    x_grid = grid(x)
    one = Int8Conv2d.from_float(first, **x_grid, y_scale=y_scale, relu=True)
    two = Int8Conv2d.from_float(second, x_scale=y_scale)
    middle = one(x)
    assert middle.dtype is torch.uint8
    assert relative(two(middle), second(between)) < 0.03
    of_bytes = one(int8_quantize(x, 1 / x_grid["x_scale"], x_grid["x_zero"]))
    assert torch.equal(middle, of_bytes)  # quantized in the call, or before it


def test_a_signed_input_or_output_is_the_unsigned_one_shifted():
    layer = nn.Linear(50, 40)
    unsigned = Int8Linear.from_float(layer, x_scale=0.02, x_zero=100, y_scale=0.01, y_zero=128)
    signed = Int8Linear.from_float(
        layer, x_scale=0.02, x_zero=-28, y_scale=0.01, y_zero=0, y_dtype=torch.int8
    )
    x = torch.randint(0, 256, (7, 50), dtype=torch.uint8)
    shifted = (x.to(torch.int16) - 128).to(torch.int8)
    assert torch.equal(unsigned(x).to(torch.int16) - 128, signed(shifted).to(torch.int16))


LAYERS = {
    "linear": (
        lambda: Int8Linear(torch.randn(9, 40), bias=torch.randn(9), x_scale=0.1, x_zero=128),
        lambda: Int8Linear.blank(40, 9, bias=True),
        (3, 40),
    ),
    "dynamic": (lambda: Int8Linear(torch.randn(9, 40)), lambda: Int8Linear.blank(40, 9), (3, 40)),
    "conv": (
        lambda: Int8Conv2d(
            torch.randn(8, 5, 3, 3),
            padding=1,
            stride=2,
            groups=2,
            x_scale=0.05,
            x_zero=3,
            y_scale=0.1,
            y_zero=-7,
            y_dtype=torch.int8,
            relu=True,
        ),
        lambda: Int8Conv2d.blank(10, 8, 3, padding=1, stride=2, groups=2),
        (2, 10, 6, 7),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_state_dict_carries_everything_into_a_blank_layer(name):
    build, blank, shape = LAYERS[name]
    layer, other = build(), blank()
    x = torch.randn(shape)
    assert not torch.equal(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x)) and layer(x).dtype == other(x).dtype
    assert repr(layer) == repr(other)
    assert not list(layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_compile_and_run_in_inference_mode(name):
    build, _, shape = LAYERS[name]
    layer, x = build(), torch.randn(shape)
    expected = layer(x)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)


def test_other_floating_types_are_converted_and_bytes_need_a_scale():
    layer = Int8Linear(torch.randn(9, 40))
    x = torch.randn(3, 40).bfloat16()
    assert torch.equal(layer(x), layer(x.float()))
    with pytest.raises(ValueError, match="without x_scale"):
        layer(torch.zeros(3, 40, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(3, 39), (), (2, 9, 41)])
def test_an_input_of_another_size_is_refused(shape):
    with pytest.raises(ValueError, match="40 channels"):
        Int8Linear(torch.randn(9, 40))(torch.randn(shape))
    with pytest.raises(ValueError, match="40 channels"):
        Int8Conv2d(torch.randn(9, 40, 1, 1))(torch.randn(*shape, 1, 1))


def test_the_weights_come_back_and_are_counted():
    weight = torch.randint(-127, 128, (8, 5, 3, 3)).to(torch.int8)
    layer = Int8Conv2d(weight, w_scale=torch.ones(8), groups=2)
    assert torch.equal(layer.int8_weight(), weight)
    assert (layer.weight_bits, layer.activation_bits) == (8, 8)
    assert layer.cost_weights() == weight.numel()
    assert layer.cost_macs((2, 10, 6, 7), (2, 8, 4, 5)) == 2 * 4 * 5 * weight.numel()
    linear = Int8Linear(weight.flatten(1), w_scale=torch.ones(8))
    assert torch.equal(linear.int8_weight(), weight.flatten(1))
    assert linear.cost_macs((3, 45), (3, 8)) == 3 * linear.cost_weights() == 3 * 360


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Int8Linear(torch.ones(3, 4, 1)), "weight must be"),
        (lambda: Int8Conv2d(torch.ones(3, 4)), "weight must be"),
        (lambda: Int8Linear(torch.ones(3, 4), w_scale=torch.ones(3)), "belongs to an int8"),
        (lambda: Int8Linear(torch.ones(3, 4, dtype=torch.int8)), "needs its w_scale"),
        (lambda: Int8Linear(torch.ones(3, 4), bias=torch.ones(4)), "bias must have 3"),
        (lambda: Int8Linear(torch.ones(3, 4), x_scale=0.0), "x_scale must be positive"),
        (lambda: Int8Linear(torch.ones(3, 4), y_scale=-1.0), "y_scale must be positive"),
        (lambda: Int8Linear(torch.ones(3, 4), y_dtype=torch.int32), "y_dtype must be"),
        (lambda: Int8Conv2d(torch.ones(3, 4, 1, 1), stride=0), "stride must be"),
        (lambda: Int8Conv2d.blank(5, 4, 1, groups=2), "groups=2"),
        (
            lambda: Int8Conv2d.from_float(nn.Conv2d(4, 4, 3, padding="same")),
            "padding must be numbers",
        ),
    ],
)
def test_what_cannot_be_built_says_why(build, message):
    with pytest.raises(ValueError, match=message):
        build()
