"""AdderNet: the layer against its formulas, the local learning rate, one step for two, models."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import cost, data, kernels
from compactnets.binary import XNOR, adder_quant
from compactnets.binary import adder_hardware as hardware
from compactnets.binary.adder import (
    AdderConv2d,
    AdderNet,
    adder_layers,
    adder_resnet_cifar,
    local_rate,
    replaceable,
)
from compactnets.binary.react import react_resnet_imagenet
from compactnets.method import Method, Progress
from compactnets.train import Recipe, fit
from train_toys import one_thread  # noqa: F401

EXAMPLE = torch.zeros(1, 3, 16, 16)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(seed=0, kind="adder"):
    """A network in eval mode whose normalizations have the statistics of some images."""
    torch.manual_seed(seed)
    net = adder_resnet_cifar(8, width=4, stem_stride=2)
    if kind == "adder":
        net = AdderNet().prepare(net, EXAMPLE)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = None  # a plain mean
    net(images(64, seed=seed + 1))
    return net.eval()


def images(n=4, seed=5):
    return random(n, 3, 16, 16, seed=seed, dtype=torch.float32)


# The layer


@given(seed=st.integers(0, 2**16), kernel=st.integers(1, 3), stride=st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_outputs_are_never_positive_and_zero_exactly_where_the_patch_is_the_filter(
    seed, kernel, stride
):
    conv = nn.Conv2d(2, 3, kernel, stride, padding=1, bias=False).double()
    layer = AdderConv2d(conv, torch.Generator().manual_seed(seed))
    x = random(2, 2, 6, 6, seed=seed)
    assert (layer(x) < 0).all()
    patch = layer.weight.detach()[1:2]
    bare = nn.Conv2d(2, 3, kernel, padding=0, bias=False).double()
    same = AdderConv2d(bare)
    with torch.no_grad():
        same.weight.copy_(layer.weight)
    y = same(patch).flatten()
    assert y[1] == 0 and y[0] < 0 and y[2] < 0


@given(c=st.sampled_from([-4.0, -0.5, 0.25, 2.0]), seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_scaling_both_scales_the_distance_and_scaling_x_alone_does_not(c, seed):
    x, w = random(1, 3, 5, 5, seed=seed), random(2, 3, 3, 3, seed=seed + 1)
    y = kernels.adder_conv2d(x, w)
    assert torch.allclose(kernels.adder_conv2d(c * x, c * w), abs(c) * y, rtol=1e-12)
    assert not torch.allclose(kernels.adder_conv2d(c * x, w), c * y, rtol=1e-3)


def test_gradients_are_those_of_the_halved_square_and_of_the_negative_huber_function():
    x, w = random(2, 3, 5, 5), random(4, 3, 3, 3, seed=1)
    upstream = random(2, 4, 3, 3, seed=2)
    leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
    kernels.adder_conv2d(*leaves).backward(upstream)

    def distances(h):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        windows = F.unfold(a, 3).transpose(1, 2)[:, :, None]  # (N, L, 1, K)
        y = -h(windows - b.flatten(1)).sum(-1).transpose(1, 2).unflatten(2, (3, 3))
        return torch.autograd.grad(y, (a, b), upstream)

    to_w = distances(lambda d: d.square() / 2)[1]
    to_x = distances(lambda d: F.huber_loss(d, torch.zeros_like(d), reduction="none"))[0]
    assert torch.allclose(leaves[1].grad, to_w, rtol=1e-10)
    assert torch.allclose(leaves[0].grad, to_x, rtol=1e-10)


def test_half_precision_inputs_are_computed_in_float32():
    layer = AdderConv2d(nn.Conv2d(2, 3, 3, bias=False))
    x = images(1)[:, :2].bfloat16()
    assert layer(x).dtype is torch.float32
    assert torch.equal(layer(x), layer(x.float()))


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"dilation": 2},
        {"bias": True},
        {"padding": "same"},
        {"padding_mode": "reflect", "padding": 1},
    ],
)
def test_a_convolution_that_no_adder_layer_can_be_is_refused(options):
    with pytest.raises(ValueError, match="cannot replace Conv2d"):
        AdderConv2d(nn.Conv2d(4, 4, 3, **{"bias": False, **options}))


# The local learning rate


@given(k=st.integers(1, 300), scale=st.sampled_from([1e-6, 1.0, 1e5]), seed=st.integers(0, 2**16))
def test_the_local_rate_gives_every_gradient_rms_a_fifth_whatever_its_scale(k, scale, seed):
    raw = random(k, seed=seed) + 0.01
    kept = raw.clone()
    found = local_rate(scale * raw)
    assert torch.equal(raw, kept)
    assert torch.allclose(found.norm(), torch.tensor(k**0.5 / 5, dtype=torch.float64))
    assert torch.allclose(found, local_rate(raw))


def test_below_the_clamp_the_norm_shrinks_and_a_zero_gradient_stays_zero():
    tiny = torch.full((4,), 1e-14, dtype=torch.float64)
    assert float(local_rate(tiny).norm()) < 0.4 * 0.05
    assert torch.equal(local_rate(torch.zeros(3)), torch.zeros(3))


class Inside(torch.autograd.Function):
    """The local rate where the released code has it: within the backward pass."""

    @staticmethod
    def forward(ctx, w):
        return w.view_as(w)

    @staticmethod
    def backward(ctx, grad):
        return local_rate(grad)


@pytest.mark.parametrize("parts", [1, 2])
def test_after_backward_equals_inside_it_for_one_backward_pass_only(parts):
    x, w = random(4, 3, 5, 5), random(4, 3, 3, 3, seed=1)
    labels = random(4, 4, 3, 3, seed=2)

    def gradient(inside):
        leaf = w.clone().requires_grad_()
        for a, b in zip(x.chunk(parts), labels.chunk(parts), strict=True):
            filters = Inside.apply(leaf) if inside else leaf
            (kernels.adder_conv2d(a, filters) * b).sum().div(parts).backward()
        return leaf.grad if inside else local_rate(leaf.grad)

    assert torch.allclose(gradient(True), gradient(False), rtol=1e-9) == (parts == 1)


def step(method):
    """Gradients of one backward pass before and after the hook, and the hook's line."""
    net = AdderNet().prepare(adder_resnet_cifar(8, width=4), EXAMPLE).train()
    hook = method.hooks()[0]
    progress = Progress(net, torch.optim.SGD(net.parameters(), 0.1), 1, 1)
    hook.start(progress)
    net(images()).logsumexp(1).sum().backward()
    before = {n: m.weight.grad.clone() for n, m in adder_layers(net)}
    hook.after_backward(progress)
    return before, {n: m.weight.grad for n, m in adder_layers(net)}, hook.epoch_end(progress)


def test_the_hook_rescales_adder_filters_and_reports_what_they_had():
    before, after, line = step(AdderNet())
    for name, raw in before.items():
        assert torch.allclose(after[name], local_rate(raw))
        rms = float(raw.square().mean().sqrt())
        assert line["filter_gradient"][name] == pytest.approx(rms, rel=1e-5)


def test_without_eta_the_hook_only_measures():
    before, after, line = step(AdderNet(eta=None))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert min(line["filter_gradient"].values()) > 0


# The method


def test_every_convolution_but_the_first_becomes_an_adder_layer_with_filters_of_unit_spread():
    real = adder_resnet_cifar(20)
    kept = copy.deepcopy(real.state_dict())
    net = AdderNet().prepare(real, EXAMPLE)
    assert len(list(adder_layers(net))) == 20  # 18 of the blocks, 2 shortcuts
    assert type(net.stem.conv) is nn.Conv2d and type(net.fc[0]) is nn.Linear
    assert all(torch.equal(kept[k], v) for k, v in real.state_dict().items())
    every = torch.cat([m.weight.flatten() for _, m in adder_layers(net)])
    assert float(every.detach().std()) == pytest.approx(1, abs=0.01)
    assert float(every.detach().mean()) == pytest.approx(0, abs=0.01)


def test_filters_follow_the_methods_seed_and_nothing_else():
    nets = [AdderNet(seed=s).prepare(adder_resnet_cifar(8, 4), EXAMPLE) for s in (0, 0, 1)]
    a, b, c = (next(adder_layers(net))[1].weight for net in nets)
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_parameter_groups_hold_every_parameter_once():
    method = AdderNet(filter_lr=10.0)
    net = method.prepare(adder_resnet_cifar(8, 4), EXAMPLE)
    groups = method.parameter_groups(net)
    assert "weight_decay" not in groups[1]
    assert AdderNet(decay=False).parameter_groups(net)[1]["weight_decay"] == 0.0
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(map(id, net.parameters()))
    assert groups[1]["lr_scale"] == 10.0 and len(groups[1]["params"]) == 8


def test_it_is_a_method_whose_training_is_repeatable():
    small = data.load("shapes32", "train", limit=32)
    recipe = Recipe(epochs=1, batch=16, lr=0.1, precision="fp32", compile=False)
    method, net = AdderNet(), adder_resnet_cifar(8, width=2, stem_stride=2)
    assert isinstance(method, Method)
    first, second = (fit(net, small, recipe, seed=0, method=method, cache=False) for _ in range(2))
    states = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert set(first.history[0]["filter_gradient"]) == {n for n, _ in adder_layers(first.model)}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"weight_gradient": "full"}, "weight_gradient"),
        ({"input_gradient": "clip"}, "input_gradient"),
        ({"eta": 0.0}, "eta"),
        ({"filter_lr": -1.0}, "filter_lr"),
    ],
)
def test_a_bad_option_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        AdderNet(**options)


def test_networks_without_work_or_of_another_method_are_refused():
    with pytest.raises(ValueError, match="no convolution to replace"):
        AdderNet().prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), EXAMPLE)
    net = AdderNet().prepare(adder_resnet_cifar(8, 4), EXAMPLE)
    with pytest.raises(ValueError, match="belongs to a method already"):
        AdderNet().prepare(net, EXAMPLE)


def test_a_checkpoint_of_a_cnn_or_of_another_method_is_refused():
    real = adder_resnet_cifar(8, 4)
    net = AdderNet().prepare(real, EXAMPLE)
    with pytest.raises(RuntimeError, match="_extra_state"):
        net.load_state_dict(real.state_dict())
    with pytest.raises(RuntimeError, match="_extra_state"):
        real.load_state_dict(net.state_dict())
    state = XNOR().prepare(real, EXAMPLE).state_dict()
    with pytest.raises((RuntimeError, ValueError)):
        net.load_state_dict(state)
    other = {"stage1.0.conv1._extra_state": torch.tensor(list(b"ReBNN"), dtype=torch.uint8)}
    with pytest.raises(ValueError, match="checkpoint is of ReBNN"):
        net.load_state_dict(other, strict=False)
    net.load_state_dict(AdderNet(seed=1).prepare(real, EXAMPLE).state_dict())


# The shared step


@given(bits=st.integers(2, 16), power=st.booleans(), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_with_one_step_integers_and_numbers_give_the_same_distance(bits, power, seed):
    x, w = random(1, 3, 6, 6, seed=seed), 5 * random(4, 3, 3, 3, seed=seed + 1)
    step = adder_quant.step_of(float(max(x.abs().max(), w.abs().max())), bits, power)
    qx, qw = (adder_quant.codes(v, step, bits) for v in (x, w))
    integers = kernels.adder_distances(qx.long().double(), qw.long().double())
    numbers = kernels.adder_distances(step * qx, step * qw)
    assert float((step * integers - numbers).abs().max()) <= 1e-12 * float(numbers.abs().max())
    assert float((qx[0, :, :3, :3] - qw).abs().max()) <= 2**bits - 1


@given(
    s_x=st.integers(1, 9), s_w=st.integers(1, 9), factor=st.floats(-9, 9), wrong=st.floats(0.1, 1e9)
)
def test_with_two_steps_any_factor_is_wrong_by_as_much_as_one_likes(s_x, s_w, factor, wrong):
    if s_x == s_w:
        return
    equal, one = (s_w, s_x), (1, 0)  # codes of equal numbers; of two numbers that differ by s_x
    n = wrong / max(abs(factor) * abs(s_w - s_x), 1e-3)
    errors = [
        abs(factor * abs(n * qx - n * qw) - abs(s_x * n * qx - s_w * n * qw))
        for qx, qw in (equal, one)
    ]
    assert max(errors) >= 0.999 * wrong


@given(peak=st.floats(1e-6, 1e6), bits=st.integers(2, 16))
def test_the_peak_has_the_largest_code_and_a_power_of_two_clips_nothing(peak, bits):
    step, shift = (adder_quant.step_of(peak, bits, power) for power in (False, True))
    assert round(peak / step) == 2 ** (bits - 1) - 1
    assert step <= shift < 2 * step * (1 + 1e-12)
    assert torch.frexp(torch.tensor(shift, dtype=torch.float64)).mantissa == 0.5


@pytest.mark.parametrize("bits", [1, 17, 8.0, "8"])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="bits must be"):
        adder_quant.step_of(1.0, bits)


def test_sixteen_bits_change_next_to_nothing_and_fewer_bits_change_more():
    net = trained()
    peaks, x = adder_quant.input_peaks(net, images(16)), images(16)
    with torch.no_grad():
        gaps = [
            float((adder_quant.quantize(net, peaks, bits)(x) - net(x)).abs().mean())
            for bits in (16, 8, 5)
        ]
    assert gaps[0] < 0.02 * gaps[1] and gaps == sorted(gaps)


def test_two_steps_wrongly_factored_ruin_what_two_steps_dequantized_keep():
    net = trained()
    with torch.no_grad():  # activations much smaller than filters: the steps differ
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(0.3)
    peaks, x = adder_quant.input_peaks(net, images(16)), images(16)
    with torch.no_grad():
        right, wrong = (
            float((adder_quant.quantize(net, peaks, 8, steps)(x) - net(x)).abs().mean())
            for steps in ("separate", "factored")
        )
    assert wrong > 20 * right


def test_a_cnn_is_quantized_where_an_adder_network_would_be():
    net = trained(kind="CNN")
    assert list(adder_quant.quantized_layers(net)) == replaceable(net)
    peaks = adder_quant.input_peaks(net, images())
    with torch.no_grad():
        close = adder_quant.quantize(net, peaks, 16, "separate")(images())
        assert torch.allclose(close, net(images()), atol=1e-2)


def test_quantizing_refuses_what_does_not_fit():
    net = trained()
    peaks = adder_quant.input_peaks(net, images())
    with pytest.raises(ValueError, match="do not fit the layers"):
        adder_quant.quantize(net, {"conv": 1.0}, 8)
    with pytest.raises(ValueError, match="steps must be"):
        adder_quant.quantize(net, peaks, 8, "common")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no images"):
        adder_quant.input_peaks(net, images(0))
    with pytest.raises(ValueError, match="not finite"):
        adder_quant.input_peaks(net, images() * float("nan"))
    with pytest.raises(ValueError, match="training mode"):
        adder_quant.input_peaks(net.train(), images())


# Deployed


def test_the_deployed_network_gives_the_trained_ones_outputs():
    net = trained()
    fast = AdderNet().deploy(net)
    with torch.no_grad():
        expected = net(images())
        assert float(expected.std(0).min()) > 0.1  # the outputs say something
        assert torch.allclose(fast(images()), expected, atol=1e-3, rtol=1e-3)
    norms = [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1  # behind the first convolution


def test_the_8_bit_network_executes_what_is_simulated():
    net = trained()
    fast = AdderNet().deploy(net, images(16), bits=8)
    simulated = adder_quant.quantize(net, adder_quant.input_peaks(net, images(16)), 8)
    with torch.no_grad():
        assert torch.allclose(fast(images()), simulated(images()), atol=2e-2)
    layers = [m for m in fast.modules() if isinstance(m, kernels.AdderConv2d)]
    assert {m.activation_bits for m in layers} == {8} and len(layers) == 8


@pytest.mark.parametrize("bits", [32, 8])
def test_the_deployed_cnn_gives_the_trained_ones_outputs(bits):
    net = trained(kind="CNN")
    fast = adder_quant.deploy_cnn(net, images(16) if bits == 8 else None)
    with torch.no_grad():
        gap = float((fast(images()) - net(images())).abs().max())
    assert gap < (0.3 if bits == 8 else 1e-3)


def test_deploying_refuses_what_is_not_finished():
    net = trained()
    with pytest.raises(ValueError, match="calibration images"):
        AdderNet().deploy(net, bits=8)
    with pytest.raises(ValueError, match="8 or 32"):
        AdderNet().deploy(net, images(), bits=4)
    with pytest.raises(ValueError, match="no adder layer"):
        AdderNet().deploy(trained(kind="CNN"))
    with pytest.raises(ValueError, match="training mode"):
        AdderNet().deploy(net.train())


# The models


@pytest.mark.parametrize(
    ("depth", "terms"), [(20, 40_813_184), (32, 69_124_736)], ids=["ResNet-20", "ResNet-32"]
)
def test_operations_of_the_cifar_networks(depth, terms):
    real, example = adder_resnet_cifar(depth), torch.zeros(1, 3, 32, 32)
    assert cost.count(real, example).macs == terms
    assert hardware.operations(real, example) == hardware.Operations(terms, terms, 0)
    left = 442_368 + 640
    adders = AdderNet().prepare(real, example)
    expected = hardware.Operations(left, 2 * terms - left, 0)
    assert hardware.operations(adders, example) == expected


def test_operations_of_the_imagenet_network():
    assert cost.count(react_resnet_imagenet(18), torch.zeros(1, 3, 224, 224)).macs == 1_814_073_344


def test_energies_per_multiply_add_are_the_tables():
    one = {k: hardware.of_terms(k, 1) for k in ("CNN", "adder")}
    for number, cnn, adder, saved in (
        ("fp32", 4.6, 1.8, 60.9),
        ("int8", 0.23, 0.06, 73.9),
        ("int32", 3.2, 0.2, 93.8),
    ):
        a, b = (hardware.picojoules(one[k], number) for k in ("CNN", "adder"))
        assert (a, b) == (pytest.approx(cnn), pytest.approx(adder))
        assert round(100 * (1 - b / a), 1) == pytest.approx(saved, abs=0.051)
    with pytest.raises(ValueError, match="int16"):
        hardware.picojoules(one["CNN"], "int16")


def test_the_gate_model_gives_the_worked_numbers():
    assert hardware.full_adders("CNN", 8) == 80 and hardware.full_adders("CNN", 16) == 288
    assert hardware.full_adders("adder", 8) == pytest.approx(28)
    assert hardware.full_adders("adder", 16) == pytest.approx(54.67, abs=0.01)


def test_sums_need_the_worked_widths():
    assert hardware.sum_bits("adder", 8, 576) == 19 and hardware.sum_bits("CNN", 8, 576) == 26
    assert (-576 * 255).bit_length() + 1 == 19  # tight
    assert (576 * 128**2).bit_length() + 1 == 25  # one to spare
