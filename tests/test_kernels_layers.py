"""Deployed 1-bit layers: what they compute, save, load, compile to and cost."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compactnets import cost, kernels
from compactnets.kernels import BinaryConv2d, BinaryLinear


def signs(x):
    return torch.where(x >= 0, 1.0, -1.0)


def conv_layer(seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    groups = options.get("groups", 1)
    return BinaryConv2d(
        torch.randn(20, 36 // groups, 3, 3, generator=generator),
        torch.rand(20, generator=generator),
        bias=torch.randn(20, generator=generator),
        input_shift=torch.randn(36, generator=generator),
        padding=1,
        **options,
    )


def linear_layer(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return BinaryLinear(
        torch.randn(10, 70, generator=generator),
        torch.rand(10, generator=generator),
        bias=torch.randn(10, generator=generator),
        input_shift=torch.randn(70, generator=generator),
    )


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2}, {"dilation": (1, 2)}])
def test_the_layer_is_the_trained_formula(options):
    layer, x = conv_layer(**options), torch.randn(2, 36, 9, 8)
    shifted = x + layer.input_shift[:, None, None]
    dots = F.conv2d(signs(shifted), layer.sign_weight(), padding=1, **options)
    expected = dots * layer.scale[:, None, None] + layer.bias[:, None, None]
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("shape", [(70,), (5, 70), (2, 3, 70), (0, 70)])
def test_the_linear_layer_is_the_trained_formula(shape):
    layer, x = linear_layer(), torch.randn(shape)
    dots = F.linear(signs(x + layer.input_shift), layer.sign_weight())
    assert torch.equal(layer(x), dots * layer.scale + layer.bias)


def test_only_signs_of_the_weight_count_and_the_trained_tensors_stay_their_own():
    weight, scale = torch.randn(4, 3, 3, 3), torch.rand(4)
    layer = BinaryConv2d(weight, scale)
    x = torch.randn(1, 3, 5, 5)
    before = layer(x)
    assert torch.equal(before, BinaryConv2d(signs(weight), scale)(x))
    weight.neg_(), scale.zero_()
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_survives_its_state_dict(groups, tmp_path):
    layer, x = conv_layer(groups=groups), torch.randn(1, 36, 6, 6)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = BinaryConv2d.blank(36, 20, 3, padding=1, groups=groups, bias=True, input_shift=True)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert torch.equal(other(x), layer(x))


def test_a_linear_layer_survives_its_state_dict():
    layer, x = linear_layer(), torch.randn(3, 70)
    other = BinaryLinear.blank(70, 10, bias=True, input_shift=True)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_a_state_dict_of_another_shape_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        BinaryConv2d.blank(80, 20, 3, bias=True, input_shift=True).load_state_dict(
            conv_layer().state_dict()
        )


def test_layers_compile_without_a_graph_break_and_to_the_same_bits():
    model = nn.Sequential(conv_layer(), nn.Flatten(2), nn.Linear(64, 70), linear_layer()).eval()
    x = torch.randn(2, 36, 8, 8).to(memory_format=torch.channels_last)
    compiled = torch.compile(model[:1], fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert torch.equal(compiled(x), model[:1](x))
    with torch.no_grad():
        whole = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
        assert torch.equal(whole(x), model(x))
        assert torch.equal(whole(x[:1].contiguous()), model(x[:1].contiguous()))


def test_half_precision_input_is_read_by_its_signs():
    layer = BinaryConv2d(torch.randn(4, 3, 3, 3))
    x = torch.randn(1, 3, 5, 5).bfloat16()
    y = layer(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, layer(x.float()))


def test_integers_are_refused():
    with pytest.raises(TypeError, match="x must be float32"):
        conv_layer()(torch.ones(1, 36, 4, 4, dtype=torch.int64))


def test_packed_layers_cost_one_bit_a_weight_and_the_macs_of_the_dense_layer():
    layer = conv_layer()
    dense = cost.count(nn.Conv2d(36, 20, 3, padding=1, bias=False), torch.ones(1, 36, 8, 8))
    packed = cost.count(layer, torch.ones(1, 36, 8, 8))
    assert packed.macs == packed.bops() == dense.macs
    assert layer.cost_weights() == 20 * 36 * 9
    rows = cost.count(linear_layer(), torch.ones(1, 70))
    assert rows.macs == rows.bops() == 700


def test_layers_describe_themselves():
    text = repr(conv_layer(groups=2, stride=2))
    assert "36, 20, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), groups=2" in text
    assert text.endswith("bias=True, input_shift=True)")
    assert "in_features=70, out_features=10" in repr(linear_layer())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BinaryConv2d(torch.ones(2, 3, 3, 3), torch.ones(3)), "scale must have 2"),
        (lambda: BinaryConv2d(torch.ones(2, 3, 3, 3), bias=torch.ones(3)), "bias must have 2"),
        (
            lambda: BinaryConv2d(torch.ones(2, 3, 3, 3), input_shift=torch.ones(2)),
            "input_shift must have 3",
        ),
        (lambda: BinaryConv2d(torch.ones(2, 3, 3, 3), stride=(1, 1, 1)), "stride must be"),
        (lambda: BinaryConv2d.blank(3, 2, 3, groups=2), "groups=2"),
        (lambda: BinaryLinear(torch.ones(2, 3, 1)), "weight must be"),
        (lambda: BinaryLinear(torch.ones(2, 3))(torch.ones(4)), r"x must be \(\.\.\., 3\)"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_package_names_its_layers():
    assert kernels.BinaryConv2d is BinaryConv2d
