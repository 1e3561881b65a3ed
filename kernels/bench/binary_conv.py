"""1-bit 3x3 convolution, batch 1: fp32 in, fp32 out, packing and exact zero padding included.

Input and weights are ±1, so that the fp32 convolution with alpha * weight computes the very same
function and outputs can be compared. Peers: torch's convolution as called by nn.Conv2d, which lays
its weight out anew in every call, and the same with the weight laid out beforehand, which is the
honest one; ONNX Runtime in fp32 where it is installed (pip install "compactnets[bench]").
"""

from collections.abc import Iterator
from functools import partial

import torch
from kernels.bench import peers
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from torch import Tensor

from compactnets import kernels

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, height and width


def _signs(*shape: int, seed: int) -> Tensor:
    bits = torch.randint(2, shape, generator=torch.Generator().manual_seed(seed))
    return (2.0 * bits - 1).contiguous(memory_format=torch.channels_last)


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every shape and peer."""
    for channels, size in SHAPES:
        x = _signs(1, channels, size, size, seed=0)
        weight = _signs(channels, channels, 3, 3, seed=1)
        alpha = torch.rand(channels, generator=torch.Generator().manual_seed(2)) + 0.5
        layer = kernels.BinaryConv2d(weight, alpha, padding=1)
        dense = alpha[:, None, None, None] * weight
        yield from contest(
            "binary_conv2d",
            f"3x3 {channels}x{size}x{size}",
            settings,
            partial(layer, x),
            {
                "torch fp32": peers.torch_conv2d(x, dense, padding=1),
                "torch prepacked": peers.torch_conv2d_prepacked(x, dense, padding=1),
                "onnxruntime fp32": peers.onnx_conv2d(x, dense, settings.threads, padding=1),
            },
            tolerance=1e-2,  # sums of up to 4608 terms of about 1 in fp32
            operations=9 * channels**2 * size**2,
        )
