"""The 3-D Winograd convolution: equal to its reference and to the convolution it stands for."""

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
from compactnets.kernels import Winograd3d, winograd3d, winograd3d_reference
from compactnets.kernels.winograd import (
    INPUT,
    OUTPUT,
    WEIGHT,
    pack_transformed,
    unpack_transformed,
)

# Sizes that meet each loop: part vectors, blocks of 64 channels and outputs, panels of 16 and 32,
# odd outputs, strips cut by a block's end, one tile, wide padding, empty positions, no image.
CHECK = """
import torch
from compactnets import kernels
from compactnets.kernels import Winograd3d, winograd3d_reference

def check(images, channels, outputs, sizes, padding, kept):
    x = torch.randn(images, channels, *sizes).to(memory_format=torch.channels_last_3d)
    keep = torch.rand(64, channels) < kept
    layer = Winograd3d(torch.randn(outputs, channels, 3, 3, 3), torch.randn(outputs),
                       keep=keep, padding=padding)
    y = layer(x)
    options = dict(out_channels=outputs, padding=layer.padding)
    expected = winograd3d_reference(x, layer.packed, layer.keep, layer.bias, **options)
    error = (y - expected).abs().max() if y.numel() else 0
    assert error <= 1e-5 * (27 * channels) ** 0.5 * 5, (channels, outputs, sizes, float(error))
    assert y.shape == expected.shape and y.stride() == expected.stride()

torch.manual_seed(0)
for channels in (1, 3, 4, 7, 8, 15, 16, 17, 33, 64, 65, 130):
    check(1, channels, 5, (3, 4, 5), 1, 2)
for outputs in (1, 8, 16, 17, 32, 33, 48, 64, 65, 100, 130):
    check(1, 6, outputs, (3, 3, 6), 1, 0.5)
for width in range(1, 35):
    check(1, 5, 17, (1, 2, width), 1, 0.5)
check(2, 20, 20, (3, 3, 3), 0, 2)
check(3, 16, 16, (2, 5, 3), (4, 0, 1), 0.25)
check(1, 64, 64, (4, 9, 28), 1, 0.0)
check(1, 200, 40, (4, 6, 31), 1, 0.5)
check(0, 4, 4, (3, 3, 3), 1, 2)
print(kernels.isa())
"""


def layer_of(channels, outputs, seed=0, kept=1.0, **options):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, channels, 3, 3, 3, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    keep = torch.rand(64, channels, generator=generator) < kept
    return Winograd3d(weight, bias, keep=keep, **options), weight, bias


def sparse_operands():
    layer, _, _ = layer_of(5, 20, kept=0.6)
    return (layer.packed, layer.keep, layer.bias)


@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    channels=st.integers(1, 40),
    outputs=st.integers(1, 40),
    images=st.integers(0, 2),
    padding=st.integers(1, 2),
    last=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_the_layer_is_the_convolution(shape, channels, outputs, images, padding, last, seed):
    layer, weight, bias = layer_of(channels, outputs, seed, padding=padding)
    x = torch.randn(images, channels, *shape, generator=torch.Generator().manual_seed(seed))
    if last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    expected = F.conv3d(x.double(), weight.double(), bias.double(), padding=padding)
    y = layer(x)
    assert y.shape == expected.shape and y.dtype == torch.float32
    largest = x.abs().max() * weight.abs().max() if x.numel() else 0
    error = (y - expected).abs().max() if y.numel() else 0
    assert error <= 1e-5 * largest * (27 * channels) ** 0.5  # the bound of the docstring


def test_the_error_stays_below_5e_6_on_data_of_unit_variance():
    layer, weight, bias = layer_of(64, 64, padding=1)
    scale = (27 * 64) ** 0.5  # outputs of unit variance
    x = torch.randn(1, 64, 8, 14, 14, generator=torch.Generator().manual_seed(1)) / scale
    expected = F.conv3d(x.double(), weight.double(), bias.double(), padding=1)
    assert (layer(x) - expected).abs().max() < 5e-6


@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
def test_sparse_layers_equal_the_reference(kept):
    layer, _, _ = layer_of(37, 50, kept=kept, padding=(0, 1, 2))
    x = torch.randn(2, 37, 5, 6, 7)
    operands = (layer.packed, layer.keep, layer.bias)
    options = {"out_channels": 50, "padding": (0, 1, 2)}
    expected = winograd3d_reference(x, *operands, **options)
    assert torch.allclose(layer(x), expected, atol=2e-4, rtol=0)
    if kept == 0:
        assert torch.equal(layer(x), layer.bias[:, None, None, None].expand(layer(x).shape))


def test_the_reference_follows_the_formula_of_one_tile():
    """A'[(G g G') * (B' d B)]A, written with Kronecker products, on one tile and channel pair."""
    g, d = torch.randn(27, dtype=torch.double), torch.randn(64, dtype=torch.double)
    a, b, w = (torch.tensor(m, dtype=torch.double) for m in (OUTPUT, INPUT, WEIGHT))
    cube = [torch.kron(torch.kron(m, m), m) for m in (a, b, w)]
    y = cube[0] @ ((cube[2] @ g) * (cube[1] @ d))
    expected = F.conv3d(d.view(1, 1, 4, 4, 4), g.view(1, 1, 3, 3, 3)).flatten()
    assert torch.allclose(y, expected)


def test_keep_drops_a_channel_at_a_position_for_all_outputs():
    transformed = torch.randn(64, 7, 5)
    keep = torch.rand(64, 5) < 0.5
    keep[3] = False
    packed = pack_transformed(transformed, keep)
    assert packed.numel() == int(keep.sum()) * 16
    assert torch.equal(unpack_transformed(packed, keep, 7), transformed * keep[:, None])
    x = torch.randn(1, 5, 4, 4, 4)
    masked = Winograd3d.from_transformed(transformed * keep[:, None])
    assert torch.allclose(
        Winograd3d.from_transformed(transformed, keep=keep)(x), masked(x), atol=1e-4
    )


@pytest.mark.parametrize("isa", [isa for isa in kernels.supported() if isa != "reference"])
def test_every_path_equals_the_reference(isa):
    environment = {**os.environ, "COMPACTNETS_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa


GUARD = """
import torch
from guarded import check
from compactnets.kernels import Winograd3d
torch.manual_seed(0)
torch.set_grad_enabled(False)
for channels, outputs, sizes, padding, kept in (
    (1, 1, (1, 1, 1), 1, 2), (3, 5, (3, 4, 5), 1, 0.5), (17, 33, (3, 3, 9), 0, 2),
    (64, 64, (2, 4, 28), 1, 0.5), (70, 20, (4, 3, 8), 2, 2),
):
    weight, bias = torch.randn(outputs, channels, 3, 3, 3), torch.randn(outputs)
    layer = Winograd3d(weight, bias, keep=torch.rand(64, channels) < kept, padding=padding)
    x = torch.randn(2, channels, *sizes)
    for value in (x, x.contiguous(memory_format=torch.channels_last_3d)):
        check(layer, value)
print("end")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by mprotect")
@pytest.mark.parametrize("isa", [isa for isa in kernels.supported() if isa != "reference"])
def test_no_path_reads_beyond_its_inputs(isa):
    environment = {**os.environ, "COMPACTNETS_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", GUARD], env=environment, capture_output=True, text=True,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


def test_any_strides_are_read():
    layer, _, _ = layer_of(6, 9, padding=1)
    wide = torch.randn(2, 10, 5, 6, 14).contiguous(memory_format=torch.channels_last_3d)
    for x in (
        wide[:, 2:8],
        wide[:, ::2, :, :, ::3][:, :5].repeat(1, 2, 1, 1, 1)[:, :6],
        wide[:, :6].flip(3),
        wide[:, :6, :, :, :1].expand(2, 6, 5, 6, 9),
        wide[:, :6].transpose(2, 4),
    ):
        assert torch.equal(layer(x), layer(x.clone(memory_format=torch.contiguous_format)))


def test_one_and_two_threads_agree():
    layer, _, _ = layer_of(33, 40, kept=0.7, padding=1)
    x = torch.randn(1, 33, 8, 15, 19).contiguous(memory_format=torch.channels_last_3d)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(layer(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_a_nan_spoils_its_tiles_and_no_others():
    layer, _, _ = layer_of(3, 4)
    x = torch.zeros(1, 3, 8, 8, 8)
    x[0, 1, 1, 1, 1] = float("nan")
    y = layer(x)
    assert y[0, :, :2, :2, :2].isnan().all()
    assert int(y.isfinite().sum()) == y.numel() - 4 * 8


def test_the_operator_passes_torch_checks_and_compiles():
    x = torch.randn(1, 5, 4, 5, 6)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    for value in (x, last):
        torch.library.opcheck(
            winograd3d.op, (value, *sparse_operands()), {"out_channels": 20, "padding": (1, 1, 1)}
        )
    layer, _, _ = layer_of(5, 20, padding=1)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert torch.equal(compiled(last), layer(last))


@pytest.mark.parametrize("kept", [0.5, 1.0])
def test_a_layer_survives_its_state_dict(kept, tmp_path):
    layer, _, _ = layer_of(9, 7, kept=kept, padding=1)
    x = torch.randn(1, 9, 4, 4, 4)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = Winograd3d.blank(9, 7, columns=int(layer.keep.sum()), bias=True, padding=1)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert torch.equal(other(x), layer(x))


def test_from_conv_takes_what_it_can_compute_and_refuses_the_rest():
    conv = nn.Conv3d(4, 6, 3, padding="same")
    x = torch.randn(1, 4, 5, 5, 5)
    with torch.no_grad():
        assert torch.allclose(Winograd3d.from_conv(conv)(x), conv(x), atol=1e-5)
    for options, name in (
        ({"stride": 2}, "stride"),
        ({"groups": 2}, "groups"),
        ({"dilation": 2}, "dilation"),
        ({"padding_mode": "circular"}, "padding_mode"),
    ):
        with pytest.raises(ValueError, match=name):
            Winograd3d.from_conv(nn.Conv3d(4, 6, 3, **options))


def test_the_cost_is_that_of_the_products_that_are_left():
    layer, _, _ = layer_of(16, 32, padding=1)
    x = torch.ones(1, 16, 4, 8, 8)
    dense = cost.count(nn.Conv3d(16, 32, 3, padding=1), x)
    assert dense.macs / cost.count(layer, x).macs == pytest.approx(3.375)
    half, _, _ = layer_of(16, 32, kept=0.5, padding=1)
    assert half.cost_weights() == int(half.keep.sum()) * 32
    assert "kept=" in repr(half) and "bias=True" in repr(half)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p, k, b: winograd3d(torch.ones(1, 5, 4, 4), p, k, b, out_channels=20),
            ValueError,
            r"x must be \(N, C, D, H, W\)",
        ),
        (
            lambda p, k, b: winograd3d(torch.ones(1, 5, 4, 4, 4).half(), p, k, b, out_channels=20),
            TypeError,
            "x must be float32",
        ),
        (
            lambda p, k, b: winograd3d(torch.ones(1, 4, 4, 4, 4), p, k, b, out_channels=20),
            ValueError,
            r"keep must be \(64, 4\)",
        ),
        (
            lambda p, k, b: winograd3d(torch.ones(1, 5, 4, 4, 4), p, k.int(), b, out_channels=20),
            TypeError,
            "keep must be bool",
        ),
        (
            lambda p, k, b: winograd3d(torch.ones(1, 5, 4, 4, 4), p[1:], k, b, out_channels=20),
            ValueError,
            "packed",
        ),
        (
            lambda p, k, b: winograd3d(torch.ones(1, 5, 4, 4, 4), p, k, b[1:], out_channels=20),
            ValueError,
            "bias",
        ),
        (
            lambda p, k, b: winograd3d(torch.ones(1, 5, 2, 4, 4), p, k, b, out_channels=20),
            ValueError,
            "kernel_size 3",
        ),
        (
            lambda p, k, b: winograd3d(
                torch.ones(1, 5, 4, 4, 4), p, k, out_channels=20, padding=-1
            ),
            ValueError,
            "padding",
        ),
        (
            lambda p, k, b: winograd3d(torch.ones(1, 5, 4, 4, 4), p.to("meta"), k, out_channels=20),
            ValueError,
            "packed is on meta",
        ),
        (lambda p, k, b: Winograd3d(torch.ones(2, 3, 3, 3)), ValueError, "weight must be"),
        (lambda p, k, b: Winograd3d(torch.ones(2, 3, 3, 3, 3), torch.ones(3)), ValueError, "bias"),
        (lambda p, k, b: Winograd3d.blank(2, 2, columns=129), ValueError, "columns"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(*sparse_operands())
