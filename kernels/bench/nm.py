"""N:M sparse int8 products beside dense int8 ones: 1x1 convolutions and linear layers, batch 1.

uint8 in, fp32 out, for all but the peers that can only return uint8. The peers know nothing of the
zeros. On a CPU with an int8 matrix unit they use it for matrix products, not all of them for
convolutions; N:M is shown beside both.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from kernels.bench import peers, peers_int8
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from torch import Tensor

from compactnets import kernels

PATTERNS = ((2, 4), (1, 4), (1, 16))
CONVOLUTIONS = ((256, 14), (512, 14))  # channels, height and width
LINEARS = ((1024, 64), (1024, 197))  # inputs and outputs, rows
X_SCALE, X_ZERO = 0.02, 117
ROUNDED = "its result is rounded to uint8"


def _masked(size: int, n: int, m: int) -> Tensor:
    """int8 (size, size), n of every m inputs kept at random places."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randint(-127, 128, (size, size), generator=generator)
    order = torch.rand(size, size // m, m, generator=generator).argsort(2).argsort(2)
    return (weight * (order < n).flatten(1)).to(torch.int8)


def _case(size: int, n: int, m: int, x: Tensor) -> peers_int8.Int8Layer:
    """The layer for peers with fp32 results."""
    weight = _masked(size, n, m)
    w_scale = torch.rand(size, generator=torch.Generator().manual_seed(2)) / 1e3 + 1e-4
    shaped = weight if x.dim() == 2 else weight[:, :, None, None]
    return peers_int8.Int8Layer(x, shaped, X_SCALE, X_ZERO, w_scale)


def _bytes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def _convolution(size: int, width: int, n: int, m: int, settings: Settings) -> Iterator[Entry]:
    x = _bytes(1, size, width, width)
    layer = _case(size, n, m, x)
    rounded = replace(layer, y_scale=0.05)
    ours = kernels.NMConv2d.from_integers(layer.weight, layer.w_scale, n, m)
    last = x.contiguous(memory_format=torch.channels_last)
    real = X_SCALE * (x.float() - X_ZERO)
    nhwc = peers_int8.onnx_int8_conv2d(rounded, settings.threads, channels_last=True)
    yield from contest(
        "nm_conv2d",
        f"{n}:{m} 1x1 {size}->{size} @{width}",
        settings,
        partial(ours, last, torch.tensor([X_SCALE]), X_ZERO),
        {
            "onnxruntime int8": peers_int8.onnx_int8_conv2d(rounded, settings.threads),
            "onnxruntime int8 nhwc": nhwc,
            "openvino int8": peers_int8.openvino_int8_conv2d(layer, settings.threads),
            "torch int8": peers_int8.torch_quantized(rounded),
            "torch fp32 prepacked": peers.torch_conv2d_prepacked(real, layer.real_weight()),
        },
        tolerance=5e-2,  # of results up to 10: OpenVINO passes bf16 on
        unequal=dict.fromkeys(("onnxruntime int8", "onnxruntime int8 nhwc", "torch int8"), ROUNDED),
        operations=size**2 * width**2 * n // m,
    )


def _linear(size: int, rows: int, n: int, m: int, settings: Settings) -> Iterator[Entry]:
    x = _bytes(rows, size)
    layer = _case(size, n, m, x)
    ours = kernels.NMLinear.from_integers(layer.weight, layer.w_scale, n, m)
    real = X_SCALE * (x.float() - X_ZERO)
    signed = (x.int() - 128).to(torch.int8)
    yield from contest(
        "nm_linear",
        f"{n}:{m} {size}x{size} x{rows}",
        settings,
        partial(ours, x, torch.tensor([X_SCALE]), X_ZERO),
        {
            "onnxruntime int8": peers_int8.onnx_int8_linear(layer, settings.threads),
            "openvino int8": peers_int8.openvino_int8_linear(layer, settings.threads),
            "torch _int_mm": peers_int8.torch_int_mm(signed, layer.weight),
            "torch fp32": peers.torch_linear(real, layer.real_weight()),
        },
        tolerance=1e-2,
        unequal={"torch _int_mm": "bare integer product, without scales"},
        operations=rows * size**2 * n // m,
    )


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every shape, pattern and peer; operations are the dense layer's."""
    for n, m in PATTERNS:
        for size, width in CONVOLUTIONS:
            yield from _convolution(size, width, n, m, settings)
        for size, rows in LINEARS:
            yield from _linear(size, rows, n, m, settings)
