"""Vision transformers: counts worked out elsewhere, timm's outputs, windows, parts to swap."""

import pytest
import torch
from torch import nn

from compactnets import cost, models
from compactnets.models import graph, swin


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def on_meta(make, **options):
    with torch.device("meta"):
        return make(**options)


def linear_weights(model, but=("head", "head_dist")):
    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in but)
    return sum(m.weight.numel() for _, m in layers)


def macs(model, size):
    """(linear layers of the blocks, attention products) of one image."""
    device = next(model.parameters()).device
    costs = cost.count(model, torch.zeros(1, 3, size, size, device=device))
    inner = [r for r in costs.layers if r.kind == "Linear" and not r.name.startswith("head")]
    products = [r for r in costs.layers if r.kind == "Attention"]
    return sum(r.macs for r in inner), sum(r.macs for r in products)


@pytest.mark.parametrize(
    ("make", "options", "timm_name", "total", "inner"),
    [
        (models.deit_tiny, {}, "deit_tiny_patch16_224", 5_717_416, 5_308_416),
        (
            models.deit_tiny,
            {"distilled": True},
            "deit_tiny_distilled_patch16_224",
            5_910_800,
            5_308_416,
        ),
        (models.deit_small, {}, "deit_small_patch16_224", 22_050_664, 21_233_664),
        (models.swin_tiny, {}, "swin_tiny_patch4_window7_224", 28_288_354, None),
        (models.swin_small, {}, "swin_small_patch4_window7_224", 49_606_258, 48_660_480),
    ],
)
def test_full_size_networks_have_the_parameters_of_timm(make, options, timm_name, total, inner):
    ours = on_meta(make, **options)
    theirs = on_meta(models.from_timm, name=timm_name)
    assert parameters(ours) == parameters(theirs) == total
    assert linear_weights(ours) == linear_weights(theirs, ("head.fc", "head", "head_dist"))
    if inner is not None:
        assert linear_weights(ours) == inner
    shapes = {k: v.shape for k, v in models.timm_weights(theirs.state_dict()).items()}
    assert {k: v.shape for k, v in ours.state_dict().items()} == shapes


def test_swin_small_has_the_first_and_last_layer_counted_by_hand():
    model = on_meta(models.swin_small)
    assert model.patch_embed.proj.weight.numel() == 4_608
    assert model.head.weight.numel() == 768_000


def test_deit_tiny_with_the_distillation_token_counts_198_tokens():
    model = on_meta(models.deit_tiny, distilled=True)
    assert macs(model, 224) == (1_051_066_368, 180_652_032)


def test_deit_small_counts_its_attention_products():
    assert macs(on_meta(models.deit_small), 224) == (21_233_664 * 197, 357_663_744)


def test_a_small_network_for_32_pixels_counts_65_tokens():
    model = on_meta(models.deit_cifar, dim=192, depth=6, heads=3)
    assert macs(model, 32) == (172_523_520, 9_734_400)


@pytest.mark.parametrize("distilled", [False, True])
def test_deit_gives_the_outputs_of_timm_with_the_weights_of_timm(distilled):
    name = "deit_tiny_distilled_patch16_224" if distilled else "deit_tiny_patch16_224"
    options = {"img_size": 32, "patch_size": 8, "depth": 2}
    torch.manual_seed(0)
    theirs = models.from_timm(name, classes=10, **options).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = models.deit_cifar(192, 2, 3, 8, distilled=distilled).eval()
    ours.load_state_dict(models.timm_weights(theirs.state_dict()))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_swin_gives_the_outputs_of_timm_with_the_weights_of_timm():
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 32}
    layout = {"depths": (2, 2, 2), "num_heads": (1, 2, 4)}
    theirs = models.from_timm("swin_tiny_patch4_window7_224", classes=10, **options, **layout)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = models.swin_cifar(32, layout["depths"], layout["num_heads"]).eval()
    ours.load_state_dict(models.timm_weights(theirs.state_dict()))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-4, atol=1e-4)


def test_windows_come_back_where_they_were():
    x = torch.randn(2, 12, 12, 5)
    cut = swin.to_windows(x, 4, 12)
    assert cut.shape == (2 * 9, 16, 5)
    assert torch.equal(cut[1], x[0, :4, 4:8].flatten(0, 1))
    assert torch.equal(swin.from_windows(cut, 4, 12), x)


def test_a_shifted_window_never_mixes_opposite_borders():
    """A change of the first pixel row must not reach tokens of the last one in one block."""
    torch.manual_seed(0)
    block = swin.SwinBlock(8, 2, window=4, shift=2, side=8, mlp_ratio=2).eval()
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[:, :2] += torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        difference = (block(x) - block(changed)).abs().amax(-1)[0]
    assert (difference[:2] > 1e-4).any() and (difference[6:] < 1e-5).all()


@pytest.mark.parametrize("make", [models.deit_cifar, models.swin_cifar])
def test_attention_shows_and_lets_swap_its_four_intermediates(make):
    model = make().eval()
    seen = {}
    attention = next(m for m in model.modules() if isinstance(m, models.Attention))
    for name in ("q_act", "k_act", "v_act", "attn_act"):
        module = attention.get_submodule(name)
        module.register_forward_hook(lambda m, a, y, name=name: seen.update({name: y}))
    images = torch.randn(2, 3, 32, 32)
    before = model(images)
    assert seen["q_act"].shape == seen["k_act"].shape == seen["v_act"].shape
    batch, heads, tokens, _ = seen["q_act"].shape
    assert seen["attn_act"].shape == (batch, heads, tokens, tokens)
    torch.testing.assert_close(seen["attn_act"].sum(-1), torch.ones(batch, heads, tokens))
    attention.attn_act = nn.Hardtanh(0, 0.01)
    assert not torch.equal(model(images), before)


@pytest.mark.parametrize("make", [models.deit_cifar, models.swin_cifar])
def test_every_parameter_gets_a_gradient(make):
    torch.manual_seed(0)
    model = make()
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("make", [models.deit_cifar, models.swin_cifar])
def test_the_graph_of_a_transformer_can_be_traced(make):
    model = make()
    nodes = graph.trace(model)
    called = {node.target for node in nodes.nodes if node.op == "call_module"}
    linears = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert linears <= called
    readers = graph.sole_readers(model)
    fc1 = [n for n in linears if n.endswith("fc1")]
    assert fc1 and all(readers[n] == n.replace("fc1", "act") for n in fc1)


def test_the_distillation_token_has_a_classifier_of_its_own():
    torch.manual_seed(0)
    model = models.deit_cifar(distilled=True).eval()
    images = torch.randn(2, 3, 32, 32)
    first, second = model.both(images)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(model(images), (first + second) / 2)
    with pytest.raises(ValueError, match="distilled=True"):
        models.deit_cifar().both(images)


@pytest.mark.parametrize(
    ("make", "options", "word"),
    [
        (models.deit_cifar, {"dim": 64, "heads": 3}, "heads must divide"),
        (models.deit_cifar, {"patch": 5}, "do not tile"),
        (models.deit_cifar, {"depth": 0}, "positive"),
        (models.swin_cifar, {"patch": 5}, "do not tile"),
        (models.swin_cifar, {"window": 6}, "do not tile"),
        (models.swin_cifar, {"depths": (2,)}, "as many"),
        (models.swin_cifar, {"patch": 32, "window": 1}, "halved"),
    ],
)
def test_layouts_that_cannot_be_built_are_refused(make, options, word):
    with pytest.raises(ValueError, match=word):
        make(**options)


@pytest.mark.parametrize("make", [models.deit_cifar, models.swin_cifar])
def test_images_of_another_size_are_refused(make):
    with pytest.raises(ValueError, match="32, 32"):
        make()(torch.zeros(1, 3, 16, 16))
