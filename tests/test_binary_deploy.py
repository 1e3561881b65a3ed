"""Deployed binary networks: the trained network's outputs from packed bits, at the same cost."""

import copy

import pytest
import torch
from torch import nn

from compactnets import cost, kernels, models
from compactnets.binary import ReBNN, deploy, react_resnet_cifar
from compactnets.binary.convert import binary_layers
from compactnets.binary.deploy import following_norms, pack
from train_toys import one_thread  # noqa: F401

METHODS = [ReBNN(), ReBNN(scale="analytic"), ReBNN(scale="released")]


def trained(model, method=METHODS[0], seed=0):
    """A binary network in eval mode whose every parameter and statistic has some value."""
    generator = torch.Generator().manual_seed(seed)
    net = method.prepare(model, torch.zeros(1, 3, 32, 32)).eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if not value.is_floating_point() or ("weight" in name and value.ndim > 1):
                continue
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(0.5 + noise.abs() if "running_var" in name else value + 0.3 * noise)
    return net


def images(n=2, name=""):
    size = 32 if "vgg" in name else 16
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(5))


class Wired(nn.Module):
    """Where folding is not allowed: two readers of a convolution, and one without a norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.norm_a = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.norm_b = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.c = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.d = nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.plain = nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        x = self.stem(x)
        a = self.a(x)
        b = self.norm_b(self.b(x))
        return self.plain(self.d(self.c(self.norm_a(a) + a + b)))


class Branching(Wired):
    """Cannot be traced: the path depends on the data."""

    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 1e9 else y + 1


class Grouped(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 12, 3, padding=1),
            nn.Conv2d(12, 24, 3, 2, padding=1, groups=4, bias=False),
            nn.BatchNorm2d(24),
            nn.Conv2d(24, 24, (3, 5), (1, 2), padding=(0, 2), dilation=(2, 1), bias=False),
            nn.BatchNorm2d(24),
            nn.Conv2d(24, 24, 3, groups=24, bias=False),
        )


NETWORKS = {  # network, number of 1-bit layers, how many of them are followed by a norm to fold
    "react20": (lambda: react_resnet_cifar(20, width=8), 18, 18),
    "resnet20": (lambda: models.resnet_cifar(20, width=4), 18, 18),
    "resnet8 B": (lambda: models.resnet_cifar(8, width=4, shortcut="B"), 6, 6),
    "vgg_small": (lambda: models.vgg_small(width=4), 5, 2),  # a pooling follows the others
    "mobilenet v1": (lambda: models.mobilenet_v1_cifar(multiplier=0.25), 13, 13),
    "mobilenet v2": (lambda: models.mobilenet_v2_cifar(multiplier=0.25), 17, 17),
    "groups, strides": (Grouped, 3, 2),
    "wired": (Wired, 4, 2),
    "branching": (Branching, 4, 0),
}


def near_ties(net, x, bound=1e-5):
    """Share of the inputs of 1-bit layers that lie within the bound of their sign's threshold."""
    near, total = 0, 0

    def look(layer, inputs):
        nonlocal near, total
        shifted = inputs[0] + layer.shift.view(1, -1, 1, 1)
        near += int((shifted.abs() < bound).sum())
        total += shifted.numel()

    handles = [m.register_forward_pre_hook(look) for _, m in binary_layers(net)]
    with torch.inference_mode():
        net(x)
    for handle in handles:
        handle.remove()
    return near / total


@pytest.mark.parametrize("name", NETWORKS)
def test_every_deployed_layer_computes_its_trained_layer_on_the_same_input(name):
    make, layers, folded = NETWORKS[name]
    net = trained(make())
    norms = following_norms(net)
    fast = deploy(net)
    assert len(list(binary_layers(net))) == layers and len(norms) == folded
    seen = {}
    for layer_name, layer in binary_layers(net):
        last = net.get_submodule(norms.get(layer_name, layer_name))
        layer.register_forward_hook(lambda m, i, o, n=layer_name: seen.update({n: [i[0], None]}))
        last.register_forward_hook(lambda m, i, o, n=layer_name: seen[n].__setitem__(1, o))
    with torch.inference_mode():
        net(images(name=name))
        for layer_name, (x, y) in seen.items():
            packed = fast.get_submodule(layer_name)
            assert isinstance(packed, kernels.BinaryConv2d)
            error = (packed(x) - y).abs().max() / y.abs().max().clamp_min(1e-6)
            assert error < 1e-5, layer_name
            if norm := norms.get(layer_name):
                assert isinstance(fast.get_submodule(norm), nn.Identity)
    assert len(seen) == layers


@pytest.mark.parametrize("name", NETWORKS)
def test_the_deployed_network_gives_the_trained_networks_outputs(name):
    net, x = trained(NETWORKS[name][0]()), images(name=name)
    fast = deploy(net)
    with torch.inference_mode():
        expected, ours = net(x), fast(x)
    scale = expected.abs().max()
    # Rounding may turn the sign of an activation that lies on its threshold, nothing else.
    allowed = 1e-5 if near_ties(net, x) == 0 else 0.05
    assert (ours - expected).abs().max() <= allowed * scale


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_each_scale_is_deployed_and_the_trained_network_stays_as_it_is(method):
    net, x = trained(Wired(), method), images()
    before = copy.deepcopy(net.state_dict())
    fast = method.deploy(net)
    with torch.inference_mode():
        assert torch.allclose(fast(x), net(x), atol=1e-4 * float(net(x).abs().max()))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert len(list(binary_layers(net))) == 4 and not list(binary_layers(fast))
    assert not fast.training


def test_one_layer_is_packed_to_the_bit_when_the_arithmetic_is_exact():
    net = trained(Grouped())
    layer = net[1]
    with torch.no_grad():
        layer.binarizer.alpha.copy_(2.0 ** torch.arange(-3, 21).clamp(max=3))
        x = torch.randint(-3, 4, (2, 12, 9, 9)).float()
        layer.shift.copy_(torch.arange(12) % 3 - 1.0)
        assert torch.equal(pack(layer)(x), layer(x))


def test_a_negative_gain_of_the_norm_is_folded_with_its_sign():
    net = trained(Grouped())
    net[2].weight.data.neg_()
    x = images()

    def first(model, x):
        return model[2](model[1](model[0](x)))

    with torch.inference_mode():
        assert torch.allclose(first(deploy(net), x), first(net, x), atol=1e-4)


def test_a_network_in_training_mode_or_without_1_bit_layers_is_refused():
    net = trained(Wired())
    with pytest.raises(ValueError, match=r"training mode: call model.eval\(\) before deploying"):
        deploy(net.train())
    with pytest.raises(ValueError, match="Wired has no 1-bit layer: prepare and train it first"):
        deploy(Wired().eval())


def test_the_deployed_state_goes_through_a_file(tmp_path):
    net, x = trained(Wired(), seed=1), images()
    fast, other = deploy(net), deploy(trained(Wired(), seed=2))
    torch.save(fast.state_dict(), tmp_path / "net.pt")
    with torch.inference_mode():
        assert not torch.equal(other(x), fast(x))
        other.load_state_dict(torch.load(tmp_path / "net.pt"))
        assert torch.equal(other(x), fast(x))


@pytest.mark.parametrize("name", ["react20", "mobilenet v1", "groups, strides"])
def test_the_cost_is_counted_the_same_before_and_after(name):
    net = trained(NETWORKS[name][0]())
    before, after = (cost.count(m, images(1)) for m in (net, deploy(net)))
    assert before.macs == after.macs and before.bops() == after.bops()

    def one_bit(costs):
        return [(x.name, x.macs, x.weights) for x in costs.layers if x.weight_bits == 1]

    assert one_bit(before) == one_bit(after) != []
    assert after.bytes <= before.bytes  # folded norms need no statistics


class Shared(nn.Module):
    """A normalization after a real and a 1-bit convolution, and a 1-bit convolution used twice."""

    def __init__(self, twice: bool):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm, self.other = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.twice = twice

    def forward(self, x):
        x = self.norm(self.second(self.norm(self.first(x))))
        return self.other(self.second(x)) if self.twice else x


@pytest.mark.parametrize("twice", [False, True])
def test_a_norm_or_convolution_that_is_called_twice_is_not_folded(twice):
    net = trained(Shared(twice))
    assert following_norms(net) == {}
    with torch.inference_mode():
        assert torch.allclose(deploy(net)(images()), net(images()), atol=1e-4)


def test_a_model_that_cannot_be_traced_is_deployed_without_folding():
    class Counts(Shared):
        def forward(self, x):
            return super().forward(x) * len(x)

    net = trained(Counts(False))
    with torch.inference_mode():
        assert torch.allclose(deploy(net)(images()), net(images()), atol=1e-4)


def test_same_padding_is_packed_and_the_layer_keeps_the_dtype():
    conv = nn.Conv2d(4, 4, 3, padding="same", bias=False).double()
    net = ReBNN().prepare(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False).double(), conv), None)
    assert net[1].weight.dtype == net[1].shift.dtype == torch.float64
    net = net.float().eval()
    with torch.inference_mode():
        assert torch.allclose(deploy(net)(images()), net(images()), atol=1e-5)
