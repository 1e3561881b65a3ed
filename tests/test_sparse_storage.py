"""Bytes of the formats, MACs of MobileNet-V2, and the prepacked dense convolution."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import cost, models
from compactnets.kernels import BlockSparseConv2d, CSRConv2d, PrepackedConv2d
from compactnets.sparse import Magnitude, prunable
from compactnets.sparse.masks import block_mask, removed, weight_mask
from compactnets.sparse.storage import block_bytes, csr_bytes, dense_bytes
from sparse_toys import drawn, images, mkldnn  # noqa: F401


def test_the_worked_numbers_of_a_160_to_960_layer():
    kept = 160 * 960 - removed(0.5, 160 * 960)
    assert dense_bytes(960, 160) == 614_400
    assert block_bytes(960, kept // 4, 4) == 384_964
    assert block_bytes(960, kept // 16, 16) == 326_644
    assert csr_bytes(960, kept) == 618_244  # more than dense
    assert csr_bytes(160, kept) == 615_044  # rows are inputs


def test_taps_share_the_index_of_their_block():
    # 1x4 blocks of 3x3 kernels: the index is 1 / 36 of the values.
    assert block_bytes(8, 10, 4, taps=9) == 10 * (4 * 36 + 4) + 4 * 3
    assert dense_bytes(8, 4, 9) == 4 * 8 * 4 * 9


@pytest.mark.parametrize("n", [0, 3, 16])
def test_blocks_that_do_not_divide_are_refused(n):
    with pytest.raises(ValueError, match=rf"n={n} do not divide 8 outputs"):
        block_bytes(8, 4, n)


@settings(max_examples=30)
@given(
    n=st.sampled_from([1, 2, 4, 8, 16]),
    rows=st.integers(1, 5),
    inputs=st.integers(1, 20),
    sparsity=st.floats(0, 1, exclude_max=True),
)
def test_the_formulas_are_the_bytes_of_the_packed_layers(n, rows, inputs, sparsity):
    weight = torch.randn(n * rows, inputs, 1, 1, generator=torch.Generator().manual_seed(0))
    mask = block_mask(weight, n, sparsity)
    layer = BlockSparseConv2d(weight * mask, n=n)
    assert layer.cost_bytes() == block_bytes(n * rows, int(mask.sum()) // n, n)
    mask = weight_mask(weight, sparsity)
    assert CSRConv2d(weight * mask).cost_bytes() == csr_bytes(n * rows, int(mask.sum()))


def test_mobilenet_v2_at_224_has_the_macs_counted_by_hand():
    with torch.device("meta"):
        model = torchvision.models.mobilenet_v2()
        counted = cost.count(model, torch.zeros(1, 3, 224, 224))
    layers = {layer.name: layer.macs for layer in counted.layers}
    pointwise = sum(layers[name] for name in prunable(model))
    depthwise = sum(
        layers[k] for k, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1
    )
    assert round(counted.macs / 1e6, 2) == 300.77
    assert round(layers["features.0.0"] / 1e6, 2) == 10.84
    assert round(pointwise / 1e6, 2) == 267.94
    assert round(depthwise / 1e6, 2) == 20.72
    assert round(layers["classifier.1"] / 1e6, 2) == 1.28
    assert round((counted.macs - pointwise / 2) / 1e6, 2) == 166.80


def test_half_of_all_pointwise_weights_gone_is_45_percent_of_the_macs():
    pruned = Magnitude().prepare(drawn(torchvision.models.mobilenet_v2), images())
    counted = cost.count(pruned, torch.zeros(1, 3, 224, 224))
    assert round(counted.macs / 1e6, 2) == 166.80


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_smaller_mobilenets_of_the_same_kind():
    with torch.device("meta"):
        usual = models.mobilenet_v2_cifar()
        assert params(usual) == 2_236_682
        stages = ((1, 8, 1, 1), (4, 16, 2, 2))
        small = models.mobilenet_v2_cifar(stages=stages, stem=16, stem_stride=2, last=64)
        wide = models.mobilenet_v2_cifar(stages=stages, stem=16, last=64, multiplier=2.0)
        narrow = models.mobilenet_v2_cifar(stages=stages, stem=16, last=64, multiplier=0.5)
    assert len(usual.blocks) == 17  # type: ignore[arg-type]
    assert usual.stem.conv.stride == (1, 1)
    blocks = list(small.blocks)  # type: ignore[arg-type]
    assert [block.project.conv.out_channels for block in blocks] == [8, 16, 16]
    assert [block.depthwise.conv.in_channels for block in blocks] == [16, 32, 64]
    assert [block.depthwise.conv.stride[0] for block in blocks] == [1, 2, 1]
    assert (small.stem.conv.out_channels, small.stem.conv.stride) == (16, (2, 2))
    assert (small.fc.in_features, wide.fc.in_features, narrow.fc.in_features) == (64, 128, 64)
    assert wide.stem.conv.out_channels == 32


GEOMETRIES = {
    "1x1": {"kernel_size": 1, "bias": False},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": (1, 3), "dilation": 2, "padding": (0, 2)},
    "depthwise": {"kernel_size": 3, "groups": 8, "padding": 1},
}


@pytest.mark.usefixtures("mkldnn")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bounds", [{}, {"low": 0.0, "high": 0.5}])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.no_grad()
def test_the_prepacked_convolution_is_the_convolution(geometry, bounds, layout):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Conv2d(8, 16, **GEOMETRIES[geometry])
        x = torch.randn(2, 8, 9, 7).to(memory_format=layout)
    y = layer(x)
    expected = y.clamp(0.0, 0.5) if bounds else y
    assert torch.allclose(PrepackedConv2d(layer, **bounds)(x), expected, atol=1e-5)
    assert PrepackedConv2d(layer)(x[:1]).shape == y[:1].shape


@pytest.mark.usefixtures("mkldnn")
@torch.no_grad()
def test_a_bare_weight_is_taken_with_padding_and_stride():
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 4, 9, 9, generator=torch.Generator().manual_seed(1))
    layer = PrepackedConv2d.of_weight(weight, padding=1, stride=2)
    assert torch.allclose(layer(x), F.conv2d(x, weight, padding=1, stride=2), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "bounds", "message"),
    [
        ({"padding": "same"}, {}, "padding must be numbers of zeros"),
        ({"padding": 1, "padding_mode": "reflect"}, {}, "padding must be numbers of zeros"),
        ({}, {"low": 0.0}, "both bounds or none, got low=0.0, high=None"),
        ({}, {"high": 6.0}, "both bounds or none, got low=None, high=6.0"),
    ],
)
def test_what_cannot_be_prepacked_is_refused(options, bounds, message):
    with pytest.raises(ValueError, match=message):
        PrepackedConv2d(nn.Conv2d(4, 8, 3, **options), **bounds)
