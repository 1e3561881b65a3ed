"""The pruned network on sparse kernels: same logits, the kept blocks, folded neighbors."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import cost, seeds
from compactnets.kernels import BlockSparseConv2d
from compactnets.models.graph import sole_readers, trace
from compactnets.sparse import (
    Magnitude,
    OneByN,
    RandomOneByN,
    deploy,
    deploy_dense,
    masked_layers,
    rearrange,
)
from sparse_toys import NETWORKS, difference, drawn, images, lively, mkldnn  # noqa: F401

METHODS = [OneByN(n) for n in (2, 4, 8, 16)] + [
    *(Magnitude(), Magnitude("kernel"), Magnitude("filter")),
    *(OneByN(4, 0.8, rearrange=False), RandomOneByN(4, 0.5)),
]


def packed(model: nn.Module) -> dict[str, BlockSparseConv2d]:
    return {k: m for k, m in model.named_modules() if isinstance(m, BlockSparseConv2d)}


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules()]


@torch.no_grad()
def deployed_equal(model: nn.Module, n: int, x: torch.Tensor | None = None) -> nn.Module:
    x = images() if x is None else x
    fast = deploy(model, n)
    assert difference(model(x), fast(x)) < 1e-5
    return fast


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"VGG-16", "ResNet-20"}))
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_deployed_network_gives_the_same_logits_from_the_kept_blocks(name, method):
    model = lively(method.prepare(drawn(NETWORKS[name]), images()))
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        fast = method.deploy(model)
        assert difference(model(images()), fast(images())) < 1e-4
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    n = 1 if isinstance(method, Magnitude) else method.n
    layers = packed(fast)
    for key, layer in masked_layers(model):
        assert layers[key].n == n
        assert layers[key].values.numel() == int(layer.mask.sum())
    assert not any(isinstance(m, nn.Conv2d) for m in fast.modules())
    left = 3 if name == "VGG-small" else 0  # behind poolings
    assert kinds(fast).count("BatchNorm2d") == left


def test_activations_become_clamps_of_the_call():
    fast = deployed_equal(OneByN(4).prepare(drawn(NETWORKS["MobileNet-V2"]), images()), 4)
    assert "ReLU6" not in kinds(fast)
    layers = packed(fast)
    assert (layers["blocks.1.expand.conv"].low, layers["blocks.1.expand.conv"].high) == (0, 6)
    assert layers["blocks.1.project.conv"].low is None
    fast = deployed_equal(OneByN(4).prepare(drawn(NETWORKS["ResNet-8, B"]), images()), 4)
    assert kinds(fast).count("ReLU") == 3  # behind the sums
    assert (packed(fast)["stage1.0.conv1"].low, packed(fast)["stage1.0.conv1"].high) == (0, None)


class Net(nn.Module):
    """stem - conv - bn - act - last, wired by the caller."""

    def __init__(self, wiring, **norm):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.bn, self.act = nn.BatchNorm2d(8, **norm), nn.ReLU()
        self.last = nn.Conv2d(8, 4, 1)
        self._wiring = wiring

    def forward(self, x):
        return self.last(self._wiring(self, self.stem(x)))


WIRINGS = {
    "all folded": (lambda m, y: m.act(m.bn(m.conv(y))), 2),
    "activation used twice": (lambda m, y: m.act(m.bn(m.conv(m.act(y)))), 1),
    "norm read by two": (lambda m, y: m.act(z := m.bn(m.conv(y))) + z, 1),
    "convolution read by two": (lambda m, y: m.act(m.bn(z := m.conv(y))) + z, 0),
    "norm in front": (lambda m, y: m.act(m.conv(m.bn(y))), 2),
    "functional activation": (lambda m, y: torch.relu(m.bn(m.conv(y))), 1),
    "convolution called twice": (lambda m, y: m.act(m.bn(m.conv(m.conv(y)))), 0),
}


@pytest.mark.parametrize("name", WIRINGS)
def test_only_what_alone_reads_a_convolution_is_folded(name):
    wiring, folded = WIRINGS[name]
    model = Magnitude().prepare(drawn(lambda: Net(wiring)), images()).eval()
    assert kinds(deployed_equal(model, 1)).count("Identity") == folded


@pytest.mark.parametrize(
    ("options", "folded"), [({"affine": False}, 2), ({"track_running_stats": False}, 0)]
)
def test_norms_without_factors_are_folded_those_without_statistics_stay(options, folded):
    model = drawn(lambda: Net(WIRINGS["all folded"][0], **options))
    fast = deployed_equal(Magnitude().prepare(model, images()).eval(), 1)
    assert kinds(fast).count("Identity") == folded


class Branching(Net):
    def forward(self, x):
        return super().forward(x if x.sum() > -1e9 else -x)


def test_a_network_that_cannot_be_followed_is_deployed_without_folding():
    model = drawn(lambda: Branching(WIRINGS["all folded"][0]))
    assert sole_readers(model) == {}
    fast = deployed_equal(OneByN(4, rearrange=False).prepare(model, images()).eval(), 4)
    assert "BatchNorm2d" in kinds(fast)


@settings(max_examples=10)
@given(
    batch=st.sampled_from([0, 1, 3]),
    size=st.integers(9, 19),
    last=st.booleans(),
    seed=st.integers(0, 9),
)
def test_odd_sizes_empty_batches_and_both_layouts(batch, size, last, seed):
    model = lively(OneByN(4, 0.7).prepare(drawn(NETWORKS["ResNet-8, A"], seed), images()), seed)
    x = images(batch, size, seed)
    fast = deploy(model, 4)
    if last:
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.allclose(fast(x), model(x), atol=1e-5, rtol=1e-4)
        assert fast(x).shape == (batch, 10)


def test_channels_last_networks_are_taken():
    model = drawn(NETWORKS["MobileNet-V2"]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    deployed_equal(OneByN(4).prepare(model, images()).eval(), 4)


def test_masks_of_a_permuted_network_are_deployed_in_full_blocks():
    model = OneByN(4).prepare(drawn(NETWORKS["ResNet-8, B"]), images()).eval()
    moved = rearrange(model, {"stage1.0.conv1": torch.arange(16).roll(5)})
    fast = deployed_equal(moved, 4)
    kept = int(moved.get_submodule("stage1.0.conv1").mask.sum())  # type: ignore[operator]
    assert packed(fast)["stage1.0.conv1"].values.numel() == kept


def test_the_deployed_network_costs_what_it_keeps():
    model = lively(OneByN(4).prepare(drawn(NETWORKS["MobileNet-V1"]), images()))
    fast = deploy(model, 4)
    trained, shipped = cost.count(model, images()), cost.count(fast, images())
    assert shipped.macs == trained.macs
    layers = {layer.name: layer for layer in shipped.layers}
    for name, layer in masked_layers(model):
        blocks = int(layer.mask.sum()) // 4
        bias = 4 * layer.out_channels
        starts = 4 * (layer.out_channels // 4 + 1)
        assert layers[name].stored_bytes == 20 * blocks + starts + bias
    dense = cost.count(drawn(NETWORKS["MobileNet-V1"]), images())
    kept = sum(layer.macs for layer in shipped.layers)
    masked = {name for name, _ in masked_layers(model)}
    expected = sum(m.macs // 2 if m.name in masked else m.macs for m in dense.layers)
    assert kept == expected


def test_dense_layers_keep_all_their_weights():
    model = OneByN(16).prepare(drawn(NETWORKS["MobileNet-V2"]), images()).eval()
    masked = {name for name, _ in masked_layers(model)}
    layers = packed(deploy(model, 16))
    left = {k: m for k, m in model.named_modules() if isinstance(m, nn.Conv2d) and k not in masked}
    assert any(m.groups > 1 for m in left.values())
    assert any(m.groups == 1 and m.kernel_size == (1, 1) for m in left.values())
    for name, conv in left.items():
        assert layers[name].values.numel() == conv.weight.numel()
        assert layers[name].n == (1 if conv.groups > 1 else 4)


def test_training_mode_is_refused_in_any_layer():
    model = OneByN(4).prepare(drawn(NETWORKS["ResNet-8, A"]), images())
    with pytest.raises(ValueError, match=r"training mode: call model\.eval"):
        deploy(model.train(), 4)
    model.eval()
    model.stage1[0].bn1.train()
    with pytest.raises(ValueError, match=r"training mode: call model\.eval"):
        deploy(model, 4)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("mkldnn")
@torch.no_grad()
def test_the_dense_baseline_is_the_same_network_masked_or_not(name):
    model = drawn(NETWORKS[name])
    for net in (model, OneByN(4).prepare(model, images()).eval()):
        before = copy.deepcopy(net.state_dict())
        fast = deploy_dense(net)
        for x in (images(), images().to(memory_format=torch.channels_last)):
            assert difference(net(x), fast(x)) < 1e-5
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
        assert not any(isinstance(m, nn.Conv2d) for m in fast.modules())
        assert kinds(fast).count("BatchNorm2d") == (3 if name == "VGG-small" else 0)


@pytest.mark.parametrize("name", WIRINGS)
@pytest.mark.usefixtures("mkldnn")
@torch.no_grad()
def test_the_dense_baseline_folds_what_the_sparse_network_folds(name):
    wiring, folded = WIRINGS[name]
    model = drawn(lambda: Net(wiring))
    fast = deploy_dense(model)
    assert difference(model(images()), fast(images())) < 1e-5
    assert kinds(fast).count("Identity") == folded
    with pytest.raises(ValueError, match=r"training mode: call model\.eval"):
        deploy_dense(model.train())


def test_networks_without_masks_are_refused():
    with pytest.raises(ValueError, match="ResNetCifar has no masked layer: prepare and train it"):
        deploy(drawn(NETWORKS["ResNet-8, A"]), 4)


def test_block_sizes_that_no_kernel_has_are_refused():
    model = OneByN(32).prepare(drawn(NETWORKS["ResNet-8, A"]), images()).eval()
    with pytest.raises(ValueError, match=r"n must be one of \(1, 2, 4, 8, 16\)"):
        deploy(model, 32)


def test_sole_readers_are_those_that_alone_read_what_is_called_once():
    readers = sole_readers(drawn(NETWORKS["ResNet-8, A"]))
    assert readers["stem.conv"] == "stem.bn"
    assert readers["stem.bn"] == "stem.act"
    assert "stem.act" not in readers  # block and shortcut read it
    assert "stage1.0.bn2" not in readers  # read by a sum
    assert readers["stage1.0.conv1"] == "stage1.0.bn1"
    assert "pool" not in readers  # a function flattens
    assert "fc" not in readers
    with seeds.scoped(0):
        shared = nn.ReLU()
        model = nn.Sequential(nn.Conv2d(3, 4, 1), shared, nn.Conv2d(4, 4, 1), shared)
    assert sole_readers(model) == {}


def test_masked_layers_are_followed_as_one_call():
    model = OneByN(4).prepare(drawn(NETWORKS["VGG-small"]), images())
    targets = [node.target for node in trace(model).nodes if node.op == "call_module"]
    assert targets[:4] == ["conv1.conv", "conv1.bn", "conv1.act", "conv2.conv"]
