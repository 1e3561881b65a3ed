"""Shift convolution and the 8x8 DCT mask: equal to their references and to what they stand for."""

import io
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

from compactnets import cost, kernels
from compactnets.kernels import (
    DCTMask,
    ShiftConv2d,
    dct8x8,
    dct8x8_reference,
    dct_mask,
    dct_mask_reference,
    idct8x8,
    idct8x8_reference,
    shift2d,
    shift2d_reference,
)
from compactnets.kernels.dct import dct_matrix

CHECK = """
import torch
from compactnets import kernels
from compactnets.kernels import *

torch.manual_seed(0)
for blocks in range(1, 11):
    for mask in (torch.randn(8, 8), torch.randn(3, 8, 8)):
        x = torch.randn(2, 3, 16, 8 * blocks)
        assert (dct_mask(x, mask) - dct_mask_reference(x, mask)).abs().max() < 3e-5
    assert (dct8x8(x) - dct8x8_reference(x)).abs().max() < 1e-5
    assert (idct8x8(x) - idct8x8_reference(x)).abs().max() < 1e-5
x = torch.randn(2, 20, 7, 9)
shifts = torch.randint(-2, 3, (20, 2)).int()
assert torch.equal(shift2d(x, shifts), shift2d_reference(x, shifts))
print(kernels.isa())
"""


def moved_by_hand(x, shifts):
    """The definition, element by element."""
    y = torch.zeros_like(x)
    for c, (dy, dx) in enumerate(shifts.tolist()):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                if 0 <= i + dy < x.shape[2] and 0 <= j + dx < x.shape[3]:
                    y[:, c, i, j] = x[:, c, i + dy, j + dx]
    return y


@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(1, 6), st.integers(1, 6)),
    reach=st.sampled_from([0, 1, 2, 7]),
    alike=st.booleans(),
    last=st.booleans(),
    dtype=st.sampled_from(
        [torch.float32, torch.float16, torch.int8, torch.int64, torch.bool, torch.complex128]
    ),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=80, deadline=None)
def test_a_shift_moves_every_element_where_the_definition_says(
    shape, reach, alike, last, dtype, seed
):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-100, 100, shape, generator=generator).to(dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    shifts = torch.randint(-reach, reach + 1, (shape[1], 2), generator=generator).int()
    shifts = shifts[:1].expand(shape[1], 2) if alike else shifts
    y, expected = shift2d(x, shifts), shift2d_reference(x, shifts)
    assert y.dtype == dtype and y.stride() == expected.stride()
    assert torch.equal(y, expected) and torch.equal(y, moved_by_hand(x, shifts))


@pytest.mark.parametrize("last", [False, True])
def test_large_planes_and_runs_of_channels_move_too(last):
    """Planes of several bands; runs of 1, 2, 4, 5, 16 channels; shifts beyond the image."""
    x = torch.randn(1, 28, 70, 90)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    runs = [(1, (0, 1)), (2, (-3, 2)), (4, (5, -9)), (5, (0, 0)), (16, (70, -91))]
    shifts = torch.tensor([move for count, move in runs for _ in range(count)]).int()
    assert torch.equal(shift2d(x, shifts), shift2d_reference(x, shifts))
    extreme = torch.full((28, 2), -(2**31), dtype=torch.int32)
    assert not shift2d(x, extreme).any()


def test_a_shift_is_the_one_hot_depthwise_convolution():
    x = torch.randn(2, 9, 6, 7)
    x[0, 0, 0, 0] = -0.0
    weight = torch.eye(9).reshape(9, 1, 3, 3)
    layer = ShiftConv2d.from_kernel(weight)
    assert torch.equal(layer(x), F.conv2d(x, weight, padding=1, groups=9))
    x[0, 3, 2, 2] = float("nan")  # a copy keeps it where it is; a product with 0 would not
    assert int(layer(x).isnan().sum()) == 1


def test_the_gradient_of_a_shift_is_the_opposite_shift():
    x = torch.randn(1, 5, 4, 6, dtype=torch.double, requires_grad=True)
    shifts = torch.randint(-2, 3, (5, 2)).int()
    assert torch.autograd.gradcheck(lambda v: shift2d(v, shifts), x)


@given(
    blocks=st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9)),
    per_channel=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_the_mask_equals_the_matrix_form(blocks, per_channel, seed):
    generator = torch.Generator().manual_seed(seed)
    images, channels, height, width = blocks
    x = torch.randn(images, channels, 8 * height, 8 * width, generator=generator)
    mask = torch.randn(channels, 8, 8, generator=generator)
    mask = mask if per_channel else mask[0]
    for ours, reference, operands in (
        (dct_mask, dct_mask_reference, (x, mask)),
        (dct8x8, dct8x8_reference, (x,)),
        (idct8x8, idct8x8_reference, (x,)),
    ):
        y, expected = ours(*operands), reference(*operands)
        assert y.shape == expected.shape and y.is_contiguous()
        assert torch.allclose(y, expected, atol=3e-5, rtol=0)


def test_frequencies_are_those_of_the_definition():
    """One block against the sum over cosines; a mask of ones changes nothing; energy is kept."""
    x = torch.randn(1, 1, 8, 8)
    n = torch.arange(8.0)
    for u in range(8):
        for v in range(8):
            rows, columns = (torch.cos((2 * n + 1) * k * math.pi / 16) for k in (u, v))
            norm = (math.sqrt(0.5) if u == 0 else 1) * (math.sqrt(0.5) if v == 0 else 1) / 4
            expected = norm * (x[0, 0] * rows[:, None] * columns).sum()
            assert abs(dct8x8(x)[0, 0, u, v] - expected) < 1e-5
    assert torch.allclose(dct_matrix() @ dct_matrix().T, torch.eye(8), atol=1e-6)
    image = torch.randn(1, 2, 16, 24)
    assert torch.allclose(dct_mask(image, torch.ones(8, 8)), image, atol=5e-6)
    assert torch.allclose(idct8x8(dct8x8(image)), image, atol=5e-6)
    assert torch.allclose(dct8x8(image).square().sum(), image.square().sum())


def test_rows_and_columns_of_the_mask_are_vertical_and_horizontal_frequencies():
    stripes = torch.cos((2 * torch.arange(8.0) + 1) * 3 * math.pi / 16)  # frequency 3
    x = stripes[:, None].expand(8, 8)[None, None]  # varies along the height
    mask = torch.zeros(8, 8)
    mask[3, 0] = 1
    assert torch.allclose(dct_mask(x, mask), x, atol=1e-5)
    assert dct_mask(x, mask.T.contiguous()).abs().max() < 1e-5


def test_a_nan_stays_in_its_block():
    x = torch.zeros(1, 1, 16, 40)
    x[0, 0, 9, 17] = float("nan")
    y = dct_mask(x, torch.rand(8, 8))
    assert y[0, 0, 8:, 16:24].isnan().all() and int(y.isnan().sum()) == 64


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8)])
def test_gradients_reach_image_and_mask(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 16, 8, generator=generator, requires_grad=True)
    mask = torch.randn(shape, generator=generator, requires_grad=True)
    weight = torch.randn(2, 3, 16, 8, generator=generator)
    ours = torch.autograd.grad((dct_mask(x, mask) * weight).sum(), (x, mask))
    expected = torch.autograd.grad((dct_mask_reference(x, mask) * weight).sum(), (x, mask))
    for ours_part, expected_part in zip(ours, expected, strict=True):
        assert torch.allclose(ours_part, expected_part, atol=1e-4)
    for function, reference in ((dct8x8, dct8x8_reference), (idct8x8, idct8x8_reference)):
        got = torch.autograd.grad((function(x) * weight).sum(), x)[0]
        wanted = torch.autograd.grad((reference(x) * weight).sum(), x)[0]
        assert torch.allclose(got, wanted, atol=1e-5)


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
from compactnets.kernels import DCTMask, ShiftConv2d
torch.manual_seed(0)
torch.set_grad_enabled(False)
for channels, height, width in ((1, 8, 8), (3, 16, 40), (5, 8, 24), (64, 24, 32)):
    x = torch.randn(2, channels, height, width)
    for value in (x, x.contiguous(memory_format=torch.channels_last)):
        check(DCTMask(torch.rand(8, 8)), value)
        check(DCTMask(torch.rand(channels, 8, 8)), value)
        for reach in (1, 3, 50):
            shifts = torch.randint(-reach, reach + 1, (channels, 2))
            check(ShiftConv2d(shifts), value)
            check(ShiftConv2d(shifts[:1].expand(channels, 2)), value)
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
    wide = torch.randn(2, 6, 24, 32)
    shifts = torch.randint(-2, 3, (3, 2)).int()
    mask = torch.rand(8, 8)
    for x in (wide[:, ::2], wide[:, 1:4, 8:, ::2], wide[:, :3].flip(2), wide[:, :3].mT,
              wide[:1, :3].expand(4, 3, 24, 32)):  # fmt: skip
        assert torch.equal(shift2d(x, shifts), shift2d_reference(x, shifts))
        assert torch.equal(dct_mask(x, mask.T), dct_mask(x.contiguous(), mask.T.contiguous()))
        last = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(dct_mask(last, mask), dct_mask(x, mask))


def test_one_and_two_threads_agree():
    x, mask = torch.randn(2, 9, 64, 72), torch.rand(9, 8, 8)
    shifts = torch.randint(-2, 3, (9, 2)).int()
    last = x.contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            alike = shifts[:1].repeat(9, 1)
            results.append(
                [dct_mask(x, mask), shift2d(x, shifts), shift2d(last, shifts), shift2d(last, alike)]
            )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_the_operators_pass_torch_checks_and_compile():
    x = torch.randn(1, 3, 16, 24)
    shifts, mask = torch.randint(-1, 2, (3, 2)).int(), torch.rand(8, 8)
    torch.library.opcheck(shift2d.op, (x, shifts))
    torch.library.opcheck(shift2d.op, (x.contiguous(memory_format=torch.channels_last), shifts))
    torch.library.opcheck(dct_mask.op, (x, mask))
    torch.library.opcheck(dct8x8.op, (x,))
    torch.library.opcheck(idct8x8.op, (x,))
    model = torch.nn.Sequential(ShiftConv2d(shifts), DCTMask(mask))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert torch.equal(compiled(x), model(x))


def test_layers_survive_their_state_dicts_and_count_their_cost():
    shifts, masks = torch.tensor([[1, 0], [0, -1]]), torch.rand(2, 8, 8)
    x = torch.randn(1, 2, 8, 16)
    pairs = [(ShiftConv2d(shifts), ShiftConv2d.blank(2)), (DCTMask(masks), DCTMask.blank(2))]
    for layer, blank in pairs:
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        assert not torch.equal(blank(x), layer(x))
        blank.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
        assert torch.equal(blank(x), layer(x))
    assert cost.count(ShiftConv2d(shifts), x).macs == 0
    assert cost.count(DCTMask(masks), x).macs == 32 * x.numel()
    assert "directions=2" in repr(pairs[0][0]) and "kept=128" in repr(pairs[1][0])
    assert DCTMask(masks)(x.half()).dtype == torch.float32


SHIFTS = torch.zeros(3, 2, dtype=torch.int32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: shift2d(torch.ones(3, 4, 4), SHIFTS), ValueError, r"x must be \(N, C, H, W\)"),
        (lambda: shift2d(torch.ones(1, 2, 4, 4), SHIFTS), ValueError, r"shifts must be \(2, 2\)"),
        (lambda: shift2d(torch.ones(1, 3, 4, 4), SHIFTS.long()), TypeError, "shifts must be int32"),
        (lambda: shift2d(torch.ones(1, 3, 4, 4), SHIFTS.to("meta")), ValueError, "shifts is on"),
        (lambda: ShiftConv2d(torch.zeros(3, 3, dtype=torch.int32)), ValueError, "shifts must be"),
        (lambda: ShiftConv2d(torch.zeros(3, 2)), TypeError, "shifts must be integers"),
        (lambda: ShiftConv2d.from_kernel(torch.ones(2, 1, 3, 3)), ValueError, "single 1"),
        (lambda: ShiftConv2d.from_kernel(torch.ones(2, 1, 2, 3)), ValueError, "weight must be"),
        (lambda: dct_mask(torch.ones(1, 1, 8, 12), torch.ones(8, 8)), ValueError, "divisible by 8"),
        (lambda: dct_mask(torch.ones(1, 8, 8), torch.ones(8, 8)), ValueError, "x must be"),
        (lambda: dct_mask(torch.ones(1, 1, 8, 8), torch.ones(2, 8, 8)), ValueError, "mask must be"),
        (lambda: dct_mask(torch.ones(1, 1, 8, 8).half(), torch.ones(8, 8)), TypeError, "x must be"),
        (lambda: dct_mask(torch.ones(1, 1, 8, 8), torch.ones(8, 8).double()), TypeError, "mask"),
        (lambda: dct8x8(torch.ones(1, 1, 8, 9)), ValueError, "divisible by 8"),
        (lambda: DCTMask(torch.ones(8, 7)), ValueError, "mask must be"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
