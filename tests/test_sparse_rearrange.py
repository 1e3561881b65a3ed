"""Sorting filters: the network computes the same, and refuses where it would not."""

import copy

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets.sparse import MaskedConv2d, OneByN, masked_layers, rearrange, rearrangeable
from compactnets.sparse.masks import is_blocked
from sparse_toys import BOUND, FREE, NETWORKS, difference, drawn, images


def shuffles(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """A random order for every layer that may have one."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randperm(model.get_submodule(name).out_channels, generator=generator)  # type: ignore[arg-type]
        for name in rearrangeable(model)
    }


@torch.no_grad()
def check_same_function(model: nn.Module, x: torch.Tensor, seed: int = 0, limit: float = 1e-5):
    orders = shuffles(model, seed)
    before = copy.deepcopy(model.state_dict())
    moved = rearrange(model, orders)
    assert orders
    for name, order in orders.items():
        old, new = model.get_submodule(name).weight, moved.get_submodule(name).weight
        # the inputs may be permuted too, the norm of a filter stays
        assert torch.allclose(new.flatten(1).norm(dim=1), old.flatten(1).norm(dim=1)[order])
    assert difference(model(x), moved(x)) < limit
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return moved


@settings(max_examples=4)
@given(seed=st.integers(0, 2**31))
@pytest.mark.parametrize("name", NETWORKS)
def test_random_orders_leave_the_logits(name, seed):
    check_same_function(drawn(NETWORKS[name], seed % 7), images(), seed)


@pytest.mark.parametrize(
    ("name", "count", "bound"),
    [
        # stem, 16 expansions, last convolution; and the projections that enter no sum: of the
        # first and the last stage, which have one block each
        ("mobilenet_v2", 20, ["features.3.conv.2", "features.2.conv.2"]),
        # the SE blocks' product needs the order of expansions; fc1 feeds fc2 alone
        ("mobilenet_v3_small", 13, ["features.1.block.0.0", "features.4.block.0.0"]),
        # all but the 16 conv3 and the 4 shortcuts
        ("resnet50", 33, ["layer1.0.conv3", "layer1.0.downsample.0", "layer4.2.conv3"]),
    ],
)
def test_torchvision_networks_are_sorted_as_far_as_residuals_and_gates_allow(name, count, bound):
    model = drawn(torchvision.models.get_model_builder(name))
    found = rearrangeable(model)
    assert len(found) == count
    assert not found.keys() & set(bound)
    check_same_function(model, images(1, 64))


def test_in_resnets_the_first_convolutions_of_blocks_may_be_sorted():
    found = rearrangeable(drawn(NETWORKS["ResNet-20"]))
    assert sorted(found) == [f"stage{s}.{b}.conv1" for s in (1, 2, 3) for b in (0, 1, 2)]
    path = found["stage1.0.conv1"]
    assert (path.channelwise, path.readers) == (("stage1.0.bn1",), ("stage1.0.conv2",))


def test_in_mobilenets_depthwise_convolutions_follow_their_pointwise_ones():
    path = rearrangeable(drawn(NETWORKS["MobileNet-V1"]))["blocks.0.pointwise.conv"]
    assert path.channelwise == (
        *("blocks.0.pointwise.bn", "blocks.1.depthwise.conv", "blocks.1.depthwise.bn"),
    )
    assert path.readers == ("blocks.1.pointwise.conv",)


@pytest.mark.parametrize("name", FREE)
def test_wirings_that_keep_channels_apart_may_be_sorted(name):
    model = drawn(FREE[name])
    with torch.no_grad():
        model.prelu.weight.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    assert "conv" in rearrangeable(model)
    check_same_function(model, images(size=16))


@pytest.mark.parametrize("name", BOUND)
def test_wirings_that_need_the_order_are_refused(name):
    model = drawn(BOUND[name])
    model(images(size=16))  # the network itself runs
    assert "conv" not in rearrangeable(model)
    with pytest.raises(ValueError, match="outputs of conv must keep their order"):
        rearrange(model, {"conv": torch.arange(8).flip(0)})


class Scaled(nn.Conv2d):
    """Holds something per channel that nobody else knows."""

    def forward(self, input):
        return super().forward(input) * torch.arange(1.0, 1 + self.out_channels)[:, None, None]


def test_unknown_kinds_of_convolution_keep_their_order():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Scaled(8, 8, 1), nn.Conv2d(8, 4, 1))
    assert not rearrangeable(model)
    with pytest.raises(TypeError, match=r"only nn\.Conv2d itself can be masked, not Scaled"):
        OneByN(4).prepare(model, images())


def test_a_convolution_called_twice_is_refused():
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(3, 4, 1))
    assert not rearrangeable(model)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


def test_a_network_that_cannot_be_followed_is_named():
    with pytest.raises(ValueError, match=r"torch.fx cannot follow Branching.forward.*branch"):
        rearrangeable(Branching())


@pytest.mark.parametrize(
    "order",
    [torch.arange(7), torch.zeros(8, dtype=torch.int64), torch.arange(1, 9), torch.eye(8)],
    ids=["too short", "repeated", "out of range", "matrix"],
)
def test_an_order_that_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match="permutation of 8 outputs"):
        rearrange(drawn(FREE["method relu"]), {"conv": order})


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="outputs of nothing must keep"):
        rearrange(drawn(FREE["method relu"]), {"nothing": torch.arange(8)})


def test_int32_orders_are_understood():
    model, order = drawn(FREE["method relu"]), torch.arange(8).flip(0)
    one, other = (rearrange(model, {"conv": o}) for o in (order, order.int()))
    assert torch.equal(one.conv.weight, other.conv.weight)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.bfloat16, 0.05)])
def test_dtype_layout_and_frozen_weights_are_kept(dtype, limit):
    model = drawn(NETWORKS["MobileNet-V2"]).to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.stem.conv.weight.requires_grad = False
    moved = check_same_function(model, images().to(dtype), limit=limit)
    for (name, old), new in zip(model.named_parameters(), moved.parameters(), strict=True):
        assert new.dtype is dtype
        assert new.requires_grad == old.requires_grad == (name != "stem.conv.weight")
        assert new.stride() == old.stride()


def test_training_mode_and_dropout_survive():
    model = drawn(NETWORKS["MobileNet-V2"]).train()
    model.dropout.p = 0.5
    moved = rearrange(model, shuffles(model, 0))
    assert all(module.training for module in moved.modules())
    with torch.no_grad():
        assert difference(model.eval()(images()), moved.eval()(images())) < 1e-5


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), n=st.sampled_from([2, 4]))
@pytest.mark.parametrize("name", ["ResNet-8, B", "MobileNet-V2"])
def test_masks_and_their_orders_move_along(name, n, seed):
    masked = OneByN(n, 0.5).prepare(drawn(NETWORKS[name]), images()).eval()
    moved = check_same_function(masked, images(1), seed)
    for _, layer in masked_layers(moved):
        assert is_blocked(layer.mask, n, layer.order)


@pytest.mark.parametrize("name", NETWORKS)
def test_sorting_by_the_stored_orders_makes_blocks_of_neighbors(name):
    # The released code scatters the mask back; the sorted network is what it stands for.
    masked = OneByN(4, 0.5).prepare(drawn(NETWORKS[name]), images()).eval()
    orders = {name: layer.order for name, layer in masked_layers(masked)}
    natural = {k for k, order in orders.items() if torch.equal(order, torch.arange(len(order)))}
    assert natural != orders.keys()
    moved = rearrange(masked, {k: order for k, order in orders.items() if k not in natural})
    with torch.no_grad():
        assert difference(masked(images()), moved(images())) < 1e-5
    for _, layer in masked_layers(moved):
        assert torch.equal(layer.order, torch.arange(layer.out_channels))
        assert is_blocked(layer.mask, 4)
        assert layer.mask.shape == layer.weight.shape
    for key in orders.keys() - natural:
        norms = moved.get_submodule(key).weight.abs().flatten(1).sum(1)
        assert (norms.diff() >= -1e-4 * norms[1:]).all()  # summed in another order of inputs


def test_a_permutation_can_be_undone():
    model = OneByN(4, 0.5).prepare(drawn(NETWORKS["ResNet-8, B"]), images()).eval()
    orders = shuffles(model, 3)
    back = rearrange(rearrange(model, orders), {k: o.argsort() for k, o in orders.items()})
    for key, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key
    assert isinstance(back.get_submodule("stage1.0.conv1"), MaskedConv2d)
