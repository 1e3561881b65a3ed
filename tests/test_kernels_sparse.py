"""Sparse products against dense ones and the reference, on every path, and what they refuse."""

import copy
import gc
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import cost, kernels
from compactnets.kernels import (
    BlockSparseConv2d,
    BlockSparseLinear,
    CSRConv2d,
    CSRLinear,
    native,
    sparse_plans,
)
from compactnets.kernels.sparse import (
    sparse_conv2d,
    sparse_conv2d_reference,
    sparse_linear,
    sparse_linear_reference,
)
from compactnets.kernels.sparse_pack import BLOCKS, Packed, pack_blocks, pack_csr, unpack

LAYOUTS = ["contiguous", "channels_last", "every second channel", "crop", "transposed"]
compiled = pytest.mark.skipif(not kernels.available(), reason="needs the compiled kernels")


@pytest.fixture(autouse=True)
def _untuned(monkeypatch):
    """Tiles from the sizes alone, but where a test says otherwise: measuring them takes time."""
    monkeypatch.setenv("COMPACTNETS_TUNE", "0")


def laid_out(x, layout):
    """The same values in other strides."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "every second channel":
        return torch.stack((x, -x), dim=2).flatten(1, 2)[:, ::2]
    if layout == "crop":
        return F.pad(x, (1, 2, 3, 0))[:, :, 3:, 1 : 1 + x.shape[3]]
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x.contiguous()


def masked(shape, n, kept, generator):
    """Normal weights of which a share `kept` of the blocks of n outputs is not zero."""
    weight = torch.randn(shape, generator=generator)
    mask = torch.rand(shape[0] // n, *shape[1:], generator=generator) < kept
    return weight * mask.repeat_interleave(n, 0)


def assert_close(y, x, weight, bias, expected, product):
    """Within the stated tolerance of the exact result, per output."""
    assert y.shape == expected.shape
    size = product(x.abs().double(), weight.abs().double())
    size = size if bias is None else size + bias.abs().max()
    inputs = weight[0].numel()
    assert ((y - expected).abs() <= (inputs + 2) * 1.2e-7 * size + 1e-12).all()


@st.composite
def convolutions(draw):
    """x, weight, n, bias and options of a random convolution, a third of them 1x1."""
    n = draw(st.sampled_from(BLOCKS))
    groups = draw(st.sampled_from([1, 1, 1, 2, 7]))
    outputs = groups * n * draw(st.integers(1, 64 // n // groups + 1))
    channels = groups * draw(st.integers(1, 40 // groups))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    if draw(st.integers(0, 2)):
        kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
        options = {
            "stride": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            "padding": (draw(st.integers(0, 3)), draw(st.integers(0, 5))),
            "dilation": (draw(st.integers(1, 2)), draw(st.integers(1, 3))),
        }
        least = [
            max(1, options["dilation"][i] * (kernel[i] - 1) + 1 - 2 * options["padding"][i])
            for i in (0, 1)
        ]
    else:
        kernel, options, least = (1, 1), {}, [1, 1]
    size = [low + draw(st.integers(0, 22)) for low in least]
    x = torch.randn(draw(st.integers(0, 3)), channels, *size, generator=generator)
    kept = draw(st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]))
    options["groups"] = groups
    weight = masked((outputs, channels // groups, *kernel), n, kept, generator)
    bias = torch.randn(outputs, generator=generator) if draw(st.booleans()) else None
    return laid_out(x, draw(st.sampled_from(LAYOUTS))), weight, n, bias, options


@settings(max_examples=120, deadline=None)
@given(convolutions())
def test_a_sparse_convolution_is_the_dense_one_and_the_reference(case):
    x, weight, n, bias, options = case
    before = x.clone()
    packed = pack_blocks(weight, n)
    y = sparse_conv2d(x, *packed, bias, kernel_size=weight.shape[2:], **options)

    def dense(x, weight):
        return F.conv2d(x.contiguous(), weight, None, **options)

    expected = dense(x.double(), weight.double())
    expected = expected if bias is None else expected + bias[:, None, None]
    assert_close(y, x, weight, bias, expected, dense)
    reference = sparse_conv2d_reference(x, *packed, bias, kernel_size=weight.shape[2:], **options)
    assert_close(reference, x, weight, bias, expected, dense)
    assert y.stride() == reference.stride()
    assert torch.equal(x, before)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.integers(1, 2),
    st.sampled_from(LAYOUTS), st.booleans(), st.integers(0, 2**20),
)  # fmt: skip
def test_a_depthwise_convolution_of_three_by_three(
    channels, height, width, stride, layout, whole, seed
):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, channels, height, width, generator=generator)
    weight = torch.randn(channels, 1, 3, 3, generator=generator)
    if not whole:
        weight[0, 0, 1, 2] = 0
    layer = CSRConv2d(weight, stride=stride, padding=1, groups=channels, low=-2.0, high=2.0)
    y = layer(laid_out(x, layout))
    expected = F.conv2d(x, weight, None, stride, 1, groups=channels).clamp(-2, 2)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(BLOCKS),
    st.integers(1, 20),
    st.integers(1, 70),
    st.sampled_from([(), (0,), (1,), (15,), (16,), (33,), (200,), (3, 7), (2, 0, 3)]),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(0, 2**20),
)
def test_a_sparse_linear_layer_is_the_dense_one_and_the_reference(
    n, rows, inputs, shape, kept, seed
):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, inputs, generator=generator)
    weight = masked((n * rows, inputs), n, kept, generator)
    bias = torch.randn(n * rows, generator=generator)
    packed = pack_blocks(weight, n)
    expected = F.linear(x.double(), weight.double(), bias.double())
    for y in (sparse_linear(x, *packed, bias), sparse_linear_reference(x, *packed, bias)):
        assert_close(y, x, weight, bias, expected, F.linear)
        assert y.is_contiguous()
    wide = torch.stack((x, x), -1).flatten(-2)[..., ::2]  # the same values, every second float
    assert torch.equal(sparse_linear(wide, *packed, bias), sparse_linear(x, *packed, bias))


@given(st.sampled_from(BLOCKS), st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_unpacking_gives_back_the_weight_and_only_blocks_with_nonzeros_are_kept(n, rows, k, seed):
    weight = masked((n * rows, k, 2, 3), n, 0.4, torch.Generator().manual_seed(seed))
    packed = pack_blocks(weight, n)
    assert torch.equal(unpack(packed, weight.shape), weight)
    assert packed.values.numel() == weight.count_nonzero()
    single = pack_csr(weight)
    assert single.n == 1 and single.values.numel() == weight.count_nonzero()
    assert torch.equal(unpack(single, weight.shape), weight)


def test_a_weight_of_another_pattern_is_packed_with_its_zeros():
    weight = torch.zeros(8, 3)
    weight[5, 1], weight[2, 0], weight[3, 2] = 2.0, -0.0, math.nan
    packed = pack_blocks(weight, 4)
    assert packed.starts.tolist() == [0, 1, 2] and packed.index.tolist() == [2, 1]
    assert packed.values[1].tolist() == [0, 2, 0, 0] and packed.values[0, :3].eq(0).all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("n", [1, 4])
def test_nan_and_infinity_reach_an_output_through_kept_weights_only(n, layout):
    weight = torch.zeros(2 * n, 3, 1, 1)
    weight[:n, 0], weight[n:, 1] = 1.0, -2.0
    x = torch.zeros(1, 3, 3, 7)
    x[0, 0, 1, 2], x[0, 1, 2, 3], x[0, 2] = math.nan, math.inf, math.nan
    packed = pack_blocks(weight, n)
    for f in (sparse_conv2d, sparse_conv2d_reference):
        y = f(laid_out(x, layout), *packed, kernel_size=(1, 1), low=-3.0, high=6.0)
        assert y[0, :n].isnan().sum() == n and y[0, :n, 1, 2].isnan().all()
        assert (y[0, n:, 2, 3] == -3).all() and not y[0, n:].isnan().any()


@pytest.mark.parametrize(("low", "high"), [(0.0, None), (None, 0.5), (0.0, 6.0)])
def test_limits_are_a_fused_clamp(low, high):
    x, weight = torch.randn(1, 20, 9, 9), masked((12, 20, 3, 3), 4, 0.5, torch.Generator())
    packed = pack_blocks(weight, 4)
    free = sparse_conv2d(x, *packed, kernel_size=(3, 3))
    assert torch.equal(
        sparse_conv2d(x, *packed, kernel_size=(3, 3), low=low, high=high), free.clamp(low, high)
    )
    tokens = torch.randn(40, 20)
    linear = pack_blocks(weight[:, :, 0, 0], 4)
    free = sparse_linear(tokens, *linear)
    assert torch.equal(sparse_linear(tokens, *linear, low=low, high=high), free.clamp(low, high))


def test_rounding_errors_stay_small_in_long_sums():
    x, weight = torch.rand(40, 4096), torch.rand(4, 4096)
    exact = F.linear(x.double(), weight.double())
    for n in (1, 4):
        y = sparse_linear(x, *pack_blocks(weight, n))
        assert ((y - exact).abs() / exact).max() < 2e-5


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1)])
@pytest.mark.parametrize("n", [1, 4])
def test_any_number_of_threads_gives_the_same_result(n, kernel, padding, layout):
    generator = torch.Generator().manual_seed(0)
    x = laid_out(torch.randn(1, 96, 33, 31, generator=generator), layout)
    small = laid_out(torch.randn(2, 96, 12, 12, generator=generator), layout)
    packed = pack_blocks(masked((144, 96, kernel, kernel), n, 0.4, generator), n)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                [sparse_conv2d(i, *packed, kernel_size=kernel, padding=padding) for i in (x, small)]
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@compiled
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("n", "kernel"), [(1, 1), (4, 1), (16, 1), (1, 3), (4, 3)])
def test_every_tile_gives_the_result(n, kernel, layout):
    generator = torch.Generator().manual_seed(1)
    x = laid_out(torch.randn(2, 70, 9, 13, generator=generator), layout)
    weight = masked((48 if n > 1 else 47, 70, kernel, kernel), n, 0.4, generator)
    packed, pad = pack_blocks(weight, n), kernel // 2
    expected = sparse_conv2d_reference(x, *packed, kernel_size=kernel, padding=pad)
    module, last = native.load(), layout == "channels_last"
    call = sparse_plans.Call(
        tuple(x.shape), tuple(expected.shape),
        torch.channels_last if last else torch.contiguous_format,
        ((kernel, kernel), (1, 1), (pad, pad), (1, 1)), None, None,
    )  # fmt: skip
    sizes = module.sparse_tiles(), module.sparse_lanes()
    tiles = list(sparse_plans.candidates(call, n, *sizes, 70 * kernel**2))
    assert len(tiles) > 2
    extremes = [sparse_plans.Tile(1), sparse_plans.Tile(99, 10**6), sparse_plans.Tile(2, 3, True)]
    extremes += [sparse_plans.Tile(1, 7, pairs=True), sparse_plans.Tile(99, 2, True, True)]
    for tile, threads in itertools.product(tiles + extremes, (1, 3)):
        y = torch.full_like(expected, math.nan)
        plan = module.sparse_plan(
            *map(native.dense, packed), None, list(x.shape), last, *call.geometry, 1,
            -math.inf, math.inf, tile.vectors, tile.chunks, tile.in_place, tile.pairs, threads,
        )  # fmt: skip
        plan.run(native.dlpack(x), native.dlpack(y))
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


@compiled
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1)])
def test_the_first_call_measures_the_tiles_once(n, kernel, padding, monkeypatch):
    monkeypatch.setenv("COMPACTNETS_TUNE", "1")
    calls, fastest = [], sparse_plans._fastest
    monkeypatch.setattr(sparse_plans, "_fastest", lambda *a: calls.append(a) or fastest(*a))
    x = torch.randn(1, 21, 10, 11)
    for seed in range(2):  # a second layer of the same sizes
        weight = masked((12, 21, kernel, kernel), n, 0.5, torch.Generator().manual_seed(seed))
        packed = pack_blocks(weight, n)
        for _ in range(2):
            y = sparse_conv2d(x, *packed, kernel_size=kernel, padding=padding)
            torch.testing.assert_close(
                y, F.conv2d(x, weight, padding=padding), rtol=1e-4, atol=1e-4
            )
    assert len(calls) <= 2 and len(calls[0][0]) > 2


@compiled
def test_without_tuning_the_tile_follows_from_the_sizes(monkeypatch):
    monkeypatch.setattr(sparse_plans, "_fastest", None)  # would fail
    x, weight = torch.randn(1, 33, 10, 10), masked((8, 33, 1, 1), 4, 0.5, torch.Generator())
    for n in (1, 4):
        y = sparse_conv2d(x, *pack_blocks(weight, n), kernel_size=1)
        torch.testing.assert_close(y, F.conv2d(x, weight))


def test_changes_in_place_are_seen():
    x, weight = torch.randn(30, 8), torch.randn(8, 8)
    values, index, starts = pack_csr(weight)
    bias = torch.zeros(8)
    sparse_linear(x, values, index, starts, bias)
    values.mul_(2), bias.add_(1)
    y = sparse_linear(x, values, index, starts, bias)
    torch.testing.assert_close(y, F.linear(x, 2 * weight, bias))
    index.view(8, 8).copy_(torch.arange(8).expand(8, 8))
    starts[1:5] = 0  # the first rows keep nothing, the fifth has their weights too: 0..7, 0..7, ...
    with pytest.raises(ValueError, match="index"):
        sparse_linear(x, values, index, starts, bias)
    starts.copy_(torch.arange(9))
    with pytest.raises(ValueError, match="starts must"):
        sparse_linear(x, values, index, starts, bias)


@compiled
def test_plans_live_no_longer_than_their_weight():
    cache = sparse_linear.kernel.__closure__[0].cell_contents
    gc.collect()
    before = len(cache._plans)
    layer = BlockSparseLinear(torch.randn(8, 8))
    for tokens in range(1, 200):
        layer(torch.randn(tokens, 8))
    assert len(cache._plans) == before + 1
    assert len(cache._plans[id(layer.values)][1].by_shape) <= sparse_plans._SHAPES_KEPT
    del layer
    gc.collect()
    assert len(cache._plans) == before


PACKED = pack_blocks(torch.ones(8, 3, 2, 2), 4)
BAD = {
    "x must be": (ValueError, {"x": torch.ones(3, 4, 4)}),
    "x must be float32": (TypeError, {"x": torch.ones(1, 3, 4, 4, dtype=torch.float64)}),
    "values must be float32": (TypeError, {"values": PACKED.values.double()}),
    "values must be \\(blocks, n\\)": (ValueError, {"values": torch.ones(24, 3)}),
    "index must be int32": (TypeError, {"index": PACKED.index.long()}),
    "index must have shape": (ValueError, {"index": PACKED.index[:-1]}),
    "starts must be int32": (TypeError, {"starts": PACKED.starts.float()}),
    "starts must have shape": (ValueError, {"starts": PACKED.starts[:1]}),
    "starts must": (ValueError, {"starts": PACKED.starts.flip(0)}),
    "index (must|has)": (ValueError, {"index": PACKED.index + 1}),
    "index must": (ValueError, {"index": PACKED.index - 1}),
    "index .*ascend": (ValueError, {"index": PACKED.index.flip(0)}),
    "bias must have shape": (ValueError, {"bias": torch.ones(3)}),
    "bias must be float32": (TypeError, {"bias": torch.ones(8).half()}),
    "kernel_size must be": (ValueError, {"kernel_size": [0, 3]}),
    "stride must be": (ValueError, {"stride": [0, 1]}),
    "padding must be": (ValueError, {"padding": [0, -1]}),
    "dilation must be": (ValueError, {"dilation": [0, 1]}),
    "stride must be two": (ValueError, {"stride": [1, 1, 1]}),
    "groups=2 does not divide 3": (ValueError, {"groups": 2}),
    "groups=3 does not divide .* 2 rows": (ValueError, {"groups": 3}),
    "does not fit x of size 1": (ValueError, {"x": torch.ones(1, 3, 4, 1)}),
    "does not fit x of size 0": (ValueError, {"x": torch.ones(1, 3, 0, 4), "padding": [2, 0]}),
    "values is on meta": (ValueError, {"values": PACKED.values.to("meta")}),
}


@pytest.mark.parametrize("function", [sparse_conv2d, sparse_conv2d_reference])
@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused_by_name(function, message):
    error, change = BAD[message]
    good = {"x": torch.ones(1, 3, 4, 4), **PACKED._asdict(), "bias": None}
    good |= {"kernel_size": [2, 2], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}
    function(**good)
    with pytest.raises(error, match=message):
        function(**{**good, **change})


@pytest.mark.parametrize("function", [sparse_linear, sparse_linear_reference])
def test_a_bad_argument_of_the_linear_operator_is_refused_by_name(function):
    packed = pack_csr(torch.ones(4, 6))
    with pytest.raises(ValueError, match=r"index (must|has)"):
        function(torch.ones(2, 5), *packed)
    with pytest.raises(ValueError, match=r"x must be \(\.\.\., in\)"):
        function(torch.tensor(1.0), *packed)
    with pytest.raises(TypeError, match="x must be float32"):
        function(torch.ones(2, 6).half(), *packed)


@pytest.mark.parametrize(
    ("weight", "n", "message"),
    [
        (torch.ones(4), 1, "weight must be"),
        (torch.ones(0, 4), 1, "weight must be"),
        (torch.ones(6, 4), 4, "n must be"),
        (torch.ones(6, 4), 3, "n must be"),
        (torch.ones(6, 4), 0, "n must be"),
    ],
)
def test_a_weight_that_cannot_be_packed_is_refused(weight, n, message):
    with pytest.raises(ValueError, match=message):
        pack_blocks(weight, n)


def test_a_gradient_is_refused_rather_than_lost():
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    y = sparse_conv2d(x, *PACKED, kernel_size=2)
    with pytest.raises(RuntimeError, match="autograd"):
        y.sum().backward()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1, "low": 0.0}])
def test_torch_accepts_the_operators(layout, options):
    x = laid_out(torch.randn(2, 3, 5, 6), layout)
    args = (x, *PACKED, torch.rand(8))
    torch.library.opcheck(sparse_conv2d.op, args, {"kernel_size": [2, 2], **options})
    linear = pack_blocks(torch.randn(8, 6), 2)
    torch.library.opcheck(sparse_linear.op, (x, *linear), {"high": 1.0})


def conv_layer(kind=BlockSparseConv2d, **options):
    generator = torch.Generator().manual_seed(3)
    weight = masked((20, 36, 3, 3), 4 if kind is BlockSparseConv2d else 1, 0.3, generator)
    return kind(weight, torch.randn(20, generator=generator), padding=1, **options), weight


@pytest.mark.parametrize("kind", [BlockSparseConv2d, CSRConv2d])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "low": 0.0, "high": 6.0}, {"dilation": 2}])
def test_the_convolution_layer_is_the_masked_dense_layer(kind, options):
    layer, weight = conv_layer(kind, **options)
    sizes = {k: v for k, v in options.items() if k not in ("low", "high")}
    x = torch.randn(2, 36, 9, 8)
    expected = F.conv2d(x, weight, layer.bias, padding=1, **sizes)
    expected = expected.clamp(0, 6) if "low" in options else expected
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(layer.weight(), weight)
    torch.testing.assert_close(layer(x.bfloat16()), layer(x.bfloat16().float()))


@pytest.mark.parametrize(("kind", "n"), [(BlockSparseLinear, 8), (CSRLinear, 1)])
def test_the_linear_layer_is_the_masked_dense_layer(kind, n):
    dense = nn.Linear(50, 24)
    dense.weight.data.copy_(masked((24, 50), n, 0.3, torch.Generator()))
    layer, x = kind.of(dense, n=n, low=0.0), torch.randn(3, 7, 50)
    torch.testing.assert_close(layer(x), F.relu(dense(x)), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        dense.weight.zero_(), dense.bias.zero_()
    assert layer.weight().count_nonzero() > 0 and layer.bias.count_nonzero() > 0


def test_a_trained_convolution_becomes_a_sparse_one():
    dense = nn.Conv2d(6, 8, 3, stride=2, padding=1)
    x = torch.randn(1, 6, 9, 9)
    for kind in (BlockSparseConv2d, CSRConv2d):
        torch.testing.assert_close(kind.of(dense)(x), dense(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="padding must be"):
        BlockSparseConv2d.of(nn.Conv2d(4, 4, 3, padding="same"))


@pytest.mark.parametrize("kind", [BlockSparseConv2d, CSRConv2d])
def test_a_convolution_survives_its_state_dict_whatever_it_kept(kind, tmp_path):
    layer, _ = conv_layer(kind)
    x = torch.randn(1, 36, 6, 6)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = kind.blank(36, 20, 3, padding=1, bias=True)
    assert other(x).eq(0).all()
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert torch.equal(other(x), layer(x))
    again = copy.deepcopy(other)
    assert torch.equal(again(x), layer(x))


def test_a_linear_layer_survives_its_state_dict():
    layer, x = BlockSparseLinear(masked((8, 9), 2, 0.5, torch.Generator()), n=2), torch.randn(3, 9)
    other = BlockSparseLinear.blank(9, 8, n=2)
    model = nn.Sequential(other)
    model.load_state_dict(nn.Sequential(layer).state_dict())
    assert torch.equal(other(x), layer(x))


def test_a_state_dict_of_another_layer_is_refused():
    state = conv_layer()[0].state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        BlockSparseConv2d.blank(36, 24, 3, bias=True).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        BlockSparseConv2d.blank(36, 20, 3, n=2, bias=True).load_state_dict(state)
    with pytest.raises(ValueError, match="index must be in"):
        BlockSparseConv2d.blank(30, 20, 3, bias=True).load_state_dict(state)


def test_layers_compile_without_a_graph_break():
    model = nn.Sequential(
        conv_layer(low=0.0)[0], nn.Flatten(2), nn.Linear(64, 70), CSRLinear(torch.eye(70))
    ).eval()
    x = torch.randn(2, 36, 8, 8)
    with torch.inference_mode():
        run = torch.compile(model[:1], fullgraph=True, backend="aot_eager")
        assert torch.equal(run(x), model[:1](x))
    with torch.no_grad():
        run = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
        assert torch.equal(run(x), model(x))
        last = x[:1].contiguous(memory_format=torch.channels_last)
        assert torch.equal(run(last), model(last))


def test_layers_cost_the_weights_that_they_keep():
    layer, weight = conv_layer()
    kept = int(weight.count_nonzero())
    counted = cost.count(layer, torch.ones(1, 36, 8, 8))
    assert counted.macs == 64 * kept
    assert layer.cost_weights() == kept
    assert layer.cost_bytes() == 4 * (kept + kept // 4 + 6 + 20)
    rows = CSRLinear(torch.eye(10))
    assert cost.count(rows, torch.ones(1, 10)).macs == 10
    assert rows.cost_bytes() == 4 * (10 + 10 + 11)


def test_layers_describe_themselves():
    text = repr(conv_layer(stride=2, low=0.0)[0])
    assert "36, 20, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), n=4, kept=" in text
    assert text.endswith("bias=True, low=0)")
    assert "in_features=10, out_features=10, kept=10.0%" in repr(CSRLinear(torch.eye(10)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BlockSparseConv2d(torch.ones(4, 3, 3, 3), torch.ones(3)), "bias must have 4"),
        (lambda: BlockSparseConv2d(torch.ones(4, 3)), "weight must be"),
        (lambda: BlockSparseConv2d(torch.ones(6, 3, 1, 1)), "n must be one of"),
        (lambda: BlockSparseConv2d(torch.ones(4, 3, 1, 1), stride=(1, 1, 1)), "stride must be"),
        (lambda: CSRConv2d(torch.ones(4, 3, 1, 1), n=2), "n must be 1"),
        (lambda: CSRLinear(torch.ones(4, 3), n=2), "n must be 1"),
        (lambda: BlockSparseLinear(torch.ones(4, 3, 1)), "weight must be"),
        (lambda: BlockSparseLinear(torch.ones(4, 3))(torch.ones(4)), r"x must be \(\.\.\., 3\)"),
        (lambda: CSRConv2d(torch.eye(3)[:, :, None, None])(torch.ones(1, 4, 1, 1)), "3 channels"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_fields_of_a_packed_weight_are_the_buffers_of_a_layer():
    layer, weight = conv_layer()
    for name, tensor in pack_blocks(weight, 4)._asdict().items():
        assert torch.equal(layer.state_dict()[name], tensor)
    assert Packed._fields == ("values", "index", "starts")


CHECK = """
import os
import torch
from compactnets import kernels
from compactnets.kernels.sparse import *
from compactnets.kernels.sparse_pack import pack_blocks

def check(n, images, channels, outputs, height, width, kernel, kept=0.3, **geometry):
    x = torch.randn(images, channels, height, width)
    weight = torch.randn(outputs, channels // geometry.get('groups', 1), *kernel)
    weight *= (torch.rand(outputs // n, *weight.shape[1:]) < kept).repeat_interleave(n, 0)
    packed, bias = pack_blocks(weight, n), torch.randn(outputs)
    for form in (torch.contiguous_format, torch.channels_last):
        image = x.contiguous(memory_format=form)
        options = {"kernel_size": kernel, "low": -2.0, **geometry}
        expected = sparse_conv2d_reference(image, *packed, bias, **options)
        y = sparse_conv2d(image, *packed, bias, **options)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        assert y.stride() == expected.stride()

torch.manual_seed(0)
for n, kernel in ((1, 1), (1, 3), (2, 1), (4, 1), (16, 3)):
    check(n, 1, 50, 48, 9, 9, (kernel, kernel), padding=kernel // 2)
os.environ["COMPACTNETS_TUNE"] = "0"
for n in (1, 2, 4, 8, 16):
    for width in (*range(1, 34), 47, 97, 200):
        check(n, 1, 11, 16, 1, width, (1, 1))
    check(n, 2, 37, 48, 13, 17, (1, 1))
    check(n, 2, 9, 32, 9, 20, (3, 3), padding=1)
    check(n, 1, 17, 16, 11, 8, (2, 5), padding=(4, 0), stride=(2, 3))
    check(n, 1, 5, 16, 15, 15, (3, 3), padding=2, dilation=2, stride=3)
    check(n, 3, 20, 16, 8, 8, (1, 1), stride=2)
    check(n, 1, 300, 16, 14, 14, (1, 1), kept=0.8)
    check(n, 1, 6, 48, 11, 9, (3, 3), padding=1, groups=3)
    for size in (1, 2, 7, 8, 9, 14, 15, 16, 17, 31, 33):
        for stride in (1, 2) if n == 1 else ():
            check(1, 1, 5, 5, 9, size, (3, 3), kept=1, padding=1, groups=5, stride=stride)
    check(n, 2, 40, 40 * n, 14, 14, (3, 3), padding=1, stride=2, groups=40)
import guarded
from compactnets.kernels import *
torch.set_grad_enabled(False)

def beside_forbidden_pages(layer, *shape):
    x = torch.randn(*shape)
    guarded.check(layer, x)
    if x.dim() == 4:
        guarded.check(layer, x.contiguous(memory_format=torch.channels_last))

for n in (1, 2, 4, 16):
    for size in ((1, 1), (7, 7), (5, 13), (14, 14), (8, 16)):
        beside_forbidden_pages(BlockSparseConv2d(torch.randn(32, 19, 1, 1), n=n), 2, 19, *size)
        for stride in (1, 2):
            spatial = BlockSparseConv2d(torch.randn(32, 5, 3, 3), n=n, padding=1, stride=stride)
            beside_forbidden_pages(spatial, 1, 5, *size)
    beside_forbidden_pages(BlockSparseConv2d(torch.randn(16, 3, 2, 5), n=n, stride=3), 2, 3, 9, 20)
    for tokens in (1, 8, 33):
        layer = BlockSparseLinear(torch.randn(32, 21), torch.randn(32), n=n)
        beside_forbidden_pages(layer, tokens, 21)
for size in (1, 2, 7, 8, 15, 16, 17, 33):
    for stride in (1, 2):
        depthwise = torch.randn(3, 1, 3, 3)
        layer = CSRConv2d(depthwise, torch.randn(3), padding=1, stride=stride, groups=3)
        beside_forbidden_pages(layer, 2, 3, 5, size)
print(kernels.isa())
"""


@pytest.mark.parametrize("isa", [isa for isa in kernels.supported() if isa != "reference"])
def test_every_path_agrees_with_the_reference_and_reads_nothing_beyond_its_inputs(isa):
    environment = {
        **os.environ,
        "COMPACTNETS_ISA": isa,
        "COMPACTNETS_TUNE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,  # where guarded.py is
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa] and "leaked" not in done.stderr
