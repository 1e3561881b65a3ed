"""Worked numbers, of the papers and by hand, each by building the network and counting it."""

import pytest
import torch
from torch import Tensor, nn

from compactnets import cost, models

CIFAR = torch.zeros(1, 3, 32, 32, device="meta")
IMAGENET = torch.zeros(1, 3, 224, 224, device="meta")


@pytest.fixture(autouse=True)
def on_the_meta_device():
    with torch.device("meta"):
        yield


def binarize(model: nn.Module, except_first: bool = True) -> nn.Module:
    """Marks every 3x3 convolution but the first as having 1-bit operands."""
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    for conv in convs[1 if except_first else 0 :]:
        conv.weight_bits = conv.activation_bits = 1
    return model


class OneConvBlock(nn.Module):
    """ReActNet's layout: one 3x3 conv, a shortcut that averages and projects when it shrinks."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.shrink = nn.Identity()
        if stride == 2:
            self.shrink = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shrink(x)


def react_layout(stem: nn.Module, widths: tuple[int, ...], blocks: int, classes: int) -> nn.Module:
    layers, channels = [stem], widths[0]
    for i, width in enumerate(widths):
        for j in range(blocks):
            layers.append(OneConvBlock(channels, width, 2 if i and not j else 1))
            channels = width
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return nn.Sequential(*layers, *head)


def test_imagenet_resnet18_of_binary_papers():
    # ReBNN, RBONN, BiBench: BOPs, real MACs, OPs, binary weights, ratio 11.06.
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1))
    model = react_layout(stem, (64, 128, 256, 512), 4, 1000)
    costs = cost.count(binarize(model, except_first=False), IMAGENET)
    assert costs.bops() == 1_676_279_808
    assert costs["0.0"].macs == 118_013_952
    shortcuts = costs.select(lambda layer: layer.name.endswith("shrink.1"))
    assert (len(shortcuts), shortcuts.macs) == (3, 19_267_584)
    assert costs.real_macs == 118_013_952 + 19_267_584 + 512_000 == 137_793_536
    assert cost.ops_bireal(costs) == 163_985_408
    assert costs.macs / cost.ops_bireal(costs) == pytest.approx(11.06, abs=0.005)
    assert sum(layer.weights for layer in costs if layer.binary) == 10_985_472
    # BiBench's storage ratio: weights of convolutions, shortcuts, classifier; no stem, no rest.
    assert storage_ratio(costs, "0.0") == pytest.approx(11.36, abs=0.005)


def storage_ratio(costs: cost.Costs, stem: str) -> float:
    body = costs.select(lambda layer: layer.name != stem)
    return 32 * sum(layer.weights for layer in body) / cost.storage_bits(body, rest=False)


def test_cifar_resnet20_with_parameter_free_shortcuts():
    # ReBNN, FDA-BNN: 1 069 696 OPs, 37.9 times fewer than MACs.
    costs = cost.count(binarize(models.resnet_cifar(20, shortcut="A")), CIFAR)
    assert (costs.bops(), costs.real_macs) == (40_108_032, 443_008)
    assert sum(layer.weights for layer in costs if layer.binary) == 267_264
    assert cost.ops_bireal(costs) == 1_069_696
    assert costs.macs / cost.ops_bireal(costs) == pytest.approx(37.9, abs=0.05)
    others = 269_722 - 267_264
    assert cost.storage_bits(costs) == 267_264 + 32 * others == 8 * costs.bytes


def test_cifar_resnet20_with_reactnet_blocks():
    # ReBNN: two real 1x1 down-sampling convolutions of 131 072 MACs each.
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    model = react_layout(stem, (16, 32, 64), 6, 10)
    costs = cost.count(binarize(model), CIFAR)
    assert costs.bops() == 40_108_032
    assert costs.real_macs == 443_008 + 131_072 + 131_072 == 705_152
    assert cost.ops_bireal(costs) == 1_331_840
    assert costs.macs / cost.ops_bireal(costs) == pytest.approx(30.6, abs=0.05)
    assert storage_ratio(costs, "0") == pytest.approx(23.41, abs=0.005)


def test_cifar_resnet18_of_bibench():
    model = binarize(models.resnet18_cifar())
    costs = cost.count(model, CIFAR)
    assert costs.macs == pytest.approx(555.423e6, abs=500)
    assert costs.bops() == pytest.approx(547.357e6, abs=500)
    assert cost.ops_bireal(costs) == pytest.approx(16.618e6, abs=500)
    assert storage_ratio(costs, "stem.conv") == pytest.approx(21.45, abs=0.005)


def test_vgg_small_of_fda_bnn():
    costs = cost.count(binarize(models.vgg_small()), CIFAR)
    assert (costs.bops(), costs.real_macs) == (603_979_776, 3_620_864)
    assert sum(layer.weights for layer in costs if layer.binary) == 4_571_136
    assert costs.macs / cost.ops_bireal(costs) == pytest.approx(46.5, abs=0.05)


@pytest.mark.parametrize(
    ("model", "example", "macs"),
    [
        # AdderNet hardware paper: 69.12M of ResNet-32 and 1.8G of ResNet-18; ResNet-20 by its rule.
        (lambda: models.resnet_cifar(32, shortcut="B"), CIFAR, 69_124_736),
        (lambda: models.resnet_cifar(20, shortcut="B"), CIFAR, 40_813_184),
        (lambda: models.from_torchvision("resnet18"), IMAGENET, 1_814_073_344),
        # CLR-RNF: ResNet-56 and -110 with classifier.
        (lambda: models.resnet_cifar(56), CIFAR, 125_485_696),
        (lambda: models.resnet_cifar(110), CIFAR, 252_887_680),
        (lambda: models.vgg16_bn_cifar(), CIFAR, 313_196_544 + 5_120),
    ],
)
def test_macs_of_whole_networks(model, example, macs):
    assert cost.count(model(), example).macs == macs


@pytest.mark.parametrize(
    ("model", "flops"),
    [
        (lambda: models.vgg16_bn_cifar(), 314_031_104),  # reported 314.04M, pooling included
        (lambda: models.resnet_cifar(56), 126_550_656),  # 126.56M
        (lambda: models.resnet_cifar(110), 254_984_832),  # 254.99M
    ],
)
def test_the_flops_of_pruning_papers_are_thops(model, flops):
    assert cost.macs_thop(cost.count(model(), CIFAR)) == flops


def test_mobilenet_v2_by_kind_of_convolution():
    # 1xN: 300.77M = stem 10.84 + pointwise 267.94 + depthwise 20.72 + classifier 1.28; half of
    # the pointwise weights gone leaves 166.80M.
    model = models.from_torchvision("mobilenet_v2")
    costs = cost.count(model, IMAGENET)
    modules = dict(model.named_modules())
    sums = {"stem": 0, "pointwise": 0, "depthwise": 0, "classifier": 0}
    for layer in costs:
        module = modules[layer.name]
        if isinstance(module, nn.Linear):
            sums["classifier"] += layer.macs
        elif isinstance(module, nn.Conv2d):
            pointwise = module.kernel_size == (1, 1)
            kind = "pointwise" if pointwise else "stem" if module.groups == 1 else "depthwise"
            sums[kind] += layer.macs
    assert {k: round(v / 1e6, 2) for k, v in sums.items()} == {
        "stem": 10.84,
        "pointwise": 267.94,
        "depthwise": 20.72,
        "classifier": 1.28,
    }
    assert round(costs.macs / 1e6, 2) == 300.77
    assert round((costs.macs - sums["pointwise"] / 2) / 1e6, 2) == 166.80


@pytest.mark.parametrize(
    ("name", "giga_macs"),
    [("resnet18", 1.814), ("mobilenet_v2", 0.301), ("vit_b_16", 17.564), ("swin_t", 4.491)],
)
def test_torchvisions_own_figures_attention_included(name, giga_macs):
    # torchvision.models: GFLOPS column (it counts a multiply-add once).
    model = models.from_torchvision(name)
    assert cost.count(model, IMAGENET).macs / 1e9 == pytest.approx(giga_macs, abs=6e-4)


def edsr_baseline_x4() -> nn.Module:
    """Layers of EDSR-baseline x4 (arXiv:1707.02921): 16 blocks of 64 channels, in sequence."""
    conv = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(33)]
    for layer in conv[:32]:
        layer.weight_bits = layer.activation_bits = 2
    up = [nn.Conv2d(64, 256, 3, padding=1), nn.PixelShuffle(2)]
    up += [nn.Conv2d(64, 256, 3, padding=1), nn.PixelShuffle(2)]
    ends = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
    return nn.Sequential(ends[0], *conv, *up, ends[1])


@pytest.mark.parametrize(
    ("bits", "tera_bops", "fp32_params"),
    [(32, 116.97, 1.5176), (2, 47.67, 0.4117), (4, 48.48, 0.4854)],
)
def test_edsr_for_a_720p_image(bits, tera_bops, fp32_params):
    # DDTB: 114.23 GMAC, 67.95 of them in the 32 quantized convolutions; MACs * bits * bits.
    model = edsr_baseline_x4()
    for layer in model:
        if hasattr(layer, "weight_bits"):
            layer.weight_bits = layer.activation_bits = bits
    costs = cost.count(model, torch.zeros(1, 3, 180, 320))
    body = costs.select(lambda layer: layer.name in {str(i) for i in range(1, 33)})
    assert costs.params == 1_517_571
    assert sum(layer.weights for layer in body) == 1_179_648
    assert round(costs.macs / 1e9, 2) == 114.23
    assert round(body.macs / 1e9, 2) == 67.95
    assert round(cost.bops_product(costs) / 1e12, 2) == tera_bops
    assert round(costs.bytes / 4e6, 4) == fp32_params


def test_memory_access_of_a_1x1_convolution_is_shufflenets():
    # arXiv:1807.11164, eq 1: hw(c1 + c2) + c1 c2 elements, here times 4 bytes.
    costs = cost.count(nn.Conv2d(128, 32, 1, bias=False), torch.zeros(1, 128, 14, 14))
    assert costs.traffic_bytes == 4 * (14 * 14 * (128 + 32) + 128 * 32)
