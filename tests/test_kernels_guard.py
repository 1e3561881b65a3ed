"""No kernel reads beyond its inputs: each runs, on every path, beside pages that may not be read.

The sanitizers see neither what the matrix unit reads nor masked loads; the processor does.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compactnets import kernels

HERE = Path(__file__).parent

BINARY = """
from compactnets.kernels import BinaryConv2d, BinaryLinear
for channels, outputs, size, kernel, more in (
    (64, 32, 9, 3, {"padding": 1}), (33, 17, 5, 3, {"padding": 1}), (7, 3, 4, 1, {}),
    (128, 64, 16, 3, {"padding": 1, "stride": 2}), (6, 6, 5, 3, {"groups": 3}),
    (256, 48, 14, 3, {"padding": 1}), (1, 1, 1, 1, {}), (96, 40, 7, 5, {"padding": 2}),
):
    layer = BinaryConv2d(torch.randn(outputs, channels // more.get("groups", 1), kernel, kernel),
                         torch.randn(outputs), bias=torch.randn(outputs),
                         input_shift=torch.randn(channels), **more)
    for batch in (1, 2):
        x = torch.randn(batch, channels, size, size)
        check(layer, x)
        check(layer, x.contiguous(memory_format=torch.channels_last))
for tokens, inputs, outputs in ((1, 64, 16), (5, 33, 7), (64, 256, 96)):
    layer = BinaryLinear(torch.randn(outputs, inputs), torch.randn(outputs))
    check(layer, torch.randn(tokens, inputs))
"""

SIGNS = """
from compactnets.kernels import BinaryConv2d, BinaryConv2dSigns, pack_signs
for channels, outputs, size, kernel, more in (
    (64, 32, 9, 3, {"padding": 1}), (33, 17, 5, 3, {"padding": 1}), (7, 3, 4, 1, {}),
    (128, 64, 16, 3, {"padding": 1, "stride": 2}), (6, 6, 5, 3, {"groups": 3}), (1, 1, 1, 1, {}),
):
    layer = BinaryConv2d(torch.randn(outputs, channels // more.get("groups", 1), kernel, kernel),
                         torch.randn(outputs), bias=torch.randn(outputs), **more)
    x = torch.randn(2, channels, size, size).contiguous(memory_format=torch.channels_last)
    for given in (x, pack_signs(x)):
        check(BinaryConv2dSigns.of(layer), given)
        check(layer, given)
"""

INT8 = """
from compactnets.kernels import Int8Conv2d, Int8Linear
for channels, outputs, size, kernel, more in (
    (64, 32, 9, 3, {"padding": 1}), (33, 17, 5, 3, {"padding": 1}), (7, 3, 4, 1, {}),
    (128, 64, 16, 3, {"padding": 1, "stride": 2}), (6, 6, 5, 3, {"groups": 6}),
    (70, 48, 14, 3, {"padding": 1}), (1, 1, 1, 1, {}), (12, 40, 7, 5, {"padding": 2, "groups": 2}),
):
    weight = torch.randn(outputs, channels // more.get("groups", 1), kernel, kernel)
    for grid in ({}, {"x_scale": 0.02, "x_zero": 128, "y_scale": 0.1, "y_zero": 100}):
        layer = Int8Conv2d(weight, bias=torch.randn(outputs), **grid, **more)
        x = torch.randn(2, channels, size, size)
        check(layer, x)
        x = x.contiguous(memory_format=torch.channels_last)
        check(layer, x)
        if grid:
            check(layer, (x * 40 + 128).clamp(0, 255).to(torch.uint8))
for tokens, inputs, outputs in ((1, 64, 16), (1, 33, 7), (5, 33, 7), (64, 256, 96), (33, 130, 65)):
    check(Int8Linear(torch.randn(outputs, inputs)), torch.randn(tokens, inputs))
    check(Int8Linear(torch.randn(outputs, inputs), x_scale=0.02, x_zero=128, y_scale=0.1),
          torch.randint(256, (tokens, inputs), dtype=torch.uint8))
"""

LOWBIT = """
from compactnets.kernels import LowBitLinear
for tokens, inputs, outputs in ((1, 64, 16), (1, 33, 7), (5, 96, 17), (64, 256, 96), (33, 160, 65)):
    for form in ({"bits": 4}, {"bits": 2}, {"bits": 2, "ternary": True}, {"bits": 4, "group": 32}):
        if inputs % form.get("group", 1) == 0:
            layer = LowBitLinear(torch.randn(outputs, inputs), bias=torch.randn(outputs), **form)
            check(layer, torch.randn(tokens, inputs))
"""

NM = """
from compactnets.kernels import NMConv2d, NMLinear
def masked(weight, n, m):
    groups = weight.movedim(1, -1).unflatten(-1, (-1, m))
    order = groups.abs().argsort(-1, descending=True)[..., :n]
    keep = torch.zeros_like(groups).scatter(-1, order, 1)
    return (groups * keep).flatten(-2).movedim(-1, 1)
for n, m in ((2, 4), (1, 4), (1, 16)):
    for tokens, inputs, outputs in ((1, 64, 16), (5, 128, 17), (64, 256, 96), (33, 192, 65)):
        layer = NMLinear(masked(torch.randn(outputs, inputs), n, m), n, m)
        check(layer, torch.randn(tokens, inputs))
    for channels, outputs, size, kernel, more in (
        (64, 32, 9, 1, {}), (128, 17, 6, 3, {"padding": 1}),
        (64, 48, 14, 3, {"padding": 1, "stride": 2}),
    ):
        layer = NMConv2d(masked(torch.randn(outputs, channels, kernel, kernel), n, m), n, m, **more)
        x = torch.randn(2, channels, size, size)
        check(layer, x)
        check(layer, x.contiguous(memory_format=torch.channels_last))
"""

# Adder, sparse, Winograd, shift and DCT kernels are checked in the same way in their own files.
FAMILIES = {"binary": BINARY, "signs": SIGNS, "int8": INT8, "lowbit": LOWBIT, "nm": NM}
PATHS = [path for path in kernels.supported() if path != "reference"]


def run(*command, isa=""):
    environment = {**os.environ, "COMPACTNETS_ISA": isa, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, cwd=HERE
    )


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by mprotect")
@pytest.mark.parametrize("isa", PATHS)
def test_no_path_reads_beyond_its_inputs(isa):
    head = "import torch\nfrom guarded import check\ntorch.set_grad_enabled(False)\n"
    code = head + "".join(f"torch.manual_seed(0)\n{c}\nprint({n!r})\n" for n, c in FAMILIES.items())
    done = run("-c", code, isa=isa)  # the last name printed is that of the last family that passed
    assert (done.returncode, done.stdout.split()) == (0, [*FAMILIES]), done.stderr[-2000:]


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by mprotect")
def test_the_guard_bites_one_byte_beyond():
    assert run("guarded.py", "0").stdout == "within\nread\n"
    beyond = run("guarded.py", "1")
    assert beyond.stdout == "within\n" and beyond.returncode != 0
