"""The masked convolution, and the two methods that put masks on a network."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import cost, seeds
from compactnets.method import Method
from compactnets.sparse import (
    Magnitude,
    MaskedConv2d,
    OneByN,
    RandomOneByN,
    masked_layers,
    prunable,
    survey,
)
from compactnets.sparse.convert import sparsity as share_gone
from compactnets.sparse.masks import block_mask, filter_order, is_blocked, weight_mask
from sparse_toys import NETWORKS, drawn, images
from train_toys import Log, copied, one_thread, same_state, toy_images, train_toy  # noqa: F401

GEOMETRIES = {
    "1x1": {"kernel_size": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    "dilated": {"kernel_size": (1, 3), "dilation": 2, "padding": (0, 2)},
    "grouped": {"kernel_size": 3, "groups": 2},
    "mirrored": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "same": {"kernel_size": 3, "padding": "same"},
}


def masked(seed: int = 0, **options) -> tuple[nn.Conv2d, MaskedConv2d]:
    with seeds.scoped(seed, "init"):
        conv = nn.Conv2d(4, 8, **{"kernel_size": 3, **options})
    return conv, MaskedConv2d.of(conv, weight_mask(conv.weight, 0.5))


def inputs(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, 7, 9, generator=torch.Generator().manual_seed(seed))


def filled(seed: int = 0) -> nn.Sequential:
    """Two prunable layers between a first convolution and a classifier."""
    with seeds.scoped(seed, "init"):
        return nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)),
        )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_output_is_that_of_zeroed_weights_and_so_is_the_gradient(geometry):
    conv, layer = masked(**GEOMETRIES[geometry])
    zeroed = copy.deepcopy(conv)
    with torch.no_grad():
        zeroed.weight.mul_(layer.mask)
    x, same = (inputs().requires_grad_() for _ in range(2))
    y = layer(x)
    assert torch.equal(y, zeroed(same))
    assert torch.equal(layer.dense()(x), y)
    y.square().sum().backward()
    zeroed(same).square().sum().backward()
    assert torch.equal(x.grad, same.grad)  # type: ignore[arg-type]
    assert (layer.weight.grad[~layer.mask] == 0).all()  # type: ignore[index]
    assert torch.equal(layer.weight.grad, zeroed.weight.grad * layer.mask)  # type: ignore[operator]


def test_the_layer_owns_its_tensors_and_draws_nothing():
    conv, _ = masked()
    mask, order = weight_mask(conv.weight, 0.5), torch.arange(8).flip(0)
    state = torch.get_rng_state()
    layer = MaskedConv2d.of(conv.eval(), mask, order)
    plain = layer.dense()
    assert torch.equal(torch.get_rng_state(), state)
    assert not layer.training
    assert not plain.training
    layer.weight.data.zero_()
    layer.mask.zero_()
    layer.order.zero_()
    assert conv.weight.abs().min() > 0
    assert mask.any()
    assert order[0] == 7
    assert plain.weight.any()
    assert type(plain) is nn.Conv2d


def test_frozen_weights_stay_frozen():
    conv = nn.Conv2d(4, 8, 3)
    conv.weight.requires_grad = False
    layer = MaskedConv2d.of(conv, weight_mask(conv.weight, 0.5))
    assert not layer.weight.requires_grad
    assert layer.bias is not None
    assert layer.bias.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_are_kept(dtype):
    conv = nn.Conv2d(4, 8, 3, dtype=dtype)
    layer = MaskedConv2d.of(conv, weight_mask(conv.weight, 0.5))
    assert layer(inputs().to(dtype)).dtype is layer.dense().weight.dtype is dtype
    assert layer.to(torch.float32).mask.dtype is torch.bool


def test_masks_of_another_shape_or_dtype_are_refused():
    conv = nn.Conv2d(4, 8, 3)
    with pytest.raises(ValueError, match=r"boolean \(8, 4, 3, 3\), got torch.float32"):
        MaskedConv2d.of(conv, torch.ones(8, 4, 3, 3))
    with pytest.raises(ValueError, match=r"got torch.bool \(8, 4, 1, 1\)"):
        MaskedConv2d.of(conv, torch.ones(8, 4, 1, 1, dtype=torch.bool))


def test_state_and_copies_carry_mask_and_order():
    conv, layer = masked()
    layer.order = torch.arange(8).flip(0)
    twin = MaskedConv2d.of(conv, torch.ones_like(layer.mask))
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(inputs()), layer(inputs()))
    assert torch.equal(twin.order, layer.order)
    deep = copy.deepcopy(layer)
    layer.mask.zero_()
    assert deep.mask.any()
    assert torch.equal(deep(inputs()), twin(inputs()))


def test_the_compiler_takes_the_layer_whole():
    _, layer = masked(padding=1)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = inputs()
    assert torch.allclose(compiled(x), layer(x), atol=1e-6)
    compiled(x).sum().backward()
    assert (layer.weight.grad[~layer.mask] == 0).all()  # type: ignore[index]


def test_costs_are_those_of_the_kept_weights():
    conv, layer = masked(padding=1)
    counted = cost.count(nn.Sequential(layer), inputs())
    whole = cost.count(nn.Sequential(conv), inputs())
    assert counted.macs * 2 == whole.macs == 8 * 4 * 9 * 7 * 9
    assert counted.layers[0].weights == 144
    assert counted.layers[0].params == 144 + 8


def test_repr_shows_what_is_kept():
    assert "kernel_size=(3, 3)" in repr(masked()[1])
    assert "kept=0.5000" in repr(masked()[1])


METHODS = {
    "1x4": OneByN(4),
    "1x4 unsorted": OneByN(4, rearrange=False),
    "1x2": OneByN(2),
    "1x4 at 25 %": OneByN(4, 0.25),
    "random": RandomOneByN(4),
    "random again": RandomOneByN(4, seed=1),
    "random at 25 %": RandomOneByN(4, 0.25),
    "random 1x2": RandomOneByN(2),
    "random with repetition": RandomOneByN(4, replacement=True),
    "weight": Magnitude(),
    "kernel": Magnitude("kernel"),
    "filter": Magnitude("filter"),
    "weight at 25 %": Magnitude("weight", 0.25),
    "weight where 8 divides": Magnitude("weight", n=8),
}


def test_every_option_changes_the_masks_and_the_repr():
    model = filled()
    states = [method.prepare(model, images()).state_dict() for method in METHODS.values()]
    seen = [
        str({k: v.int().flatten().tolist() for k, v in state.items() if k.endswith("mask")})
        for state in states
    ]
    assert len(set(seen)) == len({repr(method) for method in METHODS.values()}) == len(METHODS)
    assert repr(OneByN(8, 0.7)) == "OneByN(n=8, sparsity=0.7, rearrange=True)"
    assert repr(Magnitude("filter")) == "Magnitude(granularity='filter', sparsity=0.5, n=1)"


@pytest.mark.parametrize("name", METHODS)
def test_preparing_copies_the_network_and_masks_its_weights_only(name):
    model, method = filled().eval(), METHODS[name]
    before = copied(model)
    prepared = method.prepare(model, images())
    assert isinstance(method, Method)
    assert list(method.hooks()) == []
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    state = prepared.state_dict()
    assert all(torch.equal(state[k], v) for k, v in before.items())
    assert not {p.data_ptr() for p in model.parameters()} & {
        p.data_ptr() for p in prepared.parameters()
    }
    assert type(prepared[0]) is nn.Conv2d  # type: ignore[index]
    if "repetition" not in name:
        assert share_gone(prepared) == pytest.approx(method.sparsity, abs=0.005)


def test_random_blocks_repeat_by_seed_differ_by_layer_and_leave_the_global_generator():
    with seeds.scoped(0):
        model = nn.Sequential(*(nn.Conv2d(16, 16, 1) for _ in range(4)))
        state = torch.get_rng_state()
        pairs = [RandomOneByN(4, 0.5, seed=3).prepare(model, images()) for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), state)
    assert same_state(*pairs)
    drawn_masks = [layer.mask for _, layer in masked_layers(pairs[0])]
    assert len(drawn_masks) == 3
    assert not torch.equal(drawn_masks[0], drawn_masks[1])
    assert all(is_blocked(mask, 4) for mask in drawn_masks)
    assert share_gone(pairs[0]) == 0.5


def test_the_released_random_baseline_prunes_39_percent():
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 1))
    gone = [
        share_gone(RandomOneByN(4, 0.5, replacement=True, seed=seed).prepare(model, images()))
        for seed in range(10)
    ]
    assert sum(gone) / 10 == pytest.approx(0.3935, abs=0.01)


def test_masks_are_the_pure_functions_of_the_trained_weights():
    model = filled()
    layers = dict(masked_layers(OneByN(4, 0.3).prepare(model, images())))
    assert list(layers) == ["3", "6"]
    for name, layer in layers.items():
        rho = filter_order(model.get_submodule(name).weight)  # type: ignore[arg-type]
        assert torch.equal(layer.mask, block_mask(layer.weight, 4, 0.3, rho))
        assert torch.equal(layer.order, rho)
        assert is_blocked(layer.mask, 4, rho)


def test_without_sorting_all_orders_are_natural_and_residual_layers_always_keep_theirs():
    model = drawn(NETWORKS["ResNet-8, B"])
    for method, sorted_layers in ((OneByN(4, rearrange=False), 0), (OneByN(4), 3)):
        layers = dict(masked_layers(method.prepare(model, images())))
        moved = [k for k, m in layers.items() if (m.order.diff() != 1).any()]
        assert len(layers) == 8
        assert len(moved) == sorted_layers
        assert all(name.endswith("conv1") for name in moved)


def test_layers_whose_outputs_n_does_not_divide_stay_dense_for_both_methods():
    model = filled()
    assert prunable(model) == prunable(model, 4) == ["3", "6"]
    assert prunable(model, 8) == ["3"]
    for method in (OneByN(8), Magnitude(n=8), Magnitude("filter", n=8)):
        prepared = method.prepare(model, images())
        assert [name for name, _ in masked_layers(prepared)] == ["3"]
        assert type(prepared.get_submodule("6")) is nn.Conv2d


def test_in_mobilenets_the_pointwise_convolutions_are_pruned():
    model = drawn(NETWORKS["MobileNet-V2"])
    convs = {k: m for k, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert prunable(model) == [k for k, m in convs.items() if m.kernel_size == (1, 1)]


def test_what_cannot_be_pruned_is_told():
    with pytest.raises(ValueError, match=r"nothing to prune in blocks of 32.*nn.Conv2d layers"):
        OneByN(32).prepare(filled(), images())
    with pytest.raises(ValueError, match="nothing to prune"):
        Magnitude().prepare(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 4)), images())
    with pytest.raises(ValueError, match="3 is masked already: prune the dense network"):
        Magnitude().prepare(OneByN(4).prepare(filled(), images()), images())
    with pytest.raises(ValueError, match="has no masked layer"):
        share_gone(filled())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneByN(0), "n must be at least 1, got 0"),
        (lambda: Magnitude(n=0), "n must be at least 1, got 0"),
        (lambda: OneByN(sparsity=1.0), r"sparsity must lie in \[0, 1\), got 1.0"),
        (lambda: Magnitude(sparsity=-0.5), r"sparsity must lie in \[0, 1\), got -0.5"),
        (lambda: Magnitude("row"), "'weight', 'kernel', 'filter'.*got 'row'"),  # type: ignore[arg-type]
    ],
)
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from(["weight", "kernel", "filter"]))
def test_the_survey_counts_dead_inputs_and_outputs(seed, granularity):
    prepared = Magnitude(granularity, 0.9).prepare(filled(seed), images())
    table = survey(prepared).set_index("layer")
    for name, layer in masked_layers(prepared):
        row = table.loc[name]
        effective = layer.effective_weight().detach()
        assert row["dead_inputs"] == sum(not w.any() for w in effective.transpose(0, 1))
        assert row["dead_outputs"] == sum(not w.any() for w in effective)
        assert row["weights"] == layer.weight.numel()
        assert row["kept"] == pytest.approx(float((effective != 0).float().mean()))
    assert table.loc["3", "shape"] == "16 × 8 × 3 × 3"
    if granularity == "filter":
        assert table.loc["3", "dead_outputs"] == 14


def test_momentum_and_weight_decay_leave_the_pattern():
    model = OneByN(4).prepare(filled(), images()).train()
    before = {name: layer.mask.clone() for name, layer in masked_layers(model)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for step in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(images(8, 8, step)), torch.arange(8) % 4).backward()
        optimizer.step()
    for name, layer in masked_layers(model):
        assert torch.equal(layer.mask, before[name])
        effective = layer.effective_weight()
        assert (effective[~layer.mask] == 0).all()
        assert (effective[layer.mask] != 0).all()
        assert is_blocked(effective != 0, 4, layer.order)


@pytest.mark.parametrize("method", [OneByN(4), Magnitude("filter")], ids=repr)
def test_fit_trains_the_survivors_under_fixed_masks_and_repeats_itself(method):
    runs = []
    for _ in range(2):
        log = Log()
        run = train_toy(filled(), toy_images(), method=method, hooks=[log], weight_decay=0.01)
        runs.append(run)
        assert len(log._states) > 4
        for state in log._states:
            for key in ("3.mask", "3.order", "6.mask"):
                assert torch.equal(state[key], log._states[0][key])
        assert not torch.equal(log._states[-1]["3.weight"], log._states[0]["3.weight"])
    assert same_state(runs[0].model, runs[1].model)
    expected = method.prepare(filled(), images()).state_dict()
    assert torch.equal(runs[0].model.state_dict()["3.mask"], expected["3.mask"])
