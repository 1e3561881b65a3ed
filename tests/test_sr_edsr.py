"""EDSR: the published counts, what goes in and what comes out."""

import pytest
import torch

from compactnets import cost, seeds
from compactnets.sr import EDSR, ResidualBlock


def small(scale=2, **options) -> EDSR:
    with seeds.scoped(0):
        return EDSR(scale, **{"blocks": 2, "features": 4, **options})


def baseline_cost(scale: int) -> cost.Costs:
    with torch.device("meta"):
        net, low = EDSR(scale), torch.empty(1, 3, 720 // scale, 1280 // scale)
    return cost.count(net, low)


def test_the_baseline_at_x4_costs_what_was_counted_by_hand():
    table = baseline_cost(4)
    blocks = table.select(lambda layer: layer.name.startswith("body."))
    weights = 32 * 64 * 64 * 9
    assert table.params == 1_517_571
    assert weights == 1_179_648
    assert (len(blocks), blocks.params) == (32, weights + 32 * 64)
    assert table.macs / 1e9 == pytest.approx(114.23, abs=0.005)
    assert blocks.macs / 1e9 == pytest.approx(67.95, abs=0.005)
    assert blocks.macs == weights * 180 * 320


def test_the_baseline_at_x2_costs_what_its_shapes_say():
    table = baseline_cost(2)
    body = 33 * (64 * 64 * 9 + 64)
    others = (27 * 64 + 64) + (64 * 256 * 9 + 256) + (64 * 27 + 3)  # head, upsampler, tail
    assert table.params == body + others == 1_369_859
    low, high = 360 * 640, 720 * 1280
    macs = low * (27 * 64 + 33 * 64 * 64 * 9 + 64 * 256 * 9) + high * 64 * 27
    assert table.macs == macs


def test_the_parts_are_named_and_in_order():
    net = small(blocks=3)
    assert [name for name, _ in net.named_children()] == [
        "head", "body", "fuse", "upsampler", "tail"
    ]  # fmt: skip
    assert len(net.body) == 3
    assert all(isinstance(block, ResidualBlock) for block in net.body)
    assert [name for name, _ in net.body[0].named_children()] == ["conv1", "act", "conv2"]
    assert not any("mean" in name for name in net.state_dict())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_images_grow_by_the_scale_and_features_do_not(scale):
    net, images = small(scale), torch.rand(2, 3, 5, 7)
    assert net.features(images).shape == (2, 4, 5, 7)
    assert net(images).shape == (2, 3, 5 * scale, 7 * scale)
    assert torch.equal(net(images), net.reconstruct(net.features(images)))


@torch.no_grad()
def test_a_block_adds_its_scaled_residual_and_the_long_skip_its_input():
    net, images = small(res_scale=0.25), torch.rand(1, 3, 6, 6)
    head = net.head((images - net.mean) * 255)
    x = head
    for block in net.body:
        x = x + 0.25 * block.conv2(block.conv1(x).relu())
    assert torch.allclose(net.features(images), net.fuse(x) + head, rtol=1e-5)


@torch.no_grad()
def test_a_network_of_zeros_returns_the_mean_color_and_black_is_minus_the_mean_inside():
    net = small(mean=(0.5, 0.25, 0.125), rgb_range=200.0)
    seen = []
    net.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for parameter in net.parameters():
        parameter.zero_()
    out = net(torch.zeros(1, 3, 4, 4))
    assert out.amax((0, 2, 3)).tolist() == out.amin((0, 2, 3)).tolist() == [0.5, 0.25, 0.125]
    assert seen[0][0, :, 0, 0].tolist() == [-100, -50, -25]


def test_output_is_not_clamped_and_arguments_stay_untouched():
    net, images = small(), torch.rand(1, 3, 8, 8)
    before = images.clone()
    with torch.no_grad():
        net.tail.bias.fill_(1000)
    assert net(images).min() > 1
    assert torch.equal(images, before)


def test_every_parameter_gets_a_gradient():
    net = small()
    net(torch.rand(1, 3, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_weights_follow_the_seed():
    assert torch.equal(small().head.weight, small().head.weight)
    with seeds.scoped(1):
        assert not torch.equal(small().head.weight, EDSR(2, 2, 4).head.weight)


@pytest.mark.parametrize("scale", [3, 4])
def test_compiled_it_computes_the_same(scale):
    net, images = small(scale), torch.rand(1, 3, 8, 8)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(images), net(images), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scale": 5}, "scale must be 2, 3 or 4, got 5"),
        ({"blocks": 0}, "blocks"),
        ({"features": 0}, "features"),
        ({"rgb_range": 0.0}, "rgb_range"),
    ],
)
def test_an_impossible_network_is_refused(options, word):
    with pytest.raises(ValueError, match=word):
        small(**options)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8)])
def test_images_of_another_kind_are_refused(shape):
    with pytest.raises(ValueError, match="RGB images"):
        small()(torch.zeros(shape))
