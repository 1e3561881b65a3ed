"""1-bit convolution along a tree: the same numbers as the packed kernel, on every path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import cost, kernels
from compactnets.kernels import BinaryConv2d, TreeConv2d, tree_conv2d, tree_conv2d_reference
from compactnets.kernels.tree import pack_tree, unpack_tree

CHECK = """
import torch
from compactnets import kernels
from compactnets.kernels import BinaryConv2d, TreeConv2d

def check(images, channels, outputs, size, kernel, **geometry):
    x = torch.randn(images, channels, *size)
    common = torch.randn(1, channels, *kernel)
    weight = torch.where(torch.rand(outputs, channels, *kernel) < 0.3, -common, common)
    parent = torch.tensor([int(torch.randint(-1, j, ())) for j in range(outputs)])
    more = dict(scale=torch.randn(outputs), bias=torch.randn(outputs),
                input_shift=torch.randn(channels), **geometry)
    layer = TreeConv2d(weight, parent, **more)
    assert torch.equal(layer.sign_weight(), torch.where(weight >= 0, 1.0, -1.0))
    expected = BinaryConv2d(weight, **more)(x)
    assert torch.equal(layer(x), expected), (channels, outputs, size, kernel, geometry)

torch.manual_seed(0)
for channels in (1, 2, 3, 5, 8, 33, 64):
    check(2, channels, 9, (7, 9), (3, 3), padding=1)
for width in range(1, 20):
    check(1, 4, 3, (2, width), (1, 1))
for width in (63, 64, 65, 130):
    check(1, 3, 4, (3, width), (3, 3), padding=1)
for images, size in ((9, (8, 8)), (3, (16, 16)), (1, (40, 33)), (5, (4, 4)), (0, (4, 4))):
    check(images, 6, 7, size, (3, 3), padding=1)
check(2, 5, 6, (11, 8), (2, 5), padding=(4, 0), stride=(2, 3))
check(2, 5, 6, (9, 9), (3, 3), padding=2, dilation=2)
check(2, 5, 6, (9, 23), (3, 2), padding=(3, 70), dilation=(2, 3), stride=(2, 2))
check(1, 3, 2, (17, 90), (7, 7), padding=3, stride=4)
check(1, 200, 6, (5, 5), (3, 3), padding=1)
check(1, 1820, 3, (3, 5), (3, 3), padding=1)  # the largest kernel
x = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf")])[:, None, None, None]
assert TreeConv2d(torch.ones(1, 1, 1, 1), torch.tensor([-1]))(x).flatten().tolist() == [
    1, 1, -1, 1, -1]
print(kernels.isa(), flush=True)
"""

GUARD = """
from guarded import check
torch.set_grad_enabled(False)
for channels, outputs, size, kernel, more in (
    (8, 4, (9, 9), 3, {"padding": 1}), (3, 5, (5, 17), 3, {"padding": 1, "stride": 2}),
    (7, 3, (4, 4), 1, {}), (1, 1, (1, 1), 1, {}), (4, 6, (16, 16), 3, {"padding": 1}),
    (2, 3, (8, 70), 5, {"padding": 2, "dilation": 2}),
):
    parent = torch.arange(outputs) - 1
    layer = TreeConv2d(torch.randn(outputs, channels, kernel, kernel), parent,
                       torch.randn(outputs), bias=torch.randn(outputs),
                       input_shift=torch.randn(channels), **more)
    for batch in (1, 3):
        check(layer, torch.randn(batch, channels, *size))
print("guarded")
"""

# The matrix unit has no entry of its own: its path runs that of avx512.
PATHS = [path for path in kernels.supported() if path not in ("amx", "reference")]


@pytest.mark.parametrize("isa", PATHS)
def test_every_path_equals_the_packed_kernel_and_reads_nothing_beyond_its_inputs(isa):
    guard = GUARD if sys.platform == "linux" else "print('guarded')"  # pages need mprotect
    done = subprocess.run(
        [sys.executable, "-c", CHECK + guard],
        env={**os.environ, "COMPACTNETS_ISA": isa, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert (done.returncode, done.stdout) == (0, f"{isa}\nguarded\n"), done.stderr[-2000:]


def layer_of(seed, outputs=6, channels=4, **more):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, channels, 3, 3, generator=generator)
    return weight, TreeConv2d(weight, torch.arange(outputs) - 1, padding=1, **more)


@given(seed=st.integers(0, 2**16), outputs=st.integers(1, 9), last=st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_operator_equals_its_reference_for_any_tree_and_memory_format(seed, outputs, last):
    generator = torch.Generator().manual_seed(seed)
    parent = torch.tensor(
        [int(torch.randint(-1, j, (), generator=generator)) for j in range(outputs)]
    )
    tree = pack_tree(torch.randn(outputs, 3, 2, 3, generator=generator), parent)
    x = torch.randn(2, 3, 5, 11, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    scale = torch.randn(outputs, generator=generator)
    options = {"kernel_size": (2, 3), "padding": (1, 2), "stride": (1, 2)}
    y = tree_conv2d(x, *tree, scale, **options)
    assert torch.equal(y, tree_conv2d_reference(x, *tree, scale, **options))
    assert y.is_contiguous()


def test_the_numbers_do_not_depend_on_the_tree():
    weight, chained = layer_of(0)
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))
    without = TreeConv2d(weight, torch.full((6,), -1), padding=1)
    star = TreeConv2d(weight, torch.tensor([2, 2, -1, 2, 2, 2]), padding=1)
    assert torch.equal(chained(x), without(x))
    assert torch.equal(star(x), without(x))
    assert len(without.places) == weight.numel() > len(star.places)


def test_packing_can_be_undone():
    weight, layer = layer_of(3)
    weight[0, 0, 0, 0] = 0.0  # counts as +1
    layer = TreeConv2d(weight, torch.arange(6) - 1)
    assert torch.equal(layer.sign_weight(), torch.where(weight >= 0, 1.0, -1.0))
    assert torch.equal(unpack_tree(layer.tree, weight.shape), layer.sign_weight())


def test_a_layer_survives_its_state_dict_and_counts_its_differences():
    weight, layer = layer_of(4, bias=torch.ones(6))
    _, other = layer_of(4, bias=torch.zeros(6))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(other(x), layer(x))
    signs = torch.where(weight >= 0, 1, -1).flatten(1)
    differing = sum(int((signs[j] != signs[j - 1]).sum()) for j in range(1, 6))
    table = cost.count(nn.Sequential(layer), x)
    assert layer.cost_macs(x.shape, (1, 6, 6, 6)) == 36 * (36 + differing)
    assert cost.storage_bits(table) >= 36 + differing


def test_it_runs_under_the_compiler_and_on_fake_tensors():
    _, layer = layer_of(5)
    x = torch.randn(1, 4, 7, 7)
    exported = torch.export.export(nn.Sequential(layer), (x,)).module()
    assert torch.equal(exported(x), layer(x))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"parent": torch.tensor([-1, 0])}, ValueError, "parent must be 3 integers"),
        ({"parent": torch.tensor([-1.0, 0, 0])}, ValueError, "integers"),
        ({"parent": torch.tensor([-1, 2, 1])}, ValueError, "1 of 3 channels descend"),
        ({"parent": torch.tensor([-1, 0, 3])}, ValueError, "channel 2 has parent 3"),
        ({"weight": torch.ones(3, 2000, 3, 3)}, ValueError, "at most 16383"),
        ({"weight": torch.ones(3, 4)}, ValueError, r"\(out, in, kh, kw\)"),
        ({"scale": torch.ones(2)}, ValueError, "scale"),
    ],
)
def test_a_layer_refuses_what_is_no_tree_and_says_why(change, error, says):
    given_ = {"weight": torch.ones(3, 2, 3, 3), "parent": torch.tensor([-1, 0, 0]), **change}
    with pytest.raises(error, match=says):
        TreeConv2d(**given_)


def test_the_operator_refuses_tensors_that_do_not_fit():
    _, layer = layer_of(6)
    tree, scale = layer.tree, layer.scale
    x = torch.randn(1, 4, 5, 5)
    with pytest.raises(TypeError, match="x must be float32"):
        tree_conv2d(x.double(), *tree, scale, kernel_size=(3, 3))
    with pytest.raises(ValueError, match="sums must have shape"):
        tree_conv2d(x, *tree, scale, kernel_size=(5, 5))
    with pytest.raises(ValueError, match="does not fit"):
        layer(x[..., :0])
    with pytest.raises(ValueError, match="input_shift"):
        tree_conv2d(x, *tree, scale, None, torch.ones(3), kernel_size=(3, 3))


@pytest.mark.skipif(not kernels.available(), reason="the compiled form checks its lists")
def test_lists_that_point_outside_are_refused_before_anything_is_read():
    _, layer = layer_of(7)
    x = torch.randn(1, 4, 5, 5)
    for name, value in (("places", 36), ("plan", 9), ("starts", 10**6)):
        tree = layer.tree._replace(**{name: torch.full_like(getattr(layer.tree, name), value)})
        with pytest.raises(ValueError, match=f"^{name}|within the kernel|every output"):
            tree_conv2d(x, *tree, layer.scale, kernel_size=(3, 3))
    with pytest.raises(ValueError, match="within the kernel"):  # fewer inputs than were packed
        tree_conv2d(x[:, :3].contiguous(), *layer.tree, layer.scale, kernel_size=(3, 3))


def test_there_is_a_network_like_it_with_the_packed_kernel():
    weight, layer = layer_of(8)
    x = torch.randn(3, 4, 8, 8)
    assert torch.equal(layer(x), BinaryConv2d(weight, padding=1)(x))
