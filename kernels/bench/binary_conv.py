"""1-bit convolution, batch 1: fp32 in, fp32 out, packing and exact zero padding included.

Input and weights are ±1, so that the fp32 convolution with alpha * weight computes the very same
function and outputs can be compared. Peers: torch's convolution as called by nn.Conv2d, which lays
its weight out anew in every call, and the same with the weight laid out beforehand, which is the
honest one; ONNX Runtime in fp32 where it is installed (pip install "compactnets[bench]").

The chained rows are a layer that reads and hands on packed signs (kernels.chain) beside the same
layer, normalisation and sign left in floats, and beside the two 1-bit layers in a row.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from kernels.bench import peers
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from kernels.bench.peers_int8 import Int8Layer, onnx_int8_conv2d
from torch import Tensor, nn

from compactnets import kernels

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, height and width


def _signs(*shape: int, seed: int) -> Tensor:
    bits = torch.randint(2, shape, generator=torch.Generator().manual_seed(seed))
    return (2.0 * bits - 1).contiguous(memory_format=torch.channels_last)


def _scale(channels: int) -> Tensor:
    return torch.rand(channels, generator=torch.Generator().manual_seed(2)) + 0.5


def same_size(channels: int, size: int, kernel: int, settings: Settings) -> Iterator[Entry]:
    """Stride 1, as many outputs as inputs, beside all peers."""
    x = _signs(1, channels, size, size, seed=0)
    weight = _signs(channels, channels, kernel, kernel, seed=1)
    alpha, padding = _scale(channels), kernel // 2
    layer = kernels.BinaryConv2d(weight, alpha, padding=padding)
    dense = alpha[:, None, None, None] * weight
    bytes_too = Int8Layer(
        (x + 128).to(torch.uint8), weight.to(torch.int8), 1.0, 128, alpha, 1.0, 128, padding=padding
    )
    threads = settings.threads
    yield from contest(
        "binary_conv2d",
        f"{kernel}x{kernel} {channels}x{size}x{size}",
        settings,
        partial(layer, x),
        {
            "torch fp32": peers.torch_conv2d(x, dense, padding=padding),
            "torch prepacked": peers.torch_conv2d_prepacked(x, dense, padding=padding),
            "onnxruntime fp32": peers.onnx_conv2d(x, dense, threads, padding=padding),
            "onnxruntime int8": onnx_int8_conv2d(bytes_too, threads, channels_last=True),
        },
        tolerance=1e-2,  # sums of up to 4608 terms of about 1 in fp32
        unequal={"onnxruntime int8": "the same layer from bytes to bytes, rounded"},
        operations=kernel**2 * channels**2 * size**2,
        unit="1-bit",
        traffic=8 * x.numel() + weight.numel() / 8,  # fp32 in and out
    )


def halved(channels: int, size: int, settings: Settings) -> Iterator[Entry]:
    """3x3, stride 2, twice as many outputs: the first layer of a residual stage."""
    x = _signs(1, channels, size, size, seed=0)
    weight, alpha = _signs(2 * channels, channels, 3, 3, seed=1), _scale(2 * channels)
    layer = kernels.BinaryConv2d(weight, alpha, stride=2, padding=1)
    dense = (alpha[:, None, None, None] * weight).contiguous(memory_format=torch.channels_last)
    yield from contest(
        "binary_conv2d",
        f"3x3/2 {channels}x{size}x{size}",
        settings,
        partial(layer, x),
        {"torch fp32": partial(F.conv2d, x, dense, None, 2, 1)},
        tolerance=1e-2,
        operations=9 * 2 * channels**2 * ((size + 1) // 2) ** 2,
        unit="1-bit",
        traffic=4 * x.numel() + 8 * channels * ((size + 1) // 2) ** 2 + weight.numel() / 8,
    )


def chained(channels: int, size: int, settings: Settings) -> Iterator[Entry]:
    """Two layers with a normalisation between, as floats and as signs."""
    x = _signs(1, channels, size, size, seed=0)
    layers = [
        kernels.BinaryConv2d(
            _signs(channels, channels, 3, 3, seed=seed), _scale(channels), padding=1
        )
        for seed in (1, 3)
    ]
    norm = nn.BatchNorm2d(channels).eval()
    network = nn.Sequential(layers[0], norm, layers[1]).eval()
    yield from contest(
        "binary_chain",
        f"2 x 3x3 {channels}x{size}x{size}",
        settings,
        partial(kernels.chain(network), x),
        {"ours, unchained": partial(network, x)},
        operations=2 * 9 * channels**2 * size**2,
        unit="1-bit",
        traffic=8 * x.numel() + 2 * 9 * channels**2 / 8,
    )


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every shape and peer."""
    for channels, size in SHAPES:
        yield from same_size(channels, size, 3, settings)
    for channels, size in ((256, 14), (512, 14)):
        yield from same_size(channels, size, 1, settings)
    for channels, size in SHAPES[:-1]:
        yield from halved(channels, size, settings)
    for channels, size in SHAPES:
        yield from chained(channels, size, settings)
