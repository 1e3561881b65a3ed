"""Which layers of a network become binary, and the networks made for it."""

import copy

import pytest
import torch
from torch import nn

from compactnets import cost, models
from compactnets.binary import ReBNN, react_resnet_cifar, react_resnet_imagenet
from compactnets.binary.convert import binary_layers, convert, convertible, replace
from compactnets.binary.layers import BinaryConv2d
from compactnets.binary.react import ShiftedPReLU
from compactnets.binary.scales import AnalyticScale
from train_toys import one_thread  # noqa: F401


def binarized(conv):
    return BinaryConv2d(conv, lambda w: AnalyticScale())


NETWORKS = {  # network, layers that become binary
    "resnet20 A": (lambda: models.resnet_cifar(20, width=4), 18),
    "resnet20 B": (lambda: models.resnet_cifar(20, width=4, shortcut="B"), 18),
    "vgg_small": (lambda: models.vgg_small(width=4), 5),
    "mobilenet v1": (lambda: models.mobilenet_v1_cifar(multiplier=0.25), 13),
    "mobilenet v2": (lambda: models.mobilenet_v2_cifar(multiplier=0.25), 17),
    "react20": (lambda: react_resnet_cifar(20, width=4), 18),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_but_the_first_and_the_1x1_convolutions_become_binary(name):
    make, count = NETWORKS[name]
    model = make()
    before = copy.deepcopy(model)
    binary = convert(model, binarized)
    convs = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    large = [n for n in convs[1:] if model.get_submodule(n).kernel_size == (3, 3)]
    assert [n for n, _ in binary_layers(binary)] == convertible(model) == large
    assert len(large) == count
    assert not list(binary_layers(model)) and str(model) == str(before)
    for (key, value), old in zip(
        model.state_dict().items(), before.state_dict().values(), strict=True
    ):
        assert torch.equal(value, old), key
    for layer_name, layer in binary_layers(binary):
        real = model.get_submodule(layer_name)
        for attribute in ("stride", "padding", "dilation", "groups", "in_channels", "out_channels"):
            assert getattr(layer, attribute) == getattr(real, attribute)
        assert torch.equal(layer.weight, real.weight)
    size = 32 if name == "vgg_small" else 16
    binary(torch.randn(2, 3, size, size)).sum().backward()
    assert all(layer.weight.grad is not None for _, layer in binary_layers(binary))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 4)),
        nn.Sequential(nn.Conv2d(3, 4, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)),
        nn.Sequential(nn.Conv2d(3, 4, 3), binarized(nn.Conv2d(4, 4, 3, bias=False))),
    ],
    ids=["no convolution", "one", "1x1", "already binary"],
)
def test_a_network_without_a_layer_to_binarize_is_refused(model):
    with pytest.raises(ValueError, match="Sequential has no layer to binarize: needs"):
        convert(model, binarized)
    with pytest.raises(ValueError, match="no layer to binarize"):
        ReBNN().prepare(model, torch.zeros(1, 3, 8, 8))


def test_replace_reaches_into_nested_modules():
    model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.ReLU()), nn.ReLU())
    replace(model, "0.1", nn.Identity())
    replace(model, "1", nn.Tanh())
    assert isinstance(model[0][1], nn.Identity) and isinstance(model[1], nn.Tanh)


def test_react_networks_have_the_papers_layout():
    net = react_resnet_cifar(20)
    assert [len(stage) for stage in net.stages] == [6, 6, 6]
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    maps = net.stages(net.stem(torch.zeros(1, 3, 32, 32)))
    assert maps.shape == (1, 64, 8, 8)
    small = react_resnet_cifar(8, width=4, classes=7, stem_stride=2)
    assert [len(stage) for stage in small.stages] == [2, 2, 2]
    assert small.stages(small.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 16, 4, 4)
    for depth, blocks in ((18, [4, 4, 4, 4]), (34, [6, 8, 12, 6])):
        with torch.device("meta"):
            net = react_resnet_imagenet(depth)
            assert [len(stage) for stage in net.stages] == blocks
            assert net(torch.empty(1, 3, 224, 224)).shape == (1, 1000)


@pytest.mark.parametrize("depth", [2, 7, 17, 19])
def test_react_networks_of_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=f"depth must be 6n .*got {depth}"):
        react_resnet_cifar(depth)
    with pytest.raises(ValueError, match=f"depth must be one of .*got {depth}"):
        react_resnet_imagenet(depth)


def test_operations_of_the_binary_react_networks_are_the_worked_numbers():
    example = torch.zeros(1, 3, 32, 32)
    counted = cost.count(ReBNN().prepare(react_resnet_cifar(20), example), example)
    binary = [layer for layer in counted.layers if layer.weight_bits == 1]
    assert sum(layer.macs for layer in binary) == 40_108_032
    assert sum(layer.weights for layer in binary) == 267_264
    assert counted.macs - 40_108_032 == 705_152


def test_the_shifted_prelu_is_prelu_between_two_shifts_with_autograds_gradients():
    layer = ShiftedPReLU(3).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.backward(g := torch.randn_like(y))
    ours = [x.grad, *(p.grad for p in layer.parameters())]
    x.grad = None
    layer.zero_grad()
    before, slope, after = (p.view(1, 3, 1, 1) for p in layer.parameters())
    plain = torch.where(x + before >= 0, x + before, slope * (x + before)) + after
    plain.backward(g)
    theirs = [x.grad, *(p.grad for p in layer.parameters())]
    assert torch.allclose(y, plain)
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.autograd.gradcheck(layer, x.detach().requires_grad_())
