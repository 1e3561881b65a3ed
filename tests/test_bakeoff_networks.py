"""The networks of the bake-off: what is shared, what a profile changes, what a 1-bit layer sees."""

import pytest
import torch
from torch import nn

from compactnets import bakeoff, cost, seeds
from compactnets.binary.convert import convertible
from compactnets.binary.react import react_resnet_cifar
from compactnets.binary.react_mobilenet import ReactMobileBlock, react_mobilenet_cifar
from compactnets.train.devices import make_fabric
from compactnets.train.fit import prepare


@pytest.mark.parametrize("kind", bakeoff.KINDS)
def test_a_seed_fixes_the_weights_and_the_global_generator_does_not_notice(kind):
    before = torch.get_rng_state()
    first, again, other = (bakeoff.network(kind, "smoke", s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("profile", ["smoke", "quick", "standard"])
@pytest.mark.parametrize("kind", bakeoff.KINDS)
def test_every_network_maps_images_to_ten_logits(kind, profile):
    model = bakeoff.network(kind, profile, 0).eval()
    logits = model(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 10) and logits.isfinite().all()


def test_networks_of_the_standard_profile_cost_about_the_same():
    example = torch.zeros(1, 3, 32, 32)
    macs = [cost.count(bakeoff.network(k, "standard", 0), example).macs for k in bakeoff.KINDS]
    assert max(macs) < 2.5 * min(macs)


def test_resnet_20_is_the_network_of_the_rebnn_page():
    with seeds.scoped(3, "init"):
        theirs = react_resnet_cifar(depth=20, width=16, stem_stride=2).state_dict()
    ours = bakeoff.network(bakeoff.RESNET, "standard", 3).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_same_kind_profile_and_seed_name_the_same_training():
    def key(*arguments):
        job = bakeoff.real_job(*arguments)
        return prepare(job, make_fabric(job.recipe))[1]

    keys = [key(kind, "smoke", seed) for kind in bakeoff.KINDS for seed in (0, 1)]
    assert len(set(keys)) == len(keys)
    assert key(bakeoff.RESNET, "smoke", 0) == keys[0]


@pytest.mark.parametrize("function", [bakeoff.network, bakeoff.real_job])
def test_an_unknown_kind_is_refused_and_the_known_ones_are_named(function):
    with pytest.raises(ValueError, match=r"AlexNet.*ResNet-20, VGG-small"):
        function("AlexNet", "smoke", 0)


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match="unknown profile"):
        bakeoff.recipe(bakeoff.VIT, "huge")


def test_settings_are_a_copy():
    bakeoff.settings(bakeoff.VGG, "smoke")["width"] = 0
    assert bakeoff.settings(bakeoff.VGG, "smoke")["width"] > 0


def test_convolutions_behind_the_first_of_vgg_small_see_both_signs():
    model = bakeoff.network(bakeoff.VGG, "smoke", 0)
    seen = []
    for conv in [m for m in model.modules() if isinstance(m, nn.Conv2d)][1:]:
        conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model(torch.randn(8, 3, 32, 32, generator=seeds.generator(0, "images")))
    assert len(seen) == 5
    assert all(0.2 < float((x < 0).float().mean()) < 0.8 for x in seen)


@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (8, 1), (4, 2), (8, 2)])
def test_a_mobile_block_with_silent_convolutions_passes_its_input_through(outputs, stride):
    block = ReactMobileBlock(4, outputs, stride).eval()
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    x = torch.rand(2, 4, 8, 8, generator=seeds.generator(0, "x"))  # positive: PReLU is identity
    passed = nn.functional.avg_pool2d(x, stride)
    assert torch.equal(block(x), passed.repeat(1, outputs // 4, 1, 1))


@pytest.mark.parametrize("outputs", [2, 12])
def test_a_mobile_block_refuses_other_factors_than_one_and_two(outputs):
    with pytest.raises(ValueError, match="keeps or doubles"):
        ReactMobileBlock(4, outputs, 1)


def test_the_mobile_network_refuses_a_width_of_zero():
    with pytest.raises(ValueError, match="positive"):
        react_mobilenet_cifar(width=0)


@pytest.mark.parametrize(
    ("kind", "count"),
    [(bakeoff.RESNET, 18), (bakeoff.VGG, 5), (bakeoff.MOBILENET, 13), (bakeoff.VIT, 16)],
)
def test_all_layers_but_stem_head_and_shortcuts_become_binary(kind, count):
    model = bakeoff.network(kind, "standard", 0)
    names = convertible(model)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(names) == count
    assert layers[0] not in names and layers[-1] not in names
    assert not any("shortcut" in name for name in names)
