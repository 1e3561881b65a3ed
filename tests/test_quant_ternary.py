"""Ternary weights: thresholds, storage, TerViT's phases and what is deployed."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import cost, kernels, models
from compactnets.binary import BNN
from compactnets.kernels.row_quantization import quantize_rows
from compactnets.method import Progress
from compactnets.quant import landscape, ternary, tervit
from compactnets.quant.tervit import TerViT
from compactnets.quant.tervit_deploy import deploy_linear

few = settings(max_examples=25, deadline=None)
shapes = {"out": st.integers(1, 7), "n": st.integers(1, 40), "seed": st.integers(0, 2**16)}


def weight(out, n, seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(out, n, generator=generator, dtype=torch.float64)
    return rows * (spread * torch.randn(out, 1, generator=generator, dtype=torch.float64)).exp()


def small(**options):
    torch.manual_seed(0)
    return models.deit_cifar(dim=32, depth=2, heads=2, patch=8, **options)


IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@few
@given(**shapes)
def test_a_row_holds_three_values_and_zeros_are_what_lies_within_the_threshold(out, n, seed):
    w = weight(out, n, seed)
    for rule in ("twn", "exact"):
        found = ternary.ternarize(w, rule=rule)
        assert set(found.values.unique().tolist()) <= {-1.0, 0.0, 1.0}
        assert torch.equal(found.values == 0, w.abs() <= found.delta)
        assert torch.equal(found.values.sign() * (found.values != 0), found.values)
        assert (w.sign() * found.values >= 0).all()
        for row, alpha in zip(found.dense(), found.alpha, strict=True):
            assert set(row.abs().unique().tolist()) <= {0.0, float(alpha)}


@few
@given(**shapes, rule=st.sampled_from(["twn", "exact"]))
def test_no_other_scale_has_a_smaller_error(out, n, seed, rule):
    w = weight(out, n, seed)
    found = ternary.ternarize(w, rule=rule)
    error = (w - found.dense()).square().sum(1)
    for factor in (0.99, 1.01):
        nudged = found._replace(alpha=factor * found.alpha)
        assert ((w - nudged.dense()).square().sum(1) >= error - 1e-12).all()


@few
@given(**shapes)
def test_the_exact_threshold_beats_every_other_one(out, n, seed):
    w = weight(out, n, seed)
    best = ternary.squared_error(w, ternary.ternarize(w, rule="exact"), per_row=True)
    assert (best <= ternary.squared_error(w, ternary.ternarize(w), per_row=True) + 1e-12).all()
    for row, error in zip(w, best, strict=True):
        tried = []
        for delta in [0.0, *row.abs().tolist()]:
            kept = (row.abs() > delta).double()
            alpha = (row.abs() * kept).sum() / kept.sum().clamp_min(1)
            lost = (row - alpha * row.sign() * kept).square().sum() / row.square().sum()
            tried.append(float(lost))
        assert float(error) == pytest.approx(min(tried), abs=1e-12)


@few
@given(**shapes)
def test_exact_thresholds_per_channel_are_never_worse_than_per_layer(out, n, seed):
    w = weight(out, n, seed)
    channel, layer = (
        ternary.squared_error(w, ternary.ternarize(w, granularity, "exact"))
        for granularity in ("channel", "layer")
    )
    assert channel <= layer + 1e-12


def test_the_seventy_percent_rule_can_be_worse_per_channel():
    pairs = []
    for seed in range(200):
        w = weight(2, 4, seed, spread=0.0)
        pairs.append(
            [ternary.squared_error(w, ternary.ternarize(w, g)) for g in ("channel", "layer")]
        )
    assert any(channel > layer + 1e-6 for channel, layer in pairs)


@few
@given(seed=st.integers(0, 999), factor=st.floats(1e-3, 1e3))
def test_ternarizing_follows_the_scale_of_a_row(seed, factor):
    w = weight(3, 50, seed)
    for rule in ("twn", "exact"):
        one, other = ternary.ternarize(w, rule=rule), ternary.ternarize(factor * w, rule=rule)
        assert torch.equal(one.values, other.values)
        torch.testing.assert_close(other.alpha, factor * one.alpha)


def test_a_gaussian_row_has_the_error_of_the_integral():
    w = torch.randn(1, 10**6, generator=torch.Generator().manual_seed(0))
    twn, exact = ternary.ternarize(w), ternary.ternarize(w, rule="exact")
    assert float(ternary.squared_error(w, twn)) == pytest.approx(0.19162, rel=0.01)
    assert float((twn.values == 0).float().mean()) == pytest.approx(0.4235, rel=0.01)
    assert float(twn.alpha) == pytest.approx(1.1842, rel=0.01)
    assert float(ternary.squared_error(w, exact)) == pytest.approx(0.19017, rel=0.01)
    assert float(exact.delta) == pytest.approx(0.6119, rel=0.01)


@pytest.mark.parametrize("rule", ["twn", "exact"])
def test_rows_without_small_or_without_any_weights_are_represented_exactly(rule):
    w = torch.tensor([[0.5, -0.5, 0.5], [0.0, 0.0, 0.0]])
    found = ternary.ternarize(w, rule=rule)
    assert torch.equal(found.dense(), w) and found.alpha.flatten().tolist() == [0.5, 0.0]
    assert found.values.tolist() == [[1, -1, 1], [0, 0, 0]]


def test_ternarizing_leaves_the_weight_alone():
    w = torch.randn(3, 4, 2, 2, requires_grad=True)
    before = w.detach().clone()
    found = ternary.ternarize(w)
    assert torch.equal(w, before) and not found.dense().requires_grad
    assert found.alpha.shape == (3, 1, 1, 1) and found.values.shape == w.shape
    assert ternary.ternarize(w, "layer").alpha.shape == (1, 1, 1, 1)


@few
@given(**shapes, base=st.sampled_from([3, 4]))
def test_packed_trits_come_back_in_as_many_bytes_as_the_formula(out, n, seed, base):
    values = torch.randint(-1, 2, (out, n), generator=torch.Generator().manual_seed(seed))
    packed = ternary.pack(values, base)
    assert packed.dtype is torch.uint8
    assert packed.numel() == ternary.packed_bytes(out, n, base)
    assert packed.shape == (out, -(-n // (4 if base == 4 else 5)))
    assert torch.equal(ternary.unpack(packed, n, base), values.to(torch.int8))


def test_base_three_saves_a_fifth():
    assert ternary.packed_bytes(64, 100) == 1600 and ternary.packed_bytes(64, 100, 3) == 1280
    assert ternary.packed_bytes(2, 4, scales=2) == 10


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: ternary.ternarize(torch.ones(2, 2), "row"), "granularity"),
        (lambda: ternary.ternarize(torch.ones(2, 2), rule="best"), "rule"),
        (lambda: ternary.pack(torch.tensor([[2]])), "-1, 0"),
        (lambda: ternary.pack(torch.tensor([[0.5]])), "-1, 0"),
        (lambda: ternary.pack(torch.tensor([[1]]), 5), "base"),
        (lambda: ternary.unpack(torch.zeros(1, 1), 1, 2), "base"),
        (lambda: tervit.integers_and_scale(torch.ones(2, 2), 9), "1 to 8"),
        (lambda: tervit.integers_and_scale(torch.ones(2, 2), 0), "1 to 8"),
        (lambda: TerViT(bits=16).prepare(small(), IMAGES), "1 to 8"),
        (lambda: TerViT(ends=9).prepare(small(), IMAGES), "1 to 8"),
        (lambda: TerViT(rule="best").prepare(small(), IMAGES), "rule"),
        (lambda: TerViT(granularity="row").prepare(small(), IMAGES), "granularity"),
        (lambda: TerViT(bits=8, learned=True).prepare(small(), IMAGES), "learned"),
        (lambda: TerViT().prepare(models.resnet_cifar(8), IMAGES), "no linear layer"),
        (lambda: TerViT().deploy(small().eval()), "no low-bit layer"),
        (lambda: TerViT().deploy(TerViT().prepare(small(), IMAGES).train()), "training mode"),
    ],
)
def test_what_makes_no_sense_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()


@few
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_tokens_are_rounded_as_the_kernels_do(seed, scale):
    x = scale * torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(seed))
    codes, steps = quantize_rows(x)
    assert torch.equal(tervit.round_tokens(x), codes * steps[..., None])


def test_rounding_tokens_passes_the_gradient_and_leaves_its_input_alone():
    x = torch.randn(2, 4, 8, requires_grad=True)
    before = x.detach().clone()
    incoming = torch.randn(2, 4, 8)
    tervit.round_tokens(x).backward(incoming)
    assert torch.equal(x.grad, incoming) and torch.equal(x.detach(), before)
    assert torch.equal(tervit.round_tokens(torch.zeros(2, 3)), torch.zeros(2, 3))
    columns = tervit.round_tokens(x, -2)
    assert torch.equal(columns, tervit.round_tokens(x.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("bits", range(3, 9))
def test_uniform_weights_use_the_integers_of_their_width(bits):
    w = weight(4, 30, bits)
    k, s = tervit.integers_and_scale(w, bits)
    top = 2 ** (bits - 1) - 1
    assert (k.abs().amax(1) == top).all() and torch.equal(k, k.round())
    assert ((s * k - w).abs() <= s / 2 + 1e-12).all()


def test_one_bit_is_the_sign_times_the_mean_and_zero_is_positive():
    k, s = tervit.integers_and_scale(torch.tensor([[1.0, -2.0, 0.0]]), 1)
    assert k.tolist() == [[1, -1, 1]] and float(s) == 1.0


@pytest.mark.parametrize("learned", [False, True])
def test_the_gradient_goes_straight_to_the_latent_weight(learned):
    torch.manual_seed(0)
    layer = tervit.CodedLinear(nn.Linear(6, 3), 2, learned=learned)
    g = torch.randn(3, 6)
    w_hat = layer.quantized_weight()
    k, s = layer.coded()
    torch.testing.assert_close(w_hat, s * k)
    w_hat.backward(g)
    torch.testing.assert_close(layer.weight.grad, g)
    if learned:
        torch.testing.assert_close(layer.alpha.grad, (k * g).sum(1, keepdim=True))


def test_prepare_changes_a_copy_and_keeps_first_and_last_layer_at_eight_bits():
    model = small()
    before = copy.deepcopy(model.state_dict())
    prepared = TerViT().prepare(model, IMAGES)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    bits = {n: m.weight_bits for n, m in prepared.named_modules() if hasattr(m, "weight_bits")}
    ends = {"patch_embed.proj", "head"}
    products = {f"blocks.{i}.attn" for i in range(2)}
    assert {n for n, b in bits.items() if b == 8} == ends | products
    assert sum(b == 2 for b in bits.values()) == 8
    real = TerViT(ends=32).prepare(small(distilled=True), IMAGES)
    kinds = (nn.Linear, nn.Conv2d)
    kept = {n for n, m in real.named_modules() if isinstance(m, kinds)}
    assert kept == {"patch_embed.proj", "head", "head_dist"}


def test_the_second_phase_takes_the_latent_weights_of_the_first():
    first = TerViT(bits=8).prepare(small(), IMAGES)
    with torch.no_grad():
        for layer in tervit.coded_layers(first):
            layer[1].weight.add_(0.1)
    second = TerViT().prepare(first, IMAGES)
    names = {n for n, _ in tervit.coded_layers(second)}
    assert len(names) == 9  # four in each block, and the head
    for name, layer in tervit.coded_layers(second):
        assert torch.equal(layer.weight, first.get_submodule(name).weight)
    assert not torch.allclose(first.eval()(IMAGES), second.eval()(IMAGES))


def test_eight_bits_change_little_and_ternary_weights_much():
    model = small().eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(4)
        real = model(IMAGES)
        eight = TerViT(bits=8).prepare(model, IMAGES).eval()(IMAGES) - real
        two = TerViT().prepare(model, IMAGES).eval()(IMAGES) - real
    assert eight.norm() < 0.1 * real.norm() < two.norm()


METHODS = [
    *(TerViT(bits=bits) for bits in (1, 2, 4, 8)),
    TerViT(granularity="layer"),
    TerViT(learned=True),
    TerViT(ends=2),
]


@pytest.mark.parametrize("make", [small, models.swin_cifar])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_deployed_network_gives_the_outputs_of_the_trained_one(make, method):
    torch.manual_seed(0)
    model = method.prepare(make(), IMAGES).eval()
    deployed = method.deploy(model)
    with torch.inference_mode():
        expected, found = model(IMAGES), deployed(IMAGES)
    assert (found - expected).abs().max() <= 1e-2 * expected.abs().max()
    packed = kernels.Int8Linear if method.bits == 8 else kernels.LowBitLinear
    inner = [m for n, m in deployed.named_modules() if n.endswith(("qkv", "fc1", "reduction"))]
    assert inner and all(isinstance(m, packed) for m in inner)
    assert not any(isinstance(m, tervit.CodedLinear) for m in deployed.modules())


@pytest.mark.parametrize("inputs", [64, 96, 384])
def test_the_packed_product_equals_the_float_one(inputs):
    torch.manual_seed(inputs)
    layer = tervit.CodedLinear(nn.Linear(inputs, 48), 2)
    x = torch.randn(30, inputs)
    with torch.no_grad():
        expected, found = layer(x), deploy_linear(layer)(x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_deployed_network_stores_two_bits_for_a_ternary_weight():
    model = TerViT().prepare(small(), IMAGES).eval()
    costs = cost.count(TerViT().deploy(model), IMAGES)
    row = costs["blocks.0.mlp.fc1"]
    assert row.weights == 32 * 128
    assert row.stored_bytes == ternary.packed_bytes(128, 32, scales=128) + 4 * 128
    assert costs["head"].weight_bits == 8 and costs["patch_embed.proj"].weights == 32 * 3 * 64
    assert costs.macs == cost.count(small(), IMAGES).macs


def test_decay_never_reaches_ternary_latent_weights():
    model = TerViT().prepare(small(), IMAGES)
    rest, latent = TerViT().parameter_groups(model)
    assert latent["weight_decay"] == 0.0 and len(latent["params"]) == 8
    assert len(rest["params"]) + 8 == len(list(model.parameters()))
    eight = TerViT(bits=8)
    assert len(eight.parameter_groups(eight.prepare(small(), IMAGES))) == 1


def test_the_meter_counts_zeros_and_changes():
    model = TerViT().prepare(small(), IMAGES)
    meter = tervit.TernaryMeter()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    progress = Progress(model, optimizer, steps_per_epoch=2, epochs=1)
    meter.start(progress)
    meter.after_step(progress)
    layer = model.get_submodule("blocks.0.attn.qkv")
    with torch.no_grad():
        layer.weight.neg_()
    meter.after_step(progress)
    line = meter.epoch_end(progress)
    zeros = line["zeros"]["blocks.0.attn.qkv"]
    assert len(line["zeros"]) == 8 and 0.35 < zeros < 0.5
    assert line["flips"] == pytest.approx((1 - zeros) / 8 / 2)


def test_hard_distillation_is_half_labels_and_half_the_predictions_of_the_teacher():
    output, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    teacher = torch.nn.functional.one_hot(target, 3).float()
    expected = torch.nn.functional.cross_entropy(output, target)
    torch.testing.assert_close(tervit.hard_distillation(output, target, teacher), expected)
    other = tervit.hard_distillation(output, target, teacher.roll(1, 1))
    assert not torch.allclose(other, expected)


def test_directions_are_as_long_as_each_row_and_moving_changes_a_copy():
    model = small()
    one, other = landscape.directions(model, 2, seed=0)
    assert "blocks.0.norm1.weight" not in one and "pos_embed" not in one
    for name, step in one.items():
        rows = model.get_parameter(name).detach().flatten(1)
        torch.testing.assert_close(step.flatten(1).norm(dim=1), rows.norm(dim=1))
        assert not torch.equal(step, other[name])
    before = copy.deepcopy(model.state_dict())
    there = landscape.moved(model, [(0.5, one), (-0.25, other)])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    expected = before["head.weight"] + 0.5 * one["head.weight"] - 0.25 * other["head.weight"]
    torch.testing.assert_close(there.get_parameter("head.weight").detach(), expected)
    again = landscape.directions(model, 1, seed=0)[0]
    assert torch.equal(again["head.weight"], one["head.weight"])
    with pytest.raises(ValueError, match="another"):
        landscape.moved(models.resnet_cifar(8), [(1.0, one)])


def test_networks_of_another_method_are_refused():
    binary = BNN().prepare(small(), IMAGES).eval()
    with pytest.raises(ValueError, match="BinaryLinear of another method"):
        TerViT().prepare(binary, IMAGES)
    with pytest.raises(ValueError, match="no low-bit layer"):
        TerViT().deploy(binary)
    with pytest.raises(RuntimeError, match="_extra_state"):
        TerViT().prepare(small(), IMAGES).load_state_dict(binary.state_dict())


def test_swin_tiny_is_counted_with_two_bits_in_all_layers_and_real_norms():
    with torch.device("meta"):
        example = torch.zeros(1, 3, 224, 224)
        costs = cost.count(TerViT(ends=2).prepare(models.swin_tiny(), example), example)
    assert costs.params == 28_288_354 and {r.weight_bits for r in costs if r.weights} == {2}
    others = sum(row.params - row.weights for row in costs)
    stored = cost.storage_bits(costs) / 8
    assert stored == (costs.params - others) * 2 / 8 + 4 * others
    assert round(stored / 1e6, 2) == 7.41
