"""Sparse fp32 weights, batch 1: 1x4 blocks and CSR, packing of the activations included.

Peers compute with the same masked weights, dense or as CSR matrices: torch's convolution with the
weight laid out beforehand (the honest one) and as nn.Conv2d calls it, OpenVINO and ONNX Runtime in
fp32, torch's CSR (MKL) and scipy's. Ours runs channels first ("nchw") and channels last ("nhwc").
"""

from collections.abc import Iterator
from functools import partial

import torch
from kernels.bench import peers, peers_sparse
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from torch import Tensor

from compactnets import kernels

POINTWISE = ((256, 256, 14), (512, 512, 14), (96, 576, 14))  # inputs, outputs, height and width
SPATIAL = ((64, 56), (256, 14))  # 3x3: channels, height and width
LINEAR = (1024, 1024, 64)  # inputs, outputs, tokens
SPARSITIES = {4: (0.5, 0.75, 0.9), 1: (0.5, 0.8, 0.9, 0.95)}  # by outputs of a block
_TOLERANCE = 1e-4  # outputs are of the order of one


def masked_weight(shape: tuple[int, ...], n: int, sparsity: float) -> Tensor:
    """Normal weights that keep a mean square of 1 per output, smallest blocks of n set to zero."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) / torch.Size(shape[1:]).numel() ** 0.5
    return masked_like(weight, n, sparsity)


def masked_like(weight: Tensor, n: int, sparsity: float) -> Tensor:
    """The weight with that share of its blocks of n outputs set to zero, the smallest ones."""
    score = weight.abs().unflatten(0, (-1, n)).sum(1)
    mask = torch.ones(score.numel(), dtype=torch.bool)
    mask[score.flatten().argsort()[: round(sparsity * score.numel())]] = False
    return weight * mask.view(score.shape).repeat_interleave(n, 0)


def _name(n: int) -> str:
    return "CSR" if n == 1 else f"1x{n}"


def _image(channels: int, size: int) -> Tensor:
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(1))


def _dense_peers(x: Tensor, weight: Tensor, settings: Settings, padding: int) -> dict:
    return {
        "torch prepacked": peers.torch_conv2d_prepacked(x, weight, padding=padding),
        "torch fp32": peers.torch_conv2d(x, weight, padding=padding),
        "openvino fp32": peers.openvino_conv(x, weight, settings.threads, padding=padding),
        "onnxruntime fp32": peers.onnx_conv2d(x, weight, settings.threads, padding=padding),
    }


def _convolutions(settings: Settings, n: int, channels: int, outputs: int, size: int, kernel: int):
    padding = kernel // 2
    x = _image(channels, size)
    last = x.contiguous(memory_format=torch.channels_last)
    sparsities = SPARSITIES[n] if kernel == 1 else (0.5, 0.75, 0.9)
    for sparsity in sparsities:
        weight = masked_weight((outputs, channels, kernel, kernel), n, sparsity)
        layer = (kernels.CSRConv2d if n == 1 else partial(kernels.BlockSparseConv2d, n=n))(
            weight, padding=padding
        )
        others = _dense_peers(x, weight, settings, padding)
        if kernel == 1:
            matrix, pixels = weight.flatten(1), x.flatten(2)[0].contiguous()
            shape = (1, outputs, size, size)
            mkl, scipy = (f(pixels, matrix) for f in (peers_sparse.mkl_csr, peers_sparse.scipy_csr))
            others["torch CSR (MKL)"] = lambda mkl=mkl, shape=shape: mkl().view(shape)
            if scipy is not None:
                others["scipy CSR"] = lambda scipy=scipy, shape=shape: scipy().view(shape)
        others["ours, nhwc"] = partial(layer, last)
        yield from contest(
            f"sparse_conv2d {_name(n)}",
            f"{kernel}x{kernel} {channels}->{outputs}@{size} {sparsity:.0%}",
            settings,
            partial(layer, x),
            others,
            tolerance=_TOLERANCE,
            operations=layer.cost_macs(x.shape, (1, outputs, size, size)),
            unit="fp32",
            traffic=layer.cost_bytes() + 4 * (x.numel() + outputs * size**2),
        )


def _linear(settings: Settings, n: int) -> Iterator[Entry]:
    inputs, outputs, tokens = LINEAR
    x = torch.randn(tokens, inputs, generator=torch.Generator().manual_seed(1))
    for sparsity in SPARSITIES[n]:
        weight = masked_weight((outputs, inputs), n, sparsity)
        layer = kernels.CSRLinear(weight) if n == 1 else kernels.BlockSparseLinear(weight, n=n)
        columns = x.t().contiguous()  # torch's and scipy's CSR multiply from the left
        mkl = peers_sparse.mkl_csr(columns, weight)
        yield from contest(
            f"sparse_linear {_name(n)}",
            f"{inputs}->{outputs} x{tokens} {sparsity:.0%}",
            settings,
            partial(layer, x),
            {
                "torch fp32": peers.torch_linear(x, weight),
                "onnxruntime fp32": peers.onnx_linear(x, weight, settings.threads),
                "torch CSR (MKL)": lambda mkl=mkl: mkl().t(),
            },
            tolerance=_TOLERANCE,
            operations=layer.cost_macs(x.shape, (tokens, outputs)),
            unit="fp32",
            traffic=layer.cost_bytes() + 4 * (x.numel() + tokens * outputs),
        )


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every shape, pattern, sparsity and peer."""
    for n in SPARSITIES:
        for channels, outputs, size in POINTWISE:
            yield from _convolutions(settings, n, channels, outputs, size, kernel=1)
        yield from _linear(settings, n)
        for channels, size in SPATIAL:
            yield from _convolutions(settings, n, channels, channels, size, kernel=3)
