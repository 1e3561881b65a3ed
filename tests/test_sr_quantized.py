"""EDSR with a quantized body: positions, levels, order, methods, loss, deployment, cost."""

import copy

import pytest
import torch
from torch import nn

from compactnets import cost, paths
from compactnets.data import super_resolution
from compactnets.method import Method
from compactnets.quant.ddtb import DualBounds
from compactnets.sr import EDSR
from compactnets.sr.low_bit import DDTB, OneBound
from compactnets.sr.quantized import (
    Features,
    QuantizedConv2d,
    Zero,
    activation_quantizers,
    activations,
    extremes,
    image_loss,
    quantized,
    student_loss,
)
from compactnets.train import Recipe, fit


def network(blocks=2, features=8, scale=2, seed=0):
    torch.manual_seed(seed)
    return EDSR(scale, blocks, features)


def images(count=4, side=12, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


METHODS = [
    DDTB(),
    DDTB(bits=3, dynamic=1.0, percent=None, released_gate=True, order="released"),
    DDTB(dynamic=0.0, error_term=False),
    OneBound(),
    OneBound(start="percentile"),
    OneBound(kind="max-abs", bits=4),
    OneBound(kind="zero"),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_method_prepares_a_student_and_leaves_the_network_alone(method):
    model = network()
    before = copy.deepcopy(model.state_dict())
    student = method.prepare(model, images())
    assert isinstance(method, Method) and repr(method) == repr(eval(repr(method)))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    again = method.prepare(model, images()).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in student.state_dict().items())
    assert student.eval()(images()).shape == (4, 3, 24, 24)


def test_the_baseline_network_has_48_quantizers_14_of_them_dynamic_with_2176_parameters_each():
    student = DDTB(percent=None).prepare(EDSR(4, 16, 64), images(2, 6))
    quantizers = activation_quantizers(student)
    gates = [q.gate for q in quantizers if q.gate is not None]
    assert (len(quantizers), len(gates)) == (48, 14)
    assert {sum(p.numel() for p in gate.parameters()) for gate in gates} == {2176}


def test_quantized_weights_have_few_levels_and_clipped_ones_get_no_gradient():
    torch.manual_seed(0)
    conv = QuantizedConv2d(nn.Conv2d(8, 8, 3, padding=1), 2)
    w = conv.quantized_weight()
    assert len(w.unique()) == 4
    assert torch.equal(conv.codes().decode(), w)
    w.sum().backward()
    upper, lower = conv.bounds()
    inside = (conv.weight >= lower) & (conv.weight <= upper)
    assert torch.equal(conv.weight.grad, inside.float()) and not inside.all()


def test_quantizers_are_shown_what_the_real_network_computes():
    model, x = network(), images()
    seen = {}
    activations(model, x, lambda i, a: seen.update({i: a}))
    block, first = model.body[0], model.head((x - model.mean) * 255)
    inner = torch.relu(block.conv1(first))
    assert sorted(seen) == list(range(6)) and torch.equal(seen[0], first)
    assert torch.allclose(seen[1], inner) and torch.allclose(seen[2], block.conv2(inner))
    assert torch.allclose(seen[3], block(first), atol=1e-4)
    highest, lowest = extremes(model, x)
    assert highest.shape == lowest.shape == (6, 4) and not lowest[1].any()
    assert torch.equal(highest[2], seen[2].amax(dim=(1, 2, 3)))


def test_bounds_start_from_what_the_quantized_layers_before_let_through():
    model, x = network(), images(32)
    student = DDTB(dynamic=0.0).prepare(model, x)
    q1, q2 = activation_quantizers(student)[:2]
    first = model.head((x - model.mean) * 255)
    halves = torch.stack([half.quantile(0.99) for half in first.detach().split(16)])
    assert torch.isclose(q1.alpha_u, halves.mean(), rtol=1e-3)
    inner = torch.relu(student.network.body[0].conv1(q1(first))).detach()
    wanted = torch.stack([half.quantile(0.99) for half in inner.split(16)]).mean()
    assert torch.isclose(q2.alpha_u, wanted, rtol=1e-3) and float(q2.alpha_l.detach()) == 0


def test_the_released_order_gives_conv1_more_levels_than_the_bits_allow():
    levels = {}
    for order in ("quantized", "released"):
        student = DDTB(dynamic=0.0, order=order).prepare(network(), images()).eval()
        block = student.network.body[1]
        block.conv1.register_forward_pre_hook(
            lambda _, x, order=order: levels.update({order: len(x[0].unique())})
        )
        student(images())
    assert levels["quantized"] <= 4 < levels["released"]


def test_more_bits_come_closer_to_the_real_network():
    model, x = network(), images()
    gaps = []
    for bits in (2, 4, 8):
        student = DDTB(bits=bits, dynamic=0.0, percent=100.0).prepare(model, x).eval()
        gaps.append(float((student(x) - model(x)).abs().mean().detach()))
    assert gaps[0] > gaps[1] > gaps[2]


def test_the_floor_is_the_network_without_its_body():
    model, x = network(), images()
    student = OneBound(kind="zero").prepare(model, x).eval()
    head = model.head((x - model.mean) * 255)
    bare = model.reconstruct(model.fuse(torch.zeros_like(head)) + head)
    assert torch.equal(student(x), bare)
    codes = Zero(2).codes(x)
    assert not codes.decode().any()


def test_a_student_in_training_returns_what_its_loss_needs():
    model, x = network(), images()
    student = DDTB(dynamic=0.5).prepare(model, x)
    output, target = student(x), torch.rand(4, 3, 24, 24)
    teacher = Features(model)(x).detach()
    assert float(output["penalty"].detach()) > 0
    l1 = 255 * (output["images"] - target).abs().mean()
    assert torch.isclose(image_loss(output, target), l1 + output["penalty"])
    assert torch.equal(image_loss(output["images"], target), l1)
    same = {**output, "features": teacher}
    assert torch.isclose(student_loss(same, target, teacher), image_loss(output, target))
    assert student_loss(output, target, teacher) > image_loss(output, target)


def test_bounds_get_their_own_learning_rate_and_gates_do_not():
    student = DDTB(bounds_lr=50.0).prepare(network(), images())
    rest, bounds = DDTB(bounds_lr=50.0).parameter_groups(student)
    assert bounds["lr_scale"] == 50.0 and len(bounds["params"]) == 2 * 6
    assert len(rest["params"]) + 12 == len(list(student.parameters()))
    assert len(OneBound(kind="zero").parameter_groups(student.network.tail)) == 1


def test_extremes_over_mini_batches_are_those_of_their_images():
    model, x = network(), images(7)
    one, three = DDTB(dynamic=1.0), DDTB(dynamic=1.0, images_per_extreme=3)
    highest, lowest = extremes(model, x)
    grouped = torch.stack([highest[:, :3].amax(1), highest[:, 3:6].amax(1)], 1).var(1)
    grouped = grouped + torch.stack([lowest[:, :3].amin(1), lowest[:, 3:6].amin(1)], 1).var(1)
    assert three.dynamic_layers(model, x) == grouped.argsort(descending=True).tolist()
    assert sorted(one.dynamic_layers(model, x)) == list(range(6))


@pytest.mark.parametrize("method", [DDTB(warmup=1, dynamic=0.5, trace=1), OneBound()], ids=repr)
def test_fine_tuning_moves_bounds_and_repeats_bit_for_bit(method):
    train = super_resolution.load_patches("scenes", "train", patch=16, patches=8, limit=4)
    model, recipe = network(), Recipe(2, 4, "adam", 1e-3, precision="fp32", compile=False)
    runs = [
        fit(
            model,
            train,
            recipe,
            seed=0,
            loss=student_loss,
            method=method,
            teacher=Features(model),
            example=images(),
            cache=False,
        )
        for _ in range(2)
    ]
    start = method.prepare(model, images()).state_dict()
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(states[0][k], states[1][k]) for k in start)
    moved = [k for k in start if "alpha" in k and not torch.equal(start[k], states[0][k])]
    assert len(moved) >= 6
    if isinstance(method, DDTB):
        assert len(runs[0].history[0]["bounds"]) == 3  # before the first step, and after each
        assert all(q.gated for q in activation_quantizers(runs[0].model))


@pytest.mark.parametrize("method", [m for m in METHODS if m.order == "quantized"], ids=repr)
def test_the_deployed_network_returns_the_trained_networks_images(method):
    student = method.prepare(network(), images()).eval()
    for quantizer in activation_quantizers(student):
        if isinstance(quantizer, DualBounds):
            quantizer.gated.fill_(True)
    x = images(3, 10, seed=5)
    with torch.no_grad():
        assert torch.allclose(method.deploy(student)(x), student(x), atol=2e-3)


def test_bad_inputs_are_named():
    with pytest.raises(TypeError, match="EDSR"):
        DDTB().prepare(nn.Conv2d(3, 3, 3), images())
    with pytest.raises(ValueError, match="order"):
        quantized(network(), lambda: Zero(2), 2, "other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind"):
        OneBound(kind="other").prepare(network(), images())  # type: ignore[arg-type]
    released = DDTB(order="released")
    with pytest.raises(ValueError, match="order"):
        released.deploy(released.prepare(network(), images()))
    with pytest.raises(TypeError, match="deployed"):
        DDTB().deploy(network())


@pytest.mark.parametrize(
    ("bits", "parameters", "bops"),
    [(2, 0.4117, 47.67), (3, 0.4485, None), (4, 0.4854, 48.48), (32, 1.5176, 116.97)],
)
def test_costs_of_the_baseline_network_are_those_counted_by_hand(bits, parameters, bops):
    model = EDSR(4, 16, 64)
    if bits < 32:
        model = OneBound(bits=bits, kind="zero").prepare(model, images(1, 4))
    costs = cost.count(model.to("meta"), torch.zeros(1, 3, 180, 320, device="meta"))
    assert round(cost.storage_bits(costs) / 32e6, 4) == parameters
    assert round(costs.macs / 1e9, 2) == 114.23 and costs.params == 1_517_571
    if bops is not None:
        assert round(cost.bops_product(costs) / 1e12, 2) == bops
    quantized_layers = costs.select(lambda layer: layer.weight_bits < 32)
    if bits < 32:
        assert quantized_layers.macs == 67_947_724_800
        assert sum(layer.weights for layer in quantized_layers) == 1_179_648


def test_the_page_s_import_snippet_runs():
    page = paths.project_root() / "notebooks" / "quantization" / "ddtb.md"
    snippet = page.read_text(encoding="utf-8").rpartition("```python\n")[2].partition("```")[0]
    names = {"network": network(), "patches": images(3)}
    exec(snippet, names)
    names["student_loss"](
        names["student"].train()(images()), torch.rand(4, 3, 24, 24), names["teacher"](images())
    ).backward()
    assert names["fast"](images()).shape == (4, 3, 24, 24)
