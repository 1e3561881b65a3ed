"""CIFAR networks: published sizes, shapes, shortcuts, initialization."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import models, seeds


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("depth", "published"),
    [(20, 0.27e6), (32, 0.46e6), (44, 0.66e6), (56, 0.85e6), (110, 1.7e6)],
)
def test_resnets_have_the_sizes_of_the_paper(depth, published):
    # He et al., arXiv:1512.03385, table 6: # params, two digits.
    with torch.device("meta"):
        assert params(models.resnet_cifar(depth)) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        # Option A with BN and classifier; the checkpoint resnet20-12fca82f.th holds as many.
        (lambda: models.resnet_cifar(20), 269_722),
        # CLR-RNF's counts, arXiv:2202.07190.
        (lambda: models.resnet_cifar(56), 853_018),
        (lambda: models.resnet_cifar(110), 1_727_962),
        (lambda: models.vgg16_bn_cifar(), 14_728_266),
        # torchvision's MobileNetV2; strides leave the number of parameters alone.
        (lambda: models.mobilenet_v2_cifar(1000), 3_504_872),
    ],
)
def test_parameter_counts_are_the_known_ones(make, expected):
    with torch.device("meta"):
        assert params(make()) == expected


@pytest.mark.parametrize(
    ("multiplier", "published"), [(1.0, 4.2e6), (0.75, 2.6e6), (0.5, 1.3e6), (0.25, 0.5e6)]
)
def test_mobilenet_v1_has_the_sizes_of_the_paper(multiplier, published):
    # Howard et al., arXiv:1704.04861, table 6: million parameters with 1000 classes.
    with torch.device("meta"):
        ours = params(models.mobilenet_v1_cifar(1000, multiplier))
    assert round(ours, -5) == published


def torchvision_mobilenet_v2(multiplier: float) -> nn.Module:
    model = models.from_torchvision("mobilenet_v2", classes=7, width_mult=multiplier)
    model.features[0][0].stride = model.features[2].conv[1][0].stride = (1, 1)
    return model


def timm_mobilenet_v1() -> nn.Module:
    model = models.from_timm("mobilenetv1_100", classes=7, act_layer=nn.ReLU)
    model.conv_stem.stride = (1, 1)
    return model


def torchvision_resnet18() -> nn.Module:
    model = models.from_torchvision("resnet18", classes=7)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


@pytest.mark.parametrize(
    ("make", "make_theirs"),
    [
        (lambda: models.mobilenet_v2_cifar(7, 0.5), lambda: torchvision_mobilenet_v2(0.5)),
        (lambda: models.mobilenet_v2_cifar(7, 1.4), lambda: torchvision_mobilenet_v2(1.4)),
        (lambda: models.mobilenet_v1_cifar(7), timm_mobilenet_v1),
        (lambda: models.resnet18_cifar(classes=7), torchvision_resnet18),
    ],
)
def test_networks_compute_what_their_imagenet_counterparts_compute(make, make_theirs):
    with seeds.scoped(5):
        ours, theirs = make().eval(), make_theirs().eval()
        images = torch.randn(1, 3, 32, 32)
    values = list(ours.state_dict().values())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    assert torch.allclose(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda c: models.resnet_cifar(8, width=4, classes=c),
        lambda c: models.resnet_cifar(8, width=4, classes=c, shortcut="B"),
        lambda c: models.resnet18_cifar(width=4, classes=c),
        lambda c: models.vgg_small(c, width=4),
        lambda c: models.vgg_small(c, width=4, hidden=(8, 8)),
        lambda c: models.vgg16_bn_cifar(c, widths=range(3, 16)),
        lambda c: models.mobilenet_v1_cifar(c, 0.25),
        lambda c: models.mobilenet_v2_cifar(c, 0.25),
    ],
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_network_learns_from_a_channels_last_batch(make, precision):
    with seeds.scoped(0):
        model = make(7).to(memory_format=torch.channels_last)
        images = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        logits = model(images)
    assert logits.shape == (2, 7)
    logits.float().logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_shortcut_a_takes_every_second_pixel_and_centers_the_channels():
    x = torch.randn(2, 4, 5, 6)
    shortcut = models.resnet.make_shortcut(4, 9, 2, "A")
    y = shortcut(x)
    assert y.shape == (2, 9, 3, 3)
    assert not list(shortcut.parameters())
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


def test_features_are_the_stage_outputs_that_logits_are_made_of():
    with seeds.scoped(1):
        model = models.resnet_cifar(14, width=4).eval()
        images = torch.randn(1, 3, 32, 32)
    maps = model.features(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]
    assert torch.equal(model.fc(maps[-1].mean((2, 3))), model(images))
    assert [len(list(stage.children())) for stage in model.stages] == [2, 2, 2]


def test_a_hook_before_an_activation_keeps_what_it_saw():
    with seeds.scoped(2):
        model = models.resnet_cifar(8, width=4)
        images = torch.randn(2, 3, 32, 32)
    seen = []
    model.stage1[0].bn1.register_forward_hook(lambda module, args, out: seen.append(out))
    model(images)
    assert (seen[0] < 0).any()


def test_initialization_is_hes_and_follows_the_seed():
    with seeds.scoped(3):
        first = models.resnet_cifar(20, width=64)
    with seeds.scoped(3):
        second = models.resnet_cifar(20, width=64)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    weight = first.stage3[1].conv1.weight  # fan-in 256 * 9: N(0, 2 / 2304)
    assert weight.std().item() == pytest.approx((2 / 2304) ** 0.5, rel=0.01)
    assert weight.mean().abs().item() < 1e-3
    assert not first.fc.bias.any()


def test_a_block_can_be_narrow_inside():
    block = models.BasicBlock(4, 4, hidden=1)
    assert block(torch.randn(1, 4, 8, 8)).shape == (1, 4, 8, 8)
    assert block.conv1.weight.shape[0] == block.conv2.weight.shape[1] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.resnet_cifar(18), "6n \\+ 2.*18"),
        (lambda: models.resnet_cifar(2), "6n \\+ 2.*2"),
        (lambda: models.resnet_cifar(8, shortcut="C"), "shortcut must be 'A' or 'B', got 'C'"),
        (lambda: models.resnet_cifar(8, width=0), "positive"),
        (lambda: models.ResNetCifar((1, 1), (8,)), "as many"),
        (lambda: models.ResNetCifar((1, 1), (8, 4)), "use shortcut='B'"),
        (lambda: models.vgg16_bn_cifar(widths=(64,) * 12), "13 positive widths"),
        (lambda: models.vgg_small(width=0), "positive"),
        (lambda: models.mobilenet_v1_cifar(10, 0.0), "multiplier must be positive"),
        (lambda: models.mobilenet_v2_cifar(0), "classes"),
    ],
)
def test_impossible_networks_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(channels=st.integers(1, 4000), alpha=st.floats(0.1, 2))
@settings(deadline=None)
def test_rounded_channels_are_multiples_that_lose_at_most_a_tenth(channels, alpha):
    rounded = models.mobilenet.round_channels(channels * alpha)
    assert rounded % 8 == 0
    assert rounded >= max(8, 0.9 * channels * alpha)
    assert rounded <= channels * alpha + 8
