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

FAMILIES = {"binary": BINARY}
PATHS = [path for path in kernels.supported() if path != "reference"]


def run(*command, isa=""):
    environment = {**os.environ, "COMPACTNETS_ISA": isa, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, cwd=HERE
    )


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by mprotect")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("isa", PATHS)
def test_no_path_reads_beyond_its_inputs(isa, family):
    head = "import torch\nfrom guarded import check\ntorch.manual_seed(0)\n"
    done = run(
        "-c", f"{head}torch.set_grad_enabled(False)\n{FAMILIES[family]}\nprint('end')", isa=isa
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr[-2000:]


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by mprotect")
def test_the_guard_bites_one_byte_beyond():
    assert run("guarded.py", "0").stdout == "within\nread\n"
    beyond = run("guarded.py", "1")
    assert beyond.stdout == "within\n" and beyond.returncode < 0
